//! A Redis server and how to reach it, on fred: what the cache's tier, shared limits and durable jobs connect with.
//!
//! [`RedisServer`] is the settings. Whoever uses one has its own connections, which are made, and made again, in the
//! background; each of their commands has a time limit and is never sent twice.

mod connection;
mod fault;
mod lane;
mod link;
mod server;
mod tls;

pub use server::RedisServer;

pub(crate) use connection::{Connection, Pace};
pub(crate) use fault::{ORIGIN, from as told};
pub(crate) use lane::{Asked, Lane, bounded};
pub(crate) use link::Session;
