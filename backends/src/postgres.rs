//! The store in PostgreSQL: for who has outgrown one machine.
//!
//! Two tables, drawn in `docs/data-layout.md`. Only SQL that `CockroachDB` and `YugabyteDB` take too; what only PostgreSQL has
//! (NOTIFY, sizes, settings of the planner) is tried and done without where it is missing.
//!
//! All connections live on one thread with a runtime of its own, so the store works under any executor. There is one writer:
//! who opens the store takes it over, and the one before is refused from then on ([`StoreError::Overtaken`]), whatever it still
//! had under way. Commits that wait at the same time share one transaction. A lost connection is made again; what became of the
//! transaction under way is then read from the database, and only if that cannot be had in time it is
//! [`StoreError::OutcomeUnknown`]. If the server has lost what it acknowledged, the store takes no more commits
//! ([`StoreError::Halted`]).

use std::{
    fmt,
    sync::{Arc, mpsc},
    thread::{self, JoinHandle},
    time::Duration,
};

use bytes::Bytes;
use ravel_store::{
    Batch, Committed, Description, Keyspace, Operation, Page, Scan, Store, StoreError, StoreFuture, Watch, check_keys,
    watch::Watchers,
};
use tokio::{
    runtime::{self, Handle},
    sync::{
        mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
        oneshot,
    },
    time::Instant,
};

use crate::queue_bound::{COMMIT_QUEUE_BYTES, QueueBound};

use self::{
    listener::Listener,
    reader::Readers,
    server::{Server, until},
    writer::{Request, Writer},
};

mod group;
mod listener;
mod notice;
mod reader;
mod schema;
mod server;
#[cfg(all(unix, any(test, feature = "testing")))]
pub mod testing;
mod writer;

/// Name of the engine.
pub const ENGINE: &str = "postgres";

/// What a store is opened for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Access {
    /// Reads and writes; who wrote until now is refused from then on. Makes the tables in an empty schema.
    #[default]
    Write,
    /// Reads beside whoever writes; changes nothing.
    Read,
}

/// How the store uses its database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PostgresOptions {
    /// What it is opened for.
    pub access: Access,
    /// Most connections for reading; each is used by many reads at once. Two more are for commits and for listening.
    pub read_connections: usize,
    /// How long what is under way waits for a lost connection to be made again.
    pub patience: Duration,
    /// How long a server may take to answer; then the connection counts as lost, though nobody ended it, and is replaced. With
    /// `patience` after it, this is the longest that anything takes, as no transaction is larger than 64 MiB.
    pub answer_limit: Duration,
    /// Bytes of batches that may wait to be committed, see "Back-pressure" of [`Store`].
    pub commit_queue_bytes: usize,
}

impl Default for PostgresOptions {
    /// For writing, 4 connections for reading, 30 seconds each, 64 MiB.
    fn default() -> Self {
        Self {
            access: Access::Write,
            read_connections: 4,
            patience: Duration::from_secs(30),
            answer_limit: Duration::from_secs(30),
            commit_queue_bytes: COMMIT_QUEUE_BYTES,
        }
    }
}

/// A store in a schema of a PostgreSQL database.
pub struct PostgresStore {
    /// `None` while it is dropped.
    requests: Option<UnboundedSender<Request>>,
    bound: QueueBound,
    thread: Option<JoinHandle<()>>,
    runtime: Handle,
    readers: Arc<Readers>,
    watchers: Arc<Watchers>,
    layout: u32,
}

impl PostgresStore {
    /// Opens the store in the first schema of the connection's search path (usually `public`); makes it if that is empty.
    ///
    /// `url` is a connection string as libpq takes them, such as `postgres://user@host/database?sslmode=require`. TLS checks the
    /// server's name and certificate, whenever the server offers it, unless `sslmode=disable`.
    ///
    /// # Errors
    /// `Foreign`, `NewerFormat`, and then nothing was touched; `Io`, also for a server that runs without `fsync`.
    pub fn open(url: &str, options: &PostgresOptions) -> Result<Self, StoreError> {
        let server = Arc::new(Server::new(url, options)?);
        let bound = QueueBound::new(options.commit_queue_bytes);
        let watchers = Arc::new(Watchers::default());
        let (requests, asked) = unbounded_channel();
        let (opened_sender, opened) = mpsc::channel();
        let (options, for_thread) = (*options, Arc::clone(&watchers));
        let thread = thread::Builder::new()
            .name(ENGINE.to_owned())
            .spawn(move || {
                let runtime = match runtime::Builder::new_current_thread().enable_all().build() {
                    Ok(runtime) => runtime,
                    Err(error) => return drop(opened_sender.send(Err(StoreError::from_io(Operation::Open, error)))),
                };
                runtime.block_on(async {
                    let limit = Instant::now() + options.answer_limit;
                    match until(limit, Operation::Open, open(server, options, for_thread)).await {
                        Ok((opened, writer)) => {
                            // Who gave up waiting drops the requests, too.
                            let _ = opened_sender.send(Ok(opened));
                            match writer {
                                Some(writer) => writer.run(asked).await,
                                None => refuse(asked).await,
                            }
                        }
                        Err(error) => drop(opened_sender.send(Err(error))),
                    }
                });
            })
            .map_err(|error| StoreError::from_io(Operation::Open, error))?;
        let Opened { runtime, readers, layout } = opened.recv().map_err(|_| StoreError::Closed)??;
        Ok(Self { requests: Some(requests), bound, thread: Some(thread), runtime, readers, watchers, layout })
    }

    async fn ask<T>(
        &self,
        request: impl FnOnce(oneshot::Sender<Result<T, StoreError>>) -> Request,
    ) -> Result<T, StoreError> {
        let (reply, answer) = oneshot::channel();
        let requests = self.requests.as_ref().ok_or(StoreError::Closed)?;
        requests.send(request(reply)).map_err(|_| StoreError::Closed)?;
        answer.await.map_err(|_| StoreError::Closed)?
    }

    /// Runs a read on the store's thread.
    async fn read<T: Send + 'static>(
        &self,
        read: impl Future<Output = Result<T, StoreError>> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.runtime.spawn(read).await.unwrap_or(Err(StoreError::Closed))
    }
}

impl Store for PostgresStore {
    fn commit(&self, batch: Batch) -> StoreFuture<'_, Committed> {
        Box::pin(async move {
            batch.check_bounds()?;
            let place = self.bound.enter(&batch).await?;
            self.ask(|reply| Request::Commit(batch, place, reply)).await
        })
    }

    fn flush(&self) -> StoreFuture<'_, ()> {
        Box::pin(self.ask(Request::Flush))
    }

    fn get_many<'a>(&'a self, keyspace: Keyspace, keys: &'a [Bytes]) -> StoreFuture<'a, Vec<Option<Bytes>>> {
        Box::pin(async move {
            check_keys(keys)?;
            let (readers, keys) = (Arc::clone(&self.readers), keys.to_vec());
            self.read(async move { readers.get_many(keyspace, keys).await }).await
        })
    }

    fn scan(&self, scan: Scan) -> StoreFuture<'_, Page> {
        Box::pin(async move {
            scan.range.check_bounds()?;
            let readers = Arc::clone(&self.readers);
            self.read(async move { readers.page(&scan).await }).await
        })
    }

    fn watch(&self, keyspace: Keyspace, prefix: &[u8]) -> Watch {
        self.watchers.watch(keyspace, prefix)
    }

    fn describe(&self) -> StoreFuture<'_, Description> {
        Box::pin(async move {
            let readers = Arc::clone(&self.readers);
            let size_on_disk = self.read(async move { readers.size_on_disk().await }).await?;
            Ok(Description { engine: ENGINE, layout: Some(self.layout), size_on_disk })
        })
    }
}

impl fmt::Debug for PostgresStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresStore").field("layout", &self.layout).finish_non_exhaustive()
    }
}

impl Drop for PostgresStore {
    /// Commits what is queued, then closes the connections.
    fn drop(&mut self) {
        drop(self.requests.take());
        if let Some(thread) = self.thread.take() {
            // There is nobody to tell of a panic here.
            let _ = thread.join();
        }
    }
}

struct Opened {
    runtime: Handle,
    readers: Arc<Readers>,
    layout: u32,
}

async fn open(
    server: Arc<Server>,
    options: PostgresOptions,
    watchers: Arc<Watchers>,
) -> Result<(Opened, Option<Writer>), StoreError> {
    // No waiting for a server that is not there: who opens the store wants to know.
    let now = Instant::now();
    let connected = server.connect(now, Operation::Open, None).await?;
    let layout = schema::open(&connected.client, &server.name(), options.access == Access::Write).await?;
    let listener = Listener::connect(Arc::clone(&server), now).await?;
    let channel = listener.channel().map(str::to_owned);
    let writer = match options.access {
        Access::Write => Some(Writer::take_over(Arc::clone(&server), connected, Arc::clone(&watchers), channel).await?),
        Access::Read => None,
    };
    tokio::spawn(listener.run(watchers, writer.as_ref().map(Writer::epoch)));
    let readers = Arc::new(Readers::new(server, options.read_connections));
    Ok((Opened { runtime: Handle::current(), readers, layout }, writer))
}

/// Answers what is asked of a store that is opened for reading.
async fn refuse(mut requests: UnboundedReceiver<Request>) {
    while let Some(request) = requests.recv().await {
        // Who dropped the future does not want to know.
        match request {
            Request::Commit(.., reply) => drop(reply.send(Err(StoreError::ReadOnly))),
            Request::Flush(reply) => drop(reply.send(Ok(()))),
        }
    }
}

#[cfg(test)]
mod tests;
