//! Where answers are kept.

#[cfg(feature = "disk")]
mod disk;
mod memory;

#[cfg(feature = "disk")]
pub use disk::{Disk, DiskOptions, DiskStats, DiskSync};
pub use memory::Memory;
