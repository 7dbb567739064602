//! The tables, and the row that says whose they are and who writes to them.

use std::path::Path;

use ravel_store::{ForeignReason, Operation, StoreError, directory::LAYOUT};
use tokio_postgres::{Client, error::SqlState};

use super::{
    ENGINE,
    server::{get, is_conflict, store_error},
};

/// Makes sure that the schema is a store of ours and of a layout we know; makes one of an empty schema if asked to.
///
/// Nothing is changed unless the schema is empty or holds an unfinished store. Returns the layout version.
///
/// # Errors
/// `Foreign`, `NewerFormat`; `Io`.
pub(super) async fn open(client: &Client, name: &Path, create: bool) -> Result<u32, StoreError> {
    for _ in 0..CREATE_ATTEMPTS {
        match inspect(client, name).await? {
            Found::Store { layout } => return Ok(layout),
            Found::Nothing if !create => return Err(foreign(name, ForeignReason::Empty)),
            Found::Nothing => match client.batch_execute(&create_sql()).await {
                Ok(()) => {}
                // Another process makes the same at this moment: look again.
                Err(error) if is_conflict(&error) || is_duplicate(&error) => {
                    // Whatever is left of the transaction; there may be none.
                    let _ = client.batch_execute("ROLLBACK").await;
                }
                Err(error) => return Err(store_error(Operation::Open, error)),
            },
        }
    }
    Err(foreign(name, ForeignReason::UnreadableMarkerTable))
}

enum Found {
    /// No tables, or those that a crash left without a marker, on servers where creating tables is no part of a transaction.
    Nothing,
    Store {
        layout: u32,
    },
}

async fn inspect(client: &Client, name: &Path) -> Result<Found, StoreError> {
    let failed = |error| store_error(Operation::Open, error);
    let listing = "SELECT table_name::text FROM information_schema.tables WHERE table_schema = current_schema()";
    let mut tables = Vec::<String>::new();
    for row in client.query(listing, &[]).await.map_err(failed)? {
        tables.push(get(&row, 0, Operation::Open)?);
    }
    if !tables.iter().any(|table| table == "ravel_store") {
        return if tables.is_empty() { Ok(Found::Nothing) } else { Err(foreign(name, ForeignReason::NoMarkerTable)) };
    }
    let unreadable = || foreign(name, ForeignReason::UnreadableMarkerTable);
    let row = match client.query_opt("SELECT engine::text, layout::bigint FROM ravel_store WHERE id = 1", &[]).await {
        Ok(row) => row,
        // A table of that name, but not ours.
        Err(error) if error.as_db_error().is_some() && !is_conflict(&error) => return Err(unreadable()),
        Err(error) => return Err(failed(error)),
    };
    let Some(row) = row else {
        let ours = tables.iter().all(|table| table == "ravel_store" || table == "ravel_items");
        return if ours && !has_items(client, &tables).await.map_err(failed)? {
            Ok(Found::Nothing)
        } else {
            Err(unreadable())
        };
    };
    let (Ok(engine), Ok(layout)) = (row.try_get::<_, &str>(0), row.try_get::<_, i64>(1)) else {
        return Err(unreadable());
    };
    if engine != ENGINE {
        return Err(foreign(name, ForeignReason::OtherEngine { found: engine.to_owned(), expected: ENGINE }));
    }
    match u32::try_from(layout) {
        Ok(found) if found > LAYOUT => Err(StoreError::NewerFormat { path: name.to_owned(), found, known: LAYOUT }),
        Ok(layout) if layout > 0 => Ok(Found::Store { layout }),
        _ => Err(unreadable()),
    }
}

async fn has_items(client: &Client, tables: &[String]) -> Result<bool, tokio_postgres::Error> {
    if !tables.iter().any(|table| table == "ravel_items") {
        return Ok(false);
    }
    Ok(client.query_opt("SELECT 1 FROM ravel_items LIMIT 1", &[]).await?.is_some())
}

/// The marker's row is written last, for servers where creating a table is no part of a transaction.
pub(super) fn create_sql() -> String {
    format!(
        "BEGIN;
        CREATE TABLE IF NOT EXISTS ravel_store (
            id bigint PRIMARY KEY, engine text NOT NULL, layout bigint NOT NULL,
            epoch bigint NOT NULL, session bigint NOT NULL, commits bigint NOT NULL);
        CREATE TABLE IF NOT EXISTS ravel_items (
            keyspace smallint NOT NULL, key bytea NOT NULL, value bytea NOT NULL, PRIMARY KEY (keyspace, key));
        INSERT INTO ravel_store (id, engine, layout, epoch, session, commits)
            VALUES (1, '{ENGINE}', {LAYOUT}, 0, 0, 0) ON CONFLICT (id) DO NOTHING;
        COMMIT"
    )
}

fn is_duplicate(error: &tokio_postgres::Error) -> bool {
    error.code().is_some_and(|code| {
        [SqlState::UNIQUE_VIOLATION, SqlState::DUPLICATE_TABLE, SqlState::DUPLICATE_OBJECT].contains(code)
    })
}

fn foreign(name: &Path, reason: ForeignReason) -> StoreError {
    StoreError::Foreign { path: name.to_owned(), reason }
}

/// More would mean that creating the tables has no effect.
const CREATE_ATTEMPTS: usize = 5;
