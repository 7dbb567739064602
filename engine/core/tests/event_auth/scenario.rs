//! Rooms and events written in lines of text.
//!
//! A state is a list of items, separated by `;`. Every room was created by `@creator:a`, who is joined unless an item says
//! otherwise:
//!
//! ```text
//! create federate=no creator=@z:a creators=@d:a,@e:a
//! @b:x join                                   (or invite, leave, ban, knock)
//! join_rule public                            (or invite, knock, restricted, knock_restricted, other)
//! power @m:a=50 ban=60 events/m.room.name=30 notifications/room=50      (or: power invalid=ban)
//! token TOKEN @i:a keys=1,2                   an m.room.third_party_invite with the keys of these seeds
//! ```
//!
//! An event is a sender, a verb and options:
//!
//! ```text
//! @b:x join [@target:x] [via=@u:a] [signed] [3pid=MXID,TOKEN,SEED]   (any membership, or `unknown`, `absent`)
//! @b:x sends TYPE                             a message event
//! @b:x sets TYPE [KEY]                        a state event
//! @b:x power LEVELS                           as in the state
//! @b:x redacts $EVENT [id=$ID]
//! @b:x creates [room=!r:b] [version=9] [no-creator] [bad-creators] [with-room-id]
//! ```
//!
//! Any event: `prev=create`, `prev=create+another`, `oversized`, `no-state-key`, `no-create` (there is no accepted create event), and what is cited:
//! `cites=TYPE` adds one, `omits=TYPE` leaves it out, `rejected=TYPE`, `foreign=TYPE` (of another room).

use std::{cell::RefCell, collections::BTreeMap, sync::Arc};

use ed25519_dalek::{Signer, SigningKey};
use ravel_core::{
    event::{
        Content, CreateContent, Event, InvalidPowerLevels, JoinRule, MemberContent, Membership, NamedLevel,
        PowerLevels, SignedThirdPartyInvite, ThirdPartyInvite, ThirdPartyInviteContent, event_type,
    },
    event_auth::{
        CitedAuthEvent, Refusal, StateLookup, auth_types_for_event, check_state_dependent, check_state_independent,
    },
    id::{EventId, RoomId, UserId},
    room_version::RoomVersion,
};

/// A state, with a record of what was asked for.
pub struct State {
    events: BTreeMap<(String, String), Event>,
    asked: RefCell<Vec<(String, String)>>,
}

impl StateLookup for State {
    fn state_event(&self, event_type: &str, state_key: &str) -> Option<&Event> {
        let key = (event_type.to_owned(), state_key.to_owned());
        let found = self.events.get(&key);
        self.asked.borrow_mut().push(key);
        found
    }
}

/// An event and what is known about it.
pub struct Incoming {
    pub event: Event,
    pub signed: Option<bool>,
    has_create: bool,
    cites: Vec<String>,
    omits: Vec<String>,
    rejected: Vec<String>,
    foreign: Vec<String>,
}

/// Checks an event as on its receipt: what depends on no state, then against its auth events and against the state.
pub fn check(version: RoomVersion, state: &str, event: &str) -> Result<(), Refusal> {
    let rules = version.rules();
    let state = state_of(version, state);
    let incoming = event_of(version, event);
    let cited: Vec<(Event, bool)> = cited(version, &state, &incoming);
    let mut event = incoming.event;
    event.auth_events = cited.iter().map(|(event, _)| event.event_id.clone()).collect();
    let create = state.events.get(&(event_type::CREATE.into(), String::new())).filter(|_| incoming.has_create);
    let create_id = create.map(|create| &create.event_id);
    let auth_events: Vec<_> = cited.iter().map(|(event, rejected)| CitedAuthEvent::new(event, *rejected)).collect();
    check_state_independent(rules, &event, incoming.signed, create_id, &auth_events)?;

    let by_state = check_state_dependent(rules, &event, &state);
    if incoming.omits.is_empty() {
        let by_auth_events = check_state_dependent(rules, &event, &as_state(&cited, create));
        assert_eq!(by_state, by_auth_events, "the auth events are all that the rules look at");
    }
    let selected = auth_types_for_event(rules, &event);
    for (event_type, state_key) in &*state.asked.borrow() {
        let is_selected = selected.iter().any(|key| *key.event_type == **event_type && *key.state_key == **state_key);
        assert!(event_type == event_type::CREATE || is_selected, "({event_type}, {state_key}) is not selected");
    }
    by_state
}

/// Checks an event against its auth events alone: check 4 of "Checks performed on receipt of a PDU".
pub fn check_by_auth_events(version: RoomVersion, state: &str, event: &str) -> Result<(), Refusal> {
    let state = state_of(version, state);
    let incoming = event_of(version, event);
    let cited = cited(version, &state, &incoming);
    let create = state.events.get(&(event_type::CREATE.into(), String::new()));
    check_state_dependent(version.rules(), &incoming.event, &as_state(&cited, create))
}

/// The state that auth events make up; the create event counts if they have none, as in room version 12.
fn as_state<'a>(cited: &'a [(Event, bool)], create: Option<&'a Event>) -> Vec<&'a Event> {
    cited.iter().map(|(event, _)| event).chain(create).collect()
}

fn cited(version: RoomVersion, state: &State, incoming: &Incoming) -> Vec<(Event, bool)> {
    let mut cited = vec![];
    for key in auth_types_for_event(version.rules(), &incoming.event) {
        let found = state.events.get(&(key.event_type.to_string(), key.state_key.to_string()));
        if let Some(event) = found.filter(|event| !incoming.omits.contains(&event.event_type.to_string())) {
            cited.push(event.clone());
        }
    }
    for event_type in &incoming.cites {
        let mut event = event_of(version, &format!("@creator:a sets {event_type}")).event;
        event.event_id = event_id(version, &format!("another-{event_type}"), "a");
        cited.push(event);
    }
    for event in &mut cited {
        if incoming.foreign.contains(&event.event_type.to_string()) {
            event.room_id = RoomId::parse("!elsewhere:a").unwrap();
        }
    }
    let is_rejected = |event: &Event| incoming.rejected.contains(&event.event_type.to_string());
    cited.into_iter().map(|event| (is_rejected(&event), event)).map(|(rejected, event)| (event, rejected)).collect()
}

/// Builds the state that the items describe.
pub fn state_of(version: RoomVersion, items: &str) -> State {
    let mut events = BTreeMap::new();
    let mut put = |event: Event| {
        let key = (event.event_type.to_string(), event.state_key.as_deref().unwrap_or_default().to_owned());
        events.insert(key, event);
    };
    put(create_of(version, &[]));
    put(event_of(version, "@creator:a join").event);
    for item in items.split(';').map(str::trim).filter(|item| !item.is_empty()) {
        let words: Vec<_> = item.split_whitespace().collect();
        put(match words[0] {
            "create" => create_of(version, &words),
            "join_rule" => state_event(version, "@creator:a", event_type::JOIN_RULES, "", join_rule(words[1])),
            "power" => {
                let levels = power_levels(&words[1..]);
                state_event(version, "@creator:a", event_type::POWER_LEVELS, "", levels)
            }
            "token" => {
                let seeds = option(&words, "keys=").unwrap_or("").split(',').filter(|seed| !seed.is_empty());
                let public_keys = seeds.map(|seed| signing_key(seed).verifying_key().to_bytes()).collect();
                let content = Content::ThirdPartyInvite(ThirdPartyInviteContent { public_keys });
                state_event(version, words[2], event_type::THIRD_PARTY_INVITE, words[1], content)
            }
            user if user.starts_with('@') => event_of(version, item).event,
            other => panic!("unknown item {other:?}"),
        });
    }
    State { events, asked: RefCell::default() }
}

impl State {
    pub fn get(&self, event_type: &str, state_key: &str) -> Option<&Event> {
        self.events.get(&(event_type.to_owned(), state_key.to_owned()))
    }
}

/// Builds the event that the line describes.
pub fn event_of(version: RoomVersion, line: &str) -> Incoming {
    let words: Vec<_> = line.split_whitespace().collect();
    let (sender, verb, options) = (words[0], words[1], &words[2..]);
    let plain = options.iter().copied().find(|word| !word.contains('=') && !KNOWN_FLAGS.contains(word));
    let mut event = match verb {
        "sends" => {
            let content = content_of_other(plain.unwrap());
            Event { state_key: None, ..state_event(version, sender, plain.unwrap(), "", content) }
        }
        "sets" => {
            let key = options.get(1).filter(|word| !word.contains('=')).copied().unwrap_or("");
            state_event(version, sender, options[0], key, content_of_other(options[0]))
        }
        "power" => state_event(version, sender, event_type::POWER_LEVELS, "", power_levels(options)),
        "redacts" => {
            let redacts = plain.filter(|word| word.starts_with('$')).map(|id| EventId::parse(id).unwrap());
            let content = Content::Redaction(redacts);
            Event { state_key: None, ..state_event(version, sender, event_type::REDACTION, "", content) }
        }
        "creates" => create_event(version, sender, options),
        membership => {
            let content = Content::Member(MemberContent {
                membership: membership_of(membership),
                join_authorised_via_users_server: option(options, "via=").map(Arc::from),
                third_party_invite: option(options, "3pid=").map(third_party_invite),
            });
            state_event(version, sender, event_type::MEMBER, plain.unwrap_or(sender), content)
        }
    };
    if let Some(id) = option(options, "id=") {
        event.event_id = EventId::parse(id).unwrap();
    }
    if options.contains(&"no-state-key") {
        event.state_key = None;
    }
    match option(options, "prev=") {
        Some("create") => event.prev_events = [create_of(version, &[]).event_id].into(),
        Some("create+another") => {
            event.prev_events = [create_of(version, &[]).event_id, event_id(version, "another", "a")].into();
        }
        Some(other) => panic!("unknown prev {other:?}"),
        None => {}
    }
    event.oversized_field = options.contains(&"oversized");
    let all = |name| options.iter().filter_map(|word| word.strip_prefix(name)).map(str::to_owned).collect();
    Incoming {
        event,
        signed: options.contains(&"signed").then_some(true).or(options.contains(&"unsigned").then_some(false)),
        has_create: !options.contains(&"no-create") && verb != "creates" || options.contains(&"second"),
        cites: all("cites="),
        omits: all("omits="),
        rejected: all("rejected="),
        foreign: all("foreign="),
    }
}

const KNOWN_FLAGS: [&str; 9] = [
    "signed",
    "unsigned",
    "no-state-key",
    "oversized",
    "no-create",
    "no-creator",
    "bad-creators",
    "with-room-id",
    "second",
];

fn option<'w>(words: &[&'w str], name: &str) -> Option<&'w str> {
    words.iter().find_map(|word| word.strip_prefix(name))
}

fn event_id(version: RoomVersion, name: &str, server_name: &str) -> EventId {
    let id = if version <= RoomVersion::V2 { format!("${name}:{server_name}") } else { format!("${name}") };
    EventId::parse(&id).unwrap()
}

fn state_event(version: RoomVersion, sender: &str, event_type: &str, state_key: &str, content: Content) -> Event {
    let room_id = if version == RoomVersion::V12 { "!create" } else { "!room:a" };
    let server_name = sender.split_once(':').unwrap().1;
    Event {
        event_id: event_id(version, &format!("{event_type}-{}-{}", &sender[1..2], state_key.len()), server_name),
        room_id: RoomId::parse(room_id).unwrap(),
        carries_room_id: true,
        sender: UserId::parse(sender).unwrap(),
        event_type: event_type.into(),
        state_key: Some(state_key.into()),
        origin_server_ts_ms: 1,
        depth: 3,
        prev_events: [event_id(version, "parent", "a")].into(),
        auth_events: [].into(),
        content,
        oversized_field: false,
    }
}

/// The create event of the state.
fn create_of(version: RoomVersion, words: &[&str]) -> Event {
    let mut event = create_event(version, "@creator:a", words);
    event.event_id = event_id(version, "create", "a");
    event
}

fn create_event(version: RoomVersion, sender: &str, words: &[&str]) -> Event {
    let creators = option(words, "creators=").unwrap_or("").split(',').filter(|user| !user.is_empty());
    let creator = option(words, "creator=").unwrap_or(sender);
    let content = Content::Create(CreateContent {
        room_version: option(words, "version=").map_or(Some(version), RoomVersion::parse),
        creator: (version <= RoomVersion::V10 && !words.contains(&"no-creator")).then(|| creator.into()),
        additional_creators: (!words.contains(&"bad-creators"))
            .then(|| creators.map(|user| UserId::parse(user).unwrap()).collect()),
        federate: option(words, "federate=") != Some("no"),
    });
    let mut event = state_event(version, sender, event_type::CREATE, "", content);
    event.carries_room_id = version != RoomVersion::V12 || words.contains(&"with-room-id");
    event.prev_events = [].into();
    if let Some(room_id) = option(words, "room=") {
        event.room_id = RoomId::parse(room_id).unwrap();
    }
    event
}

fn content_of_other(event_type: &str) -> Content {
    match event_type {
        event_type::POWER_LEVELS => Content::PowerLevels(Ok(Arc::default())),
        event_type::JOIN_RULES => Content::JoinRules(JoinRule::Invite),
        event_type::THIRD_PARTY_INVITE => Content::ThirdPartyInvite(ThirdPartyInviteContent { public_keys: [].into() }),
        event_type::CREATE => Content::Create(CreateContent {
            room_version: Some(RoomVersion::V1),
            creator: None,
            additional_creators: None,
            federate: true,
        }),
        _ => Content::Other,
    }
}

fn membership_of(word: &str) -> Option<Membership> {
    Some(match word {
        "join" => Membership::Join,
        "invite" => Membership::Invite,
        "leave" => Membership::Leave,
        "ban" => Membership::Ban,
        "knock" => Membership::Knock,
        "unknown" => Membership::Unknown,
        "absent" => return None,
        other => panic!("unknown verb {other:?}"),
    })
}

fn join_rule(word: &str) -> Content {
    Content::JoinRules(match word {
        "public" => JoinRule::Public,
        "invite" => JoinRule::Invite,
        "knock" => JoinRule::Knock,
        "restricted" => JoinRule::Restricted,
        "knock_restricted" => JoinRule::KnockRestricted,
        "other" => JoinRule::Other,
        other => panic!("unknown join rule {other:?}"),
    })
}

fn power_levels(words: &[&str]) -> Content {
    let mut levels = PowerLevels::default();
    for (key, value) in words.iter().filter_map(|word| word.split_once('=')) {
        if key == "invalid" {
            return Content::PowerLevels(Err(match value {
                "users" => InvalidPowerLevels::NotAnObject("users"),
                "user" => InvalidPowerLevels::EntryNotAnInteger { map: "users", key: "@m:a".into() },
                "user_id" => InvalidPowerLevels::NotAUserId("m".into()),
                "events" => InvalidPowerLevels::NotAnObject("events"),
                "notification" => InvalidPowerLevels::EntryNotAnInteger { map: "notifications", key: "room".into() },
                name => InvalidPowerLevels::NotAnInteger(named(name).unwrap()),
            }));
        }
        let Ok(value) = value.parse() else { continue };
        if let Some(name) = named(key) {
            levels.named.insert(name, value);
        } else if let Some(event_type) = key.strip_prefix("events/") {
            levels.events.insert(event_type.into(), value);
        } else if let Some(notification) = key.strip_prefix("notifications/") {
            levels.notifications.insert(notification.into(), value);
        } else {
            assert!(key.starts_with('@'), "unknown level {key:?}");
            levels.users.insert(key.into(), value);
        }
    }
    Content::PowerLevels(Ok(Arc::new(levels)))
}

fn named(name: &str) -> Option<NamedLevel> {
    NamedLevel::ALL.into_iter().find(|level| level.as_str() == name)
}

fn signing_key(seed: &str) -> SigningKey {
    SigningKey::from_bytes(&[seed.parse().unwrap(); 32])
}

fn third_party_invite(value: &str) -> ThirdPartyInvite {
    match value.split(',').collect::<Vec<_>>()[..] {
        ["no-signed"] => ThirdPartyInvite::NoSigned,
        ["incomplete"] => ThirdPartyInvite::Incomplete,
        [mxid, token, ref seeds @ ..] => {
            let signed_bytes: Box<[u8]> = format!("{{\"mxid\":\"{mxid}\",\"token\":\"{token}\"}}").into_bytes().into();
            let sign = |seed: &&str| match *seed {
                "forged" => [7; 64],
                seed => signing_key(seed).sign(&signed_bytes).to_bytes(),
            };
            let signatures = seeds.iter().map(sign).collect();
            ThirdPartyInvite::Signed(Arc::new(SignedThirdPartyInvite {
                mxid: mxid.into(),
                token: token.into(),
                signed_bytes,
                signatures,
            }))
        }
        _ => panic!("unknown third_party_invite {value:?}"),
    }
}
