//! What the builder refuses, and that it never shows a secret.

use super::*;
use crate::client::LlmClient;

const CANARY: &str = "sk-canary";

fn local() -> OpenAiBuilder {
    OpenAi::builder("http://localhost:8000/v1")
}

fn refused(builder: OpenAiBuilder) -> String {
    let error = builder.build().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    let shown = format!("{error} {error:?}");
    assert!(!shown.contains(CANARY), "{shown}");
    error.to_string()
}

#[test]
fn every_mistake_is_named() {
    let zero = Duration::ZERO;
    let table = [
        (OpenAi::builder(""), "base_url"),
        (OpenAi::builder(CANARY), "base_url"),
        (OpenAi::builder("localhost:8000/v1"), "base_url"),
        (OpenAi::builder("/v1"), "base_url"),
        (OpenAi::builder("ftp://host/sk-canary"), "base_url"),
        (OpenAi::builder("http://"), "base_url"),
        (OpenAi::builder("http://user:sk-canary@host/v1?key=sk-canary#sk-canary"), "base_url = http://host/v1:"),
        (OpenAi::builder("http://sk-canary@host"), "base_url = http://host:"),
        (OpenAi::builder("http://user:sk-canary@[::1/v1"), "base_url"),
        (OpenAi::builder("http://host/v1/chat/completions/?key=sk-canary"), "/chat/completions"),
        (local().api_key(""), "api_key = \"\""),
        (local().api_key(" "), "api_key = \"\""),
        (local().api_key("sk-canary\n"), "api_key"),
        (local().api_key("sk-canary x"), "api_key"),
        (local().api_key("\u{201c}sk-canary\u{201d}"), "api_key"),
        (local().header("x-key", "sk-canary\r\nx: y"), "x-key"),
        (local().header("bad name", CANARY), "header = \"bad name\""),
        (local().header("Content-Length", CANARY), "content-length"),
        (local().organization("sk-canary\0"), "openai-organization"),
        (local().project("sk-canary\n"), "openai-project"),
        (local().connect_timeout(zero), "connect_timeout = 0s"),
        (local().pool_idle_timeout(zero), "pool_idle_timeout = 0s"),
        (local().max_body_bytes(0), "max_body_bytes = 0"),
        (OpenAiBuilder::public(), "api_key = unset"),
    ];
    for (builder, expected) in table {
        let shown = refused(builder);
        assert!(shown.contains(expected), "{shown} lacks {expected}");
    }
}

#[test]
fn info_holds_no_credentials() {
    let client = OpenAi::builder("https://gate.example:8443/openai/v1/?api-version=sk-canary").account("team").build();
    let client = client.unwrap();
    let info = client.info();
    assert_eq!(info.provider, "openai");
    assert_eq!(info.endpoint, "https://gate.example:8443/openai/v1");
    assert_eq!(info.account, "team");
}

#[test]
fn nothing_shows_the_key() {
    let builder = OpenAi::builder("http://host/v1?key=sk-canary").api_key(CANARY).header("x-key", CANARY);
    assert!(!format!("{builder:?}").contains(CANARY));
    assert!(!format!("{:?}", builder.build().unwrap()).contains(CANARY));
}

#[test]
fn variables_set_endpoint_and_key() {
    let build = |base: &'static str, key: &'static str| {
        OpenAiBuilder::from_vars(move |name| {
            Some(if name == "OPENAI_BASE_URL" { base.to_owned() } else { key.to_owned() })
        })
        .build()
    };
    assert_eq!(build("", "sk").unwrap().info().endpoint, PUBLIC);
    assert_eq!(build("http://h/v1", "").unwrap().info().endpoint, "http://h/v1");
    assert!(build("", "").is_err());
    assert!(OpenAiBuilder::from_vars(|_| None).build().is_err());
}

#[test]
fn a_header_given_by_name_replaces_the_key() {
    let builder = OpenAi::builder(PUBLIC).api_key("first").header("Authorization", "second");
    let base = builder.base().unwrap();
    let map = builder.header_map(&base).unwrap();
    assert_eq!(map.get_all(AUTHORIZATION).iter().collect::<Vec<_>>(), ["second"]);
    assert!(map[AUTHORIZATION].is_sensitive());
}
