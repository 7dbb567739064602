//! Invites of users of this server by users of others.
//!
//! Source: server-server API, "Inviting to a room".

use ravel_core::{
    canonical_json::{CanonicalJsonObject, JsonMode, get_object, get_str, parse_object},
    event::{Event, Membership, event_type},
    id::{RoomId, ServerName, UserId},
    pdu::{ParsedPdu, VerifiedPdu},
    room_version::{RoomVersion, RoomVersionRules},
};
use serde::Deserialize;
use serde_json::{Map, Value, value::RawValue};

use super::{ResidentError, submitted::check_names};
use crate::{
    homeserver::Homeserver,
    record::{PART_DEPTH_MAX, is_within},
    rooms::{Incoming, Outside, OutsideMembership},
};

/// The most events about a room that are kept with an invite to it.
const STATE_EVENTS_MAX: usize = 30;

/// How long they may be all together, in bytes.
const STATE_BYTES_MAX: usize = 128 << 10;

/// The most invites that a user has not answered, to rooms that this server is not in.
const INVITES_MAX: usize = 500;

impl Homeserver {
    /// Takes the invite of a user of this server by one of another; returns the invite, as JSON, with our signature.
    ///
    /// `state` are events about the room, in full or in stripped form. What is no such event is left out. If this server is not in the
    /// room, the invite is kept with them. In room versions whose id is made of the create event, all of them have to be events of the
    /// room in full, with valid signatures; no more than 30 are looked at.
    ///
    /// # Errors
    ///
    /// [`ResidentError`]; nothing is signed then.
    pub async fn receive_invite(
        &self,
        origin: &ServerName,
        room_id: &RoomId,
        event_id: &str,
        pdu: &[u8],
        room_version: RoomVersion,
        state: &[Box<RawValue>],
    ) -> Result<Vec<u8>, ResidentError> {
        let rules = room_version.rules();
        let is_resident = self.rooms.is_resident(room_id).await?;
        if is_resident {
            self.check_resident(origin, room_id).await?;
            if self.rooms.rules(room_id).await?.version != room_version {
                return Err(ResidentError::WrongEvent("the room is of another version"));
            }
        }
        let invite = self.verified(pdu, rules).await?;
        check_names(invite.event(), room_id, event_id)?;
        let user = self.invited_user(invite.event(), origin)?;
        // What is kept is bounded by the users that there are.
        if !is_resident && !self.accounts.is_known(&user).await.map_err(|_| ResidentError::UnknownUser)? {
            return Err(ResidentError::UnknownUser);
        }
        let mut state = state;
        if rules.room_id_is_create_hash && !is_resident {
            state = state.get(..STATE_EVENTS_MAX).unwrap_or(state);
            self.check_state(room_id, rules, state).await?;
        }
        check_create(room_id, rules, state, is_resident)?;
        if is_resident {
            // Whether its sender may invite is found out when the room judges it, here as at all others.
            match self.rooms.membership(room_id, &user).await? {
                Some(Membership::Join) => return Err(ResidentError::AlreadyJoined),
                Some(Membership::Ban) => return Err(ResidentError::Banned),
                _ => {}
            }
        }
        let signed = self.signed_too(&invite, rules)?;
        if is_resident {
            // It comes again in a transaction; if something is missing that it builds on, that is asked for then.
            self.rooms.receive(room_id, vec![Incoming::new(signed.clone())]).await?;
        } else {
            if self.rooms.invites_from_outside(&user) >= INVITES_MAX {
                return Err(ResidentError::TooManyInvites);
            }
            let outside =
                outside(OutsideMembership::Invite, room_version.to_string(), &signed, stripped(state), origin)?;
            self.rooms.set_outside(room_id, &user, Some(&outside)).await?;
        }
        Ok(signed.json().to_vec())
    }

    /// Checks that events about a room are what they say.
    async fn check_state(
        &self,
        room_id: &RoomId,
        rules: &'static RoomVersionRules,
        state: &[Box<RawValue>],
    ) -> Result<(), ResidentError> {
        let verified = self.verify_pdus(rules, state.to_vec()).await;
        let is_of_room = |pdu: &VerifiedPdu| pdu.event().room_id == *room_id && pdu.content_hash_matched();
        if verified.iter().all(|(_, verified)| verified.as_ref().is_ok_and(is_of_room)) {
            return Ok(());
        }
        Err(ResidentError::WrongEvent("an event about the room is none of the room, in full and with valid signatures"))
    }

    /// Takes an event of a room that this server is not in, if it is one by which an invite of a user of ours is withdrawn or a knock is
    /// refused; returns whether it is.
    ///
    /// Who may do that can't be told without the room's state: servers that invited the user, or that it knocked at, are believed.
    pub(crate) async fn takes_withdrawal(&self, origin: &ServerName, room_id: &RoomId, pdu: &RawValue) -> bool {
        let withdrawn = self.withdraw(origin, room_id, pdu).await;
        withdrawn.unwrap_or_else(|error| {
            tracing::info!(%origin, %room_id, %error, "an event of a room that this server is not in was dropped");
            false
        })
    }

    async fn withdraw(&self, origin: &ServerName, room_id: &RoomId, pdu: &RawValue) -> Result<bool, ResidentError> {
        let Ok(MemberOf { event_type, state_key }) = serde_json::from_str(pdu.get()) else { return Ok(false) };
        let user = state_key.filter(|_| event_type == event_type::MEMBER).and_then(|user| UserId::parse(&user).ok());
        let Some(user) = user.filter(|user| user.server_name() == self.server_name.as_str()) else { return Ok(false) };
        let before = self.rooms.outside(room_id, &user).await?;
        let Some(before) = before.filter(|it| it.membership != OutsideMembership::Leave) else { return Ok(false) };
        let Some(version) = RoomVersion::parse(&before.room_version) else { return Ok(false) };
        let pdu = self.verified(pdu.get().as_bytes(), version.rules()).await?;
        let event = pdu.event();
        let ends_it = matches!(event.membership(), Some(Membership::Leave | Membership::Ban));
        let is_it = event.room_id == *room_id && event.state_key.as_deref() == Some(user.as_str());
        if !ends_it || !is_it || !before.servers().any(|server| server == *origin) {
            return Ok(false);
        }
        let left = outside(OutsideMembership::Leave, version.to_string(), &pdu, Vec::new(), origin)?;
        self.rooms.set_outside(room_id, &user, Some(&Outside { servers: before.servers, ..left })).await?;
        Ok(true)
    }

    /// Checks that an event is an invite of a user of this server by a user of the server that sends it.
    fn invited_user(&self, event: &Event, origin: &ServerName) -> Result<UserId, ResidentError> {
        if *event.event_type != *event_type::MEMBER {
            return Err(ResidentError::WrongEvent("it is no member event"));
        }
        if event.membership() != Some(Membership::Invite) {
            return Err(ResidentError::WrongEvent("it is no invite"));
        }
        if event.sender.server_name() != origin.as_str() {
            return Err(ResidentError::ForeignUser);
        }
        let user = event.state_key.as_deref().and_then(|user| UserId::parse(user).ok());
        let user = user.filter(|user| user.server_name() == self.server_name.as_str());
        user.ok_or(ResidentError::WrongEvent("it invites nobody of this server"))
    }
}

/// What tells whose membership an event is.
#[derive(Deserialize)]
struct MemberOf {
    #[serde(rename = "type")]
    event_type: String,
    state_key: Option<String>,
}

/// Returns what is kept of a member event of a room that this server is not in.
pub(super) fn outside(
    membership: OutsideMembership,
    room_version: String,
    event: &VerifiedPdu,
    state: Vec<Map<String, Value>>,
    server: &ServerName,
) -> Result<Outside, ResidentError> {
    let unreadable = ResidentError::WrongEvent("it is nested too deep, or has a number out of any range");
    let json = readable(event.json()).ok_or(unreadable)?;
    let event_id = event.event_id().to_string();
    Ok(Outside { membership, event_id, event: json, state, servers: vec![server.to_string()], room_version })
}

/// Reads an event, unless it is nested so deep that it could not be read as a part of what is kept.
fn readable(event: &[u8]) -> Option<Map<String, Value>> {
    let event: Value = serde_json::from_slice(event).ok()?;
    match event {
        Value::Object(fields) if fields.values().all(|value| is_within(value, PART_DEPTH_MAX)) => Some(fields),
        _ => None,
    }
}

/// Returns the events that can be shown, in stripped form, as far as there is room for them.
///
/// Source: client-server API, "Stripped state".
pub(super) fn stripped(state: &[Box<RawValue>]) -> Vec<Map<String, Value>> {
    let mut bytes_left = STATE_BYTES_MAX;
    let mut events = Vec::new();
    for event in state.iter().filter(|event| event.get().len() <= STATE_BYTES_MAX) {
        let Some(mut fields) = readable(event.get().as_bytes()) else { continue };
        fields.retain(|field, _| ["content", "sender", "state_key", "type"].contains(&field.as_str()));
        let is_event =
            ["sender", "state_key", "type"].iter().all(|field| fields.get(*field).is_some_and(Value::is_string))
                && fields.get("content").is_some_and(Value::is_object);
        let bytes = Value::from(fields.clone()).to_string().len();
        if is_event && events.len() < STATE_EVENTS_MAX && bytes <= bytes_left {
            bytes_left -= bytes;
            events.push(fields);
        }
    }
    events
}

/// Checks that the create event among the events about a room, if there is one, is that of a room of this version and id.
///
/// It has to be there in room versions whose id is made of it, where it proves that the room is what it is said to be.
fn check_create(
    room_id: &RoomId,
    rules: &'static RoomVersionRules,
    state: &[Box<RawValue>],
    is_resident: bool,
) -> Result<(), ResidentError> {
    let creates = state.iter().filter_map(|event| {
        let object = parse_object(event.get().as_bytes(), JsonMode::ByteExact).ok()?;
        (get_str(&object, "type") == Some(event_type::CREATE)).then_some((event, object))
    });
    let mut proved = is_resident || !rules.room_id_is_create_hash;
    for (event, object) in creates {
        if room_version_of(&object) != rules.version.as_str() {
            return Err(ResidentError::WrongEvent("the create event is of another room version"));
        }
        // Servers of old leave out all but four fields.
        if object.contains_key("hashes") {
            let create = ParsedPdu::parse(event.get().as_bytes(), rules)?;
            if create.event().room_id != *room_id {
                return Err(ResidentError::WrongEvent("the create event is of another room"));
            }
            proved = true;
        }
    }
    if proved { Ok(()) } else { Err(ResidentError::NoCreateEvent) }
}

/// Returns what a create event says of the version of its room.
fn room_version_of(create: &CanonicalJsonObject) -> &str {
    get_object(create, "content").and_then(|content| get_str(content, "room_version")).unwrap_or("1")
}
