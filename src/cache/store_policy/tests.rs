use super::*;
use crate::types::ChatBody;
use serde_json::{Value, json};

fn request(format: Value) -> ChatRequest {
    let wire = json!({"model": "m", "messages": [{"role": "user", "content": "q"}], "response_format": format});
    serde_json::from_value::<ChatBody>(wire).unwrap().into()
}

fn answer(reason: &str, message: Value) -> ChatCompletion {
    serde_json::from_value(json!({"choices": [{"finish_reason": reason, "message": message}]})).unwrap()
}

fn says(text: &str) -> ChatCompletion {
    answer("stop", json!({"role": "assistant", "content": text}))
}

fn keeps(policy: &StorePolicy, completion: &ChatCompletion) -> bool {
    policy.takes(&ChatRequest::new("m").user("q"), completion)
}

fn tool_call() -> ChatCompletion {
    answer(
        "tool_calls",
        json!({"role": "assistant", "content": null, "tool_calls": [
        {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}]}),
    )
}

#[test]
fn only_whole_answers_that_say_something_are_kept() {
    let policy = StorePolicy::default();
    let old_call = json!({"role": "assistant", "content": null, "function_call": {"name": "f", "arguments": "{}"}});
    for kept in [
        says("yes"),
        tool_call(),
        answer("function_call", old_call),
        answer("stop", json!({"role": "assistant", "content": "yes", "refusal": ""})),
    ] {
        assert!(keeps(&policy, &kept), "{kept:?}");
    }
    let mut half = says("yes");
    half.choices.push(answer("length", json!({"role": "assistant", "content": "cu"})).choices.remove(0));
    let mut endless = says("yes");
    endless.choices[0].finish_reason = None;
    for passed_on in [
        answer("length", json!({"role": "assistant", "content": "cut"})),
        answer("content_filter", json!({"role": "assistant", "content": "filtered"})),
        answer("end_turn", json!({"role": "assistant", "content": "a word of its own"})),
        answer("stop", json!({"role": "assistant", "content": null, "refusal": "no"})),
        answer("stop", json!({"role": "assistant", "content": null, "function_call": null})),
        says(""),
        says(" \n"),
        ChatCompletion::default(),
        half,
        endless,
    ] {
        assert!(!keeps(&policy, &passed_on), "{passed_on:?}");
    }
}

#[test]
fn each_setting_does_what_it_says() {
    let new = StorePolicy::new;
    let refusal = answer("stop", json!({"role": "assistant", "content": null, "refusal": "no"}));
    assert!(keeps(&new().refusals(true), &refusal));
    assert!(keeps(&new().empty_answers(true), &says("")));
    assert!(!keeps(&new().empty_answers(true), &ChatCompletion::default()));
    assert!(!keeps(&new().tool_calls(false), &tool_call()));
    assert!(keeps(&new().tool_calls(false), &says("yes")));
    let own = new().finish_reasons([FinishReason::from("end_turn")]);
    assert!(keeps(&own, &answer("end_turn", json!({"role": "assistant", "content": "x"}))));
    assert!(!keeps(&own, &says("yes")));
    let small = new().max_answer_bytes(10_000);
    assert!(keeps(&small, &says(&"x".repeat(5_000))) && !keeps(&small, &says(&"x".repeat(10_000))));
    let both = new().also(|_, answer| answer.choices.len() == 1).also(|request, _| request.model == "m");
    assert!(keeps(&both, &says("yes")));
    assert!(!keeps(&both.also(|_, _| false), &says("yes")));
    assert!(!keeps(&new().also(|_, _| panic!("scripted panic")), &says("yes")));
}

#[test]
fn what_is_not_the_json_asked_for_is_not_kept() {
    let policy = StorePolicy::default();
    for format in [
        json!({"type": "json_object"}),
        json!({"type": "json_object", "schema": {}}),
        json!({"type": "json_schema", "json_schema": {"name": "s", "schema": {"type": "object"}}}),
    ] {
        let request = request(format);
        assert!(policy.takes(&request, &says(" {\"a\": 1}\n")));
        assert!(policy.takes(&request, &tool_call()));
        for wrong in ["{\"a\": 1", "```json\n{}\n```", "Sure! {}", "{} {}"] {
            assert!(!policy.takes(&request, &says(wrong)), "{wrong}");
            assert!(StorePolicy::new().valid_json(false).takes(&request, &says(wrong)));
        }
        assert!(!StorePolicy::new().empty_answers(true).takes(&request, &says("")));
    }
    assert!(policy.takes(&request(json!({"type": "text"})), &says("plain")));
}

#[test]
fn settings_that_keep_nothing_are_refused() {
    let refused = |policy: StorePolicy| policy.check().unwrap_err().to_string();
    assert!(refused(StorePolicy::new().finish_reasons([])).contains("finish_reasons = []"));
    assert!(refused(StorePolicy::new().max_answer_bytes(0)).contains("max_answer_bytes = 0"));
    assert!(StorePolicy::new().check().is_ok());
}

#[test]
fn unsampled_only_means_temperature_zero() {
    let policy = StorePolicy::new().sampled(false);
    let ask = ChatRequest::new("m").user("q");
    assert!(policy.passes_by(&ask) && policy.passes_by(&ask.clone().temperature(0.1)));
    assert!(!policy.passes_by(&ask.clone().temperature(0.0)) && !policy.passes_by(&ask.clone().temperature(-0.0)));
    assert!(!StorePolicy::default().passes_by(&ask));
}
