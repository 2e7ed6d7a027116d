//! Writing files holds nobody up.

use std::cell::Cell;
use std::pin::pin;

use futures_util::poll;

use super::super::super::client::OpenAi;
use super::super::super::client::tests::held_up;
use super::*;
use crate::types::ChatRequest;

fn batches() -> Batches {
    // Nobody listens there.
    OpenAi::builder("http://127.0.0.1:1/v1").build().unwrap().batches()
}

#[tokio::test]
async fn many_requests_are_written_in_turns() {
    let (batches, written) = (batches(), Cell::new(0));
    let text = "a".repeat(4_096);
    let requests = (0..1_000).map(|_| {
        written.set(written.get() + 1);
        ChatRequest::new("m").user(text.as_str())
    });
    let mut submission = Submission::begin::<ChatRequest>(&batches).await.unwrap();
    let mut writing = pin!(submission.write(requests));
    for turn in 1..=10 {
        assert!(poll!(&mut writing).is_pending());
        // As many as come to 256 KiB.
        assert!((60 * turn..=64 * turn).contains(&written.get()), "{turn}: {}", written.get());
    }
}

#[test]
fn a_long_request_is_written_elsewhere() {
    for (bytes, waits) in [(1_000, false), (1 << 20, true)] {
        let batches = Batches { max_bytes: 2_000, ..batches() };
        // What does not fit in a file is refused when it is written, without asking anybody.
        let requests = [ChatRequest::new("m").user("a".repeat(2_000 + bytes))];
        let written = async {
            let mut submission = Submission::begin::<ChatRequest>(&batches).await?;
            Ok(submission.write(requests).await.unwrap_err().kind())
        };
        assert_eq!(held_up(written), (ErrorKind::InvalidRequest, waits));
    }
}

#[test]
fn a_file_is_hashed_as_a_whole_and_without_what_carries_it() {
    let mut file = File::new(true);
    file.add([b"{", b"1", b"}\n"]);
    file.add([b"{", b"2", b"}\n"]);
    assert_eq!(file.hash(), Some(blake3::hash(b"{1}\n{2}\n").to_hex().to_string()));
    assert_eq!((file.bytes, file.body.strip_prefix(HEAD)), (8, Some(&b"{1}\n{2}\n"[..])));
    assert_eq!(File::new(false).hash(), None);
}
