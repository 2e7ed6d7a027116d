//! The OpenAI client against a real HTTP server on a real socket.
//!
//! No test waits for time to pass: the server is driven event by event through channels.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail as tests do")]

mod batch;
mod errors;
pub(crate) mod server;
mod streams;
mod whole;
