//! A client that answers as a test tells it to.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::stream;
use parking_lot::Mutex;
use tokio::sync::Semaphore;

use crate::client::{ClientInfo, LlmClient};
use crate::error::{Error, Result};
use crate::types::{
    ChatChunk, ChatCompletion, ChatRequest, ChatResponse, ChatStream, EmbedInput, EmbedRequest, EmbedResponse,
    Embedding, Extra, Finish, FinishReason, StreamEvent, Usage, Vector,
};

/// One scripted answer, the same whether it is asked for whole or as a stream.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Reply {
    /// This text; streamed word by word.
    Text(String),
    /// This completion; streamed as one chunk.
    Completion(Box<ChatCompletion>),
    /// These chunks, then the finish.
    Chunks(Vec<ChatChunk>),
    /// This error, before anything was sent.
    Fail(Error),
    /// These chunks, then this error.
    Break(Vec<ChatChunk>, Error),
    /// These chunks, and then the end without a finish.
    Cut(Vec<ChatChunk>),
    /// A panic inside the client.
    Panic,
}

impl Reply {
    /// This text.
    pub fn text(text: impl Into<String>) -> Self {
        Self::Text(text.into())
    }

    /// These pieces of text as chunks, the last with `finish_reason: stop`.
    pub fn words<T: Into<String>>(words: impl IntoIterator<Item = T>) -> Self {
        Self::Chunks(text_chunks(words))
    }
}

fn text_chunks<T: Into<String>>(words: impl IntoIterator<Item = T>) -> Vec<ChatChunk> {
    let mut chunks: Vec<_> = words.into_iter().map(|word| ChatChunk::text_delta("scripted", word)).collect();
    let mut last = ChatChunk::text_delta("scripted", "");
    for choice in &mut last.choices {
        choice.delta.content = None;
        choice.finish_reason = Some(FinishReason::Stop);
    }
    chunks.push(last);
    chunks
}

/// A client that answers as told: the scripted replies in order, then the default for ever. It counts and keeps what it
/// was asked.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> sluicegate::Result<()> {
/// use sluicegate::{ErrorKind, Error, LlmClient};
/// use sluicegate::testing::{Reply, Scripted};
/// use sluicegate::types::ChatRequest;
///
/// let client = Scripted::new().then(Reply::Fail(Error::new(ErrorKind::Server, "test", "down"))).always("hello");
/// let request = ChatRequest::new("m").user("hi");
/// assert!(client.chat(request.clone()).await.is_err());
/// assert_eq!(client.chat(request).await?.text(), "hello");
/// assert_eq!(client.calls(), 2);
/// # Ok(()) }
/// ```
pub struct Scripted {
    info: ClientInfo,
    script: Mutex<VecDeque<Reply>>,
    default: Reply,
    usage: Option<Usage>,
    latency: Duration,
    chunk_gap: Duration,
    gate: Option<Gate>,
    calls: AtomicUsize,
    active: Arc<AtomicUsize>,
    peak: AtomicUsize,
    requests: Mutex<Vec<ChatRequest>>,
}

/// Holds every answer, and every chunk of a stream, until it is let through.
#[derive(Debug, Clone)]
pub struct Gate(Arc<Semaphore>);

impl Gate {
    /// A closed gate.
    pub fn closed() -> Self {
        Self(Arc::new(Semaphore::new(0)))
    }

    /// Lets so many answers or chunks through.
    pub fn let_through(&self, count: usize) {
        self.0.add_permits(count);
    }

    /// Lets everything through from now on.
    pub fn open(&self) {
        self.0.close();
    }

    async fn pass(&self) {
        // A closed semaphore is an open gate.
        if let Ok(permit) = self.0.acquire().await {
            permit.forget();
        }
    }
}

struct Active(Arc<AtomicUsize>);

impl Drop for Active {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Scripted {
    /// Answers `ok` to everything, at once.
    pub fn new() -> Self {
        Self {
            info: ClientInfo::new("scripted"),
            script: Mutex::default(),
            default: Reply::text("ok"),
            usage: Some(Usage::new(10, 5)),
            latency: Duration::ZERO,
            chunk_gap: Duration::ZERO,
            gate: None,
            calls: AtomicUsize::new(0),
            active: Arc::default(),
            peak: AtomicUsize::new(0),
            requests: Mutex::default(),
        }
    }

    /// Adds the next reply.
    #[must_use]
    pub fn then(self, reply: Reply) -> Self {
        self.script.lock().push_back(reply);
        self
    }

    /// The reply after the script has ended.
    #[must_use]
    pub fn always(mut self, text: &str) -> Self {
        self.default = Reply::text(text);
        self
    }

    /// The reply after the script has ended.
    #[must_use]
    pub fn always_reply(mut self, reply: Reply) -> Self {
        self.default = reply;
        self
    }

    /// The usage it reports; 10 input and 5 output tokens unless set.
    #[must_use]
    pub fn usage(mut self, usage: Option<Usage>) -> Self {
        self.usage = usage;
        self
    }

    /// How long it takes until an answer, or a stream's opening (tokio time).
    #[must_use]
    pub fn latency(mut self, latency: Duration) -> Self {
        self.latency = latency;
        self
    }

    /// How long it takes between chunks (tokio time).
    #[must_use]
    pub fn chunk_gap(mut self, gap: Duration) -> Self {
        self.chunk_gap = gap;
        self
    }

    /// Holds answers and chunks back until the gate lets them through.
    #[must_use]
    pub fn gate(mut self, gate: &Gate) -> Self {
        self.gate = Some(gate.clone());
        self
    }

    /// Who it says it is.
    #[must_use]
    pub fn info(mut self, info: ClientInfo) -> Self {
        self.info = info;
        self
    }

    /// How often it was called.
    pub fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }

    /// How many calls and streams are open now.
    pub fn active(&self) -> usize {
        self.active.load(Ordering::SeqCst)
    }

    /// How many were open at most.
    pub fn peak(&self) -> usize {
        self.peak.load(Ordering::SeqCst)
    }

    /// The chat requests it was given, in order.
    pub fn requests(&self) -> Vec<ChatRequest> {
        self.requests.lock().clone()
    }

    fn enter(&self) -> Active {
        self.calls.fetch_add(1, Ordering::SeqCst);
        let active = self.active.fetch_add(1, Ordering::SeqCst) + 1;
        self.peak.fetch_max(active, Ordering::SeqCst);
        Active(Arc::clone(&self.active))
    }

    async fn reply(&self, request: ChatRequest) -> Reply {
        self.requests.lock().push(request);
        let reply = self.script.lock().pop_front().unwrap_or_else(|| self.default.clone());
        pause(self.latency).await;
        reply
    }
}

impl fmt::Debug for Scripted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scripted").field("calls", &self.calls()).field("active", &self.active()).finish_non_exhaustive()
    }
}

#[allow(clippy::disallowed_methods, reason = "the scripted client stands outside the stack and has no Env")]
async fn pause(wait: Duration) {
    if !wait.is_zero() {
        tokio::time::sleep(wait).await;
    }
}

impl Default for Scripted {
    fn default() -> Self {
        Self::new()
    }
}

#[allow(clippy::panic, reason = "a panicking client is one of the things it can play")]
fn play_panic() -> ! {
    panic!("scripted panic")
}

#[async_trait]
impl LlmClient for Scripted {
    fn info(&self) -> &ClientInfo {
        &self.info
    }

    async fn chat(&self, request: ChatRequest) -> Result<ChatResponse> {
        let _active = self.enter();
        let model = request.model.clone();
        let reply = self.reply(request).await;
        if let Some(gate) = &self.gate {
            gate.pass().await;
        }
        let mut completion = match reply {
            Reply::Text(text) => ChatCompletion::text(model, text),
            Reply::Completion(completion) => *completion,
            Reply::Chunks(chunks) => {
                let mut assembler = crate::types::Assembler::new();
                chunks.iter().for_each(|chunk| assembler.push(chunk));
                assembler.finish()
            }
            Reply::Fail(error) | Reply::Break(_, error) => return Err(error),
            Reply::Cut(_) => return Err(Error::new(crate::ErrorKind::Network, "scripted", "the reply was cut")),
            Reply::Panic => play_panic(),
        };
        completion.usage = completion.usage.or_else(|| self.usage.clone());
        Ok(completion.into())
    }

    async fn chat_stream(&self, request: ChatRequest) -> Result<ChatStream> {
        let active = self.enter();
        let (chunks, end) = match self.reply(request).await {
            Reply::Text(text) => (text_chunks(text.split_inclusive(' ')), Some(Ok(()))),
            Reply::Completion(completion) => (vec![ChatChunk::from_completion(&completion)], Some(Ok(()))),
            Reply::Chunks(chunks) => (chunks, Some(Ok(()))),
            Reply::Break(chunks, error) => (chunks, Some(Err(error))),
            Reply::Cut(chunks) => (chunks, None),
            Reply::Fail(error) => return Err(error),
            Reply::Panic => play_panic(),
        };
        let finish = Finish { usage: self.usage.clone(), ..Finish::default() };
        let end = end.map(|end| end.map(|()| StreamEvent::Finish(Box::new(finish))));
        let events: VecDeque<_> =
            chunks.into_iter().map(|chunk| Ok(StreamEvent::Chunk(Arc::new(chunk)))).chain(end).collect();
        let (gap, gate) = (self.chunk_gap, self.gate.clone());
        let events = stream::unfold((events, active), move |(mut events, active)| {
            let gate = gate.clone();
            async move {
                let event = events.pop_front()?;
                pause(gap).await;
                if let Some(gate) = &gate {
                    gate.pass().await;
                }
                Some((event, (events, active)))
            }
        });
        Ok(ChatStream::new(events))
    }

    /// A vector of two numbers per text: its length, and its place in the input.
    async fn embed(&self, request: EmbedRequest) -> Result<EmbedResponse> {
        let _active = self.enter();
        pause(self.latency).await;
        if let Some(gate) = &self.gate {
            gate.pass().await;
        }
        let lengths: Vec<usize> = match &request.input {
            EmbedInput::Text(text) => vec![text.len()],
            EmbedInput::Texts(texts) => texts.iter().map(String::len).collect(),
            EmbedInput::Tokens(tokens) => vec![tokens.len()],
            EmbedInput::TokenLists(lists) => lists.iter().map(Vec::len).collect(),
        };
        let data = lengths.into_iter().enumerate().map(|(index, length)| Embedding {
            index,
            embedding: Vector::Floats(vec![length as f32, index as f32]),
            extra: Extra::new(),
        });
        let usage = self.usage.clone();
        Ok(EmbedResponse { data: data.collect(), model: request.model, usage, ..EmbedResponse::default() })
    }
}
