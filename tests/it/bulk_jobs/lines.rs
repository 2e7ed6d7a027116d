//! Lines of requests in, lines of results out.

use futures_util::StreamExt;
use sluicegate::OptimizedClient;
use sluicegate::batch::{BulkRequest, jsonl};
use sluicegate::testing::Scripted;
use tokio::io::{AsyncReadExt, repeat};

use super::question;

#[tokio::test(start_paused = true)]
async fn lines_in_and_lines_out() {
    let mut input = String::new();
    for n in 0..20 {
        let body = serde_json::to_string(question(n).body()).unwrap();
        input += &match n % 4 {
            0 => format!(r#"{{"custom_id":"c{n}","method":"POST","url":"/v1/chat/completions","body":{body}}}"#),
            1 => body,
            2 => format!("{body} trailing"),
            _ => format!(r#"{{"custom_id":"c0","body":{body}}}"#),
        };
        input += "\n";
    }
    let llm = OptimizedClient::builder(Scripted::new()).build().unwrap();
    let run = llm.bulk().ordered(true).run_lines(std::io::Cursor::new(input)).await.unwrap();
    let mut output = Vec::new();
    let progress = run.write_to(&mut output).await.unwrap();
    assert_eq!((progress.done, progress.failed), (10, 10));
    let lines: Vec<serde_json::Value> =
        String::from_utf8(output).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 20);
    for (n, line) in lines.iter().enumerate() {
        let (id, good) = match n % 4 {
            0 => (format!("c{n}"), true),
            1 => (format!("line-{}", n + 1), true),
            2 => (format!("line-{}", n + 1), false),
            _ => ("c0".to_owned(), false),
        };
        assert_eq!(line["custom_id"], id);
        if good {
            assert_eq!(line["response"]["body"]["choices"][0]["message"]["content"], "ok");
            assert_eq!((&line["response"]["status_code"], &line["error"]), (&200.into(), &serde_json::Value::Null));
            assert!(line["cost"].as_f64().unwrap() > 0.0 && line["usage"]["prompt_tokens"] == 10, "{line}");
        } else {
            assert_eq!((&line["error"]["code"], &line["error"]["line"]), (&"invalid_request".into(), &(n + 1).into()));
            assert!(line["response"].is_null() && line["cost"].is_null());
        }
    }
}

async fn read(input: impl tokio::io::AsyncRead + Send + Unpin + 'static) -> Vec<BulkRequest> {
    jsonl::requests(input).collect().await
}

#[tokio::test]
async fn odd_files_are_read_to_their_end() {
    for nothing in ["", "\n", "\r\n\n  \n", "\u{feff}", "\u{feff}\r\n"] {
        assert!(read(nothing.as_bytes()).await.is_empty(), "{nothing:?}");
        assert_eq!(jsonl::count(nothing.as_bytes()).await.unwrap(), 0);
    }
    let good =
        r#"{"custom_id":"good","model":"m","messages":[{"role":"user","content":"a"}],"large":1e300,"mine":{"x":[1]}}"#;
    let mut input = good.as_bytes().to_vec();
    for line in [
        br#"{"custom_id":"a","body":{"model":"m","messages":[{"role":"user","content":"\xff"}]}}"# as &[u8],
        b"{\"custom_id\":\"b\",\"body\":{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":\"\xff\"}]}}",
        br#"{"custom_id":"c","body":{"model":"m","messages":[{"role":"user","content":"a"}],"seed":1e400}}"#,
        br#"{"custom_id":12345678901234567890123,"body":{"model":"m","messages":[{"role":"user","content":"a"}]}}"#,
        br#"{"custom_id":12345678901234567890124,"body":{"model":"m","messages":[{"role":"user","content":"a"}]}}"#,
        br#"{"custom_id":"\ud800","body":{"model":"m","messages":[{"role":"user","content":"a"}]}}"#,
        "[".repeat(100_000).as_bytes(),
        format!(r#"{{"custom_id":"d","body":{}"#, r#"{"a":"#.repeat(100_000)).as_bytes(),
    ] {
        input.push(b'\n');
        input.extend_from_slice(line);
    }
    input.extend_from_slice(b"\r\n\r\n\n");
    assert_eq!(jsonl::count(&input[..]).await.unwrap(), 9);
    let found = read(std::io::Cursor::new(input)).await;
    let told: Vec<_> = found.iter().map(|item| (item.id(), item.request().is_ok())).collect();
    let large = |id| (Some(id), true);
    let (first, second) = (large("12345678901234567890123"), large("12345678901234567890124"));
    let none = (None, false);
    let expected = [(Some("good"), true), none, none, (Some("c"), false), first, second, none, none, none];
    assert_eq!(told, expected);
    let good = found[0].request().as_ref().unwrap();
    assert_eq!(good.extra.get("mine"), Some(&serde_json::json!({"x": [1]})), "what is unknown is kept");
    assert_eq!(good.extra.get("custom_id"), None, "the id is not of the request");
}

#[tokio::test]
async fn a_line_of_a_hundred_megabytes_fails_alone() {
    let body = serde_json::to_vec(question(0).body()).unwrap();
    let after = std::io::Cursor::new([b"\n", &body[..]].concat());
    let found = read(repeat(b'x').take(100 << 20).chain(after)).await;
    assert_eq!(found.len(), 2);
    let error = found[0].request().as_ref().unwrap_err().to_string();
    assert!(error.contains("line 1 is longer than 64 MiB") && found[1].request().is_ok(), "{error}");
}
