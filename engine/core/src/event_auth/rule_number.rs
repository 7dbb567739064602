//! The number of each rule in the list that a room version prints.
//!
//! Rules 4 (aliases), 5.2 (authorizing server), 2 (room id) and others come and go, so the numbers behind them move. Room
//! version 12 prints 3.5 without 3.4, and 10.10 twice.

use super::{
    AliasesRule, AuthEventsRule, CreateRule, MemberRule, PowerLevelsRule, RedactionRule, Refusal, ThirdPartyInviteRule,
};
use crate::{event::InvalidPowerLevels, room_version::RoomVersion};

impl Refusal {
    /// Returns the number of the broken rule in the list of authorization rules of that room version, such as `"5.3.3"`.
    ///
    /// Empty if that list has no such rule: the size limits, and whatever the version cannot refuse.
    pub fn rule_number(&self, version: RoomVersion) -> &'static str {
        let [v1_to_2, v3_to_5, v6, v7, v8_to_9, v10_to_11, v12] = numbers(self);
        match version {
            RoomVersion::V1 | RoomVersion::V2 => v1_to_2,
            RoomVersion::V3 | RoomVersion::V4 | RoomVersion::V5 => v3_to_5,
            RoomVersion::V6 => v6,
            RoomVersion::V7 => v7,
            RoomVersion::V8 | RoomVersion::V9 => v8_to_9,
            RoomVersion::V10 | RoomVersion::V11 => v10_to_11,
            RoomVersion::V12 => v12,
        }
    }
}

/// The numbers in room versions 1 and 2, 3 to 5, 6, 7, 8 and 9, 10 and 11, 12.
type Numbers = [&'static str; 7];

fn numbers(refusal: &Refusal) -> Numbers {
    match refusal {
        Refusal::OversizedField => [""; 7],
        Refusal::Create(rule) => create(rule),
        Refusal::RoomWithoutCreate { .. } => ["", "", "", "", "", "", "2"],
        Refusal::AuthEvents(rule) => auth_events(rule),
        Refusal::StateWithoutCreate => ["2.4", "2.4", "2.4", "2.4", "2.4", "2.4", "2"],
        Refusal::UndecodedPowerLevels { .. } => ["10", "10", "9", "9", "9", "9", "10"],
        Refusal::NotFederated { .. } => ["3", "3", "3", "3", "3", "3", "4"],
        Refusal::Aliases(AliasesRule::NoStateKey) => ["4.1", "4.1", "", "", "", "", ""],
        Refusal::Aliases(AliasesRule::OtherDomain { .. }) => ["4.2", "4.2", "", "", "", "", ""],
        Refusal::Member(rule) => member(rule),
        Refusal::SenderNotJoined { .. } => ["6", "6", "5", "5", "5", "5", "6"],
        Refusal::ThirdPartyInviteLevel { .. } => ["7.1", "7.1", "6.1", "6.1", "6.1", "6.1", "7.1"],
        Refusal::RequiredPowerLevel { .. } => ["8", "8", "7", "7", "7", "7", "8"],
        Refusal::StateKeyOfAnotherUser { .. } => ["9", "9", "8", "8", "8", "8", "9"],
        Refusal::PowerLevels(rule) => power_levels(rule),
        Refusal::Redaction(RedactionRule::NoRedactedEvent | RedactionRule::OtherDomain { .. }) => {
            ["11.3", "", "", "", "", "", ""]
        }
    }
}

fn create(rule: &CreateRule) -> Numbers {
    match rule {
        CreateRule::HasPrevEvents => ["1.1"; 7],
        CreateRule::OtherDomain { .. } => ["1.2", "1.2", "1.2", "1.2", "1.2", "1.2", ""],
        CreateRule::CarriesRoomId => ["", "", "", "", "", "", "1.2"],
        CreateRule::UnknownRoomVersion | CreateRule::OtherRoomVersion { .. } => ["1.3"; 7],
        // Room version 11 never refuses for this.
        CreateRule::NoCreator => ["1.4", "1.4", "1.4", "1.4", "1.4", "1.4", ""],
        CreateRule::InvalidAdditionalCreators => ["", "", "", "", "", "", "1.4"],
        CreateRule::SecondCreate { .. } => ["1"; 7],
    }
}

fn auth_events(rule: &AuthEventsRule) -> Numbers {
    match rule {
        AuthEventsRule::Duplicate { .. } => ["2.1", "2.1", "2.1", "2.1", "2.1", "2.1", "3.1"],
        AuthEventsRule::Unexpected { .. } => ["2.2", "2.2", "2.2", "2.2", "2.2", "2.2", "3.2"],
        AuthEventsRule::Rejected { .. } => ["2.3", "2.3", "2.3", "2.3", "2.3", "2.3", "3.3"],
        AuthEventsRule::NoCreate => ["2.4", "2.4", "2.4", "2.4", "2.4", "2.4", ""],
        AuthEventsRule::OtherRoom { .. } => ["2.5", "2.5", "2.5", "2.5", "2.5", "2.5", "3.5"],
    }
}

#[rustfmt::skip]
fn member(rule: &MemberRule) -> Numbers {
    use MemberRule as Rule;
    match rule {
        Rule::NoStateKey | Rule::NoMembership | Rule::TargetNotAUser { .. }
            => ["5.1", "5.1", "4.1", "4.1", "4.1", "4.1", "5.1"],
        Rule::NotSignedByAuthorizingServer { .. } => ["", "", "", "", "4.2.1", "4.2.1", "5.2.1"],
        Rule::JoinForAnother { .. } => ["5.2.2", "5.2.2", "4.2.2", "4.2.2", "4.3.2", "4.3.2", "5.3.2"],
        Rule::JoinWhileBanned { .. } => ["5.2.3", "5.2.3", "4.2.3", "4.2.3", "4.3.3", "4.3.3", "5.3.3"],
        Rule::NoAuthorizingUser { .. }
        | Rule::AuthorizingUserNotJoined { .. }
        | Rule::AuthorizingUserCannotInvite { .. } => ["", "", "", "", "4.3.5.2", "4.3.5.2", "5.3.5.2"],
        Rule::JoinNotInvited { .. } | Rule::JoinRuleForbids { .. }
            => ["5.2.6", "5.2.6", "4.2.6", "4.2.6", "4.3.7", "4.3.7", "5.3.7"],
        Rule::ThirdPartyInvite(rule) => third_party_invite(rule),
        Rule::InviteSenderNotJoined { .. } => ["5.3.2", "5.3.2", "4.3.2", "4.3.2", "4.4.2", "4.4.2", "5.4.2"],
        Rule::InviteOfJoined { .. } | Rule::InviteOfBanned { .. }
            => ["5.3.3", "5.3.3", "4.3.3", "4.3.3", "4.4.3", "4.4.3", "5.4.3"],
        Rule::InviteLevel { .. } => ["5.3.5", "5.3.5", "4.3.5", "4.3.5", "4.4.5", "4.4.5", "5.4.5"],
        Rule::LeaveOfAbsent { .. } => ["5.4.1", "5.4.1", "4.4.1", "4.4.1", "4.5.1", "4.5.1", "5.5.1"],
        Rule::KickSenderNotJoined { .. } => ["5.4.2", "5.4.2", "4.4.2", "4.4.2", "4.5.2", "4.5.2", "5.5.2"],
        Rule::UnbanLevel { .. } => ["5.4.3", "5.4.3", "4.4.3", "4.4.3", "4.5.3", "4.5.3", "5.5.3"],
        Rule::KickLevel { .. } | Rule::KickOfEqual { .. }
            => ["5.4.5", "5.4.5", "4.4.5", "4.4.5", "4.5.5", "4.5.5", "5.5.5"],
        Rule::BanSenderNotJoined { .. } => ["5.5.1", "5.5.1", "4.5.1", "4.5.1", "4.6.1", "4.6.1", "5.6.1"],
        Rule::BanLevel { .. } | Rule::BanOfEqual { .. }
            => ["5.5.3", "5.5.3", "4.5.3", "4.5.3", "4.6.3", "4.6.3", "5.6.3"],
        Rule::KnockJoinRule { .. } => ["", "", "", "4.6.1", "4.7.1", "4.7.1", "5.7.1"],
        Rule::KnockForAnother { .. } => ["", "", "", "4.6.2", "4.7.2", "4.7.2", "5.7.2"],
        Rule::KnockMembership { .. } => ["", "", "", "4.6.4", "4.7.4", "4.7.4", "5.7.4"],
        Rule::UnknownMembership => ["5.6", "5.6", "4.6", "4.7", "4.8", "4.8", "5.8"],
    }
}

#[rustfmt::skip]
fn third_party_invite(rule: &ThirdPartyInviteRule) -> Numbers {
    use ThirdPartyInviteRule as Rule;
    match rule {
        Rule::TargetBanned { .. } => ["5.3.1.1", "5.3.1.1", "4.3.1.1", "4.3.1.1", "4.4.1.1", "4.4.1.1", "5.4.1.1"],
        Rule::NoSigned => ["5.3.1.2", "5.3.1.2", "4.3.1.2", "4.3.1.2", "4.4.1.2", "4.4.1.2", "5.4.1.2"],
        Rule::Incomplete => ["5.3.1.3", "5.3.1.3", "4.3.1.3", "4.3.1.3", "4.4.1.3", "4.4.1.3", "5.4.1.3"],
        Rule::OtherUser { .. } => ["5.3.1.4", "5.3.1.4", "4.3.1.4", "4.3.1.4", "4.4.1.4", "4.4.1.4", "5.4.1.4"],
        Rule::UnknownToken { .. } => ["5.3.1.5", "5.3.1.5", "4.3.1.5", "4.3.1.5", "4.4.1.5", "4.4.1.5", "5.4.1.5"],
        Rule::OtherSender { .. } => ["5.3.1.6", "5.3.1.6", "4.3.1.6", "4.3.1.6", "4.4.1.6", "4.4.1.6", "5.4.1.6"],
        Rule::NoMatchingSignature => ["5.3.1.8", "5.3.1.8", "4.3.1.8", "4.3.1.8", "4.4.1.8", "4.4.1.8", "5.4.1.8"],
    }
}

#[rustfmt::skip]
fn power_levels(rule: &PowerLevelsRule) -> Numbers {
    use PowerLevelsRule as Rule;
    match rule {
        Rule::Invalid(invalid) => invalid_power_levels(invalid),
        Rule::ListsCreator { .. } => ["", "", "", "", "", "", "10.4"],
        Rule::NamedCurrent { .. } => ["10.3.1", "10.3.1", "9.3.1", "9.3.1", "9.3.1", "9.5.1", "10.6.1"],
        Rule::NamedNew { .. } => ["10.3.2", "10.3.2", "9.3.2", "9.3.2", "9.3.2", "9.5.2", "10.6.2"],
        Rule::EntryCurrent { .. } => ["10.4.1", "10.4.1", "9.4.1", "9.4.1", "9.4.1", "9.6.1", "10.7.1"],
        Rule::EntryNew { .. } => ["10.5.1", "10.5.1", "9.5.1", "9.5.1", "9.5.1", "9.7.1", "10.8.1"],
        Rule::UserCurrent { .. } => ["10.6.1", "10.6.1", "9.6.1", "9.6.1", "9.6.1", "9.8.1", "10.9.1"],
        Rule::UserNew { .. } => ["10.7.1", "10.7.1", "9.7.1", "9.7.1", "9.7.1", "9.9.1", "10.10.1"],
    }
}

/// Up to version 9 the list names `users` alone; the other values are a matter of the event's schema.
fn invalid_power_levels(invalid: &InvalidPowerLevels) -> Numbers {
    match invalid {
        InvalidPowerLevels::NotAnInteger(_) => ["10", "10", "9", "9", "9", "9.1", "10.1"],
        InvalidPowerLevels::NotAUserId(_)
        | InvalidPowerLevels::NotAnObject("users")
        | InvalidPowerLevels::EntryNotAnInteger { map: "users", .. } => {
            ["10.1", "10.1", "9.1", "9.1", "9.1", "9.3", "10.3"]
        }
        InvalidPowerLevels::NotAnObject(_) | InvalidPowerLevels::EntryNotAnInteger { .. } => {
            ["10", "10", "9", "9", "9", "9.2", "10.2"]
        }
    }
}
