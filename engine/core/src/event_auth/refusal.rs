//! Why an event is refused: one variant for each way to break a rule.
//!
//! `Display` says it to an administrator, `code` to a machine; both are texts that may be stored. Codes never change.

use std::sync::Arc;

use super::PowerLevel;
use crate::{
    event::{InvalidPowerLevels, NamedLevel, StateKey},
    id::{EventId, RoomId, UserId},
    room_version::RoomVersion,
};

/// Why an event is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// "Size limits"; no rule of the list.
    #[error("a field of the event is longer than 255 bytes")]
    OversizedField,
    /// Rule 1.
    #[error(transparent)]
    Create(#[from] CreateRule),
    /// Rule 2 of room version 12.
    #[error("there is no accepted create event for the room id {room_id}")]
    RoomWithoutCreate {
        /// The event's room id.
        room_id: RoomId,
    },
    /// Rule 3.
    #[error(transparent)]
    AuthEvents(#[from] AuthEventsRule),
    /// The state has no create event; by rules 2 and 3 no state is so.
    #[error("the room state has no create event")]
    StateWithoutCreate,
    /// Power levels that break rule 10.1, 10.2 or 10.3 are in the state; by that rule they never are.
    #[error("the power levels {event_id} cannot be read")]
    UndecodedPowerLevels {
        /// The event.
        event_id: EventId,
    },
    /// Rule 4.
    #[error("the room is not federated: {sender} is not of the server of its creator {creator}")]
    NotFederated {
        /// The event's sender.
        sender: UserId,
        /// The sender of the create event.
        creator: UserId,
    },
    /// Rule 4 of room versions 1 to 5.
    #[error(transparent)]
    Aliases(#[from] AliasesRule),
    /// Rule 5.
    #[error(transparent)]
    Member(#[from] MemberRule),
    /// Rule 6.
    #[error("{sender} is not joined to the room")]
    SenderNotJoined {
        /// The event's sender.
        sender: UserId,
    },
    /// Rule 7.
    #[error("{sender} has power level {sender_level}, inviting needs {invite_level}")]
    ThirdPartyInviteLevel {
        /// The event's sender.
        sender: UserId,
        /// The sender's level.
        sender_level: PowerLevel,
        /// The invite level.
        invite_level: i64,
    },
    /// Rule 8.
    #[error("{sender} has power level {sender_level}, sending {event_type:?} needs {required_level}")]
    RequiredPowerLevel {
        /// The event's sender.
        sender: UserId,
        /// The event's type.
        event_type: Arc<str>,
        /// The sender's level.
        sender_level: PowerLevel,
        /// The required power level.
        required_level: i64,
    },
    /// Rule 9.
    #[error("the state key {state_key:?} belongs to another user than the sender {sender}")]
    StateKeyOfAnotherUser {
        /// The event's sender.
        sender: UserId,
        /// The event's state key.
        state_key: Arc<str>,
    },
    /// Rule 10.
    #[error(transparent)]
    PowerLevels(#[from] PowerLevelsRule),
    /// Rule 11 of room versions 1 and 2.
    #[error(transparent)]
    Redaction(#[from] RedactionRule),
}

/// Rule 1: `m.room.create`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)]
pub enum CreateRule {
    #[error("the create event has previous events")]
    HasPrevEvents,
    #[error("the create event of {room_id} is by {sender}, who is of another server than the room id")]
    OtherDomain { room_id: RoomId, sender: UserId },
    #[error("the create event carries a room id")]
    CarriesRoomId,
    #[error("the room version is not known")]
    UnknownRoomVersion,
    #[error("the create event is of room version {content} but was checked by the rules of version {applied}")]
    OtherRoomVersion { content: RoomVersion, applied: RoomVersion },
    #[error("the create event names no creator")]
    NoCreator,
    #[error("additional_creators is not a list of user ids")]
    InvalidAdditionalCreators,
    #[error("the room {room_id} already has the create event {accepted}")]
    SecondCreate { room_id: RoomId, accepted: EventId },
}

/// Rule 3: `auth_events`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)]
pub enum AuthEventsRule {
    #[error("two auth events are for the same state {key:?}")]
    Duplicate { key: StateKey },
    #[error("the auth event {event_id}, a {event_type:?}, does not authorize this kind of event")]
    Unexpected { event_id: EventId, event_type: Arc<str> },
    #[error("the auth event {event_id} was rejected")]
    Rejected { event_id: EventId },
    #[error("there is no create event among the auth events")]
    NoCreate,
    #[error("the auth event {event_id} is of another room, {room_id}")]
    OtherRoom { event_id: EventId, room_id: RoomId },
}

/// Rule 4 of room versions 1 to 5: `m.room.aliases`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)]
pub enum AliasesRule {
    #[error("the aliases event has no state key")]
    NoStateKey,
    #[error("the state key {state_key:?} of the aliases is not the server of {sender}")]
    OtherDomain { sender: UserId, state_key: Arc<str> },
}

/// Rule 5: `m.room.member`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)]
pub enum MemberRule {
    #[error("the member event has no state key")]
    NoStateKey,
    #[error("the member event has no membership")]
    NoMembership,
    #[error("the state key {state_key:?} of the member event is not a user id")]
    TargetNotAUser { state_key: Arc<str> },
    #[error("the join is not signed by the server of {user:?}, who is said to have authorized it")]
    NotSignedByAuthorizingServer { user: Arc<str> },
    #[error("{sender} cannot join for {target}")]
    JoinForAnother { sender: UserId, target: UserId },
    #[error("{sender} is banned from the room and cannot join")]
    JoinWhileBanned { sender: UserId },
    #[error("{sender} joins a restricted room neither invited nor authorized by a member")]
    NoAuthorizingUser { sender: UserId },
    #[error("{user:?}, who is said to have authorized the join, is not joined to the room")]
    AuthorizingUserNotJoined { user: Arc<str> },
    #[error("{user:?}, who authorized the join, has power level {user_level}, inviting needs {invite_level}")]
    AuthorizingUserCannotInvite { user: Arc<str>, user_level: PowerLevel, invite_level: i64 },
    #[error("{sender} is not invited to the room")]
    JoinNotInvited { sender: UserId },
    #[error("{sender} cannot join: the join rule lets nobody join")]
    JoinRuleForbids { sender: UserId },
    #[error(transparent)]
    ThirdPartyInvite(#[from] ThirdPartyInviteRule),
    #[error("{sender} is not joined to the room and cannot invite")]
    InviteSenderNotJoined { sender: UserId },
    #[error("{target} is joined to the room and cannot be invited")]
    InviteOfJoined { target: UserId },
    #[error("{target} is banned from the room and cannot be invited")]
    InviteOfBanned { target: UserId },
    #[error("{sender} has power level {sender_level}, inviting needs {invite_level}")]
    InviteLevel { sender: UserId, sender_level: PowerLevel, invite_level: i64 },
    #[error("{sender} leaves, but is not in the room, invited or knocking")]
    LeaveOfAbsent { sender: UserId },
    #[error("{sender} is not joined to the room and cannot kick or unban")]
    KickSenderNotJoined { sender: UserId },
    #[error("{sender} has power level {sender_level}, unbanning needs the ban level {ban_level}")]
    UnbanLevel { sender: UserId, sender_level: PowerLevel, ban_level: i64 },
    #[error("{sender} has power level {sender_level}, kicking or unbanning needs {kick_level}")]
    KickLevel { sender: UserId, sender_level: PowerLevel, kick_level: i64 },
    #[error("{sender} (level {sender_level}) has no more power than {target} (level {target_level}) and cannot kick")]
    KickOfEqual { sender: UserId, target: UserId, sender_level: PowerLevel, target_level: PowerLevel },
    #[error("{sender} is not joined to the room and cannot ban")]
    BanSenderNotJoined { sender: UserId },
    #[error("{sender} has power level {sender_level}, banning needs {ban_level}")]
    BanLevel { sender: UserId, sender_level: PowerLevel, ban_level: i64 },
    #[error("{sender} (level {sender_level}) has no more power than {target} (level {target_level}) and cannot ban")]
    BanOfEqual { sender: UserId, target: UserId, sender_level: PowerLevel, target_level: PowerLevel },
    #[error("{sender} cannot knock: the join rule does not provide for it")]
    KnockJoinRule { sender: UserId },
    #[error("{sender} cannot knock for {target}")]
    KnockForAnother { sender: UserId, target: UserId },
    #[error("{sender} cannot knock: joined, invited or banned already")]
    KnockMembership { sender: UserId },
    #[error("the membership is not one that the room version knows")]
    UnknownMembership,
}

/// Rule 5.4.1: an invite with `third_party_invite`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)]
pub enum ThirdPartyInviteRule {
    #[error("{target} is banned from the room and cannot be invited by a third party")]
    TargetBanned { target: UserId },
    #[error("the third-party invite has no signed part")]
    NoSigned,
    #[error("the third-party invite names no user or no token")]
    Incomplete,
    #[error("the third-party invite is for {mxid:?}, not for {target}")]
    OtherUser { mxid: Box<str>, target: UserId },
    #[error("the room has no third-party invite with the token {token:?}")]
    UnknownToken { token: Arc<str> },
    #[error("the third-party invite was made by {invite_sender}, not by {sender}")]
    OtherSender { sender: UserId, invite_sender: UserId },
    #[error("no signature of the third-party invite is by a key that the room has for it")]
    NoMatchingSignature,
}

/// Rule 10: `m.room.power_levels`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)]
pub enum PowerLevelsRule {
    #[error("the power levels are not valid: {0}")]
    Invalid(#[source] InvalidPowerLevels),
    #[error("the power levels list {user}, a creator of the room, whose power is infinite")]
    ListsCreator { user: Arc<str> },
    #[error("{} is {value}, out of reach of the sender's power level {sender_level}", .level.as_str())]
    NamedCurrent { level: NamedLevel, value: i64, sender_level: PowerLevel },
    #[error("{} cannot become {value}, more than the sender's power level {sender_level}", .level.as_str())]
    NamedNew { level: NamedLevel, value: i64, sender_level: PowerLevel },
    #[error("{key:?} in {map} is {value}, out of reach of the sender's power level {sender_level}")]
    EntryCurrent { map: &'static str, key: Arc<str>, value: i64, sender_level: PowerLevel },
    #[error("{key:?} in {map} cannot become {value}, more than the sender's power level {sender_level}")]
    EntryNew { map: &'static str, key: Arc<str>, value: i64, sender_level: PowerLevel },
    #[error("{user} has power level {value}, out of reach of the sender's power level {sender_level}")]
    UserCurrent { user: Arc<str>, value: i64, sender_level: PowerLevel },
    #[error("{user} cannot get power level {value}, more than the sender's {sender_level}")]
    UserNew { user: Arc<str>, value: i64, sender_level: PowerLevel },
}

/// Rule 11 of room versions 1 and 2: `m.room.redaction`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)]
pub enum RedactionRule {
    #[error("the redaction names no event, and its sender does not have the redact level")]
    NoRedactedEvent,
    #[error("{sender} has power level {sender_level}, redacting {redacts} of another server needs {redact_level}")]
    OtherDomain { sender: UserId, redacts: EventId, sender_level: PowerLevel, redact_level: i64 },
}

impl Refusal {
    /// Returns the name of the reason, in `snake_case`: never changed once released.
    pub fn code(&self) -> &'static str {
        match self {
            Self::OversizedField => "oversized_field",
            Self::Create(rule) => rule.code(),
            Self::RoomWithoutCreate { .. } => "room_without_create",
            Self::AuthEvents(rule) => rule.code(),
            Self::StateWithoutCreate => "state_without_create",
            Self::UndecodedPowerLevels { .. } => "undecoded_power_levels",
            Self::NotFederated { .. } => "not_federated",
            Self::Aliases(rule) => rule.code(),
            Self::Member(rule) => rule.code(),
            Self::SenderNotJoined { .. } => "sender_not_joined",
            Self::ThirdPartyInviteLevel { .. } => "third_party_invite_level",
            Self::RequiredPowerLevel { .. } => "required_power_level",
            Self::StateKeyOfAnotherUser { .. } => "state_key_of_another_user",
            Self::PowerLevels(rule) => rule.code(),
            Self::Redaction(rule) => rule.code(),
        }
    }
}

impl CreateRule {
    fn code(&self) -> &'static str {
        match self {
            Self::HasPrevEvents => "create_has_prev_events",
            Self::OtherDomain { .. } => "create_other_domain",
            Self::CarriesRoomId => "create_carries_room_id",
            Self::UnknownRoomVersion => "create_unknown_room_version",
            Self::OtherRoomVersion { .. } => "create_other_room_version",
            Self::NoCreator => "create_no_creator",
            Self::InvalidAdditionalCreators => "create_invalid_additional_creators",
            Self::SecondCreate { .. } => "create_second",
        }
    }
}

impl AuthEventsRule {
    fn code(&self) -> &'static str {
        match self {
            Self::Duplicate { .. } => "auth_events_duplicate",
            Self::Unexpected { .. } => "auth_events_unexpected",
            Self::Rejected { .. } => "auth_events_rejected",
            Self::NoCreate => "auth_events_no_create",
            Self::OtherRoom { .. } => "auth_events_other_room",
        }
    }
}

impl AliasesRule {
    fn code(&self) -> &'static str {
        match self {
            Self::NoStateKey => "aliases_no_state_key",
            Self::OtherDomain { .. } => "aliases_other_domain",
        }
    }
}

impl MemberRule {
    fn code(&self) -> &'static str {
        match self {
            Self::NoStateKey => "member_no_state_key",
            Self::NoMembership => "member_no_membership",
            Self::TargetNotAUser { .. } => "member_target_not_a_user",
            Self::NotSignedByAuthorizingServer { .. } => "member_not_signed_by_authorizing_server",
            Self::JoinForAnother { .. } => "join_for_another",
            Self::JoinWhileBanned { .. } => "join_while_banned",
            Self::NoAuthorizingUser { .. } => "join_no_authorizing_user",
            Self::AuthorizingUserNotJoined { .. } => "join_authorizing_user_not_joined",
            Self::AuthorizingUserCannotInvite { .. } => "join_authorizing_user_cannot_invite",
            Self::JoinNotInvited { .. } => "join_not_invited",
            Self::JoinRuleForbids { .. } => "join_rule_forbids",
            Self::ThirdPartyInvite(rule) => rule.code(),
            Self::InviteSenderNotJoined { .. } => "invite_sender_not_joined",
            Self::InviteOfJoined { .. } => "invite_of_joined",
            Self::InviteOfBanned { .. } => "invite_of_banned",
            Self::InviteLevel { .. } => "invite_level",
            Self::LeaveOfAbsent { .. } => "leave_of_absent",
            Self::KickSenderNotJoined { .. } => "kick_sender_not_joined",
            Self::UnbanLevel { .. } => "unban_level",
            Self::KickLevel { .. } => "kick_level",
            Self::KickOfEqual { .. } => "kick_of_equal",
            Self::BanSenderNotJoined { .. } => "ban_sender_not_joined",
            Self::BanLevel { .. } => "ban_level",
            Self::BanOfEqual { .. } => "ban_of_equal",
            Self::KnockJoinRule { .. } => "knock_join_rule",
            Self::KnockForAnother { .. } => "knock_for_another",
            Self::KnockMembership { .. } => "knock_membership",
            Self::UnknownMembership => "unknown_membership",
        }
    }
}

impl ThirdPartyInviteRule {
    fn code(&self) -> &'static str {
        match self {
            Self::TargetBanned { .. } => "third_party_invite_target_banned",
            Self::NoSigned => "third_party_invite_no_signed",
            Self::Incomplete => "third_party_invite_incomplete",
            Self::OtherUser { .. } => "third_party_invite_other_user",
            Self::UnknownToken { .. } => "third_party_invite_unknown_token",
            Self::OtherSender { .. } => "third_party_invite_other_sender",
            Self::NoMatchingSignature => "third_party_invite_no_matching_signature",
        }
    }
}

impl PowerLevelsRule {
    fn code(&self) -> &'static str {
        match self {
            Self::Invalid(_) => "power_levels_invalid",
            Self::ListsCreator { .. } => "power_levels_lists_creator",
            Self::NamedCurrent { .. } => "power_levels_named_current",
            Self::NamedNew { .. } => "power_levels_named_new",
            Self::EntryCurrent { .. } => "power_levels_entry_current",
            Self::EntryNew { .. } => "power_levels_entry_new",
            Self::UserCurrent { .. } => "power_levels_user_current",
            Self::UserNew { .. } => "power_levels_user_new",
        }
    }
}

impl RedactionRule {
    fn code(&self) -> &'static str {
        match self {
            Self::NoRedactedEvent => "redaction_no_redacted_event",
            Self::OtherDomain { .. } => "redaction_other_domain",
        }
    }
}
