//! One thread per store that writes what is queued, syncs once for all of it, and wakes all.
//!
//! So guards need no lock (there is one writer), waiting for the disk blocks nobody's executor, and commits that wait at the
//! same time share one sync.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        mpsc::{Receiver, Sender, channel},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use bytes::Bytes;
use ravel_store::{Batch, Committed, Durability, Keyspace, Operation, StoreError, watch::Watchers};
use tokio::sync::oneshot;

use crate::queue_bound::{QueueBound, QueuePlace};

/// What the thread needs of an engine.
pub(crate) trait Writer: Send + 'static {
    /// Looks up a key, with all earlier writes in it.
    fn get(&self, keyspace: Keyspace, key: &[u8]) -> Result<Option<Bytes>, StoreError>;

    /// Writes a batch all or nothing, visible on return, not yet durable.
    fn write(&mut self, batch: &Batch) -> Result<(), StoreError>;

    /// Makes all that was written durable.
    fn sync(&mut self) -> Result<(), StoreError>;

    /// Opens the engine again after the disk was full, if there is room by now; the state is as after a crash then.
    fn recover(&mut self) -> Result<(), StoreError> {
        Err(StoreError::Halted)
    }

    /// Whether after a failed `write` the engine may show a part of the batch until it is opened again.
    const WRITE_ERRORS_HALT: bool;
}

/// The handle to the thread; dropping it writes what is queued and waits for the thread to end.
#[derive(Debug)]
pub(crate) struct Committer {
    queue: Option<Sender<Request>>,
    bound: QueueBound,
    thread: Option<JoinHandle<()>>,
}

impl Committer {
    /// Starts the thread; `queue_bytes` is how much may wait for it.
    pub(crate) fn start(
        name: &str,
        writer: impl Writer,
        watchers: Arc<Watchers>,
        queue_bytes: usize,
    ) -> Result<Self, StoreError> {
        let (queue, requests) = channel();
        let thread = thread::Builder::new()
            .name(format!("{name} commit"))
            .spawn(move || Loop { writer, watchers, halted: None, full_since: None }.run(&requests))
            .map_err(|error| StoreError::from_io(Operation::Open, error))?;
        Ok(Self { queue: Some(queue), bound: QueueBound::new(queue_bytes), thread: Some(thread) })
    }

    pub(crate) async fn commit(&self, batch: Batch) -> Result<Committed, StoreError> {
        batch.check_bounds()?;
        let place = self.bound.enter(&batch).await?;
        let (reply, answer) = oneshot::channel();
        self.send(Request::Commit(batch, place, reply))?;
        answer.await.map_err(|_| StoreError::Closed)?
    }

    pub(crate) async fn flush(&self) -> Result<(), StoreError> {
        let (reply, answer) = oneshot::channel();
        self.send(Request::Flush(reply))?;
        answer.await.map_err(|_| StoreError::Closed)?
    }

    fn send(&self, request: Request) -> Result<(), StoreError> {
        self.queue.as_ref().and_then(|queue| queue.send(request).ok()).ok_or(StoreError::Closed)
    }
}

impl Drop for Committer {
    fn drop(&mut self) {
        drop(self.queue.take());
        if let Some(thread) = self.thread.take() {
            // It catches its own panics; there is nobody to tell here anyway.
            let _ = thread.join();
        }
    }
}

#[derive(Debug)]
enum Request {
    Commit(Batch, QueuePlace, oneshot::Sender<Result<Committed, StoreError>>),
    Flush(oneshot::Sender<Result<(), StoreError>>),
}

impl Request {
    fn size_bytes(&self) -> usize {
        match self {
            Self::Commit(batch, ..) => batch.size_bytes(),
            Self::Flush(_) => 0,
        }
    }

    fn wants_sync(&self) -> bool {
        match self {
            Self::Commit(batch, ..) => batch.wanted_durability() == Durability::Sync,
            Self::Flush(_) => true,
        }
    }
}

struct Loop<W> {
    writer: W,
    watchers: Arc<Watchers>,
    /// Set once it is open what is on disk; from then on nothing is acknowledged.
    halted: Option<Halt>,
    /// When writes began to find no room, or when the engine was last opened again for that.
    full_since: Option<Instant>,
}

/// Why nothing is acknowledged.
#[derive(Debug)]
struct Halt {
    /// The disk was full: the engine may be opened again when it is not.
    full: bool,
    /// When that was tried last.
    tried: Instant,
}

impl<W: Writer> Loop<W> {
    fn run(mut self, requests: &Receiver<Request>) {
        while let Ok(first) = requests.recv() {
            let mut size_bytes = first.size_bytes();
            let mut group = vec![first];
            while group.len() < GROUP_REQUESTS_MAX && size_bytes < GROUP_BYTES_MAX {
                let Ok(request) = requests.try_recv() else { break };
                size_bytes = size_bytes.saturating_add(request.size_bytes());
                group.push(request);
            }
            self.commit_group(group);
        }
    }

    fn commit_group(&mut self, group: Vec<Request>) {
        let wants_sync = group.iter().any(Request::wants_sync);
        let outcomes: Vec<_> = group
            .into_iter()
            .map(|request| {
                let outcome = match &request {
                    Request::Commit(batch, ..) => self.write(batch),
                    Request::Flush(_) => Ok(Committed::Written),
                };
                (request, outcome)
            })
            .collect();
        let synced = if wants_sync { self.sync() } else { Ok(()) };
        if wants_sync && synced.is_ok() && outcomes.iter().all(|(_, outcome)| outcome.is_ok()) {
            self.full_since = None;
        }
        for (request, outcome) in outcomes {
            let outcome = outcome.and_then(|committed| synced.clone().map(|()| committed));
            match request {
                Request::Commit(batch, place, reply) => {
                    if outcome.as_ref().is_ok_and(Committed::is_written) {
                        self.watchers.notify(&batch);
                    }
                    drop((batch, place));
                    // Who dropped the future does not want to know.
                    let _ = reply.send(outcome);
                }
                Request::Flush(reply) => {
                    let _ = reply.send(outcome.map(|_| ()));
                }
            }
        }
    }

    fn write(&mut self, batch: &Batch) -> Result<Committed, StoreError> {
        self.recover()?;
        let writer = &mut self.writer;
        if let Some(failed) = caught(|| batch.failed_guard(|keyspace, key| writer.get(keyspace, key)))
            .unwrap_or_else(|error| Err(self.halt(error)))?
        {
            return Ok(Committed::Refused(failed));
        }
        if batch.is_empty() {
            return Ok(Committed::Written);
        }
        let writer = &mut self.writer;
        match caught(|| writer.write(batch)) {
            Ok(Ok(())) => Ok(Committed::Written),
            Ok(Err(error)) if W::WRITE_ERRORS_HALT => Err(self.halt(error)),
            Ok(Err(error)) => {
                if matches!(error, StoreError::Full { .. }) && self.full_since.is_none() {
                    self.full_since = Some(Instant::now());
                }
                Err(error)
            }
            Err(panic) => Err(self.halt(panic)),
        }
    }

    /// A sync that failed may have dropped what it was to write, and the next one would not say so: so there is no next one.
    fn sync(&mut self) -> Result<(), StoreError> {
        if self.halted.is_some() {
            return Err(StoreError::Halted);
        }
        let writer = &mut self.writer;
        caught(|| writer.sync()).unwrap_or_else(Err).map_err(|error| self.halt(error))
    }

    fn halt(&mut self, error: StoreError) -> StoreError {
        // An engine may tell of a full disk once only.
        let full = self.full_since.is_some() || matches!(error, StoreError::Full { .. });
        self.halted = Some(Halt { full, tried: Instant::now() });
        error
    }

    /// Goes on after a full disk, now and then.
    fn recover(&mut self) -> Result<(), StoreError> {
        let Some(halt) = &mut self.halted else {
            // An engine may go on to refuse writes for want of room that is there again.
            if self.full_since.is_some_and(|since| since.elapsed() >= RECOVER_PAUSE) {
                self.full_since = Some(Instant::now());
                let writer = &mut self.writer;
                let _ = caught(|| writer.recover());
            }
            return Ok(());
        };
        if !halt.full || halt.tried.elapsed() < RECOVER_PAUSE {
            return Err(StoreError::Halted);
        }
        halt.tried = Instant::now();
        let writer = &mut self.writer;
        // Whatever keeps it from opening, what is acknowledged is as it was.
        caught(|| writer.recover()).and_then(|recovered| recovered).map_err(|_| StoreError::Halted)?;
        self.halted = None;
        self.full_since = None;
        Ok(())
    }
}

/// Runs a call into an engine; a panic becomes an error, as the thread has others to answer.
pub(crate) fn caught<T>(call: impl FnOnce() -> T) -> Result<T, StoreError> {
    catch_unwind(AssertUnwindSafe(call)).map_err(|_| StoreError::Corrupt {
        keyspace: None,
        key: None,
        expected: "what the engine's own invariants ask for (it panicked)",
        source: None,
    })
}

/// How long to wait before trying again whether a disk is still full.
const RECOVER_PAUSE: Duration = Duration::from_millis(250);
/// Most requests that share one sync.
const GROUP_REQUESTS_MAX: usize = 1024;
/// A group takes no further request once it holds this much.
const GROUP_BYTES_MAX: usize = 16 * 1024 * 1024;

#[cfg(test)]
mod tests {
    use std::{
        collections::BTreeMap,
        pin::Pin,
        sync::{
            Mutex,
            atomic::{AtomicBool, Ordering},
            mpsc,
        },
        task::Poll,
    };

    use ravel_store::{Op, block_on};

    use super::*;

    /// An engine of a map whose syncs wait for permission and may fail.
    struct Scripted {
        map: Arc<Mutex<BTreeMap<Bytes, Bytes>>>,
        syncs: mpsc::Receiver<bool>,
        started: mpsc::Sender<usize>,
        /// Whether the disk is full: writes and syncs fail.
        full: Arc<AtomicBool>,
        /// Whether the engine needs to be opened again since it was.
        stuck: bool,
    }

    impl Writer for Scripted {
        const WRITE_ERRORS_HALT: bool = false;

        fn get(&self, _: Keyspace, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
            assert_ne!(key, b"panic");
            Ok(self.map.lock().unwrap().get(key).cloned())
        }

        fn recover(&mut self) -> Result<(), StoreError> {
            if self.full.load(Ordering::Relaxed) {
                return Err(StoreError::from_io(Operation::Open, std::io::ErrorKind::StorageFull.into()));
            }
            self.stuck = false;
            Ok(())
        }

        fn write(&mut self, batch: &Batch) -> Result<(), StoreError> {
            for op in batch.ops() {
                let Op::Put { key, value, .. } = op else { panic!("only puts here") };
                if key == "refused" {
                    return Err(StoreError::from_io(Operation::Commit, std::io::ErrorKind::StorageFull.into()));
                }
                self.map.lock().unwrap().insert(key.clone(), value.clone());
            }
            Ok(())
        }

        fn sync(&mut self) -> Result<(), StoreError> {
            self.stuck |= self.full.load(Ordering::Relaxed);
            if self.stuck {
                return Err(StoreError::from_io(Operation::Flush, std::io::ErrorKind::StorageFull.into()));
            }
            // Not every test listens.
            let _ = self.started.send(self.map.lock().unwrap().len());
            if self.syncs.recv().unwrap() {
                Ok(())
            } else {
                Err(StoreError::from_io(Operation::Flush, std::io::Error::other("sync")))
            }
        }
    }

    struct Setup {
        committer: Committer,
        /// Sends whether the sync that is under way works.
        permit: mpsc::Sender<bool>,
        /// Receives how many keys there were when a sync began.
        started: mpsc::Receiver<usize>,
        full: Arc<AtomicBool>,
    }

    fn setup() -> Setup {
        setup_with_queue(usize::MAX)
    }

    fn setup_with_queue(queue_bytes: usize) -> Setup {
        let (permit, syncs) = mpsc::channel();
        let (started_sender, started) = mpsc::channel();
        let full = Arc::new(AtomicBool::new(false));
        let scripted =
            Scripted { map: Arc::default(), syncs, started: started_sender, full: Arc::clone(&full), stuck: false };
        let committer = Committer::start("test", scripted, Arc::default(), queue_bytes).unwrap();
        Setup { committer, permit, started, full }
    }

    fn put(key: &'static str) -> Batch {
        let mut batch = Batch::new();
        batch.put(Keyspace::Meta, key, "");
        batch
    }

    #[test]
    fn commits_that_wait_together_share_one_sync() {
        let Setup { committer, permit, started, .. } = setup();
        thread::scope(|scope| {
            scope.spawn(|| block_on(committer.commit(put("a"))).unwrap());
            assert_eq!(started.recv().unwrap(), 1);
            // While the first sync is under way these three queue up; they are sent from here, so in any case before it ends.
            let mut waiting: Vec<_> = ["b", "c", "d"].map(|key| Box::pin(committer.commit(put(key)))).into();
            let mut context = std::task::Context::from_waker(std::task::Waker::noop());
            for future in &mut waiting {
                assert!(future.as_mut().poll(&mut context).is_pending());
            }
            permit.send(true).unwrap();
            assert_eq!(started.recv().unwrap(), 4);
            permit.send(true).unwrap();
            for future in waiting {
                assert!(block_on(future).unwrap().is_written());
            }
        });
        drop(committer);
        assert!(started.try_recv().is_err(), "no third sync");
    }

    fn large(key: &'static str) -> Batch {
        let mut batch = Batch::new();
        batch.put(Keyspace::Meta, key, vec![0; 1000]);
        batch
    }

    fn poll<T>(future: &mut Pin<Box<impl Future<Output = T>>>) -> Poll<T> {
        future.as_mut().poll(&mut std::task::Context::from_waker(std::task::Waker::noop()))
    }

    #[test]
    fn a_commit_waits_while_the_queue_is_full() {
        // Room for two of them.
        let Setup { committer, permit, started, .. } = setup_with_queue(2500);
        let commit = |key| Box::pin(committer.commit(large(key)));
        let (mut first, mut second, mut third, mut dropped, mut fourth) =
            (commit("1"), commit("2"), commit("3"), commit("dropped"), commit("4"));
        assert!(poll(&mut first).is_pending());
        assert_eq!(started.recv().unwrap(), 1);
        // The engine is busy with the first one, whose bytes are still held.
        for waiting in [&mut second, &mut third, &mut dropped, &mut fourth] {
            assert!(poll(waiting).is_pending());
        }
        // A small one would fit, but does not pass those that came before it.
        let mut small = Box::pin(committer.commit(put("5")));
        assert!(poll(&mut small).is_pending());
        drop(dropped);
        permit.send(true).unwrap();
        assert_eq!(started.recv().unwrap(), 2, "the third was let in only after the first was done");
        assert!(block_on(first).unwrap().is_written());
        for sync in [true; 4] {
            permit.send(sync).unwrap();
        }
        // Each is written though nobody polls those behind it meanwhile.
        for future in [second, third, fourth] {
            assert!(block_on(future).unwrap().is_written());
        }
        assert!(block_on(small).unwrap().is_written());
        drop(committer);
        assert_eq!(started.iter().max(), Some(5), "the one that was dropped while it waited is not written");
    }

    #[test]
    fn a_batch_over_the_bound_is_let_in_alone() {
        let Setup { committer, permit, started, .. } = setup_with_queue(500);
        let mut small = Box::pin(committer.commit(put("small")));
        let mut over = Box::pin(committer.commit(large("over")));
        let mut other = Box::pin(committer.commit(put("other")));
        assert!(poll(&mut small).is_pending());
        assert_eq!(started.recv().unwrap(), 1);
        assert!(poll(&mut over).is_pending() && poll(&mut other).is_pending());
        permit.send(true).unwrap();
        assert!(block_on(small).unwrap().is_written());
        assert!(poll(&mut over).is_pending() && poll(&mut other).is_pending());
        assert_eq!(started.recv().unwrap(), 2);
        permit.send(true).unwrap();
        assert!(block_on(over).unwrap().is_written());
        permit.send(true).unwrap();
        assert!(block_on(other).unwrap().is_written());
    }

    #[test]
    fn a_relaxed_commit_waits_for_no_sync() {
        let Setup { committer, permit, started, .. } = setup();
        let mut batch = put("a");
        batch.durability(Durability::Relaxed);
        assert!(block_on(committer.commit(batch)).unwrap().is_written());
        assert!(started.try_recv().is_err());
        permit.send(true).unwrap();
        block_on(committer.flush()).unwrap();
        assert_eq!(started.recv().unwrap(), 1);
    }

    #[test]
    fn after_a_failed_sync_nothing_is_acknowledged() {
        let Setup { committer, permit, .. } = setup();
        permit.send(false).unwrap();
        assert!(matches!(block_on(committer.commit(put("a"))), Err(StoreError::Io { .. })));
        assert!(matches!(block_on(committer.commit(put("b"))), Err(StoreError::Halted)));
        assert!(matches!(block_on(committer.flush()), Err(StoreError::Halted)));
        let mut relaxed = put("c");
        relaxed.durability(Durability::Relaxed);
        assert!(matches!(block_on(committer.commit(relaxed)), Err(StoreError::Halted)));
    }

    #[test]
    fn once_a_full_disk_has_room_commits_are_taken_again() {
        let Setup { committer, permit, full, .. } = setup();
        permit.send(true).unwrap();
        full.store(true, Ordering::Relaxed);
        assert!(matches!(block_on(committer.commit(put("a"))), Err(StoreError::Full { .. })));
        thread::sleep(RECOVER_PAUSE);
        assert!(matches!(block_on(committer.commit(put("b"))), Err(StoreError::Halted)));
        full.store(false, Ordering::Relaxed);
        // It is not tried with every commit.
        assert!(matches!(block_on(committer.commit(put("c"))), Err(StoreError::Halted)));
        thread::sleep(RECOVER_PAUSE);
        assert!(block_on(committer.commit(put("d"))).unwrap().is_written());
    }

    #[test]
    fn a_failed_write_is_one_commits_own_trouble() {
        let Setup { committer, permit, .. } = setup();
        permit.send(true).unwrap();
        permit.send(true).unwrap();
        assert!(matches!(block_on(committer.commit(put("refused"))), Err(StoreError::Full { .. })));
        assert!(block_on(committer.commit(put("a"))).unwrap().is_written());
    }

    #[test]
    fn a_panic_of_the_engine_is_an_error_and_the_end() {
        let Setup { committer, permit, .. } = setup();
        permit.send(true).unwrap();
        let mut batch = put("a");
        batch.guard_absent(Keyspace::Meta, "panic");
        assert!(matches!(block_on(committer.commit(batch)), Err(StoreError::Corrupt { .. })));
        assert!(matches!(block_on(committer.commit(put("b"))), Err(StoreError::Halted)));
    }
}
