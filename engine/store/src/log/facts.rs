//! Facts beside the events of rooms: accounts, devices, settings, whatever a server has to know and can't compute. They are entries of the
//! log like events, so they are copied, backed up and replayed with it; the newest value under each key is kept as a projection.
//!
//! What a kind and its keys mean is for whoever puts them.

use bytes::Bytes;

use super::{
    EventLog, LogError,
    append::Group,
    commit,
    records::{FactRecord, Head, LogEntry, key},
};
use crate::{Batch, Durability, KEY_BYTES_MAX, KeyRange, Keyspace, Scan, StoreExt, codec};

/// The longest key of a fact, in bytes.
pub const FACT_KEY_BYTES_MAX: usize = KEY_BYTES_MAX - 1;

/// The longest value of a fact, in bytes.
pub const FACT_VALUE_BYTES_MAX: usize = 1 << 19;

/// Something that is so from now on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fact {
    /// What it is about.
    pub kind: u8,
    /// What of that, at most [`FACT_KEY_BYTES_MAX`].
    pub key: Bytes,
    /// The value, at most [`FACT_VALUE_BYTES_MAX`]; `None` if there is none any more.
    pub value: Option<Bytes>,
}

/// What has to be so for facts to be put.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    /// What it is about.
    pub kind: u8,
    /// What of that.
    pub key: Bytes,
    /// The value that has to be there; `None` if none may be.
    pub value: Option<Bytes>,
}

/// A fact as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredFact {
    /// Its key.
    pub key: Bytes,
    /// Its value.
    pub value: Bytes,
    /// The number of its entry in the log.
    pub sequence: u64,
}

impl EventLog {
    /// Puts facts, all or none; returns the length of the log with them, `None` if a condition does not hold.
    ///
    /// Costs one commit. Dropped before it returns, the facts are there or not.
    ///
    /// # Errors
    ///
    /// When a key or value is too long, the store fails, or another writer appended meanwhile.
    pub async fn put_facts(
        &self,
        facts: &[Fact],
        conditions: &[Condition],
        durability: Durability,
    ) -> Result<Option<u64>, LogError> {
        check_lengths(facts)?;
        // There is no other writer while this is held, so what is read stays as it is.
        let mut in_flight = self.appends.writer.lock().await;
        self.settle_in_flight(&mut in_flight).await?;
        for condition in conditions {
            let found = self.fact(condition.kind, &condition.key).await?;
            if found.map(|found| found.value) != condition.value {
                return Ok(None);
            }
        }
        let mut head = {
            let known = self.known();
            if known.is_lagging {
                return Err(LogError::Lagging);
            }
            known.standing.check()?;
            known.head.clone()
        };
        let mut batch = head.guarded_batch()?;
        for fact in facts {
            append(&mut batch, &mut head, fact)?;
        }
        batch.put_record(key::HEAD, &head)?.durability(durability);
        let next = head.next_sequence;
        // If this future is dropped meanwhile, whoever writes next finds out what became of it.
        *in_flight = Some(Group::of_head(head.clone()));
        let committed = commit(&self.store, batch).await;
        *in_flight = None;
        committed?;
        self.known().advance(head);
        Ok(Some(next))
    }

    /// Returns the fact under a key.
    ///
    /// # Errors
    ///
    /// When the store fails.
    pub async fn fact(&self, kind: u8, fact_key: &[u8]) -> Result<Option<StoredFact>, LogError> {
        let stored: Option<FactRecord> = self.store.get_record(key::fact(kind, fact_key)).await?;
        let of = |record: FactRecord| StoredFact {
            key: Bytes::copy_from_slice(fact_key),
            value: record.value.into(),
            sequence: record.sequence,
        };
        Ok(stored.map(of))
    }

    /// Returns the facts of a kind whose keys begin with `prefix` and come after `after`, sorted by key, at most `items` of them (fewer
    /// if they are large; none when there are no more).
    ///
    /// # Errors
    ///
    /// When the store fails.
    pub async fn facts(
        &self,
        kind: u8,
        prefix: &[u8],
        after: Option<&[u8]>,
        items: usize,
    ) -> Result<Vec<StoredFact>, LogError> {
        let mut scan = Scan::new(Keyspace::Facts, KeyRange::prefix(key::fact(kind, prefix))).items(items);
        if let Some(after) = after {
            scan = scan.after(&key::fact(kind, after));
        }
        let page = self.store.scan(scan).await?;
        let facts = page.items.into_iter().map(|(stored_key, value)| {
            let record: FactRecord = codec::decode(&stored_key, &value)?;
            Ok(StoredFact { key: stored_key.slice(1..), value: record.value.into(), sequence: record.sequence })
        });
        facts.collect()
    }
}

impl Fact {
    pub(super) fn size_bytes(&self) -> usize {
        self.key.len().saturating_add(self.value.as_ref().map_or(0, Bytes::len))
    }
}

/// Checks the bounds of keys and values.
pub(super) fn check_lengths(facts: &[Fact]) -> Result<(), LogError> {
    for fact in facts {
        let value = fact.value.as_ref().map_or(0, Bytes::len);
        if fact.key.len() > FACT_KEY_BYTES_MAX || value > FACT_VALUE_BYTES_MAX {
            return Err(LogError::FactTooLong { key: fact.key.len(), value });
        }
    }
    Ok(())
}

/// Adds the next entry of the log, which is a fact, and what follows from it to a batch.
pub(super) fn append(batch: &mut Batch, head: &mut Head, fact: &Fact) -> Result<(), LogError> {
    let sequence = head.take_sequence()?;
    let value = fact.value.as_ref().map(|value| value.to_vec());
    let entry = LogEntry::Fact { kind: fact.kind, key: fact.key.to_vec(), value };
    batch.put(Keyspace::Log, key::sequence(sequence), codec::encode(&entry)?);
    put(batch, fact, sequence)
}

/// Adds what follows from a fact to a batch.
pub(super) fn put(batch: &mut Batch, fact: &Fact, sequence: u64) -> Result<(), LogError> {
    let stored_key = key::fact(fact.kind, &fact.key);
    match &fact.value {
        Some(value) => {
            batch.put_record(stored_key, &FactRecord { sequence, value: value.to_vec() })?;
        }
        None => {
            batch.delete(Keyspace::Facts, stored_key);
        }
    }
    Ok(())
}
