//! Sending events, and changing memberships.

use bytes::Bytes;
use ravel_core::{
    canonical_json::{CanonicalJsonObject, JsonMode, get_object, get_str, parse_object},
    event::{Membership, event_type},
    id::{EventId, RoomId, UserId},
    pdu::VerifiedPdu,
    room::{NewEvent, Room},
};

use super::{Rooms, RoomsError, Writing, receive::asked_for};
use crate::random::random_text;

/// An event that a user sends.
#[derive(Clone, Debug)]
pub struct SendEvent {
    /// Its type.
    pub event_type: String,
    /// Its state key, if it is a state event.
    pub state_key: Option<String>,
    /// Its content.
    pub content: CanonicalJsonObject,
    /// The event that is redacted, of a redaction.
    pub redacts: Option<EventId>,
}

/// A change of somebody's membership.
#[derive(Clone, Debug)]
pub struct MembershipChange {
    /// Whose.
    pub target: UserId,
    /// What it becomes.
    pub membership: Membership,
    /// The content beside `membership`: a reason, a display name.
    pub content: CanonicalJsonObject,
}

impl Rooms {
    /// Sends an event into a room; returns its id once it is durable. If the room uses a policy server, that has to sign it before.
    ///
    /// # Errors
    ///
    /// `NoSuchRoom`, `Refused`, `Policy`, `Invalid`.
    pub async fn send(&self, room_id: &RoomId, sender: &UserId, event: SendEvent) -> Result<EventId, RoomsError> {
        self.send_as(room_id, sender, event, None).await
    }

    /// As [`send`](Self::send); if it is what a client's request is about, by its key, that is kept.
    pub(super) async fn send_as(
        &self,
        room_id: &RoomId,
        sender: &UserId,
        event: SendEvent,
        transaction: Option<Bytes>,
    ) -> Result<EventId, RoomsError> {
        let signed = match self.policy_server(room_id).await? {
            Some(_) => {
                let made = self.draft(room_id, sender, &event).await?;
                // It may be another policy server by now.
                Some(self.signed_by_policy_server(room_id, made).await?)
            }
            None => None,
        };
        let about = match &signed {
            Some(signed) => asked_for(signed.event()).collect(),
            None => event.redacts.iter().cloned().collect(),
        };
        let sender = sender.clone();
        let send = move |writing: &mut Writing<'_>| {
            let sent = match signed {
                Some(signed) => writing.take_foreign(&signed).map(|()| signed),
                None => writing.send(&sender, &event),
            }?;
            if let Some(transaction) = transaction {
                writing.note_transaction(transaction, sent.event_id())?;
            }
            Ok(sent.event_id().clone())
        };
        self.write(room_id.clone(), about, send).await
    }

    /// Checks that a user could send an event now.
    ///
    /// # Errors
    ///
    /// `NoSuchRoom`, `Refused`, `Invalid`.
    pub async fn check_event(&self, room_id: &RoomId, sender: &UserId, event: &SendEvent) -> Result<(), RoomsError> {
        let inner = &self.0;
        let check = |loaded: &super::LoadedRoom| {
            let pdu = inner.sign(inner.compose(&loaded.room, sender, event)?, loaded.room.rules())?;
            Ok(loaded.room.check(&pdu)?)
        };
        self.read(room_id, check).await?
    }

    /// Sets an entry of a room's state. If it has this content by the same user already, nothing is sent: the id is that of the event
    /// that is there.
    ///
    /// # Errors
    ///
    /// As [`send`](Self::send).
    pub async fn set_state(&self, room_id: &RoomId, sender: &UserId, event: SendEvent) -> Result<EventId, RoomsError> {
        let key = event.state_key.clone().unwrap_or_default();
        let held = |loaded: &super::LoadedRoom| loaded.room.current_state().get(&event.event_type, &key);
        let held = self.read(room_id, held).await?;
        let logged = match &held {
            Some(event_id) => self.0.log.logged_event(room_id, event_id).await?.and_then(|event| event.json),
            None => None,
        };
        let json = logged.and_then(|json| parse_object(&json, JsonMode::ByteExact).ok()).unwrap_or_default();
        let is_same =
            get_object(&json, "content") == Some(&event.content) && get_str(&json, "sender") == Some(sender.as_str());
        match held {
            // Who may not send it learns that.
            Some(held) if is_same && self.membership(room_id, sender).await? == Some(Membership::Join) => Ok(held),
            _ => self.send(room_id, sender, event).await,
        }
    }

    /// Changes a membership: joining, inviting, leaving, kicking, banning, unbanning, knocking.
    ///
    /// # Errors
    ///
    /// `NoSuchRoom`, `Refused`, `Policy`, `Invalid`; `NoChange` if a user leaves who is not there; `GuestsForbidden` if a guest may
    /// not join.
    pub async fn change_membership(
        &self,
        room_id: &RoomId,
        sender: &UserId,
        change: MembershipChange,
    ) -> Result<EventId, RoomsError> {
        let is_join = change.membership == Membership::Join;
        if is_join && self.is_guest(&change.target).await? && !self.guests_can_join(room_id).await? {
            return Err(RoomsError::GuestsForbidden);
        }
        if self.policy_server(room_id).await?.is_some() {
            let event = self.look(room_id, |room| member_event(room, change.clone())).await??;
            return self.send(room_id, sender, event).await;
        }
        let sender = sender.clone();
        let change = move |writing: &mut Writing<'_>| writing.change_membership(&sender, change);
        self.write(room_id.clone(), Vec::new(), change).await
    }
}

impl Writing<'_> {
    /// Makes an event by a user of this server part of the room.
    pub(super) fn send(&mut self, sender: &UserId, event: &SendEvent) -> Result<VerifiedPdu, RoomsError> {
        self.take(self.inner.compose(self.room, sender, event)?)
    }

    pub(super) fn change_membership(
        &mut self,
        sender: &UserId,
        change: MembershipChange,
    ) -> Result<EventId, RoomsError> {
        let event = member_event(self.room, change)?;
        Ok(self.send(sender, &event)?.event_id().clone())
    }
}

/// Returns the event that changes a membership.
fn member_event(room: &Room, change: MembershipChange) -> Result<SendEvent, RoomsError> {
    let MembershipChange { target, membership, mut content } = change;
    let member = room.current_state().get(event_type::MEMBER, target.as_str());
    let now = member.and_then(|event_id| room.event(&event_id)?.membership());
    let leaves = membership == Membership::Leave && matches!(now, None | Some(Membership::Leave));
    if leaves {
        return Err(RoomsError::NoChange);
    }
    let text = membership_text(membership).ok_or(RoomsError::BadValue("membership"))?;
    content.insert("membership".into(), text.into());
    Ok(SendEvent {
        event_type: event_type::MEMBER.to_owned(),
        state_key: Some(target.to_string()),
        content,
        redacts: None,
    })
}

impl super::Inner {
    /// Makes an event of a user of this server, not signed yet.
    fn compose(&self, room: &Room, sender: &UserId, event: &SendEvent) -> Result<CanonicalJsonObject, RoomsError> {
        let event_id = self.new_event_id();
        Ok(room.compose(&NewEvent {
            sender,
            event_type: &event.event_type,
            state_key: event.state_key.as_deref(),
            content: event.content.clone(),
            redacts: event.redacts.as_ref(),
            origin_server_ts_ms: self.clock.now_ms(),
            event_id: &event_id,
        })?)
    }

    /// Returns an event id for room versions 1 and 2.
    pub(super) fn new_event_id(&self) -> String {
        format!("${}:{}", random_text(&*self.random, 18), self.server_name)
    }
}

fn membership_text(membership: Membership) -> Option<&'static str> {
    Some(match membership {
        Membership::Join => "join",
        Membership::Invite => "invite",
        Membership::Leave => "leave",
        Membership::Ban => "ban",
        Membership::Knock => "knock",
        Membership::Unknown => return None,
    })
}
