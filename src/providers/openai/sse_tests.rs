//! The same events, however the bytes were cut.

use serde_json::json;

use super::*;
use crate::env::TokioClock;

const MAX: usize = 4096;

/// Everything a stream yields, in a form that compares.
async fn read(pieces: Vec<Bytes>, max: usize) -> Vec<String> {
    let bytes = stream::iter(pieces.into_iter().map(Ok));
    let mut events = std::pin::pin!(chat_events(bytes, max, TokioClock::new(), TaskTracker::new()));
    let mut seen = Vec::new();
    while let Some(event) = events.next().await {
        match event {
            Ok(StreamEvent::Chunk(chunk)) => seen.push(serde_json::to_string(&*chunk).unwrap()),
            Ok(StreamEvent::Finish(finish)) => {
                seen.push(format!("finish {:?}", finish.usage.map(|usage| usage.total_tokens)));
                break;
            }
            Err(error) => {
                seen.push(format!("{error} usage {:?}", error.usage().map(|usage| usage.total_tokens)));
                break;
            }
        }
    }
    seen
}

async fn whole(bytes: &[u8]) -> Vec<String> {
    read(vec![Bytes::copy_from_slice(bytes)], MAX).await
}

fn delta(text: &str) -> String {
    json!({"choices": [{"index": 0, "delta": {"content": text}}]}).to_string()
}

fn stop(index: u32) -> String {
    json!({"choices": [{"index": index, "delta": {}, "finish_reason": "stop"}]}).to_string()
}

fn usage() -> String {
    json!({"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}}).to_string()
}

/// Streams, and the last thing each yields.
fn corpus() -> Vec<(Vec<u8>, &'static str)> {
    let (a, b) = (delta("héllo wörld"), delta("日本 🦀\u{200d}"));
    let truncated = "openai: stream truncated: the stream ended before its finish; the answer is not whole";
    let mut corpus = Vec::new();
    for end in ["\n", "\r\n", "\r"] {
        let lines = [
            ": keep-alive",
            "",
            &format!("data: {a}"),
            "",
            ":",
            "",
            &format!("data:{b}"),
            "id: 7",
            "retry: 10",
            "",
            "event: message",
            &format!("data: {}", usage()),
            "",
            "data",
            "",
            "odd: field",
            "",
            "data: [DONE]",
            "",
        ];
        let text: String = lines.iter().map(|line| format!("{line}{end}")).collect();
        corpus.push((text.clone().into_bytes(), "finish Some(7)"));
        corpus.push((format!("\u{feff}{text}").into_bytes(), "finish Some(7)"));
        corpus.push((format!("\u{feff}data: {a}{end}{end}").into_bytes(), truncated));
        // JSON over two lines of data, and no [DONE].
        let pretty = serde_json::to_string_pretty(&serde_json::from_str::<serde_json::Value>(&stop(0)).unwrap());
        let multi: String = pretty.unwrap().lines().map(|line| format!("data: {line}{end}")).collect();
        corpus.push((format!("data: {a}{end}{end}{multi}{end}").into_bytes(), "finish None"));
    }
    let mut text = |lines: &[&str], last| {
        let events: String = lines.iter().map(|line| format!("{line}\n\n")).collect();
        corpus.push((events.into_bytes(), last));
    };
    let data = |json: &str| format!("data: {json}");
    text(&[&data(&a), &data(&stop(0)), &data(&stop(1)), &data(&usage())], "finish Some(7)");
    text(&[&data(&a), &data(&stop(1))], truncated);
    text(&[], truncated);
    text(&[&data(&a), "data: {\"error\": {\"code\": 429}}", "data: [DONE]"], "openai: rate limited (429): send fewer");
    text(&[&data(&usage()), "event: error\ndata: overloaded"], "openai: provider failed usage Some(7)");
    text(&["event: error"], "openai: provider failed usage None");
    text(&[&data(&a), "data: {oops", "data: [DONE]"], "openai: undecodable answer: an event of the stream is not a c");
    text(&[&data(&a), "data: [1]"], "openai: undecodable answer");
    corpus.push((b"data: \xff\xfe\n\n".to_vec(), "openai: undecodable answer: an event of the stream is not text"));
    // An event without its blank line never arrived.
    corpus.push((format!("data: {}\n\ndata: [DONE]\n", a).into_bytes(), truncated));
    corpus
}

#[tokio::test(start_paused = true)]
async fn every_split_gives_the_same_events() {
    for (bytes, last) in corpus() {
        let expected = whole(&bytes).await;
        let shown = String::from_utf8_lossy(&bytes);
        assert!(expected.last().unwrap().starts_with(last), "{shown}: {expected:?}");
        for split in 0..=bytes.len() {
            let (head, tail) = bytes.split_at(split);
            let pieces = vec![Bytes::copy_from_slice(head), Bytes::copy_from_slice(tail)];
            assert_eq!(read(pieces, MAX).await, expected, "split at {split} of {shown}");
        }
        let single = bytes.iter().map(|byte| Bytes::copy_from_slice(&[*byte])).collect();
        assert_eq!(read(single, MAX).await, expected, "byte by byte {shown}");
    }
}

#[tokio::test(start_paused = true)]
async fn content_arrives_unharmed() {
    let (bytes, _) = corpus().swap_remove(0);
    let seen = whole(&bytes).await;
    assert_eq!(seen.len(), 4);
    assert!(seen[0].contains("héllo wörld"));
    assert!(seen[1].contains("日本 🦀\u{200d}"));
}

#[tokio::test(start_paused = true)]
async fn an_event_past_the_limit_is_refused_wherever_it_is_cut() {
    let small = format!("data: {}\r\n\r\n", delta("ok"));
    let max = small.len();
    // Each shape grows something else inside the parser.
    let shapes = [
        format!("data: {}\n\n", "x".repeat(max)),
        "x".repeat(max + 1),
        "data: x\r\n".repeat(max),
        format!("event: {}", "x".repeat(max)),
    ];
    for shape in shapes {
        let bytes = format!("{small}{small}{shape}");
        for size in [1, 2, 7, 64, bytes.len()] {
            let pieces = bytes.as_bytes().chunks(size).map(Bytes::copy_from_slice).collect();
            let seen = read(pieces, max).await;
            assert_eq!(seen.len(), 3, "{size} {shape}: {seen:?}");
            assert!(seen[2].contains("larger than max_body_bytes"), "{size} {shape}: {seen:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_limit_is_per_event_not_per_stream() {
    for end in ["\n", "\r\n", "\r"] {
        let event = format!(": ping{end}{end}data: {}{end}{end}", delta("ok"));
        let bytes = format!("{}data: [DONE]{end}{end}", event.repeat(50));
        for size in [1, 3, 1000] {
            let pieces = bytes.as_bytes().chunks(size).map(Bytes::copy_from_slice).collect();
            let seen = read(pieces, event.len()).await;
            assert_eq!((seen.len(), seen.last().unwrap().as_str()), (51, "finish None"));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_keeps_the_body_open_does_not_hold_the_finish_back() {
    let done = stream::iter([Ok(Bytes::from_static(b"data: [DONE]\n\n"))]).chain(stream::pending());
    let mut events = std::pin::pin!(chat_events(done, MAX, TokioClock::new(), TaskTracker::new()));
    assert!(matches!(events.next().await, Some(Ok(StreamEvent::Finish(_)))));
}
