use serde_json::{Value, json};

use super::*;

fn messages(value: Value) -> Messages {
    serde_json::from_value(value).unwrap()
}

fn call(id: &str) -> Value {
    json!({"id": id, "type": "function", "function": {"name": "look", "arguments": "{}"}})
}

fn calls(ids: &[&str]) -> Value {
    json!({"role": "assistant", "tool_calls": ids.iter().map(|id| call(id)).collect::<Vec<_>>()})
}

fn result(id: &str, text: &str) -> Value {
    json!({"role": "tool", "tool_call_id": id, "content": text})
}

fn says(role: &str, text: &str) -> Value {
    json!({"role": role, "content": text})
}

/// Repairs, holds the result against the rules, and repairs again.
fn fixed(rules: Rules, conversation: Value) -> (Value, u32) {
    let repair = Repair::fix().rules(rules);
    let (fixed, repaired) = repair.apply(messages(conversation)).unwrap();
    assert_eq!(rules.check(&fixed), Ok(()));
    let (again, none) = repair.apply(fixed.clone()).unwrap();
    assert!(again.ptr_eq(&fixed) && none == 0);
    (serde_json::to_value(&fixed).unwrap(), repaired)
}

fn by_openai(conversation: Value) -> (Value, u32) {
    fixed(Rules::openai(), conversation)
}

#[test]
fn a_valid_conversation_is_the_very_same_list() {
    let valid = messages(json!([says("user", "u"), calls(&["a"]), result("a", "r"), says("assistant", "a")]));
    for repair in [Repair::fix(), Repair::refuse(), Repair::fix().rules(Rules::anthropic())] {
        let (same, repaired) = repair.apply(valid.clone()).unwrap();
        assert!(same.ptr_eq(&valid) && repaired == 0);
    }
}

#[test]
fn refuses_with_rule_position_and_what_to_do() {
    let broken = messages(json!([says("user", "secret"), calls(&["a"]), says("user", "u")]));
    let error = Repair::refuse().apply(broken).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidRequest);
    let text = error.to_string();
    assert!(text.contains("messages[1]") && text.contains("add a tool message"), "{text}");
    assert!(!text.contains("secret"));
    // Nothing can be made of nothing.
    assert_eq!(Repair::fix().apply(Messages::new()).unwrap_err().kind(), ErrorKind::InvalidRequest);
}

#[test]
fn results_go_to_their_calls() {
    let (user, late) = (says("user", "u"), says("user", "late"));
    let apart = json!([user, calls(&["a", "b"]), result("b", "rb"), late, result("a", "ra"), says("assistant", "x")]);
    let together =
        json!([user, calls(&["a", "b"]), result("b", "rb"), result("a", "ra"), late, says("assistant", "x")]);
    assert_eq!(by_openai(apart), (together, 1));
    let early = json!([user, result("a", "ra"), calls(&["a"])]);
    assert_eq!(by_openai(early), (json!([user, calls(&["a"]), result("a", "ra")]), 1));
    // Ids that are used again: each result goes to the call before it.
    let again = json!([user, calls(&["a"]), calls(&["a"]), result("a", "second")]);
    let (fixed, _) = by_openai(again);
    assert_eq!(
        (&fixed[2]["content"], &fixed[4]["content"]),
        (&json!("(No result of this call came.)"), &json!("second"))
    );
}

#[test]
fn a_call_without_a_result_says_so_until_one_comes() {
    let user = says("user", "u");
    let (fixed, repaired) = by_openai(json!([user, calls(&["a", "b"]), result("b", "rb"), user]));
    let placeholder = result("a", "(No result of this call came.)");
    assert_eq!(fixed, json!([user, calls(&["a", "b"]), result("b", "rb"), placeholder, user]));
    assert_eq!(repaired, 1);
    let mut later = fixed.as_array().unwrap().clone();
    later.push(result("a", "ra"));
    let (fixed, repaired) = by_openai(json!(later));
    assert_eq!(fixed, json!([user, calls(&["a", "b"]), result("b", "rb"), result("a", "ra"), user]));
    assert_eq!(repaired, 2);
}

#[test]
fn a_result_without_a_call_stays_a_result() {
    let user = says("user", "u");
    let (fixed, repaired) = by_openai(json!([result("x", "rx"), result("y", "ry"), user]));
    assert_eq!(repaired, 3);
    assert_eq!(fixed[0]["role"], "assistant");
    assert_eq!(fixed[0]["tool_calls"][1]["function"]["name"], "unknown_tool");
    assert_eq!((&fixed[1], &fixed[2], &fixed[3]), (&result("x", "rx"), &result("y", "ry"), &user));
    // Said twice is said once; said otherwise is kept.
    let twice = json!([user, calls(&["a"]), result("a", "r"), result("a", "r")]);
    assert_eq!(by_openai(twice), (json!([user, calls(&["a"]), result("a", "r")]), 1));
    let (fixed, _) = by_openai(json!([user, calls(&["a"]), result("a", "r"), result("a", "other")]));
    assert_eq!((fixed.as_array().unwrap().len(), &fixed[4]["content"]), (5, &json!("other")));
}

#[test]
fn ids_become_what_they_may_be() {
    let user = says("user", "u");
    let twice =
        json!([user, calls(&["a", "a", ""]), result("a", "1"), result("a", "2"), {"role": "tool", "content": "3"}]);
    let expected =
        json!([user, calls(&["a", "a_1", "call_1"]), result("a", "1"), result("a_1", "2"), result("call_1", "3")]);
    assert_eq!(by_openai(twice).0, expected);
    let foreign = json!([user, calls(&["look:0"]), result("look:0", "1"), calls(&["look:0"]), result("look:0", "2")]);
    let expected =
        json!([user, calls(&["look_0"]), result("look_0", "1"), calls(&["look_0_1"]), result("look_0_1", "2")]);
    assert_eq!(fixed(Rules::anthropic(), foreign).0, expected);
    let long = "x".repeat(50);
    let (fixed, _) = fixed(Rules::strict(), json!([user, calls(&[&long]), result(&long, "r")]));
    assert_eq!(fixed[2]["tool_call_id"], format!("{}_1", "x".repeat(32)));
}

#[test]
fn the_oldest_form_of_tools_becomes_the_newer() {
    let old = json!([
        says("user", "u"),
        {"role": "assistant", "content": null, "function_call": {"name": "look", "arguments": "{}"}},
        {"role": "function", "name": "look", "content": "r"},
    ]);
    let (fixed, repaired) = fixed(Rules::anthropic(), old);
    assert_eq!(fixed[1], calls(&["call_1"]));
    assert_eq!((&fixed[2]["role"], &fixed[2]["tool_call_id"]), (&json!("tool"), &json!("call_1")));
    assert_eq!(repaired, 4);
}

#[test]
fn speakers_stand_as_the_rules_will_have_it() {
    let broken = json!([
        says("assistant", "a"),
        says("system", "s"),
        says("assistant", "b "),
        {"role": "user", "content": "u", "name": "ann"},
        {"role": "user", "content": [{"type": "text", "text": "v"}], "name": "bob"},
        {"role": "user", "content": ""},
        {"role": "assistant", "content": " "},
        says("ai", "c "),
    ]);
    let (strict, _) = fixed(Rules::strict(), broken.clone());
    let expected = json!([
        says("system", "s"),
        says("user", "(The beginning of this conversation is missing.)"),
        says("assistant", "a\n\nb "),
        {"role": "user", "content": [
            {"type": "text", "text": "ann: u"}, {"type": "text", "text": "bob:"}, {"type": "text", "text": "v"},
            {"type": "text", "text": "(empty)"},
        ]},
        says("assistant", "c "),
        says("user", "Please continue."),
    ]);
    assert_eq!(strict, expected);
    // What nobody minds stays.
    let (openai, repaired) = by_openai(broken);
    assert_eq!(openai[7], says("assistant", "c "));
    assert_eq!((openai.as_array().unwrap().len(), repaired), (8, 1));
}
