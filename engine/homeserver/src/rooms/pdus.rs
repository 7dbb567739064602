//! Events as servers exchange them.

use super::{Rooms, RoomsError, sync::DESCRIPTION};
use ravel_core::id::{EventId, RoomId};

impl Rooms {
    /// Returns the JSON of those of some events that a room has and that were not purged, in order; redacted if they are redacted.
    ///
    /// # Errors
    ///
    /// `NoSuchRoom`, and when the log can't be read.
    pub(crate) async fn pdus(&self, room_id: &RoomId, event_ids: &[EventId]) -> Result<Vec<Vec<u8>>, RoomsError> {
        Ok(self.outgoing_pdus(room_id, event_ids).await?.into_iter().map(|(_, json)| json).collect())
    }

    /// Returns the JSON of the events that tell somebody outside what a room is, as few and small as it takes; the create event comes
    /// first.
    ///
    /// Source: client-server API, "Stripped state".
    ///
    /// # Errors
    ///
    /// `NoSuchRoom`, and when the log can't be read.
    pub(crate) async fn description_pdus(&self, room_id: &RoomId) -> Result<Vec<Vec<u8>>, RoomsError> {
        let ids = self.read(room_id, |loaded| {
            let state = loaded.room.current_state();
            DESCRIPTION.iter().filter_map(|event_type| state.get(event_type, "")).collect::<Vec<_>>()
        });
        let mut pdus = self.pdus(room_id, &ids.await?).await?;
        // The create event stays, whatever it takes.
        let mut bytes = 0;
        let mut is_first = true;
        pdus.retain(|pdu| {
            bytes += pdu.len();
            let stays = std::mem::take(&mut is_first) || bytes <= DESCRIPTION_BYTES_MAX;
            bytes -= if stays { 0 } else { pdu.len() };
            stays
        });
        Ok(pdus)
    }
}

/// How long the events that describe a room may be, all together: names and topics may be as long as an event.
const DESCRIPTION_BYTES_MAX: usize = 64 << 10;
