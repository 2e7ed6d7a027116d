//! The provider's prompt cache: which prefix of a prompt it has seen lately.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use twox_hash::XxHash3_128;

use crate::env::after;
use crate::tokens::TokenCounter;
use crate::types::{ChatBody, Content, Message};

/// How the provider caches prompts. The default is what OpenAI documents ("Prompt caching"): prefixes of 1,024 tokens
/// or more, in steps of 128, kept for five minutes after their last use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PromptCache {
    /// Shorter prefixes are not cached. In tokens; default 1,024.
    pub min_tokens: u64,
    /// Cached prefixes are a multiple of this long. In tokens, at least 1; default 128.
    pub step: u64,
    /// How long a prefix is kept after its last use. At least 1 ns; default 5 minutes.
    pub ttl: Duration,
}

impl Default for PromptCache {
    fn default() -> Self {
        Self { min_tokens: 1_024, step: 128, ttl: Duration::from_secs(300) }
    }
}

/// A text is hashed and counted in pieces of this many bytes: about half a step of English.
const PIECE: usize = 256;

/// Above this many prefixes (about 40 bytes each) the provider forgets everything and starts again.
const MAX_PREFIXES: usize = 1 << 17;

/// A prefix of a prompt: its length in tokens, a multiple of the step, and the hash of all its bytes.
pub(super) type Prefix = (u64, u128);

impl PromptCache {
    /// The cacheable prefixes of a prompt of so many tokens, shortest first.
    ///
    /// What a prefix hashes to depends on its own bytes alone, never on what follows. Its length is exact at the ends
    /// of messages and, inside a message, as exact as counting pieces is.
    pub(super) fn prefixes(&self, body: &ChatBody, prompt_tokens: u64, counter: &dyn TokenCounter) -> Vec<Prefix> {
        if prompt_tokens < self.min_tokens.max(self.step) {
            return Vec::new();
        }
        let mut walk = Walk { cache: self, hash: XxHash3_128::new(), tokens: 0, prefixes: Vec::new() };
        walk.feed(body.model.as_bytes());
        // Providers render tools and schemas before the conversation.
        walk.feed(&serde_json::to_vec(&(&body.tools, &body.response_format)).unwrap_or_default());
        let messages: u64 = body.messages.iter().map(|message| counter.message(&body.model, message)).sum();
        walk.advance_to(prompt_tokens.saturating_sub(messages));
        for message in body.messages.iter() {
            walk.message(&body.model, message, counter);
        }
        walk.prefixes.retain(|(tokens, _)| *tokens <= prompt_tokens);
        walk.prefixes
    }
}

struct Walk<'a> {
    cache: &'a PromptCache,
    hash: XxHash3_128,
    tokens: u64,
    prefixes: Vec<Prefix>,
}

impl Walk<'_> {
    /// Length-prefixed, so that no two different sequences of pieces hash the same bytes.
    fn feed(&mut self, bytes: &[u8]) {
        self.hash.write(&(bytes.len() as u64).to_le_bytes());
        self.hash.write(bytes);
    }

    fn advance_to(&mut self, tokens: u64) {
        self.tokens = tokens;
        let length = tokens / self.cache.step * self.cache.step;
        let last = self.prefixes.last().map_or(0, |(length, _)| *length);
        if length >= self.cache.min_tokens && length > last {
            self.prefixes.push((length, self.hash.finish_128()));
        }
    }

    fn message(&mut self, model: &str, message: &Message, counter: &dyn TokenCounter) {
        let end = self.tokens + counter.message(model, message);
        match &message.content {
            Some(Content::Text(text)) => {
                let rest = Message { content: None, ..message.clone() };
                self.feed(&serde_json::to_vec(&rest).unwrap_or_default());
                for piece in pieces(text) {
                    self.feed(piece.as_bytes());
                    self.advance_to(self.tokens + counter.text(model, piece));
                }
            }
            // Media are not cut inside: half an image is no prefix.
            _ => self.feed(&serde_json::to_vec(message).unwrap_or_default()),
        }
        self.advance_to(end);
    }
}

/// Cuts at every 256th byte, or at the next character after it: where, depends on what comes before only.
fn pieces(mut text: &str) -> impl Iterator<Item = &str> {
    std::iter::from_fn(move || {
        let end = (PIECE..text.len()).find(|end| text.is_char_boundary(*end)).unwrap_or(text.len());
        let (piece, rest) = text.split_at(end);
        text = rest;
        (!piece.is_empty()).then_some(piece)
    })
}

/// The prefixes seen lately.
#[derive(Debug, Default)]
pub(super) struct Known {
    expiries: HashMap<u128, Instant>,
    purge_at: usize,
}

impl Known {
    /// The length in tokens of the longest prefix that is known; 0 when none is.
    pub(super) fn longest(&self, now: Instant, prefixes: &[Prefix]) -> u64 {
        let known = |hash: &u128| self.expiries.get(hash).is_some_and(|expiry| now < *expiry);
        prefixes.iter().rev().find(|(_, hash)| known(hash)).map_or(0, |(tokens, _)| *tokens)
    }

    /// These have been used now.
    pub(super) fn remember(&mut self, now: Instant, ttl: Duration, prefixes: &[Prefix]) {
        if self.expiries.len() > self.purge_at {
            self.expiries.retain(|_, expiry| now < *expiry);
            if self.expiries.len() > MAX_PREFIXES {
                self.expiries.clear();
            }
            self.purge_at = (self.expiries.len() * 2).max(1_024);
        }
        let expiry = after(now, ttl);
        self.expiries.extend(prefixes.iter().map(|(_, hash)| (*hash, expiry)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Env;
    use crate::types::{ChatRequest, Tool};

    const RULES: &str = "Answer in one sentence, name your source, and never guess a number that you do not know. ";

    struct Provider(Known, Env);

    impl Provider {
        fn ask(&mut self, request: &ChatRequest) -> u64 {
            let cache = PromptCache::default();
            let tokens = self.1.counter().request(request);
            let prefixes = cache.prefixes(request, tokens, &**self.1.counter());
            let cached = self.0.longest(self.1.now(), &prefixes);
            self.0.remember(self.1.now(), cache.ttl, &prefixes);
            assert!(cached <= tokens && cached.is_multiple_of(128) && (cached == 0 || cached >= 1_024));
            cached
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_longest_common_prefix_counts_in_steps_and_for_five_minutes() {
        let mut provider = Provider(Known::default(), Env::new());
        let base = ChatRequest::new("gpt-5-mini").system(RULES.repeat(100));
        let tokens = provider.1.counter().request(&base);
        let (first, second) = (base.clone().user("Why?"), base.clone().user("Who?"));
        assert_eq!(provider.ask(&first), 0);
        let cached = provider.ask(&second);
        assert!(cached > tokens - 256 && cached <= tokens, "{cached} of {tokens}");
        // Half of the system prompt in common: half is cached, whatever follows.
        let half = RULES.repeat(80) + "But " + &RULES.repeat(300);
        let cached = provider.ask(&ChatRequest::new("gpt-5-mini").system(half));
        assert!((tokens * 7 / 10..=tokens * 8 / 10).contains(&cached), "{cached} of {tokens}");

        let env = provider.1.clone();
        env.sleep(Duration::from_secs(299)).await;
        assert!(provider.ask(&first) > 0, "and that use keeps it for another five minutes");
        env.sleep(Duration::from_secs(299)).await;
        assert!(provider.ask(&second) > 0);
        env.sleep(Duration::from_secs(300)).await;
        assert_eq!(provider.ask(&first), 0);
    }

    #[test]
    fn model_tools_role_and_first_byte_are_part_of_every_prefix() {
        let mut provider = Provider(Known::default(), Env::new());
        let text = RULES.repeat(100);
        let base = ChatRequest::new("gpt-5-mini").system(text.clone());
        assert_eq!(provider.ask(&base), 0);
        assert!(provider.ask(&base) > 1_024);
        assert_eq!(provider.ask(&ChatRequest::new("gpt-5").system(text.clone())), 0);
        assert_eq!(provider.ask(&ChatRequest::new("gpt-5-mini").user(text.clone())), 0);
        assert_eq!(provider.ask(&ChatRequest::new("gpt-5-mini").system(format!("a{text}"))), 0);
        let tool = Tool::function("f", "does it", serde_json::json!({"type": "object"}));
        assert_eq!(provider.ask(&base.tool(tool)), 0);
    }

    #[test]
    fn short_prompts_are_never_cached() {
        let mut provider = Provider(Known::default(), Env::new());
        let short = ChatRequest::new("gpt-5-mini").user(RULES.repeat(40));
        assert_eq!((provider.ask(&short), provider.ask(&short)), (0, 0));
    }

    #[test]
    fn pieces_lose_nothing_and_never_split_a_character() {
        let text = "aé日🦀".repeat(500);
        assert_eq!(pieces(&text).collect::<String>(), text);
    }
}
