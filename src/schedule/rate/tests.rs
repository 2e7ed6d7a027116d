//! The rates one by one, with a clock that the test sets.

use proptest::prelude::*;

use super::*;
use crate::error::{Error, ErrorKind, Retryability};
use crate::types::{Price, PriceTable, Usage};

const SECOND: Duration = Duration::from_secs(1);

#[allow(clippy::disallowed_methods, reason = "any instant will do as the start")]
fn rates(rpm: u32, tpm: u32, burst: Duration) -> (Rates, Instant) {
    let started = Instant::now();
    let limits = (tpm > 0).then(|| Limit::tokens(u64::from(tpm)).named("Admission::tpm")).into_iter().collect();
    (Rates::new(NonZeroU32::new(rpm), limits, burst, true, &Env::new(), started), started)
}

impl Rates {
    /// Takes all that is asked, or nothing and says when to ask again.
    fn take(&mut self, ask: &Ask, now: Instant) -> std::result::Result<Debit, Held> {
        let mut debit = self.begin(ask, now)?;
        self.charge(&mut debit);
        Ok(debit)
    }

    /// It used so many tokens.
    fn end(&mut self, debit: Debit, used: u64, now: Instant) {
        let usage = Usage::new(used, 0);
        self.settle(debit, Some(&Outcome::answered(Some(&usage), SECOND)), now);
    }
}

#[test]
fn a_refund_gives_back_exactly_what_was_taken() {
    let (mut rates, now) = rates(0, 60_000, SECOND);
    let debit = rates.take(&Ask::of(1_000), now).unwrap();
    assert!(rates.take(&Ask::of(1), now).is_err());
    rates.end(debit, 0, now);
    let debit = rates.take(&Ask::of(1_000), now).unwrap();
    rates.end(debit, 400, now);
    assert!(rates.take(&Ask::of(601), now).is_err());
    assert!(rates.take(&Ask::of(600), now).is_ok());
}

proptest! {
    /// The time of an end is not asked for where it does not matter, and the last one that was seen is taken.
    #[test]
    fn whenever_a_call_has_ended_since_the_last_one_began(
        steps in prop::collection::vec((0_u64..3, 1_u64..900, 0_u64..1_500, 0_u64..1_500), 1..60),
    ) {
        let (mut sharp, started) = rates(0, 60_000, SECOND);
        let (mut blunt, mut now) = (self::rates(0, 60_000, SECOND).0, started);
        blunt.started = started;
        let mut out = Vec::new();
        for (wait, tokens, later, used) in steps {
            now += Duration::from_millis(wait * 400);
            let asked = [&mut sharp, &mut blunt].map(|rates| rates.take(&Ask::of(tokens), now));
            match asked {
                [Ok(one), Ok(other)] => out.push((one, other)),
                [one, other] => prop_assert_eq!(one.err(), other.err()),
            }
            now += Duration::from_millis(later);
            if later % 3 == 0 || out.is_empty() {
                continue;
            }
            let (one, other) = out.swap_remove(later as usize % out.len());
            let usage = Usage::new(used, 0);
            let outcome = Outcome::answered(Some(&usage), SECOND);
            let seen = if blunt.is_timed_end(&other, Some(&outcome)) { now } else { started };
            prop_assert_eq!(seen == now, used > one.ask.input);
            sharp.settle(one, Some(&outcome), now);
            blunt.settle(other, Some(&outcome), seen);
        }
    }
}

#[test]
fn a_refund_after_the_bucket_was_full_again_is_worth_nothing() {
    let (mut rates, now) = rates(0, 60_000, SECOND);
    let early = rates.take(&Ask::of(1_000), now).unwrap();
    let later = now + SECOND;
    rates.take(&Ask::of(1_000), later).unwrap();
    rates.end(early, 0, later);
    assert!(rates.take(&Ask::of(1), later).is_err(), "a window would hold more than the limit and a burst");
}

#[test]
fn an_underestimate_is_paid_back_and_nonsense_costs_a_minute_at_most() {
    let (mut rates, now) = rates(0, 60_000, SECOND);
    let debit = rates.take(&Ask::of(1_000), now).unwrap();
    rates.end(debit, 3_000, now);
    assert_eq!(rates.take(&Ask::of(1_000), now).unwrap_err().until, now + 3 * SECOND);
    let (mut rates, now) = self::rates(0, 60_000, SECOND);
    let debit = rates.take(&Ask::of(1_000), now).unwrap();
    rates.end(debit, u64::MAX, now);
    assert_eq!(rates.take(&Ask::of(1_000), now).unwrap_err().until, now + 60 * SECOND);
}

#[test]
fn a_job_larger_than_the_bucket_starts_when_it_is_full_and_leaves_a_debt() {
    let (mut rates, now) = rates(0, 60_000, SECOND);
    rates.take(&Ask::of(1), now).unwrap();
    let start = rates.take(&Ask::of(5_000), now).unwrap_err().until;
    assert_eq!(start, now + Duration::from_millis(1));
    rates.take(&Ask::of(5_000), start).unwrap();
    assert_eq!(rates.take(&Ask::of(1_000), start).unwrap_err().until, start + 5 * SECOND);
}

#[test]
fn a_request_is_not_spent_when_tokens_are_missing() {
    let (mut rates, now) = rates(1, 60_000, SECOND);
    let debit = rates.take(&Ask::of(1_000), now).unwrap();
    assert!(rates.take(&Ask::of(1), now).is_err());
    rates.undo(debit, now);
    assert!(rates.take(&Ask::of(1), now).is_ok(), "the one request was still there");
    assert_eq!(rates.take(&Ask::of(1), now).unwrap_err().until, now + 60 * SECOND);
    assert_eq!(rates.earliest(&Ask::of(1), now), Some(now + 60 * SECOND));
}

#[test]
fn a_clock_that_goes_backwards_stands_still() {
    let (mut rates, now) = rates(60, 60_000, SECOND);
    let later = now + 10 * SECOND;
    rates.take(&Ask::of(1_000), later).unwrap();
    assert_eq!(rates.take(&Ask::of(1_000), now).unwrap_err().until, later + SECOND);
    assert!(rates.take(&Ask::of(1_000), later + SECOND).is_ok());
}

#[allow(clippy::disallowed_methods, reason = "any instant will do as the start")]
fn under(limits: Vec<Limit>) -> (Rates, Instant) {
    let started = Instant::now();
    let env = Env::new().with_prices(PriceTable::empty().set("m", Price::new(1.0, 0.0, 2.0)));
    (Rates::new(None, limits, SECOND, true, &env, started), started)
}

fn ask(rates: &mut Rates, tenant: &str, input: u64, output: u64) -> Ask {
    rates.ask(&Job::new("m").tokens(input, output).tenant(Some(tenant))).unwrap()
}

#[test]
fn each_tenant_has_his_own_and_who_is_held_holds_nobody_else() {
    let (mut rates, now) = under(vec![Limit::tokens(60_000).by_tenant()]);
    let (ann, bob) = (ask(&mut rates, "ann", 1_000, 0), ask(&mut rates, "bob", 1_000, 0));
    let debit = rates.take(&ann, now).unwrap();
    assert_eq!(rates.take(&ann, now).unwrap_err(), Held { until: now + SECOND, all: false });
    assert!(rates.take(&bob, now).is_ok());
    rates.end(debit, 0, now);
    assert!(rates.take(&ann, now).is_ok());
}

#[test]
fn all_limits_or_none_are_taken() {
    let limits = vec![Limit::input_tokens(60_000), Limit::output_tokens(6_000), Limit::dollars(0.01).per_hour()];
    let (mut rates, now) = under(limits);
    let small = ask(&mut rates, "t", 500, 100);
    rates.take(&small, now).unwrap();
    // The output is used up, so neither input nor dollars are touched.
    assert_eq!(rates.take(&small, now).unwrap_err().until, now + SECOND);
    let input = ask(&mut rates, "t", 500, 0);
    rates.take(&input, now).unwrap();
    // 500 and 100 are $0.0007, 500 more are above $0.001.
    let (mut rates, now) = under(vec![Limit::dollars(0.001).per_hour()]);
    rates.take(&small, now).unwrap();
    let held = rates.take(&input, now).unwrap_err();
    assert!(held.until > now + 3_600 * SECOND && held.until <= now + 3_700 * SECOND, "a slot after it has left");
    assert!(rates.take(&input, held.until).is_ok());
}

#[test]
fn above_a_limit_is_refused_and_says_which() {
    let (mut rates, _) = under(vec![Limit::output_tokens(100), Limit::dollars(0.001).per_day()]);
    let output = rates.ask(&Job::new("m").tokens(0, 101)).unwrap_err().to_string();
    assert!(output.contains("output tokens = 101: above the limit of 100 output tokens per minute"), "{output}");
    let dollars = rates.ask(&Job::new("m").tokens(2_000, 0)).unwrap_err().to_string();
    assert!(dollars.contains("dollars = $0.002000: above the limit of $0.001000 per day"), "{dollars}");
    let unpriced = rates.ask(&Job::new("x").tokens(1, 0)).unwrap_err().to_string();
    assert!(unpriced.contains("model = x: has no price"), "{unpriced}");
    let guessed = Job { output_is_guess: true, ..Job::new("m").tokens(10, 5_000) };
    assert_eq!(rates.ask(&guessed).unwrap().output, 100, "a guess is no reason to keep it out");
}

#[test]
fn cached_input_is_given_back_where_it_does_not_count() {
    for (limit, free) in [(Limit::tokens(60_000), 300), (Limit::tokens(60_000).without_cached_input(), 800)] {
        let (mut rates, now) = under(vec![limit]);
        let job = ask(&mut rates, "t", 1_000, 0);
        let debit = rates.take(&job, now).unwrap();
        let usage = Usage::new(600, 100).with_cached(500);
        rates.settle(debit, Some(&Outcome::answered(Some(&usage), SECOND)), now);
        assert!(rates.take(&Ask::of(free + 1), now).is_err());
        assert!(rates.take(&Ask::of(free), now).is_ok());
    }
}

#[test]
fn silent_keys_are_forgotten_and_those_beyond_the_bound_share_one() {
    let (mut rates, now) = under(vec![Limit::tokens(60).per_minute().burst(60 * SECOND).by_tenant()]);
    let mut taken = 0;
    for tenant in 0..10_500 {
        let job = ask(&mut rates, &tenant.to_string(), 60, 0);
        taken += usize::from(rates.take(&job, now).is_ok());
    }
    assert_eq!((taken, rates.limits[0].meters.keys()), (10_001, 10_000), "a bucket each, and one for the others");
    for (tenant, later) in (0..).zip([now + 60 * SECOND, now + 62 * SECOND]) {
        let job = ask(&mut rates, &format!("late {tenant}"), 1, 0);
        let debit = rates.take(&job, later).unwrap();
        rates.end(debit, 0, later);
    }
    assert!(rates.limits[0].meters.keys() <= 10_000);
}

fn limits(limit: u64, remaining: u64) -> RateLimits {
    let reset = Duration::from_nanos((limit - remaining.min(limit)) * MINUTE / limit);
    RateLimits {
        limit_requests: Some(limit),
        remaining_requests: Some(remaining),
        reset_requests: Some(reset),
        limit_tokens: Some(limit),
        remaining_tokens: Some(remaining),
        reset_tokens: Some(reset),
    }
}

fn told(rates: &mut Rates, debit: Debit, limits: &RateLimits, age: Duration, now: Instant) {
    let used = Usage::new(debit.ask.tokens(), 0);
    let outcome = Outcome::answered(Some(&used), SECOND).with_limits(Some(limits), age);
    rates.settle(debit, Some(&outcome), now);
}

#[test]
fn the_providers_limit_is_followed_down_and_up() {
    for stated in [30_000, 120_000] {
        let (mut rates, now) = rates(0, 60_000, SECOND);
        let debit = rates.take(&Ask::of(1_000), now).unwrap();
        told(&mut rates, debit, &limits(stated, stated), Duration::ZERO, now);
        let until = rates.take(&Ask::of(2_000), now).unwrap_err().until;
        assert_eq!(until - now, Duration::from_secs(1), "a second fills it at any limit: {stated}");
        rates.take(&Ask::of(stated), now + SECOND).unwrap();
        let full = rates.take(&Ask::of(stated), now + SECOND).unwrap_err().until;
        assert_eq!(full - now, 61 * SECOND);
    }
    let (mut rates, now) = rates(1_200, 0, SECOND);
    let debit = rates.take(&Ask::of(0), now).unwrap();
    told(&mut rates, debit, &limits(600, 599), Duration::ZERO, now);
    let mut at_once = 0;
    while rates.take(&Ask::of(0), now).is_ok() {
        at_once += 1;
    }
    assert_eq!(at_once, 10);
    assert_eq!(rates.take(&Ask::of(0), now).unwrap_err().until, now + SECOND / 10);
}

#[test]
fn what_others_used_is_gone_here_and_comes_back_with_the_next_word() {
    let (mut rates, now) = rates(0, 60_000, 10 * SECOND);
    let now = now + 10 * SECOND;
    let [first, second, third] = [100; 3].map(|tokens| rates.take(&Ask::of(tokens), now).unwrap());
    told(&mut rates, second, &limits(60_000, 300), Duration::ZERO, now);
    assert!(rates.take(&Ask::of(300), now).is_err(), "the third call is on its way there");
    let debit = rates.take(&Ask::of(200), now).unwrap();
    told(&mut rates, first, &limits(60_000, 50_000), SECOND, now);
    assert!(rates.take(&Ask::of(1), now).is_err(), "an older word changes nothing");
    told(&mut rates, third, &limits(60_000, 50_000), Duration::ZERO, now);
    assert!(rates.take(&Ask::of(9_500), now).is_ok());
    rates.end(debit, 200, now);
}

#[test]
fn requests_that_others_used_are_gone_here() {
    let (mut rates, now) = rates(600, 0, SECOND);
    let debit = rates.take(&Ask::of(0), now).unwrap();
    told(&mut rates, debit, &limits(600, 2), Duration::ZERO, now);
    let [third, fourth] = [rates.take(&Ask::of(0), now), rates.take(&Ask::of(0), now)].map(Result::unwrap);
    assert!(rates.take(&Ask::of(0), now).is_err());
    told(&mut rates, fourth, &limits(600, 0), Duration::ZERO, now);
    assert_eq!(rates.take(&Ask::of(0), now + SECOND / 20).unwrap_err().until, now + SECOND / 10);
    rates.end(third, 0, now);
}

#[test]
fn a_limit_that_is_not_the_models_is_left_as_it_is() {
    let (mut rates, now) = under(vec![Limit::tokens(60_000), Limit::tokens(30_000).by_model()]);
    let job = ask(&mut rates, "t", 100, 0);
    let debit = rates.take(&job, now).unwrap();
    told(&mut rates, debit, &limits(15_000, 15_000), Duration::ZERO, now);
    assert_eq!(rates.limits[0].meters.limit(0), 60_000);
    assert_eq!(rates.limits[1].meters.limit(job.model.key), 15_000);
}

#[test]
fn one_429_holds_its_model_back_and_the_next_goes_alone() {
    let (mut rates, now) = under(vec![]);
    let [debit, late] = [1; 2].map(|input| {
        let job = ask(&mut rates, "t", input, 0);
        rates.take(&job, now).unwrap()
    });
    let refused = Error::new(ErrorKind::RateLimited, "t", "")
        .with_retryability(Retryability::After(Some(Duration::from_secs(5))));
    rates.settle(debit, Some(&Outcome::failed(&refused, SECOND)), now);
    rates.settle(late, Some(&Outcome::failed(&refused, SECOND)), now);
    let (job, open) = (ask(&mut rates, "t", 1, 0), now + 5 * SECOND);
    assert_eq!(rates.take(&job, now).unwrap_err(), Held { until: open, all: true }, "there is one model only");
    assert_eq!(rates.earliest(&job, now), Some(open));
    let other = rates.ask(&Job::new("other")).unwrap();
    assert!(rates.take(&other, now).is_ok());
    let first = rates.take(&job, open).unwrap();
    assert_eq!(rates.take(&job, open).unwrap_err(), Held { until: open + SECOND, all: false });
    rates.end(first, 1, open);
    assert!(rates.take(&job, open).is_ok());
}

proptest! {
    /// Any 60 s hold at most the limit and one burst (tokens: or one job larger than it), and a backlog uses 95 %.
    #[test]
    fn no_minute_holds_more(
        rpm in 1_u32..3_000,
        tpm in 1_000_u32..100_000,
        burst in 1_u64..60_000,
        jobs in prop::collection::vec((0_u64..3_000, 1_u64..1_000), 1..400),
    ) {
        let (mut rates, start) = rates(rpm, tpm, Duration::from_millis(burst));
        let (mut now, mut taken, mut largest) = (start, Vec::new(), 0);
        for (pause, tokens) in jobs {
            now += Duration::from_millis(pause);
            while let Err(Held { until: ready, .. }) = rates.take(&Ask::of(tokens), now) {
                prop_assert!(ready > now);
                now = ready;
            }
            largest = largest.max(tokens);
            taken.push((now, tokens));
        }
        let bursts = |limit: u32| (u64::from(limit) * burst / 60_000).max(1);
        for (i, (from, _)) in taken.iter().enumerate() {
            let window = taken[i..].iter().take_while(|(at, _)| *at <= *from + 60 * SECOND);
            let (count, tokens) = window.fold((0, 0), |(count, sum), (_, tokens)| (count + 1, sum + tokens));
            prop_assert!(count <= u64::from(rpm) + bursts(rpm));
            prop_assert!(tokens <= u64::from(tpm) + bursts(tpm).max(largest));
        }
    }
}
