//! Clients to wrap.

mod func;
#[cfg(feature = "simulated")]
pub mod simulated;

pub use func::{FnClient, client_fn};
#[cfg(feature = "simulated")]
pub use simulated::Simulated;
