//! Rooms that grow without end, event by event, signed, as the events they have make them: so a process that was killed goes on
//! where its log stands, and two processes make the same rooms.

use ravel_core::{
    canonical_json::{JsonMode, object_to_canonical_bytes, parse_object},
    event::{Event, event_type},
    event_auth::auth_keys_for_event,
    id::{EventId, RoomId},
    pdu::{ParsedPdu, VerifiedPdu},
    room::Room,
    room_version::{EventIdFormat, RoomVersion, RoomVersionRules},
    signing::{hash_and_sign_event, room_id_of_create},
    state::State,
};

use crate::{
    people::{SERVERS, server_of, signing_key},
    seed::Choices,
};

/// How many users there are; the first creates the rooms, and the others come and go.
const USERS: usize = 40;

/// The most forward extremities that an event builds on.
const PREV_EVENTS_MAX: usize = 10;

/// A room by its seed and number; every one of the room versions has its turn.
#[derive(Clone, Debug)]
pub struct GrowingRoom {
    seed: u64,
    number: u64,
    version: RoomVersion,
    room_id: RoomId,
    create: VerifiedPdu,
}

/// What is to be said, before it is known which events authorize it.
struct Proposal {
    sender: String,
    event_type: &'static str,
    state_key: Option<String>,
    content: String,
}

impl GrowingRoom {
    /// Returns the room of a seed and a number, which is of the same version whatever the seed.
    pub fn new(seed: u64, number: u64) -> Self {
        let versions = RoomVersion::ALL.len() as u64;
        // The first one is of version 11, the second of version 12.
        let version = RoomVersion::ALL[usize::try_from((number + 10) % versions).unwrap()];
        let room_id = RoomId::parse(&format!("!room{number}-{seed}:{}", SERVERS[0])).unwrap();
        let rules = version.rules();
        let creator = user(0);
        let named = if rules.implicit_room_creator { String::new() } else { format!(r#""creator":"{creator}","#) };
        let content = format!(r#"{{{named}"org.example.room":"{number}-{seed}","room_version":"{version}"}}"#);
        let proposal =
            Proposal { sender: creator, event_type: event_type::CREATE, state_key: Some(String::new()), content };
        let create = sign(&json(rules, &room_id, &proposal, 0, &[], &[], 1), &proposal.sender, rules);
        let room_id = match rules.room_id_is_create_hash {
            true => room_id_of_create(create.event_id()).unwrap(),
            false => room_id,
        };
        Self { seed, number, version, room_id, create }
    }

    /// Returns its number.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Returns its id.
    pub fn room_id(&self) -> &RoomId {
        &self.room_id
    }

    /// Returns the rules of its version.
    pub fn rules(&self) -> &'static RoomVersionRules {
        self.version.rules()
    }

    /// Returns the room without events.
    pub fn empty(&self) -> Room {
        Room::new(self.room_id.clone(), self.rules())
    }

    /// Returns the event that follows those that the room has, all of which are from here, in this order.
    ///
    /// Four begin the room. Of the others half are messages, the rest state; one of eight builds on an older event than the
    /// newest ones, and what comes after it brings the branches together again. Costs two signatures' time, about.
    pub fn next(&self, room: &Room) -> VerifiedPdu {
        let place = room.len();
        if place == 0 {
            return self.create.clone();
        }
        let mut choices = Choices::new(
            self.seed
                ^ self.number.wrapping_mul(0x9e37_79b9_7f4a_7c15)
                ^ (place as u64).wrapping_mul(0xd6e8_feb8_6659_fd93),
        );
        let older = if place > 8 && choices.below(8) == 0 { Some(place - 2 - choices.below(6)) } else { None };
        let older = older.and_then(|place| room.events().nth(place)).map(|(event, _)| event.event_id.clone());
        let (prev_events, state) = match older.as_ref().and_then(|older| room.state_after(older).map(|s| (older, s))) {
            Some((older, state)) => (vec![older.clone()], state),
            None => {
                let mut tips = room.forward_extremities();
                tips.truncate(PREV_EVENTS_MAX);
                (tips, room.current_state())
            }
        };
        let proposal = self.proposal(place, &state, &mut choices);
        let depths = prev_events.iter().filter_map(|id| room.event(id)).map(|event| event.depth);
        let depth = depths.max().unwrap_or(0) + 1;
        let make = |cited: &[EventId]| json(self.rules(), &self.room_id, &proposal, place, cited, &prev_events, depth);
        // Which events authorize it depends on the event.
        let unsigned = ParsedPdu::parse(make(&[]).as_bytes(), self.rules()).unwrap();
        let cited = self.auth_events(unsigned.event(), &state);
        sign(&make(&cited), &proposal.sender, self.rules())
    }

    fn auth_events(&self, event: &Event, state: &State<'_>) -> Vec<EventId> {
        auth_keys_for_event(self.rules(), event).filter_map(|(event_type, key)| state.get(event_type, key)).collect()
    }

    fn proposal(&self, place: usize, state: &State<'_>, choices: &mut Choices) -> Proposal {
        let creator = user(0);
        let state_event = |sender: &str, event_type, state_key: &str, content: String| Proposal {
            sender: sender.to_owned(),
            event_type,
            state_key: Some(state_key.to_owned()),
            content,
        };
        let member = |sender: &str, target: &str, membership: &str, name: usize| {
            let content = format!(r#"{{"displayname":"Name {name}","membership":"{membership}"}}"#);
            state_event(sender, event_type::MEMBER, target, content)
        };
        match place {
            1 => return member(&creator, &creator, "join", 0),
            2 => return state_event(&creator, event_type::POWER_LEVELS, "", self.power_levels(0)),
            3 => {
                let content = r#"{"join_rule":"public"}"#.to_owned();
                return state_event(&creator, event_type::JOIN_RULES, "", content);
            }
            _ => {}
        }
        let actor = user(choices.below(USERS));
        let is_there = state.get(event_type::MEMBER, &actor).is_some();
        match choices.below(20) {
            // Who is in no state yet, joins; who was kicked or left may find that it sends in vain.
            _ if !is_there => member(&actor, &actor, "join", place),
            0..=1 => member(&actor, &actor, "join", place),
            2 if actor != creator => member(&actor, &actor, "leave", place),
            3 if actor != creator => member(&creator, &actor, "leave", place),
            4..=5 => state_event(&creator, "m.room.topic", "", format!(r#"{{"topic":"The topic of event {place}"}}"#)),
            6 => state_event(&creator, event_type::POWER_LEVELS, "", self.power_levels(place)),
            7..=9 => {
                let key = choices.below(200).to_string();
                state_event(&creator, "org.example.state", &key, format!(r#"{{"value":{place}}}"#))
            }
            _ => Proposal {
                sender: actor,
                event_type: "m.room.message",
                state_key: None,
                content: format!(
                    r#"{{"body":"Message {place}, {}","msgtype":"m.text"}}"#,
                    "words ".repeat(choices.below(60))
                ),
            },
        }
    }

    /// Other users have power than at another place, and the creator always.
    fn power_levels(&self, place: usize) -> String {
        let first = usize::from(self.rules().creators_have_infinite_power);
        let users = (first..4).map(|number| {
            let level = if number == 0 { 100 } else { 50 * ((place + number) % 2) };
            format!(r#""{}":{level}"#, user(number))
        });
        format!(r#"{{"events":{{"org.example.place":{place}}},"users":{{{}}}}}"#, users.collect::<Vec<_>>().join(","))
    }
}

fn user(number: usize) -> String {
    format!("@user{number}:{}", SERVERS[number % SERVERS.len()])
}

fn json(
    rules: &RoomVersionRules,
    room_id: &RoomId,
    proposal: &Proposal,
    place: usize,
    auth_events: &[EventId],
    prev_events: &[EventId],
    depth: i64,
) -> String {
    let Proposal { sender, event_type, state_key, content } = proposal;
    let carries_id = rules.event_id_format == EventIdFormat::Carried;
    let references = |ids: &[EventId]| {
        let reference = |id: &EventId| if carries_id { format!(r#"["{id}",{{}}]"#) } else { format!(r#""{id}""#) };
        ids.iter().map(reference).collect::<Vec<_>>().join(",")
    };
    let mut json = String::from("{");
    if carries_id {
        let room = room_id.as_str().trim_start_matches('!').split(':').next().unwrap_or_default();
        json += &format!(r#""event_id":"$event{place}-{room}:{}","#, server_of(sender));
    }
    if !(*event_type == event_type::CREATE && rules.room_id_is_create_hash) {
        json += &format!(r#""room_id":"{room_id}","#);
    }
    if let Some(state_key) = state_key {
        json += &format!(r#""state_key":"{state_key}","#);
    }
    json += &format!(
        r#""auth_events":[{}],"content":{content},"depth":{depth},"hashes":{{"sha256":""}},"origin_server_ts":{},
        "prev_events":[{}],"sender":"{sender}","signatures":{{}},"type":"{event_type}"}}"#,
        references(auth_events),
        1_690_000_000_000 + place * 1000,
        references(prev_events),
    );
    json
}

fn sign(json: &str, sender: &str, rules: &RoomVersionRules) -> VerifiedPdu {
    let server = server_of(sender);
    let object = parse_object(json.as_bytes(), JsonMode::Strict).unwrap();
    let signed = hash_and_sign_event(object, rules, &server, &signing_key(server.as_str())).unwrap();
    // They are right as they were just made.
    VerifiedPdu::restore(&object_to_canonical_bytes(&signed), rules, None, true).unwrap()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use ravel_core::room::{Outcome, Receipt};

    use super::*;
    use crate::people::{NOW_MS, key_ring};

    fn grow(growing: &GrowingRoom, events: usize) -> Room {
        let mut room = growing.empty();
        for _ in 0..events {
            let pdu = growing.next(&room);
            assert!(matches!(room.handle_pdu(&pdu).unwrap(), Receipt::Judged(_)), "{:?}", pdu.event());
        }
        room
    }

    #[test]
    fn rooms_of_every_version_grow_by_signed_events_most_of_which_are_accepted() {
        for number in 0..12 {
            let growing = GrowingRoom::new(7, number);
            let room = grow(&growing, 300);
            let mut outcomes = BTreeMap::new();
            for (_, outcome) in room.events() {
                *outcomes.entry(format!("{outcome:?}")).or_insert(0) += 1;
            }
            assert!(outcomes[&format!("{:?}", Outcome::Accepted)] > 200, "{number}: {outcomes:?}");
            assert!(outcomes.len() > 1, "{number}: {outcomes:?}");
            assert!(room.events().any(|(event, _)| event.prev_events.len() > 1), "{number}");
            let mut alone = growing.empty();
            for _ in 0..40 {
                let pdu = growing.next(&alone);
                let parsed = ParsedPdu::parse(pdu.json(), growing.rules()).unwrap();
                assert!(parsed.verify(&key_ring(), NOW_MS).unwrap().content_hash_matched());
                alone.handle_pdu(&pdu).unwrap();
            }
        }
    }

    #[test]
    fn the_same_seed_and_number_make_the_same_room_and_others_another_one() {
        let ids = |seed, number| -> Vec<_> {
            let room = grow(&GrowingRoom::new(seed, number), 50);
            room.events().map(|(event, _)| event.event_id.clone()).collect()
        };
        assert_eq!(ids(1, 3), ids(1, 3));
        let other: Vec<_> = [ids(2, 3), ids(1, 15)].concat();
        assert!(ids(1, 3).iter().all(|id| !other.contains(id)));
    }
}
