//! Clients to wrap.

mod func;
#[cfg(feature = "openai")]
pub mod openai;
#[cfg(feature = "simulated")]
pub mod simulated;

pub use func::{FnClient, client_fn};
#[cfg(feature = "openai")]
pub use openai::{OpenAi, OpenAiBuilder};
#[cfg(feature = "simulated")]
pub use simulated::Simulated;
