//! What became of a job.

use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{JobFailure, JobId, JobQueue, payload, scripts, unexpected, verdict};
use crate::error::Result;

const FIRST_LOOK: Duration = Duration::from_millis(10);
const LONGEST_LOOK: Duration = Duration::from_secs(1);

/// What became of a job.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum JobState<O> {
    /// It waits, or is worked on.
    Waiting,
    /// It is done, and this is its result.
    Done(O),
    /// It is among the dead letters.
    Dead(JobFailure),
    /// Nothing is known of it: it never was, or its result's life is over.
    Unknown,
}

impl<T, O> JobQueue<T, O>
where
    T: Serialize + DeserializeOwned + Send + 'static,
    O: Serialize + DeserializeOwned + Send + 'static,
{
    /// What became of this job, as of now.
    ///
    /// # Errors
    /// What Redis or the way to it failed with; [`ErrorKind::Decode`](crate::ErrorKind::Decode), when its result cannot be
    /// read by this version.
    pub async fn result(&self, id: &JobId) -> Result<JobState<O>> {
        let names = &self.desk.names;
        let answer = self.desk.ask(scripts::RESULT, vec![names.result(id), names.job(id)], Vec::new()).await?;
        match (verdict(&answer), answer.get(1)) {
            (b"waiting", _) => Ok(JobState::Waiting),
            (b"unknown", _) => Ok(JobState::Unknown),
            (b"record", Some(record)) => {
                let read = payload::read(self.desk.env.tasks(), record.clone()).await;
                Ok(read.ok_or_else(unexpected)?.map_or_else(JobState::Dead, JobState::Done))
            }
            _ => Err(unexpected()),
        }
    }

    /// Waits until this job is done or dead, at most so long; [`JobState::Waiting`] when it is neither by then. It looks
    /// after 10 ms, then at growing distances up to a second.
    ///
    /// # Errors
    /// As [`result`](Self::result), at once.
    ///
    /// # Cancellation
    /// Safe.
    pub async fn wait(&self, id: &JobId, limit: Duration) -> Result<JobState<O>> {
        let env = &self.desk.env;
        let (until, mut look) = (env.after(limit), FIRST_LOOK);
        loop {
            let state = self.result(id).await?;
            if !matches!(state, JobState::Waiting) || env.now() >= until {
                return Ok(state);
            }
            env.sleep_until(env.after(look).min(until)).await;
            look = (look * 2).min(LONGEST_LOOK);
        }
    }
}
