//! Where answers are kept.

mod memory;

pub use memory::Memory;
