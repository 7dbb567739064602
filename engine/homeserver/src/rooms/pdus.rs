//! Events as servers exchange them.

use ravel_core::{
    event::event_type,
    id::{EventId, RoomId, UserId},
};

use super::{LoadedRoom, Rooms, RoomsError};

impl Rooms {
    /// Returns the JSON of those of some events that a room has and that were not purged, in order; redacted if they are redacted.
    ///
    /// # Errors
    ///
    /// `NoSuchRoom`, and when the log can't be read.
    pub(crate) async fn pdus(&self, room_id: &RoomId, event_ids: &[EventId]) -> Result<Vec<Vec<u8>>, RoomsError> {
        Ok(self.outgoing_pdus(room_id, event_ids).await?.into_iter().map(|(_, json)| json).collect())
    }

    /// Returns the JSON of the events that tell somebody outside what a room is, and who invites to it, as few and small as it takes; the
    /// create event comes first.
    ///
    /// # Errors
    ///
    /// `NoSuchRoom`, and when the log can't be read.
    pub(crate) async fn description_pdus(
        &self,
        room_id: &RoomId,
        inviter: Option<&UserId>,
    ) -> Result<Vec<Vec<u8>>, RoomsError> {
        let ids = self.read(room_id, |loaded| loaded.description(inviter.map(UserId::as_str)));
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

impl LoadedRoom {
    /// Returns the events that tell somebody outside what a room is, and who invites to it.
    ///
    /// Source: client-server API, "Stripped state".
    pub(super) fn description(&self, inviter: Option<&str>) -> Vec<EventId> {
        let state = self.room.current_state();
        let described = DESCRIPTION.iter().filter_map(|event_type| state.get(event_type, ""));
        described.chain(inviter.and_then(|inviter| state.get(event_type::MEMBER, inviter))).collect()
    }
}

/// The state events that tell what a room is.
const DESCRIPTION: [&str; 7] = [
    "m.room.create",
    "m.room.join_rules",
    "m.room.canonical_alias",
    "m.room.avatar",
    "m.room.name",
    "m.room.encryption",
    "m.room.topic",
];

/// How long the events that describe a room may be, all together: names and topics may be as long as an event.
const DESCRIPTION_BYTES_MAX: usize = 64 << 10;
