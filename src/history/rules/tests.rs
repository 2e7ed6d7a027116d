use serde_json::json;

use super::*;
use crate::types::{Messages, Role};

fn messages(value: serde_json::Value) -> Messages {
    serde_json::from_value(value).unwrap()
}

fn call(id: &str) -> serde_json::Value {
    json!({"id": id, "type": "function", "function": {"name": "look", "arguments": "{}"}})
}

#[test]
fn every_rule_is_found_where_it_is_broken() {
    let calls =
        |ids: &[&str]| json!({"role": "assistant", "tool_calls": ids.iter().map(|id| call(id)).collect::<Vec<_>>()});
    let result = |id: &str| json!({"role": "tool", "tool_call_id": id, "content": "r"});
    let user = json!({"role": "user", "content": "u"});
    let assistant = json!({"role": "assistant", "content": "a"});
    let system = json!({"role": "system", "content": "s"});
    let long = "x".repeat(41);
    for (rule, position, conversation) in [
        (Rule::Present, 0, json!([])),
        (Rule::KnownRoles, 1, json!([user, {"role": "human", "content": "u"}])),
        (Rule::NoFunctions, 1, json!([user, {"role": "function", "name": "look", "content": "r"}])),
        (Rule::NoFunctions, 1, json!([user, {"role": "assistant", "function_call": {"name": "look"}}])),
        (Rule::Content, 0, json!([{"role": "user"}])),
        (Rule::Content, 0, json!([{"role": "user", "content": []}])),
        (Rule::Content, 1, json!([user, {"role": "assistant"}])),
        (Rule::TextNotBlank, 1, json!([user, {"role": "assistant", "content": " \n"}])),
        (Rule::TextNotBlank, 0, json!([{"role": "user", "content": [{"type": "text", "text": ""}]}])),
        (Rule::Names, 0, json!([{"role": "user", "content": "u", "name": "a b"}])),
        (
            Rule::FunctionNames,
            1,
            json!([user, {"role": "assistant", "tool_calls": [{"id": "c", "function": {"name": "a.b"}}]}, result("c")]),
        ),
        (Rule::CallsAnswered, 1, json!([user, calls(&["a", "b"]), result("b")])),
        (Rule::CallsAnswered, 1, json!([user, calls(&["a"]), user, result("a")])),
        (Rule::ResultsHaveCalls, 3, json!([user, calls(&["a"]), result("a"), result("a")])),
        (Rule::ResultsHaveCalls, 1, json!([user, result("a")])),
        (Rule::CallIds, 1, json!([user, calls(&["a", "a"]), result("a"), result("a")])),
        (Rule::CallIds, 1, json!([user, calls(&[""]), result("")])),
        (Rule::CallIdsOnce, 3, json!([user, calls(&["a"]), result("a"), calls(&["a"]), result("a")])),
        (Rule::CallIdsPlain, 1, json!([user, calls(&["look:0"]), result("look:0")])),
        (Rule::CallIdsShort, 1, json!([user, calls(&[&long]), result(&long)])),
        (Rule::InstructionsFirst, 1, json!([user, system])),
        (Rule::UserFirst, 1, json!([system, assistant, user])),
        (Rule::UserFirst, 1, json!([system])),
        (Rule::UsersApart, 1, json!([user, user])),
        (Rule::AssistantsApart, 2, json!([user, assistant, assistant, user])),
        (Rule::PrefillTrimmed, 1, json!([user, {"role": "assistant", "content": "a "}])),
        (Rule::UserLast, 1, json!([user, assistant])),
    ] {
        let conversation = messages(conversation);
        let only = Rules::of(&[rule]).check(&conversation).unwrap_err();
        assert_eq!((only.rule(), only.position()), (rule, position), "{conversation:?}");
        // No other rule stands in for it.
        let found = Rules::strict().without(rule).check(&conversation).err().map(|broken| broken.rule());
        assert_ne!(found, Some(rule));
        let text = only.to_string();
        assert!(text.contains(&format!("messages[{position}]")) && text.contains(rule.advice()), "{text}");
    }
}

#[test]
fn what_providers_take_is_taken() {
    let conversation = messages(json!([
        {"role": "developer", "content": "s"},
        {"role": "user", "content": [{"type": "text", "text": "u"}, {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}]},
        {"role": "assistant", "content": "", "tool_calls": [call("a"), call("b"), call("c")]},
        {"role": "tool", "tool_call_id": "c", "content": ""},
        {"role": "tool", "tool_call_id": "a", "content": "r"},
        {"role": "tool", "tool_call_id": "b", "content": "r"},
        {"role": "assistant", "refusal": "no"},
        {"role": "user", "content": "u", "name": "Zoë"},
    ]));
    assert_eq!(Rules::strict().check(&conversation), Ok(()));
    let taken_by_openai = messages(json!([
        {"role": "assistant", "content": "a"},
        {"role": "assistant", "content": ""},
        {"role": "system", "content": "s"},
        {"role": "function", "name": "look", "content": "r"},
    ]));
    assert_eq!(Rules::openai().check(&taken_by_openai), Ok(()));
}

#[test]
fn a_thousand_calls_at_once_in_any_order() {
    let ids: Vec<String> = (0..1_000).map(|id| format!("c{id}")).collect();
    let mut all = vec![json!({"role": "user", "content": "u"})];
    all.push(json!({"role": "assistant", "tool_calls": ids.iter().map(|id| call(id)).collect::<Vec<_>>()}));
    all.extend(ids.iter().rev().map(|id| json!({"role": "tool", "tool_call_id": id, "content": "r"})));
    let whole = messages(json!(all));
    assert_eq!(Rules::strict().check(&whole), Ok(()));
    let short = Rules::strict().check(&whole[..1_001]).unwrap_err();
    assert_eq!((short.rule(), short.position()), (Rule::CallsAnswered, 1));
    assert_eq!(whole[1_001].role, Role::Tool);
}
