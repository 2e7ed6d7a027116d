//! Wrap any LLM client into a faster, cheaper, sturdier one.

pub mod cache;
mod client;
pub mod env;
mod error;
mod fingerprint;
pub mod history;
mod layer;
pub mod observe;
pub mod providers;
pub mod resilience;
pub mod schedule;
mod sharded;
mod stack;
#[cfg(feature = "test-util")]
pub mod testing;
pub mod tokens;
pub mod types;

pub use client::{ClientInfo, LlmClient};
pub use env::Env;
pub use error::{Error, ErrorKind, Result, Retryability};
pub use layer::{Chain, Layer, Slot};
pub use resilience::{Retry, RetryBudget, Timeouts};
pub use schedule::{Admission, Scheduler};
pub use stack::{Builder, OptimizedClient};
