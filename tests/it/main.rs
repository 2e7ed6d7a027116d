//! The integration tests: one binary, its modules mirror `src/`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests fail like tests")]

mod schedule;
