//! The one task that commits: groups of batches in one transaction, fenced against other writers.
//!
//! The marker's row counts the openings of the store (`epoch`), the connections of the latest opening (`session`) and its
//! commits ever (`commits`). Each transaction raises `commits` where epoch and session are its own; if no such row is there,
//! another opened the store later, and nothing is written. After a lost connection the next one first raises `session`. From
//! then on nothing that the lost connection sent can be written any more, so `commits` tells for good whether it was.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use ravel_store::{Batch, Committed, Durability, Keyspace, Operation, StoreError, watch::Watchers};
use tokio::{
    sync::{mpsc::UnboundedReceiver, oneshot},
    time::{Instant, sleep, timeout_at},
};
use tokio_postgres::{Client, Statement, types::ToSql};

use crate::queue_bound::QueuePlace;

use super::{
    group::{Effect, KnownGuarded, Place, decide, guarded_keys},
    notice,
    reader::{BEHIND_ALL_KEYS, GET},
    server::{Connected, Link, Position, Server, get, is_behind, is_conflict, is_lost, store_error, timeline, until},
};

/// What the task is asked for.
pub(super) enum Request {
    Commit(Batch, QueuePlace, oneshot::Sender<Result<Committed, StoreError>>),
    Flush(oneshot::Sender<Result<(), StoreError>>),
}

impl Request {
    fn batch(&self) -> Option<&Batch> {
        match self {
            Self::Commit(batch, ..) => Some(batch),
            Self::Flush(_) => None,
        }
    }

    fn wants_sync(&self) -> bool {
        self.batch().is_none_or(|batch| batch.wanted_durability() == Durability::Sync)
    }

    fn size_bytes(&self) -> usize {
        self.batch().map_or(0, Batch::size_bytes)
    }
}

pub(super) struct Writer {
    server: Arc<Server>,
    watchers: Arc<Watchers>,
    /// Where other processes listen, `None` if the server has no NOTIFY.
    channel: Option<String>,
    epoch: i64,
    /// `None` after a connection was lost.
    session: Option<Session>,
    /// The count of commits as of the last one whose outcome is known.
    commits: i64,
    /// Whether the transaction after that may have been written.
    in_doubt: bool,
    /// Whether commits were acknowledged that a crash of the server may take.
    unflushed: bool,
    known: KnownGuarded,
    /// Why nothing is committed any more.
    ended: Option<StoreError>,
}

struct Session {
    client: Client,
    link: Link,
    number: i64,
    relaxes: bool,
    fence: Statement,
    get: Statement,
    delete: Statement,
    delete_range: Statement,
    put: Statement,
    /// Fence, look-up of what must not be there, put and notify in one.
    write_at_once: Statement,
    /// Tells a channel, `None` if the server has no NOTIFY.
    notify: Option<Statement>,
}

/// Why a transaction came to nothing, or may have.
enum Failure {
    /// Nothing was written, and nothing will be.
    Failed(StoreError),
    /// Nothing was written; it may be if it is tried again.
    Conflict(StoreError),
    /// The connection is gone. If the end of the transaction was sent, it may have been written, with these outcomes.
    Lost { error: StoreError, sent: Option<Vec<Committed>> },
    /// Somebody else opened the store.
    Overtaken,
    /// The count of commits is not what it was.
    Halted,
}

impl Failure {
    fn of(error: tokio_postgres::Error) -> Self {
        if is_lost(&error) {
            Self::Lost { error: store_error(Operation::Commit, error), sent: None }
        } else if is_conflict(&error) {
            Self::Conflict(store_error(Operation::Commit, error))
        } else {
            Self::Failed(store_error(Operation::Commit, error))
        }
    }
}

impl Writer {
    /// Takes the store over from whoever wrote to it.
    ///
    /// # Errors
    /// `Io`.
    pub(super) async fn take_over(
        server: Arc<Server>,
        connected: Connected,
        watchers: Arc<Watchers>,
        channel: Option<String>,
    ) -> Result<Self, StoreError> {
        let take = "UPDATE ravel_store SET epoch = epoch + 1, session = 0 WHERE id = 1 RETURNING epoch, commits";
        let mut conflicts = 0;
        let row = loop {
            match connected.client.query_one(take, &[]).await {
                Ok(row) => break row,
                Err(error) if is_conflict(&error) && conflicts < CONFLICTS_MAX => {
                    conflicts += 1;
                    sleep(CONFLICT_PAUSE * conflicts).await;
                }
                Err(error) => return Err(store_error(Operation::Open, error)),
            }
        };
        if connected.link.was_warned() {
            return Err(StoreError::io(Operation::Open, Arc::new(NotReplicated)));
        }
        let (epoch, commits) = (get(&row, 0, Operation::Open)?, get(&row, 1, Operation::Open)?);
        let timeline = timeline(&connected.client).await.map_err(|error| store_error(Operation::Open, error))?;
        server.saw(Position { timeline, epoch, commits });
        let session = Session::prepare(connected, 0, channel.is_some())
            .await
            .map_err(|error| store_error(Operation::Open, error))?;
        Ok(Self {
            server,
            watchers,
            channel,
            epoch,
            session: Some(session),
            commits,
            in_doubt: false,
            unflushed: false,
            known: KnownGuarded::default(),
            ended: None,
        })
    }

    pub(super) fn epoch(&self) -> i64 {
        self.epoch
    }

    /// Commits what is asked for until nobody can ask any more; what waits meanwhile is in the next transaction together.
    pub(super) async fn run(mut self, mut requests: UnboundedReceiver<Request>) {
        // Who waited for the last transaction soon asks for the next one: as many are waited for, but not for long. Else the first
        // of them would have a transaction alone, and the others wait for two.
        let mut expected = 1;
        while let Some(first) = requests.recv().await {
            let mut size_bytes = first.size_bytes();
            let mut group = vec![first];
            let deadline = Instant::now() + GATHER_MAX;
            while group.len() < GROUP_REQUESTS_MAX && size_bytes < GROUP_BYTES_MAX {
                let request = match requests.try_recv() {
                    Ok(request) => request,
                    Err(_) if group.len() < expected => match timeout_at(deadline, requests.recv()).await {
                        Ok(Some(request)) => request,
                        _ => break,
                    },
                    Err(_) => break,
                };
                size_bytes = size_bytes.saturating_add(request.size_bytes());
                group.push(request);
            }
            expected = group.len();
            let outcomes = self.commit(&group).await;
            self.answer(group, outcomes);
        }
    }

    fn answer(&self, group: Vec<Request>, outcomes: Result<Vec<Committed>, StoreError>) {
        let mut outcomes = outcomes.map(Vec::into_iter);
        for request in group {
            match request {
                Request::Commit(batch, place, reply) => {
                    let outcome = match &mut outcomes {
                        // There is one for each batch.
                        Ok(outcomes) => outcomes.next().ok_or(StoreError::Halted),
                        Err(error) => Err(error.clone()),
                    };
                    if outcome.as_ref().is_ok_and(Committed::is_written) {
                        self.watchers.notify(&batch);
                    }
                    drop((batch, place));
                    // Who dropped the future does not want to know.
                    let _ = reply.send(outcome);
                }
                Request::Flush(reply) => {
                    let _ = reply.send(outcomes.as_ref().map(|_| ()).map_err(StoreError::clone));
                }
            }
        }
    }

    /// Commits a group; after a lost connection or a conflict as often as it takes, as nothing of it was written then.
    async fn commit(&mut self, group: &[Request]) -> Result<Vec<Committed>, StoreError> {
        // Until when it is tried again after a connection was lost.
        let mut retried_until = None;
        let mut conflicts = 0;
        loop {
            self.connect(retried_until.unwrap_or_else(|| self.server.deadline())).await?;
            let limit = self.server.answer_deadline();
            match self.attempt(group, retried_until.map_or(limit, |deadline| limit.min(deadline))).await {
                Ok(outcomes) => return Ok(outcomes),
                Err(Failure::Failed(error)) => {
                    self.roll_back().await;
                    return Err(error);
                }
                Err(Failure::Conflict(error)) => {
                    self.roll_back().await;
                    conflicts += 1;
                    if conflicts > CONFLICTS_MAX {
                        return Err(error);
                    }
                    sleep(CONFLICT_PAUSE * conflicts).await;
                }
                Err(Failure::Overtaken) => {
                    self.roll_back().await;
                    return Err(self.end(self.overtaken()));
                }
                Err(Failure::Halted) => {
                    self.roll_back().await;
                    return Err(self.end(StoreError::Halted));
                }
                Err(Failure::Lost { error, sent }) => {
                    self.session = None;
                    self.in_doubt = sent.is_some();
                    let deadline = *retried_until.get_or_insert_with(|| self.server.deadline());
                    let before = self.commits;
                    let connected = self.connect(deadline).await;
                    match (connected, sent) {
                        (Ok(()), Some(outcomes)) if self.commits > before => return Ok(outcomes),
                        // It was not written, and never will be.
                        (Ok(()), _) => {}
                        (Err(source), Some(_)) => return Err(StoreError::OutcomeUnknown { source: Arc::new(source) }),
                        (Err(_), None) => return Err(self.ended.clone().unwrap_or(error)),
                    }
                    if Instant::now() >= deadline {
                        return Err(error);
                    }
                }
            }
        }
    }

    /// Makes a connection if there is none, and finds out what became of the transaction in doubt.
    ///
    /// # Errors
    /// `Overtaken`, `Halted`; `Io` if no connection can be made for some time.
    async fn connect(&mut self, deadline: Instant) -> Result<(), StoreError> {
        if let Some(ended) = &self.ended {
            return Err(ended.clone());
        }
        if self.session.as_ref().is_some_and(|session| !session.client.is_closed()) {
            return Ok(());
        }
        self.session = None;
        let (session, commits) = match until(deadline, Operation::Commit, self.new_session(deadline)).await {
            Ok(Some(connected)) => connected,
            Ok(None) => return Err(self.end(self.overtaken())),
            // It lost what was acknowledged: what was not flushed, or more.
            Err(error) if is_behind(&error) => return Err(self.end(StoreError::Halted)),
            Err(error) => return Err(error),
        };
        if commits == self.commits + 1 && self.in_doubt {
            self.commits = commits;
        } else if commits != self.commits {
            // Somebody else wrote to it as if he were this store.
            return Err(self.end(StoreError::Halted));
        }
        self.saw();
        self.in_doubt = false;
        // That the session's number was raised is on the server's disk, and all before it.
        self.unflushed = false;
        self.session = Some(session);
        Ok(())
    }

    /// Connects and shuts all earlier connections of this store out; returns the count of commits, `None` if overtaken.
    async fn new_session(&self, deadline: Instant) -> Result<Option<(Session, i64)>, StoreError> {
        let raise =
            "UPDATE ravel_store SET session = session + 1 WHERE id = 1 AND epoch = $1 RETURNING session, commits";
        loop {
            let connected = self.server.connect(deadline, Operation::Commit, None).await?;
            let raised = async {
                let Some(row) = connected.client.query_opt(raise, &[&self.epoch]).await? else { return Ok(None) };
                if connected.link.was_warned() {
                    return Ok(Some(None));
                }
                let (number, commits) = (row.try_get(0)?, row.try_get(1)?);
                Ok(Some(Some((Session::prepare(connected, number, self.channel.is_some()).await?, commits))))
            };
            match raised.await {
                Ok(None) => return Ok(None),
                Ok(Some(Some(raised))) => return Ok(Some(raised)),
                // Not replicated, so raised once more, which does no harm.
                Ok(Some(None)) => sleep(CONFLICT_PAUSE).await,
                Err(error) if is_lost(&error) || is_conflict(&error) => sleep(CONFLICT_PAUSE).await,
                Err(error) => return Err(store_error(Operation::Commit, error)),
            }
        }
    }

    /// Commits a group in one transaction.
    async fn attempt(&mut self, group: &[Request], limit: Instant) -> Result<Vec<Committed>, Failure> {
        let Some(session) = &self.session else { return Err(Failure::Failed(StoreError::Closed)) };
        let link = session.link.clone();
        let attempted = link.within(limit, async {
            match self.write_at_once(group).await? {
                Some(outcomes) => Ok(outcomes),
                None => self.transact(group).await,
            }
        });
        let attempted = attempted.await;
        if attempted.is_err() {
            self.known.forget();
        }
        attempted
    }

    /// Commits a group in one statement and one round trip, if the statement can say all that is to be done, and what its guards ask
    /// for is known, or in one keyspace: then nothing is taken to be stored under these keys, which the statement makes sure of.
    ///
    /// Returns `None` if it can't, or if the fence did not hold or something was stored; then nothing was written.
    async fn write_at_once(&mut self, group: &[Request]) -> Result<Option<Vec<Committed>>, Failure> {
        let Some(session) = &self.session else { return Ok(None) };
        let batches = || group.iter().filter_map(Request::batch);
        if !group.iter().any(Request::wants_sync) {
            return Ok(None);
        }
        let keys = guarded_keys(batches());
        let (stored, mut unknown) = self.known.stored(&keys);
        let absent = unknown.pop_first();
        if !unknown.is_empty() {
            return Ok(None);
        }
        let (outcomes, effect) = decide(batches(), &stored).map_err(Failure::Failed)?;
        let Some(rows) = Rows::of(&effect) else { return Ok(None) };
        let payload = self.channel.as_ref().map(|_| notice::encode(self.epoch, &effect));
        let absent_in = absent.as_ref().map_or(0, |(keyspace, _)| i16::from(keyspace.byte()));
        let absent: Vec<&[u8]> = absent.iter().flat_map(|(_, keys)| keys).map(|key| &**key).collect();
        let mut parameters: Vec<&(dyn ToSql + Sync)> = vec![
            &self.epoch,
            &session.number,
            &self.commits,
            &absent_in,
            &absent,
            &rows.keyspaces,
            &rows.keys,
            &rows.values,
        ];
        if let (Some(channel), Some(payload)) = (&self.channel, &payload) {
            parameters.extend([channel as &(dyn ToSql + Sync), payload]);
        }
        session.link.was_warned();
        let answer = session.client.query_opt(&session.write_at_once, &parameters).await.map_err(Failure::of);
        let answer = match answer {
            Ok(_) if session.link.was_warned() => {
                Err(Failure::Lost { error: StoreError::io(Operation::Commit, Arc::new(NotReplicated)), sent: None })
            }
            answer => answer,
        };
        match answer {
            Ok(None) => Ok(None),
            Ok(Some(_)) => {
                self.known.learn(&keys, stored, &effect);
                self.commits += 1;
                self.saw();
                self.unflushed = false;
                Ok(Some(outcomes))
            }
            // It may have been written.
            Err(Failure::Lost { error, .. }) => Err(Failure::Lost { error, sent: Some(outcomes) }),
            Err(failure) => Err(failure),
        }
    }

    /// Commits a group in two round trips, or one if nothing is written.
    async fn transact(&mut self, group: &[Request]) -> Result<Vec<Committed>, Failure> {
        let Some(session) = &self.session else { return Err(Failure::Failed(StoreError::Closed)) };
        let sync = group.iter().any(Request::wants_sync) || !session.relaxes;
        let batches = || group.iter().filter_map(Request::batch);
        let (commits, stored) = session.begin(sync, self.epoch, batches()).await?;
        match commits {
            // A connection of ours that was given up may have raised the session's number late.
            None if session.is_latest_epoch(self.epoch).await? => {
                let error =
                    StoreError::io(Operation::Commit, Arc::new(io::Error::from(io::ErrorKind::ConnectionReset)));
                return Err(Failure::Lost { error, sent: None });
            }
            None => return Err(Failure::Overtaken),
            Some(commits) if commits != self.commits + 1 => return Err(Failure::Halted),
            Some(_) => {}
        }
        let (outcomes, effect) = decide(batches(), &stored).map_err(Failure::Failed)?;
        if effect.is_empty() && !(sync && self.unflushed) {
            session.client.batch_execute("ROLLBACK").await.map_err(Failure::of)?;
            return Ok(outcomes);
        }
        let notice = self.channel.as_deref().map(|channel| (channel, notice::encode(self.epoch, &effect)));
        self.unflushed |= !sync;
        match session.write(&effect, notice.as_ref()).await {
            Ok(()) => {
                self.known.learn(&guarded_keys(batches()), stored, &effect);
                self.commits += 1;
                self.saw();
                self.unflushed &= !sync;
                Ok(outcomes)
            }
            Err(Failure::Lost { error, sent }) => Err(Failure::Lost { error, sent: sent.map(|_| outcomes) }),
            Err(failure) => Err(failure),
        }
    }

    async fn roll_back(&mut self) {
        let limit = self.server.answer_deadline();
        if let Some(session) = &self.session
            && session.link.within(limit, session.client.batch_execute("ROLLBACK")).await.is_err()
        {
            self.session = None;
        }
    }

    /// Keeps all connections of this store from servers that do not have its commits.
    fn saw(&self) {
        self.server.saw(Position { timeline: 0, epoch: self.epoch, commits: self.commits });
    }

    fn overtaken(&self) -> StoreError {
        StoreError::Overtaken { epoch: u64::try_from(self.epoch).unwrap_or(0) }
    }

    fn end(&mut self, error: StoreError) -> StoreError {
        self.session = None;
        self.ended = Some(error.clone());
        error
    }
}

impl Session {
    async fn prepare(connected: Connected, number: i64, notifies: bool) -> Result<Self, tokio_postgres::Error> {
        let Connected { client, link, relaxes } = connected;
        let fence = "UPDATE ravel_store SET commits = commits + 1 WHERE id = 1 AND epoch = $1 AND session = $2 RETURNING commits";
        let put = "INSERT INTO ravel_items (keyspace, key, value)
            SELECT * FROM unnest($1::smallint[], $2::bytea[], $3::bytea[])
            ON CONFLICT (keyspace, key) DO UPDATE SET value = excluded.value";
        // Nothing of it is done unless the fence holds and nothing is stored where nothing is to be. What others write raises the
        // count of commits: if it is as it was, the statement has seen all that is stored.
        let fenced_put = format!(
            "WITH fence AS (
                UPDATE ravel_store SET commits = commits + 1
                WHERE id = 1 AND epoch = $1 AND session = $2 AND commits = $3
                    AND NOT EXISTS (SELECT 1 FROM ravel_items WHERE keyspace = $4 AND key = ANY($5))
                RETURNING commits
            ), put AS (
                INSERT INTO ravel_items (keyspace, key, value)
                SELECT item.keyspace, item.key, item.value
                FROM fence, unnest($6::smallint[], $7::bytea[], $8::bytea[]) AS item(keyspace, key, value)
                ON CONFLICT (keyspace, key) DO UPDATE SET value = excluded.value
            )
            SELECT commits{} FROM fence",
            if notifies { ", pg_notify($9, $10)::text" } else { "" }
        );
        Ok(Self {
            write_at_once: client.prepare(&fenced_put).await?,
            fence: client.prepare(fence).await?,
            get: client.prepare(GET).await?,
            delete: client.prepare("DELETE FROM ravel_items WHERE keyspace = $1 AND key = ANY($2)").await?,
            delete_range: client
                .prepare("DELETE FROM ravel_items WHERE keyspace = $1 AND key >= $2 AND key < $3")
                .await?,
            put: client.prepare(put).await?,
            notify: if notifies { Some(client.prepare("SELECT pg_notify($1, $2)").await?) } else { None },
            client,
            link,
            number,
            relaxes,
        })
    }

    /// Begins a transaction: the count of commits with this one, `None` if overtaken, and what the guards ask for.
    async fn begin<'a>(
        &self,
        sync: bool,
        epoch: i64,
        batches: impl Iterator<Item = &'a Batch>,
    ) -> Result<(Option<i64>, BTreeMap<Place, Bytes>), Failure> {
        let mut guarded = guarded_keys(batches).into_iter();
        let first = guarded.next();
        let begin = if sync { "BEGIN" } else { "BEGIN; SET LOCAL synchronous_commit TO off" };
        let fence: [&(dyn ToSql + Sync); 2] = [&epoch, &self.number];
        // All three are sent before the first is answered. What the guards ask for is read after the row is locked.
        let (begun, fenced, stored_first) =
            tokio::join!(self.client.batch_execute(begin), self.client.query_opt(&self.fence, &fence), async {
                match &first {
                    Some((keyspace, keys)) => self.get(*keyspace, keys).await,
                    None => Ok(Vec::new()),
                }
            },);
        begun.map_err(Failure::of)?;
        let commits = match fenced.map_err(Failure::of)? {
            Some(row) => Some(row.try_get(0).map_err(Failure::of)?),
            None => None,
        };
        let mut stored: BTreeMap<_, _> = stored_first.map_err(Failure::of)?.into_iter().collect();
        for (keyspace, keys) in guarded {
            stored.extend(self.get(keyspace, &keys).await.map_err(Failure::of)?);
        }
        Ok((commits, stored))
    }

    async fn is_latest_epoch(&self, epoch: i64) -> Result<bool, Failure> {
        let asked = self.client.query_one("SELECT epoch FROM ravel_store WHERE id = 1", &[]).await;
        Ok(asked.and_then(|row| row.try_get::<_, i64>(0)).map_err(Failure::of)? == epoch)
    }

    async fn get(
        &self,
        keyspace: Keyspace,
        keys: &BTreeSet<Bytes>,
    ) -> Result<Vec<(Place, Bytes)>, tokio_postgres::Error> {
        let keys: Vec<&[u8]> = keys.iter().map(|key| &**key).collect();
        let rows = self.client.query(&self.get, &[&i16::from(keyspace.byte()), &keys]).await?;
        rows.iter()
            .map(|row| {
                let (key, value): (&[u8], &[u8]) = (row.try_get(0)?, row.try_get(1)?);
                Ok(((keyspace, Bytes::copy_from_slice(key)), Bytes::copy_from_slice(value)))
            })
            .collect()
    }

    /// Writes an effect, tells of it, and commits. `Lost` has outcomes (none, though) if the end of the transaction was sent.
    async fn write(&self, effect: &Effect, notice: Option<&(&str, String)>) -> Result<(), Failure> {
        for (keyspace, range) in &effect.ranges {
            let end = range.end.as_deref().unwrap_or(&BEHIND_ALL_KEYS);
            let parameters: [&(dyn ToSql + Sync); 3] = [&i16::from(keyspace.byte()), &&*range.start, &end];
            self.client.execute(&self.delete_range, &parameters).await.map_err(Failure::of)?;
        }
        let mut deleted = BTreeMap::<Keyspace, Vec<&[u8]>>::new();
        let mut rows = Rows::default();
        for ((keyspace, key), value) in &effect.points {
            let Some(value) = value else {
                deleted.entry(*keyspace).or_default().push(key);
                continue;
            };
            if rows.bytes >= STATEMENT_BYTES_MAX {
                self.put(&rows).await.map_err(Failure::of)?;
                rows = Rows::default();
            }
            rows.push(*keyspace, key, value);
        }
        for (keyspace, keys) in deleted {
            let parameters: [&(dyn ToSql + Sync); 2] = [&i16::from(keyspace.byte()), &keys];
            self.client.execute(&self.delete, &parameters).await.map_err(Failure::of)?;
        }
        // What was warned of until now has nothing to do with the end of this transaction.
        self.link.was_warned();
        // All three are sent before the first is answered: if one fails, the transaction is aborted, and COMMIT ends it without
        // effect.
        let (put, told, committed) = tokio::join!(
            self.put(&rows),
            async {
                if let (Some((channel, payload)), Some(notify)) = (notice, &self.notify) {
                    self.client.execute(notify, &[channel, payload]).await?;
                }
                Ok(())
            },
            self.client.batch_execute("COMMIT"),
        );
        for result in [put, told, committed] {
            result.map_err(|error| match Failure::of(error) {
                Failure::Lost { error, .. } => Failure::Lost { error, sent: Some(Vec::new()) },
                failure => failure,
            })?;
        }
        if self.link.was_warned() {
            // Committed here, but not on the standby: that it gets there is found out like after a lost connection.
            let error = StoreError::io(Operation::Commit, Arc::new(NotReplicated));
            return Err(Failure::Lost { error, sent: Some(Vec::new()) });
        }
        Ok(())
    }

    async fn put(&self, rows: &Rows<'_>) -> Result<(), tokio_postgres::Error> {
        if !rows.keys.is_empty() {
            self.client.execute(&self.put, &[&rows.keyspaces, &rows.keys, &rows.values]).await?;
        }
        Ok(())
    }
}

/// A commit was acknowledged with a warning.
#[derive(Debug, thiserror::Error)]
#[error("the server was made to acknowledge a commit that is not on its standby yet")]
struct NotReplicated;

#[derive(Default)]
struct Rows<'a> {
    keyspaces: Vec<i16>,
    keys: Vec<&'a [u8]>,
    values: Vec<&'a [u8]>,
    bytes: usize,
}

impl<'a> Rows<'a> {
    /// Returns all that an effect does, `None` if it is nothing, or not only rows that are put, or more than one statement takes.
    fn of(effect: &'a Effect) -> Option<Self> {
        if effect.points.is_empty() || !effect.ranges.is_empty() {
            return None;
        }
        let mut rows = Self::default();
        for ((keyspace, key), value) in &effect.points {
            rows.push(*keyspace, key, value.as_ref()?);
        }
        (rows.bytes <= STATEMENT_BYTES_MAX).then_some(rows)
    }

    fn push(&mut self, keyspace: Keyspace, key: &'a [u8], value: &'a [u8]) {
        self.keyspaces.push(i16::from(keyspace.byte()));
        self.keys.push(key);
        self.values.push(value);
        self.bytes += key.len() + value.len();
    }
}

/// How long a transaction waits for those that were in the last one.
const GATHER_MAX: Duration = Duration::from_millis(1);
/// Most requests in one transaction.
const GROUP_REQUESTS_MAX: usize = 1024;
/// A transaction takes no further request once it holds this much.
const GROUP_BYTES_MAX: usize = 16 * 1024 * 1024;
/// A statement takes no further row once it holds this much, as some servers take no larger messages than 16 MiB.
const STATEMENT_BYTES_MAX: usize = 4 * 1024 * 1024;
/// How often a transaction is tried again that collided with another.
const CONFLICTS_MAX: u32 = 20;
/// The first pause after a collision; each is longer by as much.
const CONFLICT_PAUSE: Duration = Duration::from_millis(5);
