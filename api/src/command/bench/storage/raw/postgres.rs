//! PostgreSQL: plain transactions with one statement each, by connections of their own.

use std::sync::{Mutex, PoisonError};

use ravel_store::{Bytes, KeyRange, Keyspace, Op};
use tokio::runtime::{Builder, Runtime};
use tokio_postgres::{Client, NoTls, Statement};

use super::{Missing, RawEngine, RawWriter, failed, puts};
use crate::command::{Failure, bench::storage::workload::log_key};

/// Runs statements in a database.
pub(in crate::command::bench::storage) fn execute(url: &str, sql: &str) -> Result<(), Failure> {
    let connection = Connection::open(url)?;
    connection.runtime.block_on(connection.client.batch_execute(sql)).map_err(failed)
}

/// A connection, and what runs it while it is waited for.
struct Connection {
    client: Client,
    runtime: Runtime,
}

impl Connection {
    fn open(url: &str) -> Result<Self, Failure> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let (client, connection) = runtime.block_on(tokio_postgres::connect(url, NoTls)).map_err(failed)?;
        // Its errors come out of the client, too.
        runtime.spawn(async move { drop(connection.await) });
        Ok(Self { client, runtime })
    }

    fn prepare(&self, sql: &str) -> Result<Statement, Failure> {
        self.runtime.block_on(self.client.prepare(sql)).map_err(failed)
    }
}

pub(in crate::command::bench::storage) struct Raw {
    url: String,
    reader: Mutex<Reader>,
}

struct Reader {
    connection: Connection,
    get: Statement,
    page: Statement,
    get_many: Statement,
}

impl Raw {
    pub(in crate::command::bench::storage) fn open(url: &str) -> Result<Self, Failure> {
        let connection = Connection::open(url)?;
        let create = "CREATE TABLE raw_items (keyspace smallint NOT NULL, key bytea NOT NULL, value bytea NOT NULL, PRIMARY KEY (keyspace, key))";
        connection.runtime.block_on(connection.client.batch_execute(create)).map_err(failed)?;
        let get = connection.prepare("SELECT value FROM raw_items WHERE keyspace = $1 AND key = $2")?;
        let page = connection.prepare(
            "SELECT key, value FROM raw_items WHERE keyspace = $1 AND key >= $2 AND key < $3 ORDER BY key DESC LIMIT $4",
        )?;
        let get_many = connection.prepare("SELECT key, value FROM raw_items WHERE keyspace = $1 AND key = ANY($2)")?;
        Ok(Self { url: url.to_owned(), reader: Mutex::new(Reader { connection, get, page, get_many }) })
    }
}

fn number(keyspace: Keyspace) -> i16 {
    i16::from(keyspace.byte())
}

impl RawEngine for Raw {
    fn writer(&self) -> Result<Box<dyn RawWriter>, Failure> {
        let connection = Connection::open(&self.url)?;
        let put = connection.prepare(
            "INSERT INTO raw_items (keyspace, key, value) SELECT * FROM unnest($1::smallint[], $2::bytea[], $3::bytea[])
             ON CONFLICT (keyspace, key) DO UPDATE SET value = excluded.value",
        )?;
        Ok(Box::new(Writer { connection, put }))
    }

    fn get(&self, keyspace: Keyspace, key: &Bytes) -> Result<(), Failure> {
        let Reader { connection, get, .. } = &*self.reader.lock().unwrap_or_else(PoisonError::into_inner);
        let parameters: [&(dyn tokio_postgres::types::ToSql + Sync); 2] = [&number(keyspace), &&**key];
        let found = connection.runtime.block_on(connection.client.query_opt(get, &parameters)).map_err(failed)?;
        found.map(drop).ok_or_else(|| failed(Missing))
    }

    fn page(&self, range: &KeyRange, items: usize) -> Result<(), Failure> {
        let Reader { connection, page, get_many, .. } = &*self.reader.lock().unwrap_or_else(PoisonError::into_inner);
        let (start, end) = (&*range.start, range.end.as_deref().unwrap_or_default());
        let (timelines, items) = (number(Keyspace::Timelines), items as i64);
        let parameters: [&(dyn tokio_postgres::types::ToSql + Sync); 4] = [&timelines, &start, &end, &items];
        let rows = connection.runtime.block_on(connection.client.query(page, &parameters)).map_err(failed)?;
        let mut keys = Vec::new();
        for row in &rows {
            keys.push(log_key(&Bytes::copy_from_slice(row.try_get(0).map_err(failed)?)));
        }
        let keys: Vec<&[u8]> = keys.iter().map(|key| &**key).collect();
        let parameters: [&(dyn tokio_postgres::types::ToSql + Sync); 2] = [&number(Keyspace::Log), &keys];
        let found = connection.runtime.block_on(connection.client.query(get_many, &parameters)).map_err(failed)?;
        if found.len() == keys.len() { Ok(()) } else { Err(failed(Missing)) }
    }

    fn read_log(&self) -> Result<usize, Failure> {
        let Connection { client, runtime } = &self.reader.lock().unwrap_or_else(PoisonError::into_inner).connection;
        let select = "SELECT key, value FROM raw_items WHERE keyspace = $1 ORDER BY key";
        let rows = runtime.block_on(client.query(select, &[&number(Keyspace::Log)])).map_err(failed)?;
        Ok(rows.len())
    }
}

struct Writer {
    connection: Connection,
    put: Statement,
}

impl RawWriter for Writer {
    fn write(&mut self, ops: &[Op]) -> Result<(), Failure> {
        self.put(ops)
    }

    fn write_relaxed(&mut self, ops: &[Op]) -> Result<(), Failure> {
        let Connection { client, runtime } = &self.connection;
        runtime.block_on(client.batch_execute("SET synchronous_commit TO off")).map_err(failed)?;
        self.put(ops)?;
        let Connection { client, runtime } = &self.connection;
        runtime.block_on(client.batch_execute("SET synchronous_commit TO on")).map_err(failed)
    }
}

impl Writer {
    fn put(&self, ops: &[Op]) -> Result<(), Failure> {
        let Connection { client, runtime } = &self.connection;
        // A statement takes each key once; the last value counts.
        let last: std::collections::BTreeMap<(i16, &Bytes), &Bytes> =
            puts(ops).map(|(keyspace, key, value)| ((number(keyspace), key), value)).collect();
        let (mut keyspaces, mut keys, mut values) = (Vec::new(), Vec::<&[u8]>::new(), Vec::<&[u8]>::new());
        for ((keyspace, key), value) in last {
            keyspaces.push(keyspace);
            keys.push(key);
            values.push(value);
        }
        // A statement outside of a transaction is one.
        runtime.block_on(client.execute(&self.put, &[&keyspaces, &keys, &values])).map_err(failed)?;
        Ok(())
    }
}
