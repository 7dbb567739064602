//! What resolution reads of an event, as a record: so that it parses no JSON, and reads nothing else of the event.

use std::{collections::BTreeMap, sync::Arc};

use bincode::{Decode, Encode};
use ravel_core::{
    event::{
        Content, CreateContent, Event, InvalidPowerLevels, JoinRule, MemberContent, Membership, NamedLevel,
        PowerLevels, SignedThirdPartyInvite, ThirdPartyInvite, ThirdPartyInviteContent,
    },
    graph::{EventIndex, PowerChain, StoredEvent},
    id::{EventId, RoomId, UserId},
    room_version::RoomVersion,
};

use crate::{Keyspace, Record};

/// The facts of an event, by room and number.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub(super) struct EventFactsRecord {
    pub(super) fields: FieldsRecord,
    pub(super) auth_events: Vec<u32>,
    power_levels: Option<u32>,
    /// Of power levels: how deep they stand in the chain that they go on with, and the ancestor that they jump to.
    power_chain: Option<(u32, u32)>,
    follows_create: Option<u32>,
    rejected: bool,
    nodes_before: u32,
    content: ContentRecord,
}

/// What an event says of itself beside its content.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub(super) struct FieldsRecord {
    pub(super) event_id: String,
    sender: String,
    event_type: String,
    /// `Some(None)` if it is the sender.
    state_key: Option<Option<String>>,
    pub(super) origin_server_ts_ms: i64,
    depth: i64,
}

impl FieldsRecord {
    /// Whether the event is a state event of this type, with the empty state key.
    pub(super) fn is_state_of_room(&self, event_type: &str) -> bool {
        self.event_type == event_type && matches!(&self.state_key, Some(Some(state_key)) if state_key.is_empty())
    }
}

impl Record for EventFactsRecord {
    const VERSION: u8 = 1;
    const KEYSPACE: Keyspace = Keyspace::EventFacts;
}

/// What rules read of an event's content. Entries of the log have it too, so a change of it is a change of theirs.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub(super) enum ContentRecord {
    Other,
    Member {
        membership: Option<u8>,
        join_authorised_via_users_server: Option<String>,
        third_party_invite: Option<ThirdPartyInviteRecord>,
    },
    JoinRules(u8),
    Create {
        room_version: Option<String>,
        creator: Option<String>,
        additional_creators: Option<Vec<String>>,
        federate: bool,
    },
    PowerLevels {
        /// By the places of [`NamedLevel::ALL`].
        named: [Option<i64>; 7],
        users: BTreeMap<String, i64>,
        events: BTreeMap<String, i64>,
        notifications: BTreeMap<String, i64>,
    },
    /// Why they are invalid is not kept: only rejected events have such.
    InvalidPowerLevels,
    ThirdPartyInvite(Vec<[u8; 32]>),
    Redaction(Option<String>),
}

#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub(super) enum ThirdPartyInviteRecord {
    NoSigned,
    Incomplete,
    Signed { mxid: String, token: String, signed_bytes: Vec<u8>, signatures: Vec<[u8; 64]> },
}

/// The byte of a value is its place.
const MEMBERSHIPS: [Membership; 6] =
    [Membership::Join, Membership::Invite, Membership::Leave, Membership::Ban, Membership::Knock, Membership::Unknown];

/// The byte of a value is its place.
const JOIN_RULES: [JoinRule; 6] = [
    JoinRule::Public,
    JoinRule::Invite,
    JoinRule::Knock,
    JoinRule::Restricted,
    JoinRule::KnockRestricted,
    JoinRule::Other,
];

fn byte_of<T: PartialEq>(values: &[T], value: &T) -> u8 {
    let place = values.iter().position(|other| other == value);
    // There are few of each kind.
    place.and_then(|place| u8::try_from(place).ok()).unwrap_or(u8::MAX)
}

fn value_of<T: Copy>(values: &[T], byte: u8) -> Option<T> {
    values.get(usize::from(byte)).copied()
}

impl EventFactsRecord {
    pub(super) fn of(stored: &StoredEvent) -> Self {
        let event = &stored.event;
        Self {
            fields: FieldsRecord::of(event),
            auth_events: stored.auth_events.iter().map(|index| index.number()).collect(),
            power_levels: stored.power_levels.map(EventIndex::number),
            power_chain: stored.power_chain.map(|chain| (chain.depth, chain.jump.number())),
            follows_create: stored.follows_create.map(EventIndex::number),
            rejected: stored.rejected,
            nodes_before: stored.nodes_before,
            content: ContentRecord::of(&event.content),
        }
    }

    /// Returns the event; `None` if something in the record can't be.
    pub(super) fn into_event(self, room_id: &RoomId) -> Option<StoredEvent> {
        let number = |number: Option<u32>| match number {
            Some(number) => EventIndex::from_number(number).map(Some),
            None => Some(None),
        };
        let power_levels = number(self.power_levels)?;
        let power_chain = match self.power_chain {
            Some((depth, jump)) => {
                Some(PowerChain { depth, jump: EventIndex::from_number(jump)?, parent: power_levels })
            }
            None => None,
        };
        Some(StoredEvent {
            event: Arc::new(self.fields.into_event(room_id, self.content)?),
            auth_events: indices(self.auth_events)?,
            power_levels,
            power_chain,
            follows_create: number(self.follows_create)?,
            rejected: self.rejected,
            nodes_before: self.nodes_before,
        })
    }
}

impl FieldsRecord {
    pub(super) fn of(event: &Event) -> Self {
        let state_key = event.state_key.as_deref();
        Self {
            event_id: event.event_id.to_string(),
            sender: event.sender.to_string(),
            event_type: event.event_type.to_string(),
            state_key: state_key.map(|key| (key != event.sender.as_str()).then(|| key.to_owned())),
            origin_server_ts_ms: event.origin_server_ts_ms,
            depth: event.depth,
        }
    }

    /// Returns the event, without edges; `None` if something can't be.
    pub(super) fn into_event(self, room_id: &RoomId, content: ContentRecord) -> Option<Event> {
        let sender = UserId::parse(&self.sender).ok()?;
        let state_key = self.state_key.map(|key| key.map_or_else(|| sender.clone().into(), Arc::from));
        Some(Event {
            event_id: EventId::parse(&self.event_id).ok()?,
            room_id: room_id.clone(),
            carries_room_id: true,
            sender,
            event_type: self.event_type.into(),
            state_key,
            origin_server_ts_ms: self.origin_server_ts_ms,
            depth: self.depth,
            prev_events: Box::default(),
            auth_events: Box::default(),
            content: content.into_content()?,
            oversized_field: false,
        })
    }
}

pub(super) fn indices(numbers: Vec<u32>) -> Option<Vec<EventIndex>> {
    numbers.into_iter().map(EventIndex::from_number).collect()
}

impl ContentRecord {
    pub(super) fn of(content: &Content) -> Self {
        let text = |text: &Arc<str>| text.to_string();
        let levels =
            |levels: &BTreeMap<Arc<str>, i64>| levels.iter().map(|(name, level)| (text(name), *level)).collect();
        match content {
            Content::Create(create) => Self::Create {
                room_version: create.room_version.map(|version| version.as_str().to_owned()),
                creator: create.creator.as_ref().map(text),
                additional_creators: create
                    .additional_creators
                    .as_ref()
                    .map(|creators| creators.iter().map(ToString::to_string).collect()),
                federate: create.federate,
            },
            Content::Member(member) => Self::Member {
                membership: member.membership.map(|membership| byte_of(&MEMBERSHIPS, &membership)),
                join_authorised_via_users_server: member.join_authorised_via_users_server.as_ref().map(text),
                third_party_invite: member.third_party_invite.as_ref().map(ThirdPartyInviteRecord::of),
            },
            Content::JoinRules(join_rule) => Self::JoinRules(byte_of(&JOIN_RULES, join_rule)),
            Content::PowerLevels(Ok(content)) => Self::PowerLevels {
                named: NamedLevel::ALL.map(|level| content.named.get(&level).copied()),
                users: levels(&content.users),
                events: levels(&content.events),
                notifications: levels(&content.notifications),
            },
            Content::PowerLevels(Err(_)) => Self::InvalidPowerLevels,
            Content::ThirdPartyInvite(invite) => Self::ThirdPartyInvite(invite.public_keys.to_vec()),
            Content::Redaction(redacts) => Self::Redaction(redacts.as_ref().map(ToString::to_string)),
            Content::Other => Self::Other,
        }
    }

    pub(super) fn into_content(self) -> Option<Content> {
        let levels =
            |levels: BTreeMap<String, i64>| levels.into_iter().map(|(name, level)| (name.into(), level)).collect();
        Some(match self {
            Self::Other => Content::Other,
            Self::Create { room_version, creator, additional_creators, federate } => {
                let users =
                    |users: Vec<String>| users.iter().map(|user| UserId::parse(user).ok()).collect::<Option<_>>();
                Content::Create(CreateContent {
                    room_version: room_version.as_deref().and_then(RoomVersion::parse),
                    creator: creator.map(Arc::from),
                    additional_creators: match additional_creators {
                        Some(creators) => Some(users(creators)?),
                        None => None,
                    },
                    federate,
                })
            }
            Self::Member { membership, join_authorised_via_users_server, third_party_invite } => {
                Content::Member(MemberContent {
                    membership: match membership {
                        Some(byte) => Some(value_of(&MEMBERSHIPS, byte)?),
                        None => None,
                    },
                    join_authorised_via_users_server: join_authorised_via_users_server.map(Arc::from),
                    third_party_invite: third_party_invite.map(ThirdPartyInviteRecord::into_invite),
                })
            }
            Self::JoinRules(byte) => Content::JoinRules(value_of(&JOIN_RULES, byte)?),
            Self::PowerLevels { named, users, events, notifications } => {
                let named = NamedLevel::ALL.into_iter().zip(named).filter_map(|(level, value)| Some((level, value?)));
                Content::PowerLevels(Ok(Arc::new(PowerLevels {
                    named: named.collect(),
                    users: levels(users),
                    events: levels(events),
                    notifications: levels(notifications),
                })))
            }
            Self::InvalidPowerLevels => Content::PowerLevels(Err(InvalidPowerLevels::NotAnObject("content"))),
            Self::ThirdPartyInvite(keys) => {
                Content::ThirdPartyInvite(ThirdPartyInviteContent { public_keys: keys.into() })
            }
            Self::Redaction(redacts) => Content::Redaction(match redacts {
                Some(redacts) => Some(EventId::parse(&redacts).ok()?),
                None => None,
            }),
        })
    }
}

impl ThirdPartyInviteRecord {
    fn of(invite: &ThirdPartyInvite) -> Self {
        match invite {
            ThirdPartyInvite::NoSigned => Self::NoSigned,
            ThirdPartyInvite::Incomplete => Self::Incomplete,
            ThirdPartyInvite::Signed(signed) => Self::Signed {
                mxid: signed.mxid.to_string(),
                token: signed.token.to_string(),
                signed_bytes: signed.signed_bytes.to_vec(),
                signatures: signed.signatures.to_vec(),
            },
        }
    }

    fn into_invite(self) -> ThirdPartyInvite {
        match self {
            Self::NoSigned => ThirdPartyInvite::NoSigned,
            Self::Incomplete => ThirdPartyInvite::Incomplete,
            Self::Signed { mxid, token, signed_bytes, signatures } => {
                ThirdPartyInvite::Signed(Arc::new(SignedThirdPartyInvite {
                    mxid: mxid.into(),
                    token: token.into(),
                    signed_bytes: signed_bytes.into(),
                    signatures: signatures.into(),
                }))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec;

    /// An event by `@a:a` after two others, as it is stored and as its bytes are documented, but for the checksum.
    #[track_caller]
    fn check(event_type: &str, state_key: Option<&str>, content: Content, expected: &str) {
        let room_id = RoomId::parse("!r:a").unwrap();
        let number = |number| EventIndex::from_number(number).unwrap();
        let is_power_levels = event_type == "m.room.power_levels";
        let chain = PowerChain { depth: 2, jump: number(0), parent: Some(number(1)) };
        let stored = StoredEvent {
            event: Arc::new(Event {
                event_id: EventId::parse("$e").unwrap(),
                room_id: room_id.clone(),
                carries_room_id: true,
                sender: UserId::parse("@a:a").unwrap(),
                event_type: event_type.into(),
                state_key: state_key.map(Arc::from),
                origin_server_ts_ms: -1,
                depth: 3,
                prev_events: Box::default(),
                auth_events: Box::default(),
                content,
                oversized_field: false,
            }),
            auth_events: vec![number(0), number(1)],
            power_levels: Some(number(1)),
            power_chain: is_power_levels.then_some(chain),
            follows_create: None,
            rejected: false,
            nodes_before: 300,
        };
        let record = EventFactsRecord::of(&stored);
        let bytes = codec::encode(&record).unwrap();
        let hex: String = bytes[..bytes.len() - 4].iter().map(|byte| format!("{byte:02x}")).collect();
        let text = |text: &str| {
            let bytes: String = text.bytes().map(|byte| format!("{byte:02x}")).collect();
            format!("{:02x}{bytes}", text.len())
        };
        let state_key = match state_key {
            None => "00".to_owned(),
            Some("@a:a") => "0100".to_owned(),
            Some(key) => format!("0101{}", text(key)),
        };
        let start =
            ["01", &text("$e"), &text("@a:a"), &text(event_type), &state_key, "01", "06", "020001", "0101"].concat();
        let chain = if is_power_levels { "010200" } else { "00" };
        let expected = [&start, chain, "00", "00", "fb2c01", &expected.replace(' ', "")].concat();
        assert_eq!(hex, expected, "{event_type}");
        let decoded: EventFactsRecord = codec::decode(b"", &bytes).unwrap();
        assert_eq!(decoded.into_event(&room_id), Some(stored), "{event_type}");
    }

    fn member(membership: Option<Membership>) -> MemberContent {
        MemberContent { membership, join_authorised_via_users_server: None, third_party_invite: None }
    }

    #[test]
    fn the_bytes_are_as_documented() {
        check("m.room.message", None, Content::Other, "00");
        for (place, membership) in ["00", "01", "02", "03", "04", "05"].into_iter().zip(MEMBERSHIPS) {
            let content = Content::Member(member(Some(membership)));
            check("m.room.member", Some("@a:a"), content, &format!("01 01{place} 00 00"));
        }
        let via = MemberContent { join_authorised_via_users_server: Some("@b:b".into()), ..member(None) };
        check("m.room.member", Some("@c:c"), Content::Member(via), "01 00 01 0440623a62 00");
        for (kind, invite) in [("00", ThirdPartyInvite::NoSigned), ("01", ThirdPartyInvite::Incomplete)] {
            let content = MemberContent { third_party_invite: Some(invite), ..member(Some(Membership::Invite)) };
            check("m.room.member", Some("@c:c"), Content::Member(content), &format!("01 0101 00 01{kind}"));
        }
        let signed = ThirdPartyInvite::Signed(Arc::new(SignedThirdPartyInvite {
            mxid: "@c:c".into(),
            token: "t".into(),
            signed_bytes: b"{}".to_vec().into(),
            signatures: vec![[7; 64]].into(),
        }));
        let content = MemberContent { third_party_invite: Some(signed), ..member(Some(Membership::Invite)) };
        let expected = format!("01 0101 00 0102 0440633a63 0174 027b7d 01{}", "07".repeat(64));
        check("m.room.member", Some("@c:c"), Content::Member(content), &expected);
        for (place, join_rule) in ["00", "01", "02", "03", "04", "05"].into_iter().zip(JOIN_RULES) {
            check("m.room.join_rules", Some(""), Content::JoinRules(join_rule), &format!("02 {place}"));
        }
        let create = CreateContent {
            room_version: Some(RoomVersion::V12),
            creator: None,
            additional_creators: Some(vec![UserId::parse("@b:b").unwrap()].into()),
            federate: true,
        };
        check("m.room.create", Some(""), Content::Create(create), "03 01023132 00 01010440623a62 01");
        let levels = PowerLevels {
            named: [(NamedLevel::Ban, 50)].into(),
            users: [("@b:b".into(), -1)].into(),
            ..PowerLevels::default()
        };
        let expected = "04 00 00 00 0164 00 00 00 010440623a6201 00 00";
        check("m.room.power_levels", Some(""), Content::PowerLevels(Ok(Arc::new(levels))), expected);
        let invalid = Content::PowerLevels(Err(InvalidPowerLevels::NotAnObject("content")));
        check("m.room.power_levels", Some(""), invalid, "05");
        let invite = ThirdPartyInviteContent { public_keys: vec![[9; 32]].into() };
        let expected = format!("06 01{}", "09".repeat(32));
        check("m.room.third_party_invite", Some("t"), Content::ThirdPartyInvite(invite), &expected);
        let redaction = Content::Redaction(Some(EventId::parse("$x").unwrap()));
        check("m.room.redaction", None, redaction, "07 01022478");
    }

    #[test]
    fn the_bytes_of_memberships_and_join_rules_do_not_move() {
        use JoinRule::{Invite as InviteRule, Knock as KnockRule, KnockRestricted, Other, Public, Restricted};
        use Membership::{Ban, Invite, Join, Knock, Leave, Unknown};
        assert_eq!(MEMBERSHIPS, [Join, Invite, Leave, Ban, Knock, Unknown]);
        assert_eq!(JOIN_RULES, [Public, InviteRule, KnockRule, Restricted, KnockRestricted, Other]);
    }
}
