//! Wrap any LLM client into a faster, cheaper, sturdier one.

mod client;
pub mod env;
mod error;
mod layer;
pub mod providers;
pub mod schedule;
#[cfg(feature = "test-util")]
pub mod testing;
pub mod tokens;
pub mod types;

pub use client::{ClientInfo, LlmClient};
pub use env::Env;
pub use error::{Error, ErrorKind, Result, Retryability};
pub use layer::{Chain, Layer, Slot};
pub use schedule::{Admission, Scheduler};
