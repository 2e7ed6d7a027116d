//! What takes jobs out of the queue, on a connection of its own: a read that blocks holds up all that is asked behind it.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fred::clients::Client;
use fred::interfaces::{LuaInterface, StreamsInterface};
use fred::types::Value;
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::held::{Hand, Held};
use super::refused::Routine;
use super::{Desk, JobId, scripts, text, unexpected};
use crate::error::Result;
use crate::redis::{Session, bounded, told};

/// Longest read: so late a delayed job is found at most.
const BLOCK: Duration = Duration::from_secs(1);
/// Pause after an answer that makes no sense, such as that the group is gone.
const PAUSE: Duration = Duration::from_millis(100);
/// Most jobs in one read.
const MOST: usize = 100;

pub(super) struct Puller {
    pub(super) desk: Arc<Desk>,
    pub(super) consumer: String,
    pub(super) hold: Duration,
    pub(super) places: Arc<Semaphore>,
    pub(super) hand: Hand,
    pub(super) out: mpsc::UnboundedSender<Held>,
    /// When to look for the dead again, and from which entry on.
    pub(super) dead: Mutex<(Option<Instant>, String)>,
    pub(super) routine: Routine,
}

impl Puller {
    /// Waits for a place, and takes what others there are.
    async fn room(&self) -> Option<Vec<OwnedSemaphorePermit>> {
        let mut room = vec![Arc::clone(&self.places).acquire_owned().await.ok()?];
        while let (true, Ok(place)) = (room.len() < MOST, Arc::clone(&self.places).try_acquire_owned()) {
            room.push(place);
        }
        Some(room)
    }

    async fn limited<T>(
        &self,
        wait: Duration,
        command: impl Future<Output = Result<T, fred::error::Error>>,
    ) -> Result<T, fred::error::Error> {
        tokio::select! {
            answer = command => answer,
            () = self.desk.env.sleep(wait) => Err(fred::error::Error::new(fred::error::ErrorKind::Timeout, "")),
        }
    }

    fn give(&self, room: &mut Vec<OwnedSemaphorePermit>, entry: String, id: &str) {
        // What is not one of our ids was put there by somebody else. It is deleted after a hold.
        let Ok(id) = JobId::parse(id) else { return };
        if let Some(place) = room.pop()
            && let Some(held) = self.hand.take(entry, id, place)
        {
            // Nobody listens any more: it is given back at the end.
            let _ = self.out.send(held);
        }
    }

    /// Moves what is due, and takes over from the dead; how long there is nothing more of that to do.
    async fn tend(&self, client: &Client, room: &mut Vec<OwnedSemaphorePermit>) -> Result<Duration> {
        let now = self.desk.env.now();
        let (due, from) = self.dead.lock().clone();
        let look = due.is_none_or(|due| now >= due);
        let most = if look { room.len() as i64 } else { 0 };
        let wait = self.desk.settings.timeout;
        let names = vec![self.desk.names.stream(), self.desk.names.delayed()];
        let values: Vec<Value> =
            vec![self.consumer.as_str().into(), super::millis(self.hold), most.into(), from.into()];
        let tend = bounded(client, wait, None);
        let answer = self.limited(wait, tend.eval(scripts::TEND, names, values)).await;
        let answer: Vec<String> = answer.map_err(|error| told(&error))?;
        let [next, due, found @ ..] = answer.as_slice() else { return Err(unexpected()) };
        for pair in found.chunks_exact(2) {
            self.give(room, pair[0].clone(), &pair[1]);
        }
        let due = due.parse().map_or(BLOCK, Duration::from_millis);
        if !look {
            return Ok(due);
        }
        // Through all there are, then a pause that differs from one worker to the next.
        let pause = match next == "0-0" {
            true => self.hold.mul_f64(0.25 + self.desk.env.unit() / 4.0),
            false => Duration::ZERO,
        };
        *self.dead.lock() = (Some(self.desk.env.after(pause)), next.clone());
        Ok(due.min(pause))
    }

    /// Waits for jobs; after an error the connection is of no more use.
    async fn read(&self, client: &Client, room: &mut Vec<OwnedSemaphorePermit>, block: Duration) -> Result<()> {
        let limit = block + self.desk.settings.timeout;
        let reader = bounded(client, limit, None);
        // Zero would be for ever. And the shortest wait takes a tenth of a second: so seldom Redis looks who waits too long.
        let block = Some(block.as_millis() as u64).filter(|millis| *millis > 0);
        let (stream, consumer) = (self.desk.names.stream(), self.consumer.as_str());
        let count = Some(room.len() as u64);
        let read = reader.xreadgroup::<Value, _, _, _, _>(scripts::GROUP, consumer, count, block, false, stream, ">");
        match self.limited(limit, read).await {
            Ok(answer) => entries(answer).into_iter().for_each(|(entry, id)| self.give(room, entry, &id)),
            // The group went with all data: it is made again.
            Err(error) if error.details().starts_with("NOGROUP") => self.desk.env.sleep(PAUSE).await,
            Err(error) => return Err(told(&error)),
        }
        Ok(())
    }

    /// Takes what there is, once.
    async fn round(&self, client: &Client, mut room: Vec<OwnedSemaphorePermit>) -> Result<()> {
        let due = self.tend(client, &mut room).await?;
        match room.is_empty() {
            true => Ok(()),
            false => self.read(client, &mut room, due.min(BLOCK)).await,
        }
    }
}

impl Session for Puller {
    async fn run(&self, client: Client) {
        while let Some(room) = self.room().await {
            match self.round(&client, room).await {
                Ok(()) => self.routine.answered(),
                Err(error) => return self.routine.failed(error),
            }
        }
    }

    fn lost(&self) {}
}

/// Entry and job of each, from a reply of one stream: `[[stream, [[entry, [field, value]], …]]]`.
fn entries(reply: Value) -> Vec<(String, String)> {
    let list = |value: Value| if let Value::Array(values) = value { values } else { Vec::new() };
    let word = |value: Option<Value>| value.and_then(|value| value.as_bytes().map(text)).unwrap_or_default();
    let rows = list(reply).into_iter().filter_map(|stream| list(stream).into_iter().nth(1)).flat_map(list);
    rows.map(|row| {
        let mut row = list(row).into_iter();
        let (entry, fields) = (word(row.next()), row.next().map(list).unwrap_or_default());
        (entry, word(fields.into_iter().nth(1)))
    })
    .collect()
}
