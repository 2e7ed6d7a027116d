//! Observers hear of every result of a batch, once, whoever sent it.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use sluicegate::batch::DeferLayer;
use sluicegate::env::{Event, Observer, Outcome};
use sluicegate::observe::Stats;
use sluicegate::types::{ChatRequest, Cost, Deferrable, EmbedRequest};
use sluicegate::{Env, OptimizedClient};

use super::{House, Hurried, Script, questions};

/// Operation, model, and the cost of an answer or the code of a failure.
type Heard = (&'static str, String, Result<Option<Cost>, String>);

#[derive(Debug, Default)]
struct Told(Mutex<Vec<Heard>>);

impl Observer for Told {
    fn observe(&self, event: &Event<'_>) {
        let Event::Batched(record) = event else { return };
        let came = match &record.outcome {
            Outcome::Answered { trace, usage } => Ok(trace.cost.filter(|_| usage.is_some())),
            Outcome::Failed(error) => Err(error.code().unwrap_or_default().to_owned()),
            _ => Err("neither".to_owned()),
        };
        self.0.lock().push((record.operation.label(), record.model.to_owned(), came));
    }
}

fn observed(house: &House, told: &Arc<Told>) -> (sluicegate::providers::openai::Batches, Arc<Stats>) {
    let stats = Arc::new(Stats::new());
    let env = Env::new().with_clock(Hurried::default()).with_observer(told.clone()).with_observer(stats.clone());
    (house.batches.clone().env(env), stats)
}

#[tokio::test]
async fn every_result_is_told_once_with_its_cost_or_its_failure() {
    let house = House::new(Script { end: "expired", answered: 3, ..Script::default() }).await;
    let told = Arc::new(Told::default());
    let (batches, stats) = observed(&house, &told);
    let mut batch = batches.keep_input(true).submit(questions(5)).await.unwrap();
    batch.wait().await.unwrap();
    assert_eq!(told.0.lock().len(), 0, "nothing was read");
    let items = batch.results().await.unwrap();
    let costs: Vec<_> = items
        .iter()
        .map(|item| match &item.result {
            Ok(answer) => Ok(answer.trace().cost),
            Err(error) => Err(error.code().unwrap().to_owned()),
        })
        .collect();
    assert!(costs[0].as_ref().is_ok_and(Option::is_some) && costs[4] == Err("batch_expired".to_owned()));
    let expected: Vec<_> = costs.iter().map(|came| ("chat", "gpt-5-mini".to_owned(), came.clone())).collect();
    assert_eq!(*told.0.lock(), expected);
    batch.results().await.unwrap();
    assert_eq!(told.0.lock().len(), 5, "once");
    let report = stats.report();
    let spent = costs.into_iter().flatten().flatten().map(Cost::picos).sum::<u64>();
    assert_eq!((report.batched, report.cost.picos(), report.unpriced_attempts), (3, spent, 0));
}

#[tokio::test]
async fn vectors_are_told_and_so_is_what_somebody_else_sent() {
    let house = House::new(Script::default()).await;
    let told = Arc::new(Told::default());
    let (batches, stats) = observed(&house, &told);
    let vectors = [EmbedRequest::new("text-embedding-3-small", ["a"])];
    batches.submit(vectors).await.unwrap().results().await.unwrap();
    let chats = batches.submit(questions(1)).await.unwrap().ids();
    batches.resume::<ChatRequest>(chats).await.unwrap().results().await.unwrap();
    let heard = std::mem::take(&mut *told.0.lock());
    assert_eq!(heard.iter().map(|one| one.0).collect::<Vec<_>>(), ["embeddings", "chat"]);
    // By the name it was answered by: who resumes it does not know the other one.
    assert!(heard.iter().all(|one| one.2.as_ref().is_ok_and(Option::is_some)) && heard[1].1.starts_with("gpt-5-mini"));
    assert_eq!(stats.report().batched, 2);
}

#[tokio::test]
async fn what_a_layer_sent_is_told_by_the_layer_alone() {
    let house = House::new(Script::default()).await;
    let told = Arc::new(Told::default());
    let (batches, _) = observed(&house, &told);
    let defer = DeferLayer::new(batches, Duration::from_secs(12 * 3600)).collect_for(Duration::from_millis(1));
    let client = OptimizedClient::builder(house.openai.clone()).defer(defer).observer(told.clone());
    let llm = client.build().unwrap();
    llm.chat(questions(1).remove(0).with(Deferrable::Yes)).await.unwrap();
    assert_eq!((told.0.lock().len(), llm.report().batched), (1, 1));
}
