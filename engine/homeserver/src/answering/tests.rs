//! A room with users of two servers, `a`, which is asked, and `b`, which asks; `c` is in no room.

mod hierarchy;

use std::{collections::BTreeMap, sync::Arc};

use ravel_core::{
    canonical_json::{CanonicalJsonObject, CanonicalJsonValue},
    event::{Membership, event_type},
    id::{EventId, RoomId},
    pdu::VerifiedPdu,
    room::Outcome,
    room_version::RoomVersion,
};
use ravel_store::MemoryStore;
use serde_json::Value;

use super::{AnsweringError, MissingEvents, NAMED_MAX, Pdus};
use crate::{
    accounts::{Registration, Role},
    homeserver::Homeserver,
    network::NoNetwork,
    rooms::{Incoming, MembershipChange, Received, SendEvent},
    testing::{ManualClock, create_room, foreign_event_with, object, open_server, say, server_name, user_id},
};

const ALICE: &str = "@alice:a";

/// The server `a` with a room of alice's.
struct TestServer {
    homeserver: Homeserver,
    room_id: RoomId,
    version: RoomVersion,
}

impl TestServer {
    async fn new(version: RoomVersion, visibility: &str) -> Self {
        let clock = Arc::new(ManualClock::default());
        let (homeserver, _) = open_server("a", &MemoryStore::new(), clock, Arc::new(NoNetwork)).await;
        let room_id = create_room(&homeserver, ALICE, version).await;
        let server = Self { homeserver, room_id, version };
        let content = format!(r#"{{"history_visibility":"{visibility}"}}"#);
        server.send(event_type::HISTORY_VISIBILITY, Some(""), &content, None).await;
        server
    }

    /// Sends an event by alice.
    async fn send(
        &self,
        event_type: &str,
        state_key: Option<&str>,
        content: &str,
        redacts: Option<&EventId>,
    ) -> EventId {
        let event = SendEvent {
            event_type: event_type.to_owned(),
            state_key: state_key.map(str::to_owned),
            content: object(content),
            redacts: redacts.cloned(),
        };
        self.homeserver.rooms.send(&self.room_id, &user_id(ALICE), event).await.unwrap()
    }

    async fn say(&self, text: &str) -> EventId {
        say(&self.homeserver, &self.room_id, ALICE, text).await
    }

    /// Has alice change a membership.
    async fn member(&self, whom: &str, membership: Membership) -> EventId {
        let change = MembershipChange { target: user_id(whom), membership, content: object(r#"{"reason":"so"}"#) };
        self.homeserver.rooms.change_membership(&self.room_id, &user_id(ALICE), change).await.unwrap()
    }

    /// Composes an event by a user of another server, which signs it after a change.
    async fn foreign(
        &self,
        sender: &str,
        event: (&str, Option<&str>, &str),
        change: impl FnOnce(&mut CanonicalJsonObject),
    ) -> VerifiedPdu {
        foreign_event_with(&self.homeserver, &self.room_id, sender, event, change).await
    }

    async fn change_own(&self, user: &str, membership: &str) -> EventId {
        let content = format!(r#"{{"membership":"{membership}","reason":"so"}}"#);
        let pdu = self.foreign(user, (event_type::MEMBER, Some(user), &content), |_| {}).await;
        let event_id = pdu.event_id().clone();
        self.homeserver.rooms.take_foreign(&self.room_id, pdu).await.unwrap();
        event_id
    }

    async fn join(&self, user: &str) -> EventId {
        self.change_own(user, "join").await
    }

    async fn leave(&self, user: &str) -> EventId {
        self.change_own(user, "leave").await
    }

    async fn receive(&self, incoming: Incoming) -> Received {
        self.homeserver.rooms.receive(&self.room_id, vec![incoming]).await.unwrap().pop().unwrap()
    }

    /// Returns the ids of events of the current state by their keys, `type/state_key`.
    async fn state(&self) -> BTreeMap<String, EventId> {
        let look = self.homeserver.rooms.look(&self.room_id, |room| room.current_state().to_map()).await.unwrap();
        look.into_iter().map(|(key, id)| (format!("{}/{}", key.event_type, key.state_key), id)).collect()
    }

    async fn backfill(&self, from: &[EventId], limit: usize) -> Result<Vec<Value>, AnsweringError> {
        let pdus = self.homeserver.answer_backfill(&server_name("b"), &self.room_id, from, limit).await?;
        Ok(json(pdus).await)
    }

    async fn missing(&self, wanted: &MissingEvents) -> Vec<Value> {
        json(self.homeserver.answer_missing_events(&server_name("b"), &self.room_id, wanted).await.unwrap()).await
    }

    async fn event(&self, origin: &str, event_id: &EventId) -> Result<Value, AnsweringError> {
        Ok(json(self.homeserver.answer_event(&server_name(origin), event_id).await?).await.pop().unwrap())
    }
}

async fn json(pdus: Pdus) -> Vec<Value> {
    let ids = pdus.ids().len();
    let pdus = pdus.all().await.unwrap();
    assert_eq!(pdus.len(), ids);
    let pdus: Vec<Value> = pdus.iter().map(|pdu| serde_json::from_str(pdu.get()).unwrap()).collect();
    assert!(pdus.iter().all(|pdu| pdu.get("unsigned").is_none()));
    pdus
}

/// Returns what events are about: the text of messages, the type of others with their state key, `-` after it if it is redacted.
fn told(events: &[Value]) -> Vec<String> {
    let tell = |event: &Value| {
        let kind = event["type"].as_str().unwrap().trim_start_matches("m.room.");
        let content = &event["content"];
        if let Some(body) = content["body"].as_str() {
            return body.to_owned();
        }
        let membership = content["membership"].as_str().unwrap_or_default();
        let redacted = if content == &serde_json::json!({}) { "-" } else { "" };
        format!("{kind}{}{membership}{redacted}", event["state_key"].as_str().unwrap_or_default())
    };
    events.iter().map(tell).collect()
}

/// The time of events that other servers make is set by the tests.
const NOW_MS: i64 = 1_700_000_000_000;

/// Every room-scoped question, as `origin` asks it.
async fn ask_everything(server: &TestServer, origin: &str, event_id: &EventId) -> Vec<Result<(), AnsweringError>> {
    let (homeserver, room_id) = (&server.homeserver, &server.room_id);
    let origin = &server_name(origin);
    let named = std::slice::from_ref(event_id);
    let missing = MissingEvents { latest: named.to_vec(), limit: 10, ..MissingEvents::default() };
    vec![
        homeserver.answer_event(origin, event_id).await.map(drop),
        homeserver.answer_event_auth(origin, room_id, event_id).await.map(drop),
        homeserver.answer_state(origin, room_id, event_id).await.map(drop),
        homeserver.answer_backfill(origin, room_id, named, 10).await.map(drop),
        homeserver.answer_missing_events(origin, room_id, &missing).await.map(drop),
        homeserver.answer_timestamp_to_event(origin, room_id, 0, false).await.map(drop),
    ]
}

#[tokio::test]
async fn sc_101_sc_103_sc_104_who_is_not_in_the_room_is_not_answered() {
    let server = TestServer::new(RoomVersion::V11, "world_readable").await;
    let said = server.say("hello").await;
    let refused = |answers: Vec<Result<(), AnsweringError>>| {
        let [event, rest @ ..] = &answers[..] else { panic!("{answers:?}") };
        assert!(matches!(event, Err(AnsweringError::NoSuchEvent)), "{event:?}");
        assert!(rest.iter().all(|answer| matches!(answer, Err(AnsweringError::NotInRoom))), "{answers:?}");
    };
    refused(ask_everything(&server, "b", &said).await);
    server.member("@bob:b", Membership::Invite).await;
    refused(ask_everything(&server, "b", &said).await);
    server.join("@bob:b").await;
    assert!(ask_everything(&server, "b", &said).await.iter().all(Result::is_ok));
    refused(ask_everything(&server, "c", &said).await);
    server.leave("@bob:b").await;
    refused(ask_everything(&server, "b", &said).await);

    // When nobody of ours is there any more, what we know is of the past.
    server.join("@bob:b").await;
    server.member("@alice:a", Membership::Leave).await;
    refused(ask_everything(&server, "b", &said).await);
    // A room that is not here, and one where the server is not, look the same.
    let nowhere = RoomId::parse("!nowhere:a").unwrap();
    let answer = server.homeserver.answer_state(&server_name("b"), &nowhere, &said).await;
    assert!(matches!(answer, Err(AnsweringError::NotInRoom)));
}

#[tokio::test]
async fn sc_110_sc_140_who_is_denied_by_the_access_control_list_is_not_answered() {
    let server = TestServer::new(RoomVersion::V11, "shared").await;
    server.join("@bob:b").await;
    let said = server.say("hello").await;
    server.send("m.room.server_acl", Some(""), r#"{"allow":["*"],"deny":["b"]}"#, None).await;
    let answers = ask_everything(&server, "b", &said).await;
    let [event, rest @ ..] = &answers[..] else { panic!("{answers:?}") };
    assert!(matches!(event, Err(AnsweringError::NoSuchEvent)), "{event:?}");
    assert!(rest.iter().all(|answer| matches!(answer, Err(AnsweringError::Denied))), "{answers:?}");
}

/// What is unknown, and what is of another room, is the same, also if the server is in both.
#[tokio::test]
async fn sc_100_sc_106_events_are_of_the_room_that_is_asked_about() {
    let mut server = TestServer::new(RoomVersion::V6, "shared").await;
    let first = server.room_id.clone();
    server.join("@bob:b").await;
    let said = server.say("here").await;
    server.room_id = create_room(&server.homeserver, ALICE, server.version).await;
    server.join("@bob:b").await;
    let elsewhere = server.say("elsewhere").await;
    server.room_id = first;
    for event_id in [&elsewhere, &EventId::parse("$unknown").unwrap()] {
        let answers = ask_everything(&server, "b", event_id).await;
        let [_, event_auth, state, ..] = &answers[..] else { panic!("{answers:?}") };
        for answer in [event_auth, state] {
            assert!(matches!(answer, Err(AnsweringError::NoSuchEvent)), "{answer:?}");
        }
        assert_eq!(server.backfill(std::slice::from_ref(event_id), 10).await.unwrap(), [Value::Null; 0]);
        let from = [event_id.clone(), said.clone()];
        assert_eq!(told(&server.backfill(&from, 2).await.unwrap()), ["here", "member@bob:bjoin"]);
        let wanted = MissingEvents { latest: vec![event_id.clone()], limit: 10, ..MissingEvents::default() };
        assert_eq!(server.missing(&wanted).await, [Value::Null; 0]);
    }
    assert_eq!(server.event("b", &elsewhere).await.unwrap()["content"]["body"], "elsewhere");
}

#[tokio::test]
async fn the_state_before_an_event_is_answered_with_what_it_rests_on() {
    for version in [RoomVersion::V1, RoomVersion::V11, RoomVersion::V12] {
        let server = TestServer::new(version, "shared").await;
        let join = server.join("@bob:b").await;
        let topic = server.send("m.room.topic", Some(""), r#"{"topic":"x"}"#, None).await;
        let named = server.send("m.room.name", Some(""), r#"{"name":"y"}"#, None).await;
        let later = server.send("m.room.topic", Some(""), r#"{"topic":"z"}"#, None).await;
        let mut expected = server.state().await;
        expected.insert("m.room.topic/".to_owned(), topic.clone());
        let answer = server.homeserver.answer_state(&server_name("b"), &server.room_id, &later).await.unwrap();
        let mut ids: Vec<EventId> = answer.state.ids().cloned().collect();
        ids.sort();
        let mut expected: Vec<EventId> = expected.into_values().collect();
        expected.sort();
        assert_eq!(ids, expected);
        let chain: Vec<EventId> = answer.auth_chain.ids().cloned().collect();
        assert!(!chain.contains(&join) && !chain.contains(&named));
        let pdus = json(answer.state).await;
        assert!(pdus.iter().any(|pdu| pdu["content"]["topic"] == "x"), "{pdus:?}");
        // Each comes after those that it rests on.
        let rules = version.rules();
        let mut seen: Vec<EventId> = Vec::new();
        for pdu in json(answer.auth_chain).await {
            let pdu = VerifiedPdu::restore(&serde_json::to_vec(&pdu).unwrap(), rules, None, true).unwrap();
            assert!(pdu.event().auth_events.iter().all(|auth_event| seen.contains(auth_event)));
            seen.push(pdu.event_id().clone());
        }
        assert_eq!(seen, chain);

        let auth = server.homeserver.answer_event_auth(&server_name("b"), &server.room_id, &join).await.unwrap();
        let mut expected = vec!["create", "member@alice:ajoin", "power_levels", "join_rules"];
        if version == RoomVersion::V12 {
            // The room's id says which it is.
            expected.remove(0);
        }
        assert_eq!(told(&json(auth).await), expected, "{version}");
    }
}

#[tokio::test]
async fn history_is_answered_from_the_deepest_on() {
    let server = TestServer::new(RoomVersion::V11, "shared").await;
    let join = server.join("@bob:b").await;
    let [one, two, three] = [server.say("1").await, server.say("2").await, server.say("3").await];
    let last = [three.clone()];
    assert_eq!(told(&server.backfill(&last, 4).await.unwrap()), ["3", "2", "1", "member@bob:bjoin"]);
    assert_eq!(told(&server.backfill(&[one.clone(), three.clone()], 2).await.unwrap()), ["3", "2"]);
    assert_eq!(told(&server.backfill(&[one.clone(), join.clone()], 1).await.unwrap()), ["1"]);
    assert_eq!(server.backfill(&last, 0).await.unwrap(), [Value::Null; 0]);
    assert_eq!(server.backfill(&last, usize::MAX).await.unwrap().len(), 11);
    let many = vec![one.clone(); NAMED_MAX + 1];
    assert!(matches!(server.backfill(&many, 1).await, Err(AnsweringError::TooManyEvents { max: NAMED_MAX })));

    let missing = |latest: &EventId, earliest: &EventId, limit, depth_min| {
        let (latest, earliest) = (vec![latest.clone()], vec![earliest.clone()]);
        MissingEvents { latest, earliest, limit, depth_min }
    };
    assert_eq!(told(&server.missing(&missing(&three, &join, 10, 0)).await), ["1", "2"]);
    assert_eq!(told(&server.missing(&missing(&three, &join, 1, 0)).await), ["2"]);
    assert_eq!(told(&server.missing(&missing(&three, &two, 10, 0)).await), [""; 0]);
    let depth = server.event("b", &two).await.unwrap()["depth"].as_i64().unwrap();
    assert_eq!(told(&server.missing(&missing(&three, &join, 10, depth)).await), ["2"]);
    // A server of a room with many branches.
    let mut earliest: Vec<EventId> = (0..1_500).map(|n| EventId::parse(&format!("$branch{n}")).unwrap()).collect();
    earliest.push(join.clone());
    let of_many = MissingEvents { earliest, ..missing(&three, &join, 10, 0) };
    assert_eq!(told(&server.missing(&of_many).await), ["1", "2"]);
    let wanted = MissingEvents { latest: many, ..missing(&three, &join, 10, 0) };
    let answer = server.homeserver.answer_missing_events(&server_name("b"), &server.room_id, &wanted).await;
    assert!(matches!(answer, Err(AnsweringError::TooManyEvents { .. })));
}

/// A walk goes on behind rejected events, and ends.
#[tokio::test]
async fn an_answer_has_a_bound_whatever_it_walks_through() {
    let server = TestServer::new(RoomVersion::V11, "shared").await;
    server.join("@bob:b").await;
    server.say("before").await;
    let topic = ("m.room.topic", Some(""), r#"{"topic":"x"}"#);
    let refused = server.foreign("@bob:b", topic, |_| {}).await;
    assert_eq!(server.receive(Incoming::new(refused.clone())).await, Received::Judged(Outcome::Rejected));
    let after = server.foreign("@bob:b", ("m.room.message", None, r#"{"body":"after"}"#), |event| {
        event.insert("prev_events".into(), vec![refused.event_id().as_str().into()].into());
    });
    let after = after.await;
    assert_eq!(server.receive(Incoming::new(after.clone())).await, Received::Judged(Outcome::Accepted));
    let from = [after.event_id().clone()];
    assert_eq!(told(&server.backfill(&from, 2).await.unwrap()), ["after", "before"]);
    // Who asks for it by its id gets it, and nothing that rests on it.
    assert_eq!(server.event("b", refused.event_id()).await.unwrap()["content"]["topic"], "x");
    let (homeserver, room_id) = (&server.homeserver, &server.room_id);
    let state = homeserver.answer_state(&server_name("b"), room_id, refused.event_id()).await;
    assert!(matches!(state, Err(AnsweringError::NoSuchEvent)));
    let auth = homeserver.answer_event_auth(&server_name("b"), room_id, refused.event_id()).await;
    assert!(matches!(auth, Err(AnsweringError::NoSuchEvent)));
}

#[tokio::test]
async fn sc_102_what_happened_before_a_server_came_is_hidden_from_it() {
    for (visibility, [before, invited]) in [
        ("world_readable", [true, true]),
        ("shared", [true, true]),
        ("invited", [false, true]),
        ("joined", [false, false]),
    ] {
        let server = TestServer::new(RoomVersion::V11, visibility).await;
        let shown = |is_shown: bool, text: &str| if is_shown { text.to_owned() } else { "message-".to_owned() };
        server.say("before").await;
        server.member("@bob:b", Membership::Invite).await;
        server.say("invited").await;
        server.join("@bob:b").await;
        server.say("there").await;
        server.leave("@bob:b").await;
        server.say("gone").await;
        let again = server.join("@bob:b").await;
        let expected = [
            "member@bob:bjoin".to_owned(),
            shown(before, "gone"),
            "member@bob:bleave".to_owned(),
            "there".to_owned(),
            "member@bob:bjoin".to_owned(),
            shown(invited, "invited"),
            "member@bob:binvite".to_owned(),
            shown(before, "before"),
        ];
        let found = server.backfill(std::slice::from_ref(&again), 8).await.unwrap();
        assert_eq!(told(&found), expected, "{visibility}");
        let wanted = MissingEvents { latest: vec![again], limit: 7, ..MissingEvents::default() };
        let mut found = told(&server.missing(&wanted).await);
        found.reverse();
        assert_eq!(found, expected[1..], "{visibility}");
    }
}

#[tokio::test]
async fn what_was_redacted_is_answered_so() {
    let server = TestServer::new(RoomVersion::V11, "shared").await;
    server.join("@bob:b").await;
    let topic = server.send("m.room.topic", Some(""), r#"{"topic":"x"}"#, None).await;
    let said = server.say("secret").await;
    server.send("m.room.redaction", None, "{}", Some(&said)).await;
    let last = server.send("m.room.redaction", None, "{}", Some(&topic)).await;
    let found = server.backfill(std::slice::from_ref(&last), 4).await.unwrap();
    assert_eq!(told(&found), ["redaction", "redaction", "message-", "topic-"]);
    assert_eq!(told(&[server.event("b", &said).await.unwrap()]), ["message-"]);
    let state = server.homeserver.answer_state(&server_name("b"), &server.room_id, &last).await.unwrap().state;
    let topic = json(state).await.into_iter().find(|pdu| pdu["type"] == "m.room.topic").unwrap();
    assert_eq!(topic["content"], serde_json::json!({}));
}

#[tokio::test]
async fn sc_109_what_erased_users_have_sent_is_answered_redacted() {
    let server = TestServer::new(RoomVersion::V11, "shared").await;
    let accounts = &server.homeserver.accounts;
    let (username, password) = (Some("alice".to_owned()), Some("secret".to_owned()));
    let registration = Registration { username, password, role: Role::User, device: None };
    accounts.register(registration).await.unwrap();
    let said = server.say("mine").await;
    let join = server.join("@bob:b").await;
    assert_eq!(told(&[server.event("b", &said).await.unwrap()]), ["mine"]);
    assert!(accounts.deactivate(&user_id(ALICE), false).await.unwrap());
    assert_eq!(told(&[server.event("b", &said).await.unwrap()]), ["mine"]);
    assert!(accounts.deactivate(&user_id(ALICE), true).await.unwrap());
    assert_eq!(told(&[server.event("b", &said).await.unwrap()]), ["message-"]);
    assert_eq!(told(&server.backfill(&[join], 2).await.unwrap()), ["member@bob:bjoin", "message-"]);
}

/// Outliers are of the state and of auth chains, which servers in the room get anyway; they have no place in history.
#[tokio::test]
async fn sc_105_outliers_are_for_servers_in_the_room() {
    let server = TestServer::new(RoomVersion::V11, "joined").await;
    let outlier = server.foreign("@bob:b", ("m.room.member", Some("@bob:b"), r#"{"membership":"join"}"#), |_| {}).await;
    let rejected = server.foreign("@bob:b", ("m.room.topic", Some(""), r#"{"topic":"x"}"#), |_| {}).await;
    for (pdu, outcome) in [(&outlier, Outcome::Accepted), (&rejected, Outcome::Rejected)] {
        assert_eq!(server.receive(Incoming::outlier(pdu.clone())).await, Received::Judged(outcome));
    }
    for pdu in [&outlier, &rejected] {
        assert!(matches!(server.event("b", pdu.event_id()).await, Err(AnsweringError::NoSuchEvent)));
    }
    server.join("@brian:b").await;
    assert_eq!(server.event("b", outlier.event_id()).await.unwrap()["content"]["membership"], "join");
    assert!(matches!(server.event("b", rejected.event_id()).await, Err(AnsweringError::NoSuchEvent)));
    assert!(matches!(server.event("c", outlier.event_id()).await, Err(AnsweringError::NoSuchEvent)));
    assert_eq!(server.backfill(&[outlier.event_id().clone()], 10).await.unwrap(), [Value::Null; 0]);
    let state = server.homeserver.answer_state(&server_name("b"), &server.room_id, outlier.event_id()).await;
    assert!(matches!(state, Err(AnsweringError::NoSuchEvent)));
    // A message may be one if its state can't be had: who was there when it was sent is not known.
    let said = server.foreign("@brian:b", ("m.room.message", None, r#"{"body":"said"}"#), |_| {}).await;
    assert_eq!(server.receive(Incoming::outlier(said.clone())).await, Received::Judged(Outcome::Accepted));
    assert_eq!(told(&[server.event("b", said.event_id()).await.unwrap()]), ["message-"]);
}

#[tokio::test]
async fn events_are_found_by_their_time() {
    let server = TestServer::new(RoomVersion::V11, "shared").await;
    server.join("@bob:b").await;
    let at = async |ts_ms: i64, body: &str| {
        let content = format!(r#"{{"body":"{body}"}}"#);
        let set = |event: &mut CanonicalJsonObject| {
            event.insert("origin_server_ts".into(), CanonicalJsonValue::Integer(ts_ms));
        };
        let pdu = server.foreign("@bob:b", ("m.room.message", None, &content), set).await;
        assert_eq!(server.receive(Incoming::new(pdu.clone())).await, Received::Judged(Outcome::Accepted));
        pdu.event_id().clone()
    };
    let (one, two) = (at(NOW_MS + 10, "one").await, at(NOW_MS + 20, "two").await);
    let find = async |ts_ms, backward| {
        server.homeserver.answer_timestamp_to_event(&server_name("b"), &server.room_id, ts_ms, backward).await.ok()
    };
    assert_eq!(find(NOW_MS + 5, false).await, Some((one.clone(), NOW_MS + 10)));
    assert_eq!(find(NOW_MS + 10, false).await, Some((one.clone(), NOW_MS + 10)));
    assert_eq!(find(NOW_MS + 19, true).await, Some((one, NOW_MS + 10)));
    assert_eq!(find(i64::MAX, true).await, Some((two, NOW_MS + 20)));
    assert_eq!(find(NOW_MS + 21, false).await, None);
    assert_eq!(find(-1, true).await, None);
    assert_eq!(find(i64::MIN, true).await, None);
}
