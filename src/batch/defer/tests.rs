use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::future::join_all;
use parking_lot::Mutex;

use super::*;
use crate::batch::SentBatch;
use crate::testing::{Scripted, drop_at_every_await};
use crate::types::{ChatCompletion, Cost, PriceTable, Usage};

const HOUR: Duration = Duration::from_secs(3600);

/// Batches that take as long as they are told, and answer with the question.
#[derive(Debug, Default)]
struct Desk {
    takes: Duration,
    refuses: bool,
    fails: bool,
    bad: Option<(&'static str, ErrorKind)>,
    /// What it says an answer costs.
    said: Option<Cost>,
    sent: Mutex<Vec<usize>>,
    cancelled: AtomicUsize,
    env: Option<Env>,
}

#[derive(Debug)]
struct OnDesk(Arc<Desk>, Vec<ChatRequest>);

#[derive(Debug)]
struct Door(Arc<Desk>);

#[async_trait]
impl BatchProvider for Door {
    async fn send(&self, requests: Vec<ChatRequest>) -> Result<Box<dyn SentBatch>> {
        if self.0.refuses {
            return Err(Error::new(ErrorKind::Server, "desk", "closed"));
        }
        self.0.sent.lock().push(requests.len());
        Ok(Box::new(OnDesk(Arc::clone(&self.0), requests)))
    }
}

fn question(request: &ChatRequest) -> String {
    request.messages.first().and_then(|message| message.texts().next()).unwrap_or_default().to_owned()
}

#[async_trait]
impl SentBatch for OnDesk {
    async fn answers(&mut self) -> Result<Vec<Result<ChatResponse>>> {
        if let Some(env) = &self.0.env {
            env.sleep(self.0.takes).await;
        }
        if self.0.fails {
            return Err(Error::new(ErrorKind::Network, "desk", "burnt"));
        }
        let answer = |request: &ChatRequest| match self.0.bad {
            Some((bad, kind)) if bad == question(request) => Err(Error::new(kind, "desk", "bad")),
            _ => {
                let mut completion = ChatCompletion::text("gpt-5-mini", question(request));
                completion.usage = Some(Usage::new(1_000, 1_000));
                let mut answer = ChatResponse::from(completion);
                answer.trace_mut().cost = self.0.said;
                Ok(answer)
            }
        };
        Ok(self.1.iter().map(answer).collect())
    }

    async fn cancel(&mut self) -> Result<()> {
        self.0.cancelled.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }
}

struct House {
    desk: Arc<Desk>,
    inner: Arc<Scripted>,
    llm: Arc<dyn LlmClient>,
    env: Env,
}

impl House {
    fn new(desk: Desk) -> Self {
        let env = Env::new();
        let desk = Arc::new(Desk { env: Some(env.clone()), ..desk });
        let inner = Arc::new(Scripted::new().always("ordinary"));
        let layer = DeferLayer::new(Door(Arc::clone(&desk)), 12 * HOUR).margin(HOUR).max_calls(4);
        let llm = layer.wrap(inner.clone(), &env).unwrap();
        Self { desk, inner, llm, env }
    }

    fn ask(&self, text: &str, hours: u32) -> ChatRequest {
        ChatRequest::new("gpt-5-mini").user(text).with(Deadline(self.env.after(hours * HOUR)))
    }

    fn sent(&self) -> Vec<usize> {
        self.desk.sent.lock().clone()
    }

    fn cancelled(&self) -> usize {
        self.desk.cancelled.load(Ordering::SeqCst)
    }

    /// All batches have ended.
    async fn quiet(&self) {
        while !self.env.tasks().is_empty() {
            self.env.sleep(Duration::from_secs(1)).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn each_gets_its_own_answer_at_half_the_price() {
    let house = House::new(Desk { takes: 3 * HOUR, ..Desk::default() });
    let start = house.env.now();
    let asked = ["a", "b"].map(|text| house.llm.chat(house.ask(text, 13)));
    let answers = join_all(asked).await;
    for (answer, text) in answers.into_iter().zip(["a", "b"]) {
        let answer = answer.unwrap();
        assert_eq!(answer.text(), text);
        let deferred = answer.extension::<Deferred>().unwrap();
        assert_eq!(
            (deferred.waited, deferred.fell_back, deferred.sent),
            (3 * HOUR + Duration::from_secs(60), false, true)
        );
        // A thousand tokens at $0.125 and a thousand at $1 a million.
        assert_eq!(answer.trace().cost.unwrap().picos(), 1_125_000_000);
    }
    assert_eq!((house.sent(), house.inner.calls()), (vec![2], 0));
    assert_eq!(house.env.now() - start, 3 * HOUR + Duration::from_secs(60));
}

#[tokio::test(start_paused = true)]
async fn the_price_is_that_of_the_model_asked_for_or_what_the_provider_says() {
    let said = Some(Cost::from_picos(17));
    // The desk answers as gpt-5-mini, whatever was asked.
    let half = |model| PriceTable::published().batch_cost(model, &Usage::new(1_000, 1_000));
    for (asked, said, cost) in [
        ("gpt-5", None, half("gpt-5")),
        ("gpt-5", said, half("gpt-5")),
        ("house-model", said, said),
        ("house-model", None, None),
    ] {
        let house = House::new(Desk { said, ..Desk::default() });
        let mut request = house.ask("a", 13);
        request.model = asked.to_owned();
        assert_eq!(house.llm.chat(request).await.unwrap().trace().cost, cost, "{asked} {said:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_full_batch_is_sent_at_once_and_models_apart() {
    let house = House::new(Desk::default());
    let start = house.env.now();
    join_all(["a", "b", "c", "d"].map(|text| house.llm.chat(house.ask(text, 13)))).await;
    assert_eq!((house.sent(), house.env.now()), (vec![4], start));
    let mut other = house.ask("b", 13);
    other.model = "gpt-5".to_owned();
    let (one, two) = tokio::join!(house.llm.chat(house.ask("a", 13)), house.llm.chat(other));
    assert_eq!((one.unwrap().text(), two.unwrap().text(), house.sent()), ("a", "b", vec![4, 1, 1]));
}

#[tokio::test(start_paused = true)]
async fn no_batch_is_larger_than_it_may_be() {
    let house = House::new(Desk::default());
    let start = house.env.now();
    join_all((0..9).map(|_| house.llm.chat(house.ask("a", 13)))).await;
    let mut sent = house.sent();
    sent.sort_unstable();
    assert_eq!((sent, house.env.now() - start), (vec![1, 4, 4], Duration::from_secs(60)));
}

#[tokio::test(start_paused = true)]
async fn who_leaves_takes_the_prompt_along() {
    #[derive(Debug, Clone)]
    struct Mark(#[allow(dead_code, reason = "held")] Arc<()>);
    let house = House::new(Desk::default());
    let mark = Arc::new(());
    let call = house.llm.chat(house.ask("a", 13).with(Mark(Arc::clone(&mark))));
    tokio::select! { _ = call => panic!("it waits"), () = house.env.sleep(Duration::from_secs(1)) => {} }
    assert_eq!(Arc::strong_count(&mark), 1);
}

#[derive(Debug, Default)]
struct Told(Mutex<Vec<(String, Duration, &'static str)>>);

impl crate::env::Observer for Told {
    fn observe(&self, event: &crate::env::Event<'_>) {
        let crate::env::Event::Batched(record) = event else { return };
        let how = match &record.outcome {
            crate::env::Outcome::Answered { trace, .. } if trace.cost.is_some() => "answered",
            crate::env::Outcome::Answered { .. } => "unpriced",
            crate::env::Outcome::Failed(_) => "failed",
            crate::env::Outcome::Abandoned => "abandoned",
        };
        self.0.lock().push((record.model.to_owned(), record.duration, how));
    }
}

#[tokio::test(start_paused = true)]
async fn observers_are_told_of_every_part_of_a_batch() {
    let bad = Some(("bad", ErrorKind::ContentFilter));
    for (fails, expected) in [(false, ["answered", "failed"]), (true, ["abandoned", "abandoned"])] {
        let told = Arc::new(Told::default());
        let env = Env::new().with_observer(told.clone());
        let desk = Desk { takes: HOUR, bad, fails, env: Some(env.clone()), ..Desk::default() };
        let layer = DeferLayer::new(Door(Arc::new(desk)), 12 * HOUR);
        let llm = layer.wrap(Arc::new(Scripted::new().always("ordinary")), &env).unwrap();
        let ask = |text| ChatRequest::new("gpt-5-mini").user(text).with(Deadline(env.after(13 * HOUR)));
        join_all(["good", "bad"].map(|text| llm.chat(ask(text)))).await;
        let expected = expected.map(|how| ("gpt-5-mini".to_owned(), HOUR, how));
        assert_eq!(*told.0.lock(), expected);
    }
}

#[tokio::test(start_paused = true)]
async fn only_the_patient_are_deferred() {
    let house = House::new(Desk::default());
    let bare = || ChatRequest::new("gpt-5-mini").user("a");
    for (request, deferred) in [
        (bare(), false),
        (house.ask("a", 11), false),
        (house.ask("a", 11).with(Deferrable::Yes), false),
        (house.ask("a", 13).with(Deferrable::No), false),
        (bare().with(Deferrable::No), false),
        (bare().with(Deferrable::Yes), true),
    ] {
        let answer = house.llm.chat(request).await.unwrap();
        assert_eq!(answer.extension::<Deferred>().is_some(), deferred);
        assert_eq!(answer.text(), if deferred { "a" } else { "ordinary" });
    }
    house.llm.chat_stream(house.ask("a", 13)).await.unwrap().collect().await.unwrap();
    assert_eq!(house.sent(), [1], "streams are not");
}

#[tokio::test(start_paused = true)]
async fn what_the_batch_cannot_do_is_asked_the_ordinary_way_in_time() {
    let bad = Some(("a", ErrorKind::Server));
    for (desk, sent, waited) in [
        (Desk { refuses: true, ..Desk::default() }, false, Duration::from_secs(60)),
        (Desk { fails: true, takes: HOUR, ..Desk::default() }, true, HOUR + Duration::from_secs(60)),
        (Desk { bad, ..Desk::default() }, true, Duration::from_secs(60)),
        (Desk { takes: 100 * HOUR, ..Desk::default() }, true, 12 * HOUR),
    ] {
        let house = House::new(desk);
        let answer = house.llm.chat(house.ask("a", 13)).await.unwrap();
        let deferred = *answer.extension::<Deferred>().unwrap();
        assert_eq!((answer.text(), deferred), ("ordinary", Deferred::new(waited, true, sent)));
        house.quiet().await;
        let left_alone = house.desk.refuses || house.desk.bad.is_some();
        assert_eq!(house.cancelled(), usize::from(!left_alone), "nobody needs it any more");
    }
}

#[tokio::test(start_paused = true)]
async fn a_failure_that_would_come_again_is_the_calls_own() {
    let house = House::new(Desk { bad: Some(("a", ErrorKind::ContentFilter)), ..Desk::default() });
    let (bad, good) = tokio::join!(house.llm.chat(house.ask("a", 13)), house.llm.chat(house.ask("b", 13)));
    assert_eq!((bad.unwrap_err().kind(), good.unwrap().text()), (ErrorKind::ContentFilter, "b"));
    assert_eq!(house.inner.calls(), 0);
}

#[tokio::test(start_paused = true)]
async fn who_leaves_is_left_out_and_the_last_cancels() {
    let house = House::new(Desk { takes: 3 * HOUR, ..Desk::default() });
    let limit = |wait, text: &'static str| {
        let (env, call) = (house.env.clone(), house.llm.chat(house.ask(text, 20)));
        async move {
            tokio::select! { answer = call => Some(answer), () = env.sleep(wait) => None }
        }
    };
    let (early, late, stays) =
        tokio::join!(limit(Duration::from_secs(30), "a"), limit(HOUR, "b"), limit(9 * HOUR, "c"));
    assert!(early.is_none() && late.is_none());
    assert_eq!((stays.unwrap().unwrap().text(), house.sent(), house.cancelled()), ("c", vec![2], 0));
    assert!(limit(HOUR, "d").await.is_none());
    house.quiet().await;
    assert_eq!((house.sent(), house.cancelled()), (vec![2, 1], 1));
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_tells_all_who_wait_and_cancels() {
    let house = House::new(Desk { takes: 3 * HOUR, ..Desk::default() });
    let close = async {
        house.env.sleep(Duration::from_secs(61)).await;
        house.env.closing().cancel();
    };
    let later = async {
        house.env.sleep(Duration::from_secs(30)).await;
        let mut other = house.ask("b", 13);
        other.model = "gpt-5".to_owned();
        house.llm.chat(other).await
    };
    let (sent, collected, ()) = tokio::join!(house.llm.chat(house.ask("a", 13)), later, close);
    assert_eq!(sent.unwrap_err().kind(), ErrorKind::Shutdown);
    assert_eq!(collected.unwrap_err().kind(), ErrorKind::Shutdown);
    house.quiet().await;
    assert_eq!((house.sent(), house.cancelled(), house.inner.calls()), (vec![1], 1, 0));
}

#[tokio::test(start_paused = true)]
async fn frees_everything_wherever_it_is_dropped() {
    let house = House::new(Desk { takes: HOUR, ..Desk::default() });
    let settled = async || house.quiet().await;
    assert!(drop_at_every_await(|| house.llm.chat(house.ask("a", 13)), settled).await > 0);
}

#[test]
fn refuses_what_cannot_work() {
    let layer = || DeferLayer::new(Door(Arc::default()), 12 * HOUR);
    for (layer, setting) in [
        (DeferLayer::new(Door(Arc::default()), Duration::ZERO), "min_wait"),
        (layer().max_calls(0), "max_calls"),
        (layer().margin(12 * HOUR), "margin"),
        (layer().collect_for(11 * HOUR), "collect_for"),
    ] {
        let error = layer.wrap(Arc::new(Scripted::new()), &Env::new()).unwrap_err();
        assert!(error.message().contains(setting), "{error}");
    }
}
