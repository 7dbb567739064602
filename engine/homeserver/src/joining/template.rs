//! As a resident: templates of the events by which users of other servers come, go and knock.

use ravel_core::{
    canonical_json::{CanonicalJsonObject, CanonicalJsonValue},
    event::{Membership, event_type},
    id::{RoomId, ServerName, UserId},
    room::NewEvent,
    room_version::RoomVersion,
};

use super::ResidentError;
use crate::{
    homeserver::Homeserver,
    rooms::{AUTHORISING_USER, RoomsError},
};

/// What another server makes an event of.
#[derive(Clone, Debug, PartialEq)]
pub struct Template {
    /// The version of the room.
    pub room_version: RoomVersion,
    /// The event, without hashes and signatures.
    pub event: CanonicalJsonObject,
}

impl Homeserver {
    /// Returns the template of a member event by a user of another server, as the room would accept it now.
    ///
    /// `versions` are the room versions that the other server knows; `None` if it does not tell.
    ///
    /// Source: server-server API, "GET /_matrix/federation/v1/make_join/{roomId}/{userId}", and those for leaves and knocks.
    ///
    /// # Errors
    ///
    /// [`ResidentError`]
    pub async fn make_membership(
        &self,
        origin: &ServerName,
        room_id: &RoomId,
        user: &UserId,
        membership: Membership,
        versions: Option<&[&str]>,
    ) -> Result<Template, ResidentError> {
        if user.server_name() != origin.as_str() {
            return Err(ResidentError::ForeignUser);
        }
        self.check_resident(origin, room_id).await?;
        let rules = self.rooms.rules(room_id).await?;
        if versions.is_some_and(|versions| !versions.contains(&rules.version.as_str())) {
            return Err(ResidentError::IncompatibleRoomVersion(rules.version));
        }
        let mut content = CanonicalJsonObject::new();
        let text = membership_text(membership).ok_or(ResidentError::WrongEvent("membership"))?;
        content.insert("membership".into(), text.into());
        if membership == Membership::Join
            && let Some(authorising) = self.authorising_user(room_id, user).await?
        {
            content.insert(AUTHORISING_USER.into(), CanonicalJsonValue::from(authorising.as_str()));
        }
        let event_id = self.rooms.new_event_id();
        let new = NewEvent {
            sender: user,
            event_type: event_type::MEMBER,
            state_key: Some(user.as_str()),
            content,
            redacts: None,
            origin_server_ts_ms: self.clock.now_ms(),
            event_id: &event_id,
        };
        Ok(Template { room_version: rules.version, event: self.rooms.template(room_id, &new).await? })
    }

    /// Checks that this server can speak for a room, and that the room lets the other server take part.
    pub(super) async fn check_resident(&self, origin: &ServerName, room_id: &RoomId) -> Result<(), ResidentError> {
        if !self.rooms.is_resident(room_id).await? {
            return Err(ResidentError::NotInRoom);
        }
        if self.rooms.acl_allows(room_id, origin).await? { Ok(()) } else { Err(ResidentError::ServerDenied) }
    }
}

/// Returns what `membership` says, of the memberships by which users come and go themselves.
pub(super) fn membership_text(membership: Membership) -> Option<&'static str> {
    match membership {
        Membership::Join => Some("join"),
        Membership::Leave => Some("leave"),
        Membership::Knock => Some("knock"),
        Membership::Invite | Membership::Ban | Membership::Unknown => None,
    }
}

/// An error of a room that is not here is that it is not here.
impl From<RoomsError> for ResidentError {
    fn from(error: RoomsError) -> Self {
        match error {
            RoomsError::NoSuchRoom => Self::NotInRoom,
            error => Self::Rooms(error),
        }
    }
}
