//! Resolution: Ravel, the plain reading of the text, and ruma-state-res on the same random states.

use std::{cell::Cell, collections::BTreeMap};

use ravel_core::{
    event::{Content, Event, Membership, NamedLevel, StateKey, event_type},
    resolve::{Silent, resolve},
    room_version::RoomVersion,
    state::{State, StateMap},
};
use ravel_proptests::{
    draft::{self, Draft},
    plain,
    plan::states_plans,
    ruma::{self, content_of},
    seed,
};

/// All versions that ruma-state-res resolves.
pub(crate) const VERSIONS_2_TO_12: &[RoomVersion] = RoomVersion::ALL.split_at(1).1;

/// How many graphs are compared, and how many of them at least have to come out the same with ruma.
const GRAPHS: u64 = 5_500;
const EXACT_MIN: u64 = 5_000;

/// A state with the ids of its events.
pub(crate) fn plain_state(draft: &Draft, state: &draft::State) -> plain::State {
    state.iter().map(|(key, place)| (key.clone(), draft.event_id(*place).clone())).collect()
}

fn ravel(draft: &Draft, states: &[draft::State], rejected: impl Fn(usize) -> bool) -> plain::State {
    let graph = draft.graph(rejected);
    let maps: Vec<StateMap> = states.iter().map(|state| draft.state_map(&graph, state)).collect();
    let resolved = resolve(&graph, &maps.iter().collect::<Vec<_>>(), &mut Silent);
    State::new(&graph, &resolved).to_map()
}

/// Ravel's resolution is what the text says, in every room version, for any states, and with events that were rejected.
#[test]
fn resolution_is_what_the_text_says() {
    let strategy = (states_plans(&RoomVersion::ALL, 1..60), proptest::collection::btree_set(3..48usize, 0..3));
    seed::check(2_500, &strategy, |(plan, rejected)| {
        let draft = Draft::of(&plan.room);
        let states = draft.states(&plan);
        let allows = plain::ravel_allows(draft.rules());
        let mut room = plain::Room::new(draft.rules(), draft.events.iter().map(|event| event.event.clone()), &allows);
        // Rejected events are cited, but stand in no state.
        let is_rejected = |place: usize| {
            rejected.contains(&place) && !states.iter().any(|state| state.values().any(|other| *other == place))
        };
        room.rejected = (0..draft.events.len())
            .filter(|place| is_rejected(*place))
            .map(|place| draft.event_id(place).clone())
            .collect();
        let plain_states: Vec<plain::State> = states.iter().map(|state| plain_state(&draft, state)).collect();
        assert_eq!(ravel(&draft, &states, is_rejected), room.resolve(&plain_states));
    });
}

/// Ravel resolves as ruma-state-res does, but where their authorization rules differ in a way that is listed. There, both do what
/// the text says with the rules of each.
#[test]
fn resolution_is_that_of_ruma() {
    let exact = Cell::new(0);
    let explained = Cell::new(BTreeMap::<Difference, u64>::new());
    seed::check(GRAPHS, &states_plans(VERSIONS_2_TO_12, 1..60), |plan| {
        let draft = Draft::of(&plan.room);
        let states = draft.states(&plan);
        let events = draft.events.iter().map(|event| (&*event.event, content_of(&event.json), false));
        let ruma = ruma::Room::new(draft.version, events).unwrap();
        let theirs = |event: &Event, state: &plain::Lookup<'_>| ruma.allows(event, state);
        let room = plain::Room::new(draft.rules(), draft.events.iter().map(|event| event.event.clone()), &theirs);
        let plain_states: Vec<plain::State> = states.iter().map(|state| plain_state(&draft, state)).collect();
        let ravel_result = ravel(&draft, &states, |_| false);
        let ruma_result = ruma.resolve(&plain_states).unwrap();
        if ravel_result == ruma_result {
            exact.set(exact.get() + 1);
            return;
        }
        assert_eq!(room.resolve(&plain_states), ruma_result, "ruma's rules, but not ruma's resolution");
        let found = Cell::new(None);
        let ours = plain::ravel_allows(draft.rules());
        let both = |event: &Event, state: &plain::Lookup<'_>| {
            let [ravel, ruma] = [ours(event, state), theirs(event, state)];
            if ravel != ruma {
                let difference = Difference::between(event, state, ravel);
                found.set(Some(
                    difference.unwrap_or_else(|| panic!("Ravel {ravel}, ruma {ruma}: {event:?} in {:?}", state.0)),
                ));
            }
            ravel
        };
        assert_eq!(plain::Room { allows: &both, ..room.clone() }.resolve(&plain_states), ravel_result);
        let mut counts = explained.take();
        *counts.entry(found.get().expect("the same rules, but another result")).or_default() += 1;
        explained.set(counts);
    });
    let counts = explained.take();
    println!("{} graphs resolved alike; the others: {counts:?}", exact.get());
    if std::env::var_os(seed::SEED_VARIABLE).is_none() {
        assert!(exact.get() >= EXACT_MIN, "{} graphs only", exact.get());
    }
}

/// Where the authorization rules of ruma-state-res are not those of Ravel, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Difference {
    /// Without `m.room.join_rules` ruma refuses joins and knocks; Ravel takes the join rule `invite`.
    NoJoinRules,
    /// Where a named level is added or removed, ruma compares the default of the other side with the sender's level; Ravel only
    /// what the events give.
    DefaultOfNamedLevel,
}

impl Difference {
    /// Returns the listed difference that explains why an event is allowed by one and not by the other.
    pub(crate) fn between(event: &Event, state: &plain::Lookup<'_>, ravel: bool) -> Option<Self> {
        let get = |event_type: &str| state.0.get(&StateKey::new(event_type, ""));
        match &event.content {
            Content::Member(member) if ravel && get(event_type::JOIN_RULES).is_none() => {
                (member.membership == Some(Membership::Join)).then_some(Self::NoJoinRules)
            }
            Content::PowerLevels(Ok(new)) if ravel => {
                let Content::PowerLevels(Ok(current)) = &get(event_type::POWER_LEVELS)?.content else { return None };
                let added_or_removed =
                    |level: &NamedLevel| current.named.contains_key(level) != new.named.contains_key(level);
                NamedLevel::ALL.iter().any(added_or_removed).then_some(Self::DefaultOfNamedLevel)
            }
            _ => None,
        }
    }
}
