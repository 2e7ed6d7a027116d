//! Work that takes longer than a poll may.

use std::any::Any;
use std::panic::resume_unwind;
use std::sync::{Arc, LazyLock};

use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

/// As much at once as there are cores, of all clients of a process together: more would only make each slower.
static PLACES: LazyLock<Arc<Semaphore>> = LazyLock::new(|| {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    Arc::new(Semaphore::new(cores))
});

/// JSON of more than this is read, written, pressed and hashed elsewhere: at 1 to 4 ns a byte it takes up to a
/// millisecond.
pub(crate) const LARGE_JSON: usize = 256 << 10;

/// Text of more than this is counted elsewhere: at 30 to 55 ns a byte it takes up to a millisecond.
pub(crate) const LARGE_TEXT: usize = 16 << 10;

/// Does what is large on Tokio's threads for blocking work, first come, first served, and what is not right here, as
/// without a runtime.
///
/// Whoever takes longer than some 10 ms does it in turns of so long, so that others have theirs. A panic of the work
/// goes on in the caller, where it would have been in place.
///
/// `tasks` tracks the work. Cancel-safe: work that has begun goes on to its end, and what came of it is dropped; work
/// that has not is never begun.
pub(crate) async fn offload<T, F>(tasks: &TaskTracker, is_large: bool, work: F) -> T
where
    T: Send + 'static,
    F: FnOnce() -> T + Send + 'static,
{
    if is_large && let Ok(runtime) = Handle::try_current() {
        // Boxed, so that what is small does not carry this around.
        return Box::pin(elsewhere(&runtime, tasks, work)).await;
    }
    work()
}

async fn elsewhere<T, F>(runtime: &Handle, tasks: &TaskTracker, work: F) -> T
where
    T: Send + 'static,
    F: FnOnce() -> T + Send + 'static,
{
    // It is never closed.
    let Ok(permit) = PLACES.clone().acquire_owned().await else { return work() };
    let todo = Arc::new(Mutex::new(Some(work)));
    let job = {
        let todo = Arc::clone(&todo);
        move || {
            let _permit = permit;
            let work = todo.lock().take();
            work.map(|work| work())
        }
    };
    let done = AbortOnDropHandle::new(tasks.spawn_blocking_on(job, runtime)).await;
    let lost: Box<dyn Any + Send> = match done {
        Ok(Some(done)) => return done,
        Ok(None) => Box::new("the work was taken twice"),
        Err(lost) => match lost.try_into_panic() {
            Ok(panic) => panic,
            Err(lost) => {
                // A runtime that ends drops what has not begun: then it is done here.
                let work = todo.lock().take();
                match work {
                    Some(work) => return work(),
                    None => Box::new(lost),
                }
            }
        },
    };
    resume_unwind(lost)
}

#[cfg(test)]
mod tests {
    use std::panic::AssertUnwindSafe;
    use std::thread::ThreadId;

    use futures_util::FutureExt;
    use tokio::sync::oneshot;

    use super::*;

    fn thread() -> ThreadId {
        std::thread::current().id()
    }

    #[tokio::test]
    async fn what_is_large_is_done_elsewhere_while_others_go_on() {
        let tasks = TaskTracker::new();
        assert_eq!(offload(&tasks, false, thread).await, thread());
        // It ends only if somebody on this thread goes on meanwhile.
        let (tell, told) = oneshot::channel();
        let work = move || (told.blocking_recv(), thread());
        let ((heard, there), _) =
            tokio::join!(offload(&tasks, true, work), async { tell.send("others went on").unwrap() });
        assert_eq!(heard, Ok("others went on"));
        assert_ne!(there, thread());
        tasks.close();
        tasks.wait().await;
    }

    #[test]
    fn without_a_runtime_it_is_done_here() {
        let tasks = TaskTracker::new();
        let done = offload(&tasks, true, thread).now_or_never();
        assert_eq!(done, Some(thread()));
    }

    #[tokio::test]
    async fn a_panic_is_the_callers_and_gives_its_place_back() {
        let tasks = TaskTracker::new();
        for _ in 0..2 * cores() {
            let done = AssertUnwindSafe(offload(&tasks, true, || -> u8 { panic!("broken") })).catch_unwind().await;
            assert_eq!(done.unwrap_err().downcast_ref(), Some(&"broken"));
        }
        assert_eq!(offload(&tasks, true, || 7).await, 7);
    }

    #[tokio::test]
    async fn who_leaves_gives_the_place_back_when_the_work_ends_and_shutdown_waits_for_it() {
        let tasks = TaskTracker::new();
        for _ in 0..2 * cores() {
            let (begin, begun) = oneshot::channel();
            let (end, ended) = oneshot::channel::<()>();
            let work = move || (begin.send(()), ended.blocking_recv());
            tokio::select! {
                _ = offload(&tasks, true, work) => unreachable!("it has not ended"),
                begun = begun => begun.unwrap(),
            }
            assert_eq!(tasks.len(), 1, "it goes on");
            end.send(()).unwrap();
            tasks.close();
            tasks.wait().await;
            tasks.reopen();
        }
    }

    #[test]
    fn what_an_ending_runtime_drops_is_done_here() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let handle = runtime.handle().clone();
        drop(runtime);
        let _inside = handle.enter();
        let here = offload(&TaskTracker::new(), true, thread).now_or_never();
        assert_eq!(here, Some(thread()));
    }

    fn cores() -> usize {
        std::thread::available_parallelism().unwrap().get()
    }
}
