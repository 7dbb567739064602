use std::collections::HashSet;

use bytes::Bytes;

use crate::{
    BATCH_BYTES_MAX, BoundedBy, KEY_BYTES_MAX, KeyRange, Keyspace, Record, StoreError, VALUE_BYTES_MAX, codec,
};

/// Writes that a store takes all or nothing, in the order they were added, if all the guards hold.
///
/// Guards are checked against what was stored before the batch, whatever writes it holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Batch {
    guards: Vec<Guard>,
    ops: Vec<Op>,
    durability: Durability,
    /// Invariant: the sum of `cost` over guards and operations.
    size_bytes: usize,
}

impl Batch {
    /// Makes a batch without writes; it is durable on return unless told otherwise.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a write of one key; what was under it is replaced.
    pub fn put(&mut self, keyspace: Keyspace, key: impl Into<Bytes>, value: impl Into<Bytes>) -> &mut Self {
        self.push(Op::Put { keyspace, key: key.into(), value: value.into() })
    }

    /// Adds a write of a record to its keyspace.
    ///
    /// # Errors
    /// Those of [`codec::encode`]; the batch is unchanged then.
    pub fn put_record<R: Record>(&mut self, key: impl Into<Bytes>, record: &R) -> Result<&mut Self, StoreError> {
        let value = codec::encode(record)?;
        Ok(self.put(R::KEYSPACE, key, value))
    }

    /// Adds the removal of one key, which need not be there.
    pub fn delete(&mut self, keyspace: Keyspace, key: impl Into<Bytes>) -> &mut Self {
        self.push(Op::Delete { keyspace, key: key.into() })
    }

    /// Adds the removal of all keys in a range, those put earlier in this batch included.
    ///
    /// Cost: O(1) for RocksDB (later reads pay until compaction), O(keys in the range) for the others.
    pub fn delete_range(&mut self, keyspace: Keyspace, range: KeyRange) -> &mut Self {
        self.push(Op::DeleteRange { keyspace, range })
    }

    /// Adds the condition that nothing is stored under a key.
    pub fn guard_absent(&mut self, keyspace: Keyspace, key: impl Into<Bytes>) -> &mut Self {
        self.guard(Guard::Absent { keyspace, key: key.into() })
    }

    /// Adds the condition that exactly this value is stored under a key.
    pub fn guard_equals(&mut self, keyspace: Keyspace, key: impl Into<Bytes>, value: impl Into<Bytes>) -> &mut Self {
        self.guard(Guard::Equals { keyspace, key: key.into(), value: value.into() })
    }

    /// Adds a condition.
    pub fn guard(&mut self, guard: Guard) -> &mut Self {
        self.size_bytes = self.size_bytes.saturating_add(guard.cost());
        self.guards.push(guard);
        self
    }

    /// Adds a write.
    pub fn push(&mut self, op: Op) -> &mut Self {
        self.size_bytes = self.size_bytes.saturating_add(op.cost());
        self.ops.push(op);
        self
    }

    /// Leaves out the writes of keys of a keyspace that later ones replace. Costs a look at all writes.
    pub(crate) fn keep_last_puts(&mut self, of: Keyspace) {
        let mut seen = HashSet::new();
        // The last of each key comes first.
        let is_last: Vec<bool> = self
            .ops
            .iter()
            .rev()
            .map(|op| !matches!(op, Op::Put { keyspace, key, .. } if *keyspace == of && !seen.insert(key.clone())))
            .collect();
        let mut is_last = is_last.into_iter().rev();
        let size_bytes = &mut self.size_bytes;
        self.ops.retain(|op| {
            let stays = is_last.next().unwrap_or(true);
            if !stays {
                *size_bytes = size_bytes.saturating_sub(op.cost());
            }
            stays
        });
    }

    /// Sets how durable the batch is on return.
    pub fn durability(&mut self, durability: Durability) -> &mut Self {
        self.durability = durability;
        self
    }

    /// Returns the conditions, in the order they were added.
    pub fn guards(&self) -> &[Guard] {
        &self.guards
    }

    /// Returns the writes, in the order they were added.
    pub fn ops(&self) -> &[Op] {
        &self.ops
    }

    /// Returns the writes by themselves, in the order they were added.
    pub fn into_ops(self) -> Vec<Op> {
        self.ops
    }

    /// Returns how durable the batch is on return.
    pub fn wanted_durability(&self) -> Durability {
        self.durability
    }

    /// Returns the bytes of all keys and values, and 16 for each write and guard.
    pub fn size_bytes(&self) -> usize {
        self.size_bytes
    }

    /// Tells whether there is nothing to write (there may be guards).
    pub fn is_empty(&self) -> bool {
        self.ops.is_empty()
    }

    /// Checks the bounds on keys, values and the whole; every backend calls this first.
    ///
    /// # Errors
    /// `TooLarge` with the bound that is exceeded.
    pub fn check_bounds(&self) -> Result<(), StoreError> {
        check(BoundedBy::Batch, self.size_bytes, BATCH_BYTES_MAX)?;
        for guard in &self.guards {
            check(BoundedBy::Key, guard.key().len(), KEY_BYTES_MAX)?;
        }
        for op in &self.ops {
            match op {
                Op::Put { key, value, .. } => {
                    check(BoundedBy::Key, key.len(), KEY_BYTES_MAX)?;
                    check(BoundedBy::Value, value.len(), VALUE_BYTES_MAX)?;
                }
                Op::Delete { key, .. } => check(BoundedBy::Key, key.len(), KEY_BYTES_MAX)?,
                Op::DeleteRange { range, .. } => range.check_bounds()?,
            }
        }
        Ok(())
    }

    /// Returns the first guard that does not hold, if any, by looking up each in order.
    ///
    /// # Errors
    /// Those of the look-up.
    pub fn failed_guard(
        &self,
        mut get: impl FnMut(Keyspace, &[u8]) -> Result<Option<Bytes>, StoreError>,
    ) -> Result<Option<FailedGuard>, StoreError> {
        for (index, guard) in self.guards.iter().enumerate() {
            let found = get(guard.keyspace(), guard.key())?;
            if !guard.holds(found.as_ref()) {
                return Ok(Some(FailedGuard { index, keyspace: guard.keyspace(), key: guard.key().clone(), found }));
            }
        }
        Ok(None)
    }
}

/// One write of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// Stores a value under a key.
    Put {
        /// Where.
        keyspace: Keyspace,
        /// Under which key.
        key: Bytes,
        /// What.
        value: Bytes,
    },
    /// Removes a key.
    Delete {
        /// Where.
        keyspace: Keyspace,
        /// Which key.
        key: Bytes,
    },
    /// Removes all keys of a range.
    DeleteRange {
        /// Where.
        keyspace: Keyspace,
        /// Which keys.
        range: KeyRange,
    },
}

impl Op {
    fn cost(&self) -> usize {
        OP_COST
            + match self {
                Self::Put { key, value, .. } => key.len() + value.len(),
                Self::Delete { key, .. } => key.len(),
                Self::DeleteRange { range, .. } => range.start.len() + range.end.as_ref().map_or(0, Bytes::len),
            }
    }
}

/// A condition on what is stored, checked atomically with the write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Guard {
    /// Nothing is stored under the key.
    Absent {
        /// Where.
        keyspace: Keyspace,
        /// Under which key.
        key: Bytes,
    },
    /// Exactly this value is stored under the key.
    Equals {
        /// Where.
        keyspace: Keyspace,
        /// Under which key.
        key: Bytes,
        /// What.
        value: Bytes,
    },
}

impl Guard {
    /// Returns the keyspace the condition is about.
    pub fn keyspace(&self) -> Keyspace {
        match self {
            Self::Absent { keyspace, .. } | Self::Equals { keyspace, .. } => *keyspace,
        }
    }

    /// Returns the key the condition is about.
    pub fn key(&self) -> &Bytes {
        match self {
            Self::Absent { key, .. } | Self::Equals { key, .. } => key,
        }
    }

    /// Tells whether the condition holds for what was found under the key.
    pub fn holds(&self, found: Option<&Bytes>) -> bool {
        match self {
            Self::Absent { .. } => found.is_none(),
            Self::Equals { value, .. } => found == Some(value),
        }
    }

    fn cost(&self) -> usize {
        OP_COST
            + self.key().len()
            + match self {
                Self::Absent { .. } => 0,
                Self::Equals { value, .. } => value.len(),
            }
    }
}

/// How durable a batch is when its commit returns.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Durability {
    /// It survives `kill -9` and power loss.
    #[default]
    Sync,
    /// It survives neither for sure until a later `Sync` commit or [`flush`](crate::Store::flush) returned; for bulk import.
    ///
    /// What is lost is the newest end: when a relaxed commit survives, all commits before it survive too.
    Relaxed,
}

/// What became of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "a batch whose guard failed was not written"]
pub enum Committed {
    /// All guards held and everything was written.
    Written,
    /// A guard did not hold and nothing was written.
    Refused(FailedGuard),
}

impl Committed {
    /// Tells whether the batch was written.
    pub fn is_written(&self) -> bool {
        matches!(self, Self::Written)
    }
}

/// The first guard of a batch that did not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailedGuard {
    /// Its place among the guards of the batch, from 0.
    pub index: usize,
    /// The keyspace it is about.
    pub keyspace: Keyspace,
    /// The key it is about.
    pub key: Bytes,
    /// What is stored there instead.
    pub found: Option<Bytes>,
}

pub(crate) fn check(what: BoundedBy, size: usize, max: usize) -> Result<(), StoreError> {
    if size > max { Err(StoreError::TooLarge { what, size, max }) } else { Ok(()) }
}

/// What a write or a guard counts beside its bytes, so that the bound on bytes is one on their number too.
const OP_COST: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_several_writes_of_a_key_the_last_stays_where_that_is_asked_for() {
        let mut batch = Batch::new();
        batch.put(Keyspace::Extremities, "a", "1").put(Keyspace::Meta, "a", "1").put(Keyspace::Extremities, "b", "1");
        batch.put(Keyspace::Meta, "a", "2").put(Keyspace::Extremities, "a", "22");
        batch.keep_last_puts(Keyspace::Extremities);
        let mut wanted = Batch::new();
        wanted.put(Keyspace::Meta, "a", "1").put(Keyspace::Extremities, "b", "1");
        wanted.put(Keyspace::Meta, "a", "2").put(Keyspace::Extremities, "a", "22");
        assert_eq!(batch, wanted, "with its size");
    }
}
