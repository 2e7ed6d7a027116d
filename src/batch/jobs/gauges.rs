//! How much there is to do, for a metrics exporter: what autoscalers look at. And what is refused, for alerts.

use std::time::Duration;

use super::JobStats;

/// How often a running worker sets them.
pub(super) const EVERY: Option<Duration> = Some(Duration::from_secs(15));

pub(super) fn tell(queue: &str, stats: &JobStats) {
    let gauge = |name: &'static str, value: f64| metrics::gauge!(name, "queue" => queue.to_owned()).set(value);
    gauge("sluicegate.jobs.ready", stats.ready as f64);
    gauge("sluicegate.jobs.delayed", stats.delayed as f64);
    gauge("sluicegate.jobs.pending", stats.pending as f64);
    gauge("sluicegate.jobs.dead", stats.dead as f64);
    gauge("sluicegate.jobs.lag", stats.lag.unwrap_or_default().as_secs_f64());
}

/// One more step that Redis refused a worker.
pub(super) fn refused(queue: &str) {
    metrics::counter!("sluicegate.jobs.refused", "queue" => queue.to_owned()).increment(1);
}
