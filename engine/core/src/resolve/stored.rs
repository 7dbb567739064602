//! Resolving states of a room that is in a store, reading only what the resolution needs.

use std::collections::BTreeSet;

use super::{Silent, edits};
use crate::{
    event::StateKey,
    graph::{EventGraph, EventIndex, Missing, StoredEvent, UnusableEvent},
    id::EventId,
    room_version::RoomVersionRules,
    state::{NodeIndex, NodeRecord, StateMap, UnusableNode},
};

/// States of a room that is in a store, to be resolved.
///
/// [`resolve`](Self::resolve) says what it lacks; whoever runs it reads that, all at once, hands it in, and asks again. The events
/// that are read are those in conflict, what they cite down to where all states agree, and the few of the common state that the
/// rules ask for; of the snapshots, the nodes on the way to these.
#[derive(Debug)]
pub struct StoredStates {
    graph: EventGraph,
    states: Vec<StateMap>,
    ahead: Option<Ahead>,
}

/// How far down events are read ahead of being asked for: what is cited by one that is needed mostly is needed too.
#[derive(Clone, Copy, Debug)]
struct Ahead {
    /// From here on; at first the lowest of the events that were asked for first, the conflicted ones.
    floor: EventIndex,
    /// In how many rounds nothing but what is below was asked for.
    rounds_below: u32,
}

/// So many rounds a resolution may take for what conflicted events cite, before it is taken for the way down a chain.
const ROUNDS_OF_NO_CHAIN: u32 = 3;

impl Ahead {
    /// Goes down where chains lead further, twice as far each time: so one of any length takes few rounds, and at most about as much
    /// is read in vain as was needed.
    fn after(self, missing: &Missing) -> Self {
        match missing.events.difference(&missing.jumped_to).last() {
            Some(highest) if *highest < self.floor => {
                let rounds_below = self.rounds_below.saturating_add(1);
                let doublings = rounds_below.saturating_sub(ROUNDS_OF_NO_CHAIN).min(31);
                let distance = if doublings == 0 { 0 } else { 4_usize << doublings };
                let floor = EventIndex::from_usize(highest.as_usize().saturating_sub(distance));
                let floor = floor.filter(|_| doublings > 0).unwrap_or(self.floor);
                Self { floor, rounds_below }
            }
            _ => self,
        }
    }
}

/// How far a resolution got.
#[derive(Debug, PartialEq, Eq)]
pub enum Progress {
    /// It is done: what the first state has to be changed by, sorted by key; `None` is nothing at the key.
    Done(Vec<(StateKey, Option<EventId>)>),
    /// These are to be handed in.
    Needs(Missing),
}

impl StoredStates {
    /// Begins with the roots of the states, `None` for an empty one. `create` is the room's create event.
    pub fn new(rules: &'static RoomVersionRules, create: EventIndex, roots: &[Option<NodeIndex>]) -> Self {
        let states = roots.iter().map(|root| StateMap::stored(*root)).collect();
        Self { graph: EventGraph::new_sparse(rules, create), states, ahead: None }
    }

    /// Resolves with what was handed in so far. Costs a resolution each time.
    pub fn resolve(&mut self) -> Progress {
        let states: Vec<&StateMap> = self.states.iter().collect();
        if states.is_empty() {
            return Progress::Done(Vec::new());
        }
        let edits = edits(&self.graph, &states, &mut Silent);
        let base = states.first().copied();
        let held = |key| base.and_then(|base| base.get(&self.graph, key));
        let edits: Vec<_> = edits.into_iter().filter(|(key, event)| held(*key) != *event).collect();
        let missing = self.graph.take_missing();
        if !missing.is_empty() {
            self.ahead = match (self.ahead, missing.events.first()) {
                (Some(ahead), _) => Some(ahead.after(&missing)),
                (None, Some(first)) => Some(Ahead { floor: *first, rounds_below: 0 }),
                (None, None) => None,
            };
            return Progress::Needs(missing);
        }
        let edits = edits
            .into_iter()
            .map(|(key, event)| (self.graph.state_key(key), event.map(|event| self.graph.event_id(event))));
        let mut edits: Vec<_> = edits.collect();
        edits.sort_unstable();
        Progress::Done(edits)
    }

    /// Takes a node that was missing.
    ///
    /// # Errors
    ///
    /// When it can't be one.
    pub fn supply_node(&mut self, number: NodeIndex, node: NodeRecord) -> Result<(), UnusableNode> {
        node.check_form(number)?;
        self.graph.add_stored_node(number, node);
        Ok(())
    }

    /// Takes an event that was missing. Returns those of its auth events that will be missing next.
    ///
    /// # Errors
    ///
    /// When it can't be one: what it builds on comes before it.
    pub fn supply_event(
        &mut self,
        index: EventIndex,
        event: &StoredEvent,
    ) -> Result<BTreeSet<EventIndex>, UnusableEvent> {
        self.graph.insert_stored(index, event)?;
        let floor = self.ahead.map(|ahead| ahead.floor);
        let next = event.auth_events.iter().copied();
        Ok(next.filter(|next| floor.is_some_and(|floor| *next >= floor) && !self.graph.has_stored(*next)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::{EventIndex, Progress, StoredStates};
    use crate::room_version::RoomVersion;

    #[test]
    fn no_states_need_no_resolution() {
        for version in RoomVersion::ALL {
            for roots in [&[][..], &[None], &[None, None]] {
                let mut states = StoredStates::new(version.rules(), EventIndex::FIRST, roots);
                assert_eq!(states.resolve(), Progress::Done(vec![]), "version {version:?}");
            }
        }
    }
}
