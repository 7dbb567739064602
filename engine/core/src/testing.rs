//! Rooms written in lines of text, one event each, for tests.
//!
//! ```text
//! NAME: USER VERB [after NAMES] [auth NAMES] [omits TYPES] [cites NAMES] [ts N] [depth N] [FLAGS] [with JSON] [=> OUTCOME]
//! C: alice creates                        (the create event is named C)
//! A: alice joins
//! P: alice power alice=100 bob=50 ban=60 events/m.room.topic=0
//! J: alice join_rule public
//! B: bob joins after J
//! X: alice bans bob after B ts 7          (also invites, kicks, unbans)
//! T: bob sets m.room.topic after B        (a state event; a second word is the state key)
//! M: bob says hi after T                  (a message)
//! R: bob redacts T
//! ```
//!
//! - The user `bob` is `@bob:b`, of the server `b`.
//! - `after` are the prev events: without it, those of the line before. `after -` is none.
//! - `auth` are the auth events: without it, those that the state before the event selects, `omits` left out and `cites` put in.
//! - `ts` is the number of the line, `depth` one more than that of the prev events.
//! - `with` sets fields of the event; those of `content` are put to the others.
//! - Flags: `rejected` ([`TestGraph`] takes it as rejected), `signed_by SERVERS` (instead of the sender's).
//! - `=>` is what the room has to say: `accepted`, `soft-failed CODE`, `rejected CHECK CODE`.
//!
//! [`TestGraph`] makes events of it whose ids are the names, for state resolution. [`TestRoom`] makes signed PDUs, and hands them
//! to a room.

mod graph;
mod room;
mod steps;

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

pub(crate) use self::{graph::TestGraph, room::TestRoom};
use crate::{
    event::{Event, StateKey, event_type},
    event_auth::auth_types_for_event,
    id::EventId,
    pdu::ParsedPdu,
    resolve::Step,
    room_version::RoomVersion,
    signing::room_id_of_create,
};

/// The entries of a state.
pub(crate) type Entries = BTreeMap<StateKey, EventId>;

/// One line.
#[derive(Debug, Default)]
struct Line<'t> {
    name: &'t str,
    user: &'t str,
    verb: &'t str,
    arguments: Vec<&'t str>,
    after: Option<Vec<&'t str>>,
    auth: Option<Vec<&'t str>>,
    omits: Vec<&'t str>,
    cites: Vec<&'t str>,
    ts: Option<i64>,
    depth: Option<i64>,
    rejected: bool,
    signed_by: Option<Vec<&'t str>>,
    with: Option<&'t str>,
    outcome: Option<&'t str>,
}

impl<'t> Line<'t> {
    fn parse(text: &'t str) -> Self {
        let (text, outcome) =
            text.split_once("=>").map_or((text, None), |(text, outcome)| (text, Some(outcome.trim())));
        let (text, with) = text.split_once(" with ").map_or((text, None), |(text, with)| (text, Some(with)));
        let (name, rest) = text.split_once(':').unwrap_or_else(|| panic!("no name: {text}"));
        let mut words = rest.split_whitespace();
        let (user, verb) = (words.next().expect("a user"), words.next().expect("a verb"));
        let mut line = Self { name: name.trim(), user, verb, with, outcome, ..Self::default() };
        let list = |word: Option<&'t str>| -> Vec<&'t str> {
            word.expect("a list").split(',').filter(|name| *name != "-").collect()
        };
        while let Some(word) = words.next() {
            match word {
                "after" => line.after = Some(list(words.next())),
                "auth" => line.auth = Some(list(words.next())),
                "omits" => line.omits = list(words.next()),
                "cites" => line.cites = list(words.next()),
                "ts" => line.ts = words.next().map(|ts| ts.parse().expect("a number")),
                "depth" => line.depth = words.next().map(|depth| depth.parse().expect("a number")),
                "signed_by" => line.signed_by = Some(list(words.next())),
                "rejected" => line.rejected = true,
                argument => line.arguments.push(argument),
            }
        }
        line
    }

    fn all(text: &'t str) -> impl Iterator<Item = Self> {
        text.lines().map(str::trim).filter(|line| !line.is_empty()).map(Self::parse)
    }

    fn server(&self) -> String {
        user_id(self.user).split_once(':').expect("a user id").1.to_owned()
    }

    /// Returns `type`, `state_key` and `content`.
    fn state(&self, version: RoomVersion) -> (&'t str, Option<String>, Value) {
        let member = |user: &str, membership: &str| {
            let mut content = json!({ "membership": membership });
            if let Some(via) = self.arguments.iter().find_map(|word| word.strip_prefix("via=")) {
                content["join_authorised_via_users_server"] = user_id(via).into();
            }
            (event_type::MEMBER, Some(user_id(user)), content)
        };
        let of_target = |membership| member(self.arguments[0], membership);
        match self.verb {
            "creates" => (event_type::CREATE, Some(String::new()), self.create_content(version)),
            "joins" => member(self.user, "join"),
            "leaves" => member(self.user, "leave"),
            "knocks" => member(self.user, "knock"),
            "invites" => of_target("invite"),
            "kicks" | "unbans" => of_target("leave"),
            "bans" => of_target("ban"),
            "power" => (event_type::POWER_LEVELS, Some(String::new()), self.power_levels()),
            "join_rule" => (event_type::JOIN_RULES, Some(String::new()), json!({ "join_rule": self.arguments[0] })),
            "sets" => {
                let key = self.arguments.get(1).map_or(String::new(), |key| (*key).to_owned());
                (self.arguments[0], Some(key), json!({ "by": self.name }))
            }
            "says" => ("m.room.message", None, json!({ "body": self.name })),
            "sends" => (self.arguments[0], None, json!({ "body": self.name })),
            "redacts" => (event_type::REDACTION, None, json!({})),
            other => panic!("unknown verb {other:?}"),
        }
    }

    fn create_content(&self, version: RoomVersion) -> Value {
        let mut content = json!({ "room_version": version.as_str() });
        if !version.rules().implicit_room_creator {
            content["creator"] = user_id(self.user).into();
        }
        content
    }

    fn power_levels(&self) -> Value {
        let mut content = json!({ "users": {}, "events": {} });
        for (key, level) in self.arguments.iter().filter_map(|word| word.split_once('=')) {
            let level: i64 = level.parse().expect("a level");
            match key {
                "ban" | "kick" | "invite" | "redact" | "users_default" | "events_default" | "state_default" => {
                    content[key] = level.into();
                }
                key => match key.strip_prefix("events/") {
                    Some(event_type) => content["events"][event_type] = level.into(),
                    None => content["users"][user_id(key)] = level.into(),
                },
            }
        }
        content
    }
}

/// The events of a room by the names of their lines.
#[derive(Debug, Default)]
pub(crate) struct Names {
    ids: BTreeMap<String, EventId>,
    last: Option<EventId>,
}

impl Names {
    fn put(&mut self, name: &str, event_id: &EventId) {
        self.ids.insert(name.to_owned(), event_id.clone());
        self.last = Some(event_id.clone());
    }

    /// Returns the id of an event by its name. `$...` is an id.
    pub(crate) fn id(&self, name: &str) -> EventId {
        let id = self.ids.get(name).cloned();
        id.unwrap_or_else(|| EventId::parse(name).unwrap_or_else(|_| panic!("no event {name}")))
    }

    /// Returns the name of an event; the id if it has none.
    pub(crate) fn name<'s>(&'s self, event_id: &'s EventId) -> &'s str {
        self.ids.iter().find(|(_, id)| *id == event_id).map_or(event_id.as_str(), |(name, _)| name)
    }

    /// Checks what holds some keys in a state: `topic=T @bob=B name=-`.
    #[track_caller]
    pub(crate) fn check_state(&self, state: &Entries, expected: &str) {
        for entry in expected.split_whitespace() {
            let (key, name) = entry.split_once('=').expect("key=NAME");
            let key = long_key(key);
            let found = state.get(&key).map_or("-", |id| self.name(id));
            assert_eq!(found, name, "{entry}: {key:?}");
        }
    }

    /// Checks the steps of a resolution, as lines in the form of [`steps::render`]: of the kinds of lines that are expected, all
    /// those and no others, in this order.
    #[track_caller]
    pub(crate) fn check_steps(&self, steps: &[Step], expected: &str) {
        let expected: Vec<&str> = expected.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        let all = steps::render(steps, |id| self.name(id).to_owned());
        let is_expected_kind = |line: &&str| expected.iter().any(|other| steps::kind(other) == steps::kind(line));
        let found: Vec<&str> = all.iter().map(String::as_str).filter(is_expected_kind).collect();
        assert_eq!(found, expected, "of {all:#?}");
    }
}

/// Who makes events of lines.
trait Author {
    fn version(&self) -> RoomVersion;
    fn names(&self) -> &Names;
    fn depth(&self, event_id: &EventId) -> Option<i64>;
    /// Returns the state before an event with these prev events.
    fn state_before(&self, prev_events: &[EventId]) -> Entries;
}

/// Returns the event of a line, without hashes and signatures; `ts` is taken if the line does not say.
fn unsigned_event(author: &impl Author, line: &Line<'_>, ts: i64) -> Map<String, Value> {
    let version = author.version();
    let names = author.names();
    let prev_events: Vec<EventId> = match &line.after {
        Some(after) => after.iter().map(|name| names.id(name)).collect(),
        None if line.verb == "creates" => Vec::new(),
        None => names.last.iter().cloned().collect(),
    };
    let depth = prev_events.iter().filter_map(|id| author.depth(id)).max().map_or(1, |depth| depth + 1);

    let (event_type, state_key, content) = line.state(version);
    let mut event = Map::new();
    event.insert("type".into(), event_type.into());
    event.insert("sender".into(), user_id(line.user).into());
    event.insert("origin_server_ts".into(), line.ts.unwrap_or(ts).into());
    event.insert("depth".into(), line.depth.unwrap_or(depth).into());
    event.insert("prev_events".into(), refs(version, &prev_events));
    event.insert("auth_events".into(), json!([]));
    event.insert("hashes".into(), json!({ "sha256": "AA" }));
    event.insert("signatures".into(), json!({}));
    event.insert("content".into(), content);
    if let Some(state_key) = state_key {
        event.insert("state_key".into(), state_key.into());
    }
    if version < RoomVersion::V12 {
        event.insert("room_id".into(), "!room:a".into());
    } else if event_type != event_type::CREATE {
        let create = names.ids.get("C").expect("a create event C");
        event.insert("room_id".into(), room_id_of_create(create).expect("a room id").as_str().into());
    }
    if version <= RoomVersion::V2 {
        event.insert("event_id".into(), format!("${}:{}", line.name, line.server()).into());
    }
    if line.verb == "redacts" {
        let redacts = names.id(line.arguments[0]);
        if version.rules().redacts_in_content {
            event["content"]["redacts"] = redacts.as_str().into();
        } else {
            event.insert("redacts".into(), redacts.as_str().into());
        }
    }
    if let Some(with) = line.with {
        merge(&mut event, serde_json::from_str(with).expect("an object"));
    }
    let auth_events = auth_events(author, line, &event, &prev_events);
    event.insert("auth_events".into(), refs(version, &auth_events));
    event
}

fn merge(event: &mut Map<String, Value>, with: Map<String, Value>) {
    for (key, value) in with {
        match (event.get_mut(&key), value) {
            (Some(Value::Object(content)), Value::Object(with)) if key == "content" => content.extend(with),
            (_, value) => {
                event.insert(key, value);
            }
        }
    }
}

fn auth_events(author: &impl Author, line: &Line<'_>, event: &Map<String, Value>, prev: &[EventId]) -> Vec<EventId> {
    if let Some(names) = &line.auth {
        return names.iter().map(|name| author.names().id(name)).collect();
    }
    let decoded = decode(author.version(), event);
    let wanted = auth_types_for_event(author.version().rules(), &decoded);
    let wanted = wanted.iter().filter(|key| !line.omits.iter().any(|omits| key.event_type.ends_with(omits)));
    let state = author.state_before(prev);
    let mut ids: Vec<EventId> = wanted.filter_map(|key| state.get(key).cloned()).collect();
    ids.extend(line.cites.iter().map(|name| author.names().id(name)));
    ids
}

fn decode(version: RoomVersion, event: &Map<String, Value>) -> Event {
    let json = serde_json::to_vec(event).expect("JSON");
    ParsedPdu::parse(&json, version.rules()).unwrap_or_else(|error| panic!("{error}: {event:?}")).event().clone()
}

fn refs(version: RoomVersion, ids: &[EventId]) -> Value {
    ids.iter()
        .map(|id| if version <= RoomVersion::V2 { json!([id.as_str(), {}]) } else { id.as_str().into() })
        .collect()
}

/// Returns the user of a name: `bob` is `@bob:b`.
fn user_id(name: &str) -> String {
    if name.starts_with('@') { name.to_owned() } else { format!("@{name}:{}", &name[..1]) }
}

/// Returns a state key in short: `topic` for `m.room.topic`, `type/key` with a state key, `@bob` for the member `@bob:b`.
fn short_key(key: &StateKey) -> String {
    if &*key.event_type == event_type::MEMBER {
        return key.state_key.split(':').next().unwrap_or_default().to_owned();
    }
    let event_type = key.event_type.strip_prefix("m.room.").unwrap_or(&key.event_type);
    if key.state_key.is_empty() { event_type.to_owned() } else { format!("{event_type}/{}", key.state_key) }
}

/// Returns the state key that is short for `short`.
fn long_key(short: &str) -> StateKey {
    if let Some(user) = short.strip_prefix('@') {
        return StateKey::new(event_type::MEMBER, user_id(user));
    }
    let (event_type, state_key) = short.split_once('/').unwrap_or((short, ""));
    let event_type = if event_type.contains('.') { event_type.to_owned() } else { format!("m.room.{event_type}") };
    StateKey::new(event_type, state_key)
}
