//! The events of a room, numbered, with their auth edges.

mod keys;

use std::{
    fmt,
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
};

use hashbrown::HashTable;
use smallvec::SmallVec;

pub use self::keys::KeyIndex;
pub(crate) use self::keys::KeyTable;
use crate::{
    event::{Event, Membership, StateKey, event_type},
    event_auth::auth_keys_for_event,
    id::EventId,
    room_version::RoomVersionRules,
};

/// A dense local number for an event of a room, ascending along the DAG: a parent's is always smaller. It never leaves the
/// process, and two servers number differently.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EventIndex(u32);

impl EventIndex {
    pub(crate) fn as_usize(self) -> usize {
        self.0 as usize
    }

    pub(crate) fn from_usize(index: usize) -> Option<Self> {
        u32::try_from(index).ok().map(Self)
    }
}

impl fmt::Debug for EventIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}", self.0)
    }
}

/// An event can't be numbered before what it cites.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GraphError {
    /// A cited event is not there.
    #[error("{event_id} cites {missing}, which is not known")]
    UnknownAuthEvent {
        /// The event.
        event_id: EventId,
        /// What it cites.
        missing: EventId,
    },
    /// The event is there already.
    #[error("{0} is already known")]
    Duplicate(EventId),
    /// 2^32 events.
    #[error("the room has too many events")]
    Full,
}

/// What a graph keeps of an event.
#[derive(Debug)]
struct Entry {
    event: Arc<Event>,
    /// The facts it has once redacted, if they differ in what the rules read.
    redacted: Option<Arc<Event>>,
    /// In the order of the event.
    auth_events: SmallVec<[EventIndex; 4]>,
    /// The power levels among them.
    power_levels: Option<EventIndex>,
    /// The key that the event holds in a state; `None` for message events.
    key: Option<KeyIndex>,
    /// The keys that authorize it, if it has a key itself: create, power levels, sender and so on.
    auth_keys: SmallVec<[KeyIndex; 4]>,
    is_power_event: bool,
    rejected: bool,
}

/// The events of one room.
///
/// Invariant: every auth event has a smaller number than the event that cites it.
#[derive(Debug)]
pub struct EventGraph {
    rules: &'static RoomVersionRules,
    entries: Vec<Entry>,
    by_id: HashTable<EventIndex>,
    keys: KeyTable,
    create: Option<EventIndex>,
}

impl EventGraph {
    /// Returns a graph without events.
    pub fn new(rules: &'static RoomVersionRules) -> Self {
        Self { rules, entries: Vec::new(), by_id: HashTable::new(), keys: KeyTable::default(), create: None }
    }

    /// Returns the rules of the room's version.
    pub fn rules(&self) -> &'static RoomVersionRules {
        self.rules
    }

    /// Adds an event after all that it cites. `redacted` is the event as it is once redacted, if that changes what rules read.
    /// The first create event that was not rejected is the room's.
    ///
    /// # Errors
    ///
    /// When an auth event is unknown, the event is there already, or there is no number left.
    pub fn insert(
        &mut self,
        event: Arc<Event>,
        redacted: Option<Arc<Event>>,
        rejected: bool,
    ) -> Result<EventIndex, GraphError> {
        if self.index_of(&event.event_id).is_some() {
            return Err(GraphError::Duplicate(event.event_id.clone()));
        }
        let auth_events = event.auth_events.iter().map(|id| {
            self.index_of(id)
                .ok_or_else(|| GraphError::UnknownAuthEvent { event_id: event.event_id.clone(), missing: id.clone() })
        });
        let auth_events: SmallVec<[EventIndex; 4]> = auth_events.collect::<Result<_, _>>()?;
        let power_levels = auth_events.iter().find(|index| self.event(**index).is_state(event_type::POWER_LEVELS, ""));
        let power_levels = power_levels.copied();
        let (key, auth_keys) = self.intern_keys(&event)?;
        let index = EventIndex(u32::try_from(self.entries.len()).map_err(|_| GraphError::Full)?);
        if !rejected && self.create.is_none() && event.is_state(event_type::CREATE, "") {
            self.create = Some(index);
        }
        let is_power_event = is_power_event(&event);
        self.entries.push(Entry {
            event,
            redacted,
            auth_events,
            power_levels,
            key,
            auth_keys,
            is_power_event,
            rejected,
        });
        let entries = &self.entries;
        let hash_at =
            |index: &EventIndex| entries.get(index.as_usize()).map_or(0, |entry| hash_of(&entry.event.event_id));
        self.by_id.insert_unique(hash_at(&index), index, hash_at);
        Ok(index)
    }

    /// Gives numbers to the key that a state event holds and to those that authorize it.
    fn intern_keys(&mut self, event: &Event) -> Result<(Option<KeyIndex>, SmallVec<[KeyIndex; 4]>), GraphError> {
        let Some(state_key) = &event.state_key else { return Ok((None, SmallVec::new())) };
        let key = self.keys.intern(&event.event_type, state_key).ok_or(GraphError::Full)?;
        let create = self.rules.room_id_is_create_hash.then_some((event_type::CREATE, ""));
        let auth_keys = auth_keys_for_event(self.rules, event)
            .chain(create)
            .map(|(event_type, state_key)| self.keys.intern(event_type, state_key).ok_or(GraphError::Full))
            .collect::<Result<_, _>>()?;
        Ok((Some(key), auth_keys))
    }

    /// Returns the number of events.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are no events.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Returns the number of an event.
    pub fn index_of(&self, event_id: &EventId) -> Option<EventIndex> {
        let found = self.by_id.find(hash_of(event_id), |index| {
            self.entries.get(index.as_usize()).is_some_and(|entry| entry.event.event_id == *event_id)
        });
        found.copied()
    }

    /// Returns an event as it was received.
    pub fn event(&self, index: EventIndex) -> &Arc<Event> {
        &self.entry(index).event
    }

    /// Returns the facts of an event once redacted, if they differ.
    pub fn redacted_event(&self, index: EventIndex) -> Option<&Arc<Event>> {
        self.entry(index).redacted.as_ref()
    }

    /// Returns the numbers of an event's auth events, in its order.
    pub fn auth_events(&self, index: EventIndex) -> &[EventIndex] {
        &self.entry(index).auth_events
    }

    /// Returns the power levels event among an event's auth events.
    pub(crate) fn power_levels(&self, index: EventIndex) -> Option<EventIndex> {
        self.entry(index).power_levels
    }

    /// Returns the key that an event holds in a state; `None` for message events.
    pub fn key(&self, index: EventIndex) -> Option<KeyIndex> {
        self.entry(index).key
    }

    /// Returns the keys that authorize a state event; in room version 12 the create event's too.
    pub(crate) fn auth_keys(&self, index: EventIndex) -> &[KeyIndex] {
        &self.entry(index).auth_keys
    }

    /// Whether an event is a *power event*: it might take away somebody's ability to do something in the room.
    pub(crate) fn is_power_event(&self, index: EventIndex) -> bool {
        self.entry(index).is_power_event
    }

    pub(crate) fn keys(&self) -> &KeyTable {
        &self.keys
    }

    /// Returns the state key of a number.
    pub fn state_key(&self, key: KeyIndex) -> &StateKey {
        self.keys.key(key)
    }

    /// Whether the event was rejected.
    pub fn is_rejected(&self, index: EventIndex) -> bool {
        self.entry(index).rejected
    }

    /// Returns the room's create event.
    pub fn create(&self) -> Option<EventIndex> {
        self.create
    }

    /// Returns all events in the order of their numbers.
    pub fn iter(&self) -> impl Iterator<Item = (EventIndex, &Arc<Event>)> {
        (0..).map(EventIndex).zip(self.entries.iter().map(|entry| &entry.event))
    }

    #[allow(clippy::indexing_slicing, reason = "numbers are made by `insert` alone, and entries are never taken away")]
    fn entry(&self, index: EventIndex) -> &Entry {
        &self.entries[index.as_usize()]
    }
}

/// Deployed servers count power levels and join rules only with the empty state key, and the create event too; so does this.
fn is_power_event(event: &Event) -> bool {
    let Some(state_key) = event.state_key.as_deref() else { return false };
    match &*event.event_type {
        event_type::POWER_LEVELS | event_type::JOIN_RULES | event_type::CREATE => state_key.is_empty(),
        event_type::MEMBER => {
            let removes = matches!(event.membership(), Some(Membership::Leave | Membership::Ban));
            removes && event.sender.as_str() != state_key
        }
        _ => false,
    }
}

fn hash_of(event_id: &EventId) -> u64 {
    let mut hasher = DefaultHasher::new();
    event_id.as_str().hash(&mut hasher);
    hasher.finish()
}
