//! A tier that is slow, failing or panicking costs a call bounded time, and nothing else.

use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use crate::env::Env;
use crate::error::{Error, ErrorKind, Result};

/// What a tier says, if it says so in time. A panic inside it is its error, not the call's.
///
/// It is polled first, so a tier that answers at once costs no timer.
pub(super) async fn guarded<T>(env: &Env, limit: Duration, tier: impl Future<Output = Result<T>>) -> Result<T> {
    let mut tier = pin!(tier);
    let mut timer: Option<Pin<Box<dyn Future<Output = ()> + Send>>> = None;
    poll_fn(|cx| {
        if let Poll::Ready(answer) = poll_unwinding(tier.as_mut(), cx) {
            return Poll::Ready(answer);
        }
        let timer = timer.get_or_insert_with(|| {
            let env = env.clone();
            Box::pin(async move { env.sleep(limit).await })
        });
        timer.as_mut().poll(cx).map(|()| {
            let text = format!("the tier did not answer within {limit:?}");
            Err(Error::new(ErrorKind::Timeout, "cache", text))
        })
    })
    .await
}

fn poll_unwinding<T>(tier: Pin<&mut impl Future<Output = Result<T>>>, cx: &mut Context<'_>) -> Poll<Result<T>> {
    match catch_unwind(AssertUnwindSafe(|| tier.poll(cx))) {
        Ok(polled) => polled,
        Err(_) => Poll::Ready(Err(Error::new(ErrorKind::Panicked, "cache", "the tier panicked"))),
    }
}
