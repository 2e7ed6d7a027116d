//! What messages took when they were counted, so that nobody counts them again.

use std::ptr;
use std::sync::{Arc, Weak};

use super::TokenBudget;
use super::steps::Kept;
use crate::tokens::TokenCounter;
use crate::types::{Message, Messages};

/// What messages took, by one counter for one model. A policy leaves it with what it carries, in memory only.
#[derive(Debug, Clone)]
pub(super) struct Counted {
    messages: Messages,
    /// In their order.
    tokens: Vec<u32>,
    /// Weak, so that a conversation keeps nobody's counter; and as long as it is there, no other is at its address.
    counter: Weak<dyn TokenCounter>,
    model: String,
}

/// Not counted, or too many to be written here.
const UNKNOWN: u32 = u32::MAX;

/// The tokens of a list's messages, each counted at most once, and not at all if it was counted before.
#[derive(Debug)]
pub(super) struct Counts<'a> {
    budget: &'a TokenBudget<'a>,
    messages: &'a Messages,
    /// As far as they are known.
    tokens: Vec<u32>,
}

impl<'a> Counts<'a> {
    /// Of these messages, some of which may have been counted the last time.
    pub(super) fn new(messages: &'a Messages, budget: &'a TokenBudget<'a>) -> Self {
        let mut tokens = vec![UNKNOWN; messages.len()];
        if let Some(counted) = budget.counted() {
            recall(counted, messages, &mut tokens);
        }
        Self { budget, messages, tokens }
    }

    /// The tokens of the message at this position; 0 where there is none.
    pub(super) fn at(&mut self, at: usize) -> u64 {
        match (self.messages.get(at), self.tokens.get_mut(at)) {
            (Some(message), Some(tokens)) if *tokens == UNKNOWN => {
                let counted = self.budget.message(message);
                *tokens = u32::try_from(counted).unwrap_or(UNKNOWN);
                counted
            }
            (_, tokens) => tokens.map_or(0, |tokens| u64::from(*tokens)),
        }
    }

    /// What is kept of them, the very same list where all is; and what is known of all of them, for the next time.
    pub(super) fn kept(&self, kept: Kept) -> (Messages, Option<Counted>) {
        let counted = self.budget.counter_of_stack().map(|counter| Counted {
            messages: self.messages.clone(),
            tokens: self.tokens.clone(),
            counter: Arc::downgrade(counter),
            model: self.budget.model().to_owned(),
        });
        let all = kept.keeps_all(self.messages);
        let kept = if all { self.messages.clone() } else { kept.of(self.messages) };
        (kept, counted)
    }
}

impl Counted {
    /// Whether these are this counter's counts for this model.
    pub(super) fn is_by(&self, counter: &Arc<dyn TokenCounter>, model: &str) -> bool {
        ptr::addr_eq(self.counter.as_ptr(), Arc::as_ptr(counter)) && self.model == model
    }
}

/// Writes down what is known of these messages. They are those that were counted, less some, with new ones behind them: so
/// both lists are walked once, and where they part the next message is looked for in what is left of the other. What is
/// not found so in a few steps a message is counted again.
fn recall(counted: &Counted, messages: &[Arc<Message>], tokens: &mut [u32]) {
    let (mut at, mut steps) = (0, 4 * (messages.len() + counted.tokens.len()));
    for (message, place) in messages.iter().zip(tokens) {
        let left = counted.messages.get(at..).unwrap_or_default();
        let found = left.iter().take(steps).position(|known| Arc::ptr_eq(known, message));
        steps = steps.saturating_sub(found.unwrap_or(left.len()));
        if let Some(ahead) = found {
            *place = counted.tokens.get(at + ahead).copied().unwrap_or(UNKNOWN);
            at += ahead + 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

    use super::*;
    use crate::env::Env;
    use crate::history::Carry;
    use crate::types::{ChatBody, ChatRequest};

    /// Its number of tokens for each message, and how many it was asked about.
    #[derive(Debug, Default)]
    struct Each(u64, Arc<AtomicUsize>);

    impl TokenCounter for Each {
        fn text(&self, _: &str, _: &str) -> u64 {
            self.0
        }
        fn message(&self, _: &str, _: &Message) -> u64 {
            self.1.fetch_add(1, Relaxed);
            self.0
        }
        fn request(&self, body: &ChatBody) -> u64 {
            self.0 * body.messages.len() as u64
        }
    }

    fn each(tokens: u64) -> (Env, Arc<AtomicUsize>) {
        let asked = Arc::default();
        (Env::new().with_counter(Each(tokens, Arc::clone(&asked))), asked)
    }

    fn said(messages: usize) -> Messages {
        (0..messages).map(|number| Message::user(number.to_string())).collect()
    }

    fn carried(env: &Env, messages: &Messages) -> Carry {
        let request = ChatRequest::new("m");
        let budget = TokenBudget::of(&request, env);
        let mut counts = Counts::new(messages, &budget);
        (0..messages.len()).for_each(|at| assert!(counts.at(at) > 0));
        assert_eq!(counts.at(messages.len()), 0);
        Carry::of(messages.clone()).counted(counts.kept(Kept::all_from(0)).1)
    }

    /// What these messages take where this is carried, all in all.
    fn sum(env: &Env, model: &str, carry: &Carry, messages: &Messages) -> u64 {
        let request = ChatRequest::new(model);
        let budget = TokenBudget::of(&request, env).with_carried(carry);
        let mut counts = Counts::new(messages, &budget);
        (0..messages.len()).map(|at| counts.at(at)).sum()
    }

    #[test]
    fn only_what_is_new_is_counted() {
        let (env, asked) = each(7);
        let before = said(100);
        let carry = carried(&env, &before);
        assert_eq!(asked.swap(0, Relaxed), 100);
        let new = said(3);
        // Some dropped at the front, in the middle, at the end; others put between them.
        for left_out in [0..0, 0..1, 1..60, 40..41, 90..100, 0..100] {
            let left = before.iter().enumerate().filter(|(at, _)| !left_out.contains(at)).map(|(_, message)| message);
            let messages: Messages = left.chain(&*new).cloned().collect();
            assert_eq!(sum(&env, "m", &carry, &messages), 7 * messages.len() as u64);
            assert_eq!(asked.swap(0, Relaxed), 3, "without {left_out:?}");
        }
        let replaced: Messages = before.iter().map(|message| Message::clone(message)).collect();
        assert_eq!(sum(&env, "m", &carry, &replaced), 700);
        assert_eq!(asked.swap(0, Relaxed), 100, "the same words in another message are counted");
    }

    #[test]
    fn by_another_counter_or_for_another_model_all_is_counted_anew() {
        let ((seven, _), (nine, asked)) = (each(7), each(9));
        let messages = said(10);
        let carry = carried(&seven, &messages);
        assert_eq!(sum(&nine, "m", &carry, &messages), 90);
        assert_eq!(asked.load(Relaxed), 10);
        let (counter, asked) = each(7);
        let carry = carried(&counter, &messages);
        assert_eq!(sum(&counter, "another", &carry, &messages), 70);
        assert_eq!(asked.load(Relaxed), 20);
        assert!(!format!("{carry:?}").is_empty());
        drop(seven);
    }
}
