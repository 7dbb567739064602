//! Appends of many rooms at once.

use std::{
    future::Future as _,
    pin::pin,
    sync::Arc,
    task::{Context, Waker},
};

use super::{
    Durability, EventLog, Fault, FaultyStore, LogError, MemoryStore, Operation, TestRoom, block_on, check_loaded,
    contents, findings, open, rules,
};

fn rooms(count: usize) -> Vec<TestRoom> {
    (0..count).map(|number| TestRoom::forked(&format!("!r{number}:a"))).collect()
}

/// Appends all rooms at once, each event by itself; returns the results in the order of the rooms.
fn append_at_once(log: &EventLog, rooms: &[TestRoom]) -> Vec<Result<(), LogError>> {
    std::thread::scope(|scope| {
        let threads: Vec<_> = rooms
            .iter()
            .map(|room| {
                scope.spawn(move || {
                    room.judged.iter().try_for_each(|event| {
                        let event = std::slice::from_ref(event);
                        block_on(log.append(room.room.room_id(), rules(), event, Durability::Sync))
                    })
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

#[test]
fn many_rooms_are_appended_to_at_once() {
    let store = MemoryStore::new();
    let rooms = rooms(16);
    let log = open(&store);
    for result in append_at_once(&log, &rooms) {
        result.unwrap();
    }
    assert_eq!(log.len(), 16 * 10);
    for room in &rooms {
        check_loaded(&log, room);
        check_loaded(&open(&store), room);
    }
    assert_eq!(findings(&store), [""; 0]);
}

/// Appends that wait while another is written go into one batch, in the order in which they came.
#[test]
fn what_waits_shares_a_batch() {
    let store = FaultyStore::new(MemoryStore::new());
    let memory = store.inner().clone();
    let log = block_on(EventLog::open(Arc::new(store))).unwrap();
    let rooms = rooms(5);
    // As long as somebody else writes, all of them wait.
    let busy = block_on(log.appends.writer.lock());
    // The second time one comes with the same events, it is refused; the others have nothing to do with it.
    let mut waiting: Vec<_> = rooms
        .iter()
        .chain([&rooms[2]])
        .map(|room| Box::pin(log.append(room.room.room_id(), rules(), &room.judged, Durability::Sync)))
        .collect();
    let mut context = Context::from_waker(Waker::noop());
    for append in &mut waiting {
        assert!(append.as_mut().poll(&mut context).is_pending());
    }
    // And one that is dropped is not there at all.
    drop(waiting.remove(3));
    drop(busy);
    let results: Vec<_> = waiting.into_iter().map(block_on).collect();
    let fine: Vec<bool> = results.iter().map(Result::is_ok).collect();
    assert_eq!(fine, [true, true, true, true, false]);
    assert!(matches!(results[4], Err(LogError::AlreadyThere)));
    for room in [0, 1, 2, 4] {
        check_loaded(&open(&memory), &rooms[room]);
    }
    assert_eq!(log.rooms().len(), 4);
    assert_eq!(findings(&memory), [""; 0]);
    // The room that was dropped can still come.
    rooms[3].append_to(&log).unwrap();
    check_loaded(&open(&memory), &rooms[3]);
}

#[test]
fn what_is_there_already_does_not_harm_others() {
    let store = MemoryStore::new();
    let rooms = rooms(4);
    rooms[1].append_to(&open(&store)).unwrap();
    let log = open(&store);
    let results = append_at_once(&log, &rooms);
    assert!(matches!(results[1], Err(LogError::AlreadyThere)));
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 3);
    for room in &rooms {
        check_loaded(&open(&store), room);
    }
}

/// Whoever writes for others may give up: the next one finds out what became of it.
#[test]
fn a_writer_that_is_dropped_leaves_nobody_in_doubt() {
    for after_commit in [false, true] {
        let store = MemoryStore::new();
        let slow = SlowStore { inner: store.clone(), after_commit };
        let log = block_on(EventLog::open(Arc::new(slow))).unwrap();
        let rooms = rooms(3);
        let append =
            |room: usize| log.append(rooms[room].room.room_id(), rules(), &rooms[room].judged, Durability::Sync);
        let mut context = Context::from_waker(Waker::noop());
        let mut other = Box::pin(append(1));
        {
            let mut writer = pin!(append(0));
            assert!(writer.as_mut().poll(&mut context).is_pending(), "it has begun to write");
            assert!(other.as_mut().poll(&mut context).is_pending());
        }
        block_on(other).unwrap();
        block_on(append(2)).unwrap();
        check_loaded(&open(&store), &rooms[1]);
        check_loaded(&open(&store), &rooms[2]);
        assert_eq!(findings(&store), [""; 0]);
        assert_eq!(log.len(), open(&store).len());
        // Nobody was told of the first: it is there or not, and the log knows which.
        assert_eq!(log.rooms().len(), if after_commit { 3 } else { 2 });
    }
}

#[test]
fn a_failed_commit_is_told_to_all_who_share_it() {
    let store = FaultyStore::new(MemoryStore::new());
    let memory = store.inner().clone();
    store.fail(Operation::Commit, 1, Fault::Full);
    let log = block_on(EventLog::open(Arc::new(store))).unwrap();
    let rooms = rooms(3);
    let busy = block_on(log.appends.writer.lock());
    let mut waiting: Vec<_> = rooms
        .iter()
        .map(|room| Box::pin(log.append(room.room.room_id(), rules(), &room.judged, Durability::Sync)))
        .collect();
    let mut context = Context::from_waker(Waker::noop());
    for append in &mut waiting {
        assert!(append.as_mut().poll(&mut context).is_pending());
    }
    drop(busy);
    for append in waiting {
        assert!(matches!(block_on(append), Err(LogError::Store(_))));
    }
    assert_eq!(contents(&memory), []);
    // There is room again.
    for room in &rooms {
        room.append_to(&log).unwrap();
        check_loaded(&open(&memory), room);
    }
}

/// A store whose commits wait once: before they do anything, or after.
struct SlowStore {
    inner: MemoryStore,
    after_commit: bool,
}

mod slow {
    use bytes::Bytes;

    use super::SlowStore;
    use crate::{Batch, Committed, Description, Keyspace, Page, Scan, Store, StoreFuture, Watch};

    impl Store for SlowStore {
        fn commit(&self, batch: Batch) -> StoreFuture<'_, Committed> {
            Box::pin(async move {
                if self.after_commit {
                    let committed = self.inner.commit(batch).await;
                    wait_once().await;
                    committed
                } else {
                    wait_once().await;
                    self.inner.commit(batch).await
                }
            })
        }
        fn flush(&self) -> StoreFuture<'_, ()> {
            self.inner.flush()
        }
        fn get_many<'a>(&'a self, keyspace: Keyspace, keys: &'a [Bytes]) -> StoreFuture<'a, Vec<Option<Bytes>>> {
            self.inner.get_many(keyspace, keys)
        }
        fn scan(&self, scan: Scan) -> StoreFuture<'_, Page> {
            self.inner.scan(scan)
        }
        fn watch(&self, keyspace: Keyspace, prefix: &[u8]) -> Watch {
            self.inner.watch(keyspace, prefix)
        }
        fn describe(&self) -> StoreFuture<'_, Description> {
            self.inner.describe()
        }
    }

    async fn wait_once() {
        let mut waited = false;
        std::future::poll_fn(|context| {
            if std::mem::replace(&mut waited, true) {
                return std::task::Poll::Ready(());
            }
            context.waker().wake_by_ref();
            std::task::Poll::Pending
        })
        .await;
    }
}
