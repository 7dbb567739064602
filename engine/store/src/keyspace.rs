use std::fmt;

macro_rules! keyspaces {
    ($($(#[$doc:meta])* $variant:ident = $byte:literal, $name:literal;)*) => {
        /// One of the named sets of keys a store holds; keys of different keyspaces never meet.
        ///
        /// The byte and the name are part of the stored format: they are never changed or used again. Adding a keyspace
        /// raises [`LAYOUT`](crate::directory::LAYOUT), as an older program cannot open a store that has it.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum Keyspace {
            $($(#[$doc])* $variant = $byte,)*
        }

        impl Keyspace {
            /// All keyspaces, in the order of their bytes.
            pub const ALL: &'static [Keyspace] = &[$(Keyspace::$variant),*];

            /// Returns the name, which is also the name of the column family in RocksDB.
            pub const fn name(self) -> &'static str {
                match self { $(Keyspace::$variant => $name,)* }
            }

            /// Returns the keyspace of a byte, `None` for a byte that is nobody's.
            pub const fn from_byte(byte: u8) -> Option<Self> {
                match byte { $($byte => Some(Keyspace::$variant),)* _ => None }
            }
        }
    };
}

keyspaces! {
    /// Facts about the store and the server itself.
    Meta = 1, "meta";
    /// Rooms by number and by id.
    Rooms = 2, "rooms";
    /// The append-only log: the truth, of which all the others are projections.
    Log = 3, "log";
    /// Events by room and event id.
    Events = 4, "events";
    /// What followed from a room's events, in the order of the log.
    Timelines = 5, "timelines";
    /// Nodes of the trees that snapshots share, by room and number.
    SnapshotNodes = 6, "snapshot_nodes";
    /// Where rooms stand: forward extremities and current state.
    Extremities = 7, "extremities";
    /// What resolution reads of events, by room and number: the auth-chain index.
    EventFacts = 8, "event_facts";
    /// Keys that servers have published, by server name and key id.
    ServerKeys = 9, "server_keys";
    /// The newest value of each fact, by kind and key.
    Facts = 10, "facts";
}

impl Keyspace {
    /// Returns the byte that stands for the keyspace where all of them share one tree.
    pub const fn byte(self) -> u8 {
        self as u8
    }
}

impl fmt::Display for Keyspace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn bytes_and_names_are_unique_and_known() {
        let names: BTreeSet<_> = Keyspace::ALL.iter().map(|keyspace| keyspace.name()).collect();
        assert_eq!(names.len(), Keyspace::ALL.len());
        for keyspace in Keyspace::ALL {
            assert_eq!(Keyspace::from_byte(keyspace.byte()), Some(*keyspace));
        }
        // The stored format: a change here is a change of every store there is.
        let stored: Vec<_> = Keyspace::ALL.iter().map(|keyspace| (keyspace.byte(), keyspace.name())).collect();
        assert_eq!(
            stored,
            [
                (1, "meta"),
                (2, "rooms"),
                (3, "log"),
                (4, "events"),
                (5, "timelines"),
                (6, "snapshot_nodes"),
                (7, "extremities"),
                (8, "event_facts"),
                (9, "server_keys"),
                (10, "facts")
            ]
        );
        assert_eq!(Keyspace::from_byte(0), None);
        assert_eq!(Keyspace::from_byte(255), None);
    }
}
