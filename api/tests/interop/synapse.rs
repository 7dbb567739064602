//! Running Synapse, which `.ci/setup` installs.

use std::{
    env,
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use serde_json::{Map, Value, json};

use crate::{
    homeserver::{PATIENCE, Program, Running, Setup, log_of},
    ravel::encode_seed,
};

/// The version that is installed, as `.ci/setup` has it, too.
const VERSION: &str = "1.163.2";

/// Synapse on SQLite, without limits, quick to ask again a server that did not answer.
pub(crate) struct Synapse;

impl Program for Synapse {
    fn prepare(&self, setup: &Setup<'_>) {
        let folder = setup.folder;
        std::fs::write(folder.join("signing.key"), format!("ed25519 synapse {}\n", encode_seed(setup.server_name)))
            .unwrap();
        // JSON is YAML.
        std::fs::write(folder.join("homeserver.yaml"), configuration(setup).to_string()).unwrap();
        std::fs::write(folder.join("log.yaml"), logging().to_string()).unwrap();
    }

    fn start(&self, folder: &Path, stderr: Stdio) -> Running {
        let python = python();
        // It can't be told to take free ports itself.
        let (clients, federation) = (free_port(), free_port());
        let listeners = json!({ "listeners": [listener(clients, false), listener(federation, true)] });
        std::fs::write(folder.join("listeners.yaml"), listeners.to_string()).unwrap();
        let mut command = Command::new(python);
        command.args(["-m", "synapse.app.homeserver"]).current_dir(folder);
        for file in ["homeserver.yaml", "listeners.yaml"] {
            command.arg("--config-path").arg(folder.join(file));
        }
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(stderr).spawn().unwrap();
        let began = Instant::now();
        // The last listener that it opens.
        while TcpStream::connect(federation).is_err() || TcpStream::connect(clients).is_err() {
            let ended = child.try_wait().unwrap();
            assert!(ended.is_none() && began.elapsed() < PATIENCE, "Synapse does not start: {}", log_of(folder));
            std::thread::sleep(Duration::from_millis(20));
        }
        Running { child, clients, federation }
    }
}

/// Returns the Python that Synapse is installed for.
///
/// # Panics
///
/// Without it nothing is known about Synapse, so that the tests fail.
fn python() -> PathBuf {
    let home = |name: &str| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let cache = home("RAVEL_CACHE")
        .or_else(|| home("XDG_CACHE_HOME").map(|cache| cache.join("ravel")))
        .unwrap_or_else(|| home("HOME").unwrap_or_default().join(".cache/ravel"));
    let folder = cache.join(format!("synapse-{VERSION}"));
    assert!(
        folder.join("complete").exists(),
        "Synapse {VERSION} is not in {}: `.ci/setup test` installs it (matrix-synapse from PyPI)",
        folder.display(),
    );
    folder.join("bin/python")
}

/// Returns a port that is free, below those that the system gives to clients. Each process begins to look at another one, and
/// none is found twice.
fn free_port() -> SocketAddr {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let first = std::process::id().wrapping_mul(16);
    let port = || 20_000 + first.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % 12_000;
    let mut addresses = (0..1_000).map(|_| SocketAddr::from((Ipv4Addr::LOCALHOST, u16::try_from(port()).unwrap())));
    addresses.find(|address| TcpListener::bind(address).is_ok()).expect("some port is free")
}

fn listener(address: SocketAddr, tls: bool) -> Value {
    json!({
        "type": "http",
        "bind_addresses": [address.ip()],
        "port": address.port(),
        "tls": tls,
        "resources": [{ "names": ["client", "federation"], "compress": false }],
    })
}

fn configuration(setup: &Setup<'_>) -> Value {
    let Setup { folder, server_name, authority } = setup;
    let mut made = json!({
        "server_name": server_name,
        "pid_file": folder.join("synapse.pid"),
        "tls_certificate_path": folder.join("tls.crt"),
        "tls_private_key_path": folder.join("tls.key"),
        "signing_key_path": folder.join("signing.key"),
        "database": { "name": "sqlite3", "args": { "database": folder.join("synapse.db") } },
        "media_store_path": folder.join("media"),
        "log_config": folder.join("log.yaml"),
        "report_stats": false,

        // Other servers are on loopback, trust one authority, and are asked for their keys themselves.
        "ip_range_blacklist": [],
        "url_preview_enabled": false,
        "federation_custom_ca_list": [authority],
        "trusted_key_servers": [],
        "suppress_key_server_warning": true,
        "allow_public_rooms_over_federation": true,
        "room_list_publication_rules": [{ "action": "allow" }],

        // A server that was down is asked again soon. (Synapse knows no unit for milliseconds: numbers are.)
        "federation": {
            "client_timeout": "10s",
            "max_short_retries": 1,
            "max_short_retry_delay": 500,
            "max_long_retries": 2,
            "max_long_retry_delay": "1s",
            "destination_min_retry_interval": "1s",
            "destination_retry_multiplier": 1,
            "destination_max_retry_interval": "2s",
        },

        "enable_registration": true,
        "enable_registration_without_verification": true,
        "macaroon_secret_key": "interop",
        "form_secret": "interop",
        "bcrypt_rounds": 4,
        "filter_timeline_limit": 1000,
    });
    made.as_object_mut().unwrap().extend(no_limits());
    made
}

/// The settings that lift each limit on how often something may be done.
fn no_limits() -> Map<String, Value> {
    let fast = json!({ "per_second": 1_000_000, "burst_count": 1_000_000 });
    let mut limits = Map::new();
    for name in ["message", "registration", "admin_redaction", "joins_per_room", "key_requests", "room_creation"] {
        limits.insert(format!("rc_{name}"), fast.clone());
    }
    for (name, parts) in [
        ("login", &["address", "account", "failed_attempts"][..]),
        ("joins", &["local", "remote"]),
        ("invites", &["per_room", "per_user", "per_issuer"]),
    ] {
        let parts: Map<_, _> = parts.iter().map(|part| ((*part).to_owned(), fast.clone())).collect();
        limits.insert(format!("rc_{name}"), parts.into());
    }
    let federation = json!({
        "window_size": 1000, "sleep_limit": 1_000_000, "sleep_delay": 1, "reject_limit": 1_000_000, "concurrent": 100,
    });
    limits.insert("rc_federation".to_owned(), federation);
    limits.insert("federation_rr_transactions_per_room_per_second".to_owned(), 1_000_000.into());
    limits
}

fn logging() -> Value {
    json!({
        "version": 1,
        "disable_existing_loggers": false,
        "formatters": { "line": { "format": "%(asctime)s %(levelname)s %(name)s %(message)s" } },
        "handlers": { "console": { "class": "logging.StreamHandler", "formatter": "line" } },
        "root": { "level": "WARNING", "handlers": ["console"] },
    })
}
