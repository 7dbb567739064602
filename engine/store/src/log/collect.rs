//! Collecting snapshot nodes that no state refers to any more, while appends go on.

use bytes::Bytes;
use ravel_core::{
    id::RoomId,
    state::{NodeIndex, NodeRecord, UnusableNode},
};

use super::{
    EventLog, LogError,
    nodes::NodeWalk,
    records::{ExtremitiesRecord, TimelineRecord, key},
};
use crate::{Batch, Committed, Durability, KeyRange, Keyspace, Scan, StoreExt, codec};

/// How many records are read at a time.
const PAGE: usize = 1024;

/// Nodes that follow each other are deleted as a range if there are at least so many.
const RANGE_NODES: usize = 32;

/// What a collection did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Collected {
    /// How many nodes are referred to.
    pub kept: u64,
    /// How many nodes were deleted.
    pub deleted: u64,
    /// Their bytes, keys included.
    pub deleted_bytes: u64,
}

/// A collection on its way: [`step`](Self::step) by step, with anything in between.
///
/// It marks what it finds from the room's states as they were when it began, and then deletes what is not marked and was there then:
///
/// 1. How many nodes had numbers with the newest event of the timeline: the boundary.
/// 2. The root of the current state.
/// 3. A page of the timeline after the other: the roots of the states before and after each event. From each root down, nodes
///    below the boundary are marked, each once.
/// 4. A page of nodes below the boundary after the other: those that are not marked are deleted.
///
/// Why that is right although events are appended meanwhile: at any time the *roots* of a room are those in its timeline and that
/// of its current state, and a node is *alive* if a root leads to it. What is alive below the boundary at some time was alive when
/// the collection began. For an append adds only states that are made from states of roots: the state after a prev event, the
/// resolution of several of them, the current state, one of these with a key changed. To make one, nodes are taken over from there
/// or are made anew, and a new one gets a number that was not given before: not below the boundary, as an append that was not
/// written yet has given its numbers after those of the newest event that was. So the roots grow by what leads to what is alive
/// and to new nodes. The roots that are read late are at least those of the beginning, of which all but the current state's stay;
/// and that one is read first. A purge takes roots away, which makes less alive; rooms that were loaded before it can't append.
/// Computing projections again would give nodes other lives: that is excluded by a guard on each deletion.
pub struct Collection<'l> {
    log: &'l EventLog,
    room_id: RoomId,
    room: u32,
    stage: Stage,
    walk: NodeWalk,
    collected: Collected,
}

enum Stage {
    Begin,
    Mark(Scan),
    Sweep(Scan),
    Done,
}

impl EventLog {
    /// Deletes the snapshot nodes of a room that no state refers to; `None` if the room is not there.
    ///
    /// Other tasks may read and append meanwhile. What is deleted is durable with the next durable commit. Costs reading the room's
    /// timeline and each of its nodes, and memory for a bit for each node.
    ///
    /// # Errors
    ///
    /// When the store fails, or a node is missing that a state refers to.
    pub async fn collect(&self, room_id: &RoomId) -> Result<Option<Collected>, LogError> {
        let Some(mut collection) = self.collection(room_id).await? else { return Ok(None) };
        while collection.step().await? {}
        Ok(Some(collection.collected))
    }

    /// Begins a collection, to be gone on with by steps; `None` if the room is not there.
    ///
    /// # Errors
    ///
    /// When the store fails.
    pub async fn collection(&self, room_id: &RoomId) -> Result<Option<Collection<'_>>, LogError> {
        let record = self.fresh_room(room_id).await?;
        Ok(record.map(|record| Collection::new(self, room_id, record.number)))
    }
}

impl<'l> Collection<'l> {
    pub(super) fn new(log: &'l EventLog, room_id: &RoomId, room: u32) -> Self {
        let (walk, collected) = (NodeWalk::new(room, 0), Collected::default());
        Self { log, room_id: room_id.clone(), room, stage: Stage::Begin, walk, collected }
    }

    /// Returns what was done so far.
    pub fn collected(&self) -> Collected {
        self.collected
    }

    /// Reads, and maybe deletes from, the next page; returns whether there is more to do.
    ///
    /// # Errors
    ///
    /// When the store fails, a node is missing that a state refers to, or projections are computed again.
    pub async fn step(&mut self) -> Result<bool, LogError> {
        self.stage = match std::mem::replace(&mut self.stage, Stage::Done) {
            Stage::Begin => self.begin().await?,
            Stage::Mark(scan) => self.mark_page(scan).await?,
            Stage::Sweep(scan) => self.sweep_page(scan).await?,
            Stage::Done => Stage::Done,
        };
        Ok(!matches!(self.stage, Stage::Done))
    }

    async fn begin(&mut self) -> Result<Stage, LogError> {
        let timeline = Scan::new(Keyspace::Timelines, KeyRange::prefix(key::room(self.room)));
        let newest = self.log.store.scan(timeline.clone().backward().items(1)).await?;
        let Some((newest_key, newest)) = newest.items.first() else { return Ok(Stage::Done) };
        let newest: TimelineRecord = codec::decode(newest_key, newest)?;
        self.walk = NodeWalk::new(self.room, newest.nodes_numbered);
        let extremities: Option<ExtremitiesRecord> = self.log.store.get_record(key::room(self.room)).await?;
        self.mark(extremities.and_then(|extremities| extremities.current_state)).await?;
        Ok(Stage::Mark(timeline.items(PAGE)))
    }

    async fn mark_page(&mut self, scan: Scan) -> Result<Stage, LogError> {
        let page = self.log.store.scan(scan.clone()).await?;
        let mut roots = Vec::with_capacity(page.items.len());
        for (key, value) in &page.items {
            roots.extend(codec::decode::<TimelineRecord>(key, value)?.states.roots());
        }
        self.mark(roots).await?;
        Ok(match page.next {
            Some(cursor) => Stage::Mark(scan.after(&cursor)),
            None => {
                self.collected.kept = self.walk.needed();
                Stage::Sweep(Scan::new(Keyspace::SnapshotNodes, self.nodes()).items(PAGE))
            }
        })
    }

    /// The nodes below the boundary.
    fn nodes(&self) -> KeyRange {
        match NodeIndex::from_number(self.walk.boundary()) {
            Some(boundary) => KeyRange::new(key::room(self.room), key::node(self.room, boundary)),
            None => KeyRange::prefix(key::room(self.room)),
        }
    }

    async fn mark(&mut self, roots: impl IntoIterator<Item = u32>) -> Result<(), LogError> {
        let mut missing = None;
        let on_node = |number, node: Option<&NodeRecord>| {
            if node.is_none() {
                missing = Some(number);
            }
        };
        self.walk.visit(self.log, roots, on_node).await?;
        let bad =
            |number| LogError::BadSnapshot { room_id: self.room_id.clone(), source: UnusableNode::Missing(number) };
        missing.map_or(Ok(()), |number| Err(bad(number)))
    }

    async fn sweep_page(&mut self, scan: Scan) -> Result<Stage, LogError> {
        let page = self.log.store.scan(scan.clone()).await?;
        let mut batch = Batch::new();
        let mut run: Vec<Bytes> = Vec::new();
        for (key, value) in &page.items {
            if self.walk.needs(key::node_number(key)?) {
                delete_run(&mut batch, &mut run);
                continue;
            }
            self.collected.deleted += 1;
            self.collected.deleted_bytes += (key.len() + value.len()) as u64;
            run.push(key.clone());
        }
        delete_run(&mut batch, &mut run);
        if !batch.is_empty() {
            batch.guard_absent(Keyspace::Meta, key::PROJECTED_TO).durability(Durability::Relaxed);
            match self.log.store.commit(batch).await? {
                Committed::Written => {}
                Committed::Refused(_) => return Err(LogError::Lagging),
            }
        }
        Ok(page.next.map_or(Stage::Done, |cursor| Stage::Sweep(scan.after(&cursor))))
    }
}

/// Deletes keys between which there is no other.
fn delete_run(batch: &mut Batch, run: &mut Vec<Bytes>) {
    match (run.first(), run.last()) {
        (Some(first), Some(last)) if run.len() >= RANGE_NODES => {
            // The least key that is greater than the last.
            let end = [&last[..], &[0]].concat();
            batch.delete_range(Keyspace::SnapshotNodes, KeyRange::new(first.clone(), end));
        }
        _ => run.iter().for_each(|key| {
            batch.delete(Keyspace::SnapshotNodes, key.clone());
        }),
    }
    run.clear();
}
