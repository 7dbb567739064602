//! Makes the events of a room of a shape.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use ravel_core::{
    event::{Event, Membership, StateKey, event_type},
    event_auth::{auth_types_for_event, check_state_dependent},
    id::EventId,
    pdu::ParsedPdu,
    room_version::{EventIdFormat, RoomVersionRules},
    signing::encode_base64,
};

use super::{GeneratedEvent, GeneratedRoom, Shape};
use crate::seed::Choices;

const TOPIC: &str = "m.room.topic";
const NAME: &str = "m.room.name";

/// The number of the user who creates the room.
const CREATOR: usize = 0;

pub(super) fn room(shape: &Shape) -> GeneratedRoom {
    let mut builder = Builder {
        shape,
        rules: shape.room_version.rules(),
        room_id: "!room:s0.example".to_owned(),
        events: Vec::new(),
        shared: BTreeMap::new(),
        branch: Branch::default(),
        clock_ms: 1_700_000_000_000,
        choices: Choices::new(shape.seed),
    };
    builder.shared_history();
    builder.shared = std::mem::take(&mut builder.branch.changes);
    let shared = builder.branch.clone();
    let (mut forks, mut midst) = (Vec::new(), Vec::<Branch>::new());
    for fork in 0..shape.forks {
        // Fork 1 begins in 0, 2 and 3 begin in 1, 4 and 5 in 2.
        let nested = if shape.nested && fork > 0 { midst.get(fork / 2) } else { None };
        builder.branch = nested.unwrap_or(&shared).clone();
        midst.push(builder.fork(fork));
        forks.push(std::mem::take(&mut builder.branch.changes));
    }
    let state = |places: &BTreeMap<StateKey, usize>| {
        places.iter().map(|(key, place)| (key.clone(), builder.events[*place].event.event_id.clone())).collect()
    };
    let (shared, forks) = (state(&builder.shared), forks.iter().map(state).collect());
    GeneratedRoom { rules: builder.rules, events: builder.events, shared, forks }
}

/// Where the next event is put.
#[derive(Clone, Debug, Default)]
struct Branch {
    /// What is not as in the shared state, by places of events.
    changes: BTreeMap<StateKey, usize>,
    /// The place of the newest event.
    newest: Option<usize>,
    clock_ms: i64,
    /// Users from whom power was taken.
    powerless: BTreeSet<usize>,
}

struct Builder<'a> {
    shape: &'a Shape,
    rules: &'static RoomVersionRules,
    room_id: String,
    events: Vec<GeneratedEvent>,
    /// The state before the forks, once it is made.
    shared: BTreeMap<StateKey, usize>,
    branch: Branch,
    clock_ms: i64,
    choices: Choices,
}

impl Builder<'_> {
    fn shared_history(&mut self) {
        let (version, creator) = (self.rules.version, user(CREATOR));
        let creator =
            if self.rules.implicit_room_creator { String::new() } else { format!(r#""creator":"{creator}","#) };
        let content = format!(r#"{{{creator}"room_version":"{version}","org.example.seed":"{}"}}"#, self.shape.seed);
        self.send(CREATOR, event_type::CREATE, "", content);
        self.room_id = self.events[0].event.room_id.to_string();
        self.member(CREATOR, CREATOR, Membership::Join);
        self.power_levels(CREATOR, 0);
        self.send(CREATOR, event_type::JOIN_RULES, "", r#"{"join_rule":"public"}"#.to_owned());
        self.send(CREATOR, TOPIC, "", r#"{"topic":"shared"}"#.to_owned());
        self.send(CREATOR, NAME, "", r#"{"name":"shared"}"#.to_owned());
        // The changes of power levels are spread over the joins, so that members cite different ones.
        let (members, changes) = (self.shape.members, self.shape.power_changes);
        let mut change = 0;
        for number in 1..members {
            self.member(number, number, Membership::Join);
            while change < changes && (change + 1) * members <= number * (changes + 1) {
                change += 1;
                self.power_levels(CREATOR, change);
            }
        }
        for change in change..changes {
            self.power_levels(CREATOR, change + 1);
        }
    }

    /// Adds a fork's events; returns what it is like in the midst of them.
    fn fork(&mut self, fork: usize) -> Branch {
        if self.shape.disputed {
            // Forks overlap in time.
            self.clock_ms = self.branch.clock_ms;
        }
        let chained = self.shape.chained_power_changes;
        for change in 0..chained {
            let sender = self.somebody_with_power();
            if self.shape.disputed && sender == CREATOR {
                let number = self.moderator();
                self.branch.powerless.extend(number);
            }
            self.power_levels(sender, 1000 + fork * 10_000 + change);
        }
        let Shape { conflicted_events, forks, power_users, .. } = *self.shape;
        // The forks that come first have what is left when all have the same.
        let share = conflicted_events / forks + usize::from(fork < conflicted_events % forks);
        let first = usize::from(chained > 0);
        let mut midst = self.branch.clone();
        for key in first..share {
            match key - first {
                0 => {
                    let sender = self.somebody_with_power();
                    self.send(sender, TOPIC, "", format!(r#"{{"topic":"of fork {fork}"}}"#));
                }
                1 => {
                    let sender = self.somebody_with_power();
                    self.send(sender, NAME, "", format!(r#"{{"name":"of fork {fork}"}}"#));
                }
                // Users behind those with power, so that these may kick and ban them.
                _ => {
                    self.change_membership(power_users + key, key + fork);
                    // What was before is in no state, but what is now may stand on it.
                    if self.shape.disputed && self.choices.below(3) == 0 {
                        self.change_membership(power_users + key, key + fork);
                    }
                }
            }
            if key == share / 2 {
                midst = self.branch.clone();
            }
        }
        if self.shape.disputed {
            self.end_of_dispute();
        }
        midst
    }

    /// Kick, ban, join and leave in turn, as far as the rules allow them one after the other.
    fn change_membership(&mut self, target: usize, turn: usize) {
        let turn = if self.shape.disputed { self.choices.below(4) } else { turn % 4 };
        let key = StateKey::new(event_type::MEMBER, user(target));
        let now = self.place(&key).and_then(|place| self.events[place].event.membership());
        let (by_target, membership) = match (turn, now) {
            (1, _) => (false, Membership::Ban),
            // Otherwise a user who is banned has to be unbanned first, and one who has left can't leave again.
            (0, _) | (_, Some(Membership::Ban)) => (false, Membership::Leave),
            (2, _) | (_, Some(Membership::Leave)) => (true, Membership::Join),
            _ => (true, Membership::Leave),
        };
        let sender = if by_target { target } else { self.somebody_with_power() };
        self.member(sender, target, membership);
    }

    /// A ban of somebody with power, and other join rules.
    fn end_of_dispute(&mut self) {
        if self.choices.below(2) == 0 {
            let sender = self.somebody_with_power();
            let rule = ["invite", "public"][self.choices.below(2)];
            self.send(sender, event_type::JOIN_RULES, "", format!(r#"{{"join_rule":"{rule}"}}"#));
        }
        if self.choices.below(2) == 0
            && let Some(number) = self.moderator()
        {
            self.member(CREATOR, number, Membership::Ban);
        }
    }

    /// The creator, or if there is a dispute sometimes another user who still has power.
    fn somebody_with_power(&mut self) -> usize {
        if !self.shape.disputed || self.choices.below(2) == 0 {
            return CREATOR;
        }
        self.moderator().unwrap_or(CREATOR)
    }

    /// A user with power who is not the creator, if one is found.
    fn moderator(&mut self) -> Option<usize> {
        let number = 1 + self.choices.below(self.shape.power_users - 1);
        (number < self.shape.power_users && !self.branch.powerless.contains(&number)).then_some(number)
    }

    fn member(&mut self, sender: usize, target: usize, membership: Membership) {
        let membership = match membership {
            Membership::Join => "join",
            Membership::Ban => "ban",
            _ => "leave",
        };
        self.send(sender, event_type::MEMBER, &user(target), format!(r#"{{"membership":"{membership}"}}"#));
    }

    /// Power levels that name the wanted number of users; `change` makes them differ.
    fn power_levels(&mut self, sender: usize, change: usize) {
        // A creator of room version 12 has power without being named, and must not be.
        let first = usize::from(self.rules.creators_have_infinite_power);
        let users = (first..first + self.shape.power_users).map(|number| {
            let level = match number {
                CREATOR => 100,
                _ if self.branch.powerless.contains(&number) => 0,
                _ => 50,
            };
            format!(r#""{}":{level}"#, user(number))
        });
        let users = users.collect::<Vec<_>>().join(",");
        let levels = r#""invite":0,"state_default":50"#;
        let content = format!(r#"{{"events":{{"org.example.change{change}":50}},{levels},"users":{{{users}}}}}"#);
        self.send(sender, event_type::POWER_LEVELS, "", content);
    }

    fn send(&mut self, sender: usize, event_type: &str, state_key: &str, content: String) {
        // In a dispute, some events have the same time.
        self.clock_ms += if self.shape.disputed { 1000 * i64::from(self.choices.below(3) > 0) } else { 1000 };
        // The auth events depend on the event, so it is made twice where there are any.
        let mut event = self.event(sender, event_type, state_key, &content, &[]);
        let cited: Vec<usize> =
            auth_types_for_event(self.rules, &event).iter().filter_map(|key| self.place(key)).collect();
        if !cited.is_empty() {
            event = self.event(sender, event_type, state_key, &content, &cited);
        }
        debug_assert!(self.is_allowed(&event, &cited), "{event:?}");
        let place = self.events.len();
        self.branch.changes.insert(StateKey::new(event_type, state_key), place);
        self.branch.newest = Some(place);
        self.branch.clock_ms = self.clock_ms;
        self.events.push(GeneratedEvent { event: Arc::new(event), content: content.into() });
    }

    fn event(&self, sender: usize, event_type: &str, state_key: &str, content: &str, cited: &[usize]) -> Event {
        let (sender, carries_id) = (user(sender), self.rules.event_id_format == EventIdFormat::Carried);
        let is_create = event_type == event_type::CREATE;
        let mut json = String::from("{");
        if carries_id {
            let server = sender.split_once(':').unwrap().1;
            json += &format!(r#""event_id":"$event{}-{}:{server}","#, self.events.len(), self.shape.seed);
        }
        if !(is_create && self.rules.room_id_is_create_hash) {
            json += &format!(r#""room_id":"{}","#, self.room_id);
        }
        let references = |places: &[usize]| {
            let reference = |id: &EventId| if carries_id { format!(r#"["{id}",{{}}]"#) } else { format!(r#""{id}""#) };
            let references = places.iter().map(|place| reference(&self.events[*place].event.event_id));
            references.collect::<Vec<_>>().join(",")
        };
        let depth = self.branch.newest.map_or(0, |newest| self.events[newest].event.depth) + 1;
        // No hash, but it makes every event another one, whatever redaction leaves of the content.
        json += &format!(
            r#""auth_events":[{}],"content":{content},"depth":{depth},"hashes":{{"sha256":"{}"}},"origin_server_ts":{},
            "prev_events":[{}],"sender":"{sender}","signatures":{{}},"state_key":"{state_key}","type":"{event_type}"}}"#,
            references(cited),
            encode_base64(&self.events.len().to_be_bytes()),
            self.clock_ms,
            references(self.branch.newest.as_slice()),
        );
        ParsedPdu::parse(json.as_bytes(), self.rules).unwrap().event().clone()
    }

    fn is_allowed(&self, event: &Event, cited: &[usize]) -> bool {
        let create = self.events.first().filter(|_| self.rules.room_id_is_create_hash);
        let state = cited.iter().map(|place| &self.events[*place]).chain(create);
        check_state_dependent(self.rules, event, &state.map(|event| &*event.event).collect::<Vec<_>>()).is_ok()
    }

    fn place(&self, key: &StateKey) -> Option<usize> {
        self.branch.changes.get(key).or_else(|| self.shared.get(key)).copied()
    }
}

fn user(number: usize) -> String {
    format!("@user{number}:s{}.example", number % 3)
}
