use std::{
    collections::BTreeSet,
    io::{Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Instant,
};

use ravel_store::{
    Durability, ForeignReason, KeyRange, MemoryStore, StoreExt, block_on, conformance::StoreBuilder, directory::LAYOUT,
};

use self::cluster::Cluster;
use super::*;

mod cluster;

struct PostgresBuilder;

/// A schema of the shared server; a store in memory where PostgreSQL is absent and that is wanted.
enum Place {
    Schema(Arc<Cluster>, String),
    Absent(MemoryStore),
}

impl StoreBuilder for PostgresBuilder {
    type Store = Arc<dyn Store>;
    type Place = Place;

    fn place() -> Place {
        match Cluster::shared() {
            Some(cluster) => {
                let url = cluster.new_place();
                Place::Schema(cluster, url)
            }
            None => Place::Absent(MemoryStore::new()),
        }
    }

    fn open(place: &Place) -> Result<Arc<dyn Store>, StoreError> {
        match place {
            Place::Schema(_, url) => Ok(Arc::new(PostgresStore::open(url, &PostgresOptions::default())?)),
            Place::Absent(memory) => Ok(Arc::new(memory.clone())),
        }
    }

    fn is_on_disk(place: &Place) -> bool {
        matches!(place, Place::Schema(..))
    }
}

ravel_store::conformance_tests!(PostgresBuilder);
