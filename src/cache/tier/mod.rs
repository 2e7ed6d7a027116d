//! Where answers are kept.

mod memory;
#[cfg(feature = "redis")]
pub mod redis;

pub use memory::Memory;
#[cfg(feature = "redis")]
pub use redis::Redis;
