//! As a resident: events by which users of other servers come, go and knock, made and signed there.

use ravel_core::{
    canonical_json::{JsonMode, object_to_canonical_bytes, parse_object},
    event::{Content, Event, Membership, event_type},
    id::{EventId, RoomId, ServerName, UserId},
    pdu::{ParsedPdu, PduError, VerifiedPdu},
    room::Outcome,
    room_version::RoomVersionRules,
    signing::sign_event,
};

use super::{ResidentError, given_out::RoomState};
use crate::{homeserver::Homeserver, rooms::RoomsError};

impl Homeserver {
    /// Takes the join of a user of another server into a room and returns what that server has to know of it.
    ///
    /// If the join names a user of this server that lets the user in, it gets our signature too, provided that the user meets a
    /// condition of the room. The same event may come again.
    ///
    /// Source: server-server API, "PUT /_matrix/federation/v2/send_join/{roomId}/{eventId}".
    ///
    /// # Errors
    ///
    /// [`ResidentError`]
    pub async fn send_join(
        &self,
        origin: &ServerName,
        room_id: &RoomId,
        event_id: &str,
        pdu: &[u8],
        omit_members: bool,
    ) -> Result<RoomState, ResidentError> {
        let mut pdu = self.submitted(origin, room_id, event_id, pdu, Membership::Join).await?;
        if let Some(user) = authorising_user(pdu.event()) {
            if user.server_name() != self.server_name.as_str() {
                return Err(ResidentError::WrongEvent("its join_authorised_via_users_server is not of this server"));
            }
            if !self.is_accepted(room_id, pdu.event_id()).await? {
                self.authorising_user(room_id, &pdu.event().sender).await?;
            }
            pdu = self.signed_too(&pdu, self.rooms.rules(room_id).await?)?;
        }
        let pdu = self.take_submitted(room_id, pdu).await?;
        self.room_state_before(room_id, &pdu, omit_members).await
    }

    /// Takes the leave of a user of another server into a room: of one that was invited, or had knocked or joined.
    ///
    /// Source: server-server API, "PUT /_matrix/federation/v2/send_leave/{roomId}/{eventId}".
    ///
    /// # Errors
    ///
    /// [`ResidentError`]
    pub async fn send_leave(
        &self,
        origin: &ServerName,
        room_id: &RoomId,
        event_id: &str,
        pdu: &[u8],
    ) -> Result<(), ResidentError> {
        let pdu = self.submitted(origin, room_id, event_id, pdu, Membership::Leave).await?;
        self.take_submitted(room_id, pdu).await.map(drop)
    }

    /// Takes the knock of a user of another server into a room; returns the events, as JSON, that tell what room it is.
    ///
    /// Source: server-server API, "PUT /_matrix/federation/v1/send_knock/{roomId}/{eventId}".
    ///
    /// # Errors
    ///
    /// [`ResidentError`]
    pub async fn send_knock(
        &self,
        origin: &ServerName,
        room_id: &RoomId,
        event_id: &str,
        pdu: &[u8],
    ) -> Result<Vec<Vec<u8>>, ResidentError> {
        let pdu = self.submitted(origin, room_id, event_id, pdu, Membership::Knock).await?;
        self.take_submitted(room_id, pdu).await?;
        Ok(self.rooms.description_pdus(room_id, None).await?)
    }

    /// Reads and verifies what another server made of a template, and checks that it is just that.
    async fn submitted(
        &self,
        origin: &ServerName,
        room_id: &RoomId,
        event_id: &str,
        pdu: &[u8],
        membership: Membership,
    ) -> Result<VerifiedPdu, ResidentError> {
        self.check_resident(origin, room_id).await?;
        let rules = self.rooms.rules(room_id).await?;
        let pdu = self.verified(pdu, rules).await?;
        let event = pdu.event();
        check_submitted(event, origin, membership)?;
        check_names(event, room_id, event_id)?;
        Ok(pdu)
    }

    /// Reads an event that is to be signed or taken as it is; one whose content was changed on the way is not.
    pub(super) async fn verified(
        &self,
        pdu: &[u8],
        rules: &'static RoomVersionRules,
    ) -> Result<VerifiedPdu, ResidentError> {
        let pdu = ParsedPdu::parse(pdu, rules).map_err(|error| match error {
            PduError::Field { field: "signatures" | "hashes", .. } => ResidentError::Unsigned,
            error => error.into(),
        })?;
        let keys = self.keys.keys_for_pdus([&pdu]).await.map_err(RoomsError::from)?;
        let pdu = pdu.verify(&keys, self.clock.now_ms())?;
        if pdu.content_hash_matched() { Ok(pdu) } else { Err(ResidentError::WrongEvent("its content hash is wrong")) }
    }

    /// Makes an event part of its room; returns it with the signature of the room's policy server, if it was given one.
    async fn take_submitted(&self, room_id: &RoomId, pdu: VerifiedPdu) -> Result<VerifiedPdu, ResidentError> {
        if self.is_accepted(room_id, pdu.event_id()).await? {
            return Ok(pdu);
        }
        Ok(self.rooms.take_foreign(room_id, pdu).await?)
    }

    async fn is_accepted(&self, room_id: &RoomId, event_id: &EventId) -> Result<bool, ResidentError> {
        let is_accepted = self
            .rooms
            .look(room_id, |room| !room.is_outlier(event_id) && room.outcome(event_id) == Some(Outcome::Accepted));
        Ok(is_accepted.await?)
    }

    /// Adds our signature to an event of another server, which names a user of ours as the one that lets its sender in, if any.
    pub(super) fn signed_too(
        &self,
        pdu: &VerifiedPdu,
        rules: &'static RoomVersionRules,
    ) -> Result<VerifiedPdu, ResidentError> {
        let unreadable = |_| ResidentError::WrongEvent("it is not in canonical form");
        let mut event = parse_object(pdu.json(), JsonMode::ByteExact).map_err(unreadable)?;
        sign_event(&mut event, rules, &self.server_name, &self.signing_key).map_err(RoomsError::from)?;
        let signed_for = authorising_user(pdu.event()).map(|_| true);
        Ok(VerifiedPdu::restore(&object_to_canonical_bytes(&event), rules, signed_for, true)?)
    }
}

/// Checks that an event is a change of its sender's own membership to what the request is for, by a user of the server that asks.
fn check_submitted(event: &Event, origin: &ServerName, membership: Membership) -> Result<(), ResidentError> {
    if *event.event_type != *event_type::MEMBER {
        return Err(ResidentError::WrongEvent("it is no member event"));
    }
    if event.membership() != Some(membership) {
        return Err(ResidentError::WrongEvent("it is another membership"));
    }
    if event.state_key.as_deref() != Some(event.sender.as_str()) {
        return Err(ResidentError::WrongEvent("its state_key is not its sender"));
    }
    if event.sender.server_name() == origin.as_str() { Ok(()) } else { Err(ResidentError::ForeignUser) }
}

/// Checks that an event is the one that the path of a request names.
pub(super) fn check_names(event: &Event, room_id: &RoomId, event_id: &str) -> Result<(), ResidentError> {
    if event.room_id != *room_id {
        return Err(ResidentError::WrongEvent("it is of another room"));
    }
    if event.event_id.as_str() == event_id { Ok(()) } else { Err(ResidentError::WrongEvent("its id is another one")) }
}

/// Returns who lets the sender of a join in.
fn authorising_user(event: &Event) -> Option<UserId> {
    match &event.content {
        Content::Member(member) => UserId::parse(member.join_authorised_via_users_server.as_deref()?).ok(),
        _ => None,
    }
}
