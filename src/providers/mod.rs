//! Clients to wrap.

mod func;

pub use func::{FnClient, client_fn};
