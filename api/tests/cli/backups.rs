//! Backups and exports, through the command line, between engines.

use std::{
    fs,
    net::{TcpListener, TcpStream},
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use age::secrecy::ExposeSecret;
use serde_json::Value;

use crate::support::{FED, FED_ID, FORGED, FORGED_ID, Place, corpus, ravel};

/// The small rooms.
const ROOMS: [&str; 12] = [
    "fed-01-v2",
    "fed-02-v3",
    "fed-03-v4",
    "fed-04-v5",
    "fed-06-v7",
    "fed-07-v8",
    "fed-08-v9",
    "fed-10-v10",
    "fed-12-v11",
    "fed-16-v12",
    "forged-17-v6",
    "forged-20-v12",
];

/// Current state and proof of a database: what a copy into memory says of every room.
fn fingerprints(database: &str) -> Value {
    let copied = ravel(&["copy", "--from", database, "--to", "memory", "--json"]).ok();
    serde_json::from_str::<Value>(&copied).unwrap()["current_state_fingerprints"].clone()
}

fn text(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

#[test]
fn a_backup_goes_from_engine_to_engine() {
    for (from, to) in [("rocksdb", "sled"), ("sled", "rocksdb")] {
        let (place, database) = Place::filled(from, &ROOMS);
        let (backup, target) = (text(&place.path("backup")), place.database(to));
        let made = ravel(&["backup", "-d", &database, "--to", &backup]).ok();
        assert!(made.ends_with("log entries of 12 rooms\n"), "{made}");
        let checked = ravel(&["restore", "--from", &backup, "--verify-only"]).ok();
        assert!(checked.ends_with("12 rooms: all is well\n"), "{checked}");
        let restored = ravel(&["restore", "--from", &backup, "-d", &target]).ok();
        assert!(restored.ends_with("every room's fingerprints are those of the backup\n"), "{restored}");
        assert!(ravel(&["verify", "-d", &target]).ok().contains("all is well"));
        assert_eq!(fingerprints(&target), fingerprints(&database));
        // Once more is nothing more.
        let again = ravel(&["restore", "--from", &backup, "-d", &target, "--json"]).ok();
        assert_eq!(serde_json::from_str::<Value>(&again).unwrap()["entries_added"], 0);
    }
}

#[test]
fn sc_239_a_backup_is_for_its_owner_alone() {
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let (place, database) = Place::filled("rocksdb", &[FED]);
    let [new, there] = ["new", "there"].map(|name| place.path(name));
    fs::create_dir(&there).unwrap();
    fs::set_permissions(&there, fs::Permissions::from_mode(0o755)).unwrap();
    let mut files = 0;
    for folder in [&new, &there] {
        ravel(&["backup", "-d", &database, "--to", &text(folder)]).ok();
        assert_eq!(mode(&folder.join("series-1")), 0o700);
        for file in fs::read_dir(folder.join("series-1")).unwrap().chain(fs::read_dir(folder).unwrap()) {
            let file = file.unwrap().path();
            if file.is_file() {
                assert_eq!(mode(&file), 0o600, "{file:?}");
                files += 1;
            }
        }
        let outside = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name());
        let mut outside: Vec<_> = outside.collect();
        outside.sort();
        assert_eq!(outside, ["latest", "series-1"], "nothing else is outside");
    }
    assert!(files >= 6, "{files}");
    assert_eq!((mode(&new), mode(&there)), (0o700, 0o755));
}

#[test]
fn a_later_run_adds_what_is_new() {
    let (place, database) = Place::filled("sled", &[FED]);
    let (backup, target) = (text(&place.path("backup")), place.database("rocksdb"));
    let run = |entries: u64, added: u64| {
        let made = ravel(&["backup", "-d", &database, "--to", &backup, "--json"]).ok();
        let made: Value = serde_json::from_str(&made).unwrap();
        assert_eq!((&made["entries"], &made["entries_added"]), (&entries.into(), &added.into()), "{made}");
    };
    run(97, 97);
    run(97, 0);
    ravel(&["replay", "-d", &database, corpus(FORGED).to_str().unwrap()]).ok();
    run(280, 183);
    ravel(&["restore", "--from", &backup, "-d", &target]).ok();
    assert_eq!(fingerprints(&target), fingerprints(&database));
    // Another database does not mix with it, unless it is to be replaced.
    let (_other, database) = Place::filled("sled", &[FORGED]);
    let refused = "is not one of this database as it is: its 280 entries are not the first ones of this log of 183";
    ravel(&["backup", "-d", &database, "--to", &backup]).fails(2, &[refused]);
    ravel(&["restore", "--from", &backup, "-d", &database]).fails(2, &["restore into an empty database"]);
    ravel(&["backup", "-d", &database, "--to", &backup, "--full"]).ok();
    assert!(!place.path("backup/series-1").join("latest").exists());
    let again = place.database("again").replace("again:", "sled:");
    ravel(&["restore", "--from", &backup, "-d", &again]).ok();
    assert_eq!(fingerprints(&again), fingerprints(&database));
}

#[test]
fn an_encrypted_backup_needs_its_identity() {
    let (place, database) = Place::filled("sled", &[FED]);
    let backup = text(&place.path("backup"));
    let [(recipient, good), (_, bad)] = ["good", "bad"].map(|name| {
        let identity = age::x25519::Identity::generate();
        let file = place.file(name, identity.to_string().expose_secret());
        (identity.to_public().to_string(), file)
    });
    ravel(&["backup", "-d", &database, "--to", &backup, "--recipient", "age1x"]).fails(2, &["public key of an age"]);
    ravel(&["backup", "-d", &database, "--to", &backup, "--recipient", &recipient]).ok();
    ravel(&["backup", "-d", &database, "--to", &backup]).fails(2, &["is encrypted, so --recipient must be given"]);
    let target = place.database("rocksdb");
    let restore = ["restore", "--from", &backup, "-d", &target];
    ravel(&restore).fails(2, &["is encrypted, so --identity must be given"]);
    ravel(&[&restore[..], &["--identity", &bad]].concat()).fails(2, &["no identity in", "opens the backup"]);
    ravel(&[&restore[..], &["--identity", "nowhere"]].concat()).fails(2, &["is not a file of age identities"]);
    // Nothing was made by what failed.
    assert!(!place.path("rocksdb").exists());
    ravel(&[&restore[..], &["--identity", &good]].concat()).ok();
    ravel(&["restore", "--from", &backup, "--verify-only", "--identity", &good]).ok();
    assert_eq!(fingerprints(&target), fingerprints(&database));
}

#[test]
fn a_damaged_backup_is_no_backup() {
    let (place, database) = Place::filled("sled", &[FED]);
    let (backup, target) = (text(&place.path("backup")), place.database("rocksdb"));
    ravel(&["backup", "-d", &database, "--to", &backup]).ok();
    let files: Vec<_> = fs::read_dir(place.path("backup/series-1")).unwrap().map(|file| file.unwrap().path()).collect();
    assert_eq!(files.len(), 3, "a segment, keys, a manifest: {files:?}");
    for file in files.iter().chain([&place.path("backup/latest")]) {
        let whole = fs::read(file).unwrap();
        let mut flipped = whole.clone();
        flipped[whole.len() / 2] ^= 1;
        let check = |name: &str| {
            let run = ravel(&["restore", "--from", &backup, "--verify-only"]);
            assert!(run.code == 1 && run.stdout.contains(" is damaged: "), "{name}, {file:?}: {run:?}");
            let run = ravel(&["restore", "--from", &backup, "-d", &target]);
            assert!(run.code == 1 && run.stdout.contains(" is damaged: "), "{name}, {file:?}: {run:?}");
            let run = ravel(&["verify", "-d", &target]);
            let opened = ravel(&["state", "-d", &target, FED_ID]);
            assert!(matches!((run.code, opened.code), (2, 2) | (_, 3)), "{name}, {file:?}: {run:?} {opened:?}");
        };
        fs::write(file, &flipped).unwrap();
        check("flipped");
        fs::write(file, &whole[..whole.len() - 1]).unwrap();
        check("cut off");
        if !file.ends_with("latest") {
            fs::remove_file(file).unwrap();
            check("missing");
        }
        fs::write(file, &whole).unwrap();
    }
    // What damaged backups left half-way is finished by a good one.
    ravel(&["restore", "--from", &backup, "-d", &target]).ok();
    assert_eq!(fingerprints(&target), fingerprints(&database));
    fs::remove_file(place.path("backup/latest")).unwrap();
    ravel(&["restore", "--from", &backup, "--verify-only"]).fails(2, &["there is no backup in"]);
    let missing = text(&place.path("missing"));
    ravel(&["restore", "--from", &missing, "--verify-only"]).fails(2, &["there is no backup in"]);
    ravel(&["restore", "--from", "gs://x", "--verify-only"]).fails(2, &["expected a folder or s3://BUCKET/PREFIX"]);
    ravel(&["restore", "--from", &missing]).fails(2, &["--database"]);
}

#[test]
fn an_export_replays_without_disagreement_and_imports_equal() {
    for (from, to) in [("rocksdb", "sled"), ("sled", "rocksdb")] {
        let (place, database) = Place::filled(from, &ROOMS);
        let (folder, target) = (text(&place.path("export")), place.database(to));
        let exported = ravel(&["export", "-d", &database, "--output", &folder, "--json"]).ok();
        let rooms = serde_json::from_str::<Value>(&exported).unwrap()["rooms"].clone();
        let files: Vec<&str> = rooms.as_array().unwrap().iter().map(|room| room["file"].as_str().unwrap()).collect();
        assert_eq!(files.len(), ROOMS.len());
        let replay = ravel(&[&["replay", "--check", "--as", "ravel", "-d", "memory", "--json"], &files[..]].concat());
        assert_eq!(replay.code, 0, "{replay:?}");
        let replayed = replay.json();
        for room in replayed["rooms"].as_array().unwrap() {
            assert!(room["merges"].as_u64().unwrap() > 0 && room["merges"] == room["agree"], "{room}");
            assert_eq!(room["as"]["forward_extremities_agree"], true, "{room}");
            assert_eq!(room["as"]["current_state_agrees"], true, "{room}");
        }
        let run = ravel(&[&["import", "-d", &target, "--json"], &files[..]].concat());
        assert_eq!((run.code, run.json()["total"]["events"].as_u64()), (0, replayed["total"]["events"].as_u64()));
        assert_eq!(fingerprints(&target), fingerprints(&database));
        // What is there already is passed over.
        let again = ravel(&[&["import", "-d", &target, "--json"], &files[..]].concat()).json();
        for room in again["rooms"].as_array().unwrap() {
            assert_eq!(room["already_known"], room["events"], "{room}");
        }
        // Through two databases, the same bytes.
        let folder = text(&place.path("again"));
        ravel(&["export", "-d", &target, "--output", &folder, "--plain"]).ok();
        let first = text(&place.path("first"));
        ravel(&["export", "-d", &database, "--output", &first, "--plain"]).ok();
        for number in 0..ROOMS.len() {
            let file = format!("room-{number}.jsonl");
            let [first, again] = [&first, &folder].map(|folder| fs::read(Path::new(folder).join(&file)).unwrap());
            assert!(first == again, "{file}");
        }
    }
}

#[test]
fn one_room_is_exported_under_a_name_of_ones_own() {
    let (place, database) = Place::filled("sled", &[FED, FORGED]);
    let file = text(&place.path("room.jsonl"));
    let name = ["--server-name", "example.org"];
    let out = ravel(&[&["export", "-d", &database, "-o", &file, FORGED_ID], &name[..]].concat()).ok();
    assert!(out.contains("182 events, 82 merges, 3 keys"), "{out}");
    ravel(&["replay", "--check", "--as", "example.org", "-d", "memory", &file]).ok();
    assert!(fs::read_to_string(&file).unwrap().starts_with("{\"events\":182,\"kind\":\"room\""));
    ravel(&["export", "-d", &database, "-o", &file, "!nowhere:a"]).fails(2, &["the database has no room"]);
    ravel(&["export", "-d", &database, "-o", "/nowhere/room", FED_ID]).fails(2, &["can't be written"]);
    ravel(&["export", "-d", &database, "-o", &file, FED_ID, "--server-name", "no name"]).fails(2, &["no name"]);
    assert_eq!(fs::read_dir(place.path(".")).unwrap().count(), 2, "nothing unfinished is left");
}

#[test]
fn what_cannot_be_imported_is_told() {
    let place = Place::new();
    let database = place.database("sled");
    let cut = place.file("cut.jsonl", "{\"kind\":\"room\",\"room_id\":\"!r:a\"}");
    ravel(&["import", "-d", &database, &cut]).fails(2, &["cut.jsonl, line 1"]);
    assert!(!place.path("sled").exists());
    let mut lines = crate::support::Lines::of(FED);
    lines.0.retain(|line| line["kind"] != "key");
    let unsigned = place.file("unsigned.jsonl", lines.to_text());
    ravel(&["import", "-d", &database, &unsigned]).fails(1, &["dropped "]);
}

/// A server of an S3-compatible service; `.ci/setup` installs it.
struct Moto(Child, String);

impl Moto {
    fn start() -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut command = Command::new("moto_server");
        command.args(["-H", "127.0.0.1", "-p", &port.to_string()]).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().expect("moto_server, which .ci/setup installs");
        let server = Self(child, format!("http://127.0.0.1:{port}"));
        for _ in 0..600 {
            if TcpStream::connect(("127.0.0.1", port)).is_ok() {
                return server;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        panic!("moto_server does not answer");
    }

    fn ravel(&self, arguments: &[&str]) -> crate::support::Run {
        let mut command = crate::support::command(arguments);
        command.env("AWS_ENDPOINT_URL", &self.1).env("AWS_ALLOW_HTTP", "true").env("AWS_REGION", "eu-north-1");
        command.env("AWS_ACCESS_KEY_ID", "id").env("AWS_SECRET_ACCESS_KEY", "secret");
        command.output().unwrap().into()
    }

    /// Makes a bucket: a PUT of its name, which this server takes without a signature.
    fn bucket(&self, name: &str) {
        use std::io::{Read, Write};
        let mut stream = TcpStream::connect(self.1.trim_start_matches("http://")).unwrap();
        write!(stream, "PUT /{name} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
}

impl Drop for Moto {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_bucket_holds_a_backup() {
    let moto = Moto::start();
    moto.bucket("backups");
    let (place, database) = Place::filled("sled", &[FED]);
    let target = place.database("rocksdb");
    moto.ravel(&["backup", "-d", &database, "--to", "s3://backups/of/ravel"]).ok();
    moto.ravel(&["restore", "--from", "s3://backups/of/ravel/", "--verify-only"]).ok();
    // The bucket as a whole has something in it, so it is no place for another one.
    moto.ravel(&["backup", "-d", &database, "--to", "s3://backups"]).fails(2, &["is not empty"]);
    ravel(&["replay", "-d", &database, corpus(FORGED).to_str().unwrap()]).ok();
    moto.ravel(&["backup", "-d", &database, "--to", "s3://backups/of/ravel"]).ok();
    moto.ravel(&["restore", "--from", "s3://backups/of/ravel", "-d", &target]).ok();
    assert_eq!(fingerprints(&target), fingerprints(&database));
    let full = moto.ravel(&["backup", "-d", &database, "--to", "s3://backups/of/ravel", "--full", "--json"]);
    assert_eq!((full.code, full.json()["series"].as_u64()), (0, Some(2)), "{full:?}");
    moto.ravel(&["restore", "--from", "s3://backups/of/ravel", "--verify-only"]).ok();
    moto.ravel(&["restore", "--from", "s3://nothing", "--verify-only"])
        .fails(2, &["there is no backup in s3://nothing"]);
}
