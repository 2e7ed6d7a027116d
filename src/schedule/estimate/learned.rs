//! What was learned from answers, by model and by kind of call.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// What English text has in the common vocabularies: a little under four bytes per token, and some for the rest.
const FIRST_RATIO: f64 = 0.30;
/// Outside of this a sample says more about the provider's counting than about text.
const RATIOS: (f64, f64) = (0.05, 1.5);
/// How much a new sample counts, once there are as many: it settles within a few dozen calls and is not thrown by one.
/// Before, each counts as much as those before it, the first guess as one.
const MEMORY: u32 = 16;
/// Models, and kinds of calls, that are kept apart; about 32 bytes each. Those beyond learn together.
const PLACES: usize = 512;
/// A place is looked for among so many.
const TRIES: usize = 8;
/// What the model alone is a kind of.
const ALONE: u64 = u64::MAX;

/// Where a model or a kind of call learns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Kind(usize);

/// A table of fixed size, without a lock.
#[derive(Debug)]
pub(super) struct Learned {
    /// The last one is for all that found no place.
    places: Box<[Place]>,
    reply_tokens: f32,
}

#[derive(Debug, Default)]
struct Place {
    /// Whose it is; 0 when it is free.
    key: AtomicU64,
    samples: AtomicU32,
    /// Mean and mean deviation, as two `f32` in one word so that they belong together.
    number: AtomicU64,
}

impl Learned {
    pub(super) fn new(reply_tokens: u32) -> Self {
        let places = std::iter::repeat_with(Place::default).take(PLACES + 1).collect();
        Self { places, reply_tokens: reply_tokens as f32 }
    }

    pub(super) fn model(&self, model: &str) -> Kind {
        self.kind(model, ALONE)
    }

    /// The place of this kind of call of this model, given on first use.
    pub(super) fn kind(&self, model: &str, shape: u64) -> Kind {
        let key = twox_hash::XxHash3_64::oneshot_with_seed(shape, model.as_bytes()).max(1);
        let first = key as usize % PLACES;
        for place in (0..TRIES).map(|step| (first + step) % PLACES) {
            let owner = &self.places[place].key;
            let found = match owner.load(Ordering::Relaxed) {
                0 => owner.compare_exchange(0, key, Ordering::Relaxed, Ordering::Relaxed).unwrap_or_else(|other| other),
                other => other,
            };
            if found == key || found == 0 {
                return Kind(place);
            }
        }
        Kind(PLACES)
    }

    pub(super) fn tokens_per_byte(&self, model: Kind) -> f64 {
        self.places[model.0].read().map_or(FIRST_RATIO, |(mean, _)| f64::from(mean))
    }

    /// The tokens of an answer: the mean and one mean deviation.
    pub(super) fn answer(&self, kind: Kind) -> u64 {
        let (mean, deviation) = self.places[kind.0].read().unwrap_or((self.reply_tokens, 0.0));
        f64::from(mean + deviation).ceil() as u64
    }

    pub(super) fn learn_ratio(&self, model: Kind, ratio: f64) {
        self.places[model.0].learn(ratio.clamp(RATIOS.0, RATIOS.1) as f32, FIRST_RATIO as f32);
    }

    pub(super) fn learn_answer(&self, kind: Kind, tokens: f64) {
        self.places[kind.0].learn(tokens as f32, self.reply_tokens);
    }
}

impl Place {
    fn read(&self) -> Option<(f32, f32)> {
        if self.samples.load(Ordering::Relaxed) == 0 {
            return None;
        }
        let number = self.number.load(Ordering::Relaxed);
        Some((f32::from_bits((number >> 32) as u32), f32::from_bits(number as u32)))
    }

    fn learn(&self, sample: f32, guess: f32) {
        let (mean, deviation) = self.read().unwrap_or((guess, 0.0));
        let samples = self.samples.load(Ordering::Relaxed);
        let weight = 1.0 / (samples + 2).min(MEMORY) as f32;
        let off = sample - mean;
        let (mean, deviation) = (mean + off * weight, deviation + (off.abs() - deviation) * weight);
        self.number.store(u64::from(mean.to_bits()) << 32 | u64::from(deviation.to_bits()), Ordering::Relaxed);
        self.samples.store((samples + 1).min(MEMORY), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_learn_apart_and_their_spread_is_reserved() {
        let learned = Learned::new(512);
        let (short, long) = (learned.kind("m", 1), learned.kind("m", 2));
        for round in 0..500 {
            learned.learn_answer(short, 40.0);
            learned.learn_answer(long, if round % 2 == 0 { 900.0 } else { 1_100.0 });
        }
        assert!((40..=41).contains(&learned.answer(short)), "{}", learned.answer(short));
        assert!((1_050..=1_150).contains(&learned.answer(long)), "{}", learned.answer(long));
        assert_eq!(learned.answer(learned.kind("other", 1)), 512);
    }

    #[test]
    fn a_few_answers_are_enough() {
        let learned = Learned::new(512);
        let kind = learned.kind("m", 0);
        for _ in 0..20 {
            learned.learn_answer(kind, 100.0);
        }
        assert!(learned.answer(kind) < 220, "{}", learned.answer(kind));
    }

    #[test]
    fn any_number_of_models_takes_the_same_room() {
        let learned = Learned::new(512);
        for model in 0..10_000 {
            let kind = learned.kind(&format!("m{model}"), 0);
            assert!(kind.0 <= PLACES);
            learned.learn_answer(kind, 10.0);
        }
        assert!(learned.answer(learned.kind("another", 0)) <= 512);
    }
}
