//! The same conversation given to the Python peers, where they are installed.

use std::io::Write;
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use sluicegate::types::ChatRequest;

/// Runs `benches/peers/history.py` and prints a row for each peer; `ours` is the window, cold, in microseconds.
pub(crate) fn run(request: &ChatRequest, budget: u64, ours: f64) {
    let python = std::env::var("SLUICEGATE_PEERS_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/peers/history.py");
    let input = json!({"messages": request.messages, "max_tokens": budget}).to_string();
    let Ok(output) = ask(&python, script, &input) else {
        println!("the Python peers were not measured: {python} could not be run");
        return;
    };
    let rows: Vec<Value> = output.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    if rows.is_empty() {
        println!("the Python peers said nothing: try {python} {script} by hand");
    }
    for row in rows {
        let name = row["name"].as_str().unwrap_or_default();
        match row["median_us"].as_f64() {
            Some(median) => {
                let (messages, tokens) = (&row["messages"], &row["tokens"]);
                let title = format!("{name}: to {messages} messages, {tokens} tokens");
                println!("{title:<70} {median:>9.1} {:>9}   {:.0} times ours, cold", "", median / ours);
            }
            None => println!("{name}: not measured: {}", row["why"].as_str().unwrap_or_default()),
        }
    }
}

fn ask(python: &str, script: &str, input: &str) -> std::io::Result<String> {
    let mut child = Command::new(python).arg(script).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    if let Some(stdin) = child.stdin.take() {
        // Dropped after it is written, so that the script sees its end.
        let mut stdin = stdin;
        stdin.write_all(input.as_bytes())?;
    }
    Ok(String::from_utf8_lossy(&child.wait_with_output()?.stdout).into_owned())
}
