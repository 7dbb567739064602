//! Invites of users of other servers by users of this one.
//!
//! Source: server-server API, "Inviting to a room".

use bytes::Bytes;
use http::{Method, Request, Uri};
use ravel_core::{
    canonical_json::CanonicalJsonObject,
    event::{Membership, event_type},
    id::{RoomId, ServerName, UserId},
    pdu::{ParsedPdu, VerifiedPdu},
    room_version::RoomVersionRules,
};
use ruma::{
    RoomVersionId,
    api::federation::membership::{RawStrippedState, create_invite},
};
use serde::{Deserialize, de::IgnoredAny};
use serde_json::{json, value::RawValue};

use super::{
    JoinFailure, MembershipError,
    asking::{is_of_unknown_path, raw_json, ruma_event_id, ruma_room_id, waited_for},
};
use crate::{
    federation::{FederationError, RemoteError, written},
    homeserver::Homeserver,
    rooms::{CreateRoom, MembershipChange, RoomsError, SendEvent},
};

/// An answer of either version.
#[derive(Deserialize)]
struct Answer {
    event: Box<RawValue>,
}

impl Homeserver {
    /// Lets a user of this server invite somebody to a room that the server is in. A user of another server is told by its server, which
    /// signs the invite before it counts.
    ///
    /// `content` is that of the member event beside `membership`. Goes on to its end if nobody waits for it.
    ///
    /// # Errors
    ///
    /// [`MembershipError`]
    pub async fn invite(
        &self,
        sender: &UserId,
        room_id: &RoomId,
        target: &UserId,
        content: CanonicalJsonObject,
    ) -> Result<(), MembershipError> {
        let (server, sender, room_id, target) = (self.clone(), sender.clone(), room_id.clone(), target.clone());
        let inviting = tokio::spawn(async move {
            if target.server_name() == server.server_name.as_str() {
                let change = MembershipChange { target, membership: Membership::Invite, content };
                return Ok(server.rooms.change_membership(&room_id, &sender, change).await.map(drop)?);
            }
            let mut content = content;
            content.insert("membership".into(), "invite".into());
            let event = SendEvent {
                event_type: event_type::MEMBER.to_owned(),
                state_key: Some(target.to_string()),
                content,
                redacts: None,
            };
            let invite = server.rooms.draft(&room_id, &sender, &event).await?;
            let other = ServerName::parse(target.server_name()).map_err(|_| RoomsError::BadValue("user_id"))?;
            let invite = server.signed_by_invited(&room_id, invite, &other).await?;
            Ok(server.rooms.take_foreign(&room_id, invite).await.map(drop)?)
        });
        inviting.await.map_err(|_| RoomsError::Panicked)?
    }

    /// [Makes a room](crate::rooms::Rooms::create), and invites the users of other servers, too. Whoever can't be invited is not: the
    /// room is there.
    ///
    /// # Errors
    ///
    /// Those of making a room.
    pub async fn create_room(&self, creator: &UserId, wanted: CreateRoom) -> Result<RoomId, RoomsError> {
        let is_elsewhere = |user: &&UserId| user.server_name() != self.server_name.as_str();
        let others: Vec<UserId> = wanted.invite.iter().filter(is_elsewhere).cloned().collect();
        let content = wanted.invite_content();
        let room_id = self.rooms.create(creator, wanted).await?;
        for user in others {
            if let Err(error) = self.invite(creator, &room_id, &user, content.clone()).await {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(%room_id, %user, error, "a user of another server can't be invited to a new room");
            }
        }
        Ok(room_id)
    }

    /// Sends an invite to the server of the invited user; returns it with the signature of that server.
    pub(super) async fn signed_by_invited(
        &self,
        room_id: &RoomId,
        invite: VerifiedPdu,
        other: &ServerName,
    ) -> Result<VerifiedPdu, JoinFailure> {
        let rules = self.rooms.rules(room_id).await?;
        let state = self.rooms.description_pdus(room_id, Some(&invite.event().sender)).await?;
        let state: Vec<Box<RawValue>> = state.iter().map(|pdu| raw_json(pdu)).collect::<Result<_, _>>()?;
        let event_id = ruma_event_id(invite.event_id())?;
        let version = RoomVersionId::try_from(rules.version.as_str()).map_err(|_| FederationError::Request)?;
        let pdus = state.iter().cloned().map(RawStrippedState::Pdu).collect();
        let pdu = raw_json(invite.json())?;
        let request = create_invite::v2::Request::new(ruma_room_id(room_id)?, event_id, version, pdu, pdus);
        let request = written(request)?;
        let uri = request.uri().clone();
        let answer = match self.client.send_raw(other, request, waited_for()).await {
            Ok(answer) => serde_json::from_slice::<Answer>(answer.body()),
            // The old form knows no room version but the first two.
            Err(FederationError::Remote(error)) if is_of_old_server(&error, rules) => {
                let request = old_request(&uri, &invite, &state).ok_or(FederationError::Request)?;
                let answer = self.client.send_raw(other, request, waited_for()).await?;
                serde_json::from_slice::<(IgnoredAny, Answer)>(answer.body()).map(|(_, answer)| answer)
            }
            Err(error) => return Err(error.into()),
        };
        let answer = answer.map_err(|error| JoinFailure::Answer(error.to_string().into()))?;
        self.checked_invite(invite, &answer, other, rules).await
    }

    /// Returns the invite that a server has answered, if it is ours with the signature of that server too.
    async fn checked_invite(
        &self,
        invite: VerifiedPdu,
        answer: &Answer,
        other: &ServerName,
        rules: &'static RoomVersionRules,
    ) -> Result<VerifiedPdu, JoinFailure> {
        let answered = ParsedPdu::parse(answer.event.get().as_bytes(), rules)?;
        if answered.event() != &**invite.event() {
            return Err(JoinFailure::Answer("it is another event".into()));
        }
        let is_signed = |pdu: &ParsedPdu| {
            let signatures = pdu.json().get("signatures").and_then(|signatures| signatures.as_object());
            signatures.is_some_and(|signatures| signatures.contains_key(other.as_str()))
        };
        if !is_signed(&answered) {
            return Err(JoinFailure::Answer("it is not signed by the server of the invited user".into()));
        }
        let keys = self.keys.keys_for_pdus([&answered]).await.map_err(RoomsError::from)?;
        match answered.verify(&keys, self.clock.now_ms()) {
            Ok(signed) if signed.content_hash_matched() => Ok(signed),
            _ => Err(JoinFailure::Answer("it is not what was sent".into())),
        }
    }
}

/// "Senders which receive a 400 or 404 response to this endpoint should retry using the v1 API as the server may be older, if the room
/// version is "1" or "2"." An error that says what it is comes from a server that knows the endpoint.
fn is_of_old_server(error: &RemoteError, rules: &RoomVersionRules) -> bool {
    matches!(rules.version.as_str(), "1" | "2") && is_of_unknown_path(error)
}

/// Returns the request of the first version: the event itself, with what describes the room in `unsigned`.
fn old_request(uri: &Uri, invite: &VerifiedPdu, state: &[Box<RawValue>]) -> Option<Request<Bytes>> {
    let path = uri.path().strip_prefix("/_matrix/federation/v2/")?;
    let mut event: serde_json::Value = serde_json::from_slice(invite.json()).ok()?;
    event.as_object_mut()?.insert("unsigned".to_owned(), json!({ "invite_room_state": state }));
    let request = Request::builder().method(Method::PUT).uri(format!("/_matrix/federation/v1/{path}"));
    let request = request.header(http::header::CONTENT_TYPE, "application/json");
    request.body(event.to_string().into()).ok()
}
