//! What fails, and what becomes of the rest.

use sluicegate::{ErrorKind, Retryability};

use super::{House, Script, questions};

#[tokio::test]
async fn an_expired_batch_gives_what_it_has_and_typed_errors_for_the_rest() {
    let house = House::new(Script { end: "expired", answered: 2, ..Script::default() }).await;
    let items = house.batches.submit(questions(5)).await.unwrap().results().await.unwrap();
    assert_eq!(items.iter().map(|item| item.result.is_ok()).collect::<Vec<_>>(), [true, true, false, false, false]);
    let error = items[4].result.as_ref().unwrap_err();
    assert_eq!((error.kind(), error.code()), (ErrorKind::Timeout, Some("batch_expired")));
    assert_eq!(error.retryability(), Retryability::After(None));
}

#[tokio::test]
async fn a_request_in_neither_file_is_told_whoever_asks() {
    let house = House::new(Script { lost: 1, ..Script::default() }).await;
    let mut batch = house.batches.clone().keep_input(true).submit(questions(3)).await.unwrap();
    // By those who sent it, and by those who have its id only.
    let mut resumed = house.batches.resume::<sluicegate::types::ChatRequest>(batch.ids()).await.unwrap();
    for items in [batch.results().await.unwrap(), resumed.results().await.unwrap()] {
        assert_eq!(items.iter().map(|item| item.result.is_ok()).collect::<Vec<_>>(), [false, true, true]);
        let error = items[0].result.as_ref().unwrap_err();
        assert_eq!((error.kind(), error.code()), (ErrorKind::Server, Some("batch_item_missing")));
    }
    // Now the requests are deleted: without them nobody can say which is missing.
    let mut late = house.batches.resume::<sluicegate::types::ChatRequest>(batch.ids()).await.unwrap();
    assert_eq!(late.results().await.unwrap_err().kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn a_refused_file_is_told_for_all_of_it() {
    let house = House::new(Script { end: "failed", ..Script::default() }).await;
    let items = house.batches.submit(questions(2)).await.unwrap().results().await.unwrap();
    let error = items[1].result.as_ref().unwrap_err();
    assert_eq!((items.len(), error.kind(), error.code()), (2, ErrorKind::InvalidRequest, Some("invalid_json_line")));
    assert_eq!(error.provider_message(), Some("This line is not parseable"));
    assert!(error.message().contains("line 1") && !error.to_string().contains("parseable"), "{error}");
}

#[tokio::test]
async fn one_bad_request_fails_alone_as_a_call_would() {
    let house = House::new(Script::default()).await;
    let mut requests = questions(3);
    requests[1] = requests[1].clone().max_tokens(0);
    let items = house.batches.submit(requests.clone()).await.unwrap().results().await.unwrap();
    let called = sluicegate::LlmClient::chat(&house.openai, requests[1].clone()).await.unwrap_err();
    let error = items[1].result.as_ref().unwrap_err();
    assert_eq!((error.kind(), error.status(), error.code()), (called.kind(), called.status(), called.code()));
    assert!(items[0].result.is_ok() && items[2].result.is_ok());
}

#[tokio::test]
async fn a_server_that_fails_now_and_then_is_asked_again() {
    let house = House::new(Script { failures: 3, ..Script::default() }).await;
    let mut batch = house.batches.submit(questions(2)).await.unwrap();
    house.server.batches().set(Script { failures: 20, ..Script::default() });
    // Waiting is not given up for an outage of so many polls; reading is tried five times.
    batch.wait().await.unwrap();
    house.server.batches().set(Script { failures: 3, ..Script::default() });
    assert!(batch.results().await.unwrap().iter().all(|item| item.result.is_ok()));
    assert_eq!(house.seen().batches, 1);

    house.server.batches().set(Script { failures: 100, ..Script::default() });
    let error = house.batches.submit(questions(2)).await.unwrap_err();
    assert_eq!((error.kind(), error.attempts(), house.seen().batches), (ErrorKind::Server, 5, 1));
}

#[tokio::test]
async fn a_cancelled_batch_ends_and_says_so() {
    let house = House::new(Script { looks: 1_000_000, ..Script::default() }).await;
    let mut batch = house.batches.submit(questions(2)).await.unwrap();
    batch.cancel().await.unwrap();
    let items = batch.results().await.unwrap();
    assert_eq!(items[0].result.as_ref().unwrap_err().code(), Some("batch_cancelled"));
    batch.cancel().await.unwrap();
    assert_eq!(house.seen().cancellations, 1, "what has ended stays as it is");
}
