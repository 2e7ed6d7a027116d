//! The client's way into batches.

use super::OptimizedClient;
use crate::batch::Bulk;

impl OptimizedClient {
    /// Bulk runs over this client, with its clock; its [`shutdown`](Self::shutdown) drains them.
    pub fn bulk(&self) -> Bulk {
        Bulk::new(self.clone()).env(self.0.env.clone())
    }
}
