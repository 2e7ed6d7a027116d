//! What a provider says in headers: how long to wait, whether to retry, what is left.
//!
//! Nothing here can fail: a value that is absent, negative or unreadable is `None`, an absurdly large one is cut.

use std::time::{Duration, SystemTime};

use reqwest::header::HeaderMap;

use crate::types::RateLimits;

const DAY: Duration = Duration::from_secs(86_400);
const YEAR: Duration = Duration::from_secs(365 * 86_400);

/// How long to wait before the next attempt: `retry-after-ms`, or else `retry-after` in seconds or as an HTTP date
/// relative to `now`. At most a day; a date that has passed says nothing.
pub(super) fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    text(headers, "retry-after-ms").and_then(decimal).and_then(|millis| seconds(millis / 1000.0, DAY)).or_else(|| {
        let text = text(headers, "retry-after")?;
        match decimal(text) {
            Some(value) => seconds(value, DAY),
            None => {
                let until = httpdate::parse_http_date(text).ok()?;
                until.duration_since(now).ok().map(|wait| wait.min(DAY))
            }
        }
    })
}

/// The provider's own word on whether to retry, which counts for more than the status.
pub(super) fn should_retry(headers: &HeaderMap) -> Option<bool> {
    match text(headers, "x-should-retry")? {
        "true" => Some(true),
        "false" => Some(false),
        _ => None,
    }
}

/// The stated rate limits; `None` when no header says anything readable.
pub(super) fn rate_limits(headers: &HeaderMap) -> Option<RateLimits> {
    let count = |name| text(headers, name)?.parse::<u64>().ok();
    let reset = |name| reset(text(headers, name)?);
    let limits = RateLimits {
        limit_requests: count("x-ratelimit-limit-requests"),
        remaining_requests: count("x-ratelimit-remaining-requests"),
        reset_requests: reset("x-ratelimit-reset-requests"),
        limit_tokens: count("x-ratelimit-limit-tokens"),
        remaining_tokens: count("x-ratelimit-remaining-tokens"),
        reset_tokens: reset("x-ratelimit-reset-tokens"),
    };
    (limits != RateLimits::default()).then_some(limits)
}

fn text<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    headers.get(name)?.to_str().ok().map(str::trim)
}

/// A number as people write it in headers. Rust also reads `inf`, `nan` and exponents: a hint of those is a bug there.
fn decimal(text: &str) -> Option<f64> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    plain.then(|| text.parse().ok()).flatten()
}

/// So many seconds, cut to `most`. A long row of digits reads as infinity, which is cut like any large number.
fn seconds(value: f64, most: Duration) -> Option<Duration> {
    Duration::try_from_secs_f64(value.min(most.as_secs_f64())).ok()
}

/// `6m0s`, `1h2m3s`, `1.5s`, `20ms`, or plain seconds.
fn reset(text: &str) -> Option<Duration> {
    if let Some(value) = decimal(text) {
        return seconds(value, YEAR);
    }
    let mut total = 0.0;
    let mut rest = text;
    while !rest.is_empty() {
        let number = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (value, tail) = rest.split_at(number);
        let unit = tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit);
        let scale = match unit {
            "d" => 86_400.0,
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" | "µs" => 1e-6,
            "ns" => 1e-9,
            _ => return None,
        };
        total += decimal(value)? * scale;
        rest = tail;
    }
    (!text.is_empty()).then(|| seconds(total, YEAR)).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use reqwest::header::{HeaderName, HeaderValue};

    type Pair = (&'static str, &'static str);

    fn headers(pairs: &[Pair]) -> HeaderMap {
        let pair =
            |(name, value): &Pair| (HeaderName::from_static(name), HeaderValue::from_bytes(value.as_bytes()).unwrap());
        pairs.iter().map(pair).collect()
    }

    #[test]
    fn retry_after_as_seconds_millis_and_date() {
        let now = httpdate::parse_http_date("Sun, 06 Nov 1994 08:49:37 GMT").unwrap();
        let ms = Duration::from_millis;
        let table: &[(&[Pair], Option<Duration>)] = &[
            (&[], None),
            (&[("retry-after", "2")], Some(ms(2000))),
            (&[("retry-after", " 0.25 ")], Some(ms(250))),
            (&[("retry-after", "0")], Some(ms(0))),
            (&[("retry-after", "9"), ("retry-after-ms", "150")], Some(ms(150))),
            (&[("retry-after", "9"), ("retry-after-ms", "soon")], Some(ms(9000))),
            (&[("retry-after-ms", "1500.5")], Some(Duration::from_micros(1_500_500))),
            (&[("retry-after", "Sun, 06 Nov 1994 08:49:40 GMT")], Some(ms(3000))),
            (&[("retry-after", "Sunday, 06-Nov-94 08:49:40 GMT")], Some(ms(3000))),
            (&[("retry-after", "Sun, 06 Nov 1994 08:49:36 GMT")], None),
            (&[("retry-after", "Fri, 31 Dec 9999 23:59:59 GMT")], Some(DAY)),
            (&[("retry-after", "99999999999999999999999")], Some(DAY)),
            (&[("retry-after-ms", "99999999999999999999999")], Some(DAY)),
            (&[("retry-after", "-1")], None),
            (&[("retry-after", "NaN")], None),
            (&[("retry-after", "inf")], None),
            (&[("retry-after", "1e3")], None),
            (&[("retry-after", ".")], None),
            (&[("retry-after", "")], None),
            (&[("retry-after", "tomorrow")], None),
            (&[("retry-after", "zwölf")], None),
        ];
        for (given, expected) in table {
            assert_eq!(retry_after(&headers(given), now), *expected, "{given:?}");
        }
    }

    #[test]
    fn resets_in_every_form() {
        let table = [
            ("6m0s", Some(360_000_000)),
            ("20ms", Some(20_000)),
            ("1.5s", Some(1_500_000)),
            ("1h2m3s", Some(3_723_000_000)),
            ("1d", Some(86_400_000_000)),
            ("250µs", Some(250)),
            ("7", Some(7_000_000)),
            ("0.5", Some(500_000)),
            ("0s", Some(0)),
            ("999999999999h", Some(YEAR.as_micros())),
            ("-1", None),
            ("-1s", None),
            ("1", Some(1_000_000)),
            ("1s2", None),
            ("s", None),
            ("5 s", None),
            ("1.2.3s", None),
            ("2030-01-01T00:00:00Z", None),
            ("", None),
        ];
        for (text, micros) in table {
            assert_eq!(reset(text).map(|wait| wait.as_micros()), micros, "{text:?}");
        }
    }

    #[test]
    fn rate_limits_keep_what_is_readable() {
        let limits = rate_limits(&headers(&[
            ("x-ratelimit-limit-requests", "500"),
            ("x-ratelimit-remaining-requests", "-1"),
            ("x-ratelimit-reset-requests", "120ms"),
            ("x-ratelimit-remaining-tokens", "149984"),
            ("x-ratelimit-reset-tokens", "garbage"),
        ]));
        let expected = RateLimits {
            limit_requests: Some(500),
            reset_requests: Some(Duration::from_millis(120)),
            remaining_tokens: Some(149_984),
            ..RateLimits::default()
        };
        assert_eq!(limits, Some(expected));
        assert_eq!(rate_limits(&headers(&[("x-ratelimit-limit-tokens", "-1")])), None);
    }

    #[test]
    fn should_retry_is_a_plain_word() {
        for (value, expected) in [("true", Some(true)), ("false", Some(false)), ("1", None), ("", None)] {
            assert_eq!(should_retry(&headers(&[("x-should-retry", value)])), expected);
        }
    }

    proptest! {
        #[test]
        fn no_header_panics(bytes in proptest::collection::vec(32_u8..=255, 0..40), form in "[0-9.]{0,30}(h|m|s|ms)?") {
            for value in [bytes.as_slice(), form.as_bytes()] {
                let Ok(value) = HeaderValue::from_bytes(value) else { continue };
                let names = ["retry-after", "retry-after-ms", "x-ratelimit-reset-tokens", "x-ratelimit-limit-tokens"];
                let all: HeaderMap =
                    names.iter().map(|name| (HeaderName::from_static(name), value.clone())).collect();
                prop_assert!(retry_after(&all, SystemTime::UNIX_EPOCH).is_none_or(|wait| wait <= DAY));
                let _ = rate_limits(&all);
                let _ = should_retry(&all);
            }
        }
    }
}
