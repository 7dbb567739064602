//! State resolution: which events hold the keys on which several states differ.
//!
//! The steps have the names that the specification gives them, a file each: `conflict` finds the conflicted state set,
//! `auth_difference` completes it with the auth difference and the conflicted state subgraph, `power_order`, `mainline` and
//! `auth_checks` put it in order and check it. Source: "State resolution" of the room versions 1, 2 and 12, v1.19.
//!
//! The result is an edit of one of the states: what does not differ is neither visited nor copied. Events are read as they were
//! received, redacted or not, as deployed servers do.

mod auth_checks;
mod auth_difference;
mod conflict;
mod event_set;
mod mainline;
mod number_map;
mod partial_state;
mod power_order;
mod steps;
mod stored;
mod v1;

pub use self::steps::{DecidedBy, OrderedEvent, Phase, Rank, Recorder, Silent, Step, Steps};
pub use self::stored::{Progress, StoredStates};
use self::{conflict::Conflict, event_set::EventSet, partial_state::PartialState};
use crate::{
    graph::{EventGraph, EventIndex, KeyIndex},
    room_version::StateResolution,
    state::StateMap,
};

/// Resolves states by the algorithm of the room's version.
///
/// `states` are the states after the prev events, in any order: the order has no influence on the entries of the result. Each step
/// is told to `recorder`; with [`Silent`] that costs nothing.
///
/// Costs at most 16 times `(s d + m) l + f log2 f + e ceil(s / 64) + q log2 p + w` steps, each as small as reading an entry or an edge
/// (room version 1 aside, and reading the content of power levels that are in conflict). None of it grows with the room but the levels
/// and the words, unless what is in conflict is as old as the room, and then also the chains that lead down to it:
///
/// - `d` keys differ among `s` states, or hold there what was put into them apart; the trees of `n` entries have
///   `l = 1 + log16 n` levels.
/// - `f` events are in the full conflicted set. Of them those that are no power events cite `q` different power levels events, in
///   chains of up to `p`.
/// - `e` auth edges are those of the events that conflicted events lead to, and down to the oldest event that is conflicted or that
///   only some states' conflicted events lead to: the oldest candidate for the auth difference.
/// - `m` is mostly 0: what the shared state holds at the keys of candidates has their chains in its own. Where that leaves some
///   candidates, the entries of the shared state that are newer than the oldest of these are looked at, and their auth edges count.
/// - `w` words of 64 bits each make up a set of all events from the oldest that is looked at to the newest.
pub fn resolve(graph: &EventGraph, states: &[&StateMap], recorder: &mut impl Recorder) -> StateMap {
    let Some((first, rest)) = states.split_first() else { return StateMap::new() };
    if rest.iter().all(|state| state.is_same(first)) {
        return (*first).clone();
    }
    let mut edits = edits(graph, states, recorder);
    first.with_distinct_edits(graph, &mut edits)
}

/// What a state has to be changed by: for each key the event that holds it now, or none. Each key is there once.
type Edits = Vec<(KeyIndex, Option<EventIndex>)>;

/// Returns what the first of the states has to be changed by to become the resolved one.
fn edits(graph: &EventGraph, states: &[&StateMap], recorder: &mut impl Recorder) -> Edits {
    let conflict = Conflict::between(graph, states);
    let edits = match graph.rules().state_resolution {
        StateResolution::V1 => return v1::resolve(graph, conflict, recorder),
        StateResolution::V2 => resolve_v2(graph, &conflict, false, recorder),
        StateResolution::V2_1 => resolve_v2(graph, &conflict, true, recorder),
    };
    steps::record_outcomes(graph, &edits, recorder);
    edits
}

/// The algorithm of room versions 2 to 11, and of 12 (`v2_1`).
fn resolve_v2(graph: &EventGraph, conflict: &Conflict<'_>, v2_1: bool, recorder: &mut impl Recorder) -> Edits {
    conflict.record(graph, recorder);
    if conflict.is_empty() {
        return Edits::new();
    }
    // Definitions: "full conflicted set".
    let conflicted = conflict.events();
    let auth_difference = auth_difference::auth_difference(graph, conflict, &conflicted);
    recorder.record(|| Step::AuthDifference { events: steps::ids(graph, &auth_difference) });
    let mut full_conflicted_set = conflicted.clone();
    full_conflicted_set.extend(auth_difference.iter());
    if v2_1 {
        let subgraph = auth_difference::conflicted_state_subgraph(graph, &conflicted);
        recorder.record(|| Step::ConflictedStateSubgraph { events: steps::ids(graph, &subgraph) });
        full_conflicted_set.extend(subgraph.iter());
    }

    // 1. "Select the set X of all power events that appear in the full conflicted set [...] Sort X into a list using the
    //    reverse topological power ordering."
    let power_events = power_order::power_events_and_their_auth_chains(graph, &full_conflicted_set);
    let ordered = power_order::reverse_topological_power_order(graph, &power_events);
    recorder.record(|| power_order::step(&ordered));

    // 2. "Apply the iterative auth checks algorithm, starting from the unconflicted state map" (version 12: "from an empty state
    //    map"), "to the list of events from the previous step".
    let mut partial = PartialState::new(graph, conflict, !v2_1);
    let ordered = ordered.into_iter().map(|ranked| ranked.index);
    auth_checks::iterative_auth_checks(graph, ordered, &mut partial, Phase::PowerEvents, recorder);

    // 3. "Take all remaining events that weren't picked in step 1 and order them by the mainline ordering based on the power
    //    level in the partially resolved state obtained in step 2."
    let remaining: Vec<EventIndex> =
        full_conflicted_set.iter().filter(|index| !power_events.contains(*index)).collect();
    let power_levels = partial.get(KeyIndex::POWER_LEVELS);
    let ordered = mainline::mainline_order(graph, remaining, power_levels, recorder);

    // 4. "Apply the iterative auth checks algorithm on the partial resolved state and the list of events from the previous step."
    auth_checks::iterative_auth_checks(graph, ordered.into_iter(), &mut partial, Phase::OtherEvents, recorder);

    // 5. "Update the result by replacing any event with the event with the same key from the unconflicted state map".
    partial.into_edits()
}

#[cfg(test)]
mod tests;
