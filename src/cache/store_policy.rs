//! Which answers may be kept.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use super::structured::{Form, SchemaCheck};
use crate::error::{Error, Result};
use crate::types::{ChatCompletion, ChatRequest, Choice, FinishReason, Message};

/// Which answers may be kept. What may not is passed on to whoever asked, and asked for again next time.
///
/// Unless set otherwise, an answer is kept when every one of its choices came to a proper end, says something, refuses
/// nothing, and is JSON where the request asked for JSON. It decides about new answers only: what a tier outside the
/// process already holds is served until its time to live ends.
///
/// ```
/// use sluicegate::cache::{Cache, StorePolicy};
/// let policy = StorePolicy::new()
///     .max_answer_bytes(64 << 10)
///     .also(|_request, answer| !answer.choices.iter().any(|choice| choice.message.text().contains("As of today")));
/// let cache = Cache::memory(10_000).store(policy);
/// # let _ = cache;
/// ```
#[derive(Clone)]
pub struct StorePolicy {
    finish_reasons: Vec<FinishReason>,
    refusals: bool,
    empty_answers: bool,
    tool_calls: bool,
    valid_json: bool,
    schemas: Option<Arc<dyn SchemaCheck>>,
    sampled: bool,
    max_answer_bytes: Option<u64>,
    also: Vec<Arc<Predicate>>,
}

type Predicate = dyn Fn(&ChatRequest, &ChatCompletion) -> bool + Send + Sync;

impl Default for StorePolicy {
    fn default() -> Self {
        Self {
            finish_reasons: vec![FinishReason::Stop, FinishReason::ToolCalls, FinishReason::FunctionCall],
            refusals: false,
            empty_answers: false,
            tool_calls: true,
            valid_json: true,
            schemas: None,
            sampled: true,
            max_answer_bytes: None,
            also: Vec::new(),
        }
    }
}

impl StorePolicy {
    /// The default policy.
    pub fn new() -> Self {
        Self::default()
    }

    /// The finish reasons of a complete answer, at least one; `stop`, `tool_calls` and `function_call` unless set. An
    /// answer without a reason is never complete, nor is one without choices. Add the words of an endpoint of its own
    /// (`FinishReason::from("end_turn")`). With `length` or `content_filter` cut answers are served for as long as whole
    /// ones: of use only where the cut is meant, as with `max_tokens: 1`.
    #[must_use]
    pub fn finish_reasons(mut self, reasons: impl IntoIterator<Item = FinishReason>) -> Self {
        self.finish_reasons = reasons.into_iter().collect();
        self
    }

    /// Whether refusals are kept; no unless set: the same question may be answered the next time.
    #[must_use]
    pub fn refusals(mut self, keep: bool) -> Self {
        self.refusals = keep;
        self
    }

    /// Whether answers are kept in which a choice has neither a tool call nor any text but white space; no unless set:
    /// a model that says nothing has mostly failed. `choices: []` is never kept.
    #[must_use]
    pub fn empty_answers(mut self, keep: bool) -> Self {
        self.empty_answers = keep;
        self
    }

    /// Whether answers that call tools are kept; yes unless set: the same conversation wants the same call, and the
    /// tool still runs each time.
    #[must_use]
    pub fn tool_calls(mut self, keep: bool) -> Self {
        self.tool_calls = keep;
        self
    }

    /// Whether the text must parse as JSON where the request's `response_format` is `json_object` or `json_schema`; yes
    /// unless set: whoever asks for JSON fails on anything else, and would fail for as long as it is kept. Choices that
    /// call tools or refuse are not looked at. It costs one scan of the answer, on a miss only.
    #[must_use]
    pub fn valid_json(mut self, required: bool) -> Self {
        self.valid_json = required;
        self
    }

    /// Whether the text must also be valid against the request's own schema where its `response_format` carries one; no
    /// unless set, so that the feature alone changes nothing. References inside the schema are followed, none outside
    /// it is fetched. What cannot be checked is not kept: no answer to a schema that does not compile is.
    ///
    /// It costs a walk over the answer on a miss; the last 64 schemas stay compiled.
    #[cfg(feature = "json-schema")]
    #[must_use]
    pub fn valid_schema(mut self, required: bool) -> Self {
        self.schemas = required.then(|| Arc::new(super::schemas::Schemas::new()) as Arc<dyn SchemaCheck>);
        self
    }

    /// Whether sampled answers, those to requests with a `temperature` other than 0 or with none, are kept; yes unless
    /// set. Most services ask the same question and want the same answer, and a provider's own default temperature is 1:
    /// without sampled answers a cache would hold next to nothing.
    ///
    /// With `false` only requests with temperature 0 are looked up, share flights and are kept. All others pass the cache
    /// by and each makes its own upstream call, as fits where several different drafts are wanted. Reasoning models that
    /// take no temperature are never cached then.
    #[must_use]
    pub fn sampled(mut self, keep: bool) -> Self {
        self.sampled = keep;
        self
    }

    /// Bytes of memory that an answer may take at most: its texts, log probabilities and unknown fields, and about 1 KiB
    /// of fixed parts, not streamed; at least 1. No limit unless set, but those of the tiers: memory takes nothing that
    /// would fill it, and tiers outside the process nothing above 16 MiB as JSON, or 4 MiB once that is packed.
    #[must_use]
    pub fn max_answer_bytes(mut self, max: u64) -> Self {
        self.max_answer_bytes = Some(max);
        self
    }

    /// Keeps only answers of which this is true as well; all such conditions must hold. It runs on the task that waits
    /// for the answer, after the answer has come, so it should be quick. If it panics, the answer is not kept.
    #[must_use]
    pub fn also(mut self, keep: impl Fn(&ChatRequest, &ChatCompletion) -> bool + Send + Sync + 'static) -> Self {
        self.also.push(Arc::new(keep));
        self
    }

    /// Refuses settings that keep nothing.
    pub(super) fn check(&self) -> Result<()> {
        if self.finish_reasons.is_empty() {
            let advice = "name at least one, such as FinishReason::Stop, or leave the cache out";
            return Err(Error::config("cache", "store finish_reasons", "[]", advice));
        }
        if self.max_answer_bytes == Some(0) {
            let advice = "allow at least a few KiB, or leave the cache out";
            return Err(Error::config("cache", "store max_answer_bytes", "0", advice));
        }
        Ok(())
    }

    /// What to say about it beside the cache's other settings; nothing when every request is looked up.
    pub(super) fn describe(&self) -> &'static str {
        if self.sampled { "" } else { ", temperature 0 only" }
    }

    /// Whether this request passes the cache by.
    pub(super) fn passes_by(&self, request: &ChatRequest) -> bool {
        !self.sampled && request.temperature != Some(0.0)
    }

    /// Whether this answer may be kept.
    pub(super) fn takes(&self, request: &ChatRequest, completion: &ChatCompletion) -> bool {
        let form = Form::asked(request.response_format.as_ref());
        !completion.choices.is_empty()
            && completion.choices.iter().all(|choice| self.takes_choice(form, choice))
            && self.max_answer_bytes.is_none_or(|max| completion.weight(0) as u64 <= max)
            && self.also.iter().all(|keep| {
                // A cache never fails a call, whatever the user's closure does.
                catch_unwind(AssertUnwindSafe(|| keep(request, completion))).unwrap_or(false)
            })
    }

    fn takes_choice(&self, form: Form<'_>, choice: &Choice) -> bool {
        let message = &choice.message;
        let ended = |reason: &FinishReason| self.finish_reasons.iter().any(|known| known.as_str() == reason.as_str());
        if !choice.finish_reason.as_ref().is_some_and(ended) {
            return false;
        }
        // Some streams carry an empty refusal beside their text.
        if message.refusal.as_ref().is_some_and(|refusal| !refusal.is_empty()) {
            return self.refusals;
        }
        if calls(message) {
            return self.tool_calls;
        }
        let says = message.texts().any(|text| !text.trim().is_empty());
        (says || self.empty_answers) && (!self.valid_json || form.is_met(message, self.schemas.as_deref()))
    }
}

/// Whether it calls a tool, or a function in the oldest form of tools.
fn calls(message: &Message) -> bool {
    !message.tool_calls.is_empty() || message.extra.get("function_call").is_some_and(serde_json::Value::is_object)
}

impl fmt::Debug for StorePolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StorePolicy")
            .field("finish_reasons", &self.finish_reasons)
            .field("refusals", &self.refusals)
            .field("empty_answers", &self.empty_answers)
            .field("tool_calls", &self.tool_calls)
            .field("valid_json", &self.valid_json)
            .field("valid_schema", &self.schemas.is_some())
            .field("sampled", &self.sampled)
            .field("max_answer_bytes", &self.max_answer_bytes)
            .field("also", &self.also.len())
            .finish()
    }
}

#[cfg(test)]
mod tests;
