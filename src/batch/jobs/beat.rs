//! The heartbeat of a worker.

use std::time::Duration;

use super::held::Hand;
use super::refused::Routine;
use super::{Desk, scripts, text};

/// So many entries are kept hold of in one step.
const ABREAST: usize = 500;

/// Keeps hold of what is in hand, three times within the time after which others take it over; does not end. While Redis
/// is away nothing is lost yet: whoever finishes first has done it.
pub(super) async fn beat(desk: &Desk, hand: &Hand, consumer: &str, hold: Duration, routine: Routine) {
    loop {
        desk.env.sleep(hold / 3).await;
        for entries in hand.entries().chunks(ABREAST) {
            let mut values = vec![consumer.into()];
            values.extend(entries.iter().map(|entry| entry.as_str().into()));
            match desk.ask(scripts::EXTEND, vec![desk.names.stream()], values).await {
                Ok(lost) => {
                    lost.iter().for_each(|entry| hand.lose(&text(entry)));
                    routine.answered();
                }
                Err(error) => routine.failed(error),
            }
        }
    }
}
