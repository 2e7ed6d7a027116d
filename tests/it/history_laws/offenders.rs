//! Policies that break a law each.

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use sluicegate::Result;
use sluicegate::history::{Carry, Fit, HistoryPolicy, TokenBudget, Window};
use sluicegate::types::{Content, Message, Messages, Role};

use super::Make;

type Change = fn(Messages, Fit) -> Fit;

/// A window, and what it does wrong.
#[derive(Debug)]
struct Offender {
    window: Window,
    change: Change,
    fits: bool,
    carries: bool,
}

#[async_trait]
impl HistoryPolicy for Offender {
    fn settings(&self) -> String {
        "offender".to_owned()
    }

    fn check(&self) -> Result<()> {
        Ok(())
    }

    fn fits(&self, _: &Messages, _: &TokenBudget<'_>) -> bool {
        self.fits
    }

    async fn fit(&self, messages: Messages, budget: &TokenBudget<'_>) -> Result<Fit> {
        let fit = self.window.fit(messages.clone(), budget).await?;
        let fit = (self.change)(messages, fit);
        let carry = self.carries.then(|| Carry::of(fit.messages.clone()));
        Ok(Fit { carry, ..fit })
    }
}

fn offender(tokens: u64, change: Change) -> Offender {
    Offender { window: Window::tokens(tokens), change, fits: false, carries: false }
}

/// A window that carries the last turn alone, and the rest in its own memory.
#[derive(Debug)]
struct Forgetful(Window, Mutex<Vec<(Messages, Messages)>>);

#[async_trait]
impl HistoryPolicy for Forgetful {
    fn settings(&self) -> String {
        "forgetful".to_owned()
    }

    fn check(&self) -> Result<()> {
        Ok(())
    }

    fn fits(&self, _: &Messages, _: &TokenBudget<'_>) -> bool {
        false
    }

    async fn fit(&self, messages: Messages, budget: &TokenBudget<'_>) -> Result<Fit> {
        let known = |carry: &Carry| {
            let memory = self.1.lock().unwrap();
            memory.iter().find(|(short, _)| *short == carry.messages).map(|(_, whole)| whole.clone())
        };
        let whole: Messages = match budget.carried().and_then(|carry| Some((carry.messages.len(), known(carry)?))) {
            Some((length, whole)) => whole.iter().chain(&messages[length..]).cloned().collect(),
            None => messages,
        };
        let fit = self.0.fit(whole, budget).await?;
        let last = turns(&fit.messages).last().unwrap_or_default();
        let short = without(fit.clone(), |at, message| at < last && !message.role.is_instruction()).messages;
        self.1.lock().unwrap().push((short.clone(), fit.messages.clone()));
        Ok(fit.carrying(Carry::of(short)))
    }
}

/// What was trimmed, less what this says.
fn without(fit: Fit, goes: impl Fn(usize, &Message) -> bool) -> Fit {
    let kept = fit.messages.iter().enumerate().filter(|(at, message)| !goes(*at, message));
    let messages = kept.map(|(_, message)| Arc::clone(message)).collect();
    Fit::unchanged(messages).trimmed(1)
}

/// Where the last message of the user stands.
fn last_user(messages: &Messages) -> usize {
    messages.iter().rposition(|message| message.role == Role::User).unwrap_or_default()
}

/// The words of the law, and a policy that breaks it.
pub(super) fn offenders() -> Vec<(&'static str, Make)> {
    vec![
        ("a prompt is within its limit", |tokens| Arc::new(offender(tokens + 20, |_, fit| fit))),
        ("what must stay and fits is not refused", |tokens| {
            Arc::new(offender(tokens.saturating_sub(20), |_, fit| fit))
        }),
        ("tokens told are", |tokens| Arc::new(offender(tokens, |_, fit| fit.kept(1)))),
        ("rules keeps them after", |tokens| {
            Arc::new(offender(tokens, |_, fit| without(fit, |_, message| message.role == Role::Tool)))
        }),
        ("all instructions stay", |tokens| {
            Arc::new(offender(tokens, |_, fit| without(fit, |at, message| at > 0 && message.role.is_instruction())))
        }),
        ("the user's last message stays", |tokens| {
            Arc::new(offender(tokens, |_, fit| {
                let last = last_user(&fit.messages);
                let twice = last > 0 && fit.messages[last - 1].role == Role::User;
                if twice { without(fit, |at, _| at == last) } else { fit }
            }))
        }),
        ("all instructions stay", |tokens| {
            Arc::new(offender(tokens, |_, mut fit| {
                fit.trace.shortened = 1;
                let reworded =
                    |message: &Arc<Message>| match message.role.is_instruction() && !message.text().is_empty() {
                        true => Arc::new(Message { content: Some(Content::Text("x".into())), ..(**message).clone() }),
                        false => Arc::clone(message),
                    };
                Fit { messages: fit.messages.iter().map(reworded).collect(), ..fit.kept(0) }
            }))
        }),
        ("the user's last message stays", |tokens| {
            // Its image does not.
            Arc::new(offender(tokens, |_, fit| {
                let mut messages = fit.messages;
                let last = last_user(&messages);
                let text = messages.get(last).map(|message| message.text()).unwrap_or_default();
                if let Some(message) = messages.make_mut().get_mut(last) {
                    *message = Arc::new(Message { content: Some(Content::Text(text)), ..(**message).clone() });
                }
                Fit::unchanged(messages).trimmed(1)
            }))
        }),
        ("nothing is added in silence", |tokens| {
            Arc::new(offender(tokens, |_, fit| {
                let reworded = |message: &Arc<Message>| match message.role {
                    Role::Assistant => {
                        Arc::new(Message { content: Some(Content::Text("x".into())), ..(**message).clone() })
                    }
                    _ => Arc::clone(message),
                };
                Fit::unchanged(fit.messages.iter().map(reworded).collect()).trimmed(1)
            }))
        }),
        ("what is left out is told", |tokens| Arc::new(offender(tokens, |_, fit| fit.trimmed(0)))),
        ("fitting again changes nothing", |tokens| {
            // One more turn goes each time.
            Arc::new(offender(tokens, |_, fit| {
                let (mut turns, last) = (turns(&fit.messages), last_user(&fit.messages));
                match turns.nth(1).filter(|second| *second <= last) {
                    Some(second) => without(fit, |at, message| at < second && !message.role.is_instruction()),
                    None => fit,
                }
            }))
        }),
        ("a policy newly made gives the same", |tokens| {
            static SEEN: Mutex<Option<Messages>> = Mutex::new(None);
            Arc::new(offender(tokens, |before, fit| {
                let mut seen = SEEN.lock().unwrap();
                if seen.as_ref().is_some_and(|seen| seen.ptr_eq(&before)) {
                    return Fit::unchanged(before);
                }
                if fit.messages.len() < before.len() {
                    *seen = Some(before);
                }
                fit
            }))
        }),
        ("what it carries and what came since give", |tokens| {
            // Long conversations are cut deeply.
            let deep = offender(tokens, |before, fit| {
                let last = turns(&fit.messages).last().unwrap_or_default();
                if before.len() < 8 {
                    fit
                } else {
                    without(fit, |at, message| at < last && !message.role.is_instruction())
                }
            });
            Arc::new(Offender { carries: true, ..deep })
        }),
        ("once it was stored", |tokens| Arc::new(Forgetful(Window::tokens(tokens), Mutex::default()))),
        ("what certainly fits is", |tokens| Arc::new(Offender { fits: true, ..offender(tokens, |_, fit| fit) })),
    ]
}

/// Where turns of the user's begin.
fn turns(messages: &Messages) -> std::vec::IntoIter<usize> {
    let spoken: Vec<_> = messages.iter().enumerate().filter(|(_, message)| !message.role.is_instruction()).collect();
    let begins = |at: usize| spoken[at].1.role == Role::User && (at == 0 || spoken[at - 1].1.role != Role::User);
    let starts: Vec<_> = (0..spoken.len()).filter(|at| begins(*at)).map(|at| spoken[at].0).collect();
    starts.into_iter()
}
