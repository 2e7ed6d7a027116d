//! What every implementation of a trait must keep: run them against your own layers, tiers and policies.
//!
//! A law that is broken panics with its words, as an assertion in a test does.

mod layer;
mod policy;
mod tier;

pub use layer::layer_laws;
pub use policy::PolicyLaws;
pub use tier::tier_laws;
