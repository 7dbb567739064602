//! Messages that are put aside: a room keeps its state and its newest messages in memory, and a store has the others.
//!
//! Who asks a room for an event that is not in memory is answered as if there were none, and the asking is noted
//! ([`EventGraph::missed`](crate::graph::EventGraph::missed)): whoever runs the room reads what was missed, puts it back, and asks again. A
//! computation that missed nothing had all that it needed.

use std::{collections::BTreeMap, sync::Arc};

use super::{Outcome, Position, Room, RoomError, States, redactions::RedactionSet};
use crate::{
    event::Event,
    graph::{Arena, EventIndex, GraphError},
};

/// What messages that were put aside have in common with those near them: each under the first of its run.
#[derive(Debug, Default)]
pub(super) struct Runs {
    runs: BTreeMap<EventIndex, Around>,
    /// Of what comes from there on, nothing is known.
    end: Option<EventIndex>,
}

/// What is kept of a message that was put aside.
#[derive(Clone, Debug)]
struct Around {
    states: Arc<States>,
    redactions: RedactionSet,
}

impl Around {
    fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.states, &other.states) && self.redactions.is(&other.redactions)
    }
}

impl Runs {
    fn get(&self, index: EventIndex) -> Option<&Around> {
        Some(self.runs.range(..=index).next_back()?.1)
    }

    fn set(&mut self, index: EventIndex, around: Around) {
        let before = self.get(index).cloned();
        let next = EventIndex::from_usize(index.as_usize().saturating_add(1));
        let is_last = self.end.is_none_or(|end| end <= index);
        if is_last {
            self.end = next;
        }
        if before.as_ref().is_some_and(|before| before.is(&around)) {
            return;
        }
        // What comes after it stays as it is.
        if let (false, Some(before), Some(next)) = (is_last, before, next) {
            self.runs.entry(next).or_insert(before);
        }
        self.runs.insert(index, around);
    }
}

impl Room {
    /// Puts messages aside that are not among the room's `newest` events.
    ///
    /// Only such go of which nothing is needed to judge what comes: accepted ones that others build on. Costs time in proportion to
    /// the events in memory.
    ///
    /// # Errors
    ///
    /// Only if an invariant is broken. Drop the room then and restore it from the log.
    pub fn put_messages_aside(&mut self, newest: usize) -> Result<(), RoomError> {
        let end = self.len().saturating_sub(newest);
        let old = self.positions.iter().take_while(|(place, _)| *place < end);
        let going: Vec<(usize, Around)> =
            old.filter_map(|(place, position)| Some((place, Self::spared(position)?))).collect();
        let mut places = Vec::with_capacity(going.len());
        for (place, around) in going {
            if let Some(index) = EventIndex::from_usize(place) {
                self.aside.set(index, around);
                places.push(place);
            }
        }
        self.positions.take_out(&places);
        self.graph.put_aside(&places);
        let mut left = Arena::default();
        for position in self.positions.values_mut() {
            position.prev_events = left.store(self.prev_edges.get(position.prev_events)).ok_or(GraphError::Full)?;
        }
        self.prev_edges = left;
        Ok(())
    }

    /// Returns what is to be kept of an event that can go; `None` if it has to stay.
    fn spared(position: &Position) -> Option<Around> {
        // Of one that is not held, there is nothing but what is plain.
        let may_go = position.event.as_ref().is_none_or(|event| event.is_plain())
            && position.outcome == Outcome::Accepted
            && position.is_built_on
            && !position.is_skeleton
            && !position.is_outlier;
        let states = position.states.as_ref().filter(|_| may_go)?;
        Some(Around { states: Arc::clone(states), redactions: position.redactions.clone() })
    }

    /// Returns those of an event's prev events that were known when it came, also if it was put back.
    pub(super) fn prev_events_then(&self, index: EventIndex) -> Box<[EventIndex]> {
        match self.position(index) {
            // Its own edges are gone; what came later has a higher number.
            Position { event: Some(event), .. } if event.is_plain() => {
                let known = self.known_prev_events(event);
                known.into_iter().filter(|prev| *prev < index).collect()
            }
            _ => self.prev_events(index).into(),
        }
    }

    /// Returns how many events are in memory.
    pub fn in_memory(&self) -> usize {
        self.len().saturating_sub(self.graph.aside())
    }

    /// Puts a message back that was put aside, as the store has it; one that is in memory stays as it is.
    ///
    /// # Errors
    ///
    /// When it cites what is not there, or can't be what was put aside.
    pub fn put_back(&mut self, index: EventIndex, event: &Arc<Event>) -> Result<(), RoomError> {
        if !self.graph.is_aside(index) {
            return Ok(());
        }
        let not_aside = || RoomError::NotAside(event.event_id.clone());
        let auth_events: Vec<EventIndex> =
            event.auth_events.iter().map(|cited| self.known(event, cited)).collect::<Result<_, _>>()?;
        let Around { states, redactions } = self.aside.get(index).cloned().ok_or_else(not_aside)?;
        if !event.is_plain() || event.room_id != self.room_id {
            return Err(not_aside());
        }
        self.graph.put_back(index, event, &auth_events).ok_or_else(not_aside)?;
        let position = Position {
            event: Some(Arc::clone(event)),
            depth: event.depth,
            outcome: Outcome::Accepted,
            states: Some(states),
            redactions,
            is_built_on: true,
            ..Position::absent()
        };
        self.positions.put_back(index.as_usize(), position);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::{Around, EventIndex, RedactionSet, Runs, States};
    use crate::state::StateMap;

    #[test]
    fn runs_give_back_what_was_set_in_whatever_order() {
        let around = |_| {
            let states = Arc::new(States { before: StateMap::new(), after: StateMap::new() });
            Around { states, redactions: RedactionSet::default() }
        };
        let arounds: Vec<Around> = (0..3).map(around).collect();
        let index = |place: usize| EventIndex::from_usize(place).unwrap();
        // Which of them each event has; at first every third is not set.
        let of = |place: usize| &arounds[place / 10 % 3 * usize::from(!place.is_multiple_of(4))];
        let (later, first): (Vec<usize>, Vec<usize>) = (0..200).partition(|place| place % 3 == 1);
        let mut runs = Runs::default();
        for (count, place) in first.iter().chain(&later).enumerate() {
            runs.set(index(*place), of(*place).clone());
            let set = first.iter().chain(&later).take(count + 1);
            assert!(set.clone().all(|place| runs.get(index(*place)).is_some_and(|around| around.is(of(*place)))));
        }
        let mut runs = Runs::default();
        (0..1000).for_each(|place| runs.set(index(place), arounds[place / 400].clone()));
        assert_eq!(runs.runs.len(), 3);
    }
}
