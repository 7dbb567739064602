//! One server for all tests of a run, in however many processes and of however many crates they are.
//!
//! The first process that needs it starts it; each holds a shared lock on a file for as long as it lives. A watchdog, a process of
//! its own, stops the server and removes its folder some seconds after nobody held that lock any more, however the tests ended.

use std::{
    env,
    fs::{self, File},
    io::Write,
    net::TcpStream,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Arc, OnceLock},
    time::SystemTime,
};

use super::cluster::{Cluster, free_port, roomy_folder};

/// Returns the server that all tests share.
pub fn cluster() -> Arc<Cluster> {
    static SHARED: OnceLock<(Arc<Cluster>, File)> = OnceLock::new();
    Arc::clone(&SHARED.get_or_init(join).0)
}

/// Finds the server or starts it; it runs for as long as the file that is returned is open.
fn join() -> (Arc<Cluster>, File) {
    let notes = notes();
    fs::create_dir_all(&notes).unwrap();
    // While this is locked, no other process starts or stops the server.
    let lock = File::create(notes.join("lock")).unwrap();
    lock.lock().unwrap();
    let users = File::create(notes.join("users")).unwrap();
    users.lock_shared().unwrap();
    users.set_modified(SystemTime::now()).unwrap();
    let cluster = running(&notes).unwrap_or_else(|| {
        let folder = tempfile::Builder::new().prefix("ravel-postgres-").tempdir_in(roomy_folder()).unwrap();
        let port = free_port();
        // Noted first: what is noted is removed.
        fs::write(notes.join("server"), format!("{}\n{port}\n", folder.path().display())).unwrap();
        let cluster = Cluster::in_folder(folder.path(), port);
        cluster.make(&[], "shared_buffers = 32MB\n");
        cluster.start_again();
        let _ = folder.keep();
        cluster
    });
    watch(&notes);
    (Arc::new(cluster), users)
}

/// Returns the folder with the locks and the note where the server is: one for each folder that cargo builds into.
fn notes() -> PathBuf {
    let program = env::current_exe().unwrap();
    // target/debug/deps/program; other tests clear target/tmp.
    program.ancestors().nth(3).unwrap().join("postgres-for-tests")
}

fn running(notes: &Path) -> Option<Cluster> {
    let note = fs::read_to_string(notes.join("server")).ok()?;
    let (folder, port) = note.trim_end().rsplit_once('\n')?;
    let port = port.parse().ok()?;
    let runs =
        Path::new(folder).join("data/postmaster.pid").exists() && TcpStream::connect(("127.0.0.1", port)).is_ok();
    if !runs {
        // Left by a machine that was switched off.
        let _ = fs::remove_dir_all(folder);
        return None;
    }
    Some(Cluster::in_folder(Path::new(folder), port))
}

/// Starts the watchdog, which ends at once if there is one.
#[allow(clippy::zombie_processes, reason = "it outlives this process")]
fn watch(notes: &Path) {
    let log = File::create(notes.join("watchdog.log")).unwrap();
    let mut watchdog = Command::new("sh")
        .args(["-s", &notes.display().to_string()])
        // Not to be killed with the tests, and not to keep their output open.
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(log)
        .current_dir("/")
        .spawn()
        .unwrap();
    watchdog.stdin.take().unwrap().write_all(WATCHDOG.as_bytes()).unwrap();
}

/// A SIGQUIT makes the server end at once.
const WATCHDOG: &str = r#"{
    cd "$1" || exit
    exec 7>lock 8>watchdog
    flock -n 8 || exit 0
    while sleep 1; do
        # A process that wants the server takes the first lock and then the second, too.
        flock 7
        if flock -n -x users true && [ -z "$(find users -newermt '5 seconds ago')" ]; then
            folder=$(head -n 1 server)
            pid=$(head -n 1 "$folder/data/postmaster.pid")
            kill -QUIT "$pid"
            while kill -0 "$pid"; do sleep 0.1; done
            case $folder in */ravel-postgres-*) rm -rf "$folder" ;; esac
            rm server
            exit
        fi
        flock -u 7
    done
}
"#;
