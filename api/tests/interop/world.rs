//! Homeservers that know of each other, and what is compared between them.

use std::{collections::BTreeSet, thread};

use serde_json::Value;
use tempfile::TempDir;

use crate::{
    certificates::Authority,
    homeserver::{Homeserver, Program},
    ravel::Ravel,
    synapse::Synapse,
    user::{User, wait_until},
};

/// Homeservers, running.
pub(crate) struct World {
    pub(crate) ravel: Homeserver,
    /// The other one.
    pub(crate) peer: Homeserver,
    /// One more, which is never stopped.
    third: Option<Homeserver>,
    _folder: TempDir,
}

impl World {
    /// Starts Ravel and Synapse.
    pub(crate) fn with_synapse() -> Self {
        Self::start(Box::new(Synapse), None)
    }

    /// Starts three Ravels, each on another engine.
    pub(crate) fn of_ravels() -> Self {
        Self::start(Box::new(Ravel { backend: "sled" }), Some(Ravel { backend: "memory" }))
    }

    fn start(peer: Box<dyn Program>, third: Option<Ravel>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::new(folder.path());
        let server = |program, name: &str| Homeserver::new(program, folder.path().join(name), &authority);
        let ravel = server(Box::new(Ravel { backend: "rocksdb" }), "ravel");
        let peer = server(peer, "peer");
        let third = third.map(|third| server(Box::new(third), "third"));
        let world = Self { ravel, peer, third, _folder: folder };
        world.servers().for_each(Homeserver::start);
        world
    }

    /// Returns pairs of where something is and where it is asked for, so that each server is in either place.
    pub(crate) fn pairs(&self) -> Vec<(&Homeserver, &Homeserver)> {
        match &self.third {
            Some(third) => vec![(&self.ravel, &self.peer), (&self.peer, third), (third, &self.ravel)],
            None => vec![(&self.ravel, &self.peer), (&self.peer, &self.ravel)],
        }
    }

    /// Returns one of the pairs, another one for each number in turn.
    pub(crate) fn pair(&self, number: usize) -> (&Homeserver, &Homeserver) {
        let pairs = self.pairs();
        pairs[number % pairs.len()]
    }

    pub(crate) fn is_synapse(&self, server: &Homeserver) -> bool {
        self.third.is_none() && server.name == self.peer.name
    }

    /// Does something for each room version and either server first, versions side by side.
    pub(crate) fn for_each(&self, versions: &[&str], scenario: impl Fn(&str, &Homeserver, &Homeserver) + Sync) {
        thread::scope(|scope| {
            for version in versions {
                let run = || self.pairs().into_iter().for_each(|(near, far)| scenario(version, near, far));
                thread::Builder::new().name(format!("version {version}")).spawn_scoped(scope, run).unwrap();
            }
        });
    }

    /// Ends all traffic between the servers.
    pub(crate) fn cut(&self) {
        self.servers().for_each(Homeserver::cut);
    }

    pub(crate) fn heal(&self) {
        self.servers().for_each(Homeserver::heal);
    }

    fn servers(&self) -> impl Iterator<Item = &Homeserver> {
        [&self.ravel, &self.peer].into_iter().chain(&self.third)
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if thread::panicking() {
            for server in self.servers() {
                eprintln!("{} wrote:\n{}\n", server.name, server.log());
            }
        }
    }
}

/// Waits until both users are told the same state of a room, event by event.
#[track_caller]
pub(crate) fn same_state(room: &str, one: &User, other: &User) {
    wait_until(|| {
        let (mine, theirs) = (one.state(room), other.state(room));
        let keys: BTreeSet<_> = mine.keys().chain(theirs.keys()).collect();
        let differing = keys.into_iter().filter(|key| mine.get(key) != theirs.get(key));
        let tell = |key| format!("{key:?}: {:?} and {:?}", mine.get(key), theirs.get(key));
        none(room, &differing.map(tell).collect::<Vec<_>>())
    });
}

/// Waits until both users are told the same events of a room, in whatever order.
#[track_caller]
pub(crate) fn same_history(room: &str, one: &User, other: &User) {
    let events = |user: &User| -> BTreeSet<String> { user.history(room).iter().map(Value::to_string).collect() };
    wait_until(|| {
        let (mine, theirs) = (events(one), events(other));
        let only = |who: &User, mine: &BTreeSet<String>, theirs: &BTreeSet<String>| -> Vec<String> {
            mine.difference(theirs).map(|event| format!("only {} has {event}", who.id)).collect()
        };
        none(room, &[only(one, &mine, &theirs), only(other, &theirs, &mine)].concat())
    });
}

fn none(room: &str, differences: &[String]) -> Result<(), String> {
    let equal = differences.is_empty();
    if equal { Ok(()) } else { Err(format!("the same of {room}, but\n{}", differences.join("\n"))) }
}
