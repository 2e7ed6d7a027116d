//! The integration tests: one binary, its modules mirror `src/`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "a test that cannot go on fails; tests set the time themselves"
)]

mod architecture;
mod cache_handle;
mod cache_tiers;
#[cfg(feature = "disk")]
mod disk;
mod drop_anywhere;
mod laws;
mod observe;
mod one_flight;
mod openai;
#[cfg(feature = "redis")]
mod redis;
mod resilience;
mod schedule;
mod simulated;
mod slot_order;
