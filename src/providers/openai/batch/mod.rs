//! OpenAI's Batch API: files of requests, answered within a day, at half the price.
//!
//! | File | Holds |
//! |---|---|
//! | `mod` | the settings, and the ways to a batch: a new one, or one that is under way |
//! | `submit` | requests written into files, one model a file, within the provider's limits |
//! | `api` | the exchanges, and which of them may be done twice |
//! | `job` | a batch under way: its state, its end, its files |
//! | `results` | which answer belongs to which request, and what became of those without |
//! | `told` | what observers are told of them |
//! | `provider` | what [`DeferLayer`](crate::batch::DeferLayer) sends to |

mod api;
mod job;
mod kind;
mod provider;
mod results;
mod submit;
mod told;
mod wire;

use std::time::Duration;

use super::ORIGIN;
use super::client::OpenAi;
use crate::env::Env;
use crate::error::{Error, Result};
use api::Api;

pub use job::{Batch, BatchProgress};
pub use kind::BatchRequest;
pub use results::BatchItem;
pub use wire::BatchStatus;

/// Batches at one endpoint. Cloning shares the connections.
///
/// # What it does
/// [`submit`](Self::submit) writes requests into files, one model a file, each within the provider's limits, uploads them
/// and creates a batch of each. The [`Batch`] that comes back is all of them: it is polled until they have ended, and then
/// there is a result for each request, an answer or a typed error. Nothing is spawned: it works while it is awaited.
///
/// # Paying once
/// Exchanges that may be done twice are tried five times. Creating a batch is not one of them: when its answer was lost,
/// the provider's list of batches is looked through for the one of the same file before it is created again, and when
/// that cannot be done it fails rather than pay twice. A provider that lists a batch only long after it was created could
/// defeat that; seconds lie between.
///
/// Another process can go on with a batch by its [`ids`](Batch::ids): see [`resume`](Self::resume). A process that dies
/// before it has written them down finds its batches again by a [`key`](Self::key).
///
/// # Cancellation
/// Dropping a future stops the waiting, never a batch: that goes on at the provider, and is paid. Drop a `submit` only if
/// it has a key. [`Batch::cancel`] ends one; what was answered by then is paid and among the results.
///
/// # Cost
/// Answers carry their cost at the price of batches in their trace ([`PriceTable::batch_cost`](crate::types::PriceTable::batch_cost)).
/// A file of requests is held in memory while it is written and sent, and so are the results.
///
/// # Who is told
/// The observers of its [`env`](Self::env), of each request's part, as [`Event::Batched`](crate::env::Event::Batched), when
/// [`Batch::results`] has read them for the first time: an answer at its cost, or the failure. What took how long is told by
/// the provider's clock. A [`Stats`](crate::observe::Stats) among the observers adds it all up. Results that nobody reads
/// are told to nobody, and those of one batch that several processes read, by each of them. Of batches that a
/// [`DeferLayer`](crate::batch::DeferLayer) sends, it tells its client's observers itself.
///
/// ```no_run
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> sluicegate::Result<()> {
/// use sluicegate::{providers::OpenAi, types::{ChatRequest, Cost}};
///
/// let batches = OpenAi::new("sk-…")?.batches().key("tickets of 21 November");
/// let tickets = ["My order is late.", "I cannot log in."];
/// let requests = tickets.map(|ticket| ChatRequest::new("gpt-5-mini").system("Sort this ticket.").user(ticket));
/// let mut batch = batches.submit(requests).await?;
/// println!("{:?}", batch.ids()); // keep them: batches.resume::<ChatRequest>(ids) goes on from here
/// for item in batch.results().await? {
///     match item.result {
///         Ok(answer) => println!("{}: {} for {}", item.custom_id, answer.text(), answer.trace().cost.unwrap_or(Cost::ZERO)),
///         Err(error) => println!("{}: {error}", item.custom_id),
///     }
/// }
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
pub struct Batches {
    api: Api,
    poll_every: Duration,
    key: Option<String>,
    keep_input: bool,
    max_requests: usize,
    max_bytes: usize,
}

impl Batches {
    pub(super) fn new(client: OpenAi) -> Self {
        Self {
            api: Api { client, env: Env::new() },
            poll_every: Duration::from_secs(60),
            key: None,
            keep_input: false,
            max_requests: 50_000,
            max_bytes: 200_000_000,
        }
    }

    /// How often the state of a batch is asked for while it is waited for, from 1 ms to 1 hour. Default: a minute; batches
    /// take minutes to hours.
    #[must_use]
    pub fn poll_every(mut self, pause: Duration) -> Self {
        self.poll_every = pause;
        self
    }

    /// A name for what is submitted, of 1 to 512 characters: submitted again under it, by this process or another, the same
    /// requests find the batches there are instead of paying again. Those that failed before anything was asked are created
    /// anew; those that expired or were cancelled are found with what they have.
    ///
    /// The name is kept with the batch, at the provider. Default: none, so every `submit` is a new batch.
    #[must_use]
    pub fn key(mut self, key: impl Into<String>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// Whether the uploaded requests stay at the provider once the results were read. Default: they are deleted. The files
    /// of results always stay, until [`Batch::delete_files`] or the provider's own 30 days.
    #[must_use]
    pub fn keep_input(mut self, keep: bool) -> Self {
        self.keep_input = keep;
        self
    }

    /// Requests in a file at most, from 1 on; more make several batches. Default: 50,000, OpenAI's own limit.
    #[must_use]
    pub fn max_requests(mut self, requests: usize) -> Self {
        self.max_requests = requests;
        self
    }

    /// Bytes in a file at most, from 1 on; more make several batches. Default: 200,000,000, OpenAI's own limit.
    #[must_use]
    pub fn max_bytes(mut self, bytes: usize) -> Self {
        self.max_bytes = bytes;
        self
    }

    /// Where time, randomness and prices come from, and whose observers are told of results. Default: [`Env::new`], with
    /// the published prices and nobody to tell.
    #[must_use]
    pub fn env(mut self, env: Env) -> Self {
        self.api.env = env;
        self
    }

    fn check(&self) -> Result<()> {
        Error::unless_within(
            ORIGIN,
            "poll_every",
            self.poll_every,
            Duration::from_millis(1)..=Duration::from_secs(3600),
        )?;
        Error::unless_within(ORIGIN, "max_requests", self.max_requests, 1..=usize::MAX)?;
        Error::unless_within(ORIGIN, "max_bytes", self.max_bytes, 1..=usize::MAX)?;
        let letters = self.key.as_ref().map_or(1, |key| key.chars().count());
        Error::unless_within(ORIGIN, "key (characters)", letters, 1..=512)
    }

    /// Sends these as batches. Requests are numbered from 0 on: that is the `custom_id` of their results. Requests of
    /// several models, or more than fit in a file, make several batches.
    ///
    /// The iterator is read as files are filled, so that one file per model is in memory.
    ///
    /// # Errors
    /// [`ErrorKind::Config`](crate::ErrorKind::Config) for a setting. [`ErrorKind::InvalidRequest`](crate::ErrorKind::InvalidRequest)
    /// for no requests at all, one that no provider can serve or that is larger than a file, and a key that stands for other
    /// requests. Otherwise as calls. Batches that were created before the failure are cancelled, if that can be done; those
    /// with a key go on, and are found again by it.
    pub async fn submit<R: BatchRequest>(&self, requests: impl IntoIterator<Item = R>) -> Result<Batch<R>> {
        self.check()?;
        let mut submission = submit::Submission::begin::<R>(self).await?;
        match submission.write(requests).await {
            Ok(()) => Ok(Batch::new(self, submission.parts)),
            Err(error) => {
                if self.key.is_none() {
                    submission.cancel().await;
                }
                Err(error)
            }
        }
    }

    /// Goes on with batches by their ids, whoever created them. Results are numbered as they were submitted.
    ///
    /// # Errors
    /// As calls; [`ErrorKind::NotFound`](crate::ErrorKind::NotFound) for an id that the provider does not know,
    /// [`ErrorKind::InvalidRequest`](crate::ErrorKind::InvalidRequest) for no ids, or a batch of the other kind of requests.
    pub async fn resume<R: BatchRequest>(&self, ids: impl IntoIterator<Item = impl Into<String>>) -> Result<Batch<R>> {
        self.check()?;
        let mut parts = Vec::new();
        for id in ids {
            let object = self.api.get(&id.into()).await?;
            if !object.endpoint.is_empty() && object.endpoint != R::ENDPOINT {
                let text = format!("batch {} is for {}, not for {}", object.id, object.endpoint, R::ENDPOINT);
                return Err(Error::new(crate::error::ErrorKind::InvalidRequest, ORIGIN, text));
            }
            parts.push(job::Part { object, asked: None, model: None });
        }
        if parts.is_empty() {
            return Err(Error::invalid(ORIGIN, "ids", "[]", "give at least one batch id"));
        }
        Ok(Batch::new(self, parts))
    }
}
