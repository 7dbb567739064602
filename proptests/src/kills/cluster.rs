//! A PostgreSQL server of the program's own: in a folder, on a free port, gone with it.

use std::{
    env, fs,
    net::TcpListener,
    os::unix::{fs::chown, process::CommandExt},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::Duration,
};

/// A running server.
#[derive(Debug)]
pub(super) struct Cluster {
    folder: PathBuf,
    programs: PathBuf,
    port: u16,
    /// Whom the server runs as, `None` for whoever runs this.
    user: Option<(u32, u32)>,
}

impl Cluster {
    /// Makes a cluster in a folder and starts its server, as durable as it is by default.
    ///
    /// # Panics
    ///
    /// If PostgreSQL is not installed, or does not start.
    pub(super) fn start(folder: PathBuf) -> Self {
        let programs = programs().expect("PostgreSQL is not installed");
        fs::create_dir_all(&folder).unwrap();
        // The server refuses to run as root; Debian's package makes a user for it.
        let user = (id("-u", None) == 0).then(|| {
            let user = (id("-u", Some("postgres")), id("-g", Some("postgres")));
            chown(&folder, Some(user.0), Some(user.1)).unwrap();
            user
        });
        let cluster = Self { folder, programs, port: free_port(), user };
        let data = cluster.data();
        cluster.run("initdb", &["-D", &data, "-A", "trust", "-U", "ravel", "-E", "UTF8", "--no-locale"]);
        let settings = format!(
            "port = {}\nlisten_addresses = '127.0.0.1'\nunix_socket_directories = ''\nshared_buffers = 32MB\n",
            cluster.port
        );
        let file = cluster.folder.join("data/postgresql.conf");
        fs::write(&file, fs::read_to_string(&file).unwrap() + &settings).unwrap();
        cluster.start_again();
        cluster
    }

    /// Makes a schema and returns the connection string that leads to it.
    pub(super) fn new_schema(&self, name: &str) -> String {
        let url = self.url("public");
        self.run("psql", &[&url, "-XAtq", "-v", "ON_ERROR_STOP=1", "-c", &format!("CREATE SCHEMA {name}")]);
        self.url(name)
    }

    fn url(&self, schema: &str) -> String {
        format!("postgres://ravel@127.0.0.1:{}/postgres?sslmode=disable&options=-csearch_path%3D{schema}", self.port)
    }

    pub(super) fn start_again(&self) {
        self.run("pg_ctl", &["-D", &self.data(), "-l", &self.log(), "-s", "-w", "start"]);
    }

    /// Kills every process of the server with SIGKILL.
    pub(super) fn kill(&self) {
        let pid_file = self.folder.join("data/postmaster.pid");
        let postmaster = fs::read_to_string(&pid_file).unwrap().lines().next().unwrap().to_owned();
        let children = fs::read_to_string(format!("/proc/{postmaster}/task/{postmaster}/children")).unwrap();
        let pids: Vec<_> = [postmaster.as_str()].into_iter().chain(children.split_whitespace()).collect();
        // One of the children may have ended by itself meanwhile.
        let kill = format!("kill -9 {}", pids.join(" "));
        Command::new("sh").args(["-c", &kill]).stderr(Stdio::null()).status().unwrap();
        for pid in pids {
            // What nobody has waited for yet has no executable any more.
            while fs::read_link(format!("/proc/{pid}/exe")).is_ok() {
                thread::sleep(Duration::from_millis(2));
            }
        }
        fs::remove_file(pid_file).unwrap();
    }

    fn data(&self) -> String {
        self.folder.join("data").display().to_string()
    }

    fn log(&self) -> String {
        self.folder.join("log").display().to_string()
    }

    fn run(&self, program: &str, arguments: &[&str]) {
        let mut command = self.command(program);
        // A server that is started would keep a pipe open for as long as it runs.
        let errors = if program == "pg_ctl" { Stdio::null() } else { Stdio::inherit() };
        let status = command.args(arguments).stdout(Stdio::null()).stderr(errors).status().unwrap();
        assert!(status.success(), "{program} {arguments:?}; the server's log is {}", self.log());
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

impl Drop for Cluster {
    fn drop(&mut self) {
        let mut command = self.command("pg_ctl");
        command.args(["-D", &self.data(), "-m", "immediate", "-s", "-w", "stop"]);
        // It may be down already.
        let _ = command.stdout(Stdio::null()).stderr(Stdio::null()).status();
    }
}

/// Returns the folder with the server's programs: that of `pg_ctl` in the path, or Debian's newest.
fn programs() -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    let in_path = env::split_paths(&path)
        .filter_map(|folder| folder.join("pg_ctl").canonicalize().ok()?.parent().map(Path::to_owned));
    let debian = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut debian: Vec<_> = debian.map(|entry| entry.path().join("bin")).collect();
    debian.sort();
    in_path.chain(debian.into_iter().rev()).find(|folder| folder.join("initdb").exists())
}

/// Returns a port nobody uses, below those that the system gives to outgoing connections.
fn free_port() -> u16 {
    let first = (std::process::id() % 1_000) as u16 * 12;
    let ports = (0..12_000).map(|number| 20_000 + (first + number) % 12_000);
    let mut free = ports.filter(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok());
    free.next().expect("some port is free")
}

fn id(option: &str, user: Option<&str>) -> u32 {
    let output = Command::new("id").arg(option).args(user).output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().parse().expect("a server that root starts needs the user postgres")
}
