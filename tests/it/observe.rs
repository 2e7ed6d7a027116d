//! What is counted, and what it cost.

use sluicegate::testing::{Reply, Scripted};
use sluicegate::types::{ChatChunk, ChatRequest, Cost};
use sluicegate::{Error, ErrorKind, OptimizedClient};

#[tokio::test]
async fn an_answer_that_breaks_off_costs_something_unknown() {
    let down = || Error::new(ErrorKind::Network, "test", "down");
    let half = vec![ChatChunk::text_delta("gpt-5-mini", "half")];
    for (reply, unpriced) in [(Reply::Break(half, down()), 1), (Reply::Break(vec![], down()), 0)] {
        let client = OptimizedClient::builder(Scripted::new().then(reply)).build().unwrap();
        let stream = client.chat_stream(ChatRequest::new("gpt-5-mini").user("hi")).await.unwrap();
        assert!(stream.collect().await.is_err());
        let report = client.report();
        assert_eq!((report.attempts, report.cost, report.unpriced_attempts), (1, Cost::ZERO, unpriced));
    }
}
