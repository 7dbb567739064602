//! Files that can be read, with events that are not what they should be: a verdict for each, and the database stays usable.

use std::collections::BTreeMap;

use ravel_core::{event::StateKey, id::EventId, room_version::RoomVersion, state::entries_sha256};
use serde_json::{Value, json};

use crate::support::{FED, FED_ID, Lines, MadeRoom, Place, ravel};

/// Replays a file into a new database, checks the exit code and parts of the report, and that the database is well and takes
/// the good file. Returns the report in JSON.
#[track_caller]
fn check(text: &str, good: &str, code: i32, parts: &[&str]) -> Value {
    let mut report = Value::Null;
    for engine in ["sled", "rocksdb"] {
        let place = Place::new();
        let (database, file) = (place.database(engine), place.file("bad.jsonl", text));
        let run = ravel(&["replay", "--database", &database, &file]);
        assert_eq!((run.code, run.stderr.as_str()), (code, ""), "{run:?}");
        for part in parts {
            let part = part.replace("FILE", &file);
            assert!(run.stdout.contains(&part), "{part:?} is not in {}", run.stdout);
        }
        assert!(ravel(&["verify", "-d", &database]).ok().contains("all is well"));
        let good = place.file("good.jsonl", good);
        ravel(&["replay", "-d", &database, &good, "--check"]).ok();
        assert!(ravel(&["verify", "-d", &database]).ok().contains("all is well"));
        let run = ravel(&["replay", "-d", "memory", "--json", &file]);
        assert_eq!(run.code, code);
        report = run.json()["rooms"][0].clone();
    }
    report
}

/// Changes an event of the recorded room and checks what becomes of it; returns the report of the room.
fn check_changed(pick: impl Fn(&Value) -> bool, change: impl Fn(&mut Value), code: i32, parts: &[&str]) -> Value {
    let good = Lines::of(FED);
    let mut lines = good.clone();
    let event = lines.of_kind("event").rfind(|event| pick(event)).unwrap();
    change(event);
    let event_id = event["event_id"].as_str().unwrap().to_owned();
    let line = lines.line_of(&event_id).to_string();
    let parts: Vec<String> = parts.iter().map(|part| part.replace("EVENT", &event_id).replace("LINE", &line)).collect();
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    check(&lines.to_text(), &good.to_text(), code, &parts)
}

fn is_last(event: &Value) -> bool {
    event["pdu"]["depth"].as_i64() > Some(0)
}

/// Changes a letter of every signature.
fn spoil_signatures(event: &mut Value) {
    for keys in event["pdu"]["signatures"].as_object_mut().unwrap().values_mut() {
        for signature in keys.as_object_mut().unwrap().values_mut() {
            let text = signature.as_str().unwrap();
            let first = if text.starts_with('A') { "B" } else { "A" };
            *signature = json!(format!("{first}{}", &text[1..]));
        }
    }
}

#[test]
fn a_wrong_signature_drops_the_event() {
    let dropped = &["  dropped EVENT (FILE, line LINE): invalid signature of localhost:1844"];
    let report = check_changed(is_last, spoil_signatures, 1, dropped);
    assert_eq!((&report["events"], &report["dropped"][0]["line"]), (&json!(95), &json!(100)));
}

#[test]
fn what_builds_on_a_dropped_event_waits() {
    let is_early = |event: &Value| event["pdu"]["depth"] == 20;
    let report = check_changed(is_early, spoil_signatures, 1, &["  dropped EVENT", "what it builds on is not there"]);
    let (events, waiting) = (report["events"].as_u64().unwrap(), report["waiting"].as_array().unwrap().len() as u64);
    assert!(events > 20 && waiting > 20, "{events} {waiting}");
    assert_eq!(events + waiting + 1, 96);
}

#[test]
fn a_missing_signature_drops_the_event() {
    let report = check_changed(is_last, |event| event["pdu"]["signatures"] = json!({}), 1, &["  dropped EVENT"]);
    assert_eq!(report["dropped"].as_array().unwrap().len(), 1);
}

#[test]
fn a_changed_content_redacts_the_event() {
    let is_topic = |event: &Value| event["pdu"]["type"] == "m.room.topic";
    let change = |event: &mut Value| event["pdu"]["content"]["topic"] = json!("not what was signed");
    let report = check_changed(is_topic, change, 0, &["  1 event redacted for a wrong content hash"]);
    assert_eq!((&report["redacted"], &report["events"]), (&json!(1), &json!(96)));
}

#[test]
fn a_changed_envelope_gives_another_id() {
    let change = |event: &mut Value| event["pdu"]["depth"] = json!(1);
    check_changed(is_last, change, 1, &["  dropped EVENT (FILE, line LINE): "]);
    // Signed as it should be, and listed under another id.
    let change = |event: &mut Value| event["event_id"] = json!("$another");
    check_changed(is_last, change, 1, &["  dropped $another (FILE, line LINE): its id is $"]);
}

#[test]
fn what_is_no_event_is_dropped() {
    for pdu in [json!(null), json!([]), json!({}), json!("text"), json!({ "type": 1 })] {
        check_changed(is_last, |event| event["pdu"] = pdu.clone(), 1, &["  dropped EVENT (FILE, line LINE): "]);
    }
}

#[test]
fn a_missing_parent_keeps_events_waiting() {
    let good = Lines::of(FED);
    let mut lines = good.clone();
    let parent = lines.0.remove(50);
    assert_eq!(parent["kind"], "event");
    lines.0[0]["events"] = json!(95);
    let report = check(&lines.to_text(), &good.to_text(), 1, &["not judged; the first is $", "is not there"]);
    assert_eq!(report["dropped"], json!([]));
    assert!(!report["waiting"].as_array().unwrap().is_empty());
}

#[test]
fn events_out_of_order_are_judged_after_their_parents() {
    let good = Lines::of(FED);
    let mut lines = good.clone();
    lines.0[4..100].reverse();
    let report = check(&lines.to_text(), &good.to_text(), 0, &[]);
    assert_eq!(report["events"], json!(96));
}

#[test]
fn events_in_a_circle_wait() {
    for version in [RoomVersion::V1, RoomVersion::V2] {
        let mut room = MadeRoom::new(version);
        room.message("before", &["$2:a"]);
        let good = room.to_text();
        room.message("x", &["$3:a", "$5:a"]);
        room.message("y", &["$4:a"]);
        room.message("itself", &["$6:a"]);
        room.message("after", &["$4:a"]);
        let text = room.to_text();
        let report = check(&text, &good, 1, &["  4 events not judged; the first is $4:a: ", "or leads back to it"]);
        assert_eq!(report["waiting"], json!(["$4:a", "$5:a", "$6:a", "$7:a"]));
        assert_eq!(report["events"], json!(3));
        // In a server's order the circle is not walked forever either.
        let place = Place::new();
        let file = place.file("circle.jsonl", &text);
        let run = ravel(&["replay", "-d", "memory", "--json", "--as", "a", &file]);
        assert_eq!(run.code, 1);
        assert_eq!(run.json()["rooms"][0]["events"], json!(3));
    }
}

#[test]
fn sc_014_an_event_has_at_most_65536_bytes() {
    let with_message = |body: usize| {
        let mut room = MadeRoom::new(RoomVersion::V11);
        let last = room.events[1].0.clone();
        let event_id = room.message(&"x".repeat(body), &[&last]);
        (room, event_id)
    };
    let size =
        |room: &MadeRoom| ravel_core::canonical_json::object_to_canonical_bytes(&room.events.last().unwrap().1).len();
    let overhead = size(&with_message(0).0);
    let (largest, event_id) = with_message(65_536 - overhead);
    assert_eq!(size(&largest), 65_536);
    let report = check(&largest.to_text(), &largest.to_text(), 0, &[]);
    assert_eq!((&report["events"], event_id == "$unknown"), (&json!(3), false));
    let (too_large, event_id) = with_message(65_537 - overhead);
    assert_eq!((size(&too_large), event_id.as_str()), (65_537, "$unknown"));
    let report = check(&too_large.to_text(), &largest.to_text(), 1, &["  dropped $unknown (FILE, line 5): ", "65537"]);
    assert_eq!(report["events"], json!(2));
}

#[test]
fn an_event_of_another_room_is_dropped() {
    let mut room = MadeRoom::new(RoomVersion::V6);
    let good = room.to_text();
    room.room_id = "!other:a";
    room.event("m.room.create", Some(""), &json!({ "creator": "@u:a" }), &[], &[]);
    room.room_id = "!made:a";
    check(&room.to_text(), &good, 1, &["(FILE, line 5): it is of the room !other:a"]);
}

/// Escapes in ids and types are shown and not sent to the terminal.
#[test]
fn control_characters_are_shown() {
    let mut room = MadeRoom::new(RoomVersion::V6);
    let [create, join] = [0, 1].map(|place: usize| room.events[place].0.clone());
    let key = "\u{1b}[31m\u{202e}red\u{9b}2J\r\n";
    let event_id = room.event(key, Some(key), &json!({}), &[&join], &[&create, &join]);
    let place = Place::new();
    let (database, file) = (place.database("sled"), place.file("room.jsonl", room.to_text()));
    ravel(&["replay", "-d", &database, &file]).ok();
    let state = ravel(&["state", "-d", &database, "!made:a"]).ok();
    let explained = ravel(&["explain", "-d", &database, "!made:a", &event_id]).ok();
    let mermaid = ravel(&["dag", "-d", &database, "!made:a", "--format", "mermaid"]).ok();
    let dot = ravel(&["dag", "-d", &database, "!made:a"]).ok();
    let json = ravel(&["state", "-d", &database, "!made:a", "--json"]);
    for text in [&state, &explained, &mermaid, &dot, &json.stdout] {
        let is_harmful = |c: char| (c.is_control() && c != '\n') || c == '\u{202e}';
        assert!(!text.contains(is_harmful), "{text:?}");
    }
    assert!(state.contains(r"\u001b[31m\u202ered\u009b2J\u000d"), "{state}");
    let expected = json!([key, key, event_id]);
    assert!(json.json_lines().contains(&expected), "{}", json.stdout);
}

/// A merge whose golden answer is another: exit code 1, and the first is named and explained.
#[test]
fn a_wrong_golden_answer_is_named_and_explained() {
    let mut lines = Lines::of(FED);
    lines.0.retain(|line| line["kind"] != "final");
    let mut state = BTreeMap::new();
    let id = |value: &Value| EventId::parse(value.as_str().unwrap()).unwrap();
    let key = |value: &Value| StateKey::new(value[0].as_str().unwrap(), value[1].as_str().unwrap());
    for line in lines.of_kind("merge") {
        for entry in line["del"].as_array().unwrap() {
            state.remove(&key(entry));
        }
        state.extend(line["set"].as_array().unwrap().iter().map(|entry| (key(entry), id(&entry[2]))));
    }
    // The last merge has the create event as its topic.
    let wrong = json!(["m.room.topic", "", format!("${}", &FED_ID[1..])]);
    let topic = state.insert(key(&wrong), id(&wrong[2])).unwrap().to_string();
    let last = lines.of_kind("merge").next_back().unwrap();
    let set = last["set"].as_array_mut().unwrap();
    set.retain(|entry| entry[0] != "m.room.topic");
    set.push(wrong.clone());
    last["hash"] = json!(entries_sha256(&state).to_string());
    let event_id = last["event_id"].as_str().unwrap().to_owned();
    let line = lines.0.len();
    let place = Place::new();
    let file = place.file("wrong.jsonl", lines.to_text());
    let run = ravel(&["replay", "-d", "memory", "--check", &file]).fails(
        1,
        &[
            &format!("  first disagreement: before {event_id} ({file}, line {line})"),
            &format!("    m.room.topic \"\": {topic} here, {} recorded", wrong[2].as_str().unwrap()),
            "    It builds on ",
            "    The state before the event has ",
        ],
    );
    assert!(run.stdout.contains("44      43        1"), "{}", run.stdout);
    let run = ravel(&["replay", "-d", "memory", "--check", "--json", &file]);
    assert_eq!(run.code, 1);
    let report = run.json();
    assert_eq!(report["total"]["disagree"], json!(1));
    let first = &report["rooms"][0]["first_disagreement"];
    assert_eq!((&first["event_id"], &first["line"]), (&json!(event_id), &json!(line)));
    // Nobody asked: nothing disagrees.
    ravel(&["replay", "-d", "memory", &file]).ok();
}

#[test]
fn a_server_that_judged_otherwise_is_named() {
    let mut lines = Lines::of(FED);
    let event = lines.of_kind("event").rfind(|event| is_last(event)).unwrap();
    event["seen"]["localhost:18441"]["rejected"] = json!("for no reason");
    let event_id = event["event_id"].as_str().unwrap().to_owned();
    let place = Place::new();
    let file = place.file("room.jsonl", lines.to_text());
    let run = ravel(&["replay", "-d", "memory", "--as", "localhost:18441", &file]);
    run.fails(1, &[&format!("    {event_id} ({file}, line 100): accepted here, rejected there"), "0 of 1 rooms agree"]);
    let run = ravel(&["replay", "-d", "memory", "--as", "localhost:18441", "--json", &file]);
    let compared = &run.json()["rooms"][0]["as"];
    assert_eq!(compared["differing"][0]["here"], "accepted");
    assert_eq!(compared["differing"][0]["there"], "rejected");
    assert_eq!(compared["forward_extremities_agree"], json!(true));
}
