//! Rooms of a given shape and any size: a shared history, then forks that change the same keys.
//!
//! They are what state resolution is measured on, and, in small, what it is compared with others on. A [`Shape`] says how many
//! there are of everything; the same shape always gives the same [`GeneratedRoom`].

mod builder;
mod stored;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use ravel_core::{
    event::{Event, StateKey},
    graph::{EventGraph, GraphError},
    id::EventId,
    room_version::{RoomVersion, RoomVersionRules},
    state::StateMap,
};

use crate::plain;

/// How many users power levels can name before the event might be larger than 65,536 bytes.
pub const POWER_USERS_MAX: usize = 2_000;

/// What a generated room looks like.
#[derive(Clone, Debug)]
pub struct Shape {
    /// The room's version.
    pub room_version: RoomVersion,
    /// How many users are joined before the forks.
    pub members: usize,
    /// How many times the power levels change before the forks.
    pub power_changes: usize,
    /// How many users the power levels name.
    pub power_users: usize,
    /// How many forks there are.
    pub forks: usize,
    /// How many times each fork changes the power levels, each change citing the one before.
    pub chained_power_changes: usize,
    /// How many events are in conflict, over all forks: each fork has its share, with the last of its power levels among them, a
    /// topic, a name, and for the rest memberships of the same users, mixed of kicks, bans, joins and leaves.
    pub conflicted_events: usize,
    /// Each fork but the first begins in the midst of another one: a tree of forks.
    pub nested: bool,
    /// All users with power act, not the creator alone, at times that overlap; forks take power from some of them, ban some, and
    /// change the join rules. So the forks refuse each other's events. A few events more are in conflict.
    pub disputed: bool,
    /// Makes another room of the same shape.
    pub seed: u64,
}

impl Default for Shape {
    /// A room of 1,000 members of whom ten have power, and two forks with 22 events in conflict.
    fn default() -> Self {
        Self {
            room_version: RoomVersion::V11,
            members: 1_000,
            power_changes: 10,
            power_users: 10,
            forks: 2,
            chained_power_changes: 1,
            conflicted_events: 22,
            nested: false,
            disputed: false,
            seed: 1,
        }
    }
}

/// Why there is no room of a shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ImpossibleShape {
    /// Without forks nothing is resolved.
    #[error("a room without forks has nothing to resolve")]
    NoForks,
    /// Without power nobody could send state events.
    #[error("the power levels have to name one user at least")]
    NoPowerUsers,
    /// The event would be too large.
    #[error("power levels that name {0} users are larger than an event may be; {POWER_USERS_MAX} users are the most")]
    TooManyPowerUsers(usize),
    /// Each fork changes something.
    #[error("{conflicted_events} conflicted events are less than one for each of {forks} forks")]
    ConflictTooSmall {
        /// The conflicted events.
        conflicted_events: usize,
        /// The forks.
        forks: usize,
    },
    /// Each fork changes memberships of different users, who are none of those with power.
    #[error(
        "{conflicted_events} conflicted events of {forks} forks and {power_users} users with power need {needed} members, \
         and the room has {members}"
    )]
    TooFewMembers {
        /// The conflicted events.
        conflicted_events: usize,
        /// The forks.
        forks: usize,
        /// The users with power.
        power_users: usize,
        /// How many members that needs.
        needed: usize,
        /// How many there are.
        members: usize,
    },
}

/// Members, forks, conflicted events, users in the power levels, changes of power levels by each fork.
const MEASURED: [[usize; 5]; 9] = [
    [100, 2, 22, 10, 1],
    [1_000, 2, 22, 10, 1],
    [10_000, 2, 22, 10, 1],
    [100_000, 2, 22, 10, 1],
    [100_000, 20, 20, 10, 1],
    [10_000, 2, 2_002, 10, 1],
    [10_000, 2, 10_002, 10, 1],
    [10_000, 2, 2_002, 1_000, 1],
    [10_000, 2, 204, 10, 900],
];

impl Shape {
    /// Returns the rooms that resolution is measured on: small and large ones, with small and large conflicts, many users with
    /// power, long chains of power levels.
    pub fn measured(room_version: RoomVersion) -> impl Iterator<Item = Self> {
        MEASURED.into_iter().map(move |[members, forks, conflicted_events, power_users, chained_power_changes]| Self {
            room_version,
            members,
            forks,
            conflicted_events,
            power_users,
            chained_power_changes,
            ..Self::default()
        })
    }

    /// Checks that there is a room of this shape.
    ///
    /// # Errors
    ///
    /// When there is none.
    pub fn check(&self) -> Result<(), ImpossibleShape> {
        let Self { members, power_users, forks, conflicted_events, .. } = *self;
        if forks == 0 {
            return Err(ImpossibleShape::NoForks);
        }
        if power_users == 0 {
            return Err(ImpossibleShape::NoPowerUsers);
        }
        if power_users > POWER_USERS_MAX {
            return Err(ImpossibleShape::TooManyPowerUsers(power_users));
        }
        if conflicted_events < forks {
            return Err(ImpossibleShape::ConflictTooSmall { conflicted_events, forks });
        }
        let needed = conflicted_events.div_ceil(forks).saturating_add(power_users);
        if members < needed {
            return Err(ImpossibleShape::TooFewMembers { conflicted_events, forks, power_users, needed, members });
        }
        Ok(())
    }

    /// Makes the room.
    ///
    /// # Errors
    ///
    /// When there is no room of this shape.
    pub fn generate(&self) -> Result<GeneratedRoom, ImpossibleShape> {
        self.check()?;
        Ok(builder::room(self))
    }
}

/// An event with the content that other implementations parse.
#[derive(Clone, Debug)]
pub struct GeneratedEvent {
    /// The event.
    pub event: Arc<Event>,
    /// Its `content`, as JSON.
    pub content: Box<str>,
}

/// A generated room.
#[derive(Debug)]
pub struct GeneratedRoom {
    /// The rules of its version.
    pub rules: &'static RoomVersionRules,
    /// All events, parents first. The first is the create event.
    pub events: Vec<GeneratedEvent>,
    /// The state before the forks.
    pub shared: plain::State,
    /// What each fork changes of it.
    pub forks: Vec<plain::State>,
}

impl GeneratedRoom {
    /// Returns the states after the forks, one by one: together they may be large.
    pub fn states(&self) -> impl Iterator<Item = plain::State> {
        self.forks.iter().map(|changes| {
            let mut state = self.shared.clone();
            state.extend(changes.clone());
            state
        })
    }

    /// Returns the conflicted state set of the states after the forks, of which all have the same keys.
    pub fn conflicted_events(&self) -> BTreeSet<&EventId> {
        let keys: BTreeSet<&StateKey> = self.forks.iter().flat_map(BTreeMap::keys).collect();
        let candidates = keys.into_iter().map(|key| {
            let of_forks = self.forks.iter().filter_map(|changes| changes.get(key).or_else(|| self.shared.get(key)));
            of_forks.collect::<BTreeSet<&EventId>>()
        });
        candidates.filter(|events| events.len() > 1).flatten().collect()
    }

    /// Returns the graph of all events, and the states after the forks by its numbers.
    ///
    /// # Errors
    ///
    /// When the graph does not take the events.
    pub fn numbered(&self) -> Result<(EventGraph, Vec<StateMap>), GraphError> {
        self.numbered_with_shared().map(|(graph, _, states)| (graph, states))
    }

    /// As [`numbered`](Self::numbered), with the state before the forks between graph and states.
    ///
    /// # Errors
    ///
    /// When the graph does not take the events.
    pub fn numbered_with_shared(&self) -> Result<(EventGraph, StateMap, Vec<StateMap>), GraphError> {
        let mut graph = EventGraph::new(self.rules);
        for event in &self.events {
            graph.insert(&event.event, None, false)?;
        }
        let edit = |state: &StateMap, entries: &plain::State| {
            let edits = entries.values().filter_map(|event_id| {
                let index = graph.index_of(event_id)?;
                Some((graph.key(index)?, Some(index)))
            });
            state.with_edits(&graph, edits.collect())
        };
        let shared = edit(&StateMap::new(), &self.shared);
        let states = self.forks.iter().map(|changes| edit(&shared, changes)).collect();
        Ok((graph, shared, states))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: Shape = Shape {
        room_version: RoomVersion::V11,
        members: 30,
        power_changes: 3,
        power_users: 4,
        forks: 3,
        chained_power_changes: 2,
        conflicted_events: 24,
        nested: false,
        disputed: false,
        seed: 1,
    };

    #[test]
    fn a_room_has_what_its_shape_says() {
        let check = |shape: &Shape, events: usize| {
            let room = shape.generate().unwrap();
            let members = room.shared.keys().filter(|key| &*key.event_type == "m.room.member").count();
            assert_eq!((members, room.forks.len()), (shape.members, shape.forks), "{shape:?}");
            assert_eq!(room.events.len(), events, "{shape:?}");
            assert_eq!(room.conflicted_events().len(), shape.conflicted_events, "{shape:?}");
            // Create, power levels, join rules, topic, name.
            assert_eq!(room.shared.len(), members + 5);
            let (graph, states) = room.numbered().unwrap();
            assert_eq!(graph.len(), events);
            assert!(states.iter().all(|state| state.len() == room.shared.len()));
        };
        for room_version in RoomVersion::ALL {
            let small = Shape { room_version, ..SMALL };
            let shared = 30 + 5 + 3;
            check(&small, shared + 24 + 3);
            check(&Shape { nested: true, ..small.clone() }, shared + 24 + 3);
            check(&Shape { chained_power_changes: 0, ..small.clone() }, shared + 24);
            check(&Shape { conflicted_events: 3, chained_power_changes: 1, ..small }, shared + 3);
        }
    }

    #[test]
    fn the_same_shape_gives_the_same_room_and_another_seed_another_one() {
        for disputed in [false, true] {
            let ids = |seed| {
                let room = Shape { seed, disputed, ..SMALL }.generate().unwrap();
                room.events.iter().map(|event| event.event.event_id.clone()).collect::<Vec<_>>()
            };
            assert_eq!(ids(7), ids(7));
            assert!(ids(7).iter().all(|id| !ids(8).contains(id)));
        }
    }

    #[test]
    fn nested_forks_begin_in_forks() {
        let room = Shape { nested: true, forks: 4, ..SMALL }.generate().unwrap();
        // Each fork has six events in conflict, and a change of power levels before them.
        let shared = room.events.len() - 4 * (24 / 4 + 1);
        let parent = |fork: usize| {
            let begins = &room.events[shared + fork * 7].event.prev_events[0];
            let place = room.events.iter().position(|event| event.event.event_id == *begins).unwrap();
            (place >= shared).then(|| (place - shared) / 7)
        };
        assert_eq!([0, 1, 2, 3].map(parent), [None, Some(0), Some(1), Some(1)]);
    }

    #[test]
    fn impossible_shapes_are_refused() {
        let check = |shape: Shape, expected| assert_eq!(shape.generate().unwrap_err(), expected);
        check(Shape { forks: 0, ..SMALL }, ImpossibleShape::NoForks);
        check(Shape { power_users: 0, ..SMALL }, ImpossibleShape::NoPowerUsers);
        check(Shape { power_users: 2_001, ..SMALL }, ImpossibleShape::TooManyPowerUsers(2_001));
        check(
            Shape { conflicted_events: 2, ..SMALL },
            ImpossibleShape::ConflictTooSmall { conflicted_events: 2, forks: 3 },
        );
        let too_few =
            ImpossibleShape::TooFewMembers { conflicted_events: 24, forks: 3, power_users: 4, needed: 12, members: 11 };
        check(Shape { members: 11, ..SMALL }, too_few);
        assert!(Shape { members: 12, ..SMALL }.generate().is_ok());
        assert!(RoomVersion::ALL.into_iter().flat_map(Shape::measured).all(|shape| shape.check().is_ok()));
        assert!(Shape { power_users: POWER_USERS_MAX, members: 2_008, ..SMALL }.generate().is_ok());
    }
}
