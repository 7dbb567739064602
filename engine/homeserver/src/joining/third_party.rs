//! Invites of third-party identifiers, which become invites of users once an identity server says whose they are.
//!
//! Source: server-server API, "Third-party invites".

use ravel_core::{
    canonical_json::{CanonicalJsonObject, get_object, get_str, object_to_canonical_bytes},
    event::event_type,
    id::{RoomId, ServerName, UserId},
};
use ruma::api::federation::thirdparty::exchange_invite;

use super::{
    JoinFailure, MembershipError, ResidentError,
    asking::{ruma_room_id, ruma_user_id, waited_for},
};
use crate::{
    federation::{FederationError, written},
    homeserver::Homeserver,
    rooms::{RoomsError, SendEvent},
};

/// The most invites that an identity server may tell of at once.
pub const BOUND_INVITES_MAX: usize = 50;

/// An invite of a third-party identifier, with the user that it belongs to.
#[derive(Clone, Debug)]
pub struct BoundInvite {
    /// The room.
    pub room_id: RoomId,
    /// Who invites.
    pub sender: UserId,
    /// Whom.
    pub target: UserId,
    /// What the identity server has signed: `mxid`, `token` and `signatures`.
    pub signed: CanonicalJsonObject,
}

impl Homeserver {
    /// Takes what an identity server says about an identifier of a user of this server: the user is invited to the rooms to which the
    /// identifier was, by this server if it is in the room, else by that of who invites. An invite that fails does not stop others.
    ///
    /// Anybody may say so; what the identity server has signed is checked by the rules of the room.
    ///
    /// Source: server-server API, "PUT /_matrix/federation/v1/3pid/onbind".
    ///
    /// # Errors
    ///
    /// `UnknownUser`; when the log can't be read.
    pub async fn third_party_bound(&self, user: &UserId, invites: &[BoundInvite]) -> Result<(), ResidentError> {
        let is_ours = user.server_name() == self.server_name.as_str();
        if !is_ours || !self.accounts.is_known(user).await.map_err(|_| ResidentError::UnknownUser)? {
            return Err(ResidentError::UnknownUser);
        }
        let of_user = invites.iter().take(BOUND_INVITES_MAX).filter(|invite| invite.target == *user);
        for invite in of_user {
            let invited = match self.rooms.is_resident(&invite.room_id).await? {
                true => self.invite_bound(invite).await,
                false => self.have_invited(invite).await.map_err(MembershipError::from),
            };
            if let Err(error) = invited {
                tracing::info!(room_id = %invite.room_id, %user, %error, "an invite of a third-party id came to nothing");
            }
        }
        Ok(())
    }

    /// Makes an invite of what the server of an invited user hands in, which is not in the room.
    ///
    /// Source: server-server API, "PUT /_matrix/federation/v1/exchange_third_party_invite/{roomId}".
    ///
    /// # Errors
    ///
    /// [`MembershipError`]: the room does not allow it, or the server of the invited user does not sign it.
    pub async fn exchange_third_party_invite(
        &self,
        origin: &ServerName,
        invite: &BoundInvite,
    ) -> Result<(), MembershipError> {
        self.check_resident(origin, &invite.room_id).await?;
        self.invite_bound(invite).await
    }

    /// Invites a user to a room that this server is in.
    async fn invite_bound(&self, invite: &BoundInvite) -> Result<(), MembershipError> {
        let BoundInvite { room_id, sender, target, signed } = invite;
        let token = get_str(signed, "token").ok_or(RoomsError::BadValue("signed"))?;
        let asked = self.rooms.state_content(room_id, event_type::THIRD_PARTY_INVITE, token).await?.unwrap_or_default();
        let display_name = get_str(&asked, "display_name").unwrap_or_default();
        let third_party = CanonicalJsonObject::from([
            ("display_name".into(), display_name.into()),
            ("signed".into(), signed.clone().into()),
        ]);
        let content = CanonicalJsonObject::from([
            ("membership".into(), "invite".into()),
            ("third_party_invite".into(), third_party.into()),
        ]);
        let event = SendEvent {
            event_type: event_type::MEMBER.to_owned(),
            state_key: Some(target.to_string()),
            content,
            redacts: None,
        };
        let mut made = self.rooms.draft(room_id, sender, &event).await?;
        let other = ServerName::parse(target.server_name()).map_err(|_| RoomsError::BadValue("state_key"))?;
        if other != self.server_name {
            made = self.signed_by_invited(room_id, made, &other).await?;
        }
        Ok(self.rooms.take_foreign(room_id, made).await.map(drop)?)
    }

    /// Has the server of who invites invite a user of this server.
    async fn have_invited(&self, invite: &BoundInvite) -> Result<(), JoinFailure> {
        let BoundInvite { room_id, sender, target, signed } = invite;
        let server = ServerName::parse(sender.server_name()).map_err(|_| FederationError::Request)?;
        let third_party = CanonicalJsonObject::from([("signed".into(), signed.clone().into())]);
        let content = CanonicalJsonObject::from([
            ("membership".into(), "invite".into()),
            ("third_party_invite".into(), third_party.into()),
        ]);
        let event = CanonicalJsonObject::from([
            ("type".into(), event_type::MEMBER.into()),
            ("room_id".into(), room_id.as_str().into()),
            ("sender".into(), sender.as_str().into()),
            ("state_key".into(), target.as_str().into()),
            ("content".into(), content.into()),
        ]);
        let raw = serde_json::from_slice(b"{}").map_err(|_| FederationError::Request)?;
        let request = exchange_invite::v1::Request::new(
            ruma_room_id(room_id)?,
            ruma_user_id(sender)?,
            ruma_user_id(target)?,
            raw,
        );
        // ruma's body lacks the room.
        let request = written(request)?.map(|_| object_to_canonical_bytes(&event).into());
        self.client.send_raw(&server, request, waited_for()).await?;
        Ok(())
    }
}

impl BoundInvite {
    /// Reads the event that the server of an invited user hands in.
    ///
    /// # Errors
    ///
    /// `WrongEvent` if it is none, or of another room.
    pub fn of_event(room_id: RoomId, event: &CanonicalJsonObject) -> Result<Self, ResidentError> {
        let wrong = |what| move || ResidentError::WrongEvent(what);
        let user = |field| UserId::parse(get_str(event, field)?).ok();
        let content = get_object(event, "content").ok_or_else(wrong("it has no content"))?;
        if get_str(event, "type") != Some(event_type::MEMBER) || get_str(content, "membership") != Some("invite") {
            return Err(ResidentError::WrongEvent("it is no invite"));
        }
        if event.get("room_id").is_some_and(|of| of.as_str() != Some(room_id.as_str())) {
            return Err(ResidentError::WrongEvent("it is of another room"));
        }
        let third_party = get_object(content, "third_party_invite").ok_or_else(wrong("it is of no third-party id"))?;
        let signed = get_object(third_party, "signed").ok_or_else(wrong("nothing is signed"))?;
        Ok(Self {
            room_id,
            sender: user("sender").ok_or_else(wrong("it has no sender"))?,
            target: user("state_key").ok_or_else(wrong("it invites nobody"))?,
            signed: signed.clone(),
        })
    }
}
