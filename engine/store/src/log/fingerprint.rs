//! A fingerprint of all that a database says, whatever engine it is on.

use ravel_core::{id::RoomId, state::Fingerprint};
use sha2::{Digest, Sha256};

use super::{EventLog, LogError, RoomFingerprints};

impl EventLog {
    /// Returns a fingerprint over all rooms, sorted by id: each with its version, its events in the order of the log with their
    /// canonical JSON if that was not purged, its [history](ravel_core::room::Room::history_fingerprint) (verdicts and states) and its
    /// current state.
    ///
    /// It is the same for two databases with the same rooms, although the log may have them interleaved differently. What is
    /// appended meanwhile does not count. Calls `progress` after each room. Costs loading every room, one at a time in memory.
    ///
    /// # Errors
    ///
    /// When the store fails, or what it has does not fit together.
    pub async fn fingerprint(&self, mut progress: impl FnMut()) -> Result<Fingerprint, LogError> {
        let position = self.len();
        let mut hasher = Sha256::new();
        for (room_id, version) in self.rooms() {
            add(&mut hasher, room_id.as_str().as_bytes());
            add(&mut hasher, version.as_str().as_bytes());
            self.add_events(&mut hasher, &room_id, position).await?;
            if let Some(room) = self.load_room_at(&room_id, position).await? {
                let RoomFingerprints { current_state, history } = RoomFingerprints::of(&room);
                hasher.update(history.0);
                hasher.update(current_state.0);
            }
            progress();
        }
        Ok(Fingerprint(hasher.finalize().into()))
    }

    async fn add_events(&self, hasher: &mut Sha256, room_id: &RoomId, position: u64) -> Result<(), LogError> {
        let mut from = 0;
        loop {
            let events = self.logged_events(room_id, from, position).await?;
            let Some(last) = events.last() else { break };
            from = last.sequence.saturating_add(1);
            for event in &events {
                hasher.update([1]);
                add(hasher, event.event_id.as_str().as_bytes());
                // No event is of no bytes.
                add(hasher, event.json.as_deref().unwrap_or_default());
            }
        }
        hasher.update([0]);
        Ok(())
    }
}

/// Adds bytes and how many they are, so that none can be taken for those beside them.
fn add(hasher: &mut Sha256, bytes: &[u8]) {
    hasher.update((bytes.len() as u64).to_be_bytes());
    hasher.update(bytes);
}
