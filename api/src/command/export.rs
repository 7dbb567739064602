//! `ravel export`: rooms as files of recorded rooms.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
    process::ExitCode,
};

use flate2::{Compression, write::GzEncoder};
use ravel_core::{
    event::{Event, StateKey},
    id::{EventId, RoomId, ServerName},
    room::{Outcome, Remains, Room},
    signing::encode_base64,
    state::State,
};
use ravel_store::{block_on, log::EventLog};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Failure, count, disagreement, open_log};
use crate::{database::DatabaseName, output::Output};

/// What to export, and how.
#[derive(Debug)]
pub struct Options {
    /// One room, or all.
    pub room: Option<String>,
    /// The file of one room, the folder for all.
    pub output: PathBuf,
    /// The server that is named as the one that saw the events.
    pub server_name: ServerName,
    /// Whether files in a folder are not compressed.
    pub plain: bool,
}

/// Verify keys in base64, by server and key id.
type Keys = BTreeMap<(String, String), String>;

/// Writes one room, or all, each into a file.
pub fn run(database: &DatabaseName, options: &Options, output: &mut Output) -> Result<ExitCode, Failure> {
    let log = open_log(database)?;
    let known: Vec<RoomId> = log.rooms().into_iter().map(|(room_id, _)| room_id).collect();
    let files = match &options.room {
        Some(room) => {
            let room_id = RoomId::parse(room).map_err(|_| Failure::NotARoomId(room.clone()))?;
            if !known.contains(&room_id) {
                return Err(Failure::NoSuchRoom { room_id, known });
            }
            vec![(room_id, options.output.clone())]
        }
        None => {
            fs::create_dir_all(&options.output)
                .map_err(|source| Failure::Unwritable { path: options.output.clone(), source })?;
            let suffix = if options.plain { "jsonl" } else { "jsonl.gz" };
            // Numbers, as a room's id may be anything.
            let file = |number: u32| format!("room-{number}.{suffix}");
            let mut numbered = BTreeMap::new();
            for room_id in known {
                numbered.extend(log.room_number(&room_id)?.map(|number| (number, room_id)));
            }
            numbered.into_iter().map(|(number, id)| (id, options.output.join(file(number)))).collect()
        }
    };
    let keys = server_keys(&log)?;
    let progress = output.progress(files.len() as u64, "exporting", "rooms");
    let mut exported = Vec::new();
    for (room_id, path) in files {
        let written = write_file(&path, |out| Export { log: &log, keys: &keys, options }.room(&room_id, out));
        let room = written.inspect_err(|_| progress.finish_and_clear())?;
        progress.inc(1);
        if let Some(room) = room {
            exported.push((path, room));
        }
    }
    progress.finish_and_clear();
    print(&exported, output);
    let complete = exported.iter().all(|(_, room)| room.events_without_key == 0 && room.purged == 0);
    Ok(if complete { ExitCode::SUCCESS } else { disagreement() })
}

/// Returns the verify keys that are known.
fn server_keys(log: &EventLog) -> Result<Keys, Failure> {
    let keys = block_on(log.server_keys())?;
    let named = keys
        .iter()
        .map(|(server, key_id, key)| ((server.to_string(), key_id.to_string()), encode_base64(key.key.as_bytes())));
    Ok(named.collect())
}

/// What was written of a room.
struct Exported {
    room_id: RoomId,
    events: usize,
    merges: usize,
    keys: usize,
    /// Events with signatures of a server of which no key is known.
    events_without_key: u64,
    /// Events that are left out, as their content was purged.
    purged: usize,
}

fn print(exported: &[(PathBuf, Exported)], output: &mut Output) {
    if output.is_json() {
        let rooms = exported.iter().map(|(path, room)| {
            json!({
                "file": path.to_string_lossy(), "room_id": room.room_id.as_str(), "events": room.events,
                "merges": room.merges, "keys": room.keys, "events_without_key": room.events_without_key,
                "purged": room.purged,
            })
        });
        output.value(&json!({ "rooms": rooms.collect::<Vec<_>>() }));
        return;
    }
    for (path, room) in exported {
        let (events, merges) = (count(room.events as u64, "event"), count(room.merges as u64, "merge"));
        let (file, keys) = (path.display(), count(room.keys as u64, "key"));
        output.line(format_args!("{file}  {events}, {merges}, {keys}  {}", room.room_id));
        if room.events_without_key > 0 {
            let events = count(room.events_without_key, "event");
            output.line(format_args!("  {events} of servers whose keys are not known: an import drops them"));
        }
        if room.purged > 0 {
            let events = count(room.purged as u64, "event");
            output.line(format_args!(
                "  {events} left out, as their content was purged: what builds on them can't be imported"
            ));
        }
    }
}

/// Writes a file whole or not at all, compressed if it is named so. Nothing is left if `write` says that there is nothing.
fn write_file<T>(
    path: &Path,
    write: impl FnOnce(&mut dyn Write) -> Result<Option<T>, Failure>,
) -> Result<Option<T>, Failure> {
    let fail = |source| Failure::Unwritable { path: path.to_owned(), source };
    let mut new = path.as_os_str().to_owned();
    new.push(".unfinished");
    let new = PathBuf::from(new);
    let mut file = BufWriter::new(File::create(&new).map_err(fail)?);
    let written = if path.extension().is_some_and(|extension| extension == "gz") {
        let mut encoder = GzEncoder::new(&mut file, Compression::default());
        let written = write(&mut encoder);
        written.and_then(|written| encoder.finish().map(|_| written).map_err(fail))
    } else {
        write(&mut file)
    };
    let synced = written.and_then(|written| {
        let file = file.into_inner().map_err(|error| fail(error.into_error()))?;
        file.sync_all().map_err(fail)?;
        Ok(written)
    });
    match synced {
        Ok(Some(written)) => {
            fs::rename(&new, path).map_err(fail)?;
            let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
            File::open(folder).and_then(|folder| folder.sync_all()).map_err(fail)?;
            Ok(Some(written))
        }
        nothing => {
            let _ = fs::remove_file(&new);
            // What failed while writing names the file.
            nothing.map_err(|failure| match failure {
                Failure::Output(source) => fail(source),
                failure => failure,
            })
        }
    }
}

/// The signatures of an event.
#[derive(Deserialize)]
struct Signatures {
    #[serde(default)]
    signatures: BTreeMap<String, BTreeMap<String, serde::de::IgnoredAny>>,
}

/// Rooms on their way into files.
struct Export<'a> {
    log: &'a EventLog,
    keys: &'a Keys,
    options: &'a Options,
}

impl Export<'_> {
    /// Writes a room as the log has it now; `None` if it has no events.
    fn room(&self, room_id: &RoomId, out: &mut dyn Write) -> Result<Option<Exported>, Failure> {
        let position = self.log.len();
        let Some(room) = block_on(self.log.load_room_at(room_id, position))?.filter(|room| !room.is_empty()) else {
            return Ok(None);
        };
        let (keys, events_without_key) = self.keys_of(room_id, position)?;
        let merges = merges(&room);
        let has_content = |event: &Event| room.remains(&event.event_id) > Some(Remains::Skeleton);
        let events = room.events().filter(|(event, _)| has_content(event)).count();
        let servers = [self.options.server_name.as_str()];
        line(
            out,
            &json!({
                "kind": "room", "room_id": room_id.as_str(), "room_version": room.rules().version.as_str(),
                "servers": servers, "events": events, "merges": merges.len(),
            }),
        )?;
        for (server, key_id) in &keys {
            let verify_key = self.keys.get(&(server.clone(), key_id.clone()));
            line(out, &json!({ "kind": "key", "server": server, "key_id": key_id, "verify_key": verify_key }))?;
        }
        self.events(&room, position, out)?;
        let mut last = BTreeMap::new();
        for event_id in &merges {
            let Some(state) = room.state_before(event_id) else { continue };
            let mut merge = difference(&mut last, state);
            merge.insert("kind".into(), "merge".into());
            merge.insert("event_id".into(), event_id.as_str().into());
            merge.insert("servers".into(), json!(servers));
            line(out, &Value::Object(merge))?;
        }
        let mut view = difference(&mut last, room.current_state());
        let extremities = room.forward_extremities();
        view.insert("kind".into(), "final".into());
        view.insert("servers".into(), json!(servers));
        view.insert("forward_extremities".into(), extremities.iter().map(EventId::as_str).collect());
        line(out, &Value::Object(view))?;
        let (purged, merges, keys) = (room.len() - events, merges.len(), keys.len());
        Ok(Some(Exported { room_id: room_id.clone(), events, merges, keys, events_without_key, purged }))
    }

    /// Returns the known keys that the room's events are signed with, and how many events name servers without one.
    fn keys_of(&self, room_id: &RoomId, position: u64) -> Result<(BTreeSet<(String, String)>, u64), Failure> {
        let mut used = BTreeSet::new();
        let mut events_without_key = 0;
        let mut from = 0;
        loop {
            let page = block_on(self.log.logged_events(room_id, from, position))?;
            let Some(last) = page.last() else { return Ok((used, events_without_key)) };
            from = last.sequence.saturating_add(1);
            for event in &page {
                let Some(json) = &event.json else { continue };
                let Ok(Signatures { signatures }) = serde_json::from_slice(json) else { continue };
                let mut is_known = true;
                for (server, key_ids) in signatures {
                    let before = used.len();
                    let mut known = false;
                    for key in key_ids.into_keys().map(|key_id| (server.clone(), key_id)) {
                        if self.keys.contains_key(&key) {
                            known = true;
                            used.insert(key);
                        }
                    }
                    is_known &= known || used.len() > before;
                }
                events_without_key += u64::from(!is_known);
            }
        }
    }

    fn events(&self, room: &Room, position: u64, out: &mut dyn Write) -> Result<(), Failure> {
        let server = &self.options.server_name;
        let (mut from, mut order) = (0, 0_u64);
        loop {
            let page = block_on(self.log.logged_events(room.room_id(), from, position))?;
            let Some(last) = page.last() else { return Ok(()) };
            from = last.sequence.saturating_add(1);
            for event in page {
                order += 1;
                let Some(json) = event.json else { continue };
                let mut seen = serde_json::Map::new();
                seen.insert("order".into(), order.into());
                match room.outcome(&event.event_id) {
                    Some(Outcome::Rejected) => {
                        let reason = room.reason(&event.event_id).map_or("", |reason| &reason.sentence);
                        seen.insert("rejected".into(), reason.into());
                    }
                    Some(Outcome::SoftFailed) => {
                        seen.insert("soft_failed".into(), true.into());
                    }
                    Some(Outcome::Accepted) | None => {}
                }
                let (event_id, seen) = (json!(event.event_id.as_str()), json!({ server.as_str(): seen }));
                write!(out, "{{\"kind\":\"event\",\"event_id\":{event_id},\"pdu\":")?;
                out.write_all(&json)?;
                writeln!(out, ",\"seen\":{seen}}}")?;
            }
        }
    }
}

/// The events with several prev events and with states, in the order of the log.
fn merges(room: &Room) -> Vec<EventId> {
    let several = |prev_events: &[EventId]| prev_events.iter().any(|event_id| Some(event_id) != prev_events.first());
    let has_states = |event_id: &EventId| room.state_before(event_id).is_some();
    let merging = room.events().filter(|(event, _)| several(&event.prev_events) && has_states(&event.event_id));
    merging.map(|(event, _)| event.event_id.clone()).collect()
}

/// Writes a state as the difference to another, which it replaces.
fn difference(last: &mut BTreeMap<StateKey, EventId>, state: State<'_>) -> serde_json::Map<String, Value> {
    let new = state.to_map();
    let del: Vec<_> = last.keys().filter(|key| !new.contains_key(*key)).collect();
    let del: Value = del.iter().map(|key| json!([*key.event_type, *key.state_key])).collect();
    let set = new.iter().filter(|(key, event_id)| last.get(*key) != Some(*event_id));
    let set: Value = set.map(|(key, event_id)| json!([*key.event_type, *key.state_key, event_id.as_str()])).collect();
    let mut fields = serde_json::Map::new();
    fields.insert("del".into(), del);
    fields.insert("set".into(), set);
    fields.insert("count".into(), state.len().into());
    fields.insert("hash".into(), state.entries_sha256().to_string().into());
    *last = new;
    fields
}

fn line(out: &mut dyn Write, value: &Value) -> io::Result<()> {
    writeln!(out, "{value}")
}
