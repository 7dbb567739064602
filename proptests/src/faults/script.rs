//! What a store goes through: batches of a seed, one after the other or several at once, and what is there after each.
//!
//! The order of commits depends on the seed only, and so does what each of them finds and leaves, on whatever store it runs.

use std::{
    collections::BTreeMap,
    hash::{DefaultHasher, Hash, Hasher},
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Waker},
};

use proptest::{
    strategy::{Strategy, ValueTree},
    test_runner::{Config, RngAlgorithm, TestRng, TestRunner},
};
use ravel_core::{
    id::RoomId,
    pdu::VerifiedPdu,
    room::{Effect, PersistEvent, Receipt, Room},
    room_version::RoomVersion,
};
use ravel_store::{
    Batch, Bytes, Committed, Description, Durability, KeyRange, Keyspace, MemoryStore, Op, Page, Scan, Store,
    StoreError, StoreFuture, Watch, block_on,
    log::{EventLog, LogError},
};

use crate::{
    draft::Draft,
    plan::{Style, plans},
    seed::Choices,
};

/// What a store goes through.
#[derive(Debug)]
pub struct Script {
    /// What it is made of.
    pub seed: u64,
    steps: Vec<Step>,
    rooms: Vec<ScriptedRoom>,
}

#[derive(Debug)]
struct ScriptedRoom {
    draft: Draft,
    pdus: Vec<VerifiedPdu>,
}

#[derive(Clone, Debug)]
enum Step {
    /// Batches that wait at the same time.
    Commit(Vec<Batch>),
    Flush,
    /// The store is closed and opened again.
    Reopen,
    /// So many events of a room are appended to the log.
    Append {
        room: usize,
        events: usize,
        durability: Durability,
    },
}

/// How large a script is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    /// Some hundred batches.
    Full,
    /// A quarter of that.
    Small,
}

/// Who hears of commits, in their order.
pub trait Witness: Send + Sync {
    /// A batch goes to the store; they are numbered from 1.
    fn issued(&self, number: u64, batch: &Batch);
    /// It was acknowledged, with this durability.
    fn acknowledged(&self, number: u64, batch: &Batch, committed: &Committed);
    /// All batches up to this number were flushed.
    fn flushed(&self, number: u64);
}

/// What went wrong in a script.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum ScriptError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Log(#[from] LogError),
}

impl Script {
    /// Makes a script: every second one has rooms.
    pub fn new(seed: u64, size: Size) -> Self {
        let mut choices = Choices::new(seed ^ 0x5eed);
        if seed.is_multiple_of(2) {
            Self::with_rooms(seed, size, &mut choices)
        } else {
            Self::raw(seed, size, &mut choices)
        }
    }

    fn raw(seed: u64, size: Size, choices: &mut Choices) -> Self {
        let count = [60, 20][size as usize] + choices.below([160, 40][size as usize]);
        let steps = (0..count).map(|_| match choices.below(40) {
            0 => Step::Reopen,
            1 | 2 => Step::Flush,
            _ => Step::Commit(batches(choices, Keyspace::ALL)),
        });
        Self { seed, steps: steps.collect(), rooms: Vec::new() }
    }

    fn with_rooms(seed: u64, size: Size, choices: &mut Choices) -> Self {
        let most = [40, 12][size as usize];
        let strategy = plans(&RoomVersion::ALL, Style::Orderly, 1..most);
        let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &[seed.to_le_bytes(); 4].concat());
        let mut runner = TestRunner::new_with_rng(Config { failure_persistence: None, ..Config::default() }, rng);
        let rooms: Vec<ScriptedRoom> = ["!first:ash.example", "!second:ash.example"]
            .into_iter()
            .map(|room_id| {
                let mut plan = strategy.new_tree(&mut runner).expect("the strategy rejects nothing").current();
                plan.preset.more_state = [0, 0, 60, 90][choices.below(4)];
                let draft = Draft::in_room(&plan, room_id);
                let pdus = draft.verified();
                ScriptedRoom { draft, pdus }
            })
            .collect();
        let mut left: Vec<usize> = rooms.iter().map(|room| room.pdus.len()).collect();
        let mut steps = Vec::new();
        while left.iter().any(|left| *left > 0) {
            let room = choices.below(left.len());
            let events = left[room].min(1 + choices.below(4));
            if events > 0 {
                left[room] -= events;
                steps.push(Step::Append { room, events, durability: durability(choices) });
            }
            match choices.below(30) {
                0 => steps.push(Step::Reopen),
                1 => steps.push(Step::Flush),
                2..8 => steps.push(Step::Commit(batches(choices, &[Keyspace::Meta]))),
                _ => {}
            }
        }
        Self { seed, steps, rooms }
    }

    /// Lets each batch wait for the one before it, and flushes before the store is closed, as a close tells of no error.
    #[must_use]
    pub fn one_by_one(mut self) -> Self {
        let alone = |step| match step {
            Step::Commit(batches) => batches.into_iter().map(|batch| Step::Commit(vec![batch])).collect(),
            Step::Reopen => vec![Step::Flush, Step::Reopen],
            step => vec![step],
        };
        self.steps = self.steps.into_iter().flat_map(alone).collect();
        self
    }

    /// Whether the store has a log of events.
    pub fn has_rooms(&self) -> bool {
        !self.rooms.is_empty()
    }

    /// Runs it: `open` opens the store, which is closed in between.
    ///
    /// # Errors
    ///
    /// The first of the store.
    pub fn run(
        &self,
        mut open: impl FnMut() -> Result<Arc<dyn Store>, StoreError>,
        witness: &Arc<dyn Witness>,
    ) -> Result<(), ScriptError> {
        let numbers = Arc::new(AtomicU64::new(0));
        let mut open = || -> Result<Arc<dyn Store>, StoreError> {
            Ok(Arc::new(Witnessed { inner: open()?, witness: Arc::clone(witness), numbers: Arc::clone(&numbers) }))
        };
        let mut store = open()?;
        let mut rooms = Rooms::open(self, &store)?;
        for step in &self.steps {
            match step {
                Step::Commit(batches) => commit_together(&store, batches)?,
                Step::Flush => {
                    block_on(store.flush())?;
                }
                Step::Reopen => {
                    drop(rooms);
                    drop(store);
                    store = open()?;
                    rooms = Rooms::open(self, &store)?;
                }
                Step::Append { room, events, durability } => rooms.append(self, *room, *events, *durability)?,
            }
        }
        Ok(())
    }

    /// Returns what is there after each batch.
    pub fn expected(&self) -> Expected {
        let ledger = Arc::new(Ledger::default());
        let memory = MemoryStore::new();
        let witness: Arc<dyn Witness> = ledger.clone();
        self.run(|| Ok(Arc::new(memory.clone())), &witness).expect("a store in memory doesn't fail");
        drop(witness);
        let ledger = Arc::into_inner(ledger).expect("nobody else has it any more");
        ledger.0.into_inner().expect("nobody panicked")
    }
}

/// The rooms of a script, as far as they were appended.
struct Rooms {
    log: Option<EventLog>,
    rooms: Vec<Option<Room>>,
}

impl Rooms {
    fn open(script: &Script, store: &Arc<dyn Store>) -> Result<Self, ScriptError> {
        if !script.has_rooms() {
            return Ok(Self { log: None, rooms: Vec::new() });
        }
        let log = block_on(EventLog::open(Arc::clone(store)))?;
        let load = |room: &ScriptedRoom| block_on(log.load_room(&room.draft.room_id));
        let rooms = script.rooms.iter().map(load).collect::<Result<_, _>>()?;
        Ok(Self { log: Some(log), rooms })
    }

    fn append(
        &mut self,
        script: &Script,
        room: usize,
        count: usize,
        durability: Durability,
    ) -> Result<(), ScriptError> {
        let ScriptedRoom { draft, pdus } = &script.rooms[room];
        let room = self.rooms[room].get_or_insert_with(|| Room::new(draft.room_id.clone(), draft.rules()));
        let next = room.events().count();
        let events: Vec<PersistEvent> = pdus[next..next + count].iter().map(|pdu| persist(room, pdu)).collect();
        let log = self.log.as_ref().expect("a script with rooms has a log");
        block_on(log.append(&draft.room_id, draft.rules(), &events, durability))?;
        Ok(())
    }
}

fn persist(room: &mut Room, pdu: &VerifiedPdu) -> PersistEvent {
    let Ok(Receipt::Judged(judged)) = room.handle_pdu(pdu) else { panic!("{} is not new", pdu.event_id()) };
    let persist = judged.effects.into_iter().find_map(|effect| match effect {
        Effect::Persist(persist) => Some(*persist),
        Effect::Publish(_) => None,
    });
    persist.expect("a judged event is to be stored")
}

/// Loads all rooms of a log and checks their projections.
///
/// # Errors
///
/// What is wrong, in words.
pub fn check_log(store: &Arc<dyn Store>, verify: bool) -> Result<(), String> {
    let log = block_on(EventLog::open(Arc::clone(store))).map_err(|error| format!("the log does not open: {error}"))?;
    let rooms: Vec<RoomId> = log.rooms().into_iter().map(|(room_id, _)| room_id).collect();
    for room_id in rooms {
        match block_on(log.load_room(&room_id)) {
            Ok(Some(_)) => {}
            Ok(None) => return Err(format!("{room_id} is gone")),
            Err(error) => return Err(format!("{room_id} does not load: {error}")),
        }
    }
    if verify {
        let verification =
            block_on(log.verify(|_, _| {})).map_err(|error| format!("the log can't be verified: {error}"))?;
        if let Some(finding) = verification.findings.first() {
            return Err(format!("{} findings, the first: {finding}", verification.findings.len()));
        }
    }
    Ok(())
}

fn commit_together(store: &Arc<dyn Store>, batches: &[Batch]) -> Result<(), StoreError> {
    let mut waiting: Vec<_> = batches.iter().map(|batch| store.commit(batch.clone())).collect();
    let mut answers: Vec<_> = waiting.iter_mut().map(|future| poll_once(future.as_mut())).collect();
    for (future, answer) in waiting.into_iter().zip(&mut answers) {
        // What became of it is the witness's to know.
        let _: Committed = match answer.take() {
            Some(answer) => answer?,
            None => block_on(future)?,
        };
    }
    Ok(())
}

/// Lets a commit queue up, without waiting for it.
fn poll_once<T>(
    future: Pin<&mut (dyn Future<Output = Result<T, StoreError>> + Send + '_)>,
) -> Option<Result<T, StoreError>> {
    match future.poll(&mut Context::from_waker(Waker::noop())) {
        std::task::Poll::Ready(answer) => Some(answer),
        std::task::Poll::Pending => None,
    }
}

fn durability(choices: &mut Choices) -> Durability {
    if choices.below(4) == 0 { Durability::Relaxed } else { Durability::Sync }
}

fn batches(choices: &mut Choices, keyspaces: &[Keyspace]) -> Vec<Batch> {
    let count = if choices.below(3) == 0 { 1 + choices.below(6) } else { 1 };
    (0..count).map(|_| batch(choices, keyspaces)).collect()
}

fn batch(choices: &mut Choices, keyspaces: &[Keyspace]) -> Batch {
    let mut batch = Batch::new();
    batch.durability(durability(choices));
    let place = |choices: &mut Choices| (keyspaces[choices.below(keyspaces.len())], key(choices));
    if choices.below(6) == 0 {
        // It holds or not, as chance has it.
        let (keyspace, key) = place(choices);
        batch.guard_absent(keyspace, key);
    }
    for _ in 0..=choices.below(6) {
        let (keyspace, key) = place(choices);
        match choices.below(20) {
            0 | 1 => batch.delete(keyspace, key),
            2 => batch.delete_range(keyspace, KeyRange::prefix(key.slice(..RAW_PREFIX.len() + 1))),
            _ => batch.put(keyspace, key, value(choices)),
        };
    }
    batch
}

/// Keys begin so in all keyspaces, as `meta` has keys of the log.
const RAW_PREFIX: &str = "raw ";

fn key(choices: &mut Choices) -> Bytes {
    let letter = char::from(b'a' + choices.below(8) as u8);
    let mut key = format!("{RAW_PREFIX}{letter}{}", choices.below(40));
    if choices.below(30) == 0 {
        key.push_str(&"long".repeat(200));
    }
    key.into()
}

fn value(choices: &mut Choices) -> Bytes {
    let len = match choices.below(40) {
        0..30 => choices.below(300),
        30..38 => choices.below(8_000),
        // sled has these in chunks.
        _ => 28_000 + choices.below(60_000),
    };
    // Half of it is of the kind that is compressed well.
    let (first, seed) = (choices.below(256) as u8, choices.below(1 << 30) as u32);
    let byte = |at: usize| (seed.wrapping_add(at as u32).wrapping_mul(2_654_435_761) >> 13) as u8;
    (0..len).map(|at| if at < len / 2 { first } else { byte(at) }).collect()
}

/// A store whose commits a witness hears of.
struct Witnessed {
    inner: Arc<dyn Store>,
    witness: Arc<dyn Witness>,
    numbers: Arc<AtomicU64>,
}

impl Store for Witnessed {
    fn commit(&self, batch: Batch) -> StoreFuture<'_, Committed> {
        Box::pin(async move {
            // Commits are polled first, and so queued, by one thread in their order.
            let number = self.numbers.fetch_add(1, Ordering::Relaxed) + 1;
            self.witness.issued(number, &batch);
            let committed = self.inner.commit(batch.clone()).await?;
            self.witness.acknowledged(number, &batch, &committed);
            Ok(committed)
        })
    }

    fn flush(&self) -> StoreFuture<'_, ()> {
        Box::pin(async move {
            let number = self.numbers.load(Ordering::Relaxed);
            self.inner.flush().await?;
            self.witness.flushed(number);
            Ok(())
        })
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

/// All that a store holds.
pub type Contents = BTreeMap<(Keyspace, Bytes), Bytes>;

/// What is in a store after each batch of a script.
#[derive(Debug)]
pub struct Expected {
    /// The sums of the items after so many batches: the first is that of nothing.
    sums: Vec<u64>,
    /// What each batch wrote, nothing if it was refused.
    written: Vec<Vec<Op>>,
    contents: Contents,
}

impl Default for Expected {
    fn default() -> Self {
        Self { sums: vec![0], written: Vec::new(), contents: Contents::new() }
    }
}

impl Expected {
    /// Returns how many batches there are.
    pub fn len(&self) -> u64 {
        self.written.len() as u64
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.written.is_empty()
    }

    /// Returns the largest number of batches, from `least` to `most`, after which all items of a store have this sum.
    pub fn find(&self, sum: u64, least: u64, most: u64) -> Option<u64> {
        (least..=most.min(self.len())).rev().find(|number| self.sums[*number as usize] == sum)
    }

    /// Returns the sum of all items after so many batches.
    pub fn sum(&self, number: u64) -> u64 {
        self.sums[number as usize]
    }

    /// Returns what is there after so many batches.
    pub fn contents(&self, number: u64) -> Contents {
        let mut contents = Contents::new();
        for op in self.written.iter().take(number as usize).flatten() {
            apply(&mut contents, op, &mut |_, _, _| {});
        }
        contents
    }

    /// Returns which of the first batches wrote an item last, 0 if none did.
    pub fn last_write(&self, place: &(Keyspace, Bytes), number: u64) -> u64 {
        let touches = |op: &Op| match op {
            Op::Put { keyspace, key, .. } | Op::Delete { keyspace, key } => (keyspace, key) == (&place.0, &place.1),
            Op::DeleteRange { keyspace, range } => *keyspace == place.0 && range.contains(&place.1),
        };
        let written = self.written.iter().take(number as usize);
        let last = written.enumerate().rfind(|(_, ops)| ops.iter().any(touches));
        last.map_or(0, |(at, _)| at as u64 + 1)
    }

    fn push(&mut self, ops: Vec<Op>) {
        let mut sum = self.sums.last().copied().unwrap_or(0);
        for op in &ops {
            apply(&mut self.contents, op, &mut |(keyspace, key), old, new| {
                if let Some(old) = old {
                    sum = sum.wrapping_sub(item_sum(*keyspace, key, old));
                }
                if let Some(new) = new {
                    sum = sum.wrapping_add(item_sum(*keyspace, key, new));
                }
            });
        }
        self.sums.push(sum);
        self.written.push(ops);
    }
}

/// Returns a number for an item; the sum of all, wrapping around, stands for what a store holds.
pub fn item_sum(keyspace: Keyspace, key: &[u8], value: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    (keyspace.byte(), key, value).hash(&mut hasher);
    hasher.finish()
}

type OnChange<'a> = dyn FnMut(&(Keyspace, Bytes), Option<&Bytes>, Option<&Bytes>) + 'a;

fn apply(contents: &mut Contents, op: &Op, changed: &mut OnChange<'_>) {
    match op {
        Op::Put { keyspace, key, value } => {
            let place = (*keyspace, key.clone());
            let old = contents.insert(place.clone(), value.clone());
            changed(&place, old.as_ref(), Some(value));
        }
        Op::Delete { keyspace, key } => {
            let place = (*keyspace, key.clone());
            let old = contents.remove(&place);
            changed(&place, old.as_ref(), None);
        }
        Op::DeleteRange { keyspace, range } => {
            let within = |(of, key): &(Keyspace, Bytes)| of == keyspace && range.contains(key);
            let places: Vec<_> = contents.keys().filter(|place| within(place)).cloned().collect();
            for place in places {
                let old = contents.remove(&place);
                changed(&place, old.as_ref(), None);
            }
        }
    }
}

#[derive(Default)]
struct Ledger(Mutex<Expected>);

impl Witness for Ledger {
    fn issued(&self, _: u64, _: &Batch) {}

    fn acknowledged(&self, number: u64, batch: &Batch, committed: &Committed) {
        let mut expected = self.0.lock().expect("nobody panicked");
        assert_eq!(number, expected.len() + 1, "a store in memory answers in order");
        expected.push(if committed.is_written() { batch.ops().to_vec() } else { Vec::new() });
    }

    fn flushed(&self, _: u64) {}
}
