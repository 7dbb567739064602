//! An event as the rules see it: the fields that authorization and resolution read, decoded once.
//!
//! The JSON of an event is read in [`crate::pdu`] and never again afterwards: what a rule asks of `content` is a field here.

use std::{collections::BTreeMap, fmt, sync::Arc};

use crate::{
    id::{EventId, RoomId, UserId},
    room_version::RoomVersion,
};

/// The key of an entry of the room state: `type` and `state_key`. Ordered by type, then state key, both by bytes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StateKey {
    /// The event's `type`.
    pub event_type: Arc<str>,
    /// The event's `state_key`.
    pub state_key: Arc<str>,
}

impl StateKey {
    /// Makes a key of its two parts.
    pub fn new(event_type: impl Into<Arc<str>>, state_key: impl Into<Arc<str>>) -> Self {
        Self { event_type: event_type.into(), state_key: state_key.into() }
    }
}

impl fmt::Debug for StateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "({:?}, {:?})", self.event_type, self.state_key)
    }
}

/// The event types that the rules know by name.
#[allow(missing_docs)]
pub mod event_type {
    pub const CREATE: &str = "m.room.create";
    pub const MEMBER: &str = "m.room.member";
    pub const POWER_LEVELS: &str = "m.room.power_levels";
    pub const JOIN_RULES: &str = "m.room.join_rules";
    pub const THIRD_PARTY_INVITE: &str = "m.room.third_party_invite";
    pub const ALIASES: &str = "m.room.aliases";
    pub const REDACTION: &str = "m.room.redaction";
    pub const HISTORY_VISIBILITY: &str = "m.room.history_visibility";
    /// Not by the authorization rules: check 7 on receipt.
    pub const POLICY: &str = "m.room.policy";
}

/// The decoded fields of an event.
///
/// Made by [`crate::pdu`] from a PDU whose format and size were checked, so the fields are within the limits of the room
/// version; whether the values make sense is for the authorization rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The event's id: computed, or for room versions 1 and 2 the one it carries.
    pub event_id: EventId,
    /// The room; for a create event of room version 12 computed from its id.
    pub room_id: RoomId,
    /// Whether the event carried a `room_id` on the wire (a create event of room version 12 must not).
    pub carries_room_id: bool,
    /// The user who sent it.
    pub sender: UserId,
    /// `type`.
    pub event_type: Arc<str>,
    /// `state_key`, for state events.
    pub state_key: Option<Arc<str>>,
    /// `origin_server_ts`, in milliseconds since 1970; not trusted.
    pub origin_server_ts_ms: i64,
    /// `depth`; not trusted.
    pub depth: i64,
    /// The parents, in the order of the event, at most 20.
    pub prev_events: Box<[EventId]>,
    /// The events cited as authority, in the order of the event, at most 10. Duplicates are kept: a rule refuses them.
    pub auth_events: Box<[EventId]>,
    /// What the rules need of `content`.
    pub content: Content,
    /// A field is longer than 255 bytes, though not than 255 code points (room versions 1 to 10): the event is rejected.
    pub oversized_field: bool,
}

impl Event {
    /// Returns the key of the state entry this event sets, or `None` for a message event.
    pub fn state_key(&self) -> Option<StateKey> {
        Some(StateKey { event_type: self.event_type.clone(), state_key: self.state_key.clone()? })
    }

    /// Whether this is the state event of this type with this state key.
    pub fn is_state(&self, event_type: &str, state_key: &str) -> bool {
        // State keys differ more often than types.
        self.state_key.as_deref() == Some(state_key) && &*self.event_type == event_type
    }

    /// Whether it is a message of which rules read nothing but who sent it and when.
    pub(crate) fn is_plain(&self) -> bool {
        self.state_key.is_none() && self.content == Content::Other
    }

    /// Returns the membership that a member event sets.
    pub fn membership(&self) -> Option<Membership> {
        match &self.content {
            Content::Member(member) => member.membership,
            _ => None,
        }
    }
}

/// What the rules need of an event's `content`, by `type`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// `m.room.create`
    Create(CreateContent),
    /// `m.room.member`
    Member(MemberContent),
    /// `m.room.join_rules`
    JoinRules(JoinRule),
    /// `m.room.power_levels`; an error if a value is not what the room version allows.
    PowerLevels(Result<Arc<PowerLevels>, InvalidPowerLevels>),
    /// `m.room.third_party_invite`
    ThirdPartyInvite(ThirdPartyInviteContent),
    /// `m.room.redaction`: the event to redact, wherever the room version puts it.
    Redaction(Option<EventId>),
    /// Any other type.
    Other,
}

/// `content` of `m.room.create`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreateContent {
    /// `room_version`; "1" if absent, `None` if it is not one that Ravel knows.
    pub room_version: Option<RoomVersion>,
    /// `creator`, if it is there as a string (room versions 1 to 10).
    pub creator: Option<Arc<str>>,
    /// `additional_creators` (room version 12): empty if absent, `None` if it is not an array of valid user ids.
    pub additional_creators: Option<Box<[UserId]>>,
    /// `m.federate`: true if absent; anything but a boolean counts as false, as deployed servers read it.
    pub federate: bool,
}

/// `membership` of a member event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Membership {
    Join,
    Invite,
    Leave,
    Ban,
    Knock,
    /// A string that the specification does not know.
    Unknown,
}

/// `content` of `m.room.member`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberContent {
    /// `membership`; `None` if absent or not a string.
    pub membership: Option<Membership>,
    /// `join_authorised_via_users_server`, if it is there. A value that is not a string is kept as an empty string, which
    /// names nobody.
    pub join_authorised_via_users_server: Option<Arc<str>>,
    /// `third_party_invite`, if it is there.
    pub third_party_invite: Option<ThirdPartyInvite>,
}

/// `third_party_invite` of an invite.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ThirdPartyInvite {
    /// There is no object `signed`.
    NoSigned,
    /// `signed` lacks `mxid` or `token`, or one is not a string.
    Incomplete,
    /// A complete one.
    Signed(Arc<SignedThirdPartyInvite>),
}

/// `third_party_invite.signed` of an invite.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedThirdPartyInvite {
    /// The invited user.
    pub mxid: Box<str>,
    /// The state key of the `m.room.third_party_invite` event.
    pub token: Arc<str>,
    /// The canonical JSON that was signed: the object without `signatures` and `unsigned`.
    pub signed_bytes: Box<[u8]>,
    /// Every well-formed ed25519 signature, of all servers and key ids.
    pub signatures: Box<[[u8; 64]]>,
}

/// `join_rule` of `m.room.join_rules`. Absent counts as `Invite`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum JoinRule {
    Public,
    Invite,
    Knock,
    Restricted,
    KnockRestricted,
    /// `private`, or any other value: nobody can join.
    Other,
}

/// `content` of `m.room.third_party_invite`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ThirdPartyInviteContent {
    /// `public_key` and `public_keys[].public_key`, those that decode to 32 bytes (standard or URL-safe base64).
    pub public_keys: Box<[[u8; 32]]>,
}

/// The seven levels of `m.room.power_levels` that stand at the top of `content`, in the order in which the rules name them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum NamedLevel {
    UsersDefault,
    EventsDefault,
    StateDefault,
    Ban,
    Redact,
    Kick,
    Invite,
}

impl NamedLevel {
    /// All seven.
    pub const ALL: [Self; 7] = [
        Self::UsersDefault,
        Self::EventsDefault,
        Self::StateDefault,
        Self::Ban,
        Self::Redact,
        Self::Kick,
        Self::Invite,
    ];

    /// Returns the key in `content`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::UsersDefault => "users_default",
            Self::EventsDefault => "events_default",
            Self::StateDefault => "state_default",
            Self::Ban => "ban",
            Self::Redact => "redact",
            Self::Kick => "kick",
            Self::Invite => "invite",
        }
    }

    /// Returns the level where the event does not give it ("Definitions" of "Checks performed on receipt of a PDU" and the
    /// schema of `m.room.power_levels`).
    pub const fn default_level(self) -> i64 {
        match self {
            Self::UsersDefault | Self::EventsDefault | Self::Invite => 0,
            Self::StateDefault | Self::Ban | Self::Redact | Self::Kick => 50,
        }
    }
}

/// `content` of `m.room.power_levels`, decoded. Only what the event gives: absent entries are absent here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PowerLevels {
    /// The levels at the top, by [`NamedLevel`].
    pub named: BTreeMap<NamedLevel, i64>,
    /// `users`; the keys are valid user ids.
    pub users: BTreeMap<Arc<str>, i64>,
    /// `events`, by event type.
    pub events: BTreeMap<Arc<str>, i64>,
    /// `notifications`.
    pub notifications: BTreeMap<Arc<str>, i64>,
}

impl PowerLevels {
    /// Returns the level, or its default.
    pub fn named(&self, level: NamedLevel) -> i64 {
        self.named.get(&level).copied().unwrap_or(level.default_level())
    }

    /// Returns the level of a user: of `users`, else `users_default`.
    pub fn user(&self, user_id: &str) -> i64 {
        self.users.get(user_id).copied().unwrap_or_else(|| self.named(NamedLevel::UsersDefault))
    }
}

/// Why power levels could not be decoded: rules 10.1 to 10.3 of room version 12 and their older forms.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPowerLevels {
    /// One of the seven levels is not an integer in a spelling that the room version allows.
    #[error("{} is not an integer", .0.as_str())]
    NotAnInteger(NamedLevel),
    /// `events`, `notifications` or `users` is not an object.
    #[error("{0} is not an object")]
    NotAnObject(&'static str),
    /// A value of `events`, `notifications` or `users` is not an integer.
    #[error("{map}[{key:?}] is not an integer")]
    EntryNotAnInteger {
        /// The object.
        map: &'static str,
        /// Its key.
        key: Box<str>,
    },
    /// A key of `users` is not a user id.
    #[error("{0:?} in users is not a user id")]
    NotAUserId(Box<str>),
}
