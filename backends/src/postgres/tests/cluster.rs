//! A PostgreSQL server of the tests' own: a cluster in a temporary folder, on a free port, gone with the last test that uses it.

use std::{
    env, fs,
    net::TcpListener,
    os::unix::{fs::chown, process::CommandExt},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicU32, Ordering},
    },
};

use tempfile::TempDir;

/// Set to `absent` where tests of PostgreSQL are to be left out because there is none.
pub(super) const WANTED: &str = "RAVEL_TEST_POSTGRES";

/// A running server.
pub(super) struct Cluster {
    folder: TempDir,
    programs: PathBuf,
    port: u16,
    /// Whom the server runs as, `None` for whoever runs the tests.
    user: Option<(u32, u32)>,
    places: AtomicU32,
}

impl Cluster {
    /// Returns the server all tests of this process share; `None` only if that is wanted by the environment.
    pub(super) fn shared() -> Option<Arc<Self>> {
        static SHARED: Mutex<Weak<Cluster>> = Mutex::new(Weak::new());
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(cluster) = shared.upgrade() {
            return Some(cluster);
        }
        let cluster = Arc::new(Self::start()?);
        *shared = Arc::downgrade(&cluster);
        Some(cluster)
    }

    /// Starts a server of its own; `None` only if that is wanted by the environment.
    pub(super) fn start() -> Option<Self> {
        let Some(programs) = programs() else {
            assert!(
                env::var(WANTED).is_ok_and(|wanted| wanted == "absent"),
                "PostgreSQL is not installed (.ci/setup does that); to leave its tests out, set {WANTED}=absent"
            );
            eprintln!("NOT TESTED: there is no PostgreSQL here, and {WANTED}=absent says that this is wanted");
            return None;
        };
        let folder = tempfile::tempdir().unwrap();
        // The server refuses to run as root; Debian's package makes a user for it.
        let user = (id(&[]) == Some(0)).then(|| {
            let user = id(&["postgres"]).expect("tests that run as root need the user postgres");
            let group = group("postgres").expect("the group of the user postgres");
            chown(folder.path(), Some(user), Some(group)).unwrap();
            (user, group)
        });
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let cluster = Self { folder, programs, port, user, places: AtomicU32::new(0) };
        let data = cluster.data();
        cluster.run("initdb", &["-D", &data, "-A", "trust", "-U", "ravel", "-E", "UTF8", "--no-locale", "--no-sync"]);
        let settings = format!(
            "port = {port}\nlisten_addresses = '127.0.0.1'\nunix_socket_directories = '{}'\nmax_connections = 300\n\
             shared_buffers = 32MB\n",
            cluster.folder.path().display()
        );
        let file = cluster.folder.path().join("data/postgresql.conf");
        fs::write(&file, fs::read_to_string(&file).unwrap() + &settings).unwrap();
        cluster.pg_ctl("start");
        Some(cluster)
    }

    pub(super) fn port(&self) -> u16 {
        self.port
    }

    /// Makes an empty schema and returns the connection string that leads to it.
    pub(super) fn new_place(&self) -> String {
        let name = format!("place{}", self.places.fetch_add(1, Ordering::Relaxed));
        self.sql("", &format!("CREATE SCHEMA {name}"));
        self.url(&name)
    }

    /// Returns the connection string that leads to a schema.
    pub(super) fn url(&self, schema: &str) -> String {
        format!("postgres://ravel@127.0.0.1:{}/postgres?sslmode=disable&options=-csearch_path%3D{schema}", self.port)
    }

    /// Runs statements in a schema and returns what they answer, columns separated by `|`.
    pub(super) fn sql(&self, schema: &str, sql: &str) -> String {
        let url = if schema.is_empty() { self.url("public") } else { schema.to_owned() };
        self.run("psql", &[&url, "-XAtq", "-v", "ON_ERROR_STOP=1", "-c", sql])
    }

    /// Restarts the server the way an administrator does: all connections are ended.
    pub(super) fn restart(&self) {
        self.pg_ctl("restart");
    }

    pub(super) fn start_again(&self) {
        self.pg_ctl("start");
    }

    pub(super) fn stop(&self) {
        self.pg_ctl("stop");
    }

    /// Kills every process of the server with SIGKILL.
    pub(super) fn kill(&self) {
        let pid_file = fs::read_to_string(self.folder.path().join("data/postmaster.pid")).unwrap();
        let postmaster = pid_file.lines().next().unwrap().to_owned();
        let children = Command::new("ps").args(["-o", "pid=", "--ppid", &postmaster]).output().unwrap();
        let children = String::from_utf8(children.stdout).unwrap();
        let status = Command::new("kill")
            .arg("-9")
            .arg(&postmaster)
            .args(children.split_whitespace())
            .stderr(Stdio::null())
            .status()
            .unwrap();
        // One of the children may have ended by itself meanwhile.
        let _ = status;
        while Path::new("/proc").join(&postmaster).join("exe").exists() {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }

    fn data(&self) -> String {
        self.folder.path().join("data").display().to_string()
    }

    fn pg_ctl(&self, what: &str) {
        let log = self.folder.path().join("log").display().to_string();
        self.run("pg_ctl", &["-D", &self.data(), "-l", &log, "-m", "fast", "-s", "-w", what]);
    }

    fn run(&self, program: &str, arguments: &[&str]) -> String {
        let output = self.folder.path().join("output");
        // A file, as the server keeps a pipe open for as long as it runs.
        let out = fs::File::create(output.with_extension(format!("{:?}", std::thread::current().id()))).unwrap();
        let (mut command, piped) = (Command::new(self.programs.join(program)), program == "psql");
        command.args(arguments).current_dir("/").stdin(Stdio::null());
        if let Some((user, group)) = self.user {
            command.uid(user).gid(group);
        }
        if piped {
            let output = command.output().unwrap();
            assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
            return String::from_utf8(output.stdout).unwrap().trim_end().to_owned();
        }
        let status = command.stdout(out.try_clone().unwrap()).stderr(out).status().unwrap();
        let said = || fs::read_dir(self.folder.path()).unwrap().flatten().filter(|entry| entry.path().is_file());
        let said = || -> Vec<String> {
            said().filter_map(|entry| fs::read_to_string(entry.path()).ok()).collect()
        };
        assert!(status.success(), "{program} {arguments:?} failed: {}", said().join("\n"));
        String::new()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let mut command = Command::new(self.programs.join("pg_ctl"));
        command.args(["-D", &self.data(), "-m", "immediate", "-s", "-w", "stop"]).current_dir("/");
        if let Some((user, group)) = self.user {
            command.uid(user).gid(group);
        }
        // It may be down already.
        let _ = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
    }
}

/// Returns the folder with the server's programs: that of `pg_ctl` in the path, or Debian's newest.
fn programs() -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    let in_path = env::split_paths(&path)
        .filter_map(|folder| folder.join("pg_ctl").canonicalize().ok()?.parent().map(Path::to_owned));
    let debian = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten().map(|entry| entry.path().join("bin"));
    let mut debian: Vec<_> = debian.collect();
    debian.sort();
    in_path.chain(debian.into_iter().rev()).find(|folder| folder.join("initdb").exists())
}

fn id(arguments: &[&str]) -> Option<u32> {
    let output = Command::new("id").arg("-u").args(arguments).output().ok()?;
    String::from_utf8(output.stdout).ok()?.trim().parse().ok()
}

fn group(user: &str) -> Option<u32> {
    let output = Command::new("id").args(["-g", user]).output().ok()?;
    String::from_utf8(output.stdout).ok()?.trim().parse().ok()
}
