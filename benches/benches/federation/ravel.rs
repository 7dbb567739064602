//! The server that is measured.

use std::{fs, net::SocketAddr, sync::mpsc, thread};

use ravel_backends::Engine;
use ravel_core::{id::ServerName, signing::KeyRing};
use ravel_store::{Durability, block_on, log::EventLog};

use crate::remote::Remote;

/// A server in this process, at a port of its own.
pub(crate) struct Ravel {
    pub(crate) address: SocketAddr,
    _folder: tempfile::TempDir,
}

/// Its name.
pub(crate) const NAME: &str = "ravel.test";

impl Ravel {
    /// Starts one that knows the keys of some other servers.
    pub(crate) fn start(backend: &str, remotes: &[Remote]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let name = ServerName::parse(NAME).unwrap();
        let made = ravel_api::serve::init::init(folder.path(), &name, None).unwrap();
        let text = format!(
            "server_name = \"{NAME}\"
            signing_key = {:?}
            listen = {{ http = \"127.0.0.1:0\" }}
            database = {{ backend = \"{backend}\", path = \"db\" }}
            registration = {{ enabled = true, cheap_password_hashes = true }}
            rate_limits = {{ enabled = false }}
            log = {{ level = \"error\" }}
            ",
            made.signing_key
        );
        fs::write(&made.configuration, text).unwrap();
        let mut keys = KeyRing::new();
        for remote in remotes {
            keys.insert(remote.name.clone(), remote.key.key_id().clone(), remote.published_key());
        }
        let engine = if backend == "sled" { Engine::Sled } else { Engine::RocksDb };
        let store = engine.open(&folder.path().join("db")).unwrap();
        let log = block_on(EventLog::open(store)).unwrap();
        block_on(log.put_server_keys(&keys, Durability::Sync)).unwrap();
        drop(log);
        let (ready, is_ready) = mpsc::channel();
        let configuration = made.configuration;
        thread::spawn(move || {
            let ended = ravel_api::serve::run(&configuration, |addresses| ready.send(addresses.http.unwrap()).unwrap());
            panic!("the server has ended: {ended:?}");
        });
        Self { address: is_ready.recv().unwrap(), _folder: folder }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Returns what of its memory is in use; that of this program is part of it.
    pub(crate) fn memory_bytes(&self) -> u64 {
        let statm = fs::read_to_string("/proc/self/statm").unwrap_or_default();
        statm.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or(0) * 4096
    }
}
