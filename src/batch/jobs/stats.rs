//! How much there is to do.

use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Desk, JobQueue, gauges, scripts, text, unexpected};
use crate::error::Result;

/// How much there is to do in a queue, on all machines.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct JobStats {
    /// Could be begun now, but no worker has them.
    pub ready: u64,
    /// Are to wait: for their time, or for their next attempt.
    pub delayed: u64,
    /// Are held by a worker, be it dead.
    pub pending: u64,
    /// Are among the dead letters.
    pub dead: u64,
    /// How long the oldest that is ready has been so: what to scale the number of workers by. None when nothing is ready.
    pub lag: Option<Duration>,
}

impl<T, O> JobQueue<T, O>
where
    T: Serialize + DeserializeOwned + Send + 'static,
    O: Serialize + DeserializeOwned + Send + 'static,
{
    /// How much there is to do now: one script, whose cost does not grow with the queue. With the feature `metrics` it
    /// also sets the gauges `sluicegate.jobs.ready`, `.delayed`, `.pending`, `.dead` and `.lag` (seconds), labelled with
    /// the queue's name; a running worker does so every 15 s.
    ///
    /// # Errors
    /// What Redis or the way to it failed with.
    pub async fn stats(&self) -> Result<JobStats> {
        self.desk.stats().await
    }
}

impl Desk {
    pub(super) async fn stats(&self) -> Result<JobStats> {
        let keys = vec![self.names.stream(), self.names.delayed(), self.names.dead()];
        let answer = self.ask(scripts::STATS, keys, Vec::new()).await?;
        let numbers: Option<Vec<i64>> = answer.iter().map(|number| text(number).parse().ok()).collect();
        let Some([ready, delayed, pending, dead, lag]) = numbers.as_deref().and_then(|all| all.first_chunk()) else {
            return Err(unexpected());
        };
        let count = |number: &i64| u64::try_from(*number).unwrap_or(0);
        let stats = JobStats {
            ready: count(ready),
            delayed: count(delayed),
            pending: count(pending),
            dead: count(dead),
            lag: u64::try_from(*lag).ok().map(Duration::from_millis),
        };
        gauges::tell(&self.settings.name, &stats);
        Ok(stats)
    }

    /// Sets the gauges from time to time; does not end.
    pub(super) async fn tell(&self) {
        let Some(every) = gauges::EVERY else { return std::future::pending().await };
        loop {
            // Redis may be away: the gauges stay as they are.
            let _ = self.stats().await;
            self.env.sleep(every).await;
        }
    }
}
