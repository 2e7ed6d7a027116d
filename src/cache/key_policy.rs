//! What is part of the key.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;

use super::{KeyTexts, Probe};
use crate::client::ClientInfo;
use crate::error::{Error, Result};
use crate::types::{ChatBody, ChatRequest, EmbedInput, EmbedItem, EmbedRequest};

/// What is part of the key: unless set otherwise everything that can change the answer, byte by byte.
///
/// **Warning:** what a policy leaves out or makes equal no longer tells answers apart. Requests that differ in nothing
/// else share one stored answer and one flight, whose request was that of whoever came first. The tenant, the namespace,
/// the client's provider, endpoint and account always count.
///
/// A policy is itself part of the key: entries kept under another one are not found, in whatever tier they are, so a
/// stricter policy never serves what a laxer one mixed up. Only closures look all alike from outside: change the
/// [`salt`](Self::salt) with your [`rewrite`](Self::rewrite).
///
/// The default costs nothing. Leaving out, rewriting and normalising take a copy of the request's body for each look-up;
/// its messages are shared, but for the last one of the user where its text is normalised.
///
/// ```
/// use sluicegate::cache::{Cache, KeyField, KeyPolicy, KeyTexts};
/// let policy = KeyPolicy::new().leave_out(KeyField::User).texts(KeyTexts::Folded).salt("prompts-2024-06");
/// let cache = Cache::memory(10_000).keys(policy);
/// # let _ = cache;
/// ```
#[derive(Clone, Default)]
pub struct KeyPolicy {
    /// Tells this policy from every other one; empty for the default.
    mark: String,
    left_out: Vec<KeyField>,
    salt: String,
    texts: KeyTexts,
    rewrites: Vec<Arc<Rewrite>>,
}

type Rewrite = dyn Fn(&mut ChatBody) + Send + Sync;

/// A field that a [`KeyPolicy`] can leave out of the key.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum KeyField {
    /// `seed`: best-effort repeatability. An answer of one seed is served for all.
    Seed,
    /// `user`: the end user, for abuse monitoring. Leave it in where the model is told who asks; a
    /// [`Tenant`](crate::types::Tenant) keeps users apart either way. Embedding requests have it too.
    User,
    /// `temperature`: a dull answer may be served to who wanted a lively one.
    Temperature,
    /// `top_p`.
    TopP,
    /// `max_tokens` and `max_completion_tokens`: an answer may be longer than the caller allows.
    MaxTokens,
    /// A field of this name that this version has no place for, such as `metadata`, `service_tier` or `store`; at the
    /// top of chat and embedding requests, not inside messages.
    Extra(String),
}

/// Fields that have a place of their own in a body, so that no extra field has their name.
const PLACED: [&str; 20] = [
    "model",
    "messages",
    "temperature",
    "top_p",
    "n",
    "max_tokens",
    "max_completion_tokens",
    "stop",
    "presence_penalty",
    "frequency_penalty",
    "logit_bias",
    "logprobs",
    "top_logprobs",
    "seed",
    "user",
    "tools",
    "tool_choice",
    "parallel_tool_calls",
    "response_format",
    "reasoning_effort",
];

impl KeyPolicy {
    /// The default policy.
    pub fn new() -> Self {
        Self::default()
    }

    /// Leaves a field out; all count unless set. Refused when the cache is built: an [`KeyField::Extra`] that names a
    /// field with a place of its own, or none.
    #[must_use]
    pub fn leave_out(mut self, field: KeyField) -> Self {
        self.left_out.push(field);
        self.left_out.sort_unstable();
        self.left_out.dedup();
        self.marked()
    }

    /// Adds this text to every key of chats and embeddings; empty unless set. Name a version of your prompts, tools or
    /// data in it: with a new one everything is asked anew, and the old entries end with their time to live.
    #[must_use]
    pub fn salt(mut self, salt: impl Into<String>) -> Self {
        self.salt = salt.into();
        self.marked()
    }

    /// How the text of the last user message is read; [`KeyTexts::Exact`] unless set. All other messages always are
    /// read exactly.
    #[must_use]
    pub fn texts(mut self, texts: KeyTexts) -> Self {
        self.texts = texts;
        self.marked()
    }

    /// Changes a copy of the request's body, which the key is then made of; the request itself goes upstream as it is.
    /// Several run in the order given, before [`texts`](Self::texts) and [`leave_out`](Self::leave_out). It runs for
    /// every look-up, hits included, on the caller's task, and must always make the same of the same. If it panics, the
    /// request has the key it would have without it, shared with no other kind of key.
    #[must_use]
    pub fn rewrite(mut self, change: impl Fn(&mut ChatBody) + Send + Sync + 'static) -> Self {
        self.rewrites.push(Arc::new(change));
        self.marked()
    }

    /// Whether the key is of the request as it is.
    pub(super) fn is_exact(&self) -> bool {
        self.mark.is_empty()
    }

    fn marked(mut self) -> Self {
        let Self { mark, left_out, salt, texts, rewrites } = &mut self;
        mark.clear();
        if left_out.is_empty() && salt.is_empty() && *texts == KeyTexts::Exact && rewrites.is_empty() {
            return self;
        }
        // Quoted as `Debug` does, so that no salt and no name can imitate another mark.
        *mark = format!("{salt:?} {left_out:?} {texts:?} {}", rewrites.len());
        self
    }

    /// Refuses what would leave nothing out.
    pub(super) fn check(&self) -> Result<()> {
        for field in &self.left_out {
            let KeyField::Extra(name) = field else { continue };
            if name.is_empty() || PLACED.contains(&name.as_str()) {
                let advice = "name a field that ChatBody has no place for, or take another KeyField";
                return Err(Error::config("cache", "keys leave_out", format!("Extra({name:?})"), advice));
            }
        }
        Ok(())
    }

    /// What to say about it beside the cache's other settings; nothing by default. The salt is not told.
    pub(super) fn describe(&self) -> String {
        let fields: Vec<_> = self.left_out.iter().map(KeyField::name).collect();
        let said = [
            (!self.salt.is_empty()).then(|| "salted".to_owned()),
            (!fields.is_empty()).then(|| format!("without {}", fields.join("/"))),
            match self.texts {
                KeyTexts::Exact => None,
                KeyTexts::Whitespace => Some("blanks joined".to_owned()),
                KeyTexts::Folded => Some("texts folded".to_owned()),
            },
            (!self.rewrites.is_empty()).then(|| "rewritten".to_owned()),
        ];
        let said: Vec<_> = said.into_iter().flatten().collect();
        if said.is_empty() { String::new() } else { format!(", keys {}", said.join(" and ")) }
    }

    /// The probe of a chat request to this client, at this time.
    pub(super) fn chat(&self, info: &ClientInfo, request: &ChatRequest, now: Instant) -> Probe {
        if self.is_exact() {
            return Probe::chat(info, request, now);
        }
        if self.left_out.is_empty() && self.texts == KeyTexts::Exact && self.rewrites.is_empty() {
            return Probe::chat_marked(info, request, &self.mark, now);
        }
        let mut copy = request.clone();
        let rewritten = catch_unwind(AssertUnwindSafe(|| self.rewrites.iter().for_each(|change| change(&mut copy))));
        if rewritten.is_err() {
            // Half changed, it could be anybody's.
            return Probe::chat_marked(info, request, &format!("{} panicked", self.mark), now);
        }
        self.texts.apply(&mut copy);
        for field in &self.left_out {
            field.clear(&mut copy);
        }
        Probe::chat_marked(info, &copy, &self.mark, now)
    }

    /// The probe of one input of an embedding request to this client, at this time: salted, without the `user` and the
    /// extra fields that are left out. Texts are taken exactly: a vector is that of its letters.
    pub(super) fn embedding(
        &self,
        info: &ClientInfo,
        request: &EmbedRequest,
        item: EmbedItem<'_>,
        now: Instant,
    ) -> Probe {
        if self.is_exact() {
            return Probe::embedding(info, request, item, now);
        }
        if self.left_out.is_empty() {
            return Probe::embedding_marked(info, request, item, &self.mark, now);
        }
        let EmbedRequest { model, input: _, dimensions, encoding_format, user, extra, extensions } = request;
        let mut copy = EmbedRequest {
            model: model.clone(),
            // The texts stay where they are.
            input: EmbedInput::Texts(Vec::new()),
            dimensions: *dimensions,
            encoding_format: encoding_format.clone(),
            user: user.clone(),
            extra: extra.clone(),
            extensions: extensions.clone(),
        };
        for field in &self.left_out {
            match field {
                KeyField::User => copy.user = None,
                KeyField::Extra(name) => drop(copy.extra.remove(name)),
                KeyField::Seed | KeyField::Temperature | KeyField::TopP | KeyField::MaxTokens => {}
            }
        }
        Probe::embedding_marked(info, &copy, item, &self.mark, now)
    }
}

impl KeyField {
    fn name(&self) -> &str {
        match self {
            Self::Seed => "seed",
            Self::User => "user",
            Self::Temperature => "temperature",
            Self::TopP => "top_p",
            Self::MaxTokens => "max_tokens",
            Self::Extra(name) => name,
        }
    }

    fn clear(&self, body: &mut ChatBody) {
        match self {
            Self::Seed => body.seed = None,
            Self::User => body.user = None,
            Self::Temperature => body.temperature = None,
            Self::TopP => body.top_p = None,
            Self::MaxTokens => (body.max_tokens, body.max_completion_tokens) = (None, None),
            Self::Extra(name) => drop(body.extra.remove(name)),
        }
    }
}

impl fmt::Debug for KeyPolicy {
    // A salt may be meant as a secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyPolicy")
            .field("left_out", &self.left_out)
            .field("salted", &!self.salt.is_empty())
            .field("texts", &self.texts)
            .field("rewrites", &self.rewrites.len())
            .finish()
    }
}

#[cfg(test)]
mod tests;
