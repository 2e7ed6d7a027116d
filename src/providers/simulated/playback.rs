//! A streamed answer: its chunks when they are due.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use futures_util::stream;

use super::answer::Draft;
use super::call::Call;
use super::dice::{Dice, Draw};
use super::errors;
use crate::error::Result;
use crate::types::{
    ChatChunk, ChatStream, ChunkChoice, Delta, Finish, FunctionCallDelta, Role, StreamEvent, ToolCallDelta, Usage,
};

/// What is left to stream. It holds the call, so dropping it settles the call.
#[derive(Debug)]
pub(super) struct Playback {
    call: Call,
    chunks: VecDeque<(Instant, Arc<ChatChunk>)>,
    end: Option<End>,
    end_at: Instant,
}

#[derive(Debug)]
enum End {
    Finish(Usage),
    Error,
    Cut,
}

impl Playback {
    /// All the chunks of these drafts. `head` carries what every chunk repeats: id, model, time.
    pub(super) fn new(call: Call, head: &ChatChunk, drafts: Vec<Draft>, usage: Usage) -> Self {
        let mut chunks = Vec::new();
        for (draft, index) in drafts.into_iter().zip(0..) {
            let pieces = draft.pieces.len().max(1) as f64;
            let mut put = |tokens: f64, choice: ChunkChoice| {
                let chunk = ChatChunk { choices: vec![ChunkChoice { index, ..choice }], ..head.clone() };
                chunks.push((call.written_at(tokens), Arc::new(chunk)));
            };
            put(0.0, delta(opening(draft.call.as_ref())));
            for (piece, place) in draft.pieces.into_iter().zip(0_u32..) {
                // A piece is there when the pieces before it are written: the first one at once.
                let tokens = draft.tokens as f64 * f64::from(place) / pieces;
                put(tokens, delta(more(piece, draft.call.is_some())));
            }
            put(draft.tokens as f64, ChunkChoice { finish_reason: Some(draft.finish), ..ChunkChoice::default() });
        }
        // Stable: choices are written side by side, each in its own order.
        chunks.sort_by_key(|(due, _)| *due);
        let end_at = call.done_at();
        Self { call, chunks: chunks.into(), end: Some(End::Finish(usage)), end_at }
    }

    /// Breaks off after the first piece of text at the earliest, before the last chunk at the latest.
    pub(super) fn break_off(mut self, dice: &Dice) -> Self {
        let most = self.chunks.len().saturating_sub(1);
        let least = 2.min(most);
        let choices = (most - least + 1) as u64;
        // Below the number of chunks, so it fits.
        let keep = least + (dice.bits(Draw::StreamFaultPlace, 0) % choices) as usize;
        if let Some((due, _)) = self.chunks.get(keep) {
            self.end_at = *due;
        }
        self.chunks.truncate(keep);
        self.end = Some(if self.call.next_fault_is_cut() { End::Cut } else { End::Error });
        self
    }

    pub(super) fn into_stream(self) -> ChatStream {
        ChatStream::new(stream::unfold(self, |mut playback| async move {
            let event = playback.next().await?;
            Some((event, playback))
        }))
    }

    async fn next(&mut self) -> Option<Result<StreamEvent>> {
        // Taken only when it is due: the wait may be dropped and begun again.
        if let Some((due, _)) = self.chunks.front() {
            let due = *due;
            if due <= self.call.first_at {
                self.call.first_chunk().await;
            }
            self.call.wait_until(due).await;
            return self.chunks.pop_front().map(|(_, chunk)| Ok(StreamEvent::Chunk(chunk)));
        }
        self.call.wait_until(self.end_at).await;
        match self.end.take()? {
            End::Finish(usage) => {
                self.call.complete();
                let finish = Finish { usage: Some(usage), ..Finish::default() };
                Some(Ok(StreamEvent::Finish(Box::new(finish))))
            }
            End::Error => {
                self.call.count_fault();
                Some(Err(errors::stream_error()))
            }
            End::Cut => {
                self.call.count_fault();
                None
            }
        }
    }
}

fn delta(delta: Delta) -> ChunkChoice {
    ChunkChoice { delta, ..ChunkChoice::default() }
}

/// The first chunk of a choice: who speaks, and which tool is called.
fn opening(call: Option<&(String, String)>) -> Delta {
    let tool_calls = call.map(|(id, name)| ToolCallDelta {
        id: Some(id.clone()),
        kind: Some("function".to_owned()),
        function: Some(FunctionCallDelta {
            name: Some(name.clone()),
            arguments: Some(String::new()),
            ..FunctionCallDelta::default()
        }),
        ..ToolCallDelta::default()
    });
    Delta {
        role: Some(Role::Assistant),
        content: call.is_none().then(String::new),
        tool_calls: tool_calls.into_iter().collect(),
        ..Delta::default()
    }
}

fn more(piece: String, of_arguments: bool) -> Delta {
    if !of_arguments {
        return Delta { content: Some(piece), ..Delta::default() };
    }
    let function = Some(FunctionCallDelta { arguments: Some(piece), ..FunctionCallDelta::default() });
    Delta { tool_calls: vec![ToolCallDelta { function, ..ToolCallDelta::default() }], ..Delta::default() }
}
