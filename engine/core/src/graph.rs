//! The events of a room, numbered, with their auth edges: the index that state resolution works on.
//!
//! An event is 40 bytes of facts (who, when, which state key, what the rules read of its content), its edges and its id. Strings
//! are numbered too, each kept once; what only few events have (power levels, third-party invites) lies apart, decoded once. So
//! the rules compare numbers, and a room of 100,000 members fits in some 15 MB.

mod aside;
mod auth_chain;
mod auth_edges;
mod column;
mod event_view;
mod facts;
mod ids;
mod insert;
mod keys;
mod names;
mod number;
mod power_chain;
mod sparse;

use std::{cmp::Ordering, collections::BTreeMap};

use self::{
    aside::Aside,
    auth_edges::AuthEdges,
    facts::{Extra, Facts, Flags},
    ids::{EventIds, IdText},
    sparse::Sparse,
};
pub use self::{
    aside::Missed,
    insert::{GraphError, StoredEvent, UnusableEvent},
    keys::KeyIndex,
    power_chain::PowerChain,
    sparse::Missing,
};
pub(crate) use self::{
    column::{Arena, Column, Span},
    event_view::EventView,
    facts::{CreateFacts, LevelFacts, LevelMap, MemberExtra},
    keys::KeyTable,
    names::NameIndex,
    number::{dense_number, stored_number},
};
use crate::{
    event::StateKey,
    id::{EventId, UserId},
    room_version::RoomVersionRules,
    state::{EntryFingerprints, NodeIndex, NodeRecord},
    work::count,
};

dense_number! {
    /// A dense local number for an event of a room, ascending along the DAG: a parent's is always smaller. It is stored
    /// and never sent: two servers number differently.
    pub EventIndex
}

stored_number!(EventIndex);

/// The events of one room.
///
/// Invariant: every auth event has a smaller number than the event that cites it.
#[derive(Debug)]
pub struct EventGraph {
    rules: &'static RoomVersionRules,
    ids: EventIds,
    facts: Column<Facts>,
    /// What [`Facts::auth_events`] points into.
    auth_edges: AuthEdges,
    extras: Vec<Extra>,
    /// Of the power levels events.
    power_chains: BTreeMap<EventIndex, PowerChain>,
    /// The facts of events once redacted, if they differ in what the rules read.
    redacted: BTreeMap<EventIndex, Facts>,
    /// `depth`, in room version 1 only: no other resolution reads it.
    depths: Column<i64>,
    keys: KeyTable,
    create: Option<EventIndex>,
    entry_fingerprints: EntryFingerprints,
    /// What there is of the room, if not all of it is here.
    sparse: Option<Sparse>,
    aside: Aside,
}

impl EventGraph {
    /// Returns a graph without events.
    pub fn new(rules: &'static RoomVersionRules) -> Self {
        Self {
            rules,
            ids: EventIds::default(),
            facts: Column::default(),
            auth_edges: AuthEdges::default(),
            extras: Vec::new(),
            power_chains: BTreeMap::new(),
            redacted: BTreeMap::new(),
            depths: Column::default(),
            keys: KeyTable::default(),
            create: None,
            entry_fingerprints: EntryFingerprints::default(),
            sparse: None,
            aside: Aside::default(),
        }
    }

    /// Returns a graph of a room of which nothing is in memory yet.
    pub(crate) fn new_sparse(rules: &'static RoomVersionRules, create: EventIndex) -> Self {
        Self { create: Some(create), sparse: Some(Sparse::default()), ..Self::new(rules) }
    }

    /// Returns the rules of the room's version.
    pub fn rules(&self) -> &'static RoomVersionRules {
        self.rules
    }

    /// Returns the number of events.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether there are no events.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether an event has this number.
    pub fn has(&self, index: EventIndex) -> bool {
        self.place(index).is_some_and(|place| place < self.len())
    }

    /// Returns the number of an event. Events of a room that is mostly in a store are not found by their ids. Nor are those that were
    /// put aside, but that is [noted](Self::missed).
    pub fn index_of(&self, event_id: &EventId) -> Option<EventIndex> {
        if self.sparse.is_some() {
            return None;
        }
        let index = self.ids.index_of(event_id);
        if index.is_none() {
            self.aside.note_id(event_id);
        }
        index
    }

    /// Returns the id of an event. Costs an allocation.
    pub fn event_id(&self, index: EventIndex) -> EventId {
        self.ids.get(self.id_place(index))
    }

    pub(crate) fn entry_fingerprints(&self) -> &EntryFingerprints {
        &self.entry_fingerprints
    }

    /// Compares two events by their ids.
    pub(crate) fn compare_ids(&self, left: EventIndex, right: EventIndex) -> Ordering {
        self.event_id_text(left).as_ref().cmp(self.event_id_text(right).as_ref())
    }

    pub(crate) fn event_id_text(&self, index: EventIndex) -> impl AsRef<[u8]> {
        self.ids.text(self.id_place(index))
    }

    /// Returns where the id of an event is, a place without one if that is not in memory.
    fn id_place(&self, index: EventIndex) -> usize {
        if self.is_aside(index) {
            self.aside.note_number(index);
        }
        self.place(index).unwrap_or(usize::MAX)
    }

    /// Returns an event as it was received.
    pub(crate) fn event(&self, index: EventIndex) -> EventView<'_> {
        EventView::new(self, index, self.facts(index))
    }

    /// Returns an event as it is once redacted, if that differs in what the rules read.
    pub(crate) fn redacted_event(&self, index: EventIndex) -> Option<EventView<'_>> {
        if !self.has_flag(index, Flags::DIFFERS_REDACTED) {
            return None;
        }
        Some(EventView::new(self, index, self.redacted.get(&index)?))
    }

    /// Returns the numbers of an event's auth events, in its order.
    pub fn auth_events(&self, index: EventIndex) -> &[EventIndex] {
        let auth_events = self.auth_edges.get(self.facts(index).auth_events());
        count(auth_events.len());
        auth_events
    }

    /// Returns the power levels event among an event's auth events.
    pub(crate) fn power_levels(&self, index: EventIndex) -> Option<EventIndex> {
        self.facts(index).power_levels
    }

    /// Returns how many power levels events there are from the oldest that one is based on to itself.
    pub(crate) fn power_depth(&self, power_levels: EventIndex) -> u32 {
        self.power_chain(power_levels).map_or(0, |chain| chain.depth)
    }

    /// Returns the depth of the newest power levels event that two are based on, or are; `None` if there is none.
    pub(crate) fn common_power_depth(&self, left: EventIndex, right: EventIndex) -> Option<u32> {
        Some(power_chain::meeting(left, right, |index| self.power_chain(index))?.depth)
    }

    fn power_chain(&self, index: EventIndex) -> Option<PowerChain> {
        count(1);
        if let Some(sparse) = &self.sparse {
            sparse.jump_to(index);
        }
        self.power_chains.get(&index).copied()
    }

    /// Returns the key that an event holds in a state; `None` for message events.
    pub fn key(&self, index: EventIndex) -> Option<KeyIndex> {
        self.facts(index).key
    }

    pub(crate) fn origin_server_ts_ms(&self, index: EventIndex) -> i64 {
        self.facts(index).origin_server_ts_ms
    }

    /// Returns the `depth` of an event of room version 1, 0 for those of other versions.
    pub(crate) fn depth(&self, index: EventIndex) -> i64 {
        self.place(index).and_then(|place| self.depths.get(place)).copied().unwrap_or_default()
    }

    /// Whether an event is a *power event*: it might take away somebody's ability to do something in the room.
    pub(crate) fn is_power_event(&self, index: EventIndex) -> bool {
        self.has_flag(index, Flags::POWER_EVENT)
    }

    /// Whether the event was rejected.
    pub fn is_rejected(&self, index: EventIndex) -> bool {
        self.has_flag(index, Flags::REJECTED)
    }

    pub(crate) fn keys(&self) -> &KeyTable {
        &self.keys
    }

    /// Returns the state key of a number. Costs two allocations.
    pub fn state_key(&self, key: KeyIndex) -> StateKey {
        self.keys.key(key)
    }

    /// Returns the room's create event.
    pub fn create(&self) -> Option<EventIndex> {
        self.create
    }

    /// Returns the numbers of the events in memory, in order: all but those that were put aside.
    pub fn indices(&self) -> impl Iterator<Item = EventIndex> {
        self.ids.places().filter_map(EventIndex::from_usize)
    }

    pub(crate) fn name(&self, name: NameIndex) -> &str {
        self.keys.names().text(name)
    }

    /// Returns the user with a name that was a user's when it came in.
    pub(crate) fn user_id(&self, name: NameIndex) -> UserId {
        UserId::of_checked(self.name(name))
    }

    /// Returns a snapshot node of a room that is in a store, if it is in memory.
    pub(crate) fn stored_node(&self, number: NodeIndex) -> Option<&NodeRecord> {
        self.sparse.as_ref()?.node(number)
    }

    /// Returns how many snapshot nodes there were before an event of a room that is in a store.
    pub(crate) fn nodes_before(&self, index: EventIndex) -> u32 {
        self.sparse.as_ref().map_or(0, |sparse| sparse.nodes_before(index))
    }

    /// Whether an event of a room that is in a store is in memory.
    pub(crate) fn has_stored(&self, index: EventIndex) -> bool {
        self.sparse.as_ref().is_some_and(|sparse| sparse.has_event(index))
    }

    /// Adds a node of a room that is in a store.
    pub(crate) fn add_stored_node(&mut self, number: NodeIndex, node: NodeRecord) {
        if let Some(sparse) = &mut self.sparse {
            sparse.add_node(number, node);
        }
    }

    /// Whether something was asked for and is not in memory, since that was taken last.
    pub(crate) fn is_missing_some(&self) -> bool {
        self.sparse.as_ref().is_some_and(Sparse::is_missing_some)
    }

    /// Returns what was asked for and is not in memory, since this was called last.
    pub(crate) fn take_missing(&self) -> Missing {
        self.sparse.as_ref().map(Sparse::take_missing).unwrap_or_default()
    }

    fn facts(&self, index: EventIndex) -> &Facts {
        count(1);
        let Some(place) = self.place(index) else { return &Facts::ABSENT };
        self.facts.get(place).unwrap_or_else(|| {
            self.aside.note_number(index);
            &Facts::ABSENT
        })
    }

    /// Returns where the facts and the id of an event are; `None` if they are not in memory, and then that is noted.
    fn place(&self, index: EventIndex) -> Option<usize> {
        match &self.sparse {
            None => Some(index.as_usize()),
            Some(sparse) => sparse.place(index),
        }
    }

    fn has_flag(&self, index: EventIndex, flag: Flags) -> bool {
        self.facts(index).flags.has(flag)
    }
}

impl AsRef<[u8]> for IdText<'_> {
    fn as_ref(&self) -> &[u8] {
        self.as_bytes()
    }
}
