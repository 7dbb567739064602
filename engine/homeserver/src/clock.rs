//! The time of day, and waiting.

use std::time::{Duration, SystemTime};

use futures_util::{
    future::{BoxFuture, Either, select},
    pin_mut,
};

/// Where a server gets its time from.
pub trait Clock: Send + Sync + 'static {
    /// Returns the time of day in milliseconds since 1970.
    fn now_ms(&self) -> i64;

    /// Returns after a while.
    fn sleep(&self, time: Duration) -> BoxFuture<'static, ()>;
}

/// Waits for work, but no longer than this; `None` if it was given up.
pub(crate) async fn within<T>(clock: &dyn Clock, time: Duration, work: impl Future<Output = T>) -> Option<T> {
    let timeout = clock.sleep(time);
    pin_mut!(work);
    match select(work, timeout).await {
        Either::Left((result, _)) => Some(result),
        Either::Right(_) => None,
    }
}

/// The clock of the operating system; waits on tokio.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now_ms(&self) -> i64 {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
    }

    fn sleep(&self, time: Duration) -> BoxFuture<'static, ()> {
        Box::pin(tokio::time::sleep(time))
    }
}
