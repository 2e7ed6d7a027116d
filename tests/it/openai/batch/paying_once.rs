//! No failure, no crash and no second run makes a batch twice.

use sluicegate::ErrorKind;
use sluicegate::types::ChatRequest;

use super::{House, Script, questions};

#[tokio::test]
async fn a_creation_whose_answer_was_lost_is_found_again() {
    let house = House::new(Script::default()).await;
    // Others' batches, on more pages than one.
    for _ in 0..3 {
        let _others = house.batches.submit(questions(1)).await.unwrap();
    }
    house.server.batches().set(Script { creations_unheard: 1, ..Script::default() });
    let mut batch = house.batches.submit(questions(2)).await.unwrap();
    assert_eq!((house.seen().uploads, house.seen().batches), (4, 4));
    assert_eq!(batch.results().await.unwrap().len(), 2);
}

#[tokio::test]
async fn a_creation_that_did_not_happen_is_done_again() {
    let house = House::new(Script { creations_refused: 3, ..Script::default() }).await;
    let mut batch = house.batches.submit(questions(2)).await.unwrap();
    assert_eq!((house.seen().uploads, house.seen().batches), (1, 1));
    assert_eq!(batch.results().await.unwrap().len(), 2);
}

#[tokio::test]
async fn what_cannot_be_looked_up_is_not_created_again() {
    let house = House::new(Script { creations_unheard: 1, ..Script::default() }).await;
    let batches = &house.batches;
    let submit = async {
        // The upload works, the list does not.
        let submitted = batches.submit(questions(2)).await;
        submitted.unwrap_err()
    };
    let script = async {
        while house.seen().batches == 0 {
            tokio::task::yield_now().await;
        }
        house.server.batches().set(Script { failures: 100, ..Script::default() });
    };
    let (error, ()) = tokio::join!(submit, script);
    assert!(error.message().contains("could not be found out"), "{error}");
    assert_eq!((error.retryability(), house.seen().batches), (sluicegate::Retryability::Never, 1));
}

#[tokio::test]
async fn a_key_finds_the_batches_of_a_process_that_died() {
    let house = House::new(Script::default()).await;
    let batches = house.batches.clone().key("nightly").max_requests(2);
    let died = batches.submit(questions(5)).await.unwrap();
    let (ids, before) = (died.ids(), house.seen());
    drop(died);
    let mut again = batches.submit(questions(5)).await.unwrap();
    assert_eq!((again.ids(), house.seen().uploads, house.seen().batches), (ids, before.uploads, before.batches));
    assert_eq!(again.results().await.unwrap().iter().filter(|item| item.result.is_ok()).count(), 5);

    let error = batches.submit(questions(4).into_iter().rev()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidRequest);
    assert!(error.message().contains("another key"), "{error}");
    assert_eq!(house.seen().batches, before.batches);
}

#[tokio::test]
async fn a_batch_is_resumed_by_its_id() {
    let house = House::new(Script { looks: 3, ..Script::default() }).await;
    let ids = house.batches.clone().max_requests(2).submit(questions(3)).await.unwrap().ids();
    assert_eq!(ids.len(), 2);
    let mut resumed = house.batches.resume::<ChatRequest>(ids).await.unwrap();
    let items = resumed.results().await.unwrap();
    assert_eq!(items.iter().map(|item| item.custom_id.as_str()).collect::<Vec<_>>(), ["0", "1", "2"]);
    assert!(items.iter().all(|item| item.result.as_ref().unwrap().trace().cost.is_some()));
    assert_eq!(house.seen().batches, 2);
    let unknown = house.batches.resume::<ChatRequest>(["batch_x"]).await.unwrap_err();
    assert_eq!(unknown.kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn a_failure_in_the_middle_cancels_what_was_created() {
    let house = House::new(Script { looks: 1_000_000, ..Script::default() }).await;
    let mut requests = questions(5);
    requests[3] = ChatRequest::new("gpt-5-mini");
    house.batches.clone().max_requests(2).submit(requests).await.unwrap_err();
    assert_eq!((house.seen().batches, house.seen().cancellations), (1, 1));
    assert_eq!(house.server.batches().all()[0]["status"], "cancelling");
}
