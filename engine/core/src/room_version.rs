//! Room versions 1 to 12 as data: one rules struct each, written as the changes from the version before.
//!
//! Source: the "Room Versions" pages of the specification, v1.19. Code asks `rules.knock_join_rule`, never `version >= 7`.

use std::fmt;

/// A room version that Ravel implements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs)]
pub enum RoomVersion {
    V1,
    V2,
    V3,
    V4,
    V5,
    V6,
    V7,
    V8,
    V9,
    V10,
    V11,
    V12,
}

impl RoomVersion {
    /// Every version, oldest first.
    pub const ALL: [Self; 12] = [
        Self::V1,
        Self::V2,
        Self::V3,
        Self::V4,
        Self::V5,
        Self::V6,
        Self::V7,
        Self::V8,
        Self::V9,
        Self::V10,
        Self::V11,
        Self::V12,
    ];

    /// Returns the version with this identifier (`"1"` to `"12"`), or `None` if Ravel does not know it.
    pub fn parse(id: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|version| version.as_str() == id)
    }

    /// Returns the identifier used on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::V1 => "1",
            Self::V2 => "2",
            Self::V3 => "3",
            Self::V4 => "4",
            Self::V5 => "5",
            Self::V6 => "6",
            Self::V7 => "7",
            Self::V8 => "8",
            Self::V9 => "9",
            Self::V10 => "10",
            Self::V11 => "11",
            Self::V12 => "12",
        }
    }

    /// Returns the rules of this version.
    pub const fn rules(self) -> &'static RoomVersionRules {
        match self {
            Self::V1 => &RoomVersionRules::V1,
            Self::V2 => &RoomVersionRules::V2,
            Self::V3 => &RoomVersionRules::V3,
            Self::V4 => &RoomVersionRules::V4,
            Self::V5 => &RoomVersionRules::V5,
            Self::V6 => &RoomVersionRules::V6,
            Self::V7 => &RoomVersionRules::V7,
            Self::V8 => &RoomVersionRules::V8,
            Self::V9 => &RoomVersionRules::V9,
            Self::V10 => &RoomVersionRules::V10,
            Self::V11 => &RoomVersionRules::V11,
            Self::V12 => &RoomVersionRules::V12,
        }
    }
}

impl fmt::Display for RoomVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How an event gets its id ("Event IDs" of each room version).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventIdFormat {
    /// `$opaque:domain`, made by the origin and carried in `event_id`; references are `[id, hashes]` pairs.
    Carried,
    /// `$` and the unpadded standard base64 of the reference hash.
    ReferenceHash,
    /// `$` and the unpadded URL-safe base64 of the reference hash.
    UrlSafeReferenceHash,
}

/// The state resolution algorithm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StateResolution {
    /// Room version 1.
    V1,
    /// Room versions 2 to 11.
    V2,
    /// Room version 12: starts from the empty state, adds the conflicted state subgraph.
    V2_1,
}

/// Which spellings of an integer a power level may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PowerLevelFormat {
    /// Integers, integers in strings and floats (truncated). Versions 1 to 5.
    IntegerStringOrFloat,
    /// Integers and integers in strings. Versions 6 to 9.
    IntegerOrString,
    /// Integers only. Version 10 and later.
    Integer,
}

/// What redaction keeps, beyond what every version keeps ("Redactions" of each room version).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RedactionRules {
    /// Keeps the top-level keys `prev_state`, `origin` and `membership` (versions 1 to 10).
    pub keeps_legacy_top_level: bool,
    /// Keeps `aliases` of `m.room.aliases` (versions 1 to 5).
    pub keeps_aliases: bool,
    /// Keeps `allow` of `m.room.join_rules` (version 8 and later).
    pub keeps_join_rule_allow: bool,
    /// Keeps `join_authorised_via_users_server` of `m.room.member` (version 9 and later).
    pub keeps_authorising_user: bool,
    /// Keeps `third_party_invite.signed` of `m.room.member` (version 11 and later).
    pub keeps_third_party_invite_signed: bool,
    /// Keeps all of `m.room.create` (version 11 and later); before, only `creator`.
    pub keeps_whole_create: bool,
    /// Keeps `invite` of `m.room.power_levels` (version 11 and later).
    pub keeps_invite_level: bool,
    /// Keeps `redacts` of `m.room.redaction` (version 11 and later).
    pub keeps_redacts: bool,
}

/// All that differs between room versions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RoomVersionRules {
    /// The version these rules belong to.
    pub version: RoomVersion,
    /// The state resolution algorithm.
    pub state_resolution: StateResolution,
    /// How an event gets its id.
    pub event_id_format: EventIdFormat,
    /// Signing keys must be valid at `origin_server_ts` (version 5 and later).
    pub enforce_key_validity: bool,
    /// Canonical JSON is enforced: integers only, within ±(2^53 − 1) (version 6 and later).
    pub strict_canonical_json: bool,
    /// `m.room.aliases` has an auth rule of its own (versions 1 to 5).
    pub special_case_aliases_auth: bool,
    /// A redaction is authorised by the redact level or the domain of the event ids (versions 1 and 2). Later it is always
    /// accepted, and whether it takes effect is decided when both events are known.
    pub redaction_auth_rule: bool,
    /// Changes of `notifications` in power levels are checked (version 6 and later).
    pub limit_notifications_power_levels: bool,
    /// The join rule `knock` and the membership `knock` exist (version 7 and later).
    pub knock_join_rule: bool,
    /// The join rule `restricted` exists (version 8 and later).
    pub restricted_join_rule: bool,
    /// The join rule `knock_restricted` exists (version 10 and later).
    pub knock_restricted_join_rule: bool,
    /// Spellings of power levels.
    pub power_level_format: PowerLevelFormat,
    /// The creator is the `sender` of `m.room.create`; `content.creator` is gone (version 11 and later).
    pub implicit_room_creator: bool,
    /// `redacts` of `m.room.redaction` is in `content` (version 11 and later), before at the top level.
    pub redacts_in_content: bool,
    /// Fields are limited to 255 bytes in the format check (version 11 and later). Before, a field of at most 255 code points
    /// but more than 255 bytes makes the event rejected, not dropped, as deployed servers do.
    pub strict_byte_limits: bool,
    /// What redaction keeps.
    pub redaction: RedactionRules,
    /// The room id is the reference hash of the create event, which has no `room_id` and is never an auth event (version 12).
    pub room_id_is_create_hash: bool,
    /// Creators (`sender` and `additional_creators`) have infinite power (version 12).
    pub creators_have_infinite_power: bool,
}

impl RoomVersionRules {
    const V1: Self = Self {
        version: RoomVersion::V1,
        state_resolution: StateResolution::V1,
        event_id_format: EventIdFormat::Carried,
        enforce_key_validity: false,
        strict_canonical_json: false,
        special_case_aliases_auth: true,
        redaction_auth_rule: true,
        limit_notifications_power_levels: false,
        knock_join_rule: false,
        restricted_join_rule: false,
        knock_restricted_join_rule: false,
        power_level_format: PowerLevelFormat::IntegerStringOrFloat,
        implicit_room_creator: false,
        redacts_in_content: false,
        strict_byte_limits: false,
        redaction: RedactionRules {
            keeps_legacy_top_level: true,
            keeps_aliases: true,
            keeps_join_rule_allow: false,
            keeps_authorising_user: false,
            keeps_third_party_invite_signed: false,
            keeps_whole_create: false,
            keeps_invite_level: false,
            keeps_redacts: false,
        },
        room_id_is_create_hash: false,
        creators_have_infinite_power: false,
    };

    const V2: Self = Self { version: RoomVersion::V2, state_resolution: StateResolution::V2, ..Self::V1 };

    const V3: Self = Self {
        version: RoomVersion::V3,
        event_id_format: EventIdFormat::ReferenceHash,
        redaction_auth_rule: false,
        ..Self::V2
    };

    const V4: Self =
        Self { version: RoomVersion::V4, event_id_format: EventIdFormat::UrlSafeReferenceHash, ..Self::V3 };

    const V5: Self = Self { version: RoomVersion::V5, enforce_key_validity: true, ..Self::V4 };

    const V6: Self = Self {
        version: RoomVersion::V6,
        strict_canonical_json: true,
        special_case_aliases_auth: false,
        limit_notifications_power_levels: true,
        power_level_format: PowerLevelFormat::IntegerOrString,
        redaction: RedactionRules { keeps_aliases: false, ..Self::V5.redaction },
        ..Self::V5
    };

    const V7: Self = Self { version: RoomVersion::V7, knock_join_rule: true, ..Self::V6 };

    const V8: Self = Self {
        version: RoomVersion::V8,
        restricted_join_rule: true,
        redaction: RedactionRules { keeps_join_rule_allow: true, ..Self::V7.redaction },
        ..Self::V7
    };

    const V9: Self = Self {
        version: RoomVersion::V9,
        redaction: RedactionRules { keeps_authorising_user: true, ..Self::V8.redaction },
        ..Self::V8
    };

    const V10: Self = Self {
        version: RoomVersion::V10,
        knock_restricted_join_rule: true,
        power_level_format: PowerLevelFormat::Integer,
        ..Self::V9
    };

    const V11: Self = Self {
        version: RoomVersion::V11,
        implicit_room_creator: true,
        redacts_in_content: true,
        strict_byte_limits: true,
        redaction: RedactionRules {
            keeps_legacy_top_level: false,
            keeps_third_party_invite_signed: true,
            keeps_whole_create: true,
            keeps_invite_level: true,
            keeps_redacts: true,
            ..Self::V10.redaction
        },
        ..Self::V10
    };

    const V12: Self = Self {
        version: RoomVersion::V12,
        state_resolution: StateResolution::V2_1,
        room_id_is_create_hash: true,
        creators_have_infinite_power: true,
        ..Self::V11
    };
}

#[cfg(test)]
mod tests {
    use super::RoomVersion;

    #[test]
    fn every_version_is_found_by_its_identifier() {
        for version in RoomVersion::ALL {
            assert_eq!(RoomVersion::parse(version.as_str()), Some(version));
            assert_eq!(version.rules().version, version);
        }
        assert_eq!(RoomVersion::parse("13"), None);
        assert_eq!(RoomVersion::parse("01"), None);
    }
}
