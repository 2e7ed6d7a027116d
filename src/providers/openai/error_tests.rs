//! Tables of refusals and what becomes of them.

use std::time::Duration;

use proptest::prelude::*;
use reqwest::header::HeaderValue;
use serde_json::json;

use super::*;

fn refuse(status: u16, body: &str) -> Error {
    from_status(status, &HeaderMap::new(), body.as_bytes(), SystemTime::UNIX_EPOCH)
}

fn coded(code: &str) -> String {
    json!({"error": {"message": "text", "type": "some_error", "code": code, "param": null}}).to_string()
}

#[test]
fn a_status_and_a_code_become_a_kind() {
    use ErrorKind::*;
    let table = [
        (400, "x", InvalidRequest, false),
        (400, "context_length_exceeded", ContextLength, false),
        (400, "content_filter", ContentFilter, false),
        (400, "content_policy_violation", ContentFilter, false),
        (401, "invalid_api_key", Auth, false),
        (402, "x", QuotaExhausted, false),
        (403, "x", Auth, false),
        (404, "model_not_found", NotFound, false),
        (405, "x", InvalidRequest, false),
        (408, "x", Timeout, true),
        (409, "x", Server, true),
        (413, "context_length_exceeded", ContextLength, false),
        (422, "x", InvalidRequest, false),
        (425, "x", Server, true),
        (429, "rate_limit_exceeded", RateLimited, true),
        (429, "insufficient_quota", QuotaExhausted, false),
        (429, "billing_hard_limit_reached", QuotaExhausted, false),
        (500, "insufficient_quota", Server, true),
        (503, "x", Server, true),
        (529, "x", Server, true),
        (302, "x", Other, false),
    ];
    for (status, code, kind, retried) in table {
        let error = refuse(status, &coded(code));
        assert_eq!(error.kind(), kind, "{status} {code}");
        assert_eq!(error.retryability() == Retryability::After(None), retried, "{status} {code}");
        assert_eq!((error.status(), error.code()), (Some(status), Some(code)));
        assert_eq!(error.provider_message(), Some("text"));
    }
}

#[test]
fn every_shape_of_body_gives_its_text() {
    let table = [
        (r#"{"error": {"message": "a", "type": "t", "code": null}}"#, Some("a"), Some("t")),
        (r#"{"error": {"message": "a", "code": 429}}"#, Some("a"), Some("429")),
        (r#"{"error": "a"}"#, Some("a"), None),
        (r#"{"message": "a"}"#, Some("a"), None),
        (r#"{"detail": "a"}"#, Some("a"), None),
        (r#"[{"error": {"message": "a", "code": 400}}]"#, Some("a"), Some("400")),
        (r#"{"error": null, "message": "a"}"#, Some("a"), None),
        (" upstream connect error \n", Some("upstream connect error"), None),
        (r#"{"error": {}}"#, None, None),
        ("{}", None, None),
        ("[]", None, None),
        ("17", None, None),
        ("", None, None),
    ];
    for (body, message, code) in table {
        let error = refuse(500, body);
        assert_eq!((error.provider_message(), error.code()), (message, code), "{body}");
    }
}

#[test]
fn a_sentence_without_a_code_is_still_a_context_too_long() {
    let body = r#"{"object": "error", "message": "This model's maximum context length is 4096 tokens.", "code": 400}"#;
    assert_eq!(refuse(400, body).kind(), ErrorKind::ContextLength);
}

#[test]
fn provider_text_is_cut_at_a_character_and_never_printed() {
    let error = refuse(400, &"ß".repeat(5000));
    assert_eq!(error.provider_message().unwrap().len(), MESSAGE_BYTES);
    assert_eq!(cut(&format!("a{}", "ß".repeat(5000))).unwrap().len(), MESSAGE_BYTES - 1);
    assert!(!format!("{error} {error:?}").contains('ß'));
}

#[test]
fn headers_decide_whether_and_when_to_retry() {
    let wait = Some(Duration::from_secs(3));
    let table = [
        (429, None, Retryability::After(wait)),
        (429, Some("true"), Retryability::After(wait)),
        (429, Some("false"), Retryability::Never),
        (400, None, Retryability::Never),
        (400, Some("true"), Retryability::After(wait)),
        (402, Some("true"), Retryability::Never),
    ];
    for (status, word, expected) in table {
        let mut headers = HeaderMap::new();
        headers.insert("retry-after", HeaderValue::from_static("3"));
        headers.insert("x-ratelimit-remaining-requests", HeaderValue::from_static("0"));
        if let Some(word) = word {
            headers.insert("x-should-retry", HeaderValue::from_static(word));
        }
        let error = from_status(status, &headers, b"", SystemTime::UNIX_EPOCH);
        assert_eq!(error.retryability(), expected, "{status} {word:?}");
        assert_eq!(error.rate_limits().unwrap().remaining_requests, Some(0));
    }
}

#[test]
fn an_error_inside_an_answer_is_told_by_its_words() {
    let table = [
        (json!({"error": {"code": "rate_limit_exceeded"}}), ErrorKind::RateLimited),
        (json!({"error": {"type": "insufficient_quota"}}), ErrorKind::QuotaExhausted),
        (json!({"error": {"code": 429}}), ErrorKind::RateLimited),
        (json!({"error": {"code": 502, "message": "upstream"}}), ErrorKind::Server),
        (json!({"error": {"code": "context_length_exceeded", "type": "invalid_request_error"}}), {
            ErrorKind::ContextLength
        }),
        (json!({"error": {"type": "invalid_request_error"}}), ErrorKind::InvalidRequest),
        (json!({"error": {"type": "server_error"}}), ErrorKind::Server),
        (json!({"error": {"code": 7}}), ErrorKind::Server),
        (json!({"error": "something"}), ErrorKind::Server),
    ];
    for (body, kind) in table {
        let error = from_value(&body);
        assert_eq!((error.kind(), error.status()), (kind, None), "{body}");
        assert_eq!(from_body(body.to_string().as_bytes()).kind(), kind);
    }
}

proptest! {
    #[test]
    fn no_body_panics(status in 0_u16..700, body in proptest::collection::vec(any::<u8>(), 0..200)) {
        let error = from_status(status, &HeaderMap::new(), &body, SystemTime::UNIX_EPOCH);
        prop_assert_eq!(error.status(), Some(status));
    }
}
