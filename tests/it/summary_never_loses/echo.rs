//! A writer of summaries that says which messages it was given, and fails in every way.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use sluicegate::types::{
    ChatRequest, ChatResponse, ChatStream, EmbedRequest, EmbedResponse, Message, Messages, Role, Tenant, Usage,
};
use sluicegate::{ClientInfo, Error, ErrorKind, LlmClient, Result};

/// How it behaves when it is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mood {
    Works,
    Slow(Duration),
    Fails,
    Hangs,
    Panics,
    /// Panics after a while.
    Breaks,
    Blank,
    Wordless,
    Empty,
}

pub(super) const HEADER: &str = "Summary of the conversation so far:\n\n";

#[derive(Debug, Default)]
pub(super) struct Echo {
    info: ClientInfo,
    pub(super) moods: Mutex<VecDeque<Mood>>,
    pub(super) requests: Mutex<Vec<ChatRequest>>,
    active: Arc<AtomicUsize>,
}

impl Echo {
    pub(super) fn new(moods: impl IntoIterator<Item = Mood>) -> Arc<Self> {
        Arc::new(Self { moods: Mutex::new(moods.into_iter().collect()), ..Self::default() })
    }

    pub(super) fn calls(&self) -> usize {
        self.requests.lock().len()
    }

    pub(super) fn active(&self) -> usize {
        self.active.load(Ordering::SeqCst)
    }

    pub(super) fn tenants(&self) -> Vec<Option<Tenant>> {
        self.requests.lock().iter().map(|request| request.extensions.get().cloned()).collect()
    }
}

struct Active(Arc<AtomicUsize>);

impl Drop for Active {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

#[async_trait]
impl LlmClient for Echo {
    fn info(&self) -> &ClientInfo {
        &self.info
    }

    async fn chat(&self, request: ChatRequest) -> Result<ChatResponse> {
        self.active.fetch_add(1, Ordering::SeqCst);
        let _active = Active(Arc::clone(&self.active));
        self.requests.lock().push(request.clone());
        let mood = self.moods.lock().pop_front().unwrap_or(Mood::Works);
        let text = match mood {
            Mood::Works => summary(&request),
            Mood::Slow(time) => {
                tokio::time::sleep(time).await;
                summary(&request)
            }
            Mood::Fails => return Err(Error::new(ErrorKind::Server, "echo", "down").with_usage(Usage::new(7, 0))),
            Mood::Hangs => std::future::pending().await,
            Mood::Panics => scripted_panic(),
            Mood::Breaks => {
                tokio::time::sleep(Duration::from_secs(1)).await;
                scripted_panic()
            }
            Mood::Blank => " \n".to_owned(),
            Mood::Wordless => "{}[], …".to_owned(),
            Mood::Empty => return Ok(ChatResponse::default()),
        };
        let mut answer = sluicegate::types::ChatCompletion::text("m", text);
        answer.usage = Some(Usage::new(100, 10));
        Ok(answer.into())
    }

    async fn chat_stream(&self, _: ChatRequest) -> Result<ChatStream> {
        Err(Error::new(ErrorKind::Unsupported, "echo", "summaries are not streamed"))
    }

    async fn embed(&self, _: EmbedRequest) -> Result<EmbedResponse> {
        Err(Error::new(ErrorKind::Unsupported, "echo", "no vectors"))
    }
}

/// Without the message that the panic hook would print.
fn scripted_panic() -> ! {
    std::panic::resume_unwind(Box::new("scripted panic"))
}

/// The ids in the data of a request, as ranges: `0-4 7-9`. A gap or a message that came twice shows.
fn summary(request: &ChatRequest) -> String {
    let text = request.messages[1].text();
    let mut seen = BTreeSet::new();
    for line in text.lines().filter(|line| line.starts_with('{')) {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        if let Some(so_far) = line.get("summary_so_far") {
            seen.extend(ranges(so_far.as_str().unwrap()));
        } else if let Some(told) = line.get("text").and_then(|text| text.as_str()?.strip_prefix(HEADER)) {
            // A summary shown as a message like any other.
            seen.extend(ranges(told));
        } else if let Some(id) = line.get("text").and_then(|text| id(text.as_str().unwrap())) {
            assert!(seen.insert(id), "message {id} was given twice");
        }
    }
    let mut text = String::new();
    let mut last = None;
    for id in seen {
        match last {
            Some(last) if id == last + 1 => {}
            Some(last) => text.push_str(&format!("-{last} {id}")),
            None => text.push_str(&id.to_string()),
        }
        last = Some(id);
    }
    last.map_or("none".to_owned(), |last| format!("{text}-{last}"))
}

/// The id a message begins with.
pub(super) fn id(text: &str) -> Option<usize> {
    text.strip_prefix('#')?.split('#').next()?.parse().ok()
}

/// The ids of a summary; `none` is none.
pub(super) fn ranges(summary: &str) -> Vec<usize> {
    let range = |range: &str| {
        let (first, last) = range.split_once('-')?;
        Some(first.parse::<usize>().ok()?..=last.parse().ok()?)
    };
    summary.split_whitespace().filter_map(range).flatten().collect()
}

/// The ids that a prompt sends, and those that its summary stands for.
pub(super) fn told(sent: &Messages) -> (Vec<usize>, Vec<usize>) {
    let said = sent.iter().filter(|message| !message.role.is_instruction());
    let as_they_are = said.clone().filter_map(|message| id(&message.text())).collect();
    let covered = said.filter_map(|message| message.text().strip_prefix(HEADER).map(ranges)).flatten().collect();
    (as_they_are, covered)
}

/// A message of about so many words that begins with its id.
pub(super) fn say(role: Role, id: usize, words: usize) -> Message {
    Message::new(role, format!("#{id}# {}", "word ".repeat(words)))
}
