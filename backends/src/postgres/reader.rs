//! Look-ups and pages: a few connections, each used by many reads at once, made again when they are lost.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use ravel_store::{
    Direction, KEY_BYTES_MAX, Keyspace, Operation, PAGE_BYTES_MAX, PAGE_ITEMS_MAX, Page, PageBuilder, Scan, StoreError,
};
use tokio::{
    sync::Mutex,
    time::{Instant, sleep},
};
use tokio_postgres::{
    Client, Row, Statement,
    types::{ToSql, Type},
};

use super::server::{Connected, Link, Server, get, is_conflict, is_lost, store_error, until};

/// The connections for reading.
pub(super) struct Readers {
    server: Arc<Server>,
    sessions: Vec<Slot>,
    next: AtomicUsize,
}

/// A connection, or none yet.
type Slot = Mutex<Option<Arc<Session>>>;

struct Session {
    client: Client,
    link: Link,
    get_one: Statement,
    forward: Statement,
    backward: Statement,
}

/// A statement that reads the values of keys of one keyspace.
pub(super) const GET: &str = "SELECT key, value FROM ravel_items WHERE keyspace = $1 AND key = ANY($2)";

/// What is read.
#[derive(Debug, Clone, Copy)]
enum Query {
    GetOne,
    Get,
    Page(Direction),
}

/// A statement that reads the value of one key.
const GET_ONE: &str = "SELECT value FROM ravel_items WHERE keyspace = $1 AND key = $2";

/// A page: its items (one always fits), and the next that does not fit. The sizes of values are known without reading them.
fn page_sql(order: &str) -> String {
    format!(
        "SELECT key, value FROM (
            SELECT key, value, row_number() OVER (ORDER BY key {order}) AS place,
                sum(octet_length(key) + octet_length(value)) OVER (ORDER BY key {order}) AS bytes
            FROM (
                SELECT key, value FROM ravel_items WHERE keyspace = $1 AND key >= $2 AND key < $3
                ORDER BY key {order} LIMIT $4
            ) AS items
        ) AS sized
        WHERE place <= 2 OR bytes - octet_length(key) - octet_length(value) <= $5
        ORDER BY key {order}"
    )
}

impl Readers {
    /// Makes no connection yet.
    pub(super) fn new(server: Arc<Server>, connections: usize) -> Self {
        let sessions = (0..connections.max(1)).map(|_| Mutex::default()).collect();
        Self { server, sessions, next: AtomicUsize::new(0) }
    }

    /// Looks up keys, in their order.
    ///
    /// # Errors
    /// `Io`, `Corrupt`.
    pub(super) async fn get_many(
        &self,
        keyspace: Keyspace,
        keys: Vec<Bytes>,
    ) -> Result<Vec<Option<Bytes>>, StoreError> {
        let keyspace = i16::from(keyspace.byte());
        let failed = |error| store_error(Operation::Get, error);
        if let [key] = &*keys {
            let rows = self.read(Operation::Get, Query::GetOne, &[&keyspace, &&**key]).await?;
            let value = rows.first().map(|row| row.try_get(0).map(Bytes::copy_from_slice)).transpose();
            return Ok(vec![value.map_err(failed)?]);
        }
        let distinct: BTreeSet<&[u8]> = keys.iter().map(|key| &**key).collect();
        let distinct: Vec<&[u8]> = distinct.into_iter().collect();
        let rows = self.read(Operation::Get, Query::Get, &[&keyspace, &distinct]).await?;
        let mut found = HashMap::<&[u8], &[u8]>::with_capacity(rows.len());
        for row in &rows {
            found.insert(row.try_get(0).map_err(failed)?, row.try_get(1).map_err(failed)?);
        }
        Ok(keys.iter().map(|key| found.get(&**key).map(|value| Bytes::copy_from_slice(value))).collect())
    }

    /// Reads a page.
    ///
    /// # Errors
    /// `Io`, `Corrupt`.
    pub(super) async fn page(&self, scan: &Scan) -> Result<Page, StoreError> {
        let mut page = PageBuilder::new(scan.limits);
        if scan.range.is_empty() {
            return Ok(page.finish());
        }
        let keyspace = i16::from(scan.keyspace.byte());
        let start = &*scan.range.start;
        let end: &[u8] = scan.range.end.as_deref().unwrap_or(&BEHIND_ALL_KEYS);
        // Both are bounded far below the largest of these numbers.
        let items = scan.limits.items.clamp(1, PAGE_ITEMS_MAX) as i64 + 1;
        let bytes = scan.limits.bytes.min(PAGE_BYTES_MAX) as i64;
        let query = Query::Page(scan.direction);
        let rows = self.read(Operation::Scan, query, &[&keyspace, &start, &end, &items, &bytes]).await?;
        let failed = |error| store_error(Operation::Scan, error);
        for row in &rows {
            let (key, value): (&[u8], &[u8]) = (row.try_get(0).map_err(failed)?, row.try_get(1).map_err(failed)?);
            if !page.fits(key.len(), value.len()) {
                break;
            }
            page.push(Bytes::copy_from_slice(key), Bytes::copy_from_slice(value));
        }
        Ok(page.finish())
    }

    /// Returns the bytes that the items take on the server's disk, 0 if the server does not tell.
    ///
    /// # Errors
    /// `Io`.
    pub(super) async fn size_on_disk(&self) -> Result<u64, StoreError> {
        let Some(slot) = self.sessions.first() else { return Ok(0) };
        let deadline = self.server.deadline();
        let session = until(deadline, Operation::Describe, self.session(slot, deadline, Operation::Describe)).await?;
        let asked = session.client.query_one("SELECT pg_total_relation_size('ravel_items')", &[]);
        let size = match session.link.within(self.server.answer_deadline(), asked).await {
            Ok(row) => get::<i64>(&row, 0, Operation::Describe)?,
            Err(error) if error.as_db_error().is_some() && !is_lost(&error) => 0,
            Err(error) => return Err(store_error(Operation::Describe, error)),
        };
        Ok(u64::try_from(size).unwrap_or(0))
    }

    /// Reads on one of the connections; again on a new one if it is lost meanwhile.
    async fn read(
        &self,
        operation: Operation,
        query: Query,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>, StoreError> {
        // Until when it is tried again after a connection was lost.
        let mut retried_until = None;
        let mut conflicts = 0;
        loop {
            let deadline = retried_until.unwrap_or_else(|| self.server.deadline());
            let turn = self.next.fetch_add(1, Ordering::Relaxed) % self.sessions.len();
            let Some(slot) = self.sessions.get(turn) else { return Err(StoreError::Closed) };
            let session = until(deadline, operation, self.session(slot, deadline, operation)).await?;
            let asked = session.ask(query, parameters);
            let limit = self.server.answer_deadline();
            let limit = retried_until.map_or(limit, |deadline| limit.min(deadline));
            let error = match session.link.within(limit, asked).await {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            if is_lost(&error) && Instant::now() < *retried_until.get_or_insert_with(|| self.server.deadline()) {
                forget(slot, &session);
                sleep(LOST_PAUSE).await;
            } else if is_conflict(&error) && conflicts < CONFLICTS_MAX {
                conflicts += 1;
                sleep(CONFLICT_PAUSE * conflicts).await;
            } else {
                return Err(store_error(operation, error));
            }
        }
    }

    async fn session(&self, slot: &Slot, deadline: Instant, operation: Operation) -> Result<Arc<Session>, StoreError> {
        let mut slot = slot.lock().await;
        if let Some(session) = slot.as_ref().filter(|session| !session.client.is_closed()) {
            return Ok(Arc::clone(session));
        }
        loop {
            let Connected { client, link, .. } = self.server.connect(deadline, operation, None).await?;
            match Session::prepare(client, link).await {
                Ok(session) => return Ok(Arc::clone(slot.insert(Arc::new(session)))),
                Err(error) if is_lost(&error) && Instant::now() < deadline => {}
                Err(error) => return Err(store_error(operation, error)),
            }
        }
    }
}

/// Drops a session that is lost; if the slot is in use, somebody else looks at it right now.
fn forget(slot: &Slot, session: &Arc<Session>) {
    if let Ok(mut slot) = slot.try_lock()
        && slot.as_ref().is_some_and(|kept| Arc::ptr_eq(kept, session))
    {
        *slot = None;
    }
}

impl Session {
    async fn prepare(client: Client, link: Link) -> Result<Self, tokio_postgres::Error> {
        // One plan of each statement is good for good, as there is only one way to go by the primary key. Not so for `Get`.
        match client.batch_execute("SET plan_cache_mode = auto").await {
            Err(error) if is_lost(&error) => return Err(error),
            _ => {}
        }
        let get_one = client.prepare(GET_ONE).await?;
        let forward = client.prepare(&page_sql("ASC")).await?;
        let backward = client.prepare(&page_sql("DESC")).await?;
        Ok(Self { client, link, get_one, forward, backward })
    }

    async fn ask(&self, query: Query, parameters: &[&(dyn ToSql + Sync)]) -> Result<Vec<Row>, tokio_postgres::Error> {
        let statement = match query {
            Query::GetOne => &self.get_one,
            // Planned each time, for so many keys and the table as it is now.
            Query::Get => {
                let typed: Vec<_> = parameters.iter().copied().zip([Type::INT2, Type::BYTEA_ARRAY]).collect();
                return self.client.query_typed(GET, &typed).await;
            }
            Query::Page(Direction::Forward) => &self.forward,
            Query::Page(Direction::Backward) => &self.backward,
        };
        self.client.query(statement, parameters).await
    }
}

/// How often a read is tried again that collided with a commit, on servers where that can be.
const CONFLICTS_MAX: u32 = 10;
const CONFLICT_PAUSE: Duration = Duration::from_millis(5);
/// Before a read is tried again whose connection was lost.
const LOST_PAUSE: Duration = Duration::from_millis(5);
/// Greater than every key, as it is longer than the longest and has no greater byte.
pub(super) const BEHIND_ALL_KEYS: [u8; KEY_BYTES_MAX + 1] = [0xFF; KEY_BYTES_MAX + 1];
