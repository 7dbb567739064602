//! What a room costs: events, bytes, snapshots, resolutions.

use std::collections::BTreeMap;

use bytes::Bytes;
use ravel_core::{
    id::{EventId, RoomId},
    resolve::Step,
    room::Room,
    state::{NodeContent, NodeRecord},
};

use super::{
    EventLog, LogError,
    nodes::{NodeWalk, Numbers},
    records::{ExtremitiesRecord, LogEntry, StatesRecord, TimelineRecord, key, outcome_from_byte},
};
use crate::{KeyRange, Keyspace, Scan, StoreError, StoreExt, codec};

/// How many records are read at a time.
const PAGE: usize = 1024;

/// How much there is of a room.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RoomStats {
    /// The events.
    pub events: EventCounts,
    /// The bytes of keys and values, by keyspace: what an engine then compresses, or adds to.
    pub bytes: BTreeMap<Keyspace, u64>,
    /// How many different states are stored: those before and after events, and the current one.
    pub snapshots: u64,
    /// How many nodes these states are made of.
    pub nodes: u64,
    /// How many of the nodes are part of more than one: states or other nodes that have them.
    pub shared_nodes: u64,
    /// How many nodes no state has; `collect` deletes them.
    pub unreferenced_nodes: u64,
    /// How many events changed the state, of those whose states are there.
    pub state_changes: u64,
    /// How many nodes these events added.
    pub nodes_of_state_changes: u64,
    /// How many forward extremities there are.
    pub forward_extremities: u64,
}

/// Events by what became of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EventCounts {
    /// Accepted.
    pub accepted: u64,
    /// Soft-failed.
    pub soft_failed: u64,
    /// Rejected.
    pub rejected: u64,
    /// Of all of these: without their content, which was purged.
    pub purged: u64,
    /// Of all of these: without the states around them, which were purged.
    pub without_states: u64,
}

/// What resolutions of a room's states took, counted, not timed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResolutionStats {
    /// How many events build on several states, which had to be resolved.
    pub resolutions: u64,
    /// How many events with several prev events build on what was purged.
    pub unknown: u64,
    /// The state keys in conflict.
    pub conflicted: Spread,
    /// The events of the auth difference.
    pub auth_difference: Spread,
    /// The event with most of both together, the first of several.
    pub costliest: Option<EventId>,
}

/// How a number is spread over resolutions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spread {
    /// As many are higher as are lower.
    pub median: u64,
    /// One in a hundred is higher.
    pub p99: u64,
    /// The highest.
    pub max: u64,
}

impl RoomStats {
    /// Returns how many events there are.
    pub fn event_count(&self) -> u64 {
        let EventCounts { accepted, soft_failed, rejected, .. } = self.events;
        accepted + soft_failed + rejected
    }

    /// Returns the bytes of all keyspaces.
    pub fn byte_count(&self) -> u64 {
        self.bytes.values().sum()
    }

    /// Adds those of another room.
    pub fn add(&mut self, other: &Self) {
        let events = &mut self.events;
        events.accepted += other.events.accepted;
        events.soft_failed += other.events.soft_failed;
        events.rejected += other.events.rejected;
        events.purged += other.events.purged;
        events.without_states += other.events.without_states;
        for (keyspace, bytes) in &other.bytes {
            *self.bytes.entry(*keyspace).or_default() += bytes;
        }
        self.snapshots += other.snapshots;
        self.nodes += other.nodes;
        self.shared_nodes += other.shared_nodes;
        self.unreferenced_nodes += other.unreferenced_nodes;
        self.state_changes += other.state_changes;
        self.nodes_of_state_changes += other.nodes_of_state_changes;
        self.forward_extremities += other.forward_extremities;
    }

    fn count_bytes(&mut self, keyspace: Keyspace, key: &[u8], value: &[u8]) {
        *self.bytes.entry(keyspace).or_default() += (key.len() + value.len()) as u64;
    }
}

impl EventLog {
    /// Counts what there is of a room; `None` if it is not there.
    ///
    /// Reads page by page, while others may append, collect and purge: then some counts are of a moment later than others. Costs
    /// reading every record of the room, the nodes twice, and memory for some bits for each node.
    ///
    /// # Errors
    ///
    /// When the store fails, or a record is damaged.
    pub async fn stats(&self, room_id: &RoomId) -> Result<Option<RoomStats>, LogError> {
        let Some(record) = self.room(room_id)? else { return Ok(None) };
        let room = record.number;
        let mut stats = RoomStats::default();
        stats.count_bytes(Keyspace::Rooms, room_id.as_str().as_bytes(), &codec::encode(&record)?);
        let others: Vec<u64> = record.purges.iter().copied().chain([record.opened]).collect();
        self.count_entries(&others, &mut stats).await?;
        let mut states = States { walk: NodeWalk::new(room, u32::MAX), ..States::default() };
        if let Some(extremities) = self.store.get_record::<ExtremitiesRecord>(key::room(room)).await? {
            stats.count_bytes(Keyspace::Extremities, &key::room(room), &codec::encode(&extremities)?);
            stats.forward_extremities = extremities.forward_extremities.len() as u64;
            states.add(self, extremities.current_state).await?;
        }
        self.count_timeline(room, &mut states, &mut stats).await?;
        (stats.snapshots, stats.nodes) = (states.roots.len(), states.walk.needed() - states.missing);
        stats.shared_nodes = states.shared.len();
        for keyspace in [Keyspace::Events, Keyspace::EventFacts, Keyspace::SnapshotNodes] {
            let mut scan = Some(Scan::new(keyspace, KeyRange::prefix(key::room(room))).items(PAGE));
            while let Some(asked) = scan.take() {
                let page = self.store.scan(asked.clone()).await?;
                scan = page.next.as_ref().map(|cursor| asked.after(cursor));
                for (key, value) in &page.items {
                    stats.count_bytes(keyspace, key, value);
                    if keyspace == Keyspace::SnapshotNodes && !states.walk.needs(key::node_number(key)?) {
                        stats.unreferenced_nodes += 1;
                    }
                }
            }
        }
        Ok(Some(stats))
    }

    /// Resolves every merge of a room once more and counts what that takes; `None` if the room is not there.
    ///
    /// Loads the room: costs time and memory for all of its events and states.
    ///
    /// # Errors
    ///
    /// When the store fails, or what it has does not fit together.
    pub async fn resolution_stats(&self, room_id: &RoomId) -> Result<Option<ResolutionStats>, LogError> {
        Ok(match self.load_room(room_id).await? {
            Some(room) => Some(ResolutionStats::of(&room)?),
            None => None,
        })
    }

    async fn count_timeline(&self, room: u32, states: &mut States, stats: &mut RoomStats) -> Result<(), LogError> {
        let mut numbered_before = 0;
        let mut scan = Some(Scan::new(Keyspace::Timelines, KeyRange::prefix(key::room(room))).items(PAGE));
        while let Some(asked) = scan.take() {
            let page = self.store.scan(asked.clone()).await?;
            scan = page.next.as_ref().map(|cursor| asked.after(cursor));
            let mut sequences = Vec::with_capacity(page.items.len());
            for (key, value) in &page.items {
                sequences.push(key::timeline_sequence(key)?);
                stats.count_bytes(Keyspace::Timelines, key, value);
                let timeline: TimelineRecord = codec::decode(key, value)?;
                let unknown = || StoreError::corrupt(Keyspace::Timelines, key, "a known outcome");
                match outcome_from_byte(timeline.outcome).ok_or_else(unknown)? {
                    ravel_core::room::Outcome::Accepted => stats.events.accepted += 1,
                    ravel_core::room::Outcome::SoftFailed => stats.events.soft_failed += 1,
                    ravel_core::room::Outcome::Rejected => stats.events.rejected += 1,
                }
                match timeline.states {
                    StatesRecord::Roots { before, after } if before != after => {
                        stats.state_changes += 1;
                        let added = timeline.nodes_numbered.saturating_sub(numbered_before);
                        stats.nodes_of_state_changes += u64::from(added);
                    }
                    StatesRecord::Roots { .. } => {}
                    StatesRecord::Purged => stats.events.without_states += 1,
                }
                numbered_before = timeline.nodes_numbered;
                for root in timeline.states.roots() {
                    states.add(self, Some(root)).await?;
                }
            }
            self.count_entries(&sequences, stats).await?;
        }
        Ok(())
    }

    async fn count_entries(&self, sequences: &[u64], stats: &mut RoomStats) -> Result<(), LogError> {
        let keys: Vec<Bytes> = sequences.iter().map(|sequence| key::sequence(*sequence)).collect();
        for (key, value) in keys.iter().zip(self.store.get_many(Keyspace::Log, &keys).await?) {
            let Some(value) = value else { continue };
            stats.count_bytes(Keyspace::Log, key, &value);
            if matches!(codec::decode(key, &value)?, LogEntry::PurgedEvent(_)) {
                stats.events.purged += 1;
            }
        }
        Ok(())
    }
}

/// The states of a room and the nodes they are made of.
#[derive(Default)]
struct States {
    roots: Numbers,
    walk: NodeWalk,
    /// Nodes that something refers to, and those that something else refers to as well.
    referred: Numbers,
    shared: Numbers,
    /// Nodes that were collected meanwhile.
    missing: u64,
}

impl States {
    async fn add(&mut self, log: &EventLog, root: Option<u32>) -> Result<(), LogError> {
        let Some(root) = root.filter(|root| self.roots.insert(*root)) else { return Ok(()) };
        let Self { walk, referred, shared, missing, .. } = self;
        let mut refer = |number: u32| {
            if !referred.insert(number) {
                shared.insert(number);
            }
        };
        refer(root);
        let on_node = |_, node: Option<&NodeRecord>| match node.map(|node| &node.content) {
            Some(NodeContent::Branch { children }) => {
                children.iter().flatten().for_each(|child| refer(child.number()));
            }
            Some(NodeContent::Leaf(_) | NodeContent::Change(_)) => {}
            None => *missing += 1,
        };
        walk.visit(log, [root], on_node).await
    }
}

impl ResolutionStats {
    /// Resolves every merge of a room once more and counts what that takes.
    ///
    /// # Errors
    ///
    /// Only if an invariant of the room is broken.
    pub fn of(room: &Room) -> Result<Self, LogError> {
        let mut stats = Self::default();
        let (mut conflicted, mut auth_difference) = (Vec::new(), Vec::new());
        let mut costliest = 0;
        for (event, _) in room.events().filter(|(event, _)| event.prev_events.len() > 1) {
            // Without the states after its prev events there is nothing to resolve.
            if event.prev_events.iter().any(|prev| room.state_after(prev).is_none()) {
                stats.unknown += 1;
                continue;
            }
            let Some(explanation) = room.explain(&event.event_id)? else { continue };
            let mut fingerprints = explanation.prev_events.iter().map(|(_, fingerprint)| fingerprint);
            let first = fingerprints.next();
            if fingerprints.all(|fingerprint| Some(fingerprint) == first) {
                continue;
            }
            let (mut keys, mut difference) = (0, 0);
            for step in &explanation.steps {
                match step {
                    Step::Conflict { .. } => keys += 1,
                    Step::AuthDifference { events } => difference += events.len() as u64,
                    _ => {}
                }
            }
            stats.resolutions += 1;
            conflicted.push(keys);
            auth_difference.push(difference);
            if keys + difference > costliest {
                costliest = keys + difference;
                stats.costliest = Some(event.event_id.clone());
            }
        }
        (stats.conflicted, stats.auth_difference) = (Spread::of(conflicted), Spread::of(auth_difference));
        Ok(stats)
    }
}

impl Spread {
    fn of(mut numbers: Vec<u64>) -> Self {
        numbers.sort_unstable();
        // The least number that so many percent are not above.
        let at = |percent: usize| {
            let place = (numbers.len() * percent).div_ceil(100).saturating_sub(1);
            numbers.get(place).copied().unwrap_or_default()
        };
        Self { median: at(50), p99: at(99), max: at(100) }
    }
}

#[cfg(test)]
mod tests {
    use super::Spread;

    #[test]
    fn a_spread_is_of_the_numbers_that_are_there() {
        let check = |numbers: &[u64], median, p99, max| {
            assert_eq!(Spread::of(numbers.to_vec()), Spread { median, p99, max }, "{numbers:?}");
        };
        check(&[], 0, 0, 0);
        check(&[7], 7, 7, 7);
        check(&[9, 1], 1, 9, 9);
        check(&[3, 1, 2], 2, 3, 3);
        check(&(1..=200).rev().collect::<Vec<_>>(), 100, 198, 200);
    }
}
