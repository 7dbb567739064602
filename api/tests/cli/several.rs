//! One replay into several databases, and their fingerprints.

use ravel_core::room_version::RoomVersion;
use serde_json::{Value, json};

use crate::support::{FED, FED_ID, FORGED, Lines, MadeRoom, Place, command, corpus, ravel};

/// The small rooms of the repository: each kind of state resolution, forged events, room versions 2 to 12.
const ROOMS: [&str; 4] = ["fed-01-v2", "forged-17-v6", FED, FORGED];

fn files(rooms: &[&str]) -> Vec<String> {
    rooms.iter().map(|name| corpus(name).to_str().unwrap().to_owned()).collect()
}

fn replay<'a>(files: &'a [String], more: &[&'a str]) -> Vec<&'a str> {
    ["replay"].into_iter().chain(files.iter().map(String::as_str)).chain(more.iter().copied()).collect()
}

fn fingerprints(databases: &Value) -> Vec<&str> {
    databases["databases"].as_array().unwrap().iter().map(|it| it["fingerprint"].as_str().unwrap()).collect()
}

#[test]
fn the_recorded_rooms_are_equal_on_every_engine() {
    let place = Place::new();
    let (files, temporary) = (files(&ROOMS), place.path("temporary"));
    std::fs::create_dir(&temporary).unwrap();
    let run = |more: &[&str]| {
        let output = command(&replay(&files, more)).env("TMPDIR", &temporary).output();
        crate::support::Run::from(output.unwrap())
    };
    let table = run(&["--check", "-d", "all"]).ok();
    let rows: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows[0].join(" "), "database rooms events states merges agree fingerprint");
    let fingerprint = rows[1][6];
    assert_eq!(fingerprint.len(), 64);
    for (row, engine) in rows[1..4].iter().zip(["memory", "rocksdb", "sled"]) {
        let [merges, agree] = [row[4], row[5]];
        assert_eq!((row[0], row[1], row[2], merges, row[6], row[7]), (engine, "4", "584", agree, fingerprint, "equal"));
        assert_eq!(row[3], rows[1][3]);
    }
    assert_eq!(table.lines().skip(4).collect::<Vec<_>>(), ["3 databases: all fingerprints are equal"]);
    // Nothing is left in the folder for temporary files.
    assert_eq!(std::fs::read_dir(&temporary).unwrap().count(), 0);
    // Databases that stay, filled in another order of rooms, and once more: they have the same.
    let names = ["rocksdb", "sled"].map(|engine| place.database(engine));
    let mut backwards = files.clone();
    backwards.reverse();
    for files in [&backwards, &files] {
        let run = ravel(&replay(files, &["-d", &names[0], "-d", "memory", "-d", &names[1], "--json"]));
        let told = run.json();
        assert_eq!((run.code, &told["equal"]), (0, &json!(true)));
        assert_eq!(fingerprints(&told), [fingerprint; 3]);
        for (database, name) in told["databases"].as_array().unwrap().iter().zip([&*names[0], "memory", &*names[1]]) {
            assert_eq!((&database["database"], &database["equal"]), (&json!(name), &json!(true)));
            assert_eq!((&database["stored"]["rooms"], &database["stored"]["events"]), (&json!(4), &json!(584)));
            assert_eq!((database["rooms"].as_array().unwrap().len(), &database["total"]["events"]), (4, &json!(584)));
        }
    }
    for name in &names {
        assert!(ravel(&["verify", "-d", name]).ok().contains("4 rooms, 588 log entries: all is well"));
    }
}

/// Each way in which a database can differ: one with another room, with events in another order, and with purged history.
#[test]
fn databases_that_differ_are_told() {
    let check = |prepare: &dyn Fn(&Place, &str), rooms: &[&str]| {
        let (place, files) = (Place::new(), files(rooms));
        let database = place.database("sled");
        prepare(&place, &database);
        let run = ravel(&replay(&files, &["-d", "memory", "-d", &database]));
        let run = run.fails(1, &["2 databases: the fingerprints are NOT equal"]);
        let rows: Vec<&str> = run.stdout.lines().collect();
        assert!(rows[1].starts_with("memory ") && rows[1].ends_with("  equal"), "{}", run.stdout);
        assert!(rows[2].starts_with(&database) && rows[2].ends_with("  DIFFERENT"), "{}", run.stdout);
        let told = ravel(&replay(&files, &["-d", "memory", "-d", &database, "--json"]));
        assert_eq!((told.code, &told.json()["equal"]), (1, &json!(false)));
        assert_eq!(told.json()["databases"][1]["equal"], false);
    };
    let another_room = |place: &Place, database: &str| {
        let file = place.file("made.jsonl", MadeRoom::new(RoomVersion::V6).to_text());
        ravel(&["replay", "-d", database, &file]).ok();
    };
    check(&another_room, &[FED]);
    let another_order = |_: &Place, database: &str| {
        ravel(&["replay", "-d", database, "--as", "localhost:18442", &files(&[FORGED])[0]]).ok();
    };
    check(&another_order, &[FORGED]);
    let purged = |_: &Place, database: &str| {
        ravel(&["replay", "-d", database, &files(&[FED])[0]]).ok();
        let events = ravel(&["dag", "-d", database, FED_ID, "--json"]).json()["events"].clone();
        let middle = events[events.as_array().unwrap().len() / 2]["event_id"].as_str().unwrap().to_owned();
        ravel(&["purge", "-d", database, FED_ID, "--before", &middle]).ok();
    };
    check(&purged, &[FED]);
}

/// What is wrong in all databases alike is told too: equal is not right.
#[test]
fn rooms_that_lack_events_are_told_for_each_database() {
    let place = Place::new();
    let mut lines = Lines::of(FED);
    lines.0.retain(|line| line["kind"] != "merge" && line["kind"] != "final");
    let last = lines.0.iter().rposition(|line| line["kind"] == "event").unwrap();
    lines.0.remove(last - 30);
    (lines.0[0]["events"], lines.0[0]["merges"]) = (json!(95), json!(0));
    let file = place.file("gap.jsonl", lines.to_text());
    let good = corpus(FORGED).to_str().unwrap().to_owned();
    let run = ravel(&["replay", &good, &file, "--check", "-d", "all"]);
    let told = "3 databases: all fingerprints are equal";
    let run = run.fails(1, &["memory:\n", "rocksdb:\n", "sled:\n", "gap.jsonl ", " not judged; the first is ", told]);
    assert!(!run.stdout.contains("forged-20"), "{}", run.stdout);
}

#[test]
fn databases_that_can_not_be_opened_leave_the_others_empty() {
    let (place, files) = (Place::new(), files(&[FED]));
    let (sled, rocksdb) = (place.database("sled"), place.database("rocksdb"));
    ravel(&replay(&files, &["-d", &sled, "-d", &sled])).fails(2, &[&format!("{sled} was named twice")]);
    let same = format!("rocksdb:{}", place.path("sled").display());
    ravel(&replay(&files, &["-d", &sled, "-d", &same])).fails(2, &[&format!("{same} was named twice")]);
    place.file("sled", "a file");
    ravel(&replay(&files, &["-d", &rocksdb, "-d", &sled])).fails(2, &["sled"]);
    assert!(ravel(&["verify", "-d", &rocksdb]).ok().contains("0 rooms, 0 log entries"));
    ravel(&replay(&files, &["-d", "memory", "-d", "everything"])).fails(2, &["expected rocksdb:DIR, sled:DIR"]);
    ravel(&replay(&files, &[])).fails(2, &["--database"]);
    // Only a replay fills several.
    ravel(&["verify", "-d", "all"]).fails(2, &["expected rocksdb:DIR"]);
}
