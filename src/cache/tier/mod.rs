//! Where answers are kept.

#[cfg(feature = "disk")]
mod disk;
mod memory;
#[cfg(feature = "redis")]
pub mod redis;

#[cfg(feature = "disk")]
pub use disk::{Disk, DiskOptions, DiskStats, DiskSync};
pub(in crate::cache) use memory::MEMORY;
pub use memory::Memory;
#[cfg(feature = "redis")]
pub use redis::Redis;
