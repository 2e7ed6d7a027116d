//! Clients to wrap.

mod func;
#[cfg(feature = "openai")]
pub mod openai;

pub use func::{FnClient, client_fn};
#[cfg(feature = "openai")]
pub use openai::{OpenAi, OpenAiBuilder};
