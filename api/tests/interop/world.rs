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

/// Two homeservers, running.
pub(crate) struct World {
    pub(crate) ravel: Homeserver,
    /// The other one.
    pub(crate) peer: Homeserver,
    _folder: TempDir,
}

impl World {
    /// Starts Ravel and Synapse.
    pub(crate) fn with_synapse() -> Self {
        Self::start(Box::new(Synapse))
    }

    fn start(peer: Box<dyn Program>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::new(folder.path());
        let ravel = Homeserver::new(Box::new(Ravel { backend: "rocksdb" }), folder.path().join("ravel"), &authority);
        let peer = Homeserver::new(peer, folder.path().join("peer"), &authority);
        let world = Self { ravel, peer, _folder: folder };
        world.peer.start();
        world.ravel.start();
        world
    }

    /// Returns the pairs of where something is and where it is asked for.
    pub(crate) fn both_ways(&self) -> [(&Homeserver, &Homeserver); 2] {
        [(&self.ravel, &self.peer), (&self.peer, &self.ravel)]
    }

    /// Does something for each room version and either server first, versions side by side.
    pub(crate) fn for_each(&self, versions: &[&str], scenario: impl Fn(&str, &Homeserver, &Homeserver) + Sync) {
        thread::scope(|scope| {
            for version in versions {
                let run = || self.both_ways().into_iter().for_each(|(near, far)| scenario(version, near, far));
                thread::Builder::new().name(format!("version {version}")).spawn_scoped(scope, run).unwrap();
            }
        });
    }

    /// Ends all traffic between the servers.
    pub(crate) fn cut(&self) {
        self.ravel.cut();
        self.peer.cut();
    }

    pub(crate) fn heal(&self) {
        self.ravel.heal();
        self.peer.heal();
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("Ravel wrote:\n{}\n\nThe other server wrote:\n{}", self.ravel.log(), self.peer.log());
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
        none(room, differing.map(|key| format!("{key:?}: {:?} and {:?}", mine.get(key), theirs.get(key))).collect())
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
        none(room, [only(one, &mine, &theirs), only(other, &theirs, &mine)].concat())
    });
}

fn none(room: &str, differences: Vec<String>) -> Result<(), String> {
    let equal = differences.is_empty();
    if equal { Ok(()) } else { Err(format!("the same of {room}, but\n{}", differences.join("\n"))) }
}
