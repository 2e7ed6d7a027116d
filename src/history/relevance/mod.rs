//! The turns nearest to what is asked.

mod memory;

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use memory::{Memory, cosine};

use super::fit::{Rate, estimate_before};
use super::turns::turns;
use super::{Allowance, Fit, HistoryPolicy, Oversized, TokenBudget, Window};
use crate::embedder::Embedder;
use crate::env::{Clock, TokioClock};
use crate::error::{Error, ErrorKind, Result};
use crate::types::{Message, Messages, Role};

/// Keeps all instructions, the last turn, the newest turns before it, and of the older ones those nearest to the last
/// question, as many as fit; the others go whole, and what stays keeps its order. A last turn that does not fit loses its
/// oldest steps, as by [`Window`].
///
/// Nearness is the cosine between the vectors an [`Embedder`] makes: of what the user says in the last turn, and of what
/// user and assistant say in an older one, of each the first 2,000 bytes (some 500 tokens). What tools say is not
/// compared. Turns that are equally near, newest first; those that cannot be compared, last.
///
/// A conversation that fits is neither compared nor sent to the embedder. Otherwise the texts not seen before go there in one
/// call, and its vectors are remembered by content, up to [`remember`](Self::remember) of them. When the embedder fails or panics, answers
/// with vectors that cannot be compared, is slower than [`time_limit`](Self::time_limit), or the last turn says nothing that can be compared, the newest turns are
/// kept, as [`Window`] does; a call never fails for it. After a failure the embedder is left alone for 10 seconds.
/// [`fallbacks`](Self::fallbacks) counts the prompts for which it was not to be had.
///
/// The prompt changes in its middle from call to call, so the provider's prompt cache is of little use to it.
///
/// What is far from this question may be near to the next, so every turn is judged anew at each call, and a
/// [`Conversation`](super::Conversation) shows it the whole log.
///
/// Cost: a hash and a look-up for each message and text, and one product of vectors for each of the
/// [`candidates`](Self::candidates). Cancellation: the embedder's call is dropped.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> sluicegate::Result<()> {
/// use sluicegate::{ClientEmbedder, OptimizedClient, history::Relevance, testing::Scripted};
/// let embedder = ClientEmbedder::new(Scripted::new(), "text-embedding-3-small");
/// let relevance = Relevance::tokens(8_000, embedder).recent(4);
/// // A clone shares vectors and counters.
/// let llm = OptimizedClient::builder(Scripted::new()).history(relevance.clone()).build()?;
/// assert_eq!(relevance.fallbacks(), 0);
/// # let _ = llm; Ok(()) }
/// ```
#[derive(Debug, Clone)]
pub struct Relevance {
    allowance: Allowance,
    /// What is done where nearness is not to be had.
    window: Window,
    embedder: Arc<dyn Embedder>,
    clock: Arc<dyn Clock>,
    recent: usize,
    candidates: usize,
    time_limit: Duration,
    remember: usize,
    memory: Arc<Memory>,
}

/// The bytes of a turn that are compared: 500 tokens of English, a thousand where each character is one, so that a first call
/// with 256 turns stays under the 300,000 tokens that OpenAI takes in one request for embeddings.
const COMPARED: usize = 2_000;
/// OpenAI takes 2,048 texts in one request for embeddings, and one is the question.
const CANDIDATES_AT_MOST: usize = 2_047;

impl Relevance {
    /// At most so many tokens.
    pub fn tokens(tokens: u64, embedder: impl Embedder) -> Self {
        Self::within(Allowance::tokens(tokens), embedder)
    }

    /// At most as many tokens as this allows.
    pub fn within(allowance: Allowance, embedder: impl Embedder) -> Self {
        const REMEMBER: usize = 4_096;
        Self {
            allowance,
            window: Window::within(allowance),
            embedder: Arc::new(embedder),
            clock: Arc::new(TokioClock::new()),
            recent: 2,
            candidates: 256,
            time_limit: Duration::from_secs(2),
            remember: REMEMBER,
            memory: Arc::new(Memory::new(REMEMBER)),
        }
    }

    /// How many of the newest turns before the last one are kept without being compared, as far as they fit; 2 unless set.
    #[must_use]
    pub fn recent(mut self, turns: usize) -> Self {
        self.recent = turns;
        self
    }

    /// How many older turns are compared, the newest of them; what is older still is left out. 1 to 2,047; 256 unless set.
    #[must_use]
    pub fn candidates(mut self, turns: usize) -> Self {
        self.candidates = turns;
        self
    }

    /// How long the embedder may take; 2 seconds unless set, more than zero.
    #[must_use]
    pub fn time_limit(mut self, limit: Duration) -> Self {
        self.time_limit = limit;
        self
    }

    /// How many vectors are remembered, more than there are [`candidates`](Self::candidates); 4,096 unless set, which is
    /// 25 MB of 1,536 dimensions. Begins with an empty memory.
    #[must_use]
    pub fn remember(mut self, vectors: usize) -> Self {
        self.remember = vectors;
        self.memory = Arc::new(Memory::new(vectors));
        self
    }

    /// What to do when what must stay takes more than is allowed: the instructions, the user's last message and the newest
    /// step. Refused unless set.
    #[must_use]
    pub fn oversized(mut self, oversized: Oversized) -> Self {
        self.window = self.window.oversized(oversized);
        self
    }

    /// Where the time of the limit comes from; Tokio's clock unless set.
    #[must_use]
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// For how many prompts the newest turns were kept because the embedder failed, took too long, or rested after that.
    pub fn fallbacks(&self) -> u64 {
        self.memory.fallbacks()
    }

    /// These turns, nearest to the question first; those that cannot be compared last, and of equals the newest first.
    async fn nearest_first(&self, messages: &Messages, question: String, turns: &[Range<usize>]) -> Result<Vec<usize>> {
        let said = |turn: &Range<usize>| {
            compared(messages.get(turn.clone()).unwrap_or_default(), &[Role::User, Role::Assistant])
        };
        // A text of nothing is not asked for: providers refuse it.
        let said = turns.iter().enumerate().map(|(nth, turn)| (nth, said(turn))).filter(|(_, text)| !text.is_empty());
        let (places, mut texts): (Vec<usize>, Vec<String>) = said.unzip();
        texts.push(question);
        let directions = self.memory.directions(&texts, &*self.embedder, &*self.clock, self.time_limit).await?;
        let (mut near, mut compared) = (vec![f32::NEG_INFINITY; turns.len()], places.is_empty());
        if let Some((question, directions)) = directions.split_last() {
            for (nth, direction) in places.into_iter().zip(directions) {
                if let (Some(near), Some(cosine)) = (near.get_mut(nth), cosine(question, direction)) {
                    (*near, compared) = (cosine, true);
                }
            }
        }
        if !compared {
            // As when the model behind the embedder was changed.
            return Err(Error::new(ErrorKind::Decode, "history", "no vector can be compared with the question's"));
        }
        let mut order: Vec<(usize, f32)> = near.into_iter().enumerate().collect();
        order.sort_by(|(one, near), (other, nearer)| nearer.total_cmp(near).then(other.cmp(one)));
        Ok(order.into_iter().map(|(nth, _)| nth).collect())
    }
}

/// The beginning of what these messages say, of the roles that are compared.
fn compared(messages: &[Arc<Message>], roles: &[Role]) -> String {
    let mut text = String::new();
    for piece in messages.iter().filter(|message| roles.contains(&message.role)).flat_map(|message| message.texts()) {
        let mut end = piece.len().min(COMPARED.saturating_sub(text.len()));
        while !piece.is_char_boundary(end) {
            end -= 1;
        }
        text.push_str(piece.get(..end).unwrap_or_default());
        if end < piece.len() || text.len() >= COMPARED {
            break;
        }
        text.push('\n');
    }
    text.truncate(text.trim_end().len());
    text
}

/// The instructions and these turns.
fn only<'a>(messages: &Messages, turns: impl Iterator<Item = &'a Range<usize>>) -> Messages {
    let mut stays: Vec<bool> = messages.iter().map(|message| message.role.is_instruction()).collect();
    for turn in turns {
        stays.get_mut(turn.clone()).unwrap_or_default().fill(true);
    }
    messages.iter().zip(stays).filter(|(_, stays)| *stays).map(|(message, _)| Arc::clone(message)).collect()
}

/// Turns with what they take, counted when it is asked for.
struct Counted<'a> {
    messages: &'a Messages,
    budget: &'a TokenBudget<'a>,
    rate: Rate,
}

impl Counted<'_> {
    fn turn(&mut self, turn: &Range<usize>) -> u64 {
        let messages = self.messages.get(turn.clone()).unwrap_or_default();
        let said = messages.iter().filter(|message| !message.role.is_instruction());
        said.fold(0_u64, |sum, message| {
            let tokens = self.budget.message(message);
            self.rate.learn(message, tokens);
            sum.saturating_add(tokens)
        })
    }
}

#[async_trait]
impl HistoryPolicy for Relevance {
    fn settings(&self) -> String {
        let Self { recent, candidates, time_limit, .. } = self;
        let window = self.window.settings();
        format!("relevance, {window}, newest {recent} turns, nearest of {candidates}, embedder within {time_limit:?}")
    }

    fn check(&self) -> Result<()> {
        self.window.check()?;
        let refuse = |setting, value: String, advice| Err(Error::config("history", setting, value, advice));
        Error::unless_within("history", "candidates", self.candidates, 1..=CANDIDATES_AT_MOST)?;
        if self.remember <= self.candidates {
            return refuse("remember", self.remember.to_string(), "remember more vectors than turns are compared");
        }
        if self.time_limit.is_zero() {
            return refuse("time_limit", "0s".to_owned(), "give the embedder some time, such as 2 s");
        }
        Ok(())
    }

    fn fits(&self, messages: &Messages, budget: &TokenBudget<'_>) -> bool {
        self.window.fits(messages, budget)
    }

    async fn fit(&self, messages: Messages, budget: &TokenBudget<'_>) -> Result<Fit> {
        // What is far from this question may be near to the next: nothing is carried, not what the window would carry either.
        Ok(Fit { carry: None, ..self.choose(messages, budget).await? })
    }
}

impl Relevance {
    async fn choose(&self, messages: Messages, budget: &TokenBudget<'_>) -> Result<Fit> {
        let limit = self.allowance.limit(budget)?;
        let turns = turns(&messages);
        let Some((last, older)) = turns.split_last() else { return self.window.fit(messages, budget).await };
        let instructions = messages.iter().filter(|message| message.role.is_instruction());
        let fixed = instructions.fold(budget.overhead(), |sum, message| sum.saturating_add(budget.message(message)));
        let mut counted = Counted { messages: &messages, budget, rate: Rate::default() };
        let mut used = fixed.saturating_add(counted.turn(last));
        let mut kept = vec![false; older.len()];
        // All of them, while they fit; where they do not, what is recent.
        let mut with_all = used;
        for (nth, turn) in older.iter().enumerate().rev() {
            with_all = with_all.saturating_add(counted.turn(turn));
            if with_all > limit {
                break;
            }
            if older.len() - nth <= self.recent {
                (kept[nth], used) = (true, with_all);
            }
        }
        if with_all <= limit {
            return Ok(Fit::unchanged(messages).kept(with_all));
        }
        let question = compared(messages.get(last.clone()).unwrap_or_default(), &[Role::User]);
        let end = older.len().saturating_sub(self.recent);
        let start = end.saturating_sub(self.candidates);
        let candidates = older.get(start..end).unwrap_or_default();
        if used > limit || question.is_empty() || candidates.is_empty() {
            return self.window.fit(messages, budget).await;
        }
        let Ok(order) = self.nearest_first(&messages, question, candidates).await else {
            self.memory.count_fallback();
            return self.window.fit(messages, budget).await;
        };
        let mut counted = Counted { messages: &messages, budget, rate: Rate::default() };
        let recent = older.iter().zip(&kept).skip(end).filter(|(_, kept)| !**kept);
        let mut dropped = recent.fold(0_u64, |sum, (turn, _)| sum.saturating_add(counted.turn(turn)));
        for nth in order {
            let tokens = candidates.get(nth).map_or(0, |turn| counted.turn(turn));
            if used.saturating_add(tokens) <= limit {
                (kept[start + nth], used) = (true, used + tokens);
            } else {
                dropped = dropped.saturating_add(tokens);
            }
        }
        let unseen = older.get(start).map_or(0, |turn| turn.start);
        let trimmed = dropped.saturating_add(estimate_before(&messages, unseen, counted.rate));
        let kept = older.iter().zip(&kept).filter(|(_, kept)| **kept).map(|(turn, _)| turn);
        let sent = only(&messages, kept.chain([last]));
        Ok(Fit::unchanged(sent).kept(used).trimmed(trimmed))
    }
}

#[cfg(test)]
mod tests;
