use std::{
    fs,
    io::Write,
    os::unix::{
        fs::{FileTypeExt, PermissionsExt},
        net::{UnixListener, UnixStream},
    },
    path::PathBuf,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use bytes::Bytes;
use ravel_store::{
    Batch, Committed, Description, Keyspace, MemoryStore, Page, Scan, Store, StoreError, StoreExt, StoreFuture, Watch,
    block_on,
    conformance::{StoreBuilder, watches},
};
use tempfile::TempDir;

use super::{protocol::GREETING, *};

/// Commits to a store, and reads what another process would.
struct Both {
    remote: RemoteStore,
    served: ServedStore,
    watches_remotely: bool,
}

impl Store for Both {
    fn commit(&self, batch: Batch) -> StoreFuture<'_, Committed> {
        self.served.commit(batch)
    }

    fn flush(&self) -> StoreFuture<'_, ()> {
        self.remote.flush()
    }

    fn get_many<'a>(&'a self, keyspace: Keyspace, keys: &'a [Bytes]) -> StoreFuture<'a, Vec<Option<Bytes>>> {
        self.remote.get_many(keyspace, keys)
    }

    fn scan(&self, scan: Scan) -> StoreFuture<'_, Page> {
        self.remote.scan(scan)
    }

    fn watch(&self, keyspace: Keyspace, prefix: &[u8]) -> Watch {
        if self.watches_remotely { self.remote.watch(keyspace, prefix) } else { self.served.watch(keyspace, prefix) }
    }

    fn describe(&self) -> StoreFuture<'_, Description> {
        self.remote.describe()
    }
}

fn open_both((place, store): &(TempDir, MemoryStore), watches_remotely: bool) -> Both {
    let served = serve(Arc::new(store.clone()), place.path()).unwrap();
    Both { remote: RemoteStore::connect(place.path()).unwrap().unwrap(), served, watches_remotely }
}

struct LiveBuilder;

impl StoreBuilder for LiveBuilder {
    type Store = Both;
    type Place = (TempDir, MemoryStore);

    fn place() -> Self::Place {
        (tempfile::tempdir().unwrap(), MemoryStore::new())
    }

    fn open(place: &Self::Place) -> Result<Both, StoreError> {
        Ok(open_both(place, false))
    }
}

ravel_store::conformance_tests!(LiveBuilder);

/// What is told over a socket is told a moment after the commit, so not all tests of watches fit.
struct WatchedBuilder;

impl StoreBuilder for WatchedBuilder {
    type Store = Both;
    type Place = (TempDir, MemoryStore);

    fn place() -> Self::Place {
        LiveBuilder::place()
    }

    fn open(place: &Self::Place) -> Result<Both, StoreError> {
        Ok(open_both(place, true))
    }
}

#[test]
fn watches_are_woken_by_the_other_process() {
    watches::a_waiting_watch_is_woken_from_another_thread::<WatchedBuilder>();
    watches::a_woken_watch_sees_the_commit::<WatchedBuilder>();
}

fn served() -> (TempDir, ServedStore) {
    let place = tempfile::tempdir().unwrap();
    let served = serve(Arc::new(MemoryStore::new()), place.path()).unwrap();
    (place, served)
}

fn put(store: &dyn Store, key: &str, value: impl Into<Bytes>) {
    let mut batch = Batch::new();
    batch.put(Keyspace::Log, key.to_owned(), value);
    assert!(block_on(store.commit(batch)).unwrap().is_written());
}

fn remote(place: &TempDir) -> RemoteStore {
    RemoteStore::connect(place.path()).unwrap().unwrap()
}

#[test]
fn the_socket_is_private_and_gone_with_the_store() {
    let (place, served) = served();
    let socket = place.path().join(SOCKET);
    let found = fs::metadata(&socket).unwrap();
    assert!(found.file_type().is_socket());
    assert_eq!(found.permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::read_dir(place.path()).unwrap().count(), 1);
    let remote = remote(&place);
    drop(served);
    assert_eq!(fs::read_dir(place.path()).unwrap().count(), 0);
    assert!(RemoteStore::connect(place.path()).unwrap().is_none());
    let error = block_on(remote.get(Keyspace::Log, "a")).unwrap_err();
    assert!(protocol::with_causes(&error).contains("has ended or does not answer"), "{error:?}");
}

#[test]
fn what_a_killed_process_left_is_replaced() {
    let place = tempfile::tempdir().unwrap();
    drop(UnixListener::bind(place.path().join(SOCKET)).unwrap());
    fs::create_dir(place.path().join("ravel.sock.new")).unwrap();
    drop(UnixListener::bind(place.path().join("ravel.sock.new/s")).unwrap());
    assert!(RemoteStore::connect(place.path()).unwrap().is_none());
    let served = serve(Arc::new(MemoryStore::new()), place.path()).unwrap();
    put(&served, "a", "1");
    assert_eq!(block_on(remote(&place).get(Keyspace::Log, "a")).unwrap().as_deref(), Some(&b"1"[..]));
}

#[test]
fn a_long_path_is_no_hindrance() {
    let place = tempfile::tempdir().unwrap();
    let long: PathBuf = place.path().join("x".repeat(200));
    fs::create_dir(&long).unwrap();
    let served = serve(Arc::new(MemoryStore::new()), &long).unwrap();
    put(&served, "a", "1");
    let remote = RemoteStore::connect(&long).unwrap().unwrap();
    assert_eq!(block_on(remote.get(Keyspace::Log, "a")).unwrap().as_deref(), Some(&b"1"[..]));
    drop(served);
    assert_eq!(fs::read_dir(&long).unwrap().count(), 0);
}

#[test]
fn nothing_is_written_over_the_socket() {
    let (place, served) = served();
    let remote = remote(&place);
    let mut batch = Batch::new();
    batch.put(Keyspace::Log, "a", "1");
    assert!(matches!(block_on(remote.commit(batch)), Err(StoreError::ReadOnly)));
    assert_eq!(block_on(served.get(Keyspace::Log, "a")).unwrap(), None);
}

/// A restarted process is found again, without anybody asking twice.
#[test]
fn a_connection_is_made_again() {
    let place = LiveBuilder::place();
    let first = serve(Arc::new(place.1.clone()), place.0.path()).unwrap();
    put(&first, "a", "1");
    let remote = remote(&place.0);
    drop(first);
    let _second = serve(Arc::new(place.1.clone()), place.0.path()).unwrap();
    assert_eq!(block_on(remote.get(Keyspace::Log, "a")).unwrap().as_deref(), Some(&b"1"[..]));
}

/// 40 MiB are more than any message.
#[test]
fn a_large_look_up_is_answered_in_parts() {
    let (place, served) = served();
    for number in 0..40 {
        put(&served, &format!("{number:02}"), vec![number; ravel_store::VALUE_BYTES_MAX]);
    }
    let keys: Vec<Bytes> = (0..41).map(|number| format!("{number:02}").into()).collect();
    let values = block_on(remote(&place).get_many(Keyspace::Log, &keys)).unwrap();
    assert_eq!(values, block_on(served.get_many(Keyspace::Log, &keys)).unwrap());
}

#[test]
fn a_watch_ends_with_the_other_process_and_its_connection_with_the_watch() {
    let (place, served) = served();
    let remote = remote(&place);
    for _ in 0..3 * 16 {
        // Each has a connection of its own: if they stayed, there would be too many.
        drop(remote.watch(Keyspace::Log, b""));
        put(&served, "a", "1");
        let began = Instant::now();
        while RemoteStore::connect(place.path()).is_err() {
            assert!(began.elapsed() < Duration::from_secs(20), "connections are not given back");
            thread::sleep(Duration::from_millis(10));
        }
    }
    let mut watch = remote.watch(Keyspace::Log, b"");
    drop(served);
    assert!(matches!(block_on(watch.changed()), Err(StoreError::Closed)));
}

#[test]
fn one_connection_too_many_is_told_so() {
    let (place, _served) = served();
    let mut all: Vec<RemoteStore> = (0..16).map(|_| remote(&place)).collect();
    let error = RemoteStore::connect(place.path()).unwrap_err();
    assert!(protocol::with_causes(&error).contains("too many other processes"), "{error:?}");
    all.pop();
    let began = Instant::now();
    while RemoteStore::connect(place.path()).is_err() {
        assert!(began.elapsed() < Duration::from_secs(20));
        thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn other_versions_are_told_apart() {
    let place = tempfile::tempdir().unwrap();
    let listener = UnixListener::bind(place.path().join(SOCKET)).unwrap();
    let answering = thread::spawn(move || listener.accept().unwrap().0.write_all(b"ravel\x63\0"));
    let error = RemoteStore::connect(place.path()).unwrap_err();
    assert!(protocol::with_causes(&error).contains("is of another version"), "{error:?}");
    answering.join().unwrap().unwrap();
}

/// Whatever is sent, the store goes on answering the others.
#[test]
fn nonsense_ends_its_own_connection_only() {
    let (place, served) = served();
    put(&served, "a", "1");
    for nonsense in [
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        &GREETING[..4],
        &[&GREETING[..], &[255; 4]].concat(),
        &[&GREETING[..], &[3, 0, 0, 0, 99, 1, 2]].concat(),
        &[&GREETING[..], &[12, 0, 0, 0, 0, 3, 253, 255, 255, 255, 255, 255, 255, 255, 255, 0]].concat(),
    ] {
        let mut stream = UnixStream::connect(place.path().join(SOCKET)).unwrap();
        let _ = stream.write_all(nonsense);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let mut answer = Vec::new();
        let _ = std::io::Read::read_to_end(&mut stream, &mut answer);
        assert_eq!(answer.get(..6), Some(&GREETING[..]));
        assert_eq!(answer.len(), 7, "{nonsense:?}");
        assert_eq!(block_on(remote(&place).get(Keyspace::Log, "a")).unwrap().as_deref(), Some(&b"1"[..]));
    }
}
