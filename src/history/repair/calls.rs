//! Calls of tools and their results brought together.

use std::collections::{HashMap, VecDeque};
use std::mem::take;
use std::sync::Arc;

use super::ids::Ids;
use super::single::{UNKNOWN, function_name};
use crate::history::{Rule, Rules};
use crate::types::{Content, FunctionCall, Message, Role, ToolCall};

/// The result of a call that has none.
const NONE_CAME: &str = "(No result of this call came.)";

/// A call, and which message answers it.
struct Call {
    caller: usize,
    result: Option<usize>,
}

/// What is known of the calls of an id while the conversation is read.
#[derive(Default)]
struct Known {
    /// Calls without a result, the one to answer next at the end.
    open: Vec<usize>,
    /// The call answered last.
    answered: Option<usize>,
}

/// What becomes of a message.
#[derive(Clone, Copy, PartialEq)]
enum Fate {
    Stays,
    /// It stands with its call.
    Answers,
    /// It says nothing that was not said.
    Goes,
    Orphan,
}

pub(super) fn pair(rules: Rules, messages: Vec<Arc<Message>>, repaired: &mut u32) -> Vec<Arc<Message>> {
    let calls: usize = messages.iter().map(|message| calls_of(message).len()).sum();
    if calls == 0 && !messages.iter().any(|message| message.role == Role::Tool) {
        return messages;
    }
    let (calls, fates) = match_up(&messages);
    let mut writer = Writer { rules, ids: Ids::new(rules), orphans: Vec::new(), out: Vec::new(), repaired };
    let mut calls = calls.iter().peekable();
    for (at, (message, fate)) in messages.iter().zip(&fates).enumerate() {
        match fate {
            Fate::Answers => {}
            Fate::Goes => *writer.repaired += 1,
            Fate::Orphan if rules.has(Rule::ResultsHaveCalls) => writer.orphans.push(Arc::clone(message)),
            Fate::Orphan | Fate::Stays => {
                writer.adopt();
                let mut results = Vec::new();
                while let Some(call) = calls.next_if(|call| call.caller == at) {
                    results.push(call.result);
                }
                writer.write(at, message, &results, &messages);
            }
        }
    }
    writer.adopt();
    writer.out
}

fn calls_of(message: &Message) -> &[ToolCall] {
    if message.role == Role::Assistant { &message.tool_calls } else { &[] }
}

fn id_of(message: &Message) -> &str {
    message.tool_call_id.as_deref().unwrap_or_default()
}

/// Finds for each result the call it answers: the latest of its id before it that has none; else, if its id was never
/// called before, the next one after it. A result without an id answers the next open call of the last message that
/// calls.
fn match_up(messages: &[Arc<Message>]) -> (Vec<Call>, Vec<Fate>) {
    let mut calls: Vec<Call> = Vec::new();
    let mut fates = vec![Fate::Stays; messages.len()];
    let mut known: HashMap<&str, Known> = HashMap::new();
    let mut early: HashMap<&str, VecDeque<usize>> = HashMap::new();
    for (at, message) in messages.iter().enumerate() {
        let first = calls.len();
        calls.extend(calls_of(message).iter().map(|_| Call { caller: at, result: None }));
        let own = (first..calls.len()).zip(calls_of(message)).rev();
        for (number, call) in own.filter(|(_, call)| !call.id.is_empty()) {
            known.entry(&call.id).or_default().open.push(number);
        }
        let id = id_of(message);
        if message.role != Role::Tool || id.is_empty() {
            continue;
        }
        let Some(known) = known.get_mut(id) else {
            fates[at] = Fate::Orphan;
            early.entry(id).or_default().push_back(at);
            continue;
        };
        let open = known.open.pop();
        fates[at] = if open.is_some() { Fate::Answers } else { Fate::Orphan };
        let answered = open.or(known.answered);
        known.answered = answered;
        let Some(call) = answered.and_then(|call| calls.get_mut(call)) else { continue };
        match call.result.and_then(|earlier| Some((earlier, messages.get(earlier)?))) {
            None => call.result = Some(at),
            Some((_, text)) if text.content == message.content || is_placeholder(message) => fates[at] = Fate::Goes,
            // Now it came.
            Some((earlier, text)) if is_placeholder(text) => {
                call.result = Some(at);
                fates[earlier] = Fate::Goes;
                fates[at] = Fate::Answers;
            }
            Some(_) => {}
        }
    }
    let ids = messages.iter().flat_map(|message| calls_of(message));
    for (call, ToolCall { id, .. }) in calls.iter_mut().zip(ids).filter(|(call, _)| call.result.is_none()) {
        if let Some(result) = early.get_mut(id.as_str()).and_then(VecDeque::pop_front) {
            call.result = Some(result);
            fates[result] = Fate::Answers;
        }
    }
    answer_without_ids(messages, &mut calls, &mut fates);
    (calls, fates)
}

fn answer_without_ids(messages: &[Arc<Message>], calls: &mut [Call], fates: &mut [Fate]) {
    // The calls of the last message that calls, from the next to answer on.
    let (mut next, mut end) = (0, 0);
    for (at, (message, fate)) in messages.iter().zip(fates).enumerate() {
        let own = calls_of(message).len();
        if own > 0 {
            (next, end) = (end, end + own);
        }
        if message.role != Role::Tool || !id_of(message).is_empty() {
            continue;
        }
        *fate = Fate::Orphan;
        let open = calls.iter_mut().enumerate().take(end).skip(next).find(|(_, call)| call.result.is_none());
        next = open.as_ref().map_or(end, |(number, _)| number + 1);
        if let Some((_, call)) = open {
            call.result = Some(at);
            *fate = Fate::Answers;
        }
    }
}

fn is_placeholder(message: &Message) -> bool {
    matches!(&message.content, Some(Content::Text(text)) if text == NONE_CAME)
}

struct Writer<'r> {
    rules: Rules,
    ids: Ids,
    /// Results without a call that stand together.
    orphans: Vec<Arc<Message>>,
    out: Vec<Arc<Message>>,
    repaired: &'r mut u32,
}

impl Writer<'_> {
    /// A message, and right after it the results of its calls, as they came.
    fn write(&mut self, at: usize, message: &Arc<Message>, results: &[Option<usize>], messages: &[Arc<Message>]) {
        if results.is_empty() {
            self.out.push(Arc::clone(message));
            return;
        }
        self.ids.next_message();
        let ids: Vec<String> = message.tool_calls.iter().map(|call| self.ids.give(&call.id)).collect();
        let mut message = Arc::clone(message);
        if message.tool_calls.iter().zip(&ids).any(|(call, id)| call.id != *id) {
            for (call, id) in Arc::make_mut(&mut message).tool_calls.iter_mut().zip(&ids) {
                call.id.clone_from(id);
            }
            *self.repaired += 1;
        }
        self.out.push(message);
        let mut answers: Vec<(usize, &String)> =
            results.iter().zip(&ids).filter_map(|(result, id)| Some(((*result)?, id))).collect();
        answers.sort_unstable_by_key(|(result, _)| *result);
        for (place, (result, id)) in (at + 1..).zip(answers) {
            let Some(message) = messages.get(result) else { continue };
            let mut message = Arc::clone(message);
            let renamed = message.tool_call_id.as_ref() != Some(id);
            if renamed {
                Arc::make_mut(&mut message).tool_call_id = Some(id.clone());
            }
            *self.repaired += u32::from(renamed || result != place);
            self.out.push(message);
        }
        if self.rules.has(Rule::CallsAnswered) {
            for (_, id) in results.iter().zip(ids).filter(|(result, _)| result.is_none()) {
                self.out.push(Arc::new(Message::tool(id, NONE_CAME)));
                *self.repaired += 1;
            }
        }
    }

    /// Makes up a call for results that have none.
    fn adopt(&mut self) {
        let orphans = take(&mut self.orphans);
        if orphans.is_empty() {
            return;
        }
        self.ids.next_message();
        let mut caller = Message::empty(Role::Assistant);
        let mut results = Vec::with_capacity(orphans.len());
        for mut orphan in orphans {
            let id = self.ids.give(id_of(&orphan));
            let name = orphan.name.as_deref().map_or_else(|| UNKNOWN.to_owned(), function_name);
            let function = FunctionCall { name, arguments: "{}".to_owned(), ..FunctionCall::default() };
            let kind = "function".to_owned();
            caller.tool_calls.push(ToolCall { id: id.clone(), kind, function, extra: Default::default() });
            if orphan.tool_call_id.as_ref() != Some(&id) {
                Arc::make_mut(&mut orphan).tool_call_id = Some(id);
            }
            results.push(orphan);
        }
        *self.repaired += 1 + u32::try_from(results.len()).unwrap_or(u32::MAX);
        self.out.push(Arc::new(caller));
        self.out.append(&mut results);
    }
}
