//! Leaves and knocks of users of this server in rooms that it is not in.

use std::time::Duration;

use ravel_core::{
    canonical_json::{CanonicalJsonObject, CanonicalJsonValue},
    event::{Membership, event_type},
    id::{RoomId, ServerName, UserId},
    pdu::VerifiedPdu,
};
use ruma::api::federation::membership::{
    RawStrippedState, create_knock_event, create_leave_event, prepare_knock_event, prepare_leave_event,
};
use serde_json::{Map, Value, value::RawValue};

use super::{
    JoinFailure, MembershipError,
    asking::{
        ForeignTemplate, OwnMembership, known_versions, raw_json, ruma_event_id, ruma_room_id, ruma_user_id, waited_for,
    },
    invited::{outside, stripped},
};
use crate::{
    federation::written,
    homeserver::Homeserver,
    rooms::{MembershipChange, Outside, OutsideMembership, RoomsError},
};

/// How long other servers may take to hear that a user turns an invite down; then it has left all the same.
const LEAVE_TIME_MAX: Duration = Duration::from_secs(20);

impl Homeserver {
    /// Lets a user of this server leave a room, turn an invite down or take a knock back.
    ///
    /// Of a room that this server is not in, another server is told; if none can be, the user has left all the same. `content` is that
    /// of the member event beside `membership`. Goes on to its end if nobody waits for it.
    ///
    /// Source: server-server API, "Leaving Rooms (Rejecting Invites)".
    ///
    /// # Errors
    ///
    /// [`MembershipError`]: of rooms that the server is in, those of
    /// [`change_membership`](crate::rooms::Rooms::change_membership); `NotInRoom` for who is neither in the room nor invited.
    pub async fn leave(
        &self,
        user: &UserId,
        room_id: &RoomId,
        content: CanonicalJsonObject,
    ) -> Result<(), MembershipError> {
        let (server, user, room_id) = (self.clone(), user.clone(), room_id.clone());
        let leaving = tokio::spawn(async move {
            if server.rooms.is_resident(&room_id).await? {
                if server.rooms.membership(&room_id, &user).await?.is_none() {
                    return Err(RoomsError::NotInRoom.into());
                }
                let change = MembershipChange { target: user.clone(), membership: Membership::Leave, content };
                return Ok(server.rooms.change_membership(&room_id, &user, change).await.map(drop)?);
            }
            let outside = server.rooms.outside(&room_id, &user).await?;
            let in_room = match server.rooms.membership(&room_id, &user).await {
                Err(RoomsError::NoSuchRoom) => None,
                membership => membership?,
            };
            match &outside {
                Some(outside) if outside.membership == OutsideMembership::Leave => return Ok(()),
                Some(_) => {}
                // What the room was when this server left it.
                None if matches!(in_room, Some(Membership::Invite | Membership::Knock)) => {}
                None => return Err(RoomsError::NotInRoom.into()),
            }
            server.leave_elsewhere(&user, &room_id, outside, &content).await
        });
        leaving.await.map_err(|_| RoomsError::Panicked)?
    }

    async fn leave_elsewhere(
        &self,
        user: &UserId,
        room_id: &RoomId,
        before: Option<Outside>,
        content: &CanonicalJsonObject,
    ) -> Result<(), MembershipError> {
        let own = OwnMembership { room_id, user, membership: Membership::Leave, content };
        let servers: Vec<ServerName> = before.iter().flat_map(Outside::servers).collect();
        let told = async {
            for server in &self.candidates(room_id, &servers).await? {
                match self.leave_by(server, own).await {
                    Ok(leave) => return Ok(Some(leave)),
                    Err(failure) => tracing::info!(%room_id, %server, %failure, "a leave could not be told"),
                }
            }
            Ok::<_, RoomsError>(None)
        };
        let told = tokio::select! {
            told = told => told?,
            () = self.clock.sleep(LEAVE_TIME_MAX) => None,
        };
        let (servers, room_version) = before.map(|before| (before.servers, before.room_version)).unwrap_or_default();
        let left = match told {
            Some(leave) => {
                let left = outside(OutsideMembership::Leave, room_version, &leave, Vec::new(), &self.server_name)?;
                Outside { servers, ..left }
            }
            None => self.left_alone(own, servers, room_version),
        };
        Ok(self.rooms.set_outside(room_id, user, Some(&left)).await?)
    }

    /// Returns the leave of a user that no other server knows of.
    fn left_alone(&self, own: OwnMembership<'_>, servers: Vec<String>, room_version: String) -> Outside {
        let mut content: Map<String, Value> =
            own.content.iter().map(|(field, value)| (field.to_string(), json_of(value))).collect();
        content.insert("membership".to_owned(), "leave".into());
        let event = Map::from_iter([
            ("type".to_owned(), event_type::MEMBER.into()),
            ("sender".to_owned(), own.user.as_str().into()),
            ("state_key".to_owned(), own.user.as_str().into()),
            ("content".to_owned(), content.into()),
            ("origin_server_ts".to_owned(), self.clock.now_ms().into()),
        ]);
        let event_id = self.rooms.new_event_id();
        Outside { membership: OutsideMembership::Leave, event_id, event, state: Vec::new(), servers, room_version }
    }

    async fn leave_by(&self, server: &ServerName, own: OwnMembership<'_>) -> Result<VerifiedPdu, JoinFailure> {
        let request = prepare_leave_event::v1::Request::new(ruma_room_id(own.room_id)?, ruma_user_id(own.user)?);
        let template = self.client.send(server, request, waited_for()).await?;
        let template = ForeignTemplate::new(template.room_version.as_ref(), template.event)?;
        let leave = self.made_of(&template, server, own)?;
        let (event_id, pdu) = (ruma_event_id(leave.event_id())?, raw_json(leave.json())?);
        let request = create_leave_event::v2::Request::new(ruma_room_id(own.room_id)?, event_id, pdu);
        self.send_in_either_version(server, written(request)?, waited_for()).await?;
        Ok(leave)
    }

    /// Lets a user of this server knock on a room: here, if this server is in the room, or by the help of a server that is.
    ///
    /// `via` are servers that may be in the room; `content` is that of the member event beside `membership`. Goes on to its end if
    /// nobody waits for it.
    ///
    /// Source: server-server API, "Knocking upon a room".
    ///
    /// # Errors
    ///
    /// [`MembershipError`]
    pub async fn knock(
        &self,
        user: &UserId,
        room_id: &RoomId,
        via: &[ServerName],
        content: CanonicalJsonObject,
    ) -> Result<(), MembershipError> {
        let (server, user, room_id, via) = (self.clone(), user.clone(), room_id.clone(), via.to_vec());
        let knocking = tokio::spawn(async move {
            if server.rooms.is_resident(&room_id).await? {
                // Who knocked is waiting already.
                if server.rooms.membership(&room_id, &user).await? == Some(Membership::Knock) {
                    return Ok(());
                }
                let change = MembershipChange { target: user.clone(), membership: Membership::Knock, content };
                return Ok(server.rooms.change_membership(&room_id, &user, change).await.map(drop)?);
            }
            let own =
                OwnMembership { room_id: &room_id, user: &user, membership: Membership::Knock, content: &content };
            let mut failed: Option<JoinFailure> = None;
            for other in &server.candidates(&room_id, &via).await? {
                match server.knock_by(other, own).await {
                    Ok(knocked) => return Ok(server.rooms.set_outside(&room_id, &user, Some(&knocked)).await?),
                    Err(failure) => JoinFailure::keep_weightier(&mut failed, failure),
                }
            }
            Err(failed.map_or(MembershipError::NoServer, MembershipError::Failed))
        });
        knocking.await.map_err(|_| RoomsError::Panicked)?
    }

    async fn knock_by(&self, server: &ServerName, own: OwnMembership<'_>) -> Result<Outside, JoinFailure> {
        let mut request = prepare_knock_event::v1::Request::new(ruma_room_id(own.room_id)?, ruma_user_id(own.user)?);
        request.ver = known_versions();
        let template = self.client.send(server, request, waited_for()).await?;
        let template = ForeignTemplate::new(Some(&template.room_version), template.event)?;
        let knock = self.made_of(&template, server, own)?;
        let (event_id, pdu) = (ruma_event_id(knock.event_id())?, raw_json(knock.json())?);
        let request = create_knock_event::v1::Request::new(ruma_room_id(own.room_id)?, event_id, pdu);
        let answer = self.client.send(server, request, waited_for()).await?;
        let state: Vec<Box<RawValue>> = answer.knock_room_state.into_iter().filter_map(raw_state).collect();
        let version = template.rules().version.to_string();
        outside(OutsideMembership::Knock, version, &knock, stripped(&state), server)
            .map_err(|_| JoinFailure::Answer("the knock is no JSON".into()))
    }
}

#[allow(deprecated, reason = "deployed servers send stripped events")]
fn raw_state(event: RawStrippedState) -> Option<Box<RawValue>> {
    match event {
        RawStrippedState::Pdu(pdu) => Some(pdu),
        RawStrippedState::Stripped(event) => Some(event.into_json()),
        _ => None,
    }
}

fn json_of(value: &CanonicalJsonValue) -> Value {
    serde_json::from_slice(&ravel_core::canonical_json::to_canonical_bytes(value)).unwrap_or_default()
}
