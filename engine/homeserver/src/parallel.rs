//! Work that takes all cores.

use std::{num::NonZeroUsize, thread};

use futures_util::future::join_all;

/// Calls a function for each of some items and returns what it returns, in their order. So many items that it takes a while are
/// shared out among the cores, away from the threads that answer requests.
///
/// `part_min` is how many of them are worth a task of their own. `None` if the function has panicked.
pub(crate) async fn for_each<T: Send + 'static, R: Send + 'static>(
    items: Vec<T>,
    part_min: usize,
    work: impl Fn(T) -> R + Clone + Send + 'static,
) -> Option<Vec<R>> {
    let cores = thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let size = items.len().div_ceil(cores).max(part_min);
    if items.len() < part_min {
        return Some(items.into_iter().map(work).collect());
    }
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
    async fn results_come_in_order() {
        for count in [0, 1, 9, 10, 1001] {
            let squares = for_each((0..count).collect(), 10, |number: u64| number * number).await;
            assert_eq!(squares.unwrap(), (0..count).map(|number| number * number).collect::<Vec<_>>());
        }
        assert!(for_each(vec![1, 0], 1, |number| 1 / number).await.is_none());
    }
}
