//! A run whose disk is full: a process that may write files of so many bytes only.

use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;

use sluicegate::batch::{Bulk, CheckpointSync};
use sluicegate::testing::Scripted;
use tokio::io::BufWriter;

use super::questions;

const FOLDER: &str = "SLUICEGATE_BULK_FULL";

/// What the process does; nothing when it runs as one of the tests.
#[tokio::test]
async fn child() {
    let Some(folder) = std::env::var_os(FOLDER).map(PathBuf::from) else { return };
    let upstream = Arc::new(Scripted::new().always(&"x".repeat(300)));
    let file = folder.join("run");
    for concurrency in [1, 8] {
        let asked = upstream.calls();
        let bulk = Bulk::new(Arc::clone(&upstream)).concurrency(concurrency).checkpoint(&file);
        let run = bulk.sync(CheckpointSync::EachItem).run(questions(1_000)).await.unwrap();
        let progress = run.progress();
        let mut output = Vec::new();
        // It holds back what is less than this.
        let failure = run.write_to(BufWriter::with_capacity(1 << 20, &mut output)).await.unwrap_err();
        assert!(failure.to_string().contains("checkpoint cannot be written"), "{failure}");
        let end = *progress.borrow();
        assert!(end.ended && end.stopped && end.failed == 0 && end.done >= 1, "{end}");
        let written = output.split_inclusive(|byte| *byte == b'\n').filter(|line| line.ends_with(b"\n")).count();
        assert_eq!(written as u64, end.done, "what was answered before is written");
        let now = upstream.calls() - asked;
        assert_eq!(end.done - end.recorded, now as u64);
        // The first run left nothing that could be read but whole lines.
        let text = std::fs::read(&file).unwrap();
        assert!(text.ends_with(b"\n") && text.len() <= 16 << 10);
        assert_eq!(concurrency == 1, end.recorded == 0, "{end}");
    }
    println!("\n> both failed well");
}

#[test]
fn a_full_disk_ends_the_run_and_loses_no_answer() {
    let folder = tempfile::tempdir().unwrap();
    // An ignored signal stays ignored: writing beyond the limit then fails.
    let script = "trap '' XFSZ; ulimit -f 16; exec \"$0\" bulk_jobs::full::child --exact --nocapture --test-threads=1";
    let mut command = Command::new("bash");
    command.arg("-c").arg(script).arg(std::env::current_exe().unwrap()).env(FOLDER, folder.path());
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("> both failed well"), "{said}");
}
