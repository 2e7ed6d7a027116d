//! The best summary to be had: remembered, carried, written now, or of fewer messages.

use std::sync::Arc;

use futures_util::FutureExt;

use super::Summarize;
use super::deliver::Summary;
use super::flight::{Flight, Join};
use super::keys::{Key, owned, root};
use super::write::{Job, Writer};
use crate::env::Env;
use crate::error::{Error, ErrorKind, Result};
use crate::history::TokenBudget;
use crate::types::{Deadline, Messages, Priority, Tenant};

impl Summarize {
    /// The best summary to be had now.
    pub(super) async fn summary(
        &self,
        messages: &Messages,
        keys: &[(usize, Key)],
        conversation: Key,
        carried: Option<&Summary>,
        budget: &TokenBudget<'_>,
    ) -> Result<Option<Summary>> {
        let root = self.root(budget);
        let conversation = owned(&root, &conversation);
        // The carried one is the one that was sent, whatever else was written of the same in the meantime.
        let best = || {
            let newer = keys.iter().rev().take_while(|(end, _)| carried.is_none_or(|carried| *end > carried.end));
            let mut found =
                newer.filter_map(|(end, key)| Some(Summary::new(*end, self.memory.get(&owned(&root, key))?)));
            found.next().or_else(|| carried.cloned())
        };
        let base = best();
        let Some((last, key)) =
            keys.last().copied().filter(|(last, _)| base.as_ref().is_none_or(|base| base.end < *last))
        else {
            return Ok(base);
        };
        let key = owned(&root, &key);
        let env = budget.env().unwrap_or(&self.env);
        if env.closing().is_cancelled() || self.memory.pauses(&conversation, env.now()) {
            return Ok(base);
        }
        if self.flights.are_polled_here() {
            let text = "the client that writes summaries asked its own stack for a conversation that needs one";
            return Err(Error::new(ErrorKind::InvalidRequest, "history", text));
        }
        let start = || {
            let job = Job {
                messages: messages.clone(),
                base: base.as_ref().map(|base| (base.end, Arc::clone(&base.text))),
                keys: keys.iter().map(|(end, key)| (*end, owned(&root, key))).collect(),
                conversation,
                tenant: budget.extension::<Tenant>().cloned(),
                priority: budget.extension::<Priority>().copied(),
            };
            self.writer.clone().write(job, Arc::clone(&self.memory), env.clone()).boxed()
        };
        let flight = match self.flights.join(key, || self.memory.get(&key), start) {
            Join::Written(summary) => return Ok(Some(Summary::new(last, summary))),
            Join::Started(flight) if self.background => {
                self.finish_in_background(flight, env);
                return Ok(base);
            }
            Join::Joined(_) if self.background => return Ok(base),
            Join::Started(flight) | Join::Joined(flight) => flight,
        };
        let landed = match budget.extension::<Deadline>() {
            None => flight.await,
            Some(Deadline(until)) => {
                let left = until.saturating_duration_since(env.now());
                tokio::select! {
                    biased;
                    landed = flight.clone() => landed,
                    () = env.sleep(left / 2) => {
                        self.finish_in_background(flight, env);
                        None
                    }
                }
            }
        };
        Ok(landed.map(|summary| Summary::new(last, summary)).or_else(best))
    }

    /// The key of nothing said yet, by all that shapes a summary.
    pub(super) fn root(&self, budget: &TokenBudget<'_>) -> Key {
        let tenant = budget.extension::<Tenant>().map(|Tenant(name)| name.as_str());
        let whose = if tenant.is_some() { "tenant" } else { "nobody's" };
        let Writer { model, summary_tokens, .. } = &self.writer;
        root(&[model, &*summary_tokens.to_string(), whose, tenant.unwrap_or_default()])
    }

    fn finish_in_background(&self, flight: Flight, env: &Env) {
        let (closing, dropped) = (env.closing().clone(), self.alive.0.clone());
        env.tasks().spawn(async move {
            tokio::select! {
                _ = flight => {}
                () = closing.cancelled() => {}
                () = dropped.cancelled() => {}
            }
        });
    }
}
