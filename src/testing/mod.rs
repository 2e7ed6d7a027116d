//! What tests of layers, tiers and policies need: a scripted client, made-up conversations, a harness that drops futures,
//! and the laws of the traits (feature `test-util`).

mod conversations;
mod drops;
pub mod laws;
mod scripted;

pub use conversations::Conversations;
pub use drops::drop_at_every_await;
pub use scripted::{Gate, Reply, Scripted};
