//! Work that takes long, or all cores.

use std::{num::NonZeroUsize, sync::LazyLock, thread};

use futures_util::future::join_all;
use tokio::sync::oneshot;

/// Returns how many cores there are. (The system is asked once: it has to read several files to know.)
pub(crate) fn cores() -> usize {
    static CORES: LazyLock<usize> = LazyLock::new(|| thread::available_parallelism().map_or(1, NonZeroUsize::get));
    *CORES
}

/// Does long work on a thread of its own, which lets those that answer requests go first, as do the threads that it starts.
///
/// `None` if the function has panicked, or no thread can be had.
pub(crate) async fn in_background<R: Send + 'static>(work: impl FnOnce() -> R + Send + 'static) -> Option<R> {
    let (reply, answer) = oneshot::channel();
    let in_thread = move || {
        let_others_go_first();
        // Who asked may have gone.
        let _ = reply.send(work());
    };
    thread::Builder::new().name("background".to_owned()).spawn(in_thread).ok()?;
    answer.await.ok()
}

/// Where threads have priorities of their own, lowers that of this one.
fn let_others_go_first() {
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::process::setpriority_process(None, BACKGROUND_NICENESS) {
        tracing::debug!(%error, "a thread can't be given another priority");
    }
}

/// Gets about a tenth of a core's time when others want it.
#[cfg(target_os = "linux")]
const BACKGROUND_NICENESS: i32 = 10;

/// Calls a function for each of some items and returns what it returns, in their order. So many items that it takes a while are
/// shared out among the cores, away from the threads that answer requests.
///
/// `part_min` is how many of them are worth a task of their own. `None` if the function has panicked.
pub(crate) async fn for_each<T: Send + 'static, R: Send + 'static>(
    items: Vec<T>,
    part_min: usize,
    work: impl Fn(T) -> R + Clone + Send + 'static,
) -> Option<Vec<R>> {
    if items.len() < part_min {
        return Some(items.into_iter().map(work).collect());
    }
    let size = items.len().div_ceil(cores()).max(part_min);
    let mut items = items.into_iter();
    let mut parts = Vec::new();
    loop {
        let part: Vec<T> = items.by_ref().take(size).collect();
        if part.is_empty() {
            break;
        }
        let work = work.clone();
        parts.push(tokio::task::spawn_blocking(move || part.into_iter().map(work).collect::<Vec<R>>()));
    }
    let parts: Result<Vec<Vec<R>>, _> = join_all(parts).await.into_iter().collect();
    Some(parts.ok()?.into_iter().flatten().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_background_answers_or_tells_that_it_panicked() {
        assert_eq!(in_background(|| 7).await, Some(7));
        assert_eq!(in_background(|| panic!("as it should")).await, None::<()>);
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn the_background_lets_others_go_first() {
        let niceness = || rustix::process::getpriority_process(None).unwrap();
        let (here, there) = (niceness(), in_background(niceness).await.unwrap());
        assert_eq!((there, niceness()), (BACKGROUND_NICENESS.max(here), here), "of that thread alone");
    }

    #[tokio::test]
    async fn results_come_in_order() {
        for count in [0, 1, 9, 10, 1001] {
            let squares = for_each((0..count).collect(), 10, |number: u64| number * number).await;
            assert_eq!(squares.unwrap(), (0..count).map(|number| number * number).collect::<Vec<_>>());
        }
        assert!(for_each(vec![1, 0], 1, |number| 1 / number).await.is_none());
    }
}
