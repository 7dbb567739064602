//! `ravel bench resolve`: what it measures and refuses. The figures themselves are those of a debug build on a busy machine.

use serde_json::{Value, json};

use crate::support::{FED, FORGED, Lines, Place, corpus, ravel};

/// What every row has, whatever it is of.
const FIELDS: [&str; 17] = [
    "room_version",
    "members",
    "forks",
    "conflicted_events",
    "ravel_us",
    "ravel_us_min",
    "ravel_us_q1",
    "ravel_us_q3",
    "ravel_us_max",
    "ruma_us",
    "ruma_us_min",
    "ruma_us_q1",
    "ruma_us_q3",
    "ruma_us_max",
    "ratio",
    "allocations",
    "reads",
];

#[track_caller]
fn check_row(row: &Value, expected: &Value) {
    for field in FIELDS.into_iter().filter(|field| *field != "room_version") {
        assert!(row[field].is_number(), "{field} is no number in {row}");
    }
    for (field, value) in expected.as_object().unwrap() {
        assert_eq!(row[field], *value, "{field} in {row}");
    }
    assert!(row["reads"].as_u64().unwrap() >= row["conflicted_events"].as_u64().unwrap() / 2, "{row}");
    for name in ["ravel_us", "ruma_us"] {
        let spread = ["_min", "_q1", "", "_q3", "_max"].map(|suffix| row[format!("{name}{suffix}")].as_f64().unwrap());
        assert!(spread[0] > 0.0 && spread.is_sorted(), "{row}");
    }
}

#[test]
fn a_generated_room_is_measured_in_both_versions() {
    let place = Place::new();
    let file = place.path("rows.json").to_str().unwrap().to_owned();
    let shape = ["bench", "resolve", "--members", "60", "--conflict", "42", "--forks", "3", "--nested"];
    let rows = ravel(&[&shape[..], &["--json", "--output", &file]].concat());
    assert_eq!((rows.code, rows.stderr.as_str()), (0, ""));
    let rows = rows.json();
    assert_eq!(rows.as_array().unwrap().len(), 2);
    for (row, version) in rows.as_array().unwrap().iter().zip(["11", "12"]) {
        let expected = json!({
            "room_version": version, "members": 60, "forks": 3, "conflicted_events": 42, "power_users": 10, "nested": true,
            "disputed": false, "equal": true,
        });
        check_row(row, &expected);
    }
    assert_eq!(serde_json::from_str::<Value>(&std::fs::read_to_string(&file).unwrap()).unwrap(), rows);
    let text = ravel(&[&shape[..], &["--room-version", "6", "--disputed"]].concat()).ok();
    assert!(text.starts_with("CPU time of one resolution"), "{text}");
    let last: Vec<&str> = text.lines().last().unwrap().split_whitespace().collect();
    assert_eq!(last[..3], ["6", "60", "3"], "{text}");
}

#[test]
fn every_merge_of_recorded_rooms_is_measured() {
    let files = [FED, FORGED].map(|name| corpus(name).to_str().unwrap().to_owned());
    let run = ravel(&["bench", "resolve", &files[0], &files[1], "--json"]);
    assert_eq!((run.code, run.stderr.as_str()), (0, ""));
    let rows = run.json();
    let expected = |file: &str, merges: u64| {
        json!({
            "file": format!("{file}.jsonl.gz"), "room_version": "12", "merges": merges, "left_out": 0, "different_answers": [],
            "equal": true,
        })
    };
    // Of the 44 merges of the first, two are of equal states.
    check_row(&rows[0], &expected(FED, 42));
    check_row(&rows[1], &expected(FORGED, 82));
    let text = ravel(&["bench", "resolve", &files[0]]).ok();
    assert_eq!(text.lines().last(), Some("42 merges resolved, 0 answers of ruma-state-res differ"));
}

#[test]
fn events_that_can_not_be_judged_are_told() {
    let mut lines = Lines::of(FED);
    // A message in the middle, without which what comes after it can't be judged.
    let event = lines.0.iter_mut().filter(|line| line["kind"] == "event").nth(40).unwrap();
    event["pdu"]["origin_server_ts"] = json!("never");
    let place = Place::new();
    let file = place.file("room.jsonl", lines.to_text());
    ravel(&["bench", "resolve", &file]).fails(1, &["events were left out: Ravel dropped them or can't judge them"]);
}

#[test]
fn what_can_not_be_measured_is_refused() {
    let check = |arguments: &[&str], problem: &str| {
        let run = ravel(&[&["bench", "resolve"], arguments].concat()).fails(2, &[problem]);
        assert_eq!(run.stdout, "");
    };
    check(
        &["--members", "100", "--conflict", "202"],
        "202 conflicted events of 2 forks and 10 users with power need 111 members, and the room has 100",
    );
    check(&["--conflict", "2", "--forks", "3"], "2 conflicted events are less than one for each of 3 forks");
    check(&["--forks", "0"], "invalid value '0' for '--forks <N>'");
    check(&["--members", "0"], "invalid value '0' for '--members <N>'");
    check(&["--power-users", "2001"], "invalid value '2001' for '--power-users <N>'");
    check(&["--room-version", "1"], "expected a room version from 2 to 12");
    check(&["--members", "100", "--plot", "plots"], "cannot be used with");
    check(&["room.jsonl", "--members", "100"], "cannot be used with");
    check(&["no-such-file.jsonl"], "no-such-file.jsonl: can't be read: No such file or directory");
    let place = Place::new();
    let not_json = place.file("a.jsonl", "Dear reader,\n");
    check(&[&not_json], "a.jsonl, line 1: is not JSON of a recorded room");
    let nowhere = place.path("missing/rows.json").to_str().unwrap().to_owned();
    check(
        &["--members", "100", "--output", &nowhere],
        "missing/rows.json: can't be written: No such file or directory",
    );
}

#[test]
fn a_room_is_measured_in_memory_and_on_disk() {
    for (engine, version) in [("rocksdb", "11"), ("sled", "12")] {
        let place = Place::new();
        let database = format!("{engine}:{}", place.path("db").display());
        let room = ["bench", "room", "--json", "--members", "300", "--changes", "100", "--room-version", version];
        let measured = ravel(&[&room[..], &["--database", &database]].concat()).ok();
        let measured: Value = serde_json::from_str(&measured).unwrap();
        for field in ["resident_bytes", "memory_bytes_per_change", "disk_bytes", "cold_resolution_reads"] {
            assert!(measured[field].as_u64().unwrap() > 0, "{field} in {measured}");
        }
        // Ten keys of two sides differ: what is read is of that size.
        assert!((20..120).contains(&measured["cold_resolution_reads"].as_u64().unwrap()), "{measured}");
        assert_eq!(measured["cold_resolution_equals_warm"], true, "{measured}");
        let verified = ravel(&["verify", "--database", &database]).ok();
        assert!(verified.contains("all is well"), "{verified}");
    }
    let without_disk = ravel(&["bench", "room", "--json", "--members", "2", "--changes", "1"]).ok();
    assert!(without_disk.contains("resident_bytes") && !without_disk.contains("disk"), "{without_disk}");
}

#[test]
fn storage_engines_are_measured_beside_the_bare_ones() {
    let place = Place::new();
    let [folder, file] = ["plots", "rows.json"].map(|name| place.path(name).to_str().unwrap().to_owned());
    let small = ["bench", "storage", "--events", "320", "--members", "60", "--runs", "2", "--json"];
    let measured = ravel(&[&small[..], &["--plot", &folder, "--output", &file]].concat()).ok();
    let measured: Value = serde_json::from_str(&measured).unwrap();
    assert_eq!(serde_json::from_str::<Value>(&std::fs::read_to_string(&file).unwrap()).unwrap(), measured);
    assert_eq!((&measured["events"], &measured["rooms"]), (&json!(320), &json!(16)));
    let rows = measured["measured"].as_array().unwrap();
    for (engine, count) in [("memory", 8), ("rocksdb", 10), ("sled", 10)] {
        let rows: Vec<&Value> = rows.iter().filter(|row| row["engine"] == engine).collect();
        assert_eq!(rows.len(), count, "{engine}: {measured}");
        for row in rows {
            assert!(row["ravel"]["min"].as_f64().unwrap() > 0.0, "{row}");
            // There is no bare engine in memory, and of one that rebuilds the CPU time is measured alone.
            let has_bare = engine != "memory" && row["what"] != "rebuild";
            assert_eq!(row["ratio"].is_number(), has_bare, "{row}");
        }
    }
    let svg = std::fs::read_to_string(place.path("plots/storage.svg")).unwrap();
    assert!(svg.contains("the bare engine") && svg.contains("rocksdb"), "{svg}");
    let recorded = corpus(FED).to_str().unwrap().to_owned();
    let text = ravel(&["bench", "storage", &recorded, "--engine", "memory", "--members", "0", "--runs", "1"]).ok();
    assert!(text.contains("judged events of 1 rooms") && text.contains("durable batches of 50"), "{text}");
    ravel(&["bench", "storage", "--engine", "tape"]).fails(2, &["expected memory, rocksdb or sled"]);
}

#[cfg(feature = "postgres")]
#[test]
fn postgres_is_measured_beside_its_bare_self_and_left_as_it_was() {
    let cluster = ravel_backends::postgres::testing::Cluster::start();
    let database = format!("postgres://ravel@127.0.0.1:{}/postgres?sslmode=disable", cluster.port());
    let small =
        ["bench", "storage", "--events", "320", "--members", "60", "--runs", "1", "--json", "--engine", "memory"];
    let measured = ravel(&[&small[..], &["--database", &database]].concat()).ok();
    let measured: Value = serde_json::from_str(&measured).unwrap();
    let rows = measured["measured"].as_array().unwrap().iter().filter(|row| row["engine"] == "postgres");
    let rows: Vec<&Value> = rows.collect();
    assert_eq!(rows.len(), 10, "{measured}");
    for row in rows {
        assert!(row["ravel"]["min"].as_f64().unwrap() > 0.0, "{row}");
        assert_eq!(row["ratio"].is_number(), row["what"] != "rebuild", "{row}");
    }
    assert_eq!(cluster.sql("", "SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'ravel%'"), "0");
    let not_there = "postgres://ravel:secret@127.0.0.1:1/postgres";
    let refused = ravel(&[&small[..], &["--database", not_there]].concat()).fails(2, &["refused"]);
    assert!(!refused.stderr.contains("secret"), "{}", refused.stderr);
    assert_eq!(refused.stdout, "");
    ravel(&[&small[..], &["--database", "memory"]].concat()).fails(2, &["expected postgres://USER@HOST/DATABASE"]);
}

#[test]
fn a_load_goes_on_where_it_ended() {
    let place = Place::new();
    let load = |database: &str, events: &str| {
        let database = format!("rocksdb:{}", place.path(database).display());
        let options = ["--rooms", "3", "--seed", "9", "--batch", "7", "--room-events", "40", "--events", events];
        ravel(&[&["bench", "load", "--database", &database][..], &options].concat()).ok()
    };
    let promised = |output: &str| -> std::collections::BTreeSet<String> {
        output.lines().filter(|line| line.starts_with("acknowledged ")).map(str::to_owned).collect()
    };
    let (first, second) = (load("twice", "60"), load("twice", "300"));
    assert!(first.starts_with("serving ") && second.starts_with("serving "), "{first}{second}");
    // Which room has got how far is chance; what is promised of a room's event is not.
    let once = load("once", "400");
    let events = |output: &str| -> std::collections::BTreeMap<String, String> {
        let words = |line: &String| {
            let (room, event) = line.rsplit_once(' ').unwrap();
            (room.to_owned(), event.to_owned())
        };
        promised(output).iter().map(words).collect()
    };
    let (twice, once) = (events(&(first + &second)), events(&once));
    let same = twice.iter().filter(|(room, _)| once.contains_key(*room)).collect::<Vec<_>>();
    assert!(same.len() > 10, "{twice:?} {once:?}");
    assert!(same.iter().all(|(room, event)| once[*room] == **event), "{twice:?} {once:?}");
}
