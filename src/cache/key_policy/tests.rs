use super::*;
use crate::types::Tenant;
use serde_json::{Value, json};

fn wire() -> Value {
    json!({"model": "m", "temperature": 0.5, "top_p": 0.9, "max_tokens": 5, "max_completion_tokens": 6, "seed": 3,
        "user": "u", "metadata": {"trace": 1}, "service_tier": "flex", "messages": [
            {"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}]})
}

fn parse(wire: Value) -> ChatRequest {
    serde_json::from_value::<ChatBody>(wire).unwrap().into()
}

fn key(policy: &KeyPolicy, request: &ChatRequest) -> Vec<u8> {
    policy.chat(&ClientInfo::new("p"), request, crate::Env::new().now()).bytes().to_vec()
}

fn asked(text: &str) -> ChatRequest {
    ChatRequest::new("m").user(text)
}

/// Each field left out, and no other, no longer counts.
#[test]
fn what_is_left_out_does_not_count_and_all_else_does() {
    let fields = [
        (KeyField::Seed, "/seed", json!(4)),
        (KeyField::User, "/user", json!("v")),
        (KeyField::Temperature, "/temperature", json!(0.7)),
        (KeyField::TopP, "/top_p", json!(0.7)),
        (KeyField::MaxTokens, "/max_tokens", json!(9)),
        (KeyField::MaxTokens, "/max_completion_tokens", json!(9)),
        (KeyField::Extra("metadata".into()), "/metadata", json!({"trace": 2})),
        (KeyField::Extra("service_tier".into()), "/service_tier", json!("auto")),
    ];
    for (field, ..) in &fields {
        let policy = KeyPolicy::new().leave_out(field.clone());
        let of = |path: &str, value: Option<&Value>| {
            let mut wire = wire();
            match value {
                Some(value) => *wire.pointer_mut(path).unwrap() = value.clone(),
                None => drop(wire.as_object_mut().unwrap().remove(&path[1..])),
            }
            key(&policy, &parse(wire))
        };
        let base = key(&policy, &parse(wire()));
        for (other, path, value) in &fields {
            let left_out = other == field;
            assert_eq!(of(path, Some(value)) == base, left_out, "{path} without {field:?}");
            assert_eq!(of(path, None) == base, left_out, "no {path} without {field:?}");
        }
        assert_ne!(of("/messages/1/content", Some(&json!("How?"))), base);
        let tenant = |name: &str| key(&policy, &parse(wire()).with(Tenant(name.into())));
        assert_ne!(tenant("a"), tenant("b"));
    }
}

/// Else a strict policy would be served what a lax one has mixed up, from a tier they share.
#[test]
fn every_policy_has_keys_of_its_own() {
    let new = KeyPolicy::new;
    let extra = |name: &str| KeyField::Extra(name.into());
    let policies = [
        new(),
        new().salt("a"),
        new().salt("b"),
        new().salt("a\" [Seed] Exact 0"),
        new().leave_out(KeyField::Seed),
        new().leave_out(KeyField::Seed).salt("a"),
        new().leave_out(KeyField::User),
        new().leave_out(extra("x")).leave_out(extra("y")),
        new().leave_out(extra("x\"), Extra(\"y")),
        new().texts(KeyTexts::Whitespace),
        new().texts(KeyTexts::Folded),
        new().rewrite(|_| ()),
        new().rewrite(|_| panic!("scripted panic")),
        new().rewrite(|_| ()).rewrite(|_| ()),
    ];
    let mut seen = std::collections::HashSet::new();
    for policy in &policies {
        assert!(seen.insert(key(policy, &asked("plain"))), "{policy:?}");
    }
    let one = new().leave_out(KeyField::Seed).leave_out(KeyField::User);
    let other = new().leave_out(KeyField::User).leave_out(KeyField::Seed).leave_out(KeyField::Seed);
    assert_eq!(key(&one, &asked("x")), key(&other, &asked("x")), "their order does not matter");
    let plain = Probe::chat(&ClientInfo::new("p"), &asked("x"), crate::Env::new().now());
    for nothing in [new(), new().salt(""), new().texts(KeyTexts::Exact)] {
        assert_eq!((key(&nothing, &asked("x")), nothing.describe()), (plain.bytes().to_vec(), String::new()));
    }
}

#[test]
fn texts_of_one_form_have_one_key() {
    let same = |texts, a, b| {
        let policy = KeyPolicy::new().texts(texts);
        key(&policy, &asked(a)) == key(&policy, &asked(b))
    };
    assert!(same(KeyTexts::Folded, "Why is the sky blue?", " why is  the SKY blue"));
    assert!(!same(KeyTexts::Whitespace, "Why?", "why?") && same(KeyTexts::Whitespace, "Why  so", "Why so "));
    assert!(!same(KeyTexts::Exact, "Why so", "Why  so"));
    let after = |history: &str| {
        let request = ChatRequest::new("m").user(history).assistant("Yes.").user("Why?");
        key(&KeyPolicy::new().texts(KeyTexts::Folded), &request)
    };
    assert_ne!(after("Is it blue?"), after("is it blue?"), "the conversation before it counts exactly");
}

#[test]
fn a_rewrite_changes_the_key_and_not_the_request() {
    let policy = KeyPolicy::new().texts(KeyTexts::Folded).rewrite(|body| {
        let text = body.messages[0].text().replace("[12:01]", "").replace("[12:02]", "");
        body.messages = vec![crate::types::Message::user(text)].into();
    });
    let (one, other) = (asked("[12:01] Why?"), asked("[12:02] why"));
    assert_eq!(key(&policy, &one), key(&policy, &other), "what is rewritten is then normalised");
    assert_eq!(one.messages[0].text(), "[12:01] Why?");

    let panics = KeyPolicy::new().rewrite(|body| {
        body.model = "another".to_owned();
        assert!(body.messages[0].text() != "panic", "scripted panic");
    });
    assert_ne!(key(&panics, &asked("panic")), key(&panics, &ChatRequest::new("another").user("panic")));
    assert_eq!(key(&panics, &asked("panic")), key(&panics, &asked("panic")));
}

#[test]
fn vectors_follow_the_policy_too() {
    let mut request = EmbedRequest::new("m", ["a"]);
    request.user = Some("u".to_owned());
    request.extra.insert("trace".to_owned(), json!(1));
    let mut other = request.clone();
    other.user = None;
    let mut third = other.clone();
    third.extra.clear();
    let key = |policy: &KeyPolicy, request: &EmbedRequest| {
        let now = crate::Env::new().now();
        policy.embedding(&ClientInfo::new("p"), request, EmbedItem::Text("a"), now).bytes().to_vec()
    };
    let plain = KeyPolicy::new();
    assert_ne!(key(&plain, &request), key(&plain, &other));
    let lax = KeyPolicy::new().leave_out(KeyField::User);
    assert_eq!(key(&lax, &request), key(&lax, &other));
    assert_ne!(key(&lax, &other), key(&lax, &third));
    let laxer = lax.clone().leave_out(KeyField::Extra("trace".into()));
    assert_eq!(key(&laxer, &request), key(&laxer, &third));
    assert_ne!(key(&KeyPolicy::new().salt("v2"), &request), key(&plain, &request));
    assert_ne!(key(&lax, &other), key(&plain, &other));
    let tenant = |name: &str| key(&laxer, &request.clone().with(Tenant(name.into())));
    assert_ne!(tenant("a"), tenant("b"));
}

#[test]
fn names_of_no_extra_field_are_refused() {
    for name in ["", "seed", "messages", "temperature"] {
        let error = KeyPolicy::new().leave_out(KeyField::Extra(name.into())).check().unwrap_err();
        assert!(error.to_string().contains("keys leave_out"), "{error}");
    }
    assert!(KeyPolicy::new().leave_out(KeyField::Extra("metadata".into())).check().is_ok());
    // A field that gets a place of its own later must be added to the list.
    let mut all = parse(wire());
    all.extra.clear();
    let body = serde_json::to_value(all.body()).unwrap();
    assert!(body.as_object().unwrap().keys().all(|name| PLACED.contains(&name.as_str())));
}

#[test]
fn a_policy_says_what_it_does_and_not_its_salt() {
    let policy = KeyPolicy::new().salt("secret").leave_out(KeyField::Seed).leave_out(KeyField::User);
    assert_eq!(policy.describe(), ", keys salted and without seed/user");
    let policy = policy.texts(KeyTexts::Folded).rewrite(|_| ());
    assert_eq!(policy.describe(), ", keys salted and without seed/user and texts folded and rewritten");
    assert!(!format!("{policy:?}").contains("secret"));
}
