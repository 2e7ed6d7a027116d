//! The way to end a run early and well.

use std::fmt;

use tokio_util::sync::CancellationToken;

/// Ends a worker on durable jobs well, or a bulk run early: no new item is taken, those under way end and are yielded, the checkpoint is forced onto the
/// disk, and the stream ends. Clones drain the same run; dropping one does nothing.
///
/// The library installs no signal handler. A program drains on Ctrl-C with
/// `tokio::spawn(async move { tokio::signal::ctrl_c().await.ok(); drain.drain() })`.
#[derive(Clone)]
pub struct Drain(pub(in crate::batch) CancellationToken);

impl Drain {
    /// Drains it. It has to be polled on, as always, for what is under way to end.
    pub fn drain(&self) {
        self.0.cancel();
    }

    /// Whether it was told to drain.
    pub fn is_draining(&self) -> bool {
        self.0.is_cancelled()
    }
}

impl fmt::Debug for Drain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Drain").field(&self.is_draining()).finish()
    }
}
