//! What waits for the disk, done one by one in the order it was asked for.
//!
//! A put that nobody waits for any longer is done before a removal that was asked for after it. And those that come while
//! another is under way need no hop to a blocking thread of their own.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::runtime::Handle;

type Job = Box<dyn FnOnce() + Send>;

#[derive(Default)]
pub(super) struct Queue(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    waiting: VecDeque<Job>,
    /// Whether there is a worker, on its way or at work.
    working: bool,
}

impl Queue {
    /// Does it on a blocking thread when its turn comes; here, if there is no runtime and nobody is at work.
    pub(super) fn push(&self, job: Job) {
        let mut state = self.0.lock();
        state.waiting.push_back(job);
        if std::mem::replace(&mut state.working, true) {
            return;
        }
        drop(state);
        let worker = Worker { state: Arc::clone(&self.0), done: false };
        match Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(|| worker.run())),
            Err(_) => worker.run(),
        }
    }
}

struct Worker {
    state: Arc<Mutex<State>>,
    done: bool,
}

impl Worker {
    fn run(mut self) {
        while let Some(job) = self.next() {
            job();
        }
    }

    fn next(&mut self) -> Option<Job> {
        let mut state = self.state.lock();
        let job = state.waiting.pop_front();
        if job.is_none() {
            (state.working, self.done) = (false, true);
        }
        job
    }
}

impl Drop for Worker {
    /// A runtime that ends drops what has not begun: nobody is left to do it, and whoever waits is told so.
    fn drop(&mut self) {
        if !self.done {
            let lost = {
                let mut state = self.state.lock();
                state.working = false;
                std::mem::take(&mut state.waiting)
            };
            drop(lost);
        }
    }
}
