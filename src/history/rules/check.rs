//! One pass over a conversation.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::alone::{CALL_ID, alone, plain, untrimmed};
use super::{Broken, Rule, Rules};
use crate::types::{Message, Role, ToolCall};

pub(super) fn check(rules: Rules, messages: &[Arc<Message>]) -> Result<(), Broken> {
    let broken = |rule, position| Broken { rule, position };
    let mut ids = HashSet::new();
    let mut before: Option<&Role> = None;
    // The last to speak who gave no instructions.
    let mut last: Option<usize> = None;
    let mut at = 0;
    while let Some(message) = messages.get(at) {
        alone(rules, message).map_err(|rule| broken(rule, at))?;
        if message.role.is_instruction() {
            if last.is_some() && rules.has(Rule::InstructionsFirst) {
                return Err(broken(Rule::InstructionsFirst, at));
            }
        } else {
            if last.is_none() && message.role != Role::User && rules.has(Rule::UserFirst) {
                return Err(broken(Rule::UserFirst, at));
            }
            last = Some(at);
        }
        match (before, &message.role) {
            (Some(Role::User), Role::User) if rules.has(Rule::UsersApart) => return Err(broken(Rule::UsersApart, at)),
            (Some(Role::Assistant), Role::Assistant) if rules.has(Rule::AssistantsApart) => {
                return Err(broken(Rule::AssistantsApart, at));
            }
            (_, Role::Tool) if rules.has(Rule::ResultsHaveCalls) => return Err(broken(Rule::ResultsHaveCalls, at)),
            _ => {}
        }
        before = Some(&message.role);
        let caller = at;
        at += 1;
        if message.role == Role::Assistant && !message.tool_calls.is_empty() {
            let calls = &message.tool_calls;
            well_numbered(rules, calls, &mut ids).map_err(|rule| broken(rule, caller))?;
            let results = results(calls, messages.get(at..).unwrap_or_default());
            if results < calls.len() && rules.has(Rule::CallsAnswered) {
                return Err(broken(Rule::CallsAnswered, caller));
            }
            if let Some(result) = results.checked_sub(1) {
                for (position, result) in messages.iter().enumerate().skip(at).take(results) {
                    alone(rules, result).map_err(|rule| broken(rule, position))?;
                }
                at += results;
                last = Some(caller + 1 + result);
                before = Some(&Role::Tool);
            }
        }
    }
    let Some(end) = last.and_then(|at| messages.get(at)) else {
        let missing = [(Rule::Present, messages.is_empty()), (Rule::UserFirst, true)];
        let missing = missing.into_iter().find(|(rule, missing)| *missing && rules.has(*rule));
        return missing.map_or(Ok(()), |(rule, _)| Err(broken(rule, messages.len())));
    };
    if end.role == Role::Assistant {
        let rule = if rules.has(Rule::UserLast) {
            Some(Rule::UserLast)
        } else {
            (rules.has(Rule::PrefillTrimmed) && untrimmed(end)).then_some(Rule::PrefillTrimmed)
        };
        if let (Some(rule), Some(at)) = (rule, last) {
            return Err(broken(rule, at));
        }
    }
    Ok(())
}

/// How many of the messages, from the first on, answer one of the calls each; no call is answered twice.
fn results(calls: &[ToolCall], messages: &[Arc<Message>]) -> usize {
    let id = |message: &Arc<Message>| message.role == Role::Tool && message.tool_call_id.is_some();
    let answered =
        |(call, message): &(&ToolCall, &Arc<Message>)| id(message) && message.tool_call_id.as_ref() == Some(&call.id);
    // Mostly the results come as they were called.
    let in_order = calls.iter().zip(messages).take_while(answered).count();
    let (calls, messages) = (calls.get(in_order..).unwrap_or_default(), messages.get(in_order..).unwrap_or_default());
    let messages = messages.iter().take(calls.len()).take_while(|message| id(message));
    let ids = messages.map(|message| message.tool_call_id.as_deref().unwrap_or_default());
    if calls.len() <= 64 {
        let mut open = u64::MAX;
        let answers = |id: &str| {
            let call = (0..).zip(calls).find(|(at, call)| open & (1_u64 << at) != 0 && call.id == id);
            call.inspect(|(at, _)| open &= !(1_u64 << at)).is_some()
        };
        in_order + ids.map(answers).take_while(|answers| *answers).count()
    } else {
        let mut open: HashMap<&str, usize> = HashMap::new();
        for call in calls {
            *open.entry(&call.id).or_default() += 1;
        }
        let answers = |id: &str| {
            let open = open.get_mut(id).filter(|open| **open > 0);
            open.map(|open| *open -= 1).is_some()
        };
        in_order + ids.map(answers).take_while(|answers| *answers).count()
    }
}

/// Few enough calls to compare each with each.
const FEW: usize = 16;

fn well_numbered<'m>(rules: Rules, calls: &'m [ToolCall], ids: &mut HashSet<&'m str>) -> Result<(), Rule> {
    if rules.has(Rule::CallIds) {
        let twice = if calls.len() <= FEW {
            calls.iter().enumerate().any(|(at, call)| calls.iter().take(at).any(|other| other.id == call.id))
        } else {
            let mut own = HashSet::with_capacity(calls.len());
            !calls.iter().all(|call| own.insert(&call.id))
        };
        if twice || calls.iter().any(|call| call.id.is_empty()) {
            return Err(Rule::CallIds);
        }
    }
    if rules.has(Rule::CallIdsPlain) && !calls.iter().all(|call| plain(&call.id)) {
        return Err(Rule::CallIdsPlain);
    }
    if rules.has(Rule::CallIdsShort) && calls.iter().any(|call| call.id.len() > CALL_ID) {
        return Err(Rule::CallIdsShort);
    }
    if rules.has(Rule::CallIdsOnce) && !calls.iter().all(|call| ids.insert(&call.id)) {
        return Err(Rule::CallIdsOnce);
    }
    Ok(())
}
