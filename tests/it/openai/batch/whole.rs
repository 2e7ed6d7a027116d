//! What is sent, what comes back, how it is priced and divided.

use serde_json::json;
use sluicegate::LlmClient;
use sluicegate::providers::openai::BatchStatus;
use sluicegate::types::{ChatRequest, Cost, EmbedRequest, PriceTable};

use super::{House, Script, questions};

#[tokio::test]
async fn every_request_gets_its_own_answer_at_half_the_price() {
    let house = House::new(Script { looks: 4, ..Script::default() }).await;
    let mut batch = house.batches.submit(questions(7)).await.unwrap();
    let object = &house.server.batches().all()[0];
    assert_eq!((&object["endpoint"], &object["completion_window"]), (&json!("/v1/chat/completions"), &json!("24h")));
    let line = &house.server.batches().lines(object["input_file_id"].as_str().unwrap())[3];
    assert_eq!((&line["custom_id"], &line["method"]), (&json!("3"), &json!("POST")));
    assert_eq!(line["body"]["messages"], json!([{"role": "user", "content": "Question 3?"}]));

    let mut progress = batch.progress();
    assert_eq!((progress.borrow().total, progress.borrow().has_ended()), (7, false));
    let status = batch.status().await.unwrap();
    assert!(progress.has_changed().unwrap());
    assert_eq!((status.status.clone(), status.completed), (BatchStatus::InProgress, 1));
    assert_eq!(*progress.borrow_and_update(), status);

    let items = batch.results().await.unwrap();
    assert!(progress.borrow().has_ended());
    assert_eq!(items.len(), 7);
    for (n, (item, request)) in items.into_iter().zip(questions(7)).enumerate() {
        let answer = item.result.unwrap();
        // The simulated provider gives the same question the same answer.
        let ordinary = house.openai.chat(request).await.unwrap();
        assert_eq!((item.custom_id, answer.text()), (n.to_string(), ordinary.text()));
        let usage = answer.usage.as_ref().unwrap();
        let full = PriceTable::published().cost("gpt-5-mini", usage).unwrap();
        assert_eq!(answer.trace().cost, Some(Cost::from_picos(full.picos() / 2)));
    }
    // The requests are deleted, the answers stay.
    assert_eq!((house.seen().deletions, house.server.batches().files()), (1, 1));
    batch.delete_files().await.unwrap();
    assert_eq!(house.server.batches().files(), 0);
}

#[tokio::test]
async fn what_does_not_fit_in_a_file_makes_several_batches_each_of_one_model() {
    let house = House::new(Script::default()).await;
    let of = |n: usize| ChatRequest::new(["gpt-5", "gpt-5-mini"][n % 2]).user(format!("Question {n}?"));
    let mut batch = house.batches.clone().max_requests(3).keep_input(true).submit((0..10).map(of)).await.unwrap();
    assert_eq!((batch.ids().len(), batch.progress().borrow().total), (4, 10));
    for object in house.server.batches().all() {
        let lines = house.server.batches().lines(object["input_file_id"].as_str().unwrap());
        assert!(lines.len() <= 3 && lines.iter().all(|line| line["body"]["model"] == lines[0]["body"]["model"]));
    }
    let ids: Vec<_> = batch.results().await.unwrap().into_iter().map(|item| item.custom_id).collect();
    assert_eq!(ids, (0..10).map(|n| n.to_string()).collect::<Vec<_>>());
    assert_eq!(house.seen().deletions, 0);

    let room = serde_json::to_vec(of(0).body()).unwrap().len() * 3;
    let small = house.batches.clone().max_bytes(room).submit((0..4).map(|n| of(2 * n))).await.unwrap();
    assert!(small.ids().len() > 1);
    let error = house.batches.clone().max_bytes(room).submit([of(0).user("x".repeat(room))]).await.unwrap_err();
    assert!(error.message().contains("request 0") && error.message().contains("max_bytes"), "{error}");
}

#[tokio::test]
async fn vectors_come_in_batches_too() {
    let house = House::new(Script::default()).await;
    let requests = [2, 3].map(|count| EmbedRequest::new("text-embedding-3-small", (0..count).map(|n| n.to_string())));
    let mut batch = house.batches.submit(requests).await.unwrap();
    let answers: Vec<_> = batch.results().await.unwrap().into_iter().map(|item| item.result.unwrap()).collect();
    assert_eq!(answers.iter().map(|answer| answer.data.len()).collect::<Vec<_>>(), [2, 3]);
    assert!(answers.iter().all(|answer| answer.trace.cost.is_some()));
    let error = house.batches.resume::<ChatRequest>(batch.ids()).await.unwrap_err();
    assert!(error.message().contains("is for /v1/embeddings"), "{error}");
}

#[tokio::test]
async fn what_cannot_be_served_is_not_sent() {
    let house = House::new(Script::default()).await;
    let batches = &house.batches;
    assert!(batches.submit(Vec::<ChatRequest>::new()).await.unwrap_err().message().contains("requests = []"));
    let bad = [ChatRequest::new("m").user("x"), ChatRequest::new("m")];
    assert!(batches.submit(bad).await.unwrap_err().message().starts_with("request 1: messages"));
    for (batches, setting) in [
        (batches.clone().max_requests(0), "max_requests"),
        (batches.clone().key(""), "key"),
        (batches.clone().poll_every(std::time::Duration::ZERO), "poll_every"),
    ] {
        assert!(batches.submit(questions(1)).await.unwrap_err().message().contains(setting));
    }
    assert_eq!(house.seen().uploads, 0);
}
