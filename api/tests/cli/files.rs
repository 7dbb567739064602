//! Files that can't be read: exit code 2, naming file and line, and nothing is stored.

use ravel_core::room_version::RoomVersion;
use serde_json::json;

use crate::support::{FED, FED_ID, Lines, MadeRoom, Place, corpus, gzip, ravel};

/// Replays a file into a database that has a room already, and checks what is said of it; then all is as it was.
#[track_caller]
fn check(name: &str, bytes: impl AsRef<[u8]>, line: Option<usize>, problem: &str) {
    let (place, database) = Place::filled("sled", &[FED]);
    let before = ravel(&["verify", "-d", &database, "--json"]).ok();
    let file = place.file(name, bytes);
    let place_of_problem = line.map(|line| format!(", line {line}")).unwrap_or_default();
    let expected = format!("ravel: {file}{place_of_problem}: {problem}");
    // A good file beside it is not stored either.
    let good = place.file("good.jsonl", MadeRoom::new(RoomVersion::V6).to_text());
    let run = ravel(&["replay", "--database", &database, &good, &file]).fails(2, &[&expected]);
    assert_eq!(run.stdout, "");
    assert_eq!(run.stderr.lines().count(), 1, "{}", run.stderr);
    let run = ravel(&["replay", "--database", &database, &file, "--json"]);
    assert_eq!(run.code, 2);
    let error: serde_json::Value = serde_json::from_str(&run.stderr).unwrap();
    assert!(error["error"].as_str().unwrap().contains(problem), "{error}");
    assert_eq!(ravel(&["verify", "-d", &database, "--json"]).ok(), before);
    ravel(&["replay", "-d", &database, &good]).ok();
    assert!(ravel(&["verify", "-d", &database]).ok().contains("2 rooms, 100 log entries: all is well"));
}

#[test]
fn cut_off_gzip() {
    let bytes = std::fs::read(corpus(FED)).unwrap();
    // The first part of the file is there, and how much of it depends on the compression: so the line is any.
    let (place, cut) = (Place::new(), &bytes[..bytes.len() / 2]);
    let file = place.file("cut.jsonl.gz", cut);
    let run = ravel(&["replay", "-d", "memory", &file]);
    let expected = format!("ravel: {file}, line ");
    run.fails(2, &[&expected, ": the compressed data is cut off or damaged: "]);
}

#[test]
fn gzip_that_is_cut_off_at_its_end_or_damaged() {
    let bytes = std::fs::read(corpus(FED)).unwrap();
    let lines = Lines::of(FED).0.len();
    check("a.gz", &bytes[..bytes.len() - 4], Some(lines + 1), "the compressed data is cut off or damaged: ");
    let mut flipped = bytes.clone();
    let checksum = bytes.len() - 8;
    flipped[checksum] ^= 1;
    check("b.gz", &flipped, Some(lines + 1), "the compressed data is cut off or damaged: ");
    check("c.gz", &bytes[..3], Some(1), "the compressed data is cut off or damaged: ");
    check("d.gz", [&bytes[..], b"tail"].concat(), Some(lines + 1), "the compressed data is cut off or damaged: ");
}

#[test]
fn plain_text_garbage_and_nothing() {
    let not_json = "is not JSON of a recorded room (plain or gzip): expected value at column 1";
    check("a.jsonl", "Dear reader,\n", Some(1), not_json);
    check("b.jsonl", [0xff, 0xfe, 0x00, 0x1f], Some(1), "is not text in UTF-8, so not of a recorded room");
    check("c.jsonl", [0u8; 100], Some(1), not_json);
    check("d.jsonl", "", None, "has no line of kind \"room\"");
    check("e.jsonl", "\n\n\n", None, "has no line of kind \"room\"");
    check("f.gz", gzip(""), None, "has no line of kind \"room\"");
    check("g.jsonl", "[1]\n", Some(1), "is not JSON of a recorded room (plain or gzip): ");
    check("h.jsonl", "\"room\"\n", Some(1), "is not JSON of a recorded room (plain or gzip): ");
    check(
        "i.jsonl",
        "{\"kind\":\"room\"}\n",
        Some(1),
        "is not JSON of a recorded room (plain or gzip): missing field `room_id`",
    );
    check("j.jsonl", format!("{}\n", "[".repeat(100_000)), Some(1), "is not JSON of a recorded room (plain or gzip): ");
}

#[test]
fn a_file_that_is_cut_off_between_lines_or_inside_of_one() {
    let text = Lines::of(FED).to_text();
    let lines: Vec<&str> = text.lines().collect();
    let first = |count: usize| lines[..count].join("\n");
    check("a.jsonl", first(50), None, "ends too early: 46 lines of kind \"event\", and its first line says 96");
    check("b.jsonl", first(120), None, "ends too early: 20 lines of kind \"merge\", and its first line says 44");
    let half = &lines[60][..lines[60].len() / 2];
    check(
        "c.jsonl",
        first(60) + "\n" + half,
        Some(61),
        "is not JSON of a recorded room (plain or gzip): EOF while parsing",
    );
}

#[test]
fn lines_that_are_out_of_place_or_unknown() {
    let good = Lines::of(FED);
    let changed = |change: &dyn Fn(&mut Vec<serde_json::Value>)| {
        let mut lines = good.clone();
        change(&mut lines.0);
        lines.to_text()
    };
    check("a.jsonl", changed(&|lines| lines.swap(0, 1)), Some(1), "comes before the line of kind \"room\"");
    let second = changed(&|lines| lines.insert(7, lines[0].clone()));
    check("b.jsonl", second, Some(8), "is a second line of kind \"room\"; a file has one room");
    let unknown = changed(&|lines| lines[8]["kind"] = json!("edu"));
    check("c.jsonl", unknown, Some(9), "has the unknown kind \"edu\"");
    let more = changed(&|lines| lines.insert(30, lines[29].clone()));
    check("d.jsonl", more, Some(101), "is one more of kind \"event\" than the 96 that the first line says");
    let more = changed(&|lines| lines[0]["merges"] = json!(43));
    check("e.jsonl", more, Some(144), "is one more of kind \"merge\" than the 43 that the first line says");
    let bad_id = changed(&|lines| lines[20]["event_id"] = json!("no id"));
    check("f.jsonl", bad_id, Some(21), "has \"no id\", which is not a valid id");
    let bad_key = changed(&|lines| lines[1]["verify_key"] = json!("AAAA"));
    check("g.jsonl", bad_key, Some(2), "has a verify key that is not 32 bytes of an ed25519 key in base64");
    let wrong_hash = changed(&|lines| lines[101]["hash"] = json!("00".repeat(32)));
    check("h.jsonl", wrong_hash, Some(102), "describes a state with another hash or count than it says: 0000");
    let wrong_count = changed(&|lines| lines[101]["count"] = json!(1));
    check("i.jsonl", wrong_count, Some(102), "describes a state with another hash or count than it says: ");
}

#[test]
fn an_unknown_room_version() {
    for version in ["13", "0", "", "org.example.custom"] {
        let mut lines = Lines::of(FED);
        lines.0[0]["room_version"] = json!(version);
        let expected = format!("has the room version {version:?}, and Ravel knows 1 to 12");
        check("a.jsonl", lines.to_text(), Some(1), &expected);
    }
}

/// Events have other ids by other rules: a room that was two versions at once could not be loaded again.
#[test]
fn a_room_that_is_of_another_version_elsewhere() {
    let mut other = Lines::of(FED);
    other.0[0]["room_version"] = json!("11");
    let expected = format!("is of room version 11, and the same room {FED_ID} is of version 12 in");
    check("a.jsonl", other.to_text(), None, &format!("{expected} the database"));
    let place = Place::new();
    let file = place.file("other.jsonl", other.to_text());
    let run = ravel(&["replay", "-d", "memory", corpus(FED).to_str().unwrap(), &file]);
    run.fails(2, &[&format!("{expected} another file")]);
}

#[test]
fn files_that_are_not_there_or_not_files() {
    let place = Place::new();
    let folder = place.path("");
    let check = |file: &str, problem: &str| {
        let run = ravel(&["replay", "-d", "memory", file]).fails(2, &[&format!("ravel: {file}"), problem]);
        assert_eq!(run.stdout, "");
    };
    check(folder.to_str().unwrap(), "can't be read: Is a directory");
    check(place.path("missing").to_str().unwrap(), "can't be read: No such file or directory");
    ravel(&["replay", "-d", "memory"]).fails(2, &["<FILE>..."]);
}

#[test]
fn plain_and_compressed_files_are_the_same() {
    let place = Place::new();
    let text = Lines::of(FED).to_text();
    let plain = place.file("plain.jsonl", &text);
    // Members of gzip may follow each other.
    let (first, second) = text.split_at(text.len() / 2);
    let compressed = place.file("no-suffix", [gzip(first), gzip(second)].concat());
    let fingerprint = |file: &str| {
        let run = ravel(&["replay", "-d", "memory", "--json", "--check", file]);
        assert_eq!(run.code, 0);
        run.json()["rooms"][0]["current_state_fingerprint"].clone()
    };
    assert_eq!(fingerprint(&plain), fingerprint(&compressed));
    assert_eq!(fingerprint(&plain), fingerprint(corpus(FED).to_str().unwrap()));
}

#[test]
fn long_names_do_not_shift_the_columns() {
    let place = Place::new();
    let room = MadeRoom::new(RoomVersion::V6);
    let long = place.file(&format!("{}.jsonl", "long".repeat(20)), room.to_text());
    let output = ravel(&["replay", "-d", "memory", "--check", &long, corpus(FED).to_str().unwrap()]).ok();
    let widths: Vec<usize> = output.lines().take(4).map(|line| line.chars().count()).collect();
    assert!(widths.iter().all(|width| *width == widths[0]), "{output}");
}
