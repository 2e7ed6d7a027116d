//! One attempt at a job, from taking it in hand to its verdict.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::time::{Duration, Instant};

use fred::bytes::Bytes;
use futures_util::FutureExt;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio_util::sync::CancellationToken;

use super::held::Held;
use super::refused::is_refusal;
use super::{Desk, JobFailure, JobId, JobRetry, millis, payload, scripts, text, verdict};
use crate::batch::ORIGIN;
use crate::error::{Error, ErrorKind, Result};

/// A job to be worked on.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Job<T> {
    /// Its name.
    pub id: JobId,
    /// What was enqueued.
    pub payload: T,
    /// The number of this attempt, from 1. Those that a worker did not live to see the end of count too.
    pub attempt: u32,
    /// How many there may be.
    pub max_attempts: u32,
}

/// How an attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Done,
    /// To be tried again later.
    Again,
    Dead,
    /// Given back without counting.
    Released,
    /// Another worker has it, or had.
    Lost,
    /// Redis did not take it for a whole hold: whoever finds it after one more makes another attempt.
    Refused,
}

/// Where an attempt is made.
pub(super) struct Bench<'a> {
    pub(super) desk: &'a Desk,
    pub(super) consumer: &'a str,
    pub(super) retry: JobRetry,
    pub(super) hold: Duration,
    pub(super) draining: &'a CancellationToken,
}

impl Bench<'_> {
    pub(super) async fn attempt<T, O, F, Fut>(&self, held: Held, work: &F) -> End
    where
        T: DeserializeOwned + Send + 'static,
        O: Serialize + Send + 'static,
        F: Fn(Job<T>) -> Fut,
        Fut: Future<Output = Result<O>>,
    {
        // A row of jobs that cannot be read would never pause.
        tokio::task::coop::consume_budget().await;
        if self.draining.is_cancelled() {
            return self.release(&held, 0).await;
        }
        let job = match self.begin::<T>(&held).await {
            Ok(job) => job,
            Err(end) => return end,
        };
        let attempt = job.attempt;
        // Within a future of its own: it may panic before it has made one.
        let working = AssertUnwindSafe(async { work(job).await }).catch_unwind();
        let result = tokio::select! {
            // Whoever has an answer has done it, even if another one begins.
            biased;
            result = working => result,
            () = held.lost.cancelled() => return End::Lost,
        };
        let result = result.unwrap_or_else(|_| Err(Error::new(ErrorKind::Panicked, ORIGIN, "the job panicked")));
        let written = match result {
            Ok(output) => payload::write(self.desk.env.tasks(), output).await,
            Err(error) => Err(error),
        };
        match written {
            Ok(record) => self.done(&held, record).await,
            Err(error) if error.kind() == ErrorKind::Shutdown => {
                // Whoever works here is gone: the next job would come back as fast.
                self.draining.cancel();
                self.release(&held, -1).await
            }
            Err(error) => {
                let wait = self.retry.wait(&error, attempt, self.desk.env.unit());
                self.fail(&held, wait, JobFailure::failed(&error)).await
            }
        }
    }

    /// What has to be said to Redis is said until it is heard, or for a hold if Redis refuses it: nothing else can be done
    /// then. A worker that drains gives up after one hold as well, when others may have taken over anyway.
    async fn say(
        &self,
        script: &'static str,
        keys: Vec<String>,
        values: Vec<fred::types::Value>,
    ) -> Result<(Vec<Bytes>, bool)> {
        let until = self.desk.env.after(self.hold);
        let mut refused: Option<Instant> = None;
        let on = move |error: &Error| match is_refusal(error) {
            // A connection that is lost in between, as on a server that takes no writes, begins no new hold.
            true => self.desk.env.now() < *refused.get_or_insert_with(|| self.desk.env.after(self.hold)),
            false => !self.draining.is_cancelled() || self.desk.env.now() < until,
        };
        self.desk.insist(script, keys, values, on).await
    }

    /// How an attempt ends that Redis did not hear of.
    fn unheard(&self, error: Error) -> End {
        if !is_refusal(&error) {
            return End::Lost;
        }
        self.desk.refused(error);
        End::Refused
    }

    async fn begin<T: DeserializeOwned + Send + 'static>(&self, held: &Held) -> Result<Job<T>, End> {
        let (names, settings, id) = (&self.desk.names, &self.desk.settings, &held.id);
        let keys = vec![names.stream(), names.job(id), names.dead(), names.result(id)];
        let record = JobFailure::abandoned().record().map_err(|_| End::Lost)?;
        let values = vec![
            held.entry.as_str().into(),
            self.consumer.into(),
            id.as_str().into(),
            (settings.max_dead as i64).into(),
            millis(settings.result_ttl),
            record.into(),
            // An attempt whose end was refused counts, though the same worker begins the next one.
            i64::try_from(self.desk.refusals.count()).unwrap_or(i64::MAX).into(),
        ];
        // Whoever holds it for so long without a word has lost it.
        let until = self.desk.env.after(self.hold);
        let on = |_: &Error| self.desk.env.now() < until;
        let answer = self.desk.insist(scripts::BEGIN, keys, values, on).await;
        let (answer, _) = answer.map_err(|error| self.unheard(error))?;
        let number = |place: usize| answer.get(place).and_then(|number| text(number).parse().ok());
        match (verdict(&answer), answer.get(1), number(2), number(3)) {
            (b"go", Some(written), Some(attempt), Some(max_attempts)) => {
                match payload::read(self.desk.env.tasks(), written.clone()).await {
                    Some(Ok(payload)) => Ok(Job { id: id.clone(), payload, attempt, max_attempts }),
                    _ => Err(self.fail(held, None, JobFailure::unreadable()).await),
                }
            }
            (b"dead", ..) => Err(End::Dead),
            _ => Err(End::Lost),
        }
    }

    async fn done(&self, held: &Held, record: String) -> End {
        let (names, id) = (&self.desk.names, &held.id);
        let keys = vec![names.stream(), names.job(id), names.result(id)];
        let values = vec![held.entry.as_str().into(), record.into(), millis(self.desk.settings.result_ttl)];
        match self.say(scripts::DONE, keys, values).await {
            // The first time it was heard, but its answer was lost.
            Ok((answer, again)) if verdict(&answer) == b"done" || again => End::Done,
            Ok(_) => End::Lost,
            Err(error) => self.unheard(error),
        }
    }

    async fn fail(&self, held: &Held, wait: Option<Duration>, failure: JobFailure) -> End {
        let (names, settings, id) = (&self.desk.names, &self.desk.settings, &held.id);
        let Ok(record) = failure.clone().record() else { return End::Lost };
        let keys = vec![names.stream(), names.job(id), names.dead(), names.result(id), names.delayed()];
        let values = vec![
            held.entry.as_str().into(),
            self.consumer.into(),
            id.as_str().into(),
            (settings.max_dead as i64).into(),
            millis(settings.result_ttl),
            record.into(),
            wait.map_or((-1_i64).into(), millis),
            failure.reason.into(),
            failure.message.into(),
        ];
        match self.say(scripts::FAIL, keys, values).await {
            Ok((answer, _)) if verdict(&answer) == b"again" => End::Again,
            Ok((answer, _)) if verdict(&answer) == b"dead" => End::Dead,
            Ok(_) => End::Lost,
            Err(error) => self.unheard(error),
        }
    }

    async fn release(&self, held: &Held, attempts: i64) -> End {
        let keys = vec![self.desk.names.stream(), self.desk.names.job(&held.id)];
        let values = vec![held.entry.as_str().into(), self.consumer.into(), held.id.as_str().into(), attempts.into()];
        match self.say(scripts::RELEASE, keys, values).await {
            Ok((answer, _)) if verdict(&answer) == b"released" => End::Released,
            Ok(_) => End::Lost,
            Err(error) => self.unheard(error),
        }
    }
}
