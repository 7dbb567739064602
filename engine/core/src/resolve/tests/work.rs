//! The bound of [`resolve`], by counting what it does: see [`crate::work`].

mod room;
mod shapes;
mod terms;

use self::{room::Room, terms::Terms};
use crate::{
    resolve::{Silent, Steps, resolve},
    room_version::RoomVersion::{self, V10, V12},
    state::StateMap,
    work::measure,
};

/// How many units of work there are at most for each of [`Terms::sum`], whatever the conflict.
const WORK_PER_TERM: u64 = 16;

/// A room, with states to be resolved.
struct Conflict {
    room: Room,
    states: Vec<StateMap>,
}

impl Conflict {
    /// Resolves the states; returns the work, which must be within the bound, and the terms of that.
    #[track_caller]
    fn work(&self, name: &str) -> (u64, Terms) {
        let states: Vec<&StateMap> = self.states.iter().collect();
        let (_, work) = measure(|| resolve(&self.room.graph, &states, &mut Silent));
        let mut steps = Steps::default();
        resolve(&self.room.graph, &states, &mut steps);
        let terms = Terms::of(&self.room.graph, &states, &steps.0);
        // Shown when a test fails, or with `--nocapture`.
        println!("{name}: {work} units, {:.1} for each of {terms:?}", work as f64 / terms.sum() as f64);
        assert!(work <= WORK_PER_TERM * terms.sum(), "{name}: {work} units of work for {terms:?}");
        (work, terms)
    }
}

/// Checks a kind of conflict at sizes of which each next one makes it twice as large.
#[track_caller]
fn check_doubling(name: &str, sizes: &[usize], of_size: impl Fn(RoomVersion, usize) -> Conflict) {
    for version in [V10, V12] {
        let mut previous = None;
        for size in sizes {
            let (work, _) = of_size(version, *size).work(&format!("version {version}, {size} {name}"));
            if let Some(previous) = previous.replace(work) {
                assert!(10 * work <= 23 * previous, "{name}: {previous} units of work for half of what needs {work}");
            }
        }
    }
}

/// Checks a conflict in a room of 1,000 and of 30,000 members: it costs less than double, but for words of sets that span the room,
/// each some times.
#[track_caller]
fn check_members(name: &str, times: u64, of_members: impl Fn(RoomVersion, usize) -> Conflict) {
    for version in [V10, V12] {
        let [(few, _), (many, terms)] = [1_000, 30_000]
            .map(|members| of_members(version, members).work(&format!("version {version}, {members} members, {name}")));
        assert!(many < 2 * few + times * terms.w, "{name}: {few} and {many} units of work, {terms:?}");
    }
}
