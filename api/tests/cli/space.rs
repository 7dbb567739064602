//! Purging, collecting and counting.

use std::{
    process::{Command, Stdio},
    time::Duration,
};

use ravel_core::room_version::RoomVersion;
use ravel_store::{KeyRange, Keyspace, Scan, StoreExt, block_on};
use serde_json::{Value, json};

use crate::support::{FED, FED_ID, FORGED, FORGED_ID, MadeRoom, Place, corpus, ravel, with_store};

const ENGINES: [&str; 2] = ["rocksdb", "sled"];

/// A database with a room of 30 messages and a topic among them; returns the ids of its events.
fn made(engine: &str) -> (Place, String, Vec<String>) {
    let mut room = MadeRoom::new(RoomVersion::V11);
    let [create, join] = [0, 1].map(|place: usize| room.events[place].0.clone());
    let mut last = join.clone();
    for number in 0..30 {
        last = room.message(&format!("the secret number {number}"), &[&last]);
        if number == 9 {
            let content = json!({ "topic": "kept" });
            last = room.event("m.room.topic", Some(""), &content, &[&last], &[&create, &join]);
        }
    }
    let place = Place::new();
    let database = place.database(engine);
    let file = place.file("made.jsonl", room.to_text());
    ravel(&["replay", "-d", &database, &file]).ok();
    (place, database, room.events.into_iter().map(|(event_id, _)| event_id).collect())
}

fn log_text(place: &Place, engine: &str) -> String {
    with_store(place, engine, |store| {
        let items = block_on(store.scan_all(Scan::new(Keyspace::Log, KeyRange::all()))).unwrap();
        items.iter().map(|(_, value)| String::from_utf8_lossy(value).into_owned()).collect()
    })
}

#[test]
fn purged_history_is_gone_and_the_rest_is_there() {
    for engine in ENGINES {
        let (place, database, ids) = made(engine);
        let state = ravel(&["state", "-d", &database, "!made:a"]).ok();
        let last_state = ravel(&["state", "-d", &database, "!made:a", "--before", &ids[25]]).ok();
        let run = ravel(&["purge", "-d", &database, "!made:a", "--before", &ids[20], "--json"]);
        let room = run.json()["rooms"][0].clone();
        // 20 events before, of which creation, membership and topic keep their content.
        assert_eq!((&room["room_id"], &room["events"], &room["states"]), (&json!("!made:a"), &json!(17), &json!(20)));
        let log = log_text(&place, engine);
        for number in 0..30 {
            let body = format!("the secret number {number}\"");
            assert_eq!(log.contains(&body), number >= 17, "{body}");
        }
        assert!(ids.iter().all(|id| log.contains(id.as_str())) && log.contains("kept"));
        assert_eq!(ravel(&["state", "-d", &database, "!made:a"]).ok(), state);
        assert_eq!(ravel(&["state", "-d", &database, "!made:a", "--before", &ids[25]]).ok(), last_state);
        // What can't be told any more is said so.
        for before in ["--before", "--after"] {
            let expected = format!("the states before and after {} were purged", ids[5]);
            ravel(&["state", "-d", &database, "!made:a", before, &ids[5]]).fails(2, &[&expected]);
        }
        for event in [&ids[5], &ids[20]] {
            let expected = format!("what {event} builds on was purged");
            ravel(&["explain", "-d", &database, "!made:a", event]).fails(2, &[&expected]);
        }
        assert!(ravel(&["explain", "-d", &database, "!made:a", &ids[21]]).ok().contains("was accepted"));
        let events = ravel(&["dag", "-d", &database, "!made:a", "--json"]).json()["events"].clone();
        let purged: Vec<bool> = events.as_array().unwrap().iter().map(|e| e["purged"].as_bool().unwrap()).collect();
        assert_eq!(purged.iter().filter(|purged| **purged).count(), 17);
        assert!(!purged[0] && purged[2] && !purged[20]);
        for format in ["dot", "mermaid"] {
            ravel(&["dag", "-d", &database, "!made:a", "--format", format]).ok();
        }
        let stats = ravel(&["stats", "-d", &database, "!made:a", "--json"]).json();
        assert_eq!(stats["rooms"][0]["events"]["purged"], 17);
        // Nothing is left to do.
        let run = ravel(&["purge", "-d", &database, "!made:a", "--before", &ids[20]]);
        assert_eq!(run.ok(), "!made:a: nothing to purge\n");
        let run = ravel(&["collect", "-d", &database, "!made:a", "--json"]);
        assert_eq!(run.json()["rooms"][0]["deleted"], 0);
        ravel(&["purge", "-d", &database, "--resume"]).ok();
        assert!(ravel(&["verify", "-d", &database]).ok().contains("all is well"));
        ravel(&["rebuild", "-d", &database]).ok();
        assert_eq!(log_text(&place, engine), log);
        assert_eq!(ravel(&["stats", "-d", &database, "!made:a", "--json"]).json()["rooms"], stats["rooms"]);
    }
}

#[test]
fn events_that_build_on_what_was_purged_stay_out() {
    let (place, database, ids) = made("sled");
    ravel(&["purge", "-d", &database, "!made:a", "--before", &ids[20]]).ok();
    let mut room = MadeRoom::new(RoomVersion::V11);
    let late = room.message("late", &[&ids[5]]);
    let on_it = room.message("later", &[&late]);
    let fine = room.message("fine", &[&ids[31]]);
    let file = place.file("late.jsonl", room.to_text());
    let run = ravel(&["replay", "-d", &database, &file, "--json"]);
    assert_eq!((run.code, &run.json()["rooms"][0]["waiting"]), (1, &json!([late, on_it])));
    assert!(ravel(&["dag", "-d", &database, "!made:a", "--json"]).ok().contains(&fine));
    assert!(ravel(&["verify", "-d", &database]).ok().contains("all is well"));
}

#[test]
fn what_is_old_is_purged_in_one_room_or_in_all() {
    for engine in ENGINES {
        // Made in 2023.
        let (_place, database, _) = made(engine);
        let run = ravel(&["purge", "-d", &database, "--older-than", "100y", "--json"]);
        assert_eq!(run.json()["rooms"][0]["states"], 0);
        let run = ravel(&["purge", "-d", &database, "--older-than", "1d", "--compact", "--json"]);
        // All but the newest.
        assert_eq!(run.json()["rooms"][0]["states"], 32);
        assert!(ravel(&["verify", "-d", &database]).ok().contains("all is well"));
        assert!(ravel(&["purge", "-d", &database, "!made:a", "--older-than", "1d"]).ok().contains("nothing to purge"));
    }
}

/// A database with a room of 30 messages that sets a policy early, of version 5, where numbers may have a fraction.
fn made_with_policy(engine: &str, policy: &Value) -> (Place, String) {
    let mut room = MadeRoom::new(RoomVersion::V5);
    let [create, join] = [0, 1].map(|place: usize| room.events[place].0.clone());
    let mut last = room.event("m.room.retention", Some(""), policy, &[&join], &[&create, &join]);
    for number in 0..30 {
        last = room.message(&format!("the secret number {number}"), &[&last]);
    }
    let place = Place::new();
    let database = place.database(engine);
    let file = place.file("made.jsonl", room.to_text());
    ravel(&["replay", "-d", &database, &file]).ok();
    (place, database)
}

#[test]
fn what_is_older_than_the_rooms_policy_says_is_purged() {
    // Made in 2023.
    let (day, century) = (86_400_000_u64, 36_500 * 86_400_000_u64);
    let check = |policy: Value, more: &[&str], lifetime: Option<u64>, told: &str| {
        for engine in ENGINES {
            let (place, database) = made_with_policy(engine, &policy);
            let retention = |more: &[&str]| ravel(&[&["purge", "-d", &database, "--retention"], more].concat());
            let run = retention(&[&["!made:a", "--json"][..], more].concat());
            let room = run.json()["rooms"][0].clone();
            let states = if lifetime.is_some_and(|lifetime| lifetime < century) { 32 } else { 0 };
            let expected = (json!("!made:a"), json!(lifetime), json!(states));
            assert_eq!(
                (room["room_id"].clone(), room["lifetime_ms"].clone(), room["states"].clone()),
                expected,
                "{policy}"
            );
            let log = log_text(&place, engine);
            assert_eq!(log.contains("the secret number 28"), states == 0);
            // The newest event and the policy.
            assert!(log.contains("the secret number 29") && log.contains("max_lifetime"));
            assert_eq!(retention(more).ok(), format!("!made:a: {told}, nothing to purge\n"));
            assert!(ravel(&["verify", "-d", &database]).ok().contains("all is well"));
        }
    };
    check(json!({ "max_lifetime": day }), &[], Some(day), "lifetime 1d");
    check(json!({ "max_lifetime": 1500 }), &["--allowed-lifetime-min", "100y"], Some(century), "lifetime 36500d");
    check(json!({ "max_lifetime": century }), &["--allowed-lifetime-max", "90s"], Some(90_000), "lifetime 90s");
    check(json!({ "max_lifetime": null }), &["--allowed-lifetime-max", "1d"], None, "no lifetime");
    check(json!({ "max_lifetime": 1.5 }), &[], None, "no lifetime");
    check(
        json!({ "max_lifetime": 1.5 }),
        &["--default-max-lifetime", "2h", "--compact"],
        Some(7_200_000),
        "lifetime 2h",
    );
    check(json!({ "max_lifetime": "1" }), &["--default-max-lifetime", "100y"], Some(century), "lifetime 36500d");
    let contradiction = json!({ "max_lifetime": 1, "min_lifetime": century });
    check(contradiction, &["--default-max-lifetime", "1d"], Some(day), "lifetime 1d");
    let at_least = json!({ "min_lifetime": century, "max_lifetime": null });
    check(at_least, &["--default-max-lifetime", "1d"], Some(century), "lifetime 36500d");
}

/// Each room by its own policy, and those without one by what the command says.
#[test]
fn each_room_is_purged_by_its_own_policy() {
    let (place, database) = made_with_policy("sled", &json!({ "max_lifetime": 1000 }));
    ravel(&["replay", "-d", &database, corpus(FED).to_str().unwrap()]).ok();
    let state = ravel(&["state", "-d", &database, FED_ID]).ok();
    let run = ravel(&["purge", "-d", &database, "--retention", "--json"]);
    let rooms = run.json()["rooms"].clone();
    let by_id = |id: &str| rooms.as_array().unwrap().iter().find(|room| room["room_id"] == id).unwrap().clone();
    assert_eq!((&by_id("!made:a")["lifetime_ms"], &by_id("!made:a")["states"]), (&json!(1000), &json!(32)));
    assert_eq!((&by_id(FED_ID)["lifetime_ms"], &by_id(FED_ID)["states"]), (&Value::Null, &json!(0)));
    let text = ravel(&["purge", "-d", &database, "--retention", "--default-max-lifetime", "0s"]).ok();
    assert!(text.contains("!made:a: lifetime 1s, nothing to purge\n"), "{text}");
    assert!(text.contains(&format!("{FED_ID}: lifetime 0d, purged the content of ")), "{text}");
    assert_eq!(ravel(&["state", "-d", &database, FED_ID]).ok(), state);
    assert!(ravel(&["verify", "-d", &database]).ok().contains("2 rooms, "));
    drop(place);
}

#[test]
fn a_whole_room_is_purged() {
    for engine in ENGINES {
        let (place, database) = Place::filled(engine, &[FED, FORGED]);
        let state = ravel(&["state", "-d", &database, FED_ID]).ok();
        let told = ravel(&["purge", "-d", &database, FORGED_ID, "--whole-room"]).ok();
        assert!(told.starts_with(&format!("{FORGED_ID}: purged the content of ")), "{told}");
        ravel(&["state", "-d", &database, FORGED_ID]).fails(2, &["the database has no room"]);
        assert_eq!(ravel(&["state", "-d", &database, FED_ID]).ok(), state);
        assert!(!log_text(&place, engine).contains(FORGED_ID));
        assert!(ravel(&["verify", "-d", &database]).ok().contains("1 room, "));
        // It comes back as a new one.
        ravel(&["replay", "-d", &database, corpus(FORGED).to_str().unwrap()]).ok();
        let (_other, expected) = Place::filled(engine, &[FORGED]);
        let state = |database: &str| ravel(&["state", "-d", database, FORGED_ID]).ok();
        assert_eq!(state(&database), state(&expected));
        assert!(ravel(&["verify", "-d", &database]).ok().contains("all is well"));
    }
}

/// Killed whenever, a purge is finished by whatever comes next, and the result is the same.
#[test]
fn a_killed_purge_is_finished_by_the_next_command() {
    for engine in ENGINES {
        let ids: Vec<String> = {
            let (_place, database) = Place::filled(engine, &[FED]);
            let events = ravel(&["dag", "-d", &database, FED_ID, "--json"]).json()["events"].clone();
            events.as_array().unwrap().iter().map(|event| event["event_id"].as_str().unwrap().to_owned()).collect()
        };
        let before = &ids[ids.len() * 3 / 4];
        let contents = |place: &Place| {
            with_store(place, engine, |store| {
                let all = Keyspace::ALL
                    .iter()
                    .map(|keyspace| block_on(store.scan_all(Scan::new(*keyspace, KeyRange::all()))).unwrap());
                all.collect::<Vec<_>>()
            })
        };
        let (expected, database) = Place::filled(engine, &[FED]);
        let state = ravel(&["state", "-d", &database, FED_ID]).ok();
        ravel(&["purge", "-d", &database, FED_ID, "--before", before]).ok();
        let expected = contents(&expected);
        for milliseconds in (0..40).step_by(5) {
            let (place, database) = Place::filled(engine, &[FED]);
            let mut purge = Command::new(env!("CARGO_BIN_EXE_ravel"))
                .args(["purge", "-d", &database, FED_ID, "--before", before])
                .stdout(Stdio::null())
                .spawn()
                .unwrap();
            std::thread::sleep(Duration::from_millis(milliseconds));
            purge.kill().unwrap();
            purge.wait().unwrap();
            assert!(ravel(&["verify", "-d", &database]).ok().contains("all is well"));
            assert_eq!(ravel(&["state", "-d", &database, FED_ID]).ok(), state);
            // If it had not begun, it begins now.
            ravel(&["purge", "-d", &database, FED_ID, "--before", before]).ok();
            assert!(contents(&place) == expected, "{engine}, after {milliseconds} ms");
        }
    }
}

#[test]
fn stats_add_up() {
    for engine in ENGINES {
        let (place, database) = Place::filled(engine, &[FED, FORGED]);
        let stats = ravel(&["stats", "-d", &database, "--resolutions", "--json"]).json();
        let rooms = stats["rooms"].as_array().unwrap();
        assert_eq!(rooms.len(), 2);
        let stored: u64 = with_store(&place, engine, |store| {
            let sum = |keyspace: &Keyspace| -> usize {
                let items = block_on(store.scan_all(Scan::new(*keyspace, KeyRange::all()))).unwrap();
                items.iter().map(|(key, value)| key.len() + value.len()).sum()
            };
            let of_rooms = |keyspace: &&Keyspace| !matches!(keyspace, Keyspace::Meta | Keyspace::ServerKeys);
            Keyspace::ALL.iter().filter(of_rooms).map(sum).sum::<usize>() as u64
        });
        let sum = |value: &Value| value.as_object().unwrap().values().map(|n| n.as_u64().unwrap()).sum::<u64>();
        assert_eq!(sum(&stats["total"]["bytes"]), stored);
        assert!(stats["size_on_disk"].as_u64().unwrap() > 0);
        for name in ["snapshots", "nodes", "shared_nodes", "state_changes", "forward_extremities"] {
            let of_rooms: u64 = rooms.iter().map(|room| room[name].as_u64().unwrap()).sum();
            assert_eq!(stats["total"][name].as_u64().unwrap(), of_rooms, "{name}");
        }
        for (room, file) in rooms.iter().zip([FORGED, FED]) {
            let (room, file) = if room["room_id"] == FED_ID { (room, FED) } else { (room, file) };
            let replayed = ravel(&["replay", "-d", "memory", corpus(file).to_str().unwrap(), "--json"]).json();
            let replayed = &replayed["rooms"][0];
            if replayed["room_id"] != room["room_id"] {
                continue;
            }
            for name in ["accepted", "rejected", "soft_failed"] {
                assert_eq!(room["events"][name], replayed[name], "{file}");
            }
            assert_eq!(room["resolutions"]["count"], replayed["resolutions"], "{file}");
        }
        let text = ravel(&["stats", "-d", &database, FED_ID, "--resolutions"]).ok();
        for part in ["  events  ", "  bytes  ", "  snapshots  ", "forward extremities  ", "resolutions  ", "on disk"] {
            assert!(text.contains(part), "{part} is not in {text}");
        }
        assert!(ravel(&["stats", "-d", &database]).ok().contains("\n2 rooms\n"));
    }
}

#[test]
fn wrong_orders_are_refused() {
    let (_place, database, ids) = made("sled");
    let check = |arguments: &[&str], expected: &str| {
        let arguments: Vec<&str> = arguments.iter().map(|it| if *it == "DB" { &*database } else { it }).collect();
        ravel(&arguments).fails(2, &[expected]);
    };
    check(&["purge", "-d", "DB"], "required");
    check(&["purge", "-d", "DB", "!made:a"], "required");
    check(&["purge", "-d", "DB", "--whole-room"], "required");
    check(&["purge", "-d", "DB", "--before", &ids[3]], "required");
    check(&["purge", "-d", "DB", "!made:a", "--whole-room", "--resume"], "cannot be used");
    check(&["purge", "-d", "DB", "!made:a", "--resume"], "cannot be used");
    check(&["purge", "-d", "DB", "--retention", "--older-than", "90d"], "cannot be used");
    for bound in ["--default-max-lifetime", "--allowed-lifetime-min", "--allowed-lifetime-max"] {
        check(&["purge", "-d", "DB", bound, "1d"], "--retention");
        check(&["purge", "-d", "DB", "--older-than", "90d", bound, "1d"], "cannot be used");
        check(&["purge", "-d", "DB", "--resume", bound, "1d"], "cannot be used");
    }
    check(&["purge", "-d", "DB", "--retention", "--default-max-lifetime", "1.5d"], "expected a number and its unit");
    let bounds = ["--allowed-lifetime-min", "2d", "--allowed-lifetime-max", "1d"];
    let expected = "the shortest lifetime that is allowed is longer than the longest";
    check(&[&["purge", "-d", "DB", "--retention"], &bounds[..]].concat(), expected);
    check(&["purge", "-d", "DB", "--older-than", "90"], "expected a number and its unit");
    check(&["purge", "-d", "DB", "!made:a", "--before", "x"], "is not an event id");
    check(&["purge", "-d", "DB", "!made:a", "--before", "$x"], "!made:a has no event $x");
    check(&["purge", "-d", "DB", "x", "--before", "$x"], "is not a room id");
    for arguments in [
        &["purge", "-d", "DB", "!x:a", "--before", "$x"][..],
        &["purge", "-d", "DB", "!x:a", "--whole-room"],
        &["purge", "-d", "DB", "!x:a", "--older-than", "1d"],
        &["purge", "-d", "DB", "!x:a", "--retention"],
        &["collect", "-d", "DB", "!x:a"],
        &["stats", "-d", "DB", "!x:a"],
    ] {
        check(arguments, "the database has no room !x:a; there are: !made:a");
    }
    assert!(ravel(&["verify", "-d", &database]).ok().contains("all is well"));
}
