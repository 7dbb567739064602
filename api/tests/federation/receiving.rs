//! What other servers send.

use ravel_core::room_version::RoomVersion::{self, V10, V11};
use serde_json::{Value, json};

use crate::{
    member::{Local, Member},
    remote::{Authority, Remote, escaped, now_ms},
    server::Server,
};

/// A Ravel with a public room of alice's, and another server to join it.
pub(crate) struct Scene {
    _authority: Authority,
    pub(crate) ravel: Server,
    pub(crate) remote: Remote,
}

impl Scene {
    pub(crate) fn new() -> Self {
        let authority = Authority::new();
        let (ravel, remote) = (authority.ravel(), authority.remote());
        Self { _authority: authority, ravel, remote }
    }

    pub(crate) fn room(&self, version: RoomVersion) -> (Local<'_>, String, Member<'_>) {
        let alice = Local::register(&self.ravel, &format!("alice{}", now_ms()));
        let room = alice.public_room(version);
        let bob = Member::join(&self.remote, &self.ravel, &room, version);
        (alice, room, bob)
    }
}

#[test]
fn events_come_into_their_room_in_every_version() {
    let scene = Scene::new();
    for version in RoomVersion::ALL.into_iter().filter(|version| *version > RoomVersion::V2) {
        let (alice, room, mut bob) = scene.room(version);
        let (first, second) = (bob.say("one"), bob.say("two"));
        let results = bob.send(&scene.ravel, version.as_str(), &[&first.1, &second.1]);
        assert_eq!(results, json!({ first.0: {}, second.0: {} }));
        assert_eq!(alice.texts(&room), ["one", "two"], "{version}");
    }
}

#[test]
fn sc_085_one_bad_event_does_not_stop_the_others() {
    let scene = Scene::new();
    let (alice, room, mut bob) = scene.room(V11);
    let (alice_late, late_room, _) = scene.room(V11);
    let good = [bob.say("good 1"), bob.say("good 2")];
    let with = |replaced: Value| bob.event(&replaced);
    let unsigned = {
        let (id, mut event) = with(json!({ "content": { "body": "unsigned" } }));
        event["signatures"] = json!({});
        (id, event)
    };
    let by_another_key = {
        let (id, mut event) = with(json!({ "content": { "body": "another key" } }));
        let signature = event["signatures"][bob.remote.name.as_str()]["ed25519:remote"].clone();
        event["signatures"] = json!({ bob.remote.name.as_str(): { "ed25519:other": signature } });
        (id, event)
    };
    let flipped = {
        let (id, mut event) = with(json!({ "content": { "body": "flipped" } }));
        let signature = event["signatures"][bob.remote.name.as_str()]["ed25519:remote"].as_str().unwrap().to_owned();
        let first = if signature.starts_with('A') { "B" } else { "A" };
        event["signatures"][bob.remote.name.as_str()]["ed25519:remote"] = format!("{first}{}", &signature[1..]).into();
        (id, event)
    };
    let of_nowhere = with(json!({ "room_id": "!nowhere:example.org" }));
    let of_a_room_that_it_is_not_in = with(json!({ "room_id": late_room, "content": { "body": "stranger" } }));
    let by_a_local_user = with(json!({ "sender": "@alice:example.org" }));
    let many_parents = {
        let mut event = good[0].1.clone();
        event["prev_events"] = json!(vec!["$x"; 21]);
        event
    };
    let mut negative = good[0].1.clone();
    negative["depth"] = json!(-1);
    let refused = [&unsigned, &by_another_key, &flipped, &by_a_local_user];
    let pdus = [
        &json!(null),
        &json!([]),
        &json!({ "room_id": 7 }),
        &json!({ "room_id": room }),
        &negative,
        &many_parents,
        &unsigned.1,
        &good[0].1,
        &by_another_key.1,
        &flipped.1,
        &of_nowhere.1,
        &of_a_room_that_it_is_not_in.1,
        &by_a_local_user.1,
        &good[1].1,
    ];
    let results = bob.send(&scene.ravel, "1", &pdus);
    for (id, _) in &good {
        assert_eq!(results[id], json!({}));
    }
    for (id, event) in refused {
        assert!(results[id]["error"].is_string(), "{event}: {results}");
    }
    assert_eq!(alice.texts(&room), ["good 1", "good 2"]);
    assert_eq!(alice_late.texts(&late_room), [""; 0]);
    alice.say(&room, "still");
    assert_eq!(alice.texts(&room), ["good 1", "good 2", "still"]);
}

#[test]
fn sc_016_an_event_with_another_hash_is_redacted() {
    let scene = Scene::new();
    let (alice, room, bob) = scene.room(V11);
    let (id, mut event) = bob.event(&json!({ "content": { "body": "true" } }));
    event["content"]["body"] = json!("false");
    assert_eq!(bob.send(&scene.ravel, "1", &[&event]), json!({ id.clone(): {} }));
    let last = alice.events(&room).pop().unwrap();
    assert_eq!((last["event_id"].as_str().unwrap(), &last["content"]), (id.as_str(), &json!({})));
}

#[test]
fn sc_019_what_is_not_signed_is_not_shown() {
    let scene = Scene::new();
    let (alice, room, mut bob) = scene.room(V11);
    let (_, mut event) = bob.say("hello");
    event["unsigned"] = json!({ "redacted_because": {}, "prev_content": { "a": 1 }, "m.relations": { "b": 1 } });
    bob.send(&scene.ravel, "1", &[&event]);
    let last = alice.events(&room).pop().unwrap();
    assert_eq!(last["content"]["body"], "hello");
    for field in ["redacted_because", "prev_content", "m.relations"] {
        assert_eq!(last["unsigned"][field], Value::Null);
    }
}

#[test]
fn sc_086_transactions_have_limits_and_are_taken_once() {
    let scene = Scene::new();
    let (alice, room, mut bob) = scene.room(V11);
    let (id, event) = bob.say("once");
    let send = |pdus: &[&Value], edus: usize| {
        let edu = json!({ "edu_type": "test.unknown", "content": {} });
        let body = json!({ "origin": bob.remote.name.as_str(), "pdus": pdus, "edus": vec![edu; edus] });
        bob.remote.put(&scene.ravel, "v1/send/same", &body)
    };
    send(&[&event; 51], 0).fails(400, "M_BAD_JSON");
    send(&[&event], 101).fails(400, "M_BAD_JSON");
    let first = send(&[&event], 100).ok();
    assert_eq!(first["pdus"], json!({ id: {} }));
    let (_, other) = bob.event(&json!({ "content": { "body": "other" } }));
    assert_eq!(send(&[&other], 0).ok(), first, "the transaction was taken already");
    assert_eq!(alice.texts(&room), ["once"]);
}

#[test]
fn missing_events_are_asked_for() {
    let scene = Scene::new();
    let (alice, room, mut bob) = scene.room(V11);
    let missing: Vec<(String, Value)> = (0..4).map(|number| bob.say(&format!("missing {number}"))).collect();
    let (last_id, last) = bob.say("last");
    let mut bad = missing[0].1.clone();
    bad["signatures"][bob.remote.name.as_str()]["ed25519:remote"] = json!("AAAA");
    let stray = bob.event(&json!({ "prev_events": ["$elsewhere"], "content": { "body": "stray" } })).1;
    let answer: Vec<Value> = missing.iter().rev().map(|(_, event)| event.clone()).chain([bad, stray]).collect();
    scene.remote.answers(move |asked| {
        let is_for_missing = asked.path.starts_with("/_matrix/federation/v1/get_missing_events/");
        is_for_missing.then(|| (200, json!({ "events": answer })))
    });
    assert_eq!(bob.send(&scene.ravel, "1", &[&last]), json!({ last_id.clone(): {} }));
    assert_eq!(alice.texts(&room), ["missing 0", "missing 1", "missing 2", "missing 3", "last"]);
    let asked =
        scene.remote.asked().into_iter().find(|asked| asked.path.contains("get_missing_events")).unwrap().json();
    assert_eq!(asked["latest_events"], json!([last_id]));
    assert_eq!(asked["earliest_events"].as_array().unwrap().len(), 1);
}

/// Answers for the state before an event.
fn answer_state(remote: &Remote, state: Vec<(String, Value)>, auth_chain: Vec<(String, Value)>) {
    remote.answers(move |asked| {
        let path = asked.path.strip_prefix("/_matrix/federation/v1/")?;
        let ids = |events: &[(String, Value)]| events.iter().map(|(id, _)| id.clone()).collect::<Vec<_>>();
        if path.starts_with("state_ids/") {
            return Some((200, json!({ "pdu_ids": ids(&state), "auth_chain_ids": ids(&auth_chain) })));
        }
        let id = path.strip_prefix("event/")?.replace("%24", "$");
        let (_, event) = state.iter().chain(&auth_chain).find(|(known, _)| *known == id)?;
        Some((200, json!({ "origin": "a", "origin_server_ts": 1, "pdus": [event] })))
    });
}

#[test]
fn the_state_before_a_gap_is_asked_for() {
    let scene = Scene::new();
    let (alice, room, mut bob) = scene.room(V11);
    let joined: Vec<(String, Value)> = ids_of_state(&scene.remote, &scene.ravel, &room, &bob.last.0);
    // Long ago bob has set a topic, and nobody can tell what lies between.
    let topic = bob.event(&json!({ "type": "test.topic", "state_key": bob.user, "content": { "topic": "lost" } }));
    bob.last = ("$unknown".to_owned(), bob.last.1 + 1000);
    let (id, event) = bob.say("after the gap");
    let state = joined.into_iter().chain([topic.clone()]).collect();
    answer_state(&scene.remote, state, Vec::new());
    assert_eq!(bob.send(&scene.ravel, "1", &[&event]), json!({ id: {} }));
    assert_eq!(alice.texts(&room), ["after the gap"]);
    let paths: Vec<String> = scene.remote.asked().into_iter().map(|asked| asked.path).collect();
    let count = |what: &str| paths.iter().filter(|path| path.contains(what)).count();
    assert_eq!((count("/state_ids/"), count("/event/"), count("/state/")), (1, 1, 0), "{paths:?}");
    // The room goes on from both ends.
    alice.say(&room, "and on");
    assert_eq!(alice.texts(&room), ["after the gap", "and on"]);
}

/// A server may have the states before the events that are missing, and not before those that build on them.
#[test]
fn the_states_before_missing_events_will_do() {
    let scene = Scene::new();
    let (alice, room, mut bob) = scene.room(V11);
    let joined: Vec<(String, Value)> = ids_of_state(&scene.remote, &scene.ravel, &room, &bob.last.0);
    let named = |name: &str| {
        let content = json!({ "membership": "join", "displayname": name });
        bob.event(&json!({ "type": "m.room.member", "state_key": bob.user, "content": content }))
    };
    let (old, new) = (named("old"), named("new"));
    bob.last = (new.0.clone(), bob.last.1 + 1000);
    let (between, last) = (bob.say("between"), bob.say("last"));
    let others = joined.into_iter().filter(|(_, event)| event["state_key"] != bob.user.as_str());
    let before_new: Vec<_> = others.chain([old]).collect();
    answer_state(&scene.remote, before_new, vec![new.clone()]);
    let (missing, known, known_encoded) = (between.1.clone(), new.0.clone(), new.0.replace('$', "%24"));
    scene.remote.answers(move |asked| {
        let path = asked.path.strip_prefix("/_matrix/federation/v1/")?;
        if path.starts_with("get_missing_events/") {
            return Some((200, json!({ "events": [missing] })));
        }
        let is_of_known = path.contains(&known) || path.contains(&known_encoded);
        let is_of_another = path.starts_with("state_ids/") && !is_of_known;
        is_of_another.then(|| (404, json!({ "errcode": "M_NOT_FOUND", "error": "no state" })))
    });
    assert_eq!(bob.send(&scene.ravel, "1", &[&last.1]), json!({ last.0: {} }));
    assert_eq!(alice.texts(&room), ["between", "last"]);
    assert_eq!(alice.state(&room, "m.room.member", &bob.user).unwrap()["displayname"], "new");

    // The gap is right before what a sync tells: whoever goes on from there makes that it is filled.
    let filter = "%7B%22room%22%3A%7B%22timeline%22%3A%7B%22limit%22%3A2%7D%7D%7D";
    let sync = scene.ravel.get(&format!("v3/sync?filter={filter}"), Some(&alice.token)).ok();
    let from = sync["rooms"]["join"][&room]["timeline"]["prev_batch"].as_str().unwrap().to_owned();
    let history = json!({ "origin": "a", "origin_server_ts": 1, "pdus": [new.1] });
    scene.remote.answers(move |asked| asked.path.contains("/v1/backfill/").then(|| (200, history.clone())));
    let page = scene.ravel.get(&format!("v3/rooms/{room}/messages?dir=b&from={from}"), Some(&alice.token)).ok();
    assert_eq!(page["chunk"][0]["event_id"], new.0.as_str(), "{page}");
}

/// Returns the state after an event, as the server tells it to another that is in the room.
fn ids_of_state(remote: &Remote, ravel: &Server, room: &str, event_id: &str) -> Vec<(String, Value)> {
    let state = remote.get(ravel, &format!("v1/state/{room}?event_id={}", escaped(event_id))).ok();
    let events = state["pdus"].as_array().unwrap().iter();
    let mut events: Vec<_> = events.map(|event| (crate::member::id_of(V11, event), event.clone())).collect();
    let event = remote.get(ravel, &format!("v1/event/{}", escaped(event_id))).ok()["pdus"][0].clone();
    events.push((event_id.to_owned(), event));
    events
}

#[test]
fn sc_062_a_state_is_not_taken_as_it_comes() {
    let scene = Scene::new();
    let (alice, room, mut bob) = scene.room(V11);
    let state = ids_of_state(&scene.remote, &scene.ravel, &room, &bob.last.0);
    let levels =
        |users: Value| json!({ "type": "m.room.power_levels", "state_key": "", "content": { "users": users } });
    let forged = bob.event(&levels(json!({ bob.user.as_str(): 100 })));
    let (_, other_room, other_bob) = scene.room(V11);
    let foreign = other_bob.event(&json!({ "type": "test.foreign", "state_key": other_bob.user }));
    assert_ne!(room, other_room);
    bob.last = ("$unknown".to_owned(), bob.last.1 + 10);
    let without_create: Vec<_> = state.iter().filter(|(_, event)| event["type"] != "m.room.create").cloned().collect();
    answer_state(&scene.remote, without_create, Vec::new());
    let (id, event) = bob.say("no create event");
    assert!(bob.send(&scene.ravel, "1", &[&event])[&id]["error"].is_string());

    let state = state.into_iter().chain([forged, foreign]).collect();
    answer_state(&scene.remote, state, Vec::new());
    bob.last = ("$unknown too".to_owned(), bob.last.1);
    let (id, event) = bob.say("forged levels");
    let taken = bob.send(&scene.ravel, "2", &[&event]);
    assert_eq!(taken, json!({ id: {} }));
    assert_eq!(alice.state(&room, "m.room.power_levels", "").unwrap()["users"][&bob.user], Value::Null);
    assert_eq!(alice.state(&room, "test.foreign", &bob.user), None);
    // She still may do what he may not.
    alice.set(&room, "m.room.topic", &json!({ "topic": "hers" }));
    bob.last = (alice.say(&room, "end"), bob.last.1 + 10);
    let (_, rename) = bob.event(&json!({ "type": "m.room.topic", "state_key": "", "content": { "topic": "his" } }));
    bob.send(&scene.ravel, "3", &[&rename]);
    assert_eq!(alice.state(&room, "m.room.topic", "").unwrap()["topic"], "hers");
}

#[test]
fn sc_066_what_lacks_its_past_waits_and_is_told_so() {
    let scene = Scene::new();
    let (alice, room, mut bob) = scene.room(V11);
    bob.last = ("$unknown".to_owned(), bob.last.1 + 100_000);
    let (id, event) = bob.say("out of nowhere");
    assert!(bob.send(&scene.ravel, "1", &[&event])[&id]["error"].is_string());
    assert_eq!(alice.texts(&room), [""; 0]);
    alice.say(&room, "nothing happened");
    assert_eq!(alice.texts(&room), ["nothing happened"]);
}

#[test]
fn what_cites_nothing_that_its_server_has_is_dropped() {
    let scene = Scene::new();
    let (alice, room, mut bob) = scene.room(V11);
    let auth_events: Vec<String> = bob.auth_events.iter().cloned().chain(["$unknown".to_owned()]).collect();
    let (id, event) = bob.event(&json!({ "auth_events": auth_events }));
    assert_eq!(bob.send(&scene.ravel, "1", &[&event]), json!({ id: {} }));
    assert!(scene.remote.asked().iter().any(|asked| asked.path.contains("/v1/event_auth/")));
    let (_, good) = bob.say("good");
    bob.send(&scene.ravel, "2", &[&good]);
    assert_eq!(alice.texts(&room), ["good"]);
}

#[test]
fn sc_072_a_room_that_nobody_here_is_in_takes_nothing() {
    let scene = Scene::new();
    let (alice, room, mut bob) = scene.room(V11);
    scene.ravel.post(&format!("v3/rooms/{room}/leave"), Some(&alice.token), &json!({})).ok();
    let (id, event) = bob.say("anybody?");
    assert!(bob.send(&scene.ravel, "1", &[&event])[&id]["error"].is_string());
    assert_eq!(scene.ravel.get("v3/joined_rooms", Some(&alice.token)).ok()["joined_rooms"], json!([]));
}

#[test]
fn sc_140_events_of_servers_that_are_shut_out_do_not_come_in() {
    let scene = Scene::new();
    let (alice, room, mut bob) = scene.room(V11);
    let (_, before) = bob.say("before");
    bob.send(&scene.ravel, "1", &[&before]);
    let acl = json!({ "allow": ["*"], "deny": ["localhost"] });
    alice.set(&room, "m.room.server_acl", &acl);
    let (id, event) = bob.say("after");
    assert!(bob.send(&scene.ravel, "2", &[&event])[&id]["error"].is_string());
    assert_eq!(alice.texts(&room), ["before"]);
}

#[test]
fn sc_030_sc_031_sc_036_events_are_judged_by_what_holds() {
    let scene = Scene::new();
    let (alice, room, mut bob) = scene.room(V10);
    let (_, _, other_bob) = scene.room(V10);
    let topic = |auth_events: &[String], text: &str| {
        let replaced = json!({ "type": "m.room.topic", "state_key": "", "content": { "topic": text }, "auth_events": auth_events });
        bob.event(&replaced)
    };
    let of_another_room = topic(&other_bob.auth_events, "by another room");
    let without_levels = topic(&[bob.auth_events[0].clone(), bob.auth_events[2].clone()], "without levels");
    let rejected = topic(&bob.auth_events, "rejected");
    let by_a_rejected_one = {
        let auth_events: Vec<String> = bob.auth_events.iter().cloned().chain([rejected.0.clone()]).collect();
        bob.event(&json!({ "content": { "body": "by a rejected event" }, "auth_events": auth_events }))
    };
    let pdus = [&of_another_room.1, &without_levels.1, &rejected.1, &by_a_rejected_one.1];
    bob.send(&scene.ravel, "1", &pdus);
    let (_, good) = bob.say("good");
    bob.send(&scene.ravel, "2", &[&good]);
    assert_eq!(alice.texts(&room), ["good"]);
    assert_eq!(alice.state(&room, "m.room.topic", ""), None);
}

#[test]
fn sc_179_pages_go_on_behind_events_that_nobody_is_shown() {
    let scene = Scene::new();
    let (alice, room, mut bob) = scene.room(V11);
    let (_, before) = bob.say("before");
    bob.send(&scene.ravel, "0", &[&before]);
    for transaction in 1..=4 {
        let topic = |number: usize| {
            let topic = format!("{transaction} {number}");
            bob.event(&json!({ "type": "m.room.topic", "state_key": "", "content": { "topic": topic } })).1
        };
        let rejected: Vec<Value> = (0..50).map(topic).collect();
        bob.send(&scene.ravel, &transaction.to_string(), &rejected.iter().collect::<Vec<_>>());
    }
    alice.say(&room, "after");
    let page = |from: &str| {
        let path = format!("v3/rooms/{room}/messages?dir=b&limit=1{from}");
        scene.ravel.get(&path, Some(&alice.token)).ok()
    };
    let newest = page("");
    let older = page(&format!("&from={}", newest["end"].as_str().unwrap()));
    let bodies = [newest, older].map(|page| page["chunk"][0]["content"]["body"].clone());
    assert_eq!(bodies, [json!("after"), json!("before")]);
}

#[test]
fn sc_053_what_a_banned_user_says_from_before_the_ban_is_not_shown() {
    let scene = Scene::new();
    let (alice, room, bob) = scene.room(V11);
    let ban = json!({ "user_id": bob.user });
    scene.ravel.post(&format!("v3/rooms/{room}/ban"), Some(&alice.token), &ban).ok();
    let says = bob.event(&json!({ "content": { "body": "I was here before" } }));
    let sets = bob.event(&json!({ "type": "test.state", "state_key": bob.user }));
    bob.send(&scene.ravel, "1", &[&says.1, &sets.1]);
    assert_eq!(alice.texts(&room), [""; 0]);
    assert_eq!(alice.state(&room, "test.state", &bob.user), None);
    alice.say(&room, "peace");
    assert_eq!(alice.texts(&room), ["peace"]);
}

#[test]
fn sc_147_a_command_in_a_message_is_a_message() {
    let scene = Scene::new();
    let (alice, room, mut bob) = scene.room(V11);
    let commands = ["!admin users list", r"\!admin server shutdown", "!ravel config", "@server:example.org: restart"];
    for (number, command) in commands.iter().enumerate() {
        let (_, pdu) = bob.say(command);
        bob.send(&scene.ravel, &number.to_string(), &[&pdu]);
    }
    alice.say(&room, "still");
    assert_eq!(alice.texts(&room), [&commands[..], &["still"]].concat());
    for name in ["admin", "server", "ravel", "conduit"] {
        let path = format!("v3/profile/@{name}:example.org");
        scene.ravel.get(&path, Some(&alice.token)).fails(404, "M_NOT_FOUND");
    }
}
