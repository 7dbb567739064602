//! Databases that are damaged, half rebuilt, in use, missing or not ours.

use std::{
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use ravel_backends::Engine;
use ravel_store::{
    Batch, Bytes, KeyRange, Keyspace, Scan, StoreExt, block_on,
    directory::{LAYOUT, MARKER, marker_text},
};
use serde_json::{Value, json};

use crate::support::{FED, FED_ID, FORGED, FORGED_ID, Place, corpus, ravel, with_store};

const ENGINES: [&str; 2] = ["rocksdb", "sled"];

fn contents(place: &Place, engine: &str) -> Vec<(Keyspace, Bytes, Bytes)> {
    with_store(place, engine, |store| {
        let all = Keyspace::ALL.iter().flat_map(|keyspace| {
            let items = block_on(store.scan_all(Scan::new(*keyspace, KeyRange::all()))).unwrap();
            items.into_iter().map(|(key, value)| (*keyspace, key, value))
        });
        all.collect()
    })
}

fn write(place: &Place, engine: &str, change: impl FnOnce(&mut Batch)) {
    let mut batch = Batch::new();
    change(&mut batch);
    assert!(with_store(place, engine, |store| block_on(store.commit(batch))).unwrap().is_written());
}

/// What is done to a record.
#[derive(Clone, Copy, Debug)]
enum Damage {
    FlippedBit,
    Deleted,
}

/// Damages a record in the middle of a keyspace, on each engine; checks what `verify` finds and whether `rebuild` mends it.
fn check_damage(keyspace: Keyspace, damage: Damage, kind: &str, message: &str, is_mended: bool) {
    for engine in ENGINES {
        let (place, database) = Place::filled(engine, &[FED]);
        let before = contents(&place, engine);
        let records: Vec<_> = before.iter().filter(|(of, ..)| *of == keyspace).collect();
        let (_, key, value) = records[records.len() / 2];
        write(&place, engine, |batch| match damage {
            Damage::FlippedBit => {
                let mut value = value.to_vec();
                let middle = value.len() / 2;
                value[middle] ^= 1;
                batch.put(keyspace, key.clone(), value);
            }
            Damage::Deleted => {
                batch.delete(keyspace, key.clone());
            }
        });
        let run = ravel(&["verify", "-d", &database]).fails(1, &[message]);
        assert!(run.stdout.contains(" wrong\n"), "{}", run.stdout);
        let run = ravel(&["verify", "-d", &database, "--json"]);
        assert_eq!(run.code, 1);
        let findings = run.json()["findings"].clone();
        let is_it = |finding: &Value| finding["kind"] == kind && finding["message"].as_str().unwrap().contains(message);
        assert!(findings.as_array().unwrap().iter().any(is_it), "{keyspace} {damage:?}: {findings}");
        // Whatever other commands say, it is no panic.
        let run = ravel(&["state", "-d", &database, FED_ID]);
        assert!([0, 2, 3].contains(&run.code) && !run.stderr.contains("panicked"), "{run:?}");
        let run = ravel(&["rebuild", "-d", &database]);
        if is_mended {
            run.ok();
            assert!(contents(&place, engine) == before, "{engine}: the rebuilt bytes differ");
            assert!(ravel(&["verify", "-d", &database]).ok().contains("all is well"));
        } else {
            run.fails(3, &[message]);
        }
    }
}

#[test]
fn damage_of_the_log_is_found() {
    let checksum = "expected a record with a right checksum";
    check_damage(Keyspace::Log, Damage::FlippedBit, "record", checksum, false);
    check_damage(Keyspace::Log, Damage::Deleted, "log", "is not usable: it is missing", false);
}

#[test]
fn damage_of_projections_is_found_and_mended() {
    let checksum = "expected a record with a right checksum";
    // Recorded rooms have no facts beside events.
    let others = [Keyspace::Meta, Keyspace::Log, Keyspace::ServerKeys, Keyspace::Facts];
    for keyspace in Keyspace::ALL.iter().copied().filter(|keyspace| !others.contains(keyspace)) {
        check_damage(keyspace, Damage::FlippedBit, "record", checksum, true);
    }
    check_damage(Keyspace::Timelines, Damage::Deleted, "projection", "it is missing in the timeline", true);
    check_damage(Keyspace::SnapshotNodes, Damage::Deleted, "projection", "a snapshot node is missing", true);
    check_damage(Keyspace::Events, Damage::Deleted, "projection", "its place in the log differs", true);
    check_damage(Keyspace::Rooms, Damage::Deleted, "projection", "the room's record differs", true);
    check_damage(Keyspace::Extremities, Damage::Deleted, "projection", "forward extremities or current state", true);
}

/// Whenever a rebuild is killed, the next command goes on with it, and the bytes are the same as ever.
#[test]
fn sc_236_a_killed_rebuild_is_finished_by_the_next_command() {
    for engine in ENGINES {
        let (place, database) = Place::filled(engine, &[FED]);
        let before = contents(&place, engine);
        let state = ravel(&["state", "-d", &database, FED_ID]).ok();
        for milliseconds in (0..60).step_by(6) {
            let mut rebuild = Command::new(env!("CARGO_BIN_EXE_ravel"))
                .args(["rebuild", "-d", &database])
                .stdout(Stdio::null())
                .spawn()
                .unwrap();
            std::thread::sleep(Duration::from_millis(milliseconds));
            rebuild.kill().unwrap();
            rebuild.wait().unwrap();
            assert_eq!(ravel(&["state", "-d", &database, FED_ID]).ok(), state);
            ravel(&["verify", "-d", &database]).ok();
            assert!(contents(&place, engine) == before, "after {milliseconds} ms");
        }
    }
}

#[test]
fn a_log_without_its_head_is_refused() {
    let (place, database) = Place::filled("sled", &[FED]);
    write(&place, "sled", |batch| {
        batch.delete_range(Keyspace::Meta, KeyRange::all());
    });
    for arguments in [
        &["state", "-d", &database, FED_ID][..],
        &["rebuild", "-d", &database],
        &["replay", "-d", &database, corpus(FED).to_str().unwrap()],
    ] {
        ravel(arguments).fails(3, &["its log has no head"]);
    }
    ravel(&["verify", "-d", &database]).fails(1, &["its log has no head"]);
}

/// Every command that opens a database, on this one.
fn every_command(database: &str) -> Vec<Vec<String>> {
    let good = corpus(FED);
    let own = |arguments: &[&str]| arguments.iter().map(|argument| (*argument).to_owned()).collect::<Vec<_>>();
    vec![
        own(&["state", "-d", database, FED_ID]),
        own(&["explain", "-d", database, FED_ID, "$x"]),
        own(&["dag", "-d", database, FED_ID]),
        own(&["rebuild", "-d", database]),
        own(&["verify", "-d", database]),
        own(&["copy", "--from", database, "--to", "memory"]),
        own(&["purge", "-d", database, "--resume"]),
        own(&["purge", "-d", database, "--older-than", "1d"]),
        own(&["collect", "-d", database]),
        own(&["stats", "-d", database]),
        own(&["replay", "-d", database, good.to_str().unwrap()]),
    ]
}

#[track_caller]
fn check_refused(database: &str, expected: &str) {
    for arguments in every_command(database) {
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let run = ravel(&arguments).fails(2, &[expected]);
        assert_eq!(run.stdout, "", "{arguments:?}");
    }
}

/// Names and contents of all files under a folder.
fn files(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                found.push((path.display().to_string(), std::fs::read(path).unwrap()));
            }
        }
    }
    found.sort();
    found
}

#[test]
fn sc_232_sc_236_a_directory_of_a_newer_layout_is_refused_untouched() {
    for engine in ENGINES {
        let (place, database) = Place::filled(engine, &[FED]);
        std::fs::write(place.path(engine).join(MARKER), marker_text(engine, LAYOUT + 1)).unwrap();
        let before = files(&place.path(engine));
        check_refused(
            &database,
            &format!("has layout {} of a newer program (this one knows up to {LAYOUT})", LAYOUT + 1),
        );
        assert_eq!(files(&place.path(engine)), before);
    }
}

#[test]
fn sc_232_a_directory_of_somebody_else_or_of_another_engine_is_refused_untouched() {
    let place = Place::new();
    std::fs::create_dir(place.path("photos")).unwrap();
    place.file("photos/cat.jpg", "a cat");
    let before = files(&place.path("photos"));
    for engine in ENGINES {
        let database = format!("{engine}:{}", place.path("photos").display());
        check_refused(&database, "it is not empty and has no ravel.toml");
    }
    assert_eq!(files(&place.path("photos")), before);

    let (place, _) = Place::filled("sled", &[FED]);
    let before = files(&place.path("sled"));
    let database = format!("rocksdb:{}", place.path("sled").display());
    check_refused(&database, "it belongs to the engine sled, not to rocksdb");
    assert_eq!(files(&place.path("sled")), before);
}

#[test]
fn a_file_is_no_database() {
    let place = Place::new();
    place.file("file", "text");
    for engine in ENGINES {
        check_refused(&format!("{engine}:{}", place.path("file").display()), "it is not a directory");
    }
    assert_eq!(std::fs::read_to_string(place.path("file")).unwrap(), "text");
}

#[test]
fn a_database_that_is_not_there_is_not_made_by_looking() {
    let place = Place::new();
    std::fs::create_dir(place.path("empty")).unwrap();
    for engine in ENGINES {
        for name in ["missing", "empty"] {
            let database = format!("{engine}:{}", place.path(name).display());
            let mut commands = every_command(&database);
            let replay = commands.pop().unwrap();
            assert_eq!(replay[0], "replay");
            for arguments in commands {
                let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
                let expected =
                    format!("there is no database {database}; `ravel replay FILE --database {database}` makes one");
                ravel(&arguments).fails(2, &[&expected]);
            }
        }
    }
    assert!(!place.path("missing").exists());
    assert_eq!(std::fs::read_dir(place.path("empty")).unwrap().count(), 0);
    let expected = "a database in memory ends with the command that made it";
    for arguments in every_command("memory").iter().filter(|arguments| arguments[0] != "replay") {
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        ravel(&arguments).fails(2, &[expected]);
    }
}

#[test]
fn sc_238_a_database_in_use_is_refused() {
    for engine in ENGINES {
        let (place, database) = Place::filled(engine, &[FED]);
        let store = engine.parse::<Engine>().unwrap().open(&place.path(engine)).unwrap();
        check_refused(&database, "is in use by another process");
        drop(store);
        with_store(&place, engine, |_| {});
        assert!(ravel(&["verify", "-d", &database]).ok().contains("all is well"));
    }
}

#[test]
fn names_of_databases_are_checked() {
    let check = |name: &str, expected: &str| {
        ravel(&["verify", "--database", name]).fails(2, &[expected]);
    };
    check("somewhere", "expected rocksdb:DIR, sled:DIR");
    check("postgres:somewhere", "there is no engine \"postgres\"; expected rocksdb:DIR, sled:DIR");
    check("sled:", "the directory is missing after sled:");
}

/// What was stored by one command is there for the next, room by room, and events come once only.
#[test]
fn a_room_that_arrives_in_parts_is_the_same() {
    let (whole, whole_database) = Place::filled("rocksdb", &[FORGED]);
    let place = Place::new();
    let database = place.database("rocksdb");
    let lines = crate::support::Lines::of(FORGED);
    for count in [20, 90, 182] {
        let mut part = crate::support::Lines(lines.0[..4 + count].to_vec());
        part.0[0]["events"] = json!(count);
        part.0[0]["merges"] = json!(0);
        let file = place.file("part.jsonl", part.to_text());
        ravel(&["replay", "-d", &database, &file]).ok();
    }
    let state = |database: &str| ravel(&["state", "-d", database, FORGED_ID]).ok();
    assert_eq!(state(&database), state(&whole_database));
    assert!(contents(&place, "rocksdb") == contents(&whole, "rocksdb"));
}
