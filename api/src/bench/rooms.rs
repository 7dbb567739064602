//! Generated rooms: a shared history, then forks that change the same keys.

use std::{collections::BTreeMap, sync::Arc};

use ravel_core::{
    event::{
        Content, CreateContent, Event, JoinRule, MemberContent, Membership, NamedLevel, PowerLevels, StateKey,
        event_type,
    },
    event_auth::auth_types_for_event,
    id::{EventId, RoomId, UserId},
    room_version::{RoomVersion, RoomVersionRules},
    signing::encode_base64_url_safe,
};
use serde_json::{json, value::RawValue};
use sha2::{Digest, Sha256};

/// What a generated room looks like.
#[derive(Clone, Debug)]
pub struct Shape {
    /// The room's version.
    pub room_version: RoomVersion,
    /// How many users are joined before the forks.
    pub members: usize,
    /// How many times the power levels change before the forks.
    pub power_changes: usize,
    /// How many users the power levels name.
    pub power_users: usize,
    /// How many forks there are.
    pub forks: usize,
    /// How many times each fork changes the power levels, each change citing the one before.
    pub chained_power_changes: usize,
    /// How many events are in conflict, over all forks: each fork has this share, one power levels event among them.
    pub conflicted_events: usize,
    /// Makes another room of the same shape.
    pub seed: u64,
}

/// An event with the content that other implementations parse.
#[derive(Clone, Debug)]
pub struct GeneratedEvent {
    /// The event.
    pub event: Arc<Event>,
    /// Its `content`.
    pub content: Box<RawValue>,
}

/// A generated room.
#[derive(Debug)]
pub struct GeneratedRoom {
    /// The rules of its version.
    pub rules: &'static RoomVersionRules,
    /// All events, parents first.
    pub events: Vec<GeneratedEvent>,
    /// The state before the forks.
    pub shared: BTreeMap<StateKey, EventId>,
    /// What each fork changes of it.
    pub forks: Vec<BTreeMap<StateKey, EventId>>,
}

impl Shape {
    /// Makes the room. The same shape always gives the same room.
    pub fn generate(&self) -> GeneratedRoom {
        let mut builder = Builder::new(self);
        builder.shared_history();
        let shared = builder.state.clone();
        let forks = (0..self.forks).map(|fork| builder.fork(fork, &shared)).collect();
        GeneratedRoom { rules: builder.rules, events: builder.events, shared, forks }
    }
}

struct Builder<'a> {
    shape: &'a Shape,
    rules: &'static RoomVersionRules,
    room_id: RoomId,
    events: Vec<GeneratedEvent>,
    state: BTreeMap<StateKey, EventId>,
    time_ms: i64,
}

impl<'a> Builder<'a> {
    fn new(shape: &'a Shape) -> Self {
        let rules = shape.room_version.rules();
        let id = if rules.room_id_is_create_hash {
            event_id(shape.seed, 0).as_str().replacen('$', "!", 1)
        } else {
            "!room:s0.example".into()
        };
        let room_id = RoomId::parse(&id).expect("the generated room id is valid");
        Self { shape, rules, room_id, events: Vec::new(), state: BTreeMap::new(), time_ms: 1_700_000_000_000 }
    }

    fn shared_history(&mut self) {
        let creator = user(0);
        self.create(&creator);
        self.member(&creator, &creator, Membership::Join);
        self.power_levels(&creator, 0);
        self.send(
            &creator,
            event_type::JOIN_RULES,
            "",
            Content::JoinRules(JoinRule::Public),
            &json!({ "join_rule": "public" }),
        );
        self.other(&creator, "m.room.topic", &json!({ "topic": "shared" }));
        self.other(&creator, "m.room.name", &json!({ "name": "shared" }));
        // The changes of power levels are spread over the joins, so that members cite different ones.
        let every = self.shape.members / (self.shape.power_changes + 1) + 1;
        for number in 1..self.shape.members {
            let user = user(number);
            self.member(&user, &user, Membership::Join);
            if number % every == 0 {
                self.power_levels(&creator, number / every);
            }
        }
    }

    /// Adds a fork's events; returns what it changes of the shared state.
    fn fork(&mut self, fork: usize, shared: &BTreeMap<StateKey, EventId>) -> BTreeMap<StateKey, EventId> {
        self.state = shared.clone();
        let creator = user(0);
        for change in 0..self.shape.chained_power_changes {
            self.power_levels(&creator, 1000 + fork * 10_000 + change);
        }
        let keys = self.shape.conflicted_events / self.shape.forks.max(1);
        for key in 1..keys {
            match key {
                1 => self.other(&creator, "m.room.topic", &json!({ "topic": format!("of fork {fork}") })),
                2 => self.other(&creator, "m.room.name", &json!({ "name": format!("of fork {fork}") })),
                // Users behind those with power, so that the creator may kick and ban them.
                _ => {
                    let target = user(self.shape.power_users + key);
                    match (key + fork) % 4 {
                        0 => self.member(&creator, &target, Membership::Leave),
                        1 => self.member(&creator, &target, Membership::Ban),
                        2 => self.member(&target, &target, Membership::Join),
                        _ => self.member(&target, &target, Membership::Leave),
                    }
                }
            }
        }
        let changed = self.state.iter().filter(|(key, event_id)| shared.get(*key) != Some(*event_id));
        changed.map(|(key, event_id)| (key.clone(), event_id.clone())).collect()
    }

    fn create(&mut self, sender: &UserId) {
        let version = self.rules.version;
        let creator = (!self.rules.implicit_room_creator).then(|| Arc::from(sender.as_str()));
        let content = Content::Create(CreateContent {
            room_version: Some(version),
            creator,
            additional_creators: Some(Box::default()),
            federate: true,
        });
        let json = json!({ "room_version": version.as_str(), "creator": sender.as_str() });
        self.send(sender, event_type::CREATE, "", content, &json);
    }

    fn member(&mut self, sender: &UserId, target: &UserId, membership: Membership) {
        let name = format!("{membership:?}").to_lowercase();
        let content = Content::Member(MemberContent {
            membership: Some(membership),
            join_authorised_via_users_server: None,
            third_party_invite: None,
        });
        self.send(sender, event_type::MEMBER, target.as_str(), content, &json!({ "membership": name }));
    }

    /// Power levels that name the wanted number of users; `change` makes them differ.
    fn power_levels(&mut self, sender: &UserId, change: usize) {
        // A creator of room version 12 has power without being named, and must not be.
        let first = usize::from(self.rules.creators_have_infinite_power);
        let users = first..first + self.shape.power_users;
        let level = |number: usize| if number == 0 { 100 } else { 50 };
        let users: BTreeMap<Arc<str>, i64> = users.map(|number| (user(number).into(), level(number))).collect();
        let events: BTreeMap<Arc<str>, i64> = [(Arc::from(format!("org.example.change{change}")), 50)].into();
        let json = json!({ "users": users, "events": events, "state_default": 50, "invite": 0 });
        let named = [(NamedLevel::StateDefault, 50), (NamedLevel::Invite, 0)].into();
        let levels = PowerLevels { named, users, events, notifications: BTreeMap::new() };
        self.send(sender, event_type::POWER_LEVELS, "", Content::PowerLevels(Ok(Arc::new(levels))), &json);
    }

    fn other(&mut self, sender: &UserId, event_type: &str, json: &serde_json::Value) {
        self.send(sender, event_type, "", Content::Other, json);
    }

    fn send(&mut self, sender: &UserId, event_type: &str, state_key: &str, content: Content, json: &serde_json::Value) {
        self.time_ms += 1000;
        let mut event = Event {
            event_id: event_id(self.shape.seed, self.events.len()),
            room_id: self.room_id.clone(),
            carries_room_id: event_type != event_type::CREATE || !self.rules.room_id_is_create_hash,
            sender: sender.clone(),
            event_type: event_type.into(),
            state_key: Some(state_key.into()),
            origin_server_ts_ms: self.time_ms,
            depth: i64::try_from(self.events.len()).unwrap_or(i64::MAX),
            prev_events: self.events.last().map(|last| last.event.event_id.clone()).into_iter().collect(),
            auth_events: Box::default(),
            content,
            oversized_field: false,
        };
        let keys = auth_types_for_event(self.rules, &event);
        event.auth_events = keys.iter().filter_map(|key| self.state.get(key)).cloned().collect();
        self.state.insert(StateKey::new(event_type, state_key), event.event_id.clone());
        let content = RawValue::from_string(json.to_string()).expect("a JSON value is JSON");
        self.events.push(GeneratedEvent { event: Arc::new(event), content });
    }
}

fn user(number: usize) -> UserId {
    UserId::parse(&format!("@user{number}:s{}.example", number % 3)).expect("the generated user id is valid")
}

fn event_id(seed: u64, number: usize) -> EventId {
    let hash = Sha256::digest(format!("{seed} {number}"));
    EventId::parse(&format!("${}", encode_base64_url_safe(&hash))).expect("the generated event id is valid")
}
