//! What tests of layers and tiers need: a scripted client, a harness that drops futures, and the laws
//! of the traits (feature `test-util`).

mod drops;
pub mod laws;
mod scripted;

pub use drops::drop_at_every_await;
pub use scripted::{Gate, Reply, Scripted};
