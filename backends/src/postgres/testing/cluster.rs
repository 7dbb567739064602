//! A PostgreSQL server of the tests' own: a cluster in a folder, on a free port.

use std::{
    env, fmt, fs,
    net::TcpListener,
    os::unix::{
        fs::{PermissionsExt, chown},
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::{self, Child, Command, Output, Stdio},
    sync::atomic::{AtomicU16, AtomicU32, Ordering},
    thread,
    time::{Duration, Instant, UNIX_EPOCH},
};

use tempfile::TempDir;

/// A cluster and its server, which runs unless it was stopped or killed.
///
/// # Panics
/// Everything here does when it fails: there is nobody but tests to tell.
pub struct Cluster {
    folder: PathBuf,
    /// Whether the server ends with this value.
    ends: bool,
    /// The folder again, if it is removed then.
    _owned: Option<TempDir>,
    programs: PathBuf,
    port: u16,
    /// Whom the server runs as, `None` for whoever runs the tests.
    user: Option<(u32, u32)>,
    places: AtomicU32,
}

impl Cluster {
    /// Makes a cluster and starts its server; both are gone with the returned value.
    pub fn start() -> Self {
        let folder = tempfile::tempdir_in(roomy_folder()).unwrap();
        let mut cluster = Self::start_in(folder.path());
        cluster._owned = Some(folder);
        cluster
    }

    /// Makes a cluster in a folder, which stays, and starts its server, which ends with the returned value.
    pub fn start_in(folder: &Path) -> Self {
        let mut cluster = Self::in_folder(folder, free_port());
        cluster.ends = true;
        cluster.make(&[], "shared_buffers = 32MB\n");
        cluster.start_again();
        cluster
    }

    /// Starts a streaming standby of this server, for whose disk this one waits from then on before it acknowledges a commit.
    pub fn start_standby(&self) -> Self {
        let folder = tempfile::tempdir_in(roomy_folder()).unwrap();
        let mut standby = Self::in_folder(folder.path(), free_port());
        standby.ends = true;
        standby.give(&standby.folder);
        standby._owned = Some(folder);
        let primary = format!("host=127.0.0.1 port={} user=ravel application_name=standby", self.port);
        standby.run("pg_basebackup", &["-D", &standby.data(), "-d", &primary, "-R", "-X", "stream", "-c", "fast"]);
        // The last one counts.
        standby.configure(&format!("port = {}\n", standby.port));
        standby.start_again();
        self.sql("", "ALTER SYSTEM SET synchronous_standby_names = 'standby'");
        self.sql("", "SELECT pg_reload_conf()");
        let state = "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'";
        while self.sql("", state) != "1" {
            thread::sleep(Duration::from_millis(10));
        }
        standby
    }

    /// Makes a standby the primary.
    pub fn promote(&self) {
        self.pg_ctl("promote");
    }

    /// Returns the cluster in a folder, which need not be there or run yet, and which is left running.
    pub fn in_folder(folder: &Path, port: u16) -> Self {
        // The server refuses to run as root; Debian's package makes a user for it.
        let user = (id(&["-u"]) == Some(0)).then(|| {
            let user = id(&["-u", "postgres"]).expect("tests that run as root need the user postgres");
            let group = id(&["-g", "postgres"]).expect("the group of the user postgres");
            (user, group)
        });
        let programs = programs().expect("PostgreSQL is not installed; .ci/setup does that");
        let folder = folder.to_owned();
        Self { folder, ends: false, _owned: None, programs, port, user, places: AtomicU32::new(0) }
    }

    /// Makes an empty cluster, which does not run yet: with more arguments for `initdb`, and more lines of configuration.
    pub fn make(&self, arguments: &[&str], settings: &str) {
        fs::create_dir_all(&self.folder).unwrap();
        self.give(&self.folder);
        let data = self.data();
        let usual = ["-D", &data, "-A", "trust", "-U", "ravel", "-E", "UTF8", "--no-locale", "--no-sync"];
        self.run("initdb", &[&usual, arguments].concat());
        self.configure(&format!(
            "port = {}\nlisten_addresses = '127.0.0.1'\nunix_socket_directories = ''\nmax_connections = 300\n\
             dynamic_shared_memory_type = mmap\n{settings}",
            self.port
        ));
    }

    /// Adds lines to the configuration file.
    fn configure(&self, settings: &str) {
        let file = self.folder.join("data/postgresql.conf");
        fs::write(&file, fs::read_to_string(&file).unwrap() + settings).unwrap();
    }

    /// Gives a file to the user the server runs as.
    pub fn give(&self, file: &Path) {
        if let Some((user, group)) = self.user {
            chown(file, Some(user), Some(group)).unwrap();
        }
    }

    /// Returns the port it listens on, at 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Makes an empty schema and returns the connection string that leads to it.
    pub fn new_place(&self) -> String {
        let age = UNIX_EPOCH.elapsed().unwrap().as_nanos();
        let name = format!("place_{age}_{}_{}", process::id(), self.places.fetch_add(1, Ordering::Relaxed));
        self.new_schema(&name)
    }

    /// Makes an empty schema of this name and returns the connection string that leads to it.
    pub fn new_schema(&self, name: &str) -> String {
        self.sql("", &format!("CREATE SCHEMA {name}"));
        self.url(name)
    }

    /// Returns the connection string that leads to a schema.
    pub fn url(&self, schema: &str) -> String {
        format!("postgres://ravel@127.0.0.1:{}/postgres?sslmode=disable&options=-csearch_path%3D{schema}", self.port)
    }

    /// Runs statements in a schema and returns what they answer, columns separated by `|`.
    pub fn sql(&self, schema: &str, sql: &str) -> String {
        let url = if schema.is_empty() { self.url("public") } else { schema.to_owned() };
        self.run("psql", &[&url, "-XAtq", "-v", "ON_ERROR_STOP=1", "-c", sql])
    }

    /// Restarts the server with TLS and a certificate for `localhost`, and returns where that is.
    pub fn use_tls(&self) -> PathBuf {
        let file = |name: &str| self.folder.join("data").join(name);
        let mut openssl = Command::new("openssl");
        openssl.args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-subj",
            "/CN=test",
        ]);
        openssl.args(["-addext", "subjectAltName=DNS:localhost", "-addext", "basicConstraints=critical,CA:FALSE"]);
        openssl.arg("-keyout").arg(file("server.key")).arg("-out").arg(file("server.crt"));
        let made = openssl.output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        self.give(&file("server.key"));
        fs::set_permissions(file("server.key"), fs::Permissions::from_mode(0o600)).unwrap();
        self.sql("", "ALTER SYSTEM SET ssl = on");
        self.restart();
        file("server.crt")
    }

    /// Restarts the server the way an administrator does: all connections are ended.
    pub fn restart(&self) {
        self.pg_ctl("restart");
    }

    /// Starts the server after it was stopped or killed.
    pub fn start_again(&self) {
        self.pg_ctl("start");
    }

    /// Stops the server in good order.
    pub fn stop(&self) {
        self.pg_ctl("stop");
    }

    /// Starts the server as a child of this process and waits until it takes connections; `None` if it ends instead, or takes longer.
    /// It does not start again by itself after one of its processes crashed.
    pub fn attend(&self, within: Duration) -> Option<Attended> {
        let log = fs::OpenOptions::new().create(true).append(true).open(self.folder.join("log")).unwrap();
        let mut command = self.command("postgres");
        command.args(["-D", &self.data(), "-c", "restart_after_crash=off"]);
        command.stdout(log.try_clone().unwrap()).stderr(log);
        let mut server = Attended::new(command.spawn().unwrap());
        let pid_file = self.folder.join("data/postmaster.pid");
        let began = Instant::now();
        while began.elapsed() < within && server.is_running() {
            let note = fs::read_to_string(&pid_file).unwrap_or_default();
            if note.lines().nth(7).is_some_and(|state| state.trim_end() == "ready") {
                return Some(server);
            }
            thread::sleep(Duration::from_millis(1));
        }
        None
    }

    /// Stops every process of the server with SIGSTOP, or lets them go on.
    pub fn stand_still(&self, still: bool) {
        signal(if still { "-STOP" } else { "-CONT" }, &self.pids());
    }

    /// Kills every process of the server with SIGKILL.
    pub fn kill(&self) {
        let pid_file = self.folder.join("data/postmaster.pid");
        let pids = self.pids();
        signal("-KILL", &pids);
        for pid in pids {
            while fs::read_link(format!("/proc/{pid}/exe")).is_ok() {
                thread::sleep(Duration::from_millis(2));
            }
        }
        // Nobody may have waited for the dead process yet: then it would still count as running.
        fs::remove_file(pid_file).unwrap();
    }

    /// Returns the processes of the server, the first one is their parent.
    fn pids(&self) -> Vec<String> {
        let pid_file = fs::read_to_string(self.folder.join("data/postmaster.pid")).unwrap();
        let postmaster = pid_file.lines().next().unwrap();
        let children = fs::read_to_string(format!("/proc/{postmaster}/task/{postmaster}/children")).unwrap();
        [postmaster].into_iter().chain(children.split_whitespace()).map(str::to_owned).collect()
    }

    fn data(&self) -> String {
        self.data_folder().display().to_string()
    }

    /// Returns the folder with all the files that the server keeps its data in.
    pub fn data_folder(&self) -> PathBuf {
        self.folder.join("data")
    }

    fn pg_ctl(&self, what: &str) {
        let log = self.folder.join("log").display().to_string();
        self.run("pg_ctl", &["-D", &self.data(), "-l", &log, "-m", "fast", "-s", "-w", what]);
    }

    /// Runs one of the server's programs and returns what it prints; what a server it starts prints goes to the log.
    fn run(&self, program: &str, arguments: &[&str]) -> String {
        let mut command = self.command(program);
        let output = if program == "pg_ctl" {
            // The server would keep a pipe open for as long as it runs.
            let status = command.args(arguments).stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap();
            let log = fs::read(self.folder.join("log")).unwrap_or_default();
            Output { status, stdout: Vec::new(), stderr: log }
        } else {
            command.args(arguments).output().unwrap()
        };
        assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.programs.join(program));
        command.current_dir("/").env("HOME", &self.folder).stdin(Stdio::null());
        if let Some((user, group)) = self.user {
            command.uid(user).gid(group);
        }
        command
    }
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cluster").field("folder", &self.folder).field("port", &self.port).finish_non_exhaustive()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if !self.ends {
            return;
        }
        if thread::panicking() && self.folder.join("data/postmaster.pid").exists() {
            // It may stand still.
            self.stand_still(false);
        }
        let mut command = self.command("pg_ctl");
        command.args(["-D", &self.data(), "-m", "immediate", "-s", "-w", "stop"]);
        // It may be down already.
        let _ = command.stdout(Stdio::null()).stderr(Stdio::null()).status();
    }
}

/// A server that is a child of this process, and ends at once with this value or this process: its next start has to recover.
#[derive(Debug)]
pub struct Attended {
    server: Child,
    /// Ends the server when its standard input ends.
    guard: Child,
}

impl Attended {
    fn new(server: Child) -> Self {
        let guard = Command::new("sh")
            .args(["-c", "read -r line; kill -QUIT \"$0\"", &server.id().to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self { server, guard }
    }

    /// Whether it has not ended by itself.
    pub fn is_running(&mut self) -> bool {
        self.server.try_wait().unwrap().is_none()
    }
}

impl Drop for Attended {
    fn drop(&mut self) {
        if self.is_running() {
            // It ends its own children with it.
            signal("-QUIT", &[self.server.id().to_string()]);
            let _ = self.server.wait();
        }
        let _ = self.guard.kill();
        let _ = self.guard.wait();
    }
}

/// Returns the folder with the server's programs: that of `pg_ctl` in the path, or Debian's newest.
fn programs() -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    let in_path = env::split_paths(&path)
        .filter_map(|folder| folder.join("pg_ctl").canonicalize().ok()?.parent().map(Path::to_owned));
    let debian =
        fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten().map(|entry| entry.path().join("bin"));
    let mut debian: Vec<_> = debian.collect();
    debian.sort();
    in_path.chain(debian.into_iter().rev()).find(|folder| folder.join("initdb").exists())
}

/// Returns a port nobody uses, below those that the system gives to outgoing connections: a server that is restarted must not
/// find its port taken by one of them.
pub fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let of_process = (process::id() % 1_000) as u16 * 12;
    loop {
        let port = 20_000 + (of_process + NEXT.fetch_add(1, Ordering::Relaxed)) % 12_000;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// Returns a folder in memory if there is room, else that for temporary files.
///
/// The servers sync as ever. What a killed process leaves is the same on a disk and in memory, as the kernel goes on.
pub(super) fn roomy_folder() -> PathBuf {
    let memory = Path::new("/dev/shm");
    let asked = Command::new("df").args(["-Pk", "/dev/shm"]).output();
    let available_kib = asked.ok().and_then(|output| {
        let answer = String::from_utf8(output.stdout).ok()?;
        answer.lines().nth(1)?.split_whitespace().nth(3)?.parse::<u64>().ok()
    });
    if available_kib.is_some_and(|kib| kib > 2 * 1024 * 1024) { memory.to_owned() } else { env::temp_dir() }
}

fn signal(signal: &str, pids: &[String]) {
    // One of them may have ended by itself meanwhile.
    let kill = format!("kill {signal} {}", pids.join(" "));
    let _ = Command::new("sh").args(["-c", &kill]).stderr(Stdio::null()).status().unwrap();
}

fn id(arguments: &[&str]) -> Option<u32> {
    let output = Command::new("id").args(arguments).output().ok()?;
    String::from_utf8(output.stdout).ok()?.trim().parse().ok()
}
