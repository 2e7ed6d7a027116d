//! Deferred calls over the real Batch API: each caller gets its own answer, at half the price, by half the way.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use sluicegate::batch::{DeferLayer, Deferred};
use sluicegate::cache::{Cache, CacheLayer};
use sluicegate::types::{ChatRequest, Deadline, PriceTable};
use sluicegate::{LlmClient, OptimizedClient};

use super::{House, Script, questions};

const HOUR: Duration = Duration::from_secs(3600);

fn client(house: &House) -> OptimizedClient {
    let defer = DeferLayer::new(house.batches.clone(), 12 * HOUR).collect_for(Duration::from_millis(50));
    OptimizedClient::builder(house.openai.clone()).defer(defer).build().unwrap()
}

fn patient(request: ChatRequest) -> ChatRequest {
    request.with(Deadline(Instant::now() + 24 * HOUR))
}

#[tokio::test]
async fn patient_calls_of_many_are_answered_by_one_batch() {
    let house = House::new(Script::default()).await;
    let llm = client(&house);
    let answers = join_all(questions(5).into_iter().map(|request| llm.chat(patient(request)))).await;
    for (answer, request) in answers.into_iter().zip(questions(5)) {
        let answer = answer.unwrap();
        let ordinary = house.openai.chat(request).await.unwrap();
        assert_eq!(answer.text(), ordinary.text());
        let deferred = answer.extension::<Deferred>().unwrap();
        assert!(deferred.sent && !deferred.fell_back);
        assert_eq!(
            answer.trace().cost,
            PriceTable::published().batch_cost("gpt-5-mini", answer.usage.as_ref().unwrap())
        );
    }
    assert_eq!(house.seen().batches, 1);
    let report = llm.report();
    assert_eq!((report.answered, report.batched, report.attempts), (5, 5, 0));
    let price = |tokens| PriceTable::published().batch_cost("gpt-5-mini", &tokens).unwrap();
    let tokens = sluicegate::types::Usage::new(report.input_tokens, report.output_tokens);
    assert_eq!((report.cost, report.unpriced_attempts), (price(tokens), 0));
    assert!(report.output_tokens > 0 && report.to_string().contains("batches        5 calls"), "{report}");
    llm.shutdown().await;
    assert_eq!(house.server.batches().files(), 0, "requests and results are deleted");
}

#[tokio::test]
async fn a_batch_that_fails_or_expires_is_asked_the_ordinary_way() {
    for script in [
        Script { end: "failed", ..Script::default() },
        Script { end: "expired", answered: 0, ..Script::default() },
        Script { lost: 9, ..Script::default() },
    ] {
        let house = House::new(script).await;
        let llm = client(&house);
        for answer in join_all(questions(2).into_iter().map(|request| llm.chat(patient(request)))).await {
            let answer = answer.unwrap();
            assert!(answer.extension::<Deferred>().unwrap().fell_back && !answer.text().is_empty());
        }
    }
}

#[tokio::test]
async fn who_cannot_wait_does_not_wait_for_an_equal_call_that_can() {
    let house = House::new(Script::default()).await;
    let defer = DeferLayer::new(house.batches.clone(), 12 * HOUR).collect_for(HOUR);
    let cache = CacheLayer::from(Cache::memory(100));
    let llm = OptimizedClient::builder(house.openai.clone()).defer(defer).cache(cache.clone()).build().unwrap();
    let question = || questions(1).remove(0);
    let mut first = Box::pin(llm.chat(patient(question())));
    assert!(futures_util::poll!(first.as_mut()).is_pending());
    let mut second = Box::pin(llm.chat(patient(question())));
    assert!(futures_util::poll!(second.as_mut()).is_pending());
    assert_eq!(cache.open_flights(), 1, "those who can wait share one");

    let urgent = tokio::time::timeout(Duration::from_secs(60), llm.chat(question())).await.unwrap().unwrap();
    assert!(urgent.extension::<Deferred>().is_none());
    // And the next one finds its answer, patient or not.
    let again = llm.chat(patient(question())).await.unwrap();
    assert_eq!(again.trace().source.to_string(), "memory hit");
    drop((first, second));
    assert_eq!(house.seen().batches, 0);
}
