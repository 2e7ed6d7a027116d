//! Where answers are kept.
//!
//! | Tier | Feature | Shared by | A hit costs | For |
//! |---|---|---|--:|---|
//! | [`Memory`] | | one process | under 1 us | what is asked again and again |
//! | `Disk` | `disk` | one process after another | some us | what must survive a restart |
//! | `Redis` | `redis` | a fleet | a round trip, under 1 ms | what one process of many has asked |
//! | `Objects` | `object-store` | a fleet, or the world through a CDN | 10 to 100 ms | large, long-lived answers, cheaply |
//!
//! Put the fast before the slow: `Cache::memory(10_000).fleet(redis).tier(objects)`.

#[cfg(feature = "disk")]
mod disk;
mod key_index;
mod memory;
#[cfg(feature = "object-store")]
pub mod object;
#[cfg(feature = "redis")]
pub mod redis;

#[cfg(feature = "disk")]
pub use disk::{Disk, DiskBuilder, DiskStats, DiskSync};
pub(in crate::cache) use memory::MEMORY;
pub use memory::Memory;
#[cfg(feature = "object-store")]
pub use object::Objects;
#[cfg(feature = "redis")]
pub use redis::Redis;
