//! Calls through a client whose own queue may be full.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::client::LlmClient;
use crate::env::Env;
use crate::error::{Error, ErrorKind, Result, Retryability};
use crate::layer::SCHEDULE;
use crate::types::{ChatRequest, ChatResponse};

/// The first wait for room, and the longest: twice as long each time.
const WAITS: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// Whether the client's own queue is full. One that was cleared wants nobody back.
pub(super) fn is_missing(error: &Error) -> bool {
    error.kind() == ErrorKind::Overloaded && error.origin() == SCHEDULE && error.retryability() != Retryability::Never
}

/// Asks, and asks again for as long as there is no room: whoever went on with the next one would be refused as fast as it
/// can take them. Who drains waits no more, and gets the refusal.
pub(super) async fn ask(
    client: &dyn LlmClient,
    request: ChatRequest,
    env: &Env,
    drain: &CancellationToken,
) -> Result<ChatResponse> {
    let (mut wait, longest) = WAITS;
    loop {
        match client.chat(request.clone()).await {
            Err(error) if is_missing(&error) => {
                // Not all at the same moment.
                let pause = env.sleep(wait / 2 + wait.mul_f64(env.unit() / 2.0));
                if drain.run_until_cancelled(pause).await.is_none() {
                    return Err(error);
                }
                wait = (wait * 2).min(longest);
            }
            result => return result,
        }
    }
}
