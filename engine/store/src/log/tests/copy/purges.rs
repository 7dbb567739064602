//! Copies of logs of which something is purged meanwhile.

use std::sync::{Mutex, PoisonError};

use ravel_core::id::RoomId;

use super::*;
use crate::{
    Batch, Committed, Description, Page, Scan, StoreFuture, Watch,
    log::tests::{RoomRecord, TimelineRecord, collect::branching_room},
};

/// What is purged of the first room.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Purge {
    /// The history before one of its events, by place.
    Before(usize),
    /// All of it.
    Room,
    /// All of it; then it is opened again, with its first events.
    RoomAndReopen(usize),
}

/// Before the second event, only states are purged.
const PURGES: [Purge; 6] = [
    Purge::Before(1),
    Purge::Before(60),
    Purge::Before(90),
    Purge::Before(usize::MAX),
    Purge::Room,
    Purge::RoomAndReopen(3),
];

impl Purge {
    fn carry_out(self, log: &EventLog, room: &TestRoom, progress: impl FnMut(u64, u64)) -> Result<(), LogError> {
        let room_id = room.room.room_id();
        match self {
            Self::Before(place) => {
                let event_id = &room.judged[place.min(room.judged.len() - 1)].event.event_id;
                block_on(log.purge_history(room_id, event_id, progress))?.unwrap();
            }
            Self::Room | Self::RoomAndReopen(_) => {
                block_on(log.purge_room(room_id, progress))?.unwrap();
            }
        }
        if let Self::RoomAndReopen(events) = self {
            block_on(log.append(room_id, rules(), &room.judged[..events], Durability::Sync))?;
        }
        Ok(())
    }
}

/// A room of branches, a small one, and a log with both.
fn source_of_two() -> (MemoryStore, [TestRoom; 2]) {
    let (store, rooms) = (MemoryStore::new(), [branching_room("!r:a", 5), TestRoom::forked("!s:a")]);
    for room in &rooms {
        room.append_to(&open(&store)).unwrap();
    }
    (store, rooms)
}

/// Another process's store: it can be read, and something happens to it before one of the reads.
#[derive(Clone)]
struct There {
    inner: MemoryStore,
    planned: Arc<Mutex<Vec<Planned>>>,
}

struct Planned {
    reads_left: usize,
    what: Box<dyn FnOnce() + Send>,
}

impl There {
    fn new(inner: &MemoryStore) -> Self {
        Self { inner: inner.clone(), planned: Arc::default() }
    }

    /// Does something before the `n`-th read from now on (1 is the next one).
    fn before_read(&self, n: usize, what: impl FnOnce() + Send + 'static) {
        self.planned.lock().unwrap().push(Planned { reads_left: n, what: Box::new(what) });
    }

    fn has_plans(&self) -> bool {
        !self.planned.lock().unwrap().is_empty()
    }

    fn count(&self) {
        let mut due = Vec::new();
        let mut planned = self.planned.lock().unwrap_or_else(PoisonError::into_inner);
        for mut plan in std::mem::take(&mut *planned) {
            plan.reads_left -= 1;
            if plan.reads_left == 0 { due.push(plan.what) } else { planned.push(plan) }
        }
        drop(planned);
        due.into_iter().for_each(|what| what());
    }
}

impl Store for There {
    fn commit(&self, _batch: Batch) -> StoreFuture<'_, Committed> {
        Box::pin(async { Err(StoreError::ReadOnly) })
    }

    fn flush(&self) -> StoreFuture<'_, ()> {
        self.inner.flush()
    }

    fn get_many<'a>(&'a self, keyspace: Keyspace, keys: &'a [Bytes]) -> StoreFuture<'a, Vec<Option<Bytes>>> {
        self.count();
        self.inner.get_many(keyspace, keys)
    }

    fn scan(&self, scan: Scan) -> StoreFuture<'_, Page> {
        self.count();
        self.inner.scan(scan)
    }

    fn watch(&self, keyspace: Keyspace, prefix: &[u8]) -> Watch {
        self.inner.watch(keyspace, prefix)
    }

    fn describe(&self) -> StoreFuture<'_, Description> {
        self.inner.describe()
    }

    fn compact(&self) -> StoreFuture<'_, ()> {
        self.inner.compact()
    }
}

fn begin_there(source: &There, target: &MemoryStore) -> LogCopy {
    block_on(LogCopy::begin(Arc::new(source.clone()), Arc::new(target.clone()), "the source")).unwrap()
}

/// Checks a copy after some purge: it is the source, byte for byte, as soon as it has all entries.
#[track_caller]
fn check_finished(mut copy: LogCopy, source: &MemoryStore, target: &MemoryStore) {
    catch_up(&mut copy);
    check_equal(&mut copy, open(source).rooms().len());
    block_on(copy.finish()).unwrap();
    assert_eq!(findings(target), [""; 0]);
    assert!(contents(target) == contents(source));
}

/// What the source purged beyond the copy's position makes no difference between them.
#[test]
fn a_purge_beyond_the_position_is_no_difference() {
    for purge in PURGES {
        for events_after in [0, 4] {
            let (source, target) = (MemoryStore::new(), MemoryStore::new());
            let rooms = [branching_room("!r:a", 5), TestRoom::forked("!s:a")];
            let (log, whole) = (open(&source), rooms[0].judged.len() - events_after);
            let append =
                |events: &[_]| block_on(log.append(rooms[0].room.room_id(), rules(), events, Durability::Sync));
            append(&rooms[0].judged[..whole]).unwrap();
            rooms[1].append_to(&log).unwrap();
            let mut copy = begin(&source, target.clone()).unwrap();
            catch_up(&mut copy);
            append(&rooms[0].judged[whole..]).unwrap();
            purge.carry_out(&log, &rooms[0], |_, _| {}).unwrap();
            check_equal(&mut copy, open(&source).rooms().len());
            check_finished(copy, &source, &target);
        }
    }
}

/// Whenever the source purges something while it is compared, before any of the reads.
#[test]
fn a_purge_during_the_comparison_is_no_difference() {
    // Of the room with branches, which is read in many steps, some of them have to do.
    let check = |purge: Purge, room: TestRoom, every: usize| {
        let (room, other) = (Arc::new(room), TestRoom::forked("!s:a"));
        let mut purged = 0;
        for read in (1..).step_by(every) {
            let (source, target) = (MemoryStore::new(), MemoryStore::new());
            for room in [&room, &other] {
                room.append_to(&open(&source)).unwrap();
            }
            let there = There::new(&source);
            let mut copy = begin_there(&there, &target);
            catch_up(&mut copy);
            let (writer, room) = (open(&source), room.clone());
            there.before_read(read, move || purge.carry_out(&writer, &room, |_, _| {}).unwrap());
            let compared = block_on(copy.compare(|_, _| {})).unwrap();
            assert!(compared.values().all(Compared::is_equal), "{purge:?} before read {read}: {compared:?}");
            if there.has_plans() {
                break;
            }
            purged += 1;
            check_finished(copy, &source, &target);
        }
        assert!(purged > 4, "{purge:?} {purged}");
    };
    for purge in PURGES {
        check(purge, TestRoom::forked("!r:a"), 1);
    }
    check(Purge::Before(90), branching_room("!r:a", 5), 7);
    check(Purge::Room, branching_room("!r:a", 5), 7);
}

/// Whenever the source purges something while it is copied, before any of the reads, and however far that has come when the copy is.
#[test]
fn a_purge_while_it_is_copied_is_in_the_copy() {
    let (room, other) = (Arc::new(branching_room("!r:a", 5)), TestRoom::forked("!s:a"));
    let mut under_way = 0;
    for purge in [Purge::Before(1), Purge::Before(90), Purge::Room, Purge::RoomAndReopen(3)] {
        for commits in [2, 3, u64::MAX] {
            for read in 1.. {
                let (source, target) = (MemoryStore::new(), MemoryStore::new());
                for room in [&room, &other] {
                    room.append_to(&open(&source)).unwrap();
                }
                let there = There::new(&source);
                let (purging, room) = (FaultyStore::new(source.clone()), room.clone());
                purging.fail(Operation::Commit, commits, Fault::Failed);
                there.before_read(read, move || {
                    let log = block_on(EventLog::open(Arc::new(purging))).unwrap();
                    let purged = purge.carry_out(&log, &room, |_, _| {});
                    assert!(purged.is_ok() || commits < u64::MAX);
                });
                let mut copy = begin_there(&there, &target);
                catch_up(&mut copy);
                let is_over = there.has_plans();
                assert_eq!(findings(&target), [""; 0], "{purge:?} {commits} {read}");
                match block_on(copy.compare(|_, _| {})) {
                    Ok(compared) => assert!(compared.values().all(Compared::is_equal), "{purge:?} {commits} {read}"),
                    Err(CopyError::Source(LogError::PurgeUnderWay { .. })) => under_way += 1,
                    Err(error) => panic!("{error}"),
                }
                if is_over {
                    break;
                }
                block_on(open(&source).resume_purges(|_, _| {})).unwrap();
                check_finished(copy, &source, &target);
            }
        }
    }
    assert!(under_way > 10, "{under_way}");
}

/// A purge that stops half-way, as far as others see it, and is carried out later.
#[test]
fn a_purge_that_takes_long_is_no_difference() {
    let mut under_way = 0;
    for purge in [Purge::Before(60), Purge::Before(90), Purge::Room] {
        for commits in 2..5 {
            let (source, [room, _]) = source_of_two();
            let (there, target) = (There::new(&source), MemoryStore::new());
            let mut copy = begin_there(&there, &target);
            catch_up(&mut copy);
            check_equal(&mut copy, 2);
            let purging = source.clone();
            there.before_read(8, move || {
                let store = FaultyStore::new(purging);
                store.fail(Operation::Commit, commits, Fault::Failed);
                let log = block_on(EventLog::open(Arc::new(store))).unwrap();
                let _ = purge.carry_out(&log, &room, |_, _| {});
            });
            TestRoom::forked("!t:a").append_to(&open(&source)).unwrap();
            catch_up(&mut copy);
            let first = block_on(copy.compare(|_, _| {})).map(|compared| compared.values().all(Compared::is_equal));
            catch_up(&mut copy);
            let waits = |result: &Result<bool, CopyError>| match result {
                Err(CopyError::Source(LogError::PurgeUnderWay { room_id })) => room_id.as_str() == "!r:a",
                Err(error) => panic!("{error}"),
                Ok(is_equal) => {
                    assert!(is_equal, "{purge:?}");
                    false
                }
            };
            waits(&first);
            let again = block_on(copy.compare(|_, _| {})).map(|compared| compared.values().all(Compared::is_equal));
            under_way += usize::from(waits(&again));
            let is_under_way = !open(&source).rooms_being_purged().is_empty();
            assert_eq!(waits(&again), is_under_way, "{purge:?} {commits}");
            block_on(open(&source).resume_purges(|_, _| {})).unwrap();
            check_finished(copy, &source, &target);
        }
    }
    assert!(under_way > 2, "{under_way}");
}

/// A room that was purged and has no events since is compared again.
#[test]
fn a_room_is_compared_again_after_a_purge() {
    for before in [1, 60, 90, 104] {
        let (source, [room, _]) = source_of_two();
        let target = MemoryStore::new();
        let mut copy = begin(&source, target.clone()).unwrap();
        catch_up(&mut copy);
        check_equal(&mut copy, 2);
        let unpurged = copy.compared().clone();
        Purge::Before(before).carry_out(&open(&source), &room, |_, _| {}).unwrap();
        catch_up(&mut copy);
        check_equal(&mut copy, 2);
        let (r, s) = (RoomId::parse("!r:a").unwrap(), RoomId::parse("!s:a").unwrap());
        assert_ne!(copy.compared()[&r].copy, unpurged[&r].copy, "{before}");
        assert_eq!(copy.compared()[&s], unpurged[&s]);
        // And so a difference after it is found.
        let (source, [room, _]) = source_of_two();
        let target = MemoryStore::new();
        let mut copy = begin(&source, target.clone()).unwrap();
        catch_up(&mut copy);
        check_equal(&mut copy, 2);
        Purge::Before(before).carry_out(&open(&source), &room, |_, _| {}).unwrap();
        catch_up(&mut copy);
        let record: RoomRecord = block_on(target.get_record("!r:a")).unwrap().unwrap();
        let key = key::timeline(record.number, 1);
        let timeline: TimelineRecord = block_on(target.get_record(key.clone())).unwrap().unwrap();
        write(&target, |batch| {
            batch.put_record(key, &TimelineRecord { outcome: 1, ..timeline }).unwrap();
        });
        let compared = block_on(copy.compare(|_, _| {})).unwrap();
        let equal: Vec<bool> = compared.values().map(Compared::is_equal).collect();
        assert_eq!(equal, [false, true], "{before}");
    }
}

/// A room that was purged as a whole is in no comparison any more; opened again, it is another one.
#[test]
fn a_room_that_is_gone_is_not_compared() {
    let (source, [room, _]) = source_of_two();
    let target = MemoryStore::new();
    let mut copy = begin(&source, target.clone()).unwrap();
    catch_up(&mut copy);
    check_equal(&mut copy, 2);
    Purge::Room.carry_out(&open(&source), &room, |_, _| {}).unwrap();
    catch_up(&mut copy);
    check_equal(&mut copy, 1);
    // Without events it is nothing that could differ.
    block_on(open(&source).append(room.room.room_id(), rules(), &[], Durability::Sync)).unwrap();
    catch_up(&mut copy);
    check_equal(&mut copy, 1);
    Purge::RoomAndReopen(9).carry_out(&open(&source), &room, |_, _| {}).unwrap();
    catch_up(&mut copy);
    check_equal(&mut copy, 2);
    Purge::RoomAndReopen(9).carry_out(&open(&source), &room, |_, _| {}).unwrap();
    catch_up(&mut copy);
    check_equal(&mut copy, 2);
    Purge::RoomAndReopen(0).carry_out(&open(&source), &room, |_, _| {}).unwrap();
    catch_up(&mut copy);
    check_equal(&mut copy, 1);
    Purge::RoomAndReopen(9).carry_out(&open(&source), &room, |_, _| {}).unwrap();
    check_finished(copy, &source, &target);
}

/// A difference is one, though another room, or that room itself, is purged beyond the position.
#[test]
fn a_difference_is_found_though_something_is_purged() {
    for purged in [0, 1] {
        for purge in [Purge::Before(5), Purge::Room] {
            let (source, rooms) = source_of_two();
            let target = MemoryStore::new();
            let mut copy = begin(&source, target.clone()).unwrap();
            catch_up(&mut copy);
            let record: RoomRecord = block_on(target.get_record("!s:a")).unwrap().unwrap();
            let last = key::timeline(record.number, copy.position() - 1);
            let timeline: TimelineRecord = block_on(target.get_record(last.clone())).unwrap().unwrap();
            write(&target, |batch| {
                batch.put_record(last, &TimelineRecord { outcome: 1, ..timeline }).unwrap();
            });
            purge.carry_out(&open(&source), &rooms[purged], |_, _| {}).unwrap();
            let compared = block_on(copy.compare(|_, _| {})).unwrap();
            let is_equal = compared.values().all(Compared::is_equal);
            // A room that is gone has no difference left.
            assert_eq!(is_equal, purged == 1 && purge == Purge::Room, "{purged} {purge:?}");
        }
    }
}

/// Stopped while it purges what the source purged last, a copy does that when it goes on, though there is nothing more to copy.
#[test]
fn a_copy_that_was_stopped_in_a_purge_carries_it_out() {
    for purge in [Purge::Before(60), Purge::Before(90), Purge::Room] {
        let (source, [room, _]) = source_of_two();
        let before = MemoryStore::new();
        let mut copy = begin(&source, before.clone()).unwrap();
        catch_up(&mut copy);
        drop(copy);
        purge.carry_out(&open(&source), &room, |_, _| {}).unwrap();
        let mut stopped = 0;
        for n in 1.. {
            let target = MemoryStore::new();
            write(&target, |batch| {
                for (keyspace, key, value) in contents(&before) {
                    batch.put(keyspace, key, value);
                }
            });
            let store = FaultyStore::new(target.clone());
            store.fail(Operation::Commit, n, Fault::Failed);
            let result = begin(&source, store).and_then(|mut copy| block_on(copy.step()));
            stopped += usize::from(result.is_err());
            let mut copy = begin(&source, target.clone()).unwrap();
            if copy.position() < open(&source).len() {
                catch_up(&mut copy);
            }
            check_equal(&mut copy, open(&source).rooms().len());
            block_on(copy.finish()).unwrap();
            assert!(contents(&target) == contents(&source), "{purge:?} {n}");
            if result.is_ok() {
                break;
            }
        }
        assert!(stopped > 1, "{purge:?}: {stopped}");
    }
}
