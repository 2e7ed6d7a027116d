//! What becomes of a job that asks: let in, queued, or refused.

use std::time::Instant;

use super::admission::{Rules, Shed};
use super::decision::{Core, Grant, Verdict};
use super::event::AdmissionEvent;
use super::gate::{Shared, shut_down};
use super::queue::Who;
use super::rate::Ask;
use super::ticket::Ticket;
use super::{Job, ORIGIN};
use crate::error::{Error, ErrorKind, Result};

/// What became of it.
pub(super) enum Entry<T> {
    Admitted(Grant),
    /// It cannot start now: what was done instead.
    Held(T),
}

/// The same, inside the lock.
enum Step<T> {
    Over(Entry<T>),
    /// It must wait, or a refusal was met meanwhile, so that the time matters after all.
    Untimed,
}

impl Shared {
    /// Lets a job in, queues it, or refuses it.
    pub(super) fn enter(&self, job: &Job<'_>) -> Result<Entry<Ticket<'_>>> {
        let seat = |core: &mut Core, who: Who<'_>, ask, now| {
            make_room(core, &self.rules, who, now)?;
            Ok(core.enter(who, ask, now))
        };
        Ok(match self.decide(job, seat)? {
            Entry::Admitted(grant) => Entry::Admitted(grant),
            Entry::Held(seat) => Entry::Held(Ticket::new(self, seat)),
        })
    }

    /// Lets a job in, leaves it where it is, or refuses it.
    pub(super) fn try_enter(&self, job: &Job<'_>) -> Result<Entry<()>> {
        self.decide(job, |_, _, _, _| Ok(()))
    }

    /// Lets a job in, refuses it, or does something else for it if it would have to wait.
    fn decide<T>(
        &self,
        job: &Job<'_>,
        or_else: impl Fn(&mut Core, Who<'_>, Ask, Instant) -> Result<T>,
    ) -> Result<Entry<T>> {
        if self.closing.is_closed() {
            return Err(shut_down());
        }
        let (priority, tenant, model) = (job.priority, job.tenant, job.model);
        let who = Who { priority, tenant, model, cost: job.total_tokens() };
        let mut now = self.time_of_start(job.deadline.is_some());
        loop {
            let step = self.change(|core| {
                let step = self.step(core, job, who, now, &or_else);
                if let Err(error) = &step {
                    core.totals.refused += 1;
                    core.tell(|| AdmissionEvent::Refused { priority, kind: error.kind() });
                }
                step
            });
            match step? {
                Step::Over(entry) => return Ok(entry),
                Step::Untimed => now = Some(self.env.now()),
            }
        }
    }

    /// `time`: `None` as long as nothing seems to depend on it.
    fn step<T>(
        &self,
        core: &mut Core,
        job: &Job<'_>,
        who: Who<'_>,
        time: Option<Instant>,
        or_else: impl Fn(&mut Core, Who<'_>, Ask, Instant) -> Result<T>,
    ) -> Result<Step<T>> {
        let now = time.unwrap_or(self.started);
        let refuse = |kind, message: String| Err(Error::new(kind, ORIGIN, message));
        let too_late = |start: Instant| job.deadline.is_some_and(|deadline| start >= deadline);
        if core.draining {
            return refuse(ErrorKind::Shutdown, "the gate drains and admits no newcomers".to_owned());
        }
        if too_late(now) {
            return refuse(ErrorKind::Deadline, "its deadline had passed before it asked for admission".to_owned());
        }
        if time.is_none() && core.is_timed() {
            return Ok(Step::Untimed);
        }
        let ask = core.rates.ask(job)?;
        if let Some(grant) = core.take_at_once(who, &ask, now) {
            return Ok(Step::Over(Entry::Admitted(grant)));
        }
        if time.is_none() {
            return Ok(Step::Untimed);
        }
        if let Some(start) = core.rates.earliest(&ask, now).filter(|start| too_late(*start)) {
            let wait = start.saturating_duration_since(now).as_millis();
            let message = format!("the limits per minute allow it in {wait} ms at the earliest, after its deadline");
            return refuse(ErrorKind::Deadline, message);
        }
        // Newest first, those who wait are behind it.
        if job.deadline.is_some() && self.rules.shed.newest_first_after().is_none() && !core.paused {
            let ahead = core.queue.surely_ahead_of(who);
            let wait = core.pace.at_least(ahead, now);
            if too_late(now + wait) {
                let least = wait.as_millis();
                let message = format!("{ahead} calls go before it and take {least} ms or more, past its deadline");
                return refuse(ErrorKind::Deadline, message);
            }
        }
        Ok(Step::Over(Entry::Held(or_else(core, who, ask, now)?)))
    }
}

/// Sees to it that one more may wait, or refuses it.
fn make_room(core: &mut Core, rules: &Rules, who: Who<'_>, now: Instant) -> Result<()> {
    let refuse = |message: String| Err(Error::new(ErrorKind::Overloaded, ORIGIN, message));
    let same = core.queue.waiting_of(who);
    if rules.tenant_queue.is_some_and(|limit| same >= limit) {
        let advice = "let it send less, or raise Admission::tenant_queue";
        return refuse(format!("{same} calls of its tenant and class wait already; {advice}"));
    }
    let waiting = core.queue.len();
    if waiting < rules.queue {
        return Ok(());
    }
    let victim = match rules.shed {
        Shed::Newest => None,
        Shed::LowestPriority => core.queue.lowest(who.priority, false).map(|(newest, _)| newest),
        Shed::OldestUnderLoad(_) => core.queue.lowest(who.priority, true).map(|(_, oldest)| oldest),
    };
    let Some(victim) = victim else {
        let advice = "send less, or raise Admission::queue or the limits they wait for";
        return refuse(format!("{waiting} calls wait already; {advice}"));
    };
    core.send_away(victim, Verdict::Shed, now);
    Ok(())
}
