//! The fingerprints of entries, as far as they were needed lately.

use std::sync::{Mutex, PoisonError};

use sha2::{Digest, Sha256};
use smallvec::{SmallVec, smallvec};

use super::{
    Fingerprint,
    node::{Entry, LEAF_ENTRIES_MAX},
};
use crate::graph::{EventGraph, EventIndex, KeyIndex};

/// How many are kept: at most 160 KiB for a room. (Few in this crate's tests, so that they take each other's places.)
const KEPT_MAX: usize = if cfg!(test) { 16 } else { 4096 };

/// A key with the fingerprint of its entry.
pub(super) type Hashed = (KeyIndex, Fingerprint);

/// Fingerprints of entries, which are those of their events: an event has its one key. A change of a state changes one entry of a
/// leaf, and the leaf's fingerprint is made of those of all its entries.
///
/// The place of an event is its number, modulo how many there are; a later one takes it over.
#[derive(Debug, Default)]
pub(crate) struct EntryFingerprints(Mutex<Vec<Option<(EventIndex, Fingerprint)>>>);

impl EntryFingerprints {
    /// Returns the fingerprints of entries, in their order.
    pub(super) fn of(&self, graph: &EventGraph, entries: &[Entry]) -> SmallVec<[Hashed; LEAF_ENTRIES_MAX]> {
        // Whatever is in it is right: one that panicked put nothing in.
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let wanted = graph.len().next_power_of_two().min(KEPT_MAX);
        if kept.len() < wanted {
            kept.resize(wanted, None);
        }
        let mask = wanted.saturating_sub(1);
        let fingerprint = |&(key, event): &Entry| {
            let Some(place) = kept.get_mut(event.as_usize() & mask) else { return (key, of_entry(graph, key, event)) };
            match place {
                Some((kept, fingerprint)) if *kept == event => (key, *fingerprint),
                _ => {
                    let fingerprint = of_entry(graph, key, event);
                    *place = Some((event, fingerprint));
                    (key, fingerprint)
                }
            }
        };
        entries.iter().map(fingerprint).collect()
    }
}

fn of_entry(graph: &EventGraph, key: KeyIndex, event: EventIndex) -> Fingerprint {
    let mut message: SmallVec<[u8; 256]> = smallvec![0];
    let (event_type, state_key) = graph.keys().bytes(key);
    for part in [event_type, state_key] {
        // Lengths come from events, which are at most 64 KiB.
        message.extend_from_slice(&u32::try_from(part.len()).unwrap_or(u32::MAX).to_be_bytes());
        message.extend_from_slice(part);
    }
    message.extend_from_slice(graph.event_id_text(event).as_ref());
    Fingerprint(Sha256::digest(&message).into())
}
