//! Waiting for what must come to pass, never for luck.

use std::time::{Duration, Instant};

/// What takes longer than this has hung.
pub(crate) const HANG: Duration = Duration::from_secs(10);

/// Asks until it holds.
pub(crate) async fn until<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    let start = Instant::now();
    while !holds().await {
        assert!(start.elapsed() < HANG, "{what}: not within {HANG:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
