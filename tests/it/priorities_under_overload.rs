//! A bursty load at 120 % of what the server can do, in three classes.

mod load;

use std::time::Duration;

use load::{Class, Played, generate, play};
use sluicegate::Admission;
use sluicegate::schedule::Shed;

const PLACES: usize = 32;
const LENGTH: Duration = Duration::from_secs(1_200);

fn told(played: &Played) -> String {
    let class = |name: &str, class: &Class| {
        format!(
            "{name}: answered {}, refused {}, p99 {:.1} s, alone {:.1} s\n",
            class.latencies.len(),
            class.refused,
            Class::p99(&class.latencies),
            Class::p99(&class.alone)
        )
    };
    let classes = [("high", &played.high), ("normal", &played.normal), ("low", &played.low)];
    let lines: String = classes.into_iter().map(|(name, of)| class(name, of)).collect();
    format!("{lines}goodput {:.1} %", played.goodput * 100.0)
}

/// Two minutes without an answer to a lowest call, and it does not progress.
fn longest_silence(class: &Class) -> Duration {
    let mut answers = class.answered_at.clone();
    answers.retain(|at| *at <= LENGTH);
    answers.extend([Duration::ZERO, LENGTH]);
    answers.sort();
    answers.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or(LENGTH)
}

#[tokio::test(start_paused = true)]
async fn the_top_keeps_its_pace_the_lowest_progresses_and_nothing_is_wasted() {
    for (seed, admission) in [
        (1, Admission::new().queue(100_000)),
        (2, Admission::new().queue(100).shed(Shed::LowestPriority)),
        (3, Admission::new().queue(100).shed(Shed::LowestPriority).ageing(Duration::from_secs(10))),
    ] {
        let played = play(generate(seed, PLACES, 1.2, LENGTH), PLACES, admission).await;
        let (p99, alone) = (Class::p99(&played.high.latencies), Class::p99(&played.high.alone));
        assert!(p99 <= 1.5 * alone, "seed {seed}\n{}", told(&played));
        assert_eq!(played.high.refused, 0, "seed {seed}\n{}", told(&played));
        assert!(played.goodput >= 0.95, "seed {seed}\n{}", told(&played));
        assert!(longest_silence(&played.low) < Duration::from_secs(120), "seed {seed}\n{}", told(&played));
    }
}

/// The same load in order of arrival: what the test above would not pass.
#[tokio::test(start_paused = true)]
async fn without_classes_the_top_waits_with_the_rest() {
    let mut load = generate(1, PLACES, 1.2, LENGTH);
    load.iter_mut().for_each(|arrival| arrival.priority = sluicegate::types::Priority::Normal);
    let played = play(load, PLACES, Admission::new().queue(100_000)).await;
    let (p99, alone) = (Class::p99(&played.normal.latencies), Class::p99(&played.normal.alone));
    assert!(p99 > 5.0 * alone, "{}", told(&played));
}
