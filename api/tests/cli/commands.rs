//! Each command on good input, as text and as JSON, on each engine.

use std::{collections::BTreeSet, io::Read, process::Stdio};

use ravel_core::room_version::RoomVersion;
use serde_json::{Value, json};

use crate::support::{FED, FED_ID, FORGED, FORGED_ID, Lines, MadeRoom, Place, command, corpus, ravel};

const ENGINES: [&str; 2] = ["rocksdb", "sled"];

/// Events of the forged room: a merge with a conflict, a rejected one, a soft-failed one.
const MERGE: &str = "$FtpObU56fQgVJhu4rnvjXbNopHN0VMI8r_F13QXDcmU";
const REJECTED: &str = "$Pm7FXs4nIgzXqLaE5O2zy2npg65l6u8wqjHiqpIBr80";
const SOFT_FAILED: &str = "$9hekCI8AGf56HWg3-nsY9NMSopTyoAKN--H28ttLgZk";

#[test]
fn replay_agrees_with_what_was_recorded() {
    for database in [None, Some("rocksdb"), Some("sled")] {
        let place = Place::new();
        let database = database.map_or("memory".to_owned(), |engine| place.database(engine));
        let [fed, forged] = [FED, FORGED].map(|name| corpus(name).to_str().unwrap().to_owned());
        let arguments = ["replay", &fed, &forged, "--database", &database, "--check"];
        let output = ravel(&arguments).ok();
        let rows: Vec<Vec<&str>> = output.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(rows[0].join(" "), "file version events rejected soft-failed merges agree disagree");
        assert_eq!(rows[1].join(" "), "fed-16-v12.jsonl.gz 12 96 0 1 44 44 0");
        assert_eq!(rows[2].join(" "), "forged-20-v12.jsonl.gz 12 182 35 63 82 82 0");
        assert_eq!(rows[3].join(" "), "total 278 35 64 126 126 0");
        assert!(output.lines().last().unwrap().ends_with(" events per second"), "{output}");
        let again = ravel(&[&arguments[..], &["--json"]].concat());
        assert_eq!(again.code, 0);
        let report = again.json();
        let known = if database == "memory" { json!([0, 0]) } else { json!([96, 182]) };
        assert_eq!(json!([report["rooms"][0]["already_known"], report["rooms"][1]["already_known"]]), known);
        assert_eq!(report["total"]["agree"], json!(126));
        assert_eq!(report["rooms"][1]["rejected"], json!(35));
    }
}

#[test]
fn replay_as_each_server_agrees_in_everything() {
    let [fed, forged] = [FED, FORGED].map(|name| corpus(name).to_str().unwrap().to_owned());
    for server in ["localhost:18441", "localhost:18442", "localhost:18443"] {
        let output = ravel(&["replay", &fed, &forged, "-d", "memory", "--check", "--as", server]).ok();
        assert!(output.contains("2 of 2 rooms agree with the server in everything"), "{output}");
    }
    let run = ravel(&["replay", &fed, "-d", "memory", "--as", "localhost:1"]);
    run.fails(2, &["localhost:1 was not among the servers", "there are: localhost:18441, localhost:18442"]);
}

#[test]
fn state_prints_the_state_anywhere() {
    let finals = Lines::of(FORGED).of_kind("final").next().unwrap().clone();
    let merge = Lines::of(FORGED).of_kind("merge").find(|merge| merge["event_id"] == MERGE).unwrap().clone();
    for engine in ENGINES {
        let (_place, database) = Place::filled(engine, &[FORGED]);
        let state = |at: &[&str]| {
            let arguments = [&["state", "--database", &database, FORGED_ID][..], at].concat();
            let text = ravel(&arguments).ok();
            let json = ravel(&[&arguments[..], &["--json"]].concat());
            assert_eq!(json.code, 0);
            let lines = json.json_lines();
            assert!(lines.is_sorted_by_key(|line| (line[0].to_string(), line[1].to_string())));
            assert!(text.contains(&format!("entries      {}\n", lines.len())), "{text}");
            (text, lines)
        };
        let (now, _) = state(&[]);
        assert!(now.starts_with(&format!("{FORGED_ID} (room version 12), now\n")), "{now}");
        assert!(now.contains(&format!("sha256       {}\n", finals["hash"].as_str().unwrap())), "{now}");
        let (before, entries_before) = state(&["--before", MERGE]);
        assert!(before.contains(&format!("sha256       {}\n", merge["hash"].as_str().unwrap())), "{before}");
        let (after, entries_after) = state(&["--after", MERGE]);
        assert!(after.starts_with(&format!("{FORGED_ID} (room version 12), after {MERGE}\n")), "{after}");
        let join = json!(["m.room.member", "@fz31_12_3:localhost:18443", MERGE]);
        assert!(entries_after.contains(&join) && !entries_before.contains(&join));
        // A rejected event changes nothing.
        assert_eq!(state(&["--before", REJECTED]).1, state(&["--after", REJECTED]).1);
    }
}

#[test]
fn explain_tells_how_it_came_about() {
    for engine in ENGINES {
        let (_place, database) = Place::filled(engine, &[FORGED]);
        let explain = |event: &str| ravel(&["explain", "--database", &database, FORGED_ID, event]).ok();
        let text = explain(MERGE);
        let lines: Vec<&str> = text.lines().map(str::trim).collect();
        for expected in [
            "sent 2026-11-23 23:19:43.651 UTC, depth 25, in !Ru-RBhM-GxnyEn8d-6Q1XoqYMfP2if3HP5AXbvnBprA",
            "It builds on 2 events. The states after them differ and were resolved:",
            "membership of @fz31_12_2:localhost:18443",
            "[4] join of @fz31_12_2:localhost:18443  $gBRu7jbH35uX9ZOBJmvXSwODU-xDw1egbATpwB-4SmU",
            "[3] ban of @fz31_12_2:localhost:18443 by @fz31_12_3:localhost:18443",
            "power level 75, sent 2026-11-23 23:19:45.650 UTC; after 1 because it depends on an event that had to come first",
            "allowed, in place of [4]",
            "membership of @fz31_12_2:localhost:18443: [3] ban of @fz31_12_2:localhost:18443 by @fz31_12_3:localhost:18443",
            "The event was accepted.",
        ] {
            assert!(lines.contains(&expected), "{expected:?} is not in\n{text}");
        }
        let text = explain(REJECTED);
        for expected in [
            "It builds on one event, so the state before it is the state after that one:",
            "The event was rejected by the events that it cites as its authority (check 4):\n    rule 5.5.5: @fz31_12_0:localhost:18443 \
             has power level 0, kicking or unbanning needs 50 (kick_level)\nIt never becomes part of the room's state.\n",
            "The events that it cites as its authority:\n  [3] join of @fz31_12_0:localhost:18443  $",
        ] {
            assert!(text.contains(expected), "{expected:?} is not in\n{text}");
        }
        let text = explain(SOFT_FAILED);
        let expected = "The event was soft-failed by the room's current state when it arrived, though not by the state before it \
                        (check 6):\n    rule 5.4.2: @fz31_12_0:localhost:18443 is not joined to the room and cannot invite \
                        (invite_sender_not_joined)\n";
        assert!(text.contains(expected), "{text}");
        let create = format!("${}", &FORGED_ID[1..]);
        assert!(explain(&create).contains("It builds on no event, so the state before it is empty."));
        let json = ravel(&["explain", "-d", &database, FORGED_ID, SOFT_FAILED, "--json"]).json();
        assert_eq!((&json["outcome"], &json["reason"]["check"]), (&json!("soft_failed"), &json!("current_state")));
        let steps: BTreeSet<&str> =
            json["steps"].as_array().unwrap().iter().map(|step| step["step"].as_str().unwrap()).collect();
        let expected = ["conflict", "auth_difference", "conflicted_state_subgraph", "power_order", "mainline"];
        assert!(expected.iter().all(|step| steps.contains(step)), "{steps:?}");
    }
}

/// Room version 1 resolves by depth, key by key.
#[test]
fn explain_tells_of_room_version_1_too() {
    let mut room = MadeRoom::new(RoomVersion::V1);
    let topic = |room: &mut MadeRoom, prev: &str| {
        room.event("m.room.topic", Some(""), &json!({ "topic": prev }), &[prev], &["$1:a", "$2:a"])
    };
    assert_eq!([topic(&mut room, "$2:a"), topic(&mut room, "$2:a")], ["$3:a", "$4:a"]);
    assert_eq!(room.message("merge", &["$3:a", "$4:a"]), "$5:a");
    let place = Place::new();
    let (database, file) = (place.database("sled"), place.file("v1.jsonl", room.to_text()));
    ravel(&["replay", "-d", &database, &file]).ok();
    let text = ravel(&["explain", "-d", &database, "!made:a", "$5:a"]).ok();
    let expected = "\
Candidates for m.room.topic, in the order in which they are tried:
   1. [3] m.room.topic by @u:a
      depth 4
      allowed
   2. [2] m.room.topic by @u:a
      depth 3; after 1 because of its depth
      not tried, as it was decided before

Result:
  m.room.topic: [3] m.room.topic by @u:a
";
    assert!(text.contains(expected), "{text}");
    let json = ravel(&["explain", "-d", &database, "!made:a", "$5:a", "--json"]).json();
    assert_eq!(json["steps"][1]["step"], "depth_order");
}

/// Every event of both rooms can be explained, in every case that occurs.
#[test]
fn every_event_is_explained() {
    let (_place, database) = Place::filled("rocksdb", &[FED, FORGED]);
    for (name, room_id) in [(FED, FED_ID), (FORGED, FORGED_ID)] {
        for event in Lines::of(name).of_kind("event").step_by(9) {
            let text = ravel(&["explain", "-d", &database, room_id, event["event_id"].as_str().unwrap()]).ok();
            assert!(text.contains("\nThe event was "), "{text}");
            assert!(!text.contains("unknown event"), "{text}");
        }
    }
}

#[test]
fn dag_draws_the_graph() {
    for engine in ENGINES {
        let (_place, database) = Place::filled(engine, &[FED]);
        let dag = |options: &[&str]| ravel(&[&["dag", "--database", &database, FED_ID][..], options].concat()).ok();
        let graph: Value = serde_json::from_str(&dag(&["--json"])).unwrap();
        assert_eq!(dag(&["--format", "json"]), dag(&["--json"]));
        let (events, edges) = (graph["events"].as_array().unwrap(), graph["prev_events"].as_array().unwrap());
        let ids: BTreeSet<Option<&str>> = events.iter().map(|event| event["event_id"].as_str()).collect();
        assert_eq!(ids.len(), 96);
        assert!(edges.iter().all(|edge| ids.contains(&edge[0].as_str()) && ids.contains(&edge[1].as_str())));
        assert!(events.iter().any(|event| event["outcome"] == "soft_failed"));
        assert!(events.iter().any(|event| event["forward_extremity"] == json!(true)));
        let dot = dag(&[]);
        assert!(dot.starts_with("digraph {\n") && dot.ends_with("}\n"), "{dot}");
        assert_eq!(dot.matches(" -> ").count(), edges.len());
        assert_eq!(dot.matches("label=").count(), 96);
        let mermaid = dag(&["--format", "mermaid"]);
        assert!(mermaid.starts_with("graph BT\n"), "{mermaid}");
        assert_eq!(mermaid.matches(" --> ").count(), edges.len());
        assert_eq!(mermaid.matches("[\"$").count(), 96);
        assert!(mermaid.contains(":::softFailed\n") && mermaid.contains(":::extremity\n"), "{mermaid}");
        // Around the create event: itself, its child, and the child of that.
        let create = format!("${}", &FED_ID[1..]);
        let near = |depth: &str| {
            let graph: Value = serde_json::from_str(&dag(&["--json", "--around", &create, "--depth", depth])).unwrap();
            (graph["events"].as_array().unwrap().len(), graph["prev_events"].as_array().unwrap().len())
        };
        assert_eq!([near("0"), near("1"), near("2"), near("999999")], [(1, 0), (2, 1), (3, 2), (96, edges.len())]);
    }
}

#[test]
fn rebuild_and_verify_say_what_they_did() {
    for engine in ENGINES {
        let (_place, database) = Place::filled(engine, &[FED, FORGED]);
        assert_eq!(ravel(&["verify", "-d", &database]).ok(), "2 rooms, 280 log entries: all is well\n");
        let expected = json!({ "rooms": 2, "entries": 280, "findings": [] });
        assert_eq!(ravel(&["verify", "-d", &database, "--json"]).json(), expected);
        assert_eq!(ravel(&["rebuild", "-d", &database]).ok(), "rebuilt 2 rooms from 280 log entries\n");
        let expected = json!({ "rooms": 2, "entries": 280 });
        assert_eq!(ravel(&["rebuild", "-d", &database, "--json"]).json(), expected);
        assert_eq!(ravel(&["verify", "-d", &database]).ok(), "2 rooms, 280 log entries: all is well\n");
    }
}

#[test]
fn copies_are_equal_in_every_direction() {
    for from in ENGINES {
        let (place, source) = Place::filled(from, &[FED, FORGED]);
        let fingerprint = ravel(&["state", "-d", &source, FED_ID]).ok();
        for (number, to) in ENGINES.into_iter().enumerate() {
            let target = format!("{to}:{}", place.path(&format!("copy-{number}")).display());
            let output = ravel(&["copy", "--from", &source, "--to", &target]).ok();
            assert_eq!(output.matches("  equal  !").count(), 2, "{output}");
            assert!(output.contains("every room's fingerprints are equal"), "{output}");
            assert_eq!(ravel(&["state", "-d", &target, FED_ID]).ok(), fingerprint);
            assert_eq!(ravel(&["verify", "-d", &target]).ok(), "2 rooms, 280 log entries: all is well\n");
            // A second one finds the first.
            let again = ravel(&["copy", "--from", &source, "--to", &target]).ok();
            assert!(again.ends_with("280 entries, 0 copied now: every room's fingerprints are equal\n"), "{again}");
            let third = format!("{from}:{}", place.path(&format!("copy-of-{number}")).display());
            let json = ravel(&["copy", "--from", &target, "--to", &third, "--json"]).json();
            assert_eq!(json["equal"], json!(true));
            let current = json["current_state_fingerprints"][FED_ID].as_str().unwrap();
            assert!(fingerprint.contains(&format!("fingerprint  {current}\n")));
        }
        ravel(&["copy", "--from", &source, "--to", &source]).fails(2, &["a database can't be copied to itself"]);
        assert!(ravel(&["copy", "--from", &source, "--to", "memory"]).ok().contains("are equal"));
    }
}

#[test]
fn ids_that_are_wrong_or_unknown_are_named() {
    let (_place, database) = Place::filled("sled", &[FED]);
    let check = |arguments: &[&str], expected: &str| {
        let arguments = [&["--database", &database], arguments].concat();
        for command in ["state", "explain", "dag"] {
            let arguments = match (command, arguments.as_slice()) {
                ("state", [.., event]) if arguments.len() == 4 => {
                    [&["state"], &arguments[..3], &["--before", event]].concat()
                }
                ("dag", [.., event]) if arguments.len() == 4 => {
                    [&["dag"], &arguments[..3], &["--around", event]].concat()
                }
                ("explain", _) if arguments.len() == 3 => [&["explain"], &arguments[..], &["$x"]].concat(),
                _ => [&[command], &arguments[..]].concat(),
            };
            let run = ravel(&arguments);
            assert_eq!(run.stdout, "");
            run.fails(2, &[&format!("ravel: {expected}\n")]);
        }
    };
    check(&["nothing"], r#""nothing" is not a room id; one looks like !abc:example.org, in room version 12 like !abc"#);
    check(&["!no:where"], &format!("the database has no room !no:where; there are: {FED_ID}"));
    check(&[FED_ID, "nothing"], r#""nothing" is not an event id; one looks like $abc"#);
    check(&[FED_ID, "$nothing"], &format!("{FED_ID} has no event $nothing"));
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let (_place, database) = Place::filled("sled", &[FORGED]);
    // Far more than a pipe holds is written after the reader has gone.
    let arguments = ["dag", "--database", &database, FORGED_ID, "--json"];
    let mut child = command(&arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let mut stderr = String::new();
    child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
    assert_eq!((child.wait().unwrap().code(), stderr.as_str()), (Some(0), ""));
}

#[cfg(target_os = "linux")]
#[test]
fn output_that_can_not_be_written_is_a_failure() {
    let (_place, database) = Place::filled("sled", &[FORGED]);
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let run = command(&["state", "--database", &database, FORGED_ID]).stdout(full).output().unwrap();
    assert_eq!(run.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&run.stderr).starts_with("ravel: can't write the output: "), "{run:?}");
}

#[test]
fn help_manual_and_completions_know_every_command() {
    let commands = ["replay", "state", "explain", "dag", "rebuild", "verify", "copy", "completions", "man"];
    let (help, man) = (ravel(&["--help"]).ok(), ravel(&["man"]).ok());
    assert!(man.starts_with(".ie \\n(.g .ds Aq"), "{man}");
    for command in commands {
        assert!(help.contains(&format!("\n  {command}")), "{help}");
        assert!(man.contains(&format!(".SH \"RAVEL {}\"", command.to_uppercase())), "{man}");
        let help = ravel(&[command, "--help"]).ok();
        assert!(["completions", "man"].contains(&command) || help.contains("With --json"), "{help}");
    }
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = ravel(&["completions", shell]).ok();
        assert!(commands.iter().all(|command| script.contains(command)), "{shell}");
    }
    assert!(ravel(&["--version"]).ok().starts_with("ravel 0."));
    ravel(&[]).fails(2, &["Usage: ravel"]);
    ravel(&["nonsense"]).fails(2, &["unrecognized subcommand 'nonsense'"]);
}
