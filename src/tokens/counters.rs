//! Which counter counts for which model.

use std::sync::{Arc, LazyLock};

use super::name::{bare, is_of_whole};
use super::{Estimate, Tiktoken, TokenCounter, Work};
use crate::types::{ChatBody, Message};

/// Counts with what fits the model: exactly for OpenAI's, by an [`Estimate`] for the known families of others, and as you
/// say for those you name. The counter of every [`Env`](crate::Env) unless another is set.
///
/// | Model | Counter |
/// |---|---|
/// | named with [`with`](Self::with) | yours; of several beginnings the longest |
/// | has `claude` in its name | [`Estimate::claude`] |
/// | `gemini`, `gemma` | [`Estimate::gemini`] |
/// | `llama` | [`Estimate::llama`] |
/// | `mistral`, `mixtral`, `ministral`, `magistral`, `codestral`, `devstral`, `pixtral` | [`Estimate::mistral`] |
/// | `qwen`, `deepseek`, `command-`, `grok`, `nova-`, `phi-`, `kimi`, `glm-` | [`Estimate::other`] |
/// | OpenAI's, and any other name, because deployments are called what their owners like | [`Tiktoken`] |
///
/// ```
/// use sluicegate::tokens::{Counters, Estimate, TokenCounter};
/// let counters = Counters::new().with("house-model", Estimate::llama().with_factor(1.3));
/// assert_eq!(counters.text("gpt-5", "Why is the sky blue?"), 6);
/// assert!(counters.text("house-model-v2", "Why is the sky blue?") > 6);
/// ```
#[derive(Debug, Default)]
pub struct Counters {
    exact: Tiktoken,
    named: Vec<(String, Arc<dyn TokenCounter>)>,
}

type Family = (&'static str, fn() -> Estimate);

const FAMILIES: &[Family] = &[
    ("claude", Estimate::claude),
    ("gemini", Estimate::gemini),
    ("gemma", Estimate::gemini),
    ("llama", Estimate::llama),
    ("mistral", Estimate::mistral),
    ("mixtral", Estimate::mistral),
    ("ministral", Estimate::mistral),
    ("magistral", Estimate::mistral),
    ("codestral", Estimate::mistral),
    ("devstral", Estimate::mistral),
    ("pixtral", Estimate::mistral),
    ("qwen", Estimate::other),
    ("deepseek", Estimate::other),
    ("command-", Estimate::other),
    ("grok", Estimate::other),
    ("nova-", Estimate::other),
    ("phi-", Estimate::other),
    ("kimi", Estimate::other),
    ("glm-", Estimate::other),
];

/// One of each, to hand out references to.
static ESTIMATES: LazyLock<Vec<Estimate>> = LazyLock::new(|| FAMILIES.iter().map(|(_, estimate)| estimate()).collect());

fn estimate_of(model: &str) -> Option<&'static Estimate> {
    // The common case first: a name of OpenAI's is not searched.
    if model.starts_with("gpt-") {
        return None;
    }
    let at = FAMILIES.iter().position(|(name, _)| {
        let mut windows = model.as_bytes().windows(name.len());
        windows.any(|window| window.eq_ignore_ascii_case(name.as_bytes()))
    })?;
    ESTIMATES.get(at)
}

impl Counters {
    /// Exact for OpenAI's, an estimate for the rest.
    pub fn new() -> Self {
        Self::default()
    }

    /// Counts with this the models whose name begins so, exactly as it is written. Of a name what is before the last `/`
    /// is left out, and `ft:`, unless this beginning has a `/` in it or begins with `ft:` itself: `gpt-5` is
    /// `openai/gpt-5` too, `house/` is all that the house serves. The same beginning named again replaces what was named
    /// before.
    #[must_use]
    pub fn with(mut self, beginning: impl Into<String>, counter: impl TokenCounter) -> Self {
        let beginning = beginning.into();
        self.named.retain(|(other, _)| *other != beginning);
        self.named.push((beginning, Arc::new(counter)));
        // The longest first.
        self.named.sort_by_key(|(beginning, _)| std::cmp::Reverse(beginning.len()));
        self
    }

    /// Builds the vocabulary of this model now, if it is counted exactly: 150 to 300 ms. Blocks; call it at start-up or
    /// from `spawn_blocking`. The same as [`warm_up`](super::warm_up), which needs no counter.
    pub fn warm_up(&self, model: &str) {
        super::warm_up(model);
    }

    /// What the exact counter has tokenized so far, words that it looked up included.
    pub fn work(&self) -> Work {
        self.exact.work()
    }

    fn of(&self, model: &str) -> &dyn TokenCounter {
        let name = bare(model);
        let whole = |beginning: &str| if is_of_whole(beginning) { model } else { name };
        let named = self.named.iter().find(|(beginning, _)| whole(beginning).starts_with(beginning.as_str()));
        match (named, estimate_of(name)) {
            (Some((_, counter)), _) => &**counter,
            (None, Some(estimate)) => estimate,
            (None, None) => &self.exact,
        }
    }
}

/// Whether models of this name are counted with a vocabulary unless something else is said.
pub(super) fn is_exact(model: &str) -> bool {
    estimate_of(bare(model)).is_none()
}

impl TokenCounter for Counters {
    fn text(&self, model: &str, text: &str) -> u64 {
        self.of(model).text(model, text)
    }

    fn message(&self, model: &str, message: &Message) -> u64 {
        self.of(model).message(model, message)
    }

    fn request(&self, body: &ChatBody) -> u64 {
        self.of(&body.model).request(body)
    }

    fn overhead(&self, body: &ChatBody) -> u64 {
        self.of(&body.model).overhead(body)
    }

    fn uncounted(&self, model: &str, message: &Message) -> usize {
        self.of(model).uncounted(model, message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Fixed(u64);

    impl TokenCounter for Fixed {
        fn text(&self, _: &str, _: &str) -> u64 {
            self.0
        }
        fn message(&self, _: &str, _: &Message) -> u64 {
            self.0
        }
        fn request(&self, _: &ChatBody) -> u64 {
            self.0
        }
    }

    #[test]
    fn the_model_chooses_the_counter() {
        let text = "The model chooses who counts these twelve words of plain English prose.";
        let counters = Counters::new().with("claude-", Fixed(7)).with("claude-opus", Fixed(8)).with("gpt-4", Fixed(9));
        assert_eq!(counters.text("anthropic/claude-sonnet-4-5", text), 7);
        assert_eq!(counters.text("claude-opus-4", text), 8);
        assert_eq!(counters.text("gpt-4o", text), 9);
        assert_eq!(counters.with("claude-", Fixed(1)).text("claude-haiku", text), 1);
        let counters =
            Counters::new().with("house/", Fixed(7)).with("ft:gpt-4o:org", Fixed(8)).with("gpt-4o", Fixed(9));
        for (model, count) in
            [("house/gpt-4o-mini", 7), ("house/claude-haiku", 7), ("ft:gpt-4o:org::id", 8), ("ft:gpt-4o:else", 9)]
        {
            assert_eq!(counters.text(model, text), count, "{model}: named as a whole");
        }
        assert_eq!(counters.text("gpt-4o/house", text), Tiktoken::new().text("house", text), "a beginning of no name");
        let counters = Counters::new();
        let exact = Tiktoken::new().text("gpt-5", text);
        for model in ["gpt-5", "openai/gpt-4.1", "o3", "house-model"] {
            assert_eq!(counters.text(model, text), exact, "{model}");
        }
        for model in ["us.anthropic.claude-sonnet-4", "models/gemini-2.5-pro", "meta-llama/Llama-3.3-70B", "Qwen3"] {
            let estimated = counters.text(model, text);
            assert!(estimated > exact && estimated < 2 * exact, "{model}: {estimated} of {exact}");
        }
    }

    #[test]
    fn a_prompt_is_counted_by_one_counter_throughout() {
        let request = crate::types::ChatRequest::new("claude-sonnet-4-5").system("Be brief.").user("Why?");
        let parts: u64 = request.messages.iter().map(|message| Estimate::claude().message("", message)).sum();
        assert_eq!(Counters::new().request(&request), parts + Counters::new().overhead(&request));
        assert_eq!(Counters::new().work(), Work::default(), "no vocabulary was asked");
    }
}
