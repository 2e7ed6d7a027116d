//! Trimming rarely keeps the provider's prompt cache warm: what that saves, and what history it costs.
//!
//! `cargo bench --bench prefix_stable` prints the whole table.

mod measure;

use measure::{BUDGET, Comparison, Letters, MODEL, compare, talks};
use sluicegate::tokens::{Tiktoken, TokenCounter};
use sluicegate::types::ChatRequest;

/// What holds at every price and length.
fn check(row: &Comparison) {
    let Comparison { plain, stable } = row;
    assert!(stable.dollars <= plain.dollars, "never dearer than the plain window");
    assert!(stable.fill() >= 0.7, "{} of the budget filled over all calls", stable.fill());
    assert!(stable.fill_outgrown() >= 0.7, "{} of the budget filled once it was outgrown", stable.fill_outgrown());
    // It knows what the provider will bill as cached: to the token, for no two prompts here begin alike by chance.
    assert_eq!((stable.expected, stable.expected_off_by), (stable.cached, 0));
    assert!(stable.cached > 0);
}

#[test]
fn a_hundred_long_conversations_cost_a_fifth() {
    let row = compare(&talks(100, 100, 400), 0.1);
    check(&row);
    assert!(row.gain() >= 5.0, "{} times less", row.gain());
}

#[test]
fn smaller_discounts_and_longer_turns_gain_less() {
    let gains = |talks: &[_]| {
        [0.1, 0.25, 0.5].map(|cached_price| {
            let row = compare(talks, cached_price);
            check(&row);
            row.gain()
        })
    };
    let (short, long) = (gains(&talks(5, 100, 400)), gains(&talks(5, 800, 1_200)));
    assert!(short.is_sorted_by(|more, less| more > less) && long.is_sorted_by(|more, less| more > less));
    assert!(short.iter().zip(&long).all(|(short, long)| short > long), "{short:?} {long:?}");
    assert!(long.iter().all(|gain| *gain > 1.2), "{long:?}");
}

#[test]
fn the_letters_count_as_tiktoken_counts_them() {
    let talk = talks(1, 100, 400).remove(0);
    let said = talk.turns.into_iter().flat_map(|(question, answer)| [question, answer]);
    let request = said.fold(ChatRequest::new(MODEL).message(talk.instructions), ChatRequest::message);
    assert!(Letters.request(&request) > 5 * BUDGET);
    assert_eq!(Letters.request(&request), Tiktoken::new().request(&request));
}
