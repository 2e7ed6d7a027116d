//! What happened: counts, percentiles, tokens, dollars spent and saved.

mod attempt;
mod histogram;
mod layer;
#[cfg(feature = "metrics")]
mod metrics;
mod report;
mod stats;
mod watch;

pub use attempt::AttemptLayer;
pub use histogram::Percentiles;
pub use layer::ObserveLayer;
#[cfg(feature = "metrics")]
pub use metrics::Metrics;
pub use report::Report;
pub use stats::Stats;
