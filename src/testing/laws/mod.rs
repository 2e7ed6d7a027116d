//! What every implementation of a trait must keep: run them against your own layers and tiers.
//!
//! A law that is broken panics with its words, as an assertion in a test does.

mod layer;
mod tier;

pub use layer::layer_laws;
pub use tier::tier_laws;
