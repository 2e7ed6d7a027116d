//! What must stay made shorter, when nothing is left to leave out.

mod middle;

use std::sync::Arc;

use middle::without_middle;

use super::turns::turns;
use super::{Fit, TokenBudget};
use crate::error::{Error, ErrorKind, Result};
use crate::types::{Content, Message, Messages, Part, Role};

/// What to do when what must stay takes more than is allowed: the instructions, the user's last message, and the newest
/// step after it (a message of the model with what tools answer to it).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Oversized {
    /// The call is refused with [`ErrorKind::ContextLength`]. The default: nothing is sent that the caller did not write.
    #[default]
    Refuse,
    /// Of these the texts lose their middle, and a mark such as `[… 12,345 characters left out …]` stands there. All else
    /// was left out before.
    ///
    /// First what the model and the tools said in the newest step; if that is not enough, what the user said; 200 bytes of
    /// a text stay. Of both the longest are cut first, to one common length. Instructions, the arguments of tool calls,
    /// names and media are never touched; what does not fit even then is refused. What is cut may have been JSON, and is
    /// no longer.
    ///
    /// The result fits by the counter, and leaves at most about a 64th of the allowance unused where the texts allow it.
    /// To find it, what is kept of the texts is counted up to 9 times for each of the two kinds (30 MB/s with
    /// [`Tiktoken`](crate::tokens::Tiktoken)).
    Shorten,
}

impl Oversized {
    /// In words, for settings; nothing for the default.
    pub(super) fn settings(self) -> &'static str {
        match self {
            Self::Refuse => "",
            Self::Shorten => ", over-long messages shortened",
        }
    }

    /// What becomes of what must stay and takes more than the limit.
    pub(super) fn settle(self, messages: Messages, budget: &TokenBudget<'_>, limit: u64) -> Result<Fit> {
        match self {
            Self::Refuse => Err(too_long(budget.prompt(&messages), limit, "")),
            Self::Shorten => shorten_last_turn(&messages, budget, limit),
        }
    }
}

fn too_long(used: u64, limit: u64, how: &str) -> Error {
    let text = format!(
        "instructions, the user's last message and the newest step take {used} tokens{how}, {limit} are allowed: shorten \
         them or allow more"
    );
    Error::new(ErrorKind::ContextLength, "history", text)
}

/// What may be cut together, in the order in which it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// What the model said, and the tools.
    Latest,
    /// What the user said.
    Asked,
}

impl Kind {
    /// The kind of a message of the last turn; `None` for what is never cut.
    fn of(message: &Message) -> Option<Self> {
        match message.role {
            Role::System | Role::Developer => None,
            Role::Tool | Role::Function | Role::Assistant => Some(Self::Latest),
            _ => Some(Self::Asked),
        }
    }
}

/// The bytes of a text that stay at least.
const FLOOR: usize = 200;

/// Instructions and the last turn, shortened until they take no more than the limit; the very same list where they do not.
///
/// # Errors
/// [`ErrorKind::ContextLength`] when what must stay does not fit.
pub(super) fn shorten_last_turn(messages: &Messages, budget: &TokenBudget<'_>, limit: u64) -> Result<Fit> {
    let mut draft = Draft::new(messages, budget);
    let before = draft.used;
    let turn = turns(messages).pop().unwrap_or(0..0);
    let said = || messages.iter().enumerate().skip(turn.start);
    for kind in [Kind::Latest, Kind::Asked] {
        let of_kind = said().filter(|(_, message)| Kind::of(message) == Some(kind));
        let places: Vec<usize> = of_kind.map(|(at, _)| at).collect();
        if draft.used > limit && !places.is_empty() {
            draft.cut(&places, limit);
        }
    }
    if draft.used > limit {
        return Err(too_long(draft.used, limit, ", shortened as far as they may be"));
    }
    let shortened = draft.shortened(messages);
    if shortened == 0 {
        return Ok(Fit::unchanged(messages.clone()).kept(draft.used));
    }
    let mut fit = Fit::unchanged(draft.messages.iter().cloned().collect())
        .kept(draft.used)
        .trimmed(before.saturating_sub(draft.used));
    fit.trace.shortened = u16::try_from(shortened).unwrap_or(u16::MAX);
    Ok(fit)
}

/// A prompt in the making, each message with its tokens.
struct Draft<'a> {
    budget: &'a TokenBudget<'a>,
    messages: Vec<Arc<Message>>,
    tokens: Vec<u64>,
    used: u64,
}

/// Texts of some messages cut to one length: which messages, what they become, what they take then.
struct Cut {
    length: usize,
    messages: Vec<(usize, Arc<Message>, u64)>,
    used: u64,
}

/// How often a length is tried before the best so far will do.
const TRIES: usize = 8;
/// What may stay unused: this part of the limit.
const SLACK: u64 = 64;
/// Bytes of a text that are not worth another try.
const CLOSE: usize = 16;

impl<'a> Draft<'a> {
    fn new(messages: &Messages, budget: &'a TokenBudget<'a>) -> Self {
        let tokens: Vec<u64> = messages.iter().map(|message| budget.message(message)).collect();
        let used = tokens.iter().fold(budget.overhead(), |sum, tokens| sum.saturating_add(*tokens));
        Self { budget, messages: messages.to_vec(), tokens, used }
    }

    /// How many messages are no longer what they were.
    fn shortened(&self, before: &Messages) -> usize {
        self.messages.iter().zip(before.iter()).filter(|(now, before)| !Arc::ptr_eq(now, before)).count()
    }

    /// Cuts the texts of these messages to the greatest common length found with which the prompt fits, or to the least
    /// allowed.
    fn cut(&mut self, places: &[usize], limit: u64) {
        let mut lengths: Vec<usize> = places.iter().filter_map(|at| self.messages.get(*at)).flat_map(lengths).collect();
        lengths.sort_unstable();
        let Some(longest) = lengths.last().copied().filter(|longest| *longest > FLOOR) else { return };
        let mut best = self.try_length(places, FLOOR);
        // Fits not, as it came.
        let (mut too_long, mut too_much) = (longest, self.used);
        if best.used <= limit {
            // A little less is aimed at than is allowed, because a miss upwards costs another try.
            let aim = limit - limit / (2 * SLACK);
            for nth in 0..TRIES {
                if limit - best.used <= limit / SLACK || too_long - best.length <= CLOSE {
                    break;
                }
                let (low, high) = (together(&lengths, best.length), together(&lengths, too_long));
                // Tokens grow about as the bytes that are kept. Where they do not, halving comes to an end all the same.
                let (part, whole) = match nth % 3 {
                    2 => (1, 2),
                    _ => (aim.saturating_sub(best.used), too_much - best.used),
                };
                let bytes = low + (u128::from(high - low) * u128::from(part) / u128::from(whole)) as u64;
                let length = common_length(&lengths, bytes).clamp(best.length + 1, too_long - 1);
                let tried = self.try_length(places, length);
                if tried.used <= limit {
                    best = tried;
                } else {
                    (too_long, too_much) = (length, tried.used);
                }
            }
        }
        self.take(best);
    }

    fn try_length(&self, places: &[usize], length: usize) -> Cut {
        let mut cut = Cut { length, messages: Vec::new(), used: self.used };
        for at in places {
            let (Some(message), Some(before)) = (self.messages.get(*at), self.tokens.get(*at)) else { continue };
            let Some(shorter) = shortened(message, length) else { continue };
            let tokens = self.budget.message(&shorter);
            // A thousand blanks are few tokens; the mark may be more.
            if tokens < *before {
                cut.used = cut.used.saturating_sub(before - tokens);
                cut.messages.push((*at, Arc::new(shorter), tokens));
            }
        }
        cut
    }

    fn take(&mut self, cut: Cut) {
        for (at, message, tokens) in cut.messages {
            if let (Some(place), Some(count)) = (self.messages.get_mut(at), self.tokens.get_mut(at)) {
                (*place, *count) = (message, tokens);
            }
        }
        self.used = cut.used;
    }
}

/// The bytes of each text of a message.
fn lengths(message: &Arc<Message>) -> impl Iterator<Item = usize> {
    message.texts().map(str::len)
}

/// The bytes of texts of these lengths, each cut to this one.
fn together(lengths: &[usize], length: usize) -> u64 {
    lengths.iter().map(|each| (*each).min(length) as u64).sum()
}

/// The length to which texts of these lengths, in order, must be cut to be so many bytes together.
fn common_length(lengths: &[usize], bytes: u64) -> usize {
    let mut left = bytes;
    for (nth, length) in lengths.iter().enumerate() {
        let each = left / (lengths.len() - nth) as u64;
        if each < *length as u64 {
            return each as usize;
        }
        left -= *length as u64;
    }
    lengths.last().copied().unwrap_or(0)
}

/// The message with its texts cut to this length; `None` where none is longer.
fn shortened(message: &Message, length: usize) -> Option<Message> {
    if message.texts().all(|text| text.len() <= length) {
        return None;
    }
    let content = match message.content.as_ref()? {
        Content::Text(text) => Content::Text(without_middle(text, length)?),
        Content::Parts(parts) => {
            let mut parts = parts.clone();
            let mut changed = false;
            for part in &mut parts {
                if let Part::Text { text, .. } = part
                    && let Some(shorter) = without_middle(text, length)
                {
                    (*text, changed) = (shorter, true);
                }
            }
            changed.then_some(Content::Parts(parts))?
        }
    };
    // Field by field, so that the text that goes is not copied first.
    let Message { role, content: _, name, tool_calls, tool_call_id, refusal, extra } = message;
    Some(Message {
        role: role.clone(),
        content: Some(content),
        name: name.clone(),
        tool_calls: tool_calls.clone(),
        tool_call_id: tool_call_id.clone(),
        refusal: refusal.clone(),
        extra: extra.clone(),
    })
}

#[cfg(test)]
mod tests;
