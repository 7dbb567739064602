//! Events that are made here and are not part of their room yet: another server has to sign them first, or to make them its own.

use ravel_core::{
    canonical_json::CanonicalJsonObject,
    id::{RoomId, UserId},
    pdu::VerifiedPdu,
    room::NewEvent,
    room_version::RoomVersionRules,
};

use super::{Rooms, RoomsError, SendEvent, check_redaction};

impl Rooms {
    /// Returns an event of a user of another server as the room would accept it now, without hashes and signatures.
    ///
    /// # Errors
    ///
    /// `NoSuchRoom`; `Refused` if the room would not accept it; `Invalid`.
    pub(crate) async fn template(
        &self,
        room_id: &RoomId,
        new: &NewEvent<'_>,
    ) -> Result<CanonicalJsonObject, RoomsError> {
        let event = self.look(room_id, |room| {
            let event = room.compose(new)?;
            // Whoever makes an event of it signs it, and so do we where that is needed.
            let pdu = self.0.signed_as(event.clone(), room.rules(), Some(true))?;
            room.check(&pdu)?;
            Ok(event)
        });
        event.await?
    }

    /// Returns an event of this server for a room that may not be here, with its hashes and signature.
    ///
    /// # Errors
    ///
    /// `Invalid`
    pub(crate) fn signed(
        &self,
        event: CanonicalJsonObject,
        rules: &RoomVersionRules,
    ) -> Result<VerifiedPdu, RoomsError> {
        self.0.sign(event, rules)
    }

    /// Returns an event id for room versions 1 and 2.
    pub(crate) fn new_event_id(&self) -> String {
        self.0.new_event_id()
    }

    /// Returns an event of a user of this server as the room would accept it now, signed, also by the room's policy server.
    ///
    /// # Errors
    ///
    /// `NoSuchRoom`; `Refused` if the room would not accept it; `Policy`; `Invalid`.
    pub(crate) async fn draft(
        &self,
        room_id: &RoomId,
        sender: &UserId,
        event: &SendEvent,
    ) -> Result<VerifiedPdu, RoomsError> {
        let event_id = self.0.new_event_id();
        let drafted = self.look(room_id, |room| {
            let composed = room.compose(&NewEvent {
                sender,
                event_type: &event.event_type,
                state_key: event.state_key.as_deref(),
                content: event.content.clone(),
                redacts: event.redacts.as_ref(),
                origin_server_ts_ms: self.0.clock.now_ms(),
                event_id: &event_id,
            })?;
            let pdu = self.0.sign(composed, room.rules())?;
            room.check(&pdu)?;
            check_redaction(room, pdu.event())?;
            Ok::<_, RoomsError>(pdu)
        });
        self.signed_by_policy_server(room_id, drafted.await??).await
    }
}
