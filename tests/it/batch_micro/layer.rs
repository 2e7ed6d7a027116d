//! Embedding requests of many callers in one call.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use parking_lot::Mutex;
use sluicegate::batch::BatchLayer;
use sluicegate::testing::laws::layer_laws;
use sluicegate::testing::{Gate, Scripted};
use sluicegate::types::{
    CacheControl, ChatRequest, ChatResponse, ChatStream, Deadline, EmbedRequest, EmbedResponse, Priority, Tenant,
    Usage, Vector,
};
use sluicegate::{ClientInfo, ErrorKind, LlmClient, OptimizedClient, Result};
use tokio::time::{Instant, sleep};

use super::{MS, bad};

/// Keeps what it was asked to embed; its vectors come last first and say how long their text is.
#[derive(Debug, Default)]
struct Vectors {
    info: ClientInfo,
    asked: Mutex<Vec<EmbedRequest>>,
    wrong: bool,
}

#[async_trait::async_trait]
impl LlmClient for Vectors {
    fn info(&self) -> &ClientInfo {
        &self.info
    }

    async fn chat(&self, _: ChatRequest) -> Result<ChatResponse> {
        Err(bad())
    }

    async fn chat_stream(&self, _: ChatRequest) -> Result<ChatStream> {
        Err(bad())
    }

    async fn embed(&self, request: EmbedRequest) -> Result<EmbedResponse> {
        self.asked.lock().push(request.clone());
        sleep(10 * MS).await;
        let items = request.input.items();
        let of = |item: &sluicegate::types::EmbedItem<'_>| match item {
            sluicegate::types::EmbedItem::Text(text) => text.len(),
            sluicegate::types::EmbedItem::Tokens(tokens) => tokens.len(),
        };
        if items.iter().any(|item| of(item) == 13) {
            return Err(bad());
        }
        let one = |(index, item): (usize, &sluicegate::types::EmbedItem<'_>)| sluicegate::types::Embedding {
            index: if self.wrong { 0 } else { index },
            embedding: match request.encoding_format.as_deref() {
                Some("base64") => Vector::Base64(of(item).to_string()),
                _ => Vector::Floats(vec![of(item) as f32]),
            },
            extra: Default::default(),
        };
        let mut data: Vec<_> = items.iter().enumerate().map(one).collect();
        data.reverse();
        let tokens = items.iter().map(|item| of(item) as u64).sum();
        Ok(EmbedResponse { data, model: "dated".into(), usage: Some(Usage::new(tokens, 0)), ..Default::default() })
    }
}

fn stack(upstream: &Arc<Vectors>) -> OptimizedClient {
    let layer = BatchLayer::new().max_inputs(10);
    OptimizedClient::builder(Arc::clone(upstream)).batch(layer).build().unwrap()
}

fn texts(lengths: &[usize]) -> EmbedRequest {
    EmbedRequest::new("text-embedding-3-small", lengths.iter().map(|length| "x".repeat(*length)))
}

fn lengths(answer: &EmbedResponse) -> Vec<f32> {
    let mut data = answer.data.clone();
    data.sort_by_key(|vector| vector.index);
    assert!(data.iter().map(|vector| vector.index).eq(0..data.len()));
    let one = |vector: &sluicegate::types::Embedding| match &vector.embedding {
        Vector::Floats(floats) => floats[0],
        Vector::Base64(text) => text.parse().unwrap(),
    };
    data.iter().map(one).collect()
}

#[tokio::test(start_paused = true)]
async fn an_input_that_several_have_is_sent_once_and_its_price_is_shared() {
    let upstream = Arc::new(Vectors::default());
    let llm = stack(&upstream);
    let requests = [texts(&[3, 3]), texts(&[5]), texts(&[3]), texts(&[5, 4])];
    let answers: Vec<_> = join_all(requests.map(|request| llm.embed(request))).await;
    let answers: Vec<_> = answers.into_iter().map(|answer| answer.unwrap()).collect();
    let vectors: Vec<_> = answers.iter().map(lengths).collect();
    assert_eq!(vectors, [vec![3.0, 3.0], vec![5.0], vec![3.0], vec![5.0, 4.0]]);
    let asked: Vec<usize> = upstream.asked.lock().iter().map(|request| request.input.len()).collect();
    assert_eq!(asked, [3]);
    let used: u64 = answers.iter().map(|answer| answer.usage.as_ref().unwrap().prompt_tokens).sum();
    assert_eq!(used, 12, "what was billed");
}

#[tokio::test(start_paused = true)]
async fn embeddings_of_many_callers_are_one_call_and_each_gets_its_own() {
    let upstream = Arc::new(Vectors::default());
    let llm = stack(&upstream);
    assert!(llm.describe().contains("Batch     batch     10 inputs"), "{}", llm.describe());
    let requests = [texts(&[3]), texts(&[5, 2]), texts(&[7])];
    let answers = join_all(requests.iter().cloned().map(|request| llm.embed(request))).await;
    let answers: Vec<_> = answers.into_iter().map(|answer| answer.unwrap()).collect();
    assert_eq!(upstream.asked.lock().len(), 1);
    assert_eq!(answers.iter().map(lengths).collect::<Vec<_>>(), [vec![3.0], vec![5.0, 2.0], vec![7.0]]);
    let used: Vec<_> = answers.iter().map(|answer| answer.usage.as_ref().unwrap().prompt_tokens).collect();
    assert_eq!(used, [3, 7, 7]);
    let paid: u64 = answers.iter().map(|answer| answer.trace.cost.unwrap().picos()).sum();
    let whole = llm.report().cost.picos();
    assert!(paid == whole && paid > 0, "{paid} of {whole}");
    assert!(answers.iter().all(|answer| answer.model == "dated"));
    // As text they are given back as they came.
    let as_text = |lengths: &[usize]| EmbedRequest { encoding_format: Some("base64".into()), ..texts(lengths) };
    let answers = join_all([as_text(&[4]), as_text(&[6, 1]), texts(&[9])].map(|request| llm.embed(request))).await;
    let answers: Vec<_> = answers.into_iter().map(|answer| answer.unwrap()).collect();
    assert_eq!(upstream.asked.lock().len(), 3);
    assert_eq!(answers.iter().map(lengths).collect::<Vec<_>>(), [vec![4.0], vec![6.0, 1.0], vec![9.0]]);
    assert_eq!(answers[0].data[0].embedding, Vector::Base64("4".into()));
    // A bad one fails alone.
    let answers = join_all([texts(&[3]), texts(&[13]), texts(&[4])].map(|request| llm.embed(request))).await;
    assert!(answers[0].is_ok() && answers[1].as_ref().unwrap_err().kind() == ErrorKind::InvalidRequest);
    assert_eq!(lengths(answers[2].as_ref().unwrap()), [4.0]);
}

#[tokio::test(start_paused = true)]
async fn what_is_not_alike_is_not_merged() {
    #[derive(Debug)]
    struct Own;
    let upstream = Arc::new(Vectors::default());
    let llm = stack(&upstream);
    let dimensions = EmbedRequest { dimensions: Some(8), ..texts(&[1]) };
    let tokens = EmbedRequest { input: sluicegate::types::EmbedInput::Tokens(vec![1, 2]), ..texts(&[1]) };
    let requests = [
        texts(&[1]),
        texts(&[1]).with(Tenant("a".into())),
        texts(&[1]).with(Tenant("b".into())),
        texts(&[1]).with(Priority::High),
        dimensions,
        tokens,
        EmbedRequest::new("another", ["x"]),
        texts(&[1]).with(Own),
        texts(&[1; 10]),
    ];
    let count = requests.len();
    for answer in join_all(requests.into_iter().map(|request| llm.embed(request))).await {
        answer.unwrap();
    }
    assert_eq!(upstream.asked.lock().len(), count);
    // Alike all the same.
    let alike = [texts(&[1]).with(CacheControl::new().no_store()), texts(&[2]).with(Priority::Normal)];
    join_all(alike.map(|request| llm.embed(request))).await;
    assert_eq!(upstream.asked.lock().len(), count + 1);
}

#[tokio::test(start_paused = true)]
async fn a_merged_call_has_the_latest_deadline_and_each_caller_its_own() {
    let upstream = Arc::new(Vectors::default());
    let llm = stack(&upstream);
    let until = |wait: Duration| Deadline((Instant::now() + wait).into_std());
    let (soon, late) = (until(5 * MS), until(50 * MS));
    let answers = join_all([texts(&[1]).with(soon), texts(&[2]).with(late)].map(|request| llm.embed(request))).await;
    assert_eq!(answers[0].as_ref().unwrap_err().kind(), ErrorKind::Deadline);
    assert_eq!(lengths(answers[1].as_ref().unwrap()), [2.0]);
    assert_eq!(upstream.asked.lock()[0].extensions.get::<Deadline>(), Some(&late));
    join_all([texts(&[1]).with(until(50 * MS)), texts(&[2])].map(|request| llm.embed(request))).await;
    assert_eq!(upstream.asked.lock()[1].extensions.get::<Deadline>(), None);
}

#[tokio::test(start_paused = true)]
async fn vectors_that_cannot_be_told_apart_are_nobodys() {
    let upstream = Arc::new(Vectors { wrong: true, ..Vectors::default() });
    let llm = stack(&upstream);
    let answers = join_all([texts(&[1]), texts(&[2])].map(|request| llm.embed(request))).await;
    assert!(answers.iter().all(|answer| answer.as_ref().unwrap_err().kind() == ErrorKind::Decode));
    assert_eq!(llm.embed(texts(&[1])).await.unwrap().data.len(), 1, "alone it is passed on as it came");
}

#[tokio::test(start_paused = true)]
async fn the_layer_keeps_the_laws_of_layers() {
    layer_laws(|| Box::new(BatchLayer::new())).await;
    // Nothing stays behind of groups that nobody uses.
    let upstream = Arc::new(Scripted::new().gate(&Gate::closed()));
    let llm = OptimizedClient::builder(Arc::clone(&upstream)).batch(BatchLayer::new()).build().unwrap();
    let waits = tokio::time::timeout(Duration::from_secs(1), llm.embed(texts(&[1]))).await;
    assert!(waits.is_err() && upstream.active() == 0);
}
