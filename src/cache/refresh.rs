//! Answers asked for again in the background.
//!
//! A refresh is the flight that a miss would start, and a task that listens to it: misses that come meanwhile join it,
//! and with them it goes on when the task has to end. It carries what the call carried that found the entry, without
//! its deadline and with low priority, and keeps the tags the entry had. It streams if the entry came as a stream.
//! What that call would have left to a batch, a refresh that does not stream leaves to one as well: those who cannot wait
//! for hours neither join it nor are kept from a refresh of their own.

use std::collections::HashMap;
use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;

use super::fill::{Parts, Question, fly};
use super::{Entry, Payload, Probe};
use crate::env::after;
use crate::fingerprint::ByFingerprint;
use crate::types::{ChatRequest, Deadline, Deferrable, Priority};

/// So many refreshes run at a time: enough for the entries of a busy moment, few beside a provider's limits.
const AT_ONCE: usize = 32;
/// So many more wait in batches, for hours: a provider's limits do not hold for them, memory does.
const DEFERRED_AT_ONCE: usize = 1024;
/// After one failure a key is left alone for so long, then for twice as long, up to the longest.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// So many failing keys are remembered.
const REMEMBERED: usize = 4096;
/// A refresh may take ten times as long as the answer once took, within these bounds: nobody waits for it who could give
/// up, and one that hangs would keep its key's misses with it.
const PATIENCE: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(900));
/// One in a batch has the day that providers give themselves for it, and the ordinary way after that.
const DEFERRED_PATIENCE: Duration = Duration::from_secs(30 * 3600);

/// The refreshes of one cache.
#[derive(Debug)]
pub(super) struct Refreshes {
    slots: Arc<Semaphore>,
    deferred: Arc<Semaphore>,
    skipped: AtomicU64,
    setbacks: Mutex<HashMap<u128, Setback, ByFingerprint>>,
}

/// Failures of one key in a row.
#[derive(Debug, Clone, Copy)]
struct Setback {
    pause: Duration,
    until: Instant,
}

impl Default for Refreshes {
    fn default() -> Self {
        let [slots, deferred] = [AT_ONCE, DEFERRED_AT_ONCE].map(|places| Arc::new(Semaphore::new(places)));
        Self { slots, deferred, skipped: AtomicU64::new(0), setbacks: Mutex::default() }
    }
}

impl Refreshes {
    /// How many were not started because too many were under way.
    pub(super) fn skipped(&self) -> u64 {
        self.skipped.load(Ordering::Relaxed)
    }

    fn is_paused(&self, fingerprint: u128, now: Instant) -> bool {
        self.setbacks.lock().get(&fingerprint).is_some_and(|setback| now < setback.until)
    }

    fn ended(&self, fingerprint: u128, kept: bool, now: Instant) {
        let mut setbacks = self.setbacks.lock();
        if kept {
            setbacks.remove(&fingerprint);
            return;
        }
        let last = setbacks.get(&fingerprint).copied();
        if last.is_none() && setbacks.len() >= REMEMBERED {
            setbacks.retain(|_, setback| now < setback.until);
            if setbacks.len() >= REMEMBERED {
                return;
            }
        }
        let pause = last.map_or(FIRST_PAUSE, |last| (last.pause * 2).min(LONGEST_PAUSE));
        setbacks.insert(fingerprint, Setback { pause, until: after(now, pause) });
    }
}

/// Whether there is a runtime to refresh in.
pub(super) fn is_possible() -> bool {
    Handle::try_current().is_ok()
}

/// Asks again for what this entry answers, in the background: unless somebody is asking already, it failed just now, too
/// many are being asked for, or the client is shutting down.
#[cold]
pub(super) fn start(parts: &Arc<Parts>, probe: &Probe, request: &ChatRequest, seen: &Arc<Entry>) {
    let refreshes = &parts.shared.refreshes;
    let fingerprint = probe.fingerprint();
    let Ok(runtime) = Handle::try_current() else { return };
    if parts.stop.is_cancelled() || refreshes.is_paused(fingerprint, probe.now()) {
        return;
    }
    let streaming = matches!(seen.payload(), Payload::Chat { chunks, .. } if !chunks.is_empty());
    let (flights, defers) = (&parts.shared.flights, parts.defers(request, streaming));
    if flights.has(fingerprint, defers) {
        return;
    }
    let slots = if defers { &refreshes.deferred } else { &refreshes.slots };
    let Ok(slot) = Arc::clone(slots).try_acquire_owned() else {
        refreshes.skipped.fetch_add(1, Ordering::Relaxed);
        return;
    };
    let mut request = request.clone();
    request.extensions.remove::<Deadline>();
    request.extensions.insert(Priority::Low);
    if defers {
        // It may have been its deadline that said so.
        request.extensions.insert(Deferrable::Yes);
    }
    let question = Question { request, streaming, seen: Some(Arc::clone(seen)) };
    let labels = question.labels();
    let source = |probe| fly(Arc::clone(parts), probe, question);
    let Some(mut listener) = flights.start(probe.again(probe.now()), defers, labels, source) else { return };
    let (stop, env, shared) = (parts.stop.clone(), parts.env.clone(), Arc::clone(&parts.shared));
    let limit = match defers {
        true => DEFERRED_PATIENCE,
        false => seen.took().saturating_mul(10).clamp(PATIENCE.0, PATIENCE.1),
    };
    let task = async move {
        let landed = async {
            tokio::select! {
                biased;
                landed = poll_fn(|cx| listener.poll_landed(cx)) => landed.is_ok_and(|landed| landed.kept),
                () = env.sleep(limit) => false,
            }
        };
        if let Some(kept) = stop.run_until_cancelled(landed).await {
            shared.refreshes.ended(fingerprint, kept, env.now());
        }
        drop((listener, slot));
    };
    parts.env.tasks().spawn_on(task, &runtime);
}
