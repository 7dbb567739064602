//! A homeserver of either kind, in a process of its own.

use std::{
    fs::OpenOptions,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Mutex,
    time::{Duration, Instant},
};

use crate::{certificates::Authority, link::Link};

/// How long a server may take to start or to end, and news to arrive.
pub(crate) const PATIENCE: Duration = Duration::from_secs(90);

/// How to run one kind of server.
pub(crate) trait Program: Send + Sync {
    /// Writes configuration and keys into the folder.
    fn prepare(&self, setup: &Setup<'_>);

    /// Starts it; its output goes to the command's standard error.
    fn start(&self, folder: &Path, stderr: Stdio) -> Running;
}

/// What a configuration is made from.
pub(crate) struct Setup<'a> {
    pub(crate) folder: &'a Path,
    pub(crate) server_name: &'a str,
    pub(crate) authority: &'a Path,
}

/// A server that is ready.
pub(crate) struct Running {
    pub(crate) child: Child,
    /// Where it talks plain HTTP with clients.
    pub(crate) clients: SocketAddr,
    /// Where it talks HTTPS with servers.
    pub(crate) federation: SocketAddr,
}

/// A homeserver that can be stopped, killed, started again, and cut off from other servers (not from its clients).
pub(crate) struct Homeserver {
    pub(crate) name: String,
    program: Box<dyn Program>,
    folder: PathBuf,
    clients: Link,
    federation: Link,
    child: Mutex<Option<Child>>,
}

impl Homeserver {
    /// Prepares one in a folder, and does not start it.
    pub(crate) fn new(program: Box<dyn Program>, folder: PathBuf, authority: &Authority) -> Self {
        std::fs::create_dir(&folder).unwrap();
        let (clients, federation) = (Link::new(), Link::new());
        let name = format!("localhost:{}", federation.address.port());
        authority.issue(&folder);
        program.prepare(&Setup { folder: &folder, server_name: &name, authority: &authority.certificate });
        Self { name, program, folder, clients, federation, child: Mutex::default() }
    }

    /// Starts it and waits until it is ready.
    pub(crate) fn start(&self) {
        let log = OpenOptions::new().create(true).append(true).open(self.folder.join("log")).unwrap();
        let running = self.program.start(&self.folder, log.into());
        self.clients.lead_to(running.clients);
        self.federation.lead_to(running.federation);
        assert!(self.child.lock().unwrap().replace(running.child).is_none(), "{} runs already", self.name);
    }

    /// Stops it with SIGTERM and waits for its end.
    pub(crate) fn stop(&self) {
        if let Some(mut child) = self.child.lock().unwrap().take() {
            end(&mut child);
        }
    }

    /// Kills it with SIGKILL.
    pub(crate) fn kill(&self) {
        let mut child = self.child.lock().unwrap().take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Lets no server reach this one any more. What it sends itself arrives, unless the others are cut off, too.
    pub(crate) fn cut(&self) {
        self.federation.cut();
    }

    pub(crate) fn heal(&self) {
        self.federation.heal();
    }

    /// Returns where clients reach it, running or not.
    pub(crate) fn address(&self) -> SocketAddr {
        self.clients.address
    }

    /// Returns the last lines that it wrote.
    pub(crate) fn log(&self) -> String {
        log_of(&self.folder)
    }
}

impl Drop for Homeserver {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Returns the last lines that a server wrote.
pub(crate) fn log_of(folder: &Path) -> String {
    let log = std::fs::read(folder.join("log")).unwrap_or_default();
    let log = String::from_utf8_lossy(&log);
    let lines: Vec<_> = log.lines().collect();
    lines.get(lines.len().saturating_sub(60)..).unwrap_or_default().join("\n")
}

fn end(child: &mut Child) {
    let _ = Command::new("kill").args(["-s", "TERM", &child.id().to_string()]).status();
    let began = Instant::now();
    while began.elapsed() < PATIENCE {
        if child.try_wait().is_ok_and(|status| status.is_some()) {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let _ = child.kill();
    let _ = child.wait();
}
