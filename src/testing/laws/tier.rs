//! What every cache tier must keep.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::cache::{CacheTier, Entry, Labels, Payload, Probe, Selector, StoredValue};
use crate::client::ClientInfo;
use crate::types::{ChatChunk, ChatCompletion, ChatRequest, Cost, Tenant, Usage};

/// Checks an empty tier that can hold at least ten small entries:
///
/// 1. What was put is found, whole: answer, usage, chunks, cost.
/// 2. Nothing else is found: not by another question, another tenant or another client.
/// 3. A second put replaces the first.
/// 4. Nothing is found once it has expired.
/// 5. What is removed, by whatever selector, is gone; what was not removed stays.
/// 6. `Debug` shows no prompt and no answer.
///
/// `now` is the present in the clock the tier goes by.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> sluicegate::Result<()> {
/// use sluicegate::{Env, cache::tier::Memory, testing::laws::tier_laws};
/// tier_laws(&Memory::new(100, 1 << 20)?, Env::new().now()).await;
/// # Ok(()) }
/// ```
pub async fn tier_laws(tier: &dyn CacheTier, now: Instant) {
    let laws = Laws { tier, now };
    laws.finds_exactly_what_was_put().await;
    laws.forgets().await;
    laws.forgets_what_is_selected().await;
}

struct Laws<'a> {
    tier: &'a dyn CacheTier,
    now: Instant,
}

const TTL: Duration = Duration::from_secs(600);

fn question(text: &str) -> ChatRequest {
    ChatRequest::new("gpt-5-mini").user(text)
}

#[allow(clippy::panic, reason = "a broken law fails the test that checks it")]
fn broken(tier: &dyn CacheTier, law: &str) -> ! {
    panic!("the tier {:?} breaks a law: {law}", tier.name())
}

impl Laws<'_> {
    fn keep(&self, law: &str, kept: bool) {
        if !kept {
            broken(self.tier, law);
        }
    }

    fn probe(&self, request: &ChatRequest) -> Probe {
        Probe::chat(&ClientInfo::new("laws"), request, self.now)
    }

    async fn put(&self, request: &ChatRequest, answer: &str) {
        let probe = self.probe(request);
        let mut completion = ChatCompletion::text("gpt-5-mini", answer);
        completion.usage = Some(Usage::new(3, 2));
        let chunks = answer.split_inclusive(' ').map(|word| Arc::new(ChatChunk::text_delta("gpt-5-mini", word)));
        let cost = Some(Cost::from_picos(42));
        let entry = Entry::new(&probe, Arc::new(completion), chunks.collect(), self.now, TTL, cost);
        let put = self.tier.put(&probe, Arc::new(entry)).await;
        self.keep("a healthy tier takes an entry", put.is_ok());
    }

    async fn find(&self, probe: &Probe) -> Option<Arc<Entry>> {
        match self.tier.get(probe).await {
            Ok(found) => found,
            Err(error) => broken(self.tier, &format!("a healthy tier answers: {error}")),
        }
    }

    async fn text(&self, request: &ChatRequest) -> Option<String> {
        let found = self.find(&self.probe(request)).await?;
        found.completion()?.choices.first().map(|choice| choice.message.text())
    }

    async fn finds_exactly_what_was_put(&self) {
        let request = question("secret question");
        self.keep("an empty tier finds nothing", self.text(&request).await.is_none());
        self.put(&request, "secret answer one").await;
        let Some(found) = self.find(&self.probe(&request)).await else { broken(self.tier, "what was put is found") };
        self.keep(
            "the usage is found",
            found.completion().and_then(|found| found.usage.clone()) == Some(Usage::new(3, 2)),
        );
        self.keep("the cost is found", found.cost() == Some(Cost::from_picos(42)));
        let words: Vec<_> = found.chunks().iter().map(|chunk| chunk.text().to_owned()).collect();
        self.keep("the chunks are found as they came", words == ["secret ", "answer ", "one"]);

        for other in [question("secret question "), request.clone().with(Tenant("t".into()))] {
            self.keep("another question or tenant finds nothing", self.text(&other).await.is_none());
        }
        let elsewhere = Probe::chat(&ClientInfo::new("another client"), &request, self.now);
        self.keep("another client finds nothing", self.find(&elsewhere).await.is_none());

        self.put(&request, "the second answer").await;
        let second = self.text(&request).await.is_some_and(|text| text == "the second answer");
        self.keep("a second put replaces the first", second);

        let shown = format!("{:?}", self.tier);
        self.keep("Debug shows no prompt and no answer", !shown.contains("secret") && !shown.contains("second"));

        let late = Probe::chat(&ClientInfo::new("laws"), &request, self.now + TTL);
        self.keep("nothing is found once it has expired", self.find(&late).await.is_none());
    }

    async fn forgets(&self) {
        let names: Vec<_> = (0..4).map(|number| question(&format!("question {number}"))).collect();
        for request in &names {
            self.put(request, "kept").await;
        }
        let removed = self.tier.remove(&Selector::Key(self.probe(&names[0]).key())).await;
        self.keep("a healthy tier removes", removed.is_ok());
        self.keep("what is removed by key is gone", self.text(&names[0]).await.is_none());
        self.keep("what was not removed stays", self.text(&names[1]).await.is_some());
        self.keep("a healthy tier removes all", self.tier.remove(&Selector::All).await.is_ok());
        for request in &names {
            self.keep("after removing all, nothing is found", self.text(request).await.is_none());
        }
    }

    /// Entries of two namespaces, some under a tag; each selector must take its own and no other.
    async fn forgets_what_is_selected(&self) {
        let names = ["first", "second", "third", "fourth"];
        let place = |number: usize| if number < 2 { "laws-a" } else { "laws-b" };
        let probes: Vec<_> = (0..4).map(|at| Probe::value(place(at), None, names[at], self.now)).collect();
        let key = |number: usize| probes[number].key();
        let stranger = Probe::value("laws-a", None, "stranger", self.now).key();
        for (selector, taken) in [
            (Selector::Keys(vec![key(0), stranger, key(3)]), [true, false, false, true]),
            (Selector::Tag("odd".into()), [false, true, false, true]),
            (Selector::Pattern("laws-?/f*".into()), [true, false, false, true]),
            (Selector::Namespace("laws-b".into()), [false, false, true, true]),
        ] {
            for (number, probe) in probes.iter().enumerate() {
                let labels = Labels::new(names[number]).tags((number % 2 == 1).then_some("odd"));
                let value = Payload::Value(Arc::new(StoredValue::from_json(*b"7")));
                let entry = Entry::of(probe, value, self.now, TTL).with_labels(labels);
                self.keep("a healthy tier takes a value", self.tier.put(probe, Arc::new(entry)).await.is_ok());
            }
            self.keep("a healthy tier removes what is selected", self.tier.remove(&selector).await.is_ok());
            for (probe, taken) in probes.iter().zip(taken) {
                let law = if taken { "what is selected is gone" } else { "what is not selected stays" };
                self.keep(law, self.find(probe).await.is_none() == taken);
            }
        }
        self.keep("a healthy tier removes all", self.tier.remove(&Selector::All).await.is_ok());
    }
}
