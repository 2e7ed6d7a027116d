//! What every history policy must keep.

use std::fmt;
use std::sync::Arc;

use crate::env::Env;
use crate::error::{ErrorKind, Result};
use crate::history::{Carry, Fit, HistoryPolicy, Rule, Rules, TokenBudget};
use crate::testing::Conversations;
use crate::testing::conversations::joined;
use crate::tokens::{Tiktoken, TokenCounter};
use crate::types::{ChatRequest, Content, Message, Messages, Part, Role, Tool};

/// So many conversations all go on, and a tenth of those after them: to go on doubles what a conversation costs.
const ALWAYS_GO_ON: usize = 500;

/// Checks a history policy on conversations that are made up ([`Conversations`]): a third that all providers take, a third
/// that OpenAI takes, a third that came broken.
///
/// 1. The prompt is within the limit, as the exact counter counts, and the trace tells so many tokens or none.
/// 2. It is refused with [`ErrorKind::ContextLength`] only when the instructions and the last turn take more than the limit.
/// 3. What keeps OpenAI's, Anthropic's or the strict [`Rules`] before keeps them after.
/// 4. All instructions are there, and the user's last message; shortened only if the trace says so.
/// 5. What is kept stands in the order it came, nothing is added unless the trace tells of a summary, and what is left out
///    is told.
/// 6. Fitting again changes nothing.
/// 7. Where [`fits`](HistoryPolicy::fits) says so, the very same list comes back.
/// 8. A policy newly made gives the same: it depends on nothing but messages and budget.
/// 9. What it [carries](Fit::carry) is a prompt that keeps the rules; and with what came since it gives what all of it
///    gives, again and again, and by a policy newly made that has nothing but what is stored. Of long runs it is asked of
///    the first 500 conversations and of each tenth after them: it takes as long as all the others together.
///
/// A law that is broken panics with its words, the seed and the number of the conversation.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// use std::sync::Arc;
/// use sluicegate::{history::Window, testing::laws::PolicyLaws};
/// PolicyLaws::new(|tokens| Arc::new(Window::tokens(tokens))).conversations(20).check().await;
/// # }
/// ```
pub struct PolicyLaws {
    make: Box<dyn Fn(u64) -> Arc<dyn HistoryPolicy>>,
    /// Shared, so that policies that count with it find what was counted for others.
    env: Env,
    conversations: usize,
    seed: u64,
    limited: bool,
    left_out: Vec<Rule>,
}

impl PolicyLaws {
    /// For the policy that this makes for a limit of so many tokens, on 500 conversations.
    pub fn new(make: impl Fn(u64) -> Arc<dyn HistoryPolicy> + 'static) -> Self {
        let env = Env::new().with_counter(Tiktoken::new());
        Self { make: Box::new(make), env, conversations: 500, seed: 0, limited: true, left_out: Vec::new() }
    }

    /// How many conversations.
    #[must_use]
    pub fn conversations(mut self, conversations: usize) -> Self {
        self.conversations = conversations;
        self
    }

    /// Other conversations.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Counts with this counter, which must be exact: the one the policy is to be used with, or one that remembers.
    #[must_use]
    pub fn counter(mut self, counter: Arc<dyn TokenCounter>) -> Self {
        self.env = self.env.with_counter(counter);
        self
    }

    /// The policy knows of no limit (it keeps a number of turns, say): laws 1 and 2 do not bind it.
    #[must_use]
    pub fn without_limit(mut self) -> Self {
        self.limited = false;
        self
    }

    /// The policy says why it does not keep this rule: law 3 does not ask for it.
    #[must_use]
    pub fn without_rule(mut self, rule: Rule) -> Self {
        self.left_out.push(rule);
        self
    }

    /// Checks them all.
    pub async fn check(&self) {
        let mut random = fastrand::Rng::with_seed(self.seed);
        let mut made_up = Conversations::new(self.seed);
        for number in 0..self.conversations {
            let messages = match number % 3 {
                0 => made_up.strict(),
                1 => made_up.loose(),
                _ => made_up.broken(),
            };
            let mut request = ChatRequest::new("gpt-4o").messages(messages);
            if random.u8(..4) == 0 {
                request =
                    request.tool(Tool::function("look", "Looks up a place.", serde_json::json!({"type": "object"})));
            }
            let counts = Counts::of(&request, &**self.env.counter());
            let limit = match random.u8(..8) {
                0 => random.u64(1..=counts.least),
                1 => counts.least,
                2 => counts.all,
                3 => counts.all + random.u64(..200),
                _ => random.u64(counts.least..=counts.all),
            };
            let case = Case { laws: self, number, request, limit, least: counts.least, policy: (self.make)(limit) };
            let more = if random.bool() { made_up.loose() } else { made_up.strict() };
            case.check(&more[more.len().saturating_sub(random.usize(1..5))..]).await;
        }
    }
}

impl fmt::Debug for PolicyLaws {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PolicyLaws").field("conversations", &self.conversations).finish_non_exhaustive()
    }
}

/// What a conversation takes.
struct Counts {
    all: u64,
    /// Instructions and the last turn.
    least: u64,
}

impl Counts {
    fn of(request: &ChatRequest, counter: &dyn TokenCounter) -> Self {
        let budget = TokenBudget::new(request, counter);
        let last = last_turn(&request.messages);
        let stays = |(at, message): &(usize, &Arc<Message>)| *at >= last || message.role.is_instruction();
        let stays: u64 = request.messages.iter().enumerate().filter(stays).map(|(_, one)| budget.message(one)).sum();
        Self { all: counter.request(request), least: budget.overhead() + stays }
    }
}

/// Where the last turn begins: where the user began to speak last.
fn last_turn(messages: &[Arc<Message>]) -> usize {
    let mut start = None;
    let mut before = None;
    for (at, message) in messages.iter().enumerate().filter(|(_, message)| !message.role.is_instruction()) {
        let begins = message.role == Role::User && before != Some(&Role::User);
        if start.is_none() || begins {
            start = Some(at);
        }
        before = Some(&message.role);
    }
    start.unwrap_or(messages.len())
}

/// One conversation, and the policy for its limit.
struct Case<'l> {
    laws: &'l PolicyLaws,
    number: usize,
    request: ChatRequest,
    limit: u64,
    least: u64,
    policy: Arc<dyn HistoryPolicy>,
}

impl Case<'_> {
    #[allow(clippy::panic, reason = "a broken law fails the test that checks it")]
    fn keep(&self, law: &str, kept: bool) {
        if !kept {
            let (policy, number, seed, limit) = (self.policy.settings(), self.number, self.laws.seed, self.limit);
            panic!(
                "the policy {policy:?} breaks a law on conversation {number} of seed {seed}, limit {limit}: {law}\n{:#?}",
                self.request.messages
            );
        }
    }

    fn budget(&self) -> TokenBudget<'_> {
        TokenBudget::of(&self.request, &self.laws.env)
    }

    async fn fit(&self, policy: &dyn HistoryPolicy, messages: &Messages) -> Result<Fit> {
        policy.fit(messages.clone(), &self.budget()).await
    }

    async fn check(&self, more: &[Arc<Message>]) {
        let before = &self.request.messages;
        let fits = self.policy.fits(before, &self.budget());
        let fit = match self.fit(&*self.policy, before).await {
            Ok(fit) => fit,
            Err(error) => {
                self.keep("only what is too long is refused", error.kind() == ErrorKind::ContextLength);
                let too_long = self.least > self.limit || !self.laws.limited;
                self.keep("what must stay and fits is not refused", too_long);
                return self.keep("what certainly fits is not refused", !fits);
            }
        };
        let after = &fit.messages;
        if fits {
            self.keep("what certainly fits is left as it is", after.ptr_eq(before));
        }
        self.keeps_the_budget(&fit);
        self.keeps_the_rules(after);
        self.keeps_what_must_stay(&fit);
        self.tells_what_it_did(&fit);
        let again = self.fit(&*self.policy, after).await;
        self.keep("fitting again changes nothing", again.is_ok_and(|again| again.messages == *after));
        let anew = self.fit(&*(self.laws.make)(self.limit), before).await;
        self.keep("a policy newly made gives the same", anew.is_ok_and(|anew| anew.messages == *after));
        // Of a conversation that came broken no more is asked.
        let goes_on =
            (self.number < ALWAYS_GO_ON || self.number.is_multiple_of(10)) && Rules::openai().check(before).is_ok();
        if let Some(carry) = fit.carry.filter(|_| goes_on) {
            self.goes_on(carry, more).await;
        }
    }

    /// The conversation goes on twice, each time with half of what there is more.
    async fn goes_on(&self, mut carry: Carry, more: &[Arc<Message>]) {
        let mut all = self.request.messages.clone();
        self.keeps_the_rules(&carry.messages);
        let (first, second) = more.split_at(more.len() / 2);
        for more in [first, second] {
            all = joined(&all, more);
            let shown = joined(&carry.messages, more);
            let whole = self.fit(&*self.policy, &all).await;
            let mut stored = Carry::of(carry.messages.clone()).noted(carry.note.clone());
            stored.summarized = carry.summarized;
            let anew = (self.laws.make)(self.limit);
            let loaded = anew.fit(shown.clone(), &self.budget().with_carried(&stored)).await;
            let budget = self.budget().with_carried(&carry);
            let fits = self.policy.fits(&shown, &budget);
            let resumed = self.policy.fit(shown.clone(), &budget).await;
            let same = |other: &Result<Fit>| match (&whole, other) {
                (Ok(whole), Ok(other)) => whole.messages == other.messages,
                (whole, other) => whole.is_err() && other.is_err(),
            };
            self.keep("what it carries and what came since give what all of it gives", same(&resumed));
            self.keep("what it carries gives the same once it was stored", same(&loaded));
            let as_it_is = |fit: &Fit| fit.messages.ptr_eq(&shown);
            self.keep("what certainly fits is left as it is", !fits || resumed.as_ref().is_ok_and(as_it_is));
            carry.messages = shown;
            carry = resumed.ok().and_then(|fit| fit.carry).unwrap_or(carry);
        }
    }

    fn keeps_the_budget(&self, fit: &Fit) {
        let mut request = self.request.clone();
        request.messages = fit.messages.clone();
        let tokens = self.laws.env.counter().request(&request);
        let law = format!("a prompt is within its limit: {tokens} tokens");
        self.keep(&law, tokens <= self.limit || !self.laws.limited);
        let told = u64::from(fit.trace.kept_tokens);
        self.keep(&format!("{told} tokens told are {tokens} tokens"), told == 0 || told == tokens);
    }

    fn keeps_the_rules(&self, after: &Messages) {
        for rules in [Rules::openai(), Rules::anthropic(), Rules::strict()] {
            let rules = self.laws.left_out.iter().fold(rules, |rules, rule| rules.without(*rule));
            if rules.check(&self.request.messages).is_ok() {
                // Words for all that is kept would take as long as to keep it.
                let Err(broken) = rules.check(after) else { continue };
                self.keep(&format!("what keeps {rules} keeps them after: {broken:?} {after:#?}"), false);
            }
        }
    }

    fn keeps_what_must_stay(&self, fit: &Fit) {
        let shortened = fit.trace.shortened > 0;
        let instructions = |messages: &Messages| -> Vec<Arc<Message>> {
            messages.iter().filter(|message| message.role.is_instruction()).cloned().collect()
        };
        let (before, after) = (instructions(&self.request.messages), instructions(&fit.messages));
        self.keep("all instructions stay", within(&before, &after));
        let last = |messages: &Messages| messages.iter().rfind(|message| message.role == Role::User).cloned();
        let stays = match (last(&self.request.messages), last(&fit.messages)) {
            (Some(before), Some(after)) => same(&before, &after) || (shortened && is_shorter(&before, &after)),
            (before, _) => before.is_none(),
        };
        self.keep("the user's last message stays", stays);
    }

    fn tells_what_it_did(&self, fit: &Fit) {
        let (before, after, trace) = (&self.request.messages, &fit.messages, fit.trace);
        let rewritten = trace.shortened > 0 || trace.summarized_tokens > 0;
        let law = "what is kept stands in the order it came, and nothing is added in silence";
        self.keep(law, rewritten || within(after, before));
        let text =
            |messages: &Messages| messages.iter().flat_map(|message| message.texts()).map(str::len).sum::<usize>();
        // Some letters may be no token of their own.
        let told = trace.trimmed_tokens > 0 || rewritten || text(after) + 64 > text(before);
        self.keep("what is left out is told", told);
    }
}

/// Whether the other list has all of these, in this order.
fn within(these: &[Arc<Message>], others: &[Arc<Message>]) -> bool {
    let mut others = others.iter();
    these.iter().all(|this| others.any(|other| same(this, other)))
}

/// Whether they say the same, media and unknown fields too; marks for a provider's prompt cache left out of account.
fn same(one: &Arc<Message>, other: &Arc<Message>) -> bool {
    let alike = || one.role == other.role && one.texts().eq(other.texts());
    Arc::ptr_eq(one, other) || (alike() && unmarked(one) == unmarked(other))
}

/// A message without marks for a provider's prompt cache, and its text in a part, where they have it.
fn unmarked(message: &Message) -> Message {
    const MARK: &str = "cache_control";
    let mut message = message.clone();
    let parts = message.content.take().map(|content| match content {
        Content::Text(text) => vec![Part::text(text)],
        Content::Parts(parts) => parts,
    });
    let clean = |mut part: Part| {
        match &mut part {
            Part::Text { extra, .. } | Part::ImageUrl { extra, .. } | Part::InputAudio { extra, .. } => {
                extra.remove(MARK);
            }
            Part::Other(value) => drop(value.as_object_mut().and_then(|fields| fields.remove(MARK))),
        }
        part
    };
    message.content = parts.map(|parts| Content::Parts(parts.into_iter().map(clean).collect()));
    message
}

/// Whether the other one may be what is left of this one.
fn is_shorter(one: &Message, other: &Message) -> bool {
    let (one, other) = (one.text(), other.text());
    one.len() > other.len() && one.chars().next() == other.chars().next()
}
