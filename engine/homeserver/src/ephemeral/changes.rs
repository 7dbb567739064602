//! What changed lately, in order.

use std::collections::{BTreeMap, BTreeSet};

use ravel_core::id::{RoomId, UserId};

use super::receipts::{OfUser, Receipt};

/// A change.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Change {
    /// Others are typing in a room.
    Typing(RoomId),
    /// A user has read more of a room.
    Receipt(RoomId, OfUser, Receipt),
    /// A user came or went.
    Presence(UserId),
}

/// What changed since some place.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Recent {
    pub(super) typing: BTreeSet<RoomId>,
    pub(super) receipts: BTreeMap<RoomId, BTreeMap<OfUser, Receipt>>,
    pub(super) presence: BTreeSet<UserId>,
}

/// The newest changes, each at a place of its own.
#[derive(Debug)]
pub(super) struct Changes {
    changes: BTreeMap<u64, Change>,
    next: u64,
    /// What was before this place is not known.
    floor: u64,
}

/// How many changes are kept.
const CHANGES_MAX: usize = 50_000;

impl Changes {
    pub(super) fn new(start: u64) -> Self {
        Self { changes: BTreeMap::new(), next: start, floor: start }
    }

    /// Returns the place that the next change gets.
    pub(super) fn next(&self) -> u64 {
        self.next
    }

    pub(super) fn add(&mut self, change: Change) {
        self.changes.insert(self.next, change);
        self.next = self.next.saturating_add(1);
        if self.changes.len() > CHANGES_MAX
            && let Some((oldest, _)) = self.changes.pop_first()
        {
            self.floor = oldest.saturating_add(1);
        }
    }

    /// Returns what changed at a place and later; `None` if that is not known.
    pub(super) fn since(&self, since: u64) -> Option<Recent> {
        if since < self.floor || since > self.next {
            return None;
        }
        let mut recent = Recent::default();
        for (_, change) in self.changes.range(since..) {
            match change.clone() {
                Change::Typing(room_id) => {
                    recent.typing.insert(room_id);
                }
                Change::Receipt(room_id, of, receipt) => {
                    recent.receipts.entry(room_id).or_default().insert(of, receipt);
                }
                Change::Presence(user) => {
                    recent.presence.insert(user);
                }
            }
        }
        Some(recent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_old_is_not_known() {
        let mut changes = Changes::new(1_000);
        let user = UserId::parse("@a:b").unwrap();
        assert_eq!(changes.since(999), None, "of an earlier start");
        assert_eq!(changes.since(1_000), Some(Recent::default()));
        assert_eq!(changes.since(1_001), None, "of a clock that was ahead");
        for _ in 0..CHANGES_MAX {
            changes.add(Change::Presence(user.clone()));
        }
        assert!(changes.since(1_000).unwrap().presence.contains(&user));
        changes.add(Change::Presence(user));
        assert_eq!(changes.since(1_000), None);
        assert_eq!(changes.since(changes.next()), Some(Recent::default()));
    }
}
