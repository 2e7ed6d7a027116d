//! The integration tests: one binary, its modules mirror `src/`.

mod simulated;
