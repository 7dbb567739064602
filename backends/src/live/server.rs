//! The process that has the database open answers others.

use std::{
    collections::BTreeMap,
    fs::{self, DirBuilder, Permissions},
    io::{self, Read, Write},
    net::Shutdown,
    os::unix::{
        fs::{DirBuilderExt, PermissionsExt},
        net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    thread::{self, JoinHandle},
    time::Duration,
};

use bytes::Bytes;
use ravel_store::{
    Batch, Committed, Description, Direction, KeyRange, Keyspace, Limits, Page, Scan, Store, StoreError, StoreFuture,
    VALUE_BYTES_MAX, Watch, block_on, log,
};

use super::{
    SOCKET, SocketPath,
    protocol::{BUSY, GREETING, Request, Response, TOUCHED, VALUES_BYTES, WELCOME, WireError, decode, receive, send},
};

/// Why a store can't be read from other processes; it works all the same.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum ServeError {
    #[error("the path of {} is too long for a socket: no other process can read this database now", .path.display())]
    PathTooLong { path: PathBuf },
    #[error("{}: no other process can read this database now", .path.display())]
    Io {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// Makes a store readable for other processes through a socket in its directory.
///
/// The directory must be locked by the store, for as long as it lives: what is left of a socket there is replaced. The socket is
/// closed and removed when the returned store is dropped; a process that is killed leaves it, and nobody answers.
///
/// Each connection is served by a thread of its own, 16 at most; what it asks for is bounded as it is in [`Store`].
///
/// # Errors
/// Those of the operating system, and when the path is too long for a socket.
pub fn serve(store: Arc<dyn Store>, directory: &Path) -> Result<ServedStore, ServeError> {
    let server = Server::start(&store, directory)?;
    Ok(ServedStore { _server: server, store })
}

/// A store that other processes can read.
pub struct ServedStore {
    // The order matters: who asks over the socket is gone before the store is.
    _server: Server,
    store: Arc<dyn Store>,
}

impl Store for ServedStore {
    fn commit(&self, batch: Batch) -> StoreFuture<'_, Committed> {
        self.store.commit(batch)
    }

    fn flush(&self) -> StoreFuture<'_, ()> {
        self.store.flush()
    }

    fn get_many<'a>(&'a self, keyspace: Keyspace, keys: &'a [Bytes]) -> StoreFuture<'a, Vec<Option<Bytes>>> {
        self.store.get_many(keyspace, keys)
    }

    fn scan(&self, scan: Scan) -> StoreFuture<'_, Page> {
        self.store.scan(scan)
    }

    fn watch(&self, keyspace: Keyspace, prefix: &[u8]) -> Watch {
        self.store.watch(keyspace, prefix)
    }

    fn describe(&self) -> StoreFuture<'_, Description> {
        self.store.describe()
    }

    fn compact(&self) -> StoreFuture<'_, ()> {
        self.store.compact()
    }
}

/// The threads that answer; dropping this ends them and removes the socket.
struct Server {
    connections: Arc<Connections>,
    accepting: Option<JoinHandle<()>>,
    directory: PathBuf,
}

impl Server {
    fn start(store: &Arc<dyn Store>, directory: &Path) -> Result<Self, ServeError> {
        let listener = listen(directory)?;
        let connections = Arc::new(Connections { store: Arc::downgrade(store), open: Mutex::default() });
        let for_thread = Arc::clone(&connections);
        let accepting = thread::Builder::new()
            .name("live".to_owned())
            .spawn(move || accept(&listener, &for_thread))
            .map_err(|source| ServeError::Io { path: directory.join(SOCKET), source })?;
        Ok(Self { connections, accepting: Some(accepting), directory: directory.to_owned() })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let mut open = self.connections.lock();
        open.closing = true;
        for stream in open.streams.values() {
            // One that is gone already ends by itself.
            let _ = stream.shutdown(Shutdown::Both);
        }
        drop(open);
        // Wakes the thread that waits for connections. If that fails, it is left: it holds no store.
        let woken = SocketPath::new(&self.directory, SOCKET)
            .ok()
            .flatten()
            .is_some_and(|socket| UnixStream::connect(&socket.path).is_ok());
        if let Some(accepting) = self.accepting.take().filter(|_| woken) {
            let _ = accepting.join();
        }
        let _ = fs::remove_file(self.directory.join(SOCKET));
    }
}

/// Binds the socket. It is made in a folder that nobody else may enter, and gets its name when nobody else may use it.
fn listen(directory: &Path) -> Result<UnixListener, ServeError> {
    let path = directory.join(SOCKET);
    let failed = |source| ServeError::Io { path: path.clone(), source };
    let making = directory.join(MAKING);
    match fs::remove_dir_all(&making) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let unnamed = Path::new(MAKING).join("s");
    let too_long = || ServeError::PathTooLong { path: path.clone() };
    let bind = || -> io::Result<Option<UnixListener>> {
        DirBuilder::new().mode(0o700).create(&making)?;
        let Some(socket) = SocketPath::new(directory, &unnamed.to_string_lossy())? else { return Ok(None) };
        let listener = UnixListener::bind(&socket.path)?;
        fs::set_permissions(directory.join(&unnamed), Permissions::from_mode(0o600))?;
        fs::rename(directory.join(&unnamed), &path)?;
        Ok(Some(listener))
    };
    let bound = bind();
    let _ = fs::remove_dir_all(&making);
    bound.map_err(failed)?.ok_or_else(too_long)
}

/// The connections that are open.
struct Connections {
    /// Held strongly only while a request is answered, so that it is closed when its owner drops it.
    store: Weak<dyn Store>,
    open: Mutex<Open>,
}

#[derive(Default)]
struct Open {
    closing: bool,
    next: u64,
    streams: BTreeMap<u64, UnixStream>,
}

impl Connections {
    fn lock(&self) -> MutexGuard<'_, Open> {
        // Nothing in here can panic half-way through a change.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_closing(&self) -> bool {
        self.lock().closing
    }
}

/// A connection among those that are open.
struct Registered {
    connections: Arc<Connections>,
    number: u64,
}

impl Registered {
    /// Returns `None` if there are too many.
    fn new(connections: &Arc<Connections>, stream: &UnixStream) -> io::Result<Option<Self>> {
        let mut open = connections.lock();
        if open.closing || open.streams.len() >= CONNECTIONS_MAX {
            return Ok(None);
        }
        let number = open.next;
        open.next = open.next.wrapping_add(1);
        open.streams.insert(number, stream.try_clone()?);
        Ok(Some(Self { connections: Arc::clone(connections), number }))
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.connections.lock().streams.remove(&self.number);
    }
}

fn accept(listener: &UnixListener, connections: &Arc<Connections>) {
    let mut threads: Vec<JoinHandle<()>> = Vec::new();
    while !connections.is_closing() {
        match listener.accept() {
            Ok((stream, _)) => {
                threads.retain(|thread| !thread.is_finished());
                threads.extend(start(stream, connections));
            }
            // Too many open files, for example: that passes.
            Err(_) => thread::sleep(Duration::from_millis(100)),
        }
    }
    for thread in threads {
        // It is the one that panicked who loses its connection.
        let _ = thread.join();
    }
}

/// Starts the thread of a connection, unless it is one too many or gone already.
fn start(mut stream: UnixStream, connections: &Arc<Connections>) -> Option<JoinHandle<()>> {
    stream.set_write_timeout(Some(WRITE_TIMEOUT)).ok()?;
    let hello = |status| [&GREETING[..], &[status]].concat();
    let Some(registered) = Registered::new(connections, &stream).ok()? else {
        if !connections.is_closing() {
            let _ = stream.write_all(&hello(BUSY));
        }
        return None;
    };
    let hello = hello(WELCOME);
    let run = move || {
        let registered = registered;
        // Whoever is on the other side goes away when he likes, and hears of what he did wrong by that.
        let _ = stream.write_all(&hello).and_then(|()| converse(stream, &registered.connections));
    };
    thread::Builder::new().name("live connection".to_owned()).spawn(run).ok()
}

fn converse(mut stream: UnixStream, connections: &Connections) -> io::Result<()> {
    stream.set_read_timeout(Some(GREETING_TIMEOUT))?;
    let mut greeting = [0; GREETING.len()];
    stream.read_exact(&mut greeting)?;
    if greeting != GREETING {
        return Ok(());
    }
    stream.set_read_timeout(None)?;
    while let Some(message) = receive(&mut stream)? {
        let request = decode(&message)?;
        let Some(store) = connections.store.upgrade() else { return Ok(()) };
        match request {
            Request::GetMany { keyspace, keys } => match get_many(&*store, keyspace, &keys) {
                Ok(values) => send_values(&mut stream, &values)?,
                Err(error) => fail(&mut stream, &error)?,
            },
            Request::Scan { keyspace, start, end, backward, items, bytes } => {
                let range = KeyRange { start: own(start), end: end.map(own) };
                let direction = if backward { Direction::Backward } else { Direction::Forward };
                let bound = |number| usize::try_from(number).unwrap_or(usize::MAX);
                let limits = Limits { items: bound(items), bytes: bound(bytes) };
                let page = keyspace_of(keyspace)
                    .and_then(|keyspace| block_on(store.scan(Scan { keyspace, range, direction, limits })));
                match page {
                    Ok(Page { items, next }) => {
                        let items = items.iter().map(|(key, value)| (&**key, &**value)).collect();
                        send(&mut stream, &Response::Page { items, next: next.as_deref() })?;
                    }
                    Err(error) => fail(&mut stream, &error)?,
                }
            }
            Request::Describe => match block_on(store.describe()) {
                Ok(Description { engine, layout, size_on_disk }) => {
                    send(&mut stream, &Response::Description { engine, layout, size_on_disk })?;
                }
                Err(error) => fail(&mut stream, &error)?,
            },
            Request::Watch { keyspace, prefix } => match keyspace_of(keyspace) {
                Ok(keyspace) => {
                    let watch = store.watch(keyspace, prefix);
                    drop(store);
                    send(&mut stream, &Response::Watching)?;
                    return tell(stream, watch, connections);
                }
                Err(error) => fail(&mut stream, &error)?,
            },
            Request::Seal { to } => {
                let answer = match block_on(log::seal(&store, to)) {
                    Ok(entries) => Response::Sealed { entries },
                    Err(error) => Response::Failed(WireError::from(&error)),
                };
                send(&mut stream, &answer)?;
            }
        }
    }
    Ok(())
}

fn fail(stream: &mut UnixStream, error: &StoreError) -> io::Result<()> {
    send(stream, &Response::Failed(WireError::from(error)))
}

fn get_many(store: &dyn Store, keyspace: u8, keys: &[&[u8]]) -> Result<Vec<Option<Bytes>>, StoreError> {
    let keys: Vec<Bytes> = keys.iter().map(|key| own(key)).collect();
    block_on(store.get_many(keyspace_of(keyspace)?, &keys))
}

/// Sends the values of a look-up, which all are of one moment, in messages within the bound.
fn send_values(stream: &mut UnixStream, values: &[Option<Bytes>]) -> io::Result<()> {
    let mut rest = values;
    loop {
        let mut bytes = 0usize;
        let count = rest
            .iter()
            .take_while(|value| {
                let fits = bytes < VALUES_BYTES;
                bytes = bytes.saturating_add(value.as_ref().map_or(0, Bytes::len)).saturating_add(8);
                fits
            })
            .count();
        let (now, later) = rest.split_at(count);
        let values = now.iter().map(Option::as_deref).collect();
        send(stream, &Response::Values { values, more: !later.is_empty() })?;
        if later.is_empty() {
            return Ok(());
        }
        rest = later;
    }
}

/// Tells of touches until either side goes away.
fn tell(mut stream: UnixStream, mut watch: Watch, connections: &Connections) -> io::Result<()> {
    stream.set_nonblocking(true)?;
    loop {
        match watch.changed_within(WATCH_PAUSE) {
            Some(Ok(())) => {
                // One byte fits unless hundreds of thousands wait to be read: then the news is there already.
                match stream.write(&[TOUCHED]) {
                    Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
                    _ => {}
                }
            }
            Some(Err(_)) => return Ok(()),
            None => {}
        }
        match stream.read(&mut [0]) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            _ => return Ok(()),
        }
        if connections.is_closing() {
            return Ok(());
        }
    }
}

fn keyspace_of(byte: u8) -> Result<Keyspace, StoreError> {
    Keyspace::from_byte(byte).ok_or_else(|| {
        let unknown = io::Error::new(io::ErrorKind::InvalidInput, "there is no such keyspace in this program");
        StoreError::from_io(ravel_store::Operation::Get, unknown)
    })
}

fn own(bytes: &[u8]) -> Bytes {
    Bytes::copy_from_slice(bytes)
}

/// Most connections at a time.
const CONNECTIONS_MAX: usize = 16;
/// How long a client may take to read an answer.
const WRITE_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a client may take to greet.
const GREETING_TIMEOUT: Duration = Duration::from_secs(10);
/// How often it is looked whether the other side of a watch is still there.
const WATCH_PAUSE: Duration = Duration::from_millis(200);
/// Name of the folder in which the socket is made.
const MAKING: &str = "ravel.sock.new";

// A message takes the values up to its bound and one more.
const _: () = assert!(VALUES_BYTES + VALUE_BYTES_MAX + 1024 * 1024 <= super::protocol::MESSAGE_BYTES_MAX);
