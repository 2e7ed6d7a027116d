//! The support-desk load: lines of `examples/data/support_desk.jsonl` made into requests.

use std::collections::HashMap;
use std::error::Error;
use std::path::Path;
use std::time::Duration;

use serde::Deserialize;
use sluicegate::types::{ChatRequest, Message, Priority};

/// One request of the load.
#[derive(Clone)]
pub(crate) struct Arrival {
    /// When it comes, from the start.
    pub(crate) at: Duration,
    /// Whether its caller reads a stream.
    pub(crate) stream: bool,
    /// What is asked.
    pub(crate) request: ChatRequest,
}

#[derive(Deserialize)]
struct Line {
    at_ms: u64,
    priority: String,
    stream: bool,
    system: String,
    conversation: Option<String>,
    user: String,
    assistant: Option<String>,
    max_tokens: u32,
}

/// Reads the load, for this model.
pub(crate) fn read(model: &str) -> Result<Vec<Arrival>, Box<dyn Error>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/data");
    let systems: HashMap<String, String> = serde_json::from_slice(&std::fs::read(folder.join("system_prompts.json"))?)?;
    let text = std::fs::read_to_string(folder.join("support_desk.jsonl"))?;
    let mut conversations: HashMap<String, Vec<Message>> = HashMap::new();
    let mut arrivals = Vec::new();
    for line in text.lines() {
        let line: Line = serde_json::from_str(line)?;
        let system = systems.get(&line.system).ok_or_else(|| format!("no system prompt {:?}", line.system))?;
        let mut messages = vec![Message::system(system)];
        if let Some(name) = line.conversation {
            let earlier = conversations.entry(name).or_default();
            earlier.push(Message::user(line.user));
            messages.extend(earlier.iter().cloned());
            earlier.push(Message::assistant(line.assistant.unwrap_or_default()));
        } else {
            messages.push(Message::user(line.user));
        }
        let priority = match line.priority.as_str() {
            "high" => Priority::High,
            "low" => Priority::Low,
            _ => Priority::Normal,
        };
        let request = ChatRequest::new(model).messages(messages).max_tokens(line.max_tokens).with(priority);
        arrivals.push(Arrival { at: Duration::from_millis(line.at_ms), stream: line.stream, request });
    }
    Ok(arrivals)
}
