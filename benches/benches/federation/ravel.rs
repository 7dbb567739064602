//! The server that is measured.

use std::{
    fs,
    io::{BufRead, BufReader},
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Stdio},
};

use ravel_backends::Engine;
use ravel_core::{id::ServerName, signing::KeyRing};
use ravel_store::{Durability, block_on, log::EventLog};
use serde_json::Value;

use crate::remote::Remote;

/// A server in a process of its own, at a port of its own.
pub(crate) struct Ravel {
    pub(crate) address: SocketAddr,
    child: Child,
    _folder: tempfile::TempDir,
}

/// Its name.
pub(crate) const NAME: &str = "ravel.test";

impl Ravel {
    /// Starts one that knows the keys of some other servers.
    pub(crate) fn start(binary: &Path, backend: &str, remotes: &[Remote]) -> Self {
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
        let mut command = Command::new(binary);
        command.args(["serve", "--json", "--config"]).arg(&made.configuration).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{}: {error}", binary.display()));
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let ready: Value = serde_json::from_str(&line).unwrap_or_else(|_| panic!("the server does not start"));
        Self { address: ready["http"].as_str().unwrap().parse().unwrap(), child, _folder: folder }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Returns what of its memory is in use.
    pub(crate) fn memory_bytes(&self) -> u64 {
        let statm = fs::read_to_string(format!("/proc/{}/statm", self.child.id())).unwrap_or_default();
        statm.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or(0) * 4096
    }

    /// Returns the CPU time that it has taken, in seconds.
    pub(crate) fn cpu_seconds(&self) -> f64 {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap_or_default();
        let after_name = stat.rsplit(')').next().unwrap_or_default();
        let ticks = after_name.split_whitespace().skip(11).take(2).filter_map(|ticks| ticks.parse::<f64>().ok());
        // Linux counts in hundredths.
        ticks.sum::<f64>() / 100.0
    }
}

impl Drop for Ravel {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
