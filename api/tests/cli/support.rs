//! Running the binary, and making files.

use std::{
    io::{Read, Write},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::RwLock,
    time::UNIX_EPOCH,
};

use flate2::{Compression, read::GzDecoder, write::GzEncoder};
use ravel_backends::Engine;
use ravel_core::{
    canonical_json::{CanonicalJsonObject, JsonMode, object_to_canonical_bytes, parse_object},
    id::{KeyId, ServerName},
    pdu::ParsedPdu,
    room_version::RoomVersion,
    signing::{SigningKey, encode_base64, hash_and_sign_event},
};
use ravel_store::Store;
use serde_json::{Value, json};

/// The rooms, by name.
pub(crate) const FED: &str = "fed-16-v12";
pub(crate) const FORGED: &str = "forged-20-v12";

/// Their ids.
pub(crate) const FED_ID: &str = "!_Lm7PNqeUvDSwIEV3wkEEelM3__l14GHYNxYo3meJSA";
pub(crate) const FORGED_ID: &str = "!Ru-RBhM-GxnyEn8d-6Q1XoqYMfP2if3HP5AXbvnBprA";

pub(crate) fn corpus(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../proptests/corpus").join(format!("{name}.jsonl.gz"))
}

/// What a run gave.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Run {
    /// Checks the exit code and that all went well on the standard error; returns the standard output.
    #[track_caller]
    pub(crate) fn ok(self) -> String {
        assert_eq!((self.code, self.stderr.as_str()), (0, ""), "{self:?}");
        self.stdout
    }

    /// Checks the exit code and parts of the output.
    #[track_caller]
    pub(crate) fn fails(self, code: i32, parts: &[&str]) -> Self {
        assert_eq!(self.code, code, "{self:?}");
        let output = if code == 1 { &self.stdout } else { &self.stderr };
        for part in parts {
            assert!(output.contains(part), "{part:?} is not in {output}");
        }
        assert!(!self.stderr.contains("panicked"), "{}", self.stderr);
        self
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    pub(crate) fn json_lines(&self) -> Vec<Value> {
        self.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

impl From<Output> for Run {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

pub(crate) fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ravel"));
    command.args(arguments);
    command
}

pub(crate) fn ravel(arguments: &[&str]) -> Run {
    let mut command = command(arguments);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let starting = STARTING.read();
    let child = command.spawn().unwrap();
    drop(starting);
    child.wait_with_output().unwrap().into()
}

/// Until it runs its program, a process that is being started has the files of the one that starts it, locked ones too: whoever
/// opens a store here lets none be started meanwhile.
static STARTING: RwLock<()> = RwLock::new(());

/// Opens the store in a test's folder, for a function.
pub(crate) fn with_store<T>(place: &Place, engine: &str, work: impl FnOnce(&dyn Store) -> T) -> T {
    let _none_starts = STARTING.write();
    let store = engine.parse::<Engine>().unwrap().open(&place.path(engine)).unwrap();
    work(&*store)
}

/// A folder of a test, with a database of each engine.
pub(crate) struct Place(tempfile::TempDir);

impl Place {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub(crate) fn database(&self, engine: &str) -> String {
        format!("{engine}:{}", self.path(engine).display())
    }

    /// Writes a file and returns its path as text.
    pub(crate) fn file(&self, name: &str, bytes: impl AsRef<[u8]>) -> String {
        let path = self.path(name);
        std::fs::write(&path, bytes).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// Makes a database of recorded rooms, as a copy of one that the first test to need it makes by a replay.
    pub(crate) fn filled(engine: &str, rooms: &[&str]) -> (Self, String) {
        let original = original(engine, rooms);
        let place = Self::new();
        copy_folder(&original, &place.path(engine));
        let database = place.database(engine);
        (place, database)
    }
}

/// Returns a database that nobody changes, made by this build of the binary. Tests may run in processes of their own.
fn original(engine: &str, rooms: &[&str]) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let built = std::fs::metadata(env!("CARGO_BIN_EXE_ravel")).unwrap().modified().unwrap();
    let built = built.duration_since(UNIX_EPOCH).unwrap().as_nanos().to_string();
    let original = folder.join(format!("{built}-{engine}-{}", rooms.join("-")));
    if !original.exists() {
        let earlier = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
        for entry in earlier.filter(|entry| !entry.file_name().to_string_lossy().starts_with(&built)) {
            let _ = std::fs::remove_dir_all(entry.path());
        }
        let making = tempfile::Builder::new().prefix(&built).tempdir_in(folder).unwrap();
        let database = format!("{engine}:{}", making.path().join("made").display());
        let files: Vec<String> = rooms.iter().map(|room| corpus(room).to_str().unwrap().to_owned()).collect();
        let mut arguments = vec!["replay", "--database", &database];
        arguments.extend(files.iter().map(String::as_str));
        ravel(&arguments).ok();
        // Whoever comes second finds it there.
        let _ = std::fs::rename(making.path().join("made"), &original);
    }
    original
}

fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_folder(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// A file of a recorded room, line by line.
#[derive(Clone)]
pub(crate) struct Lines(pub(crate) Vec<Value>);

impl Lines {
    pub(crate) fn of(name: &str) -> Self {
        let mut text = String::new();
        GzDecoder::new(std::fs::File::open(corpus(name)).unwrap()).read_to_string(&mut text).unwrap();
        Self(text.lines().map(|line| serde_json::from_str(line).unwrap()).collect())
    }

    pub(crate) fn to_text(&self) -> String {
        self.0.iter().map(|line| format!("{line}\n")).collect()
    }

    pub(crate) fn of_kind(&mut self, kind: &str) -> impl DoubleEndedIterator<Item = &mut Value> {
        self.0.iter_mut().filter(move |line| line["kind"] == kind)
    }

    /// Returns the place of an event among the lines, from 1.
    pub(crate) fn line_of(&self, event_id: &str) -> usize {
        let is_it = |line: &Value| line["kind"] == "event" && line["event_id"] == event_id;
        self.0.iter().position(is_it).unwrap() + 1
    }
}

pub(crate) fn gzip(text: &str) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(text.as_bytes()).unwrap();
    encoder.finish().unwrap()
}

/// A room made here, with real signatures, by the server `a`.
pub(crate) struct MadeRoom {
    pub(crate) version: RoomVersion,
    pub(crate) room_id: &'static str,
    /// Event ids and PDUs.
    pub(crate) events: Vec<(String, CanonicalJsonObject)>,
}

impl MadeRoom {
    /// A room of a version before 12, with a creator.
    pub(crate) fn new(version: RoomVersion) -> Self {
        let mut room = Self { version, room_id: "!made:a", events: Vec::new() };
        let content = json!({ "creator": "@u:a", "room_version": version.as_str() });
        let create = room.event("m.room.create", Some(""), &content, &[], &[]);
        let content = json!({ "membership": "join" });
        room.event("m.room.member", Some("@u:a"), &content, &[&create], &[&create]);
        room
    }

    /// Adds a message after some events.
    pub(crate) fn message(&mut self, body: &str, prev_events: &[&str]) -> String {
        let [create, join] = [0, 1].map(|place: usize| self.events[place].0.clone());
        self.event("m.room.message", None, &json!({ "body": body }), prev_events, &[&create, &join])
    }

    /// Adds an event, signed, and returns its id. Those of room version 1 and 2 are `$1:a`, `$2:a` and so on.
    pub(crate) fn event(
        &mut self,
        event_type: &str,
        state_key: Option<&str>,
        content: &Value,
        prev_events: &[&str],
        auth_events: &[&str],
    ) -> String {
        let carries_id = self.version <= RoomVersion::V2;
        let list = |ids: &[&str]| -> Value {
            ids.iter().map(|id| if carries_id { json!([id, { "sha256": "AA" }]) } else { json!(id) }).collect()
        };
        let mut event = json!({
            "auth_events": list(auth_events),
            "content": content,
            "depth": self.events.len() + 1,
            "origin_server_ts": 1_700_000_000_000_u64 + self.events.len() as u64,
            "prev_events": list(prev_events),
            "room_id": self.room_id,
            "sender": "@u:a",
            "type": event_type,
        });
        if let Some(state_key) = state_key {
            event["state_key"] = json!(state_key);
        }
        if carries_id {
            event["event_id"] = json!(format!("${}:a", self.events.len() + 1));
        }
        let event = parse_object(event.to_string().as_bytes(), JsonMode::ByteExact).unwrap();
        let server = ServerName::parse("a").unwrap();
        let event = hash_and_sign_event(event, self.version.rules(), &server, &key()).unwrap();
        let event_id = match ParsedPdu::parse(&object_to_canonical_bytes(&event), self.version.rules()) {
            Ok(pdu) => pdu.event().event_id.to_string(),
            // Too large; whoever made it knows.
            Err(_) => "$unknown".to_owned(),
        };
        self.events.push((event_id.clone(), event));
        event_id
    }

    pub(crate) fn to_text(&self) -> String {
        let room = json!({
            "kind": "room", "room_id": self.room_id, "room_version": self.version.as_str(), "creator_server": "a",
            "servers": ["a"], "events": self.events.len(), "merges": 0,
        });
        let verify_key = encode_base64(key().verify_key().as_bytes());
        let key = json!({ "kind": "key", "server": "a", "key_id": "ed25519:1", "verify_key": verify_key });
        let mut text = format!("{room}\n{key}\n");
        for (event_id, event) in &self.events {
            let pdu = String::from_utf8(object_to_canonical_bytes(event)).unwrap();
            let event_id = json!(event_id);
            text += &format!(
                "{{\"kind\":\"event\",\"event_id\":{event_id},\"pdu\":{pdu},\"seen\":{{\"a\":{{\"order\":1}}}}}}\n"
            );
        }
        text
    }
}

fn key() -> SigningKey {
    SigningKey::from_seed(KeyId::parse("ed25519:1").unwrap(), &[7; 32])
}
