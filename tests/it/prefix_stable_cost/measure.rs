//! Conversations through the whole stack into the simulated provider, and what it bills for them.

use std::thread;
use std::time::Duration;

use sluicegate::OptimizedClient;
use sluicegate::history::{HistoryLayer, StableWindow, Window};
use sluicegate::providers::Simulated;
use sluicegate::tokens::TokenCounter;
use sluicegate::types::{ChatBody, ChatRequest, Message, Price, PriceTable};

pub(super) const MODEL: &str = "gpt-5-mini";
/// The budget of the prompt, in tokens.
pub(super) const BUDGET: u64 = 8_000;
/// Turns of a conversation.
pub(super) const TURNS: usize = 200;

/// Counts texts of letters with a blank before each, such as ` x q a`, as tiktoken does: each is one token in
/// `o200k_base`. It need not look at them, so 20,000 long prompts are counted quickly where nothing is optimised.
#[derive(Debug)]
pub(super) struct Letters;

impl TokenCounter for Letters {
    fn text(&self, _: &str, text: &str) -> u64 {
        text.len() as u64 / 2
    }

    fn message(&self, model: &str, message: &Message) -> u64 {
        4 + message.texts().map(|text| self.text(model, text)).sum::<u64>()
    }

    fn request(&self, body: &ChatBody) -> u64 {
        3 + body.messages.iter().map(|message| self.message(&body.model, message)).sum::<u64>()
    }
}

/// What is said: instructions, then turns of a question and its answer.
pub(super) struct Talk {
    pub(super) instructions: Message,
    pub(super) turns: Vec<(Message, Message)>,
}

impl Talk {
    /// Turns of so many tokens.
    fn new(seed: u64, least: usize, most: usize) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut said = |tokens: usize| -> String { (4..tokens).flat_map(|_| [' ', random.lowercase()]).collect() };
        let instructions = Message::system(said(100));
        let mut lengths = fastrand::Rng::with_seed(!seed);
        let turns = (0..TURNS).map(|_| {
            let tokens = lengths.usize(least..=most);
            let question = lengths.usize(tokens / 8..=tokens / 2);
            (Message::user(said(question)), Message::assistant(said(tokens - question)))
        });
        Self { instructions, turns: turns.collect() }
    }
}

/// So many conversations of [`TURNS`] turns of so many tokens; the same ones at each call.
pub(super) fn talks(count: u64, least: usize, most: usize) -> Vec<Talk> {
    (0..count).map(|seed| Talk::new(seed, least, most)).collect()
}

/// What conversations cost, and what was left of them.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Bill {
    /// Dollars for input at a dollar per million tokens.
    pub(super) dollars: f64,
    pub(super) input: u64,
    pub(super) cached: u64,
    /// What the policy said would come from the provider's cache.
    pub(super) expected: u64,
    /// The most that a single call was off by.
    pub(super) expected_off_by: u64,
    /// The share of the budget that was filled with history, summed over all calls.
    filled: f64,
    calls: f64,
    /// The same over the calls that came when the whole conversation would not have fitted any more.
    filled_outgrown: f64,
    calls_outgrown: f64,
}

impl Bill {
    pub(super) fn fill(&self) -> f64 {
        self.filled / self.calls
    }

    pub(super) fn fill_outgrown(&self) -> f64 {
        self.filled_outgrown / self.calls_outgrown
    }
}

/// The same conversations in plain windows and in prefix-stable ones, cached input at this share of the price.
pub(super) struct Comparison {
    pub(super) plain: Bill,
    pub(super) stable: Bill,
}

impl Comparison {
    /// How many times less the stable one cost.
    pub(super) fn gain(&self) -> f64 {
        self.plain.dollars / self.stable.dollars
    }
}

pub(super) fn compare(talks: &[Talk], cached_price: f64) -> Comparison {
    thread::scope(|scope| {
        let plain = scope.spawn(|| hold(talks, Window::tokens(BUDGET).into(), cached_price));
        let stable = hold(talks, StableWindow::tokens(BUDGET).into(), cached_price);
        Comparison { plain: plain.join().unwrap(), stable }
    })
}

/// Holds the conversations one after the other, with a stopped clock that jumps: twenty seconds between an answer and
/// the next question, and the provider's usual latency.
fn hold(talks: &[Talk], policy: HistoryLayer, cached_price: f64) -> Bill {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let provider = Simulated::builder().env(sluicegate::Env::new().with_counter(Letters)).output_tokens(1, 1);
        let client = OptimizedClient::builder(provider.build().unwrap())
            .history(policy)
            .counter(Letters)
            .prices(PriceTable::empty().set(MODEL, Price::new(1.0, cached_price, 0.0)))
            .build()
            .unwrap();
        let mut bill = Bill::default();
        for talk in talks {
            talk_through(talk, &client, &mut bill).await;
        }
        bill
    })
}

async fn talk_through(talk: &Talk, client: &OptimizedClient, bill: &mut Bill) {
    let mut request = ChatRequest::new(MODEL).message(talk.instructions.clone());
    let beside_history = Letters.request(&request);
    let mut whole = beside_history;
    for (question, answer) in &talk.turns {
        request = request.message(question.clone());
        whole += Letters.message(MODEL, question);
        let answered = client.chat(request.clone()).await.unwrap();
        let trace = answered.trace();
        let usage = answered.usage.as_ref().unwrap();
        let (billed, expected) = (usage.cached_tokens(), u64::from(trace.history.expected_cached_tokens));
        bill.dollars += trace.cost.unwrap().dollars();
        bill.input += usage.prompt_tokens;
        bill.cached += billed;
        bill.expected += expected;
        bill.expected_off_by = bill.expected_off_by.max(billed.abs_diff(expected));
        let filled = (usage.prompt_tokens - beside_history) as f64 / BUDGET as f64;
        bill.filled += filled;
        bill.calls += 1.0;
        if whole > BUDGET {
            bill.filled_outgrown += filled;
            bill.calls_outgrown += 1.0;
        }
        request = request.message(answer.clone());
        whole += Letters.message(MODEL, answer);
        tokio::time::sleep(Duration::from_secs(20)).await;
    }
}
