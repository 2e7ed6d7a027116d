//! The integration tests: one binary, its modules mirror `src/`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "a test that cannot go on fails; tests set the time themselves"
)]

mod adversarial_text;
mod architecture;
mod batch_micro;
mod bulk_jobs;
mod cache_adaptive;
mod cache_behind;
mod cache_counts;
mod cache_deferred;
mod cache_embeddings;
mod cache_freshness;
mod cache_handle;
mod cache_negative;
mod cache_policies;
mod cache_predict;
mod cache_tiers;
mod cache_together;
mod cache_values;
mod conversation;
mod conversation_counts;
mod counts_match_tiktoken;
#[cfg(feature = "disk")]
mod disk;
#[cfg(feature = "disk")]
mod disk_faults;
#[cfg(feature = "disk")]
mod disk_kill9;
#[cfg(feature = "disk")]
mod disk_selectors;
mod drop_anywhere;
#[cfg(feature = "redis")]
mod durable_jobs;
mod fair_tenants;
mod history_laws;
mod history_policies;
mod history_steps;
mod laws;
mod limiter_oracle;
mod long_polls;
mod normalize;
#[cfg(feature = "object-store")]
mod object_store;
mod observe;
mod one_flight;
mod openai;
mod prefix_stable_cost;
mod priorities_under_overload;
#[cfg(feature = "redis")]
mod quota_fleet;
mod quota_used_never_crossed;
#[cfg(feature = "redis")]
mod redis;
#[cfg(feature = "redis")]
mod redis_chaos;
#[cfg(feature = "redis")]
mod redis_fleet;
#[cfg(feature = "redis")]
mod redis_fleet_near;
mod replay_lossless;
mod resilience;
mod schedule;
mod simulated;
mod slot_order;
#[cfg(feature = "summarize")]
mod summary_never_loses;
mod tenants_never_meet;
