//! What tests of layers and tiers need: a scripted client and a harness that drops futures (feature `test-util`).

mod drops;
mod scripted;

pub use drops::drop_at_every_await;
pub use scripted::{Gate, Reply, Scripted};
