//! Making rooms.

use ravel_core::{
    canonical_json::{CanonicalJsonObject, CanonicalJsonValue, JsonMode, get_array, get_object, parse_object},
    event::{Membership, event_type},
    id::{RoomId, UserId},
    pdu::{PolicyServer, VerifiedPdu},
    room::{Room, compose_create},
    room_version::RoomVersion,
};

use super::{MembershipChange, PolicyError, Rooms, RoomsError, SendEvent};
use crate::random::random_text;

/// What a room is to be like, as `/createRoom` asks for it.
#[derive(Clone, Debug)]
pub struct CreateRoom {
    /// Its version.
    pub room_version: RoomVersion,
    /// What its join rules, history visibility, guest access and power levels begin with.
    pub preset: Preset,
    /// Fields of the create event beside those that the server sets.
    pub creation_content: CanonicalJsonObject,
    /// Fields of the power levels that replace those of the preset.
    pub power_level_content_override: CanonicalJsonObject,
    /// State events that are sent after those of the preset.
    pub initial_state: Vec<SendEvent>,
    /// Its name.
    pub name: Option<String>,
    /// Its topic.
    pub topic: Option<String>,
    /// Who is invited. Users of other servers have to be [told by those](crate::homeserver::Homeserver::create_room).
    pub invite: Vec<UserId>,
    /// Whether the invites are for a direct chat.
    pub is_direct: bool,
    /// The content of the creator's member event: display name and the like.
    pub member_content: CanonicalJsonObject,
}

/// The presets of `/createRoom`.
///
/// Source: client-server API, `POST /createRoom`, `preset`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Preset {
    PrivateChat,
    TrustedPrivateChat,
    PublicChat,
}

impl Preset {
    fn join_rule(self) -> &'static str {
        match self {
            Self::PrivateChat | Self::TrustedPrivateChat => "invite",
            Self::PublicChat => "public",
        }
    }

    fn guest_access(self) -> &'static str {
        match self {
            Self::PrivateChat | Self::TrustedPrivateChat => "can_join",
            Self::PublicChat => "forbidden",
        }
    }
}

impl CreateRoom {
    /// Returns what the member events of invited users say.
    pub(crate) fn invite_content(&self) -> CanonicalJsonObject {
        CanonicalJsonObject::from_iter(self.is_direct.then(|| ("is_direct".into(), true.into())))
    }
}

impl Rooms {
    /// Makes a room, with its creator in it; returns its id once all its first events are durable.
    ///
    /// The events come in the order of `/createRoom`: creation, the creator's join, power levels, those of the preset, the initial
    /// state, name and topic, invites of users of this server.
    ///
    /// # Errors
    ///
    /// `Refused` or `Invalid` if one of the events is not allowed, `Policy` if one names this server as policy server and others follow:
    /// then there is no room. `BadValue` for fields of the create event
    /// that are the server's.
    pub async fn create(&self, creator: &UserId, wanted: CreateRoom) -> Result<RoomId, RoomsError> {
        self.create_as(creator, wanted, None).await
    }

    /// As [`create`](Self::create), with the room id that was chosen for it, if its version lets ids be chosen.
    pub(crate) async fn create_as(
        &self,
        creator: &UserId,
        wanted: CreateRoom,
        room_id: Option<&RoomId>,
    ) -> Result<RoomId, RoomsError> {
        let room_id = match room_id {
            Some(room_id) => room_id.clone(),
            None => self.new_room_id()?,
        };
        let create = self.create_event(creator, &wanted, &room_id)?;
        let room = Room::new(create.event().room_id.clone(), wanted.room_version.rules());
        let room_id = room.room_id().clone();
        let creator = creator.clone();
        self.begin(room, move |writing| writing.make(&create, &creator, wanted)).await?;
        Ok(room_id)
    }

    /// Chooses the id of a new room.
    pub(crate) fn new_room_id(&self) -> Result<RoomId, RoomsError> {
        let inner = &self.0;
        let room_id = format!("!{}:{}", random_text(&*inner.random, 18), inner.server_name);
        RoomId::parse(&room_id).map_err(|_| RoomsError::BadValue("server_name"))
    }

    fn create_event(&self, creator: &UserId, wanted: &CreateRoom, room_id: &RoomId) -> Result<VerifiedPdu, RoomsError> {
        let rules = wanted.room_version.rules();
        let mut content = wanted.creation_content.clone();
        // "The server will overwrite the following keys: `creator`, `room_version`."
        content.remove("creator");
        content.insert("room_version".into(), rules.version.as_str().into());
        if !rules.implicit_room_creator {
            content.insert("creator".into(), creator.as_str().into());
        }
        if rules.creators_have_infinite_power && wanted.preset == Preset::TrustedPrivateChat {
            // Those who are trusted become creators too, as they can't be given as much power.
            let mut creators = get_array(&content, "additional_creators").unwrap_or_default().to_vec();
            for user in wanted.invite.iter().map(|user| CanonicalJsonValue::from(user.as_str())) {
                if !creators.contains(&user) {
                    creators.push(user);
                }
            }
            content.insert("additional_creators".into(), creators.into());
        }
        let inner = &self.0;
        let (now, event_id) = (inner.clock.now_ms(), inner.new_event_id());
        let event = compose_create(rules, Some(room_id), creator, content, now, &event_id)?;
        inner.sign(event, rules)
    }
}

impl super::Writing<'_> {
    fn make(&mut self, create: &VerifiedPdu, creator: &UserId, wanted: CreateRoom) -> Result<(), RoomsError> {
        self.take_signed(create)?;
        let join = MembershipChange {
            target: creator.clone(),
            membership: Membership::Join,
            content: wanted.member_content.clone(),
        };
        self.change_membership(creator, join)?;
        self.set(creator, event_type::POWER_LEVELS, power_levels(creator, &wanted))?;
        let given = |event_type: &str| {
            let has = |event: &SendEvent| event.event_type == event_type && event.state_key.as_deref() == Some("");
            wanted.initial_state.iter().any(has)
        };
        let of_preset = [
            (event_type::JOIN_RULES, "join_rule", wanted.preset.join_rule()),
            (event_type::HISTORY_VISIBILITY, "history_visibility", "shared"),
            ("m.room.guest_access", "guest_access", wanted.preset.guest_access()),
        ];
        for (event_type, field, value) in of_preset.into_iter().filter(|(event_type, ..)| !given(event_type)) {
            self.set(creator, event_type, one_field(field, value))?;
        }
        for event in &wanted.initial_state {
            self.send(creator, event)?;
        }
        if let Some(name) = &wanted.name {
            self.set(creator, "m.room.name", one_field("name", name))?;
        }
        if let Some(topic) = &wanted.topic {
            self.set(creator, "m.room.topic", one_field("topic", topic))?;
        }
        let content = wanted.invite_content();
        let is_ours = |user: &UserId| user.server_name() == self.inner.server_name.as_str();
        for target in wanted.invite.into_iter().filter(is_ours).collect::<Vec<_>>() {
            let invite = MembershipChange { target, membership: Membership::Invite, content: content.clone() };
            self.change_membership(creator, invite)?;
        }
        self.check_policy_server()
    }

    /// Checks that a new room's policy server has signed its events. It is one only if it has users in the room: the creator's server is
    /// the only one that has, and signs nothing.
    fn check_policy_server(&self) -> Result<(), RoomsError> {
        let mut named = None;
        for made in &self.events {
            if made.event.is_state(event_type::POLICY, "") {
                let event = parse_object(&made.json, JsonMode::ByteExact).unwrap_or_default();
                named = get_object(&event, "content").and_then(PolicyServer::of_content);
            } else if named.as_ref().is_some_and(|named| named.via == self.inner.server_name) {
                return Err(PolicyError::Unsigned.into());
            }
        }
        Ok(())
    }
}

impl super::Writing<'_> {
    /// Sends a state event with an empty state key.
    fn set(&mut self, sender: &UserId, event_type: &str, content: CanonicalJsonObject) -> Result<(), RoomsError> {
        let (event_type, state_key) = (event_type.to_owned(), Some(String::new()));
        self.send(sender, &SendEvent { event_type, state_key, content, redacts: None }).map(drop)
    }
}

fn one_field(field: &str, value: &str) -> CanonicalJsonObject {
    CanonicalJsonObject::from([(field.into(), value.into())])
}

/// The power levels that a room begins with: those of deployed servers, where the specification leaves it to them.
fn power_levels(creator: &UserId, wanted: &CreateRoom) -> CanonicalJsonObject {
    let level = CanonicalJsonValue::Integer;
    let rules = wanted.room_version.rules();
    // From version 12 on creators have power without being named, and must not be.
    let creator = (!rules.creators_have_infinite_power).then_some(creator);
    let trusts = wanted.preset == Preset::TrustedPrivateChat && creator.is_some();
    let trusted = wanted.invite.iter().filter(|_| trusts);
    let users = creator.into_iter().chain(trusted).map(|user| (user.as_str().into(), level(100)));
    let tombstone = if rules.creators_have_infinite_power { 150 } else { 100 };
    let events = [
        ("m.room.name", 50),
        ("m.room.power_levels", 100),
        ("m.room.history_visibility", 100),
        ("m.room.canonical_alias", 50),
        ("m.room.avatar", 50),
        ("m.room.tombstone", tombstone),
        ("m.room.server_acl", 100),
        ("m.room.encryption", 100),
    ];
    let events = events.map(|(event_type, needed)| (event_type.into(), level(needed)));
    let numbers = [
        ("users_default", 0),
        ("events_default", 0),
        ("state_default", 50),
        ("ban", 50),
        ("kick", 50),
        ("redact", 50),
        ("invite", if wanted.preset == Preset::PublicChat { 50 } else { 0 }),
    ];
    let mut content: CanonicalJsonObject = numbers.map(|(field, number)| (field.into(), level(number))).into();
    content.insert("users".into(), users.collect::<CanonicalJsonObject>().into());
    content.insert("events".into(), CanonicalJsonObject::from(events).into());
    content.extend(wanted.power_level_content_override.clone());
    content
}
