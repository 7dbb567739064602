//! A store that another process has open, for reading.

use std::{
    fmt,
    io::{self, Read, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::Duration,
};

use bytes::Bytes;
use ravel_store::{
    Batch, Committed, Description, Direction, Keyspace, Limits, Operation, PAGE_BYTES_MAX, PAGE_ITEMS_MAX, Page, Scan,
    Store, StoreError, StoreFuture, VALUE_BYTES_MAX, Watch, check_keys, log::LogError, watch::Watchers,
};

use super::{
    SOCKET, SocketPath,
    protocol::{BUSY, GREETING, Request, Response, TOUCHED, WELCOME, WireError, decode, receive, send},
};

/// What is said about the process on the other side.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum RemoteFailure {
    /// Its own words.
    #[error("{0}")]
    Said(String),
    #[error("this database was moved to {to}")]
    Moved { to: String },
    #[error("the process that has the database open is of another version of this program: read it with that one")]
    OtherVersion,
    #[error("too many other processes read this database")]
    Busy,
    #[error("the process that has the database open has ended or does not answer")]
    Gone {
        #[source]
        source: io::Error,
    },
    #[error("the process that has the database open answers something else than was asked")]
    Confused,
}

/// A store that another process has open, for reading; see [`serve`](super::serve).
///
/// A commit is refused with `ReadOnly`. The futures block the thread that polls them until the answer is there: this is for programs
/// that have nothing else to do meanwhile, such as commands. A connection that was lost is made again once.
pub struct RemoteStore {
    directory: PathBuf,
    idle: Mutex<Vec<UnixStream>>,
}

impl RemoteStore {
    /// Connects to the process that has a directory open, `None` if there is none or it does not serve.
    ///
    /// # Errors
    /// `Io`: it is of another version, or has too many connections.
    pub fn connect(directory: &Path) -> Result<Option<Self>, StoreError> {
        let stream = connect(directory).map_err(|failure| StoreError::io(Operation::Open, Arc::new(failure)))?;
        Ok(stream.map(|stream| Self { directory: directory.to_owned(), idle: Mutex::new(vec![stream]) }))
    }

    /// Asks the process that has the database open to take no more appends, as it is moved to another one; see
    /// [`log::seal`](ravel_store::log::seal). Returns the number of entries.
    ///
    /// # Errors
    /// `Moved` if it was moved elsewhere; what the other process says otherwise, as `Store`.
    pub fn seal(&self, to: &str) -> Result<u64, LogError> {
        let sealed = self.ask(Operation::Commit, &Request::Seal { to }, |_, message| match decode(&message)? {
            Response::Sealed { entries } => Ok(Ok(entries)),
            Response::Failed(WireError::Moved { to }) => Ok(Err(LogError::Moved { to })),
            Response::Failed(error) => Err(Trouble::Store(error.into())),
            _ => Err(confused()),
        });
        sealed?
    }

    /// Sends a request and hands the answer to `read`, which may read further messages from the stream.
    fn ask<T>(
        &self,
        operation: Operation,
        request: &Request<'_>,
        read: impl Fn(&mut UnixStream, Bytes) -> Result<T, Trouble>,
    ) -> Result<T, StoreError> {
        let attempt = |mut stream: UnixStream| {
            send(&mut stream, request)?;
            let answer = next(&mut stream)?;
            read(&mut stream, answer).map(|answer| (stream, answer))
        };
        let kept = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let (stream, answer) = match kept.map(attempt) {
            Some(Ok(answered)) => answered,
            Some(Err(Trouble::Store(error))) => return Err(error),
            // Reading twice harms nobody, and whoever has the database open may be another by now.
            None | Some(Err(Trouble::Remote(_))) => {
                self.fresh().and_then(attempt).map_err(|trouble| trouble.into_store_error(operation))?
            }
        };
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(stream);
        Ok(answer)
    }

    fn fresh(&self) -> Result<UnixStream, Trouble> {
        let gone = || RemoteFailure::Gone { source: io::ErrorKind::ConnectionRefused.into() };
        Ok(connect(&self.directory)?.ok_or_else(gone)?)
    }

    fn get_many_now(&self, keyspace: Keyspace, keys: &[Bytes]) -> Result<Vec<Option<Bytes>>, StoreError> {
        check_keys(keys)?;
        let request = Request::GetMany { keyspace: keyspace.byte(), keys: keys.iter().map(|key| &**key).collect() };
        self.ask(Operation::Get, &request, |stream, mut message| {
            let mut values = Vec::with_capacity(keys.len());
            loop {
                let Response::Values { values: some, more } = answer(&message)? else { return Err(confused()) };
                let fits = |value: &Option<&[u8]>| value.is_none_or(|value| value.len() <= VALUE_BYTES_MAX);
                if some.len() > keys.len().saturating_sub(values.len()) || !some.iter().all(fits) {
                    return Err(confused());
                }
                values.extend(some.into_iter().map(|value| value.map(|value| message.slice_ref(value))));
                if !more {
                    break;
                }
                message = next(stream)?;
            }
            if values.len() == keys.len() { Ok(values) } else { Err(confused()) }
        })
    }

    fn scan_now(&self, scan: &Scan) -> Result<Page, StoreError> {
        scan.range.check_bounds()?;
        if scan.range.is_empty() {
            return Ok(Page::default());
        }
        let Limits { items, bytes } = scan.limits;
        let request = Request::Scan {
            keyspace: scan.keyspace.byte(),
            start: &scan.range.start,
            end: scan.range.end.as_deref(),
            backward: scan.direction == Direction::Backward,
            items: items.min(PAGE_ITEMS_MAX) as u64,
            bytes: bytes.min(PAGE_BYTES_MAX) as u64,
        };
        self.ask(Operation::Scan, &request, |_, message| {
            let Response::Page { items, next } = answer(&message)? else { return Err(confused()) };
            let own = |bytes: &[u8]| message.slice_ref(bytes);
            // A key out of place would make a reader go in circles.
            if items.len() > PAGE_ITEMS_MAX
                || items.iter().any(|(key, _)| !scan.range.contains(key))
                || next.is_some_and(|next| items.last().is_none_or(|(key, _)| *key != next))
            {
                return Err(confused());
            }
            let items = items.into_iter().map(|(key, value)| (own(key), own(value))).collect();
            Ok(Page { items, next: next.map(own) })
        })
    }

    fn describe_now(&self) -> Result<Description, StoreError> {
        self.ask(Operation::Describe, &Request::Describe, |_, message| {
            let Response::Description { engine, layout, size_on_disk } = answer(&message)? else {
                return Err(confused());
            };
            let engine = ENGINES.iter().find(|known| **known == engine).copied().unwrap_or("unknown");
            Ok(Description { engine, layout, size_on_disk })
        })
    }

    fn subscribe(&self, keyspace: Keyspace, prefix: &[u8]) -> Result<UnixStream, Trouble> {
        let mut stream = self.fresh()?;
        send(&mut stream, &Request::Watch { keyspace: keyspace.byte(), prefix })?;
        let message = next(&mut stream)?;
        match answer(&message)? {
            Response::Watching => Ok(stream),
            _ => Err(confused()),
        }
    }
}

impl Store for RemoteStore {
    fn commit(&self, batch: Batch) -> StoreFuture<'_, Committed> {
        Box::pin(async move {
            batch.check_bounds()?;
            Err(StoreError::ReadOnly)
        })
    }

    fn flush(&self) -> StoreFuture<'_, ()> {
        Box::pin(async { Ok(()) })
    }

    fn get_many<'a>(&'a self, keyspace: Keyspace, keys: &'a [Bytes]) -> StoreFuture<'a, Vec<Option<Bytes>>> {
        Box::pin(async move { self.get_many_now(keyspace, keys) })
    }

    fn scan(&self, scan: Scan) -> StoreFuture<'_, Page> {
        Box::pin(async move { self.scan_now(&scan) })
    }

    /// Subscribes over a connection of its own; if that can't be had, or when it is lost, the watch is `Closed`.
    fn watch(&self, keyspace: Keyspace, prefix: &[u8]) -> Watch {
        let watchers = Watchers::default();
        let watch = watchers.watch(keyspace, prefix);
        if let Ok(stream) = self.subscribe(keyspace, prefix) {
            let mut touch = Batch::new();
            touch.delete(keyspace, Bytes::copy_from_slice(prefix));
            // Without the thread the watch is closed.
            let _ =
                thread::Builder::new().name("live watch".to_owned()).spawn(move || pass_on(stream, &watchers, &touch));
        }
        watch
    }

    fn describe(&self) -> StoreFuture<'_, Description> {
        Box::pin(async move { self.describe_now() })
    }
}

impl fmt::Debug for RemoteStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RemoteStore").field("directory", &self.directory).finish_non_exhaustive()
    }
}

/// Tells the watches of the touches on the other side, until that or the last watch is gone.
fn pass_on(mut stream: UnixStream, watchers: &Watchers, touch: &Batch) {
    if stream.set_read_timeout(Some(WATCH_PAUSE)).is_err() {
        return;
    }
    let mut touches = [0; 64];
    while watchers.is_watched() {
        match stream.read(&mut touches) {
            Ok(0) => return,
            Ok(count) => {
                if touches.iter().take(count).any(|touch| *touch == TOUCHED) {
                    watchers.notify(touch);
                }
            }
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted
                ) => {}
            Err(_) => return,
        }
    }
}

/// Why a question has no answer.
enum Trouble {
    /// The store on the other side answered with an error.
    Store(StoreError),
    /// There is no answer, or none that makes sense.
    Remote(RemoteFailure),
}

impl Trouble {
    fn into_store_error(self, operation: Operation) -> StoreError {
        match self {
            Self::Store(error) => error,
            Self::Remote(failure) => StoreError::io(operation, Arc::new(failure)),
        }
    }
}

impl From<RemoteFailure> for Trouble {
    fn from(failure: RemoteFailure) -> Self {
        Self::Remote(failure)
    }
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Self {
        Self::Remote(match error.kind() {
            io::ErrorKind::InvalidData => RemoteFailure::Confused,
            _ => RemoteFailure::Gone { source: error },
        })
    }
}

/// Connects and greets, `None` if nobody is there.
fn connect(directory: &Path) -> Result<Option<UnixStream>, RemoteFailure> {
    let gone = |source| RemoteFailure::Gone { source };
    let Some(socket) = SocketPath::new(directory, SOCKET).map_err(gone)? else { return Ok(None) };
    let mut stream = match UnixStream::connect(&socket.path) {
        Ok(stream) => stream,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
            return Ok(None);
        }
        Err(error) => return Err(gone(error)),
    };
    stream.set_read_timeout(Some(ANSWER_TIMEOUT)).map_err(gone)?;
    stream.set_write_timeout(Some(ANSWER_TIMEOUT)).map_err(gone)?;
    let mut hello = [0; GREETING.len() + 1];
    // The other side speaks first: it may end the connection at once, and this tells why.
    match stream.read_exact(&mut hello) {
        // It was just about to end.
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        greeted => greeted.map_err(gone)?,
    }
    match hello.split_last() {
        Some((status, greeting)) if *greeting == GREETING => match *status {
            WELCOME => stream.write_all(&GREETING).map_err(gone)?,
            BUSY => return Err(RemoteFailure::Busy),
            _ => return Err(RemoteFailure::OtherVersion),
        },
        _ => return Err(RemoteFailure::OtherVersion),
    }
    Ok(Some(stream))
}

fn next(stream: &mut UnixStream) -> Result<Bytes, Trouble> {
    let message = receive(stream)?;
    let ended = || RemoteFailure::Gone { source: io::ErrorKind::UnexpectedEof.into() };
    Ok(message.ok_or_else(ended)?.into())
}

fn answer(message: &[u8]) -> Result<Response<'_>, Trouble> {
    match decode(message)? {
        Response::Failed(error) => Err(Trouble::Store(error.into())),
        answer => Ok(answer),
    }
}

fn confused() -> Trouble {
    RemoteFailure::Confused.into()
}

/// The engines that a process may have open.
const ENGINES: [&str; 4] = ["rocksdb", "sled", "memory", "postgres"];
/// How long the other process may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(120);
/// How often a watch looks whether it is still wanted.
const WATCH_PAUSE: Duration = Duration::from_secs(1);
