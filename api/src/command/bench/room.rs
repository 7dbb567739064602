//! `ravel bench room`: what a room costs in memory and on disk.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::Instant,
};

use ravel_backends::{Engine, RocksDbOptions, RocksDbStore};
use ravel_core::{
    canonical_json::{JsonMode, object_to_canonical_bytes, parse_object},
    graph::EventGraph,
    id::{EventId, KeyId, RoomId, ServerName},
    pdu::VerifiedPdu,
    room::{Effect, PersistEvent, Receipt, Room},
    room_version::{RoomVersion, RoomVersionRules},
    signing::{SigningKey, hash_and_sign_event, room_id_of_create},
    state::StateMap,
};
use ravel_store::{Durability, KeyRange, Keyspace, Scan, Store, block_on, log::EventLog};
use serde_json::{Value, json};

use crate::{
    command::Failure,
    database::{DatabaseName, OpenError},
    output::Output,
};

/// The room, and where it is stored.
#[derive(Debug, clap::Args)]
pub struct RoomOptions {
    /// How many users are joined
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    members: u32,
    /// How many state changes follow
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    changes: u32,
    /// The room's version
    #[arg(long, default_value = "11", value_parser = super::room_version)]
    room_version: RoomVersion,
    /// An empty database to store the room in, not in memory
    #[arg(long)]
    database: Option<DatabaseName>,
}

/// Measures and prints.
pub fn run(options: &RoomOptions, output: &mut Output) -> Result<ExitCode, Failure> {
    let mut disk = options.database.as_ref().map(Disk::open).transpose()?;
    let mut author = Author::new(options.room_version.rules());
    let (resident, events) = author.resident(options.members);
    let mut room = Room::new(author.room_id.clone(), author.rules);
    let progress = output.progress(u64::from(options.members), "joining", "members");
    for pdu in &events {
        take(&mut room, pdu, disk.as_mut())?;
        progress.inc(1);
    }
    progress.finish_and_clear();
    drop(events);
    let before = disk.as_mut().map(Disk::measure).transpose()?;
    let changes: Vec<VerifiedPdu> = (0..options.changes).map(|number| author.change(number, options.members)).collect();
    let mut taken = Ok(());
    let memory = allocation_counter::measure(|| {
        taken = changes.iter().try_for_each(|pdu| take(&mut room, pdu, None).map(drop));
    });
    taken?;
    let mut measured = json!({
        "room_version": options.room_version.as_str(),
        "members": options.members,
        "resident_bytes": resident,
        "changes": options.changes,
        "memory_bytes_per_change": memory.bytes_current / i64::from(options.changes),
    });
    if let (Some(mut disk), Some(before), Value::Object(measured)) = (disk, before, &mut measured) {
        // Once more, this time to the disk: the memory that storing takes for a while is not the room's.
        let mut room = disk.load(&author.room_id)?;
        for pdu in &changes {
            take(&mut room, pdu, Some(&mut disk))?;
        }
        let after = disk.measure()?;
        let per_change = |bytes: u64| bytes / u64::from(options.changes);
        measured.insert("disk_bytes_per_change".into(), per_change(after.files.saturating_sub(before.files)).into());
        let keyspaces = after.keyspaces.iter().zip(&before.keyspaces).map(|((keyspace, after), (_, before))| {
            (keyspace.name().to_owned(), per_change(after.saturating_sub(*before)).into())
        });
        measured.insert("bytes_per_change_by_keyspace".into(), Value::Object(keyspaces.collect()));
        measured.insert("disk_bytes".into(), after.files.into());
        let cold = cold_resolution(&mut author, &mut room, disk, options)?;
        measured.extend(cold);
    }
    if output.is_json() {
        output.value(&measured);
    } else if let Value::Object(measured) = &measured {
        for (what, value) in measured {
            output.line(format_args!("{what}: {value}"));
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Lets the room fork, opens the database again and resolves with nothing in memory.
fn cold_resolution(
    author: &mut Author,
    room: &mut Room,
    mut disk: Disk,
    options: &RoomOptions,
) -> Result<[(String, Value); 4], Failure> {
    let mut tips = Vec::new();
    for fork in 0..2 {
        let mut author = author.clone();
        for pdu in author.fork(fork, options.members) {
            take(room, &pdu, Some(&mut disk))?;
        }
        tips.extend(author.last);
    }
    disk.write()?;
    block_on(disk.store.flush())?;
    let name = options.database.clone().unwrap_or(DatabaseName::Memory);
    drop(disk);
    let log = block_on(EventLog::open(name.open_to_read()?))?;
    let started = Instant::now();
    let cold = block_on(log.resolve_stored(room.room_id(), &tips))?;
    let time = started.elapsed();
    let warm = tips.first().and_then(|tip| room.state_after(tip));
    let warm = warm.map(|base| room.current_state().map().differences(room.graph(), base.map())).unwrap_or_default();
    let warm: Vec<_> = warm.into_iter().map(|difference| (difference.key, difference.left)).collect();
    let is_equal = cold.as_ref().is_some_and(|cold| cold.edits == warm);
    let (reads, rounds) = cold.map_or((0, 0), |cold| (cold.reads, cold.rounds));
    Ok([
        ("cold_resolution_us".into(), (time.as_micros() as u64).into()),
        ("cold_resolution_reads".into(), reads.into()),
        ("cold_resolution_rounds".into(), rounds.into()),
        ("cold_resolution_equals_warm".into(), is_equal.into()),
    ])
}

/// Hands an event to a room, and what follows to the disk.
fn take(room: &mut Room, pdu: &VerifiedPdu, disk: Option<&mut Disk>) -> Result<(), Failure> {
    let Receipt::Judged(judged) = room.handle_pdu(pdu)? else { return Ok(()) };
    let Some(disk) = disk else { return Ok(()) };
    for effect in judged.effects {
        if let Effect::Persist(persist) = effect {
            disk.append(room, *persist)?;
        }
    }
    Ok(())
}

/// A database, and what is to be written to it.
struct Disk {
    store: Arc<dyn Store>,
    /// The same, if it is RocksDB.
    rocksdb: Option<Arc<RocksDbStore>>,
    /// `None` if it is on another machine, which then tells its size.
    directory: Option<PathBuf>,
    log: EventLog,
    pending: Vec<PersistEvent>,
    room: Option<(RoomId, &'static RoomVersionRules)>,
}

/// How large a database is.
struct Size {
    /// Its files, or its tables with their indexes.
    files: u64,
    /// Keys and values, as they are before the engine compresses them.
    keyspaces: Vec<(Keyspace, u64)>,
}

impl Disk {
    fn open(name: &DatabaseName) -> Result<Self, Failure> {
        let (store, rocksdb, directory): (Arc<dyn Store>, _, _) = match name {
            DatabaseName::Memory => return Err(OpenError::Memory.into()),
            DatabaseName::Directory(Engine::RocksDb, directory) => {
                let store = Arc::new(RocksDbStore::open(directory, &RocksDbOptions::default())?);
                (store.clone(), Some(store), Some(directory.clone()))
            }
            DatabaseName::Directory(_, directory) => (name.open_or_create()?, None, Some(directory.clone())),
            #[cfg(feature = "postgres")]
            DatabaseName::Postgres(_) => (name.open_or_create()?, None, None),
        };
        let log = block_on(EventLog::open(store.clone()))?;
        Ok(Self { store, rocksdb, directory, log, pending: Vec::new(), room: None })
    }

    fn append(&mut self, room: &Room, persist: PersistEvent) -> Result<(), Failure> {
        self.room = Some((room.room_id().clone(), room.rules()));
        self.pending.push(persist);
        if self.pending.len() >= 1000 { self.write() } else { Ok(()) }
    }

    fn write(&mut self) -> Result<(), Failure> {
        if let Some((room_id, rules)) = &self.room {
            block_on(self.log.append(room_id, rules, &self.pending, Durability::Relaxed))?;
            self.pending.clear();
        }
        Ok(())
    }

    fn load(&mut self, room_id: &RoomId) -> Result<Room, Failure> {
        let room = block_on(self.log.load_room(room_id))?;
        room.ok_or_else(|| Failure::NoSuchRoom { room_id: room_id.clone(), known: Vec::new() })
    }

    /// Writes what is pending, compacts, and measures.
    fn measure(&mut self) -> Result<Size, Failure> {
        self.write()?;
        block_on(self.store.flush())?;
        if let Some(rocksdb) = &self.rocksdb {
            block_on(rocksdb.compact())?;
        }
        let mut keyspaces = Vec::new();
        for keyspace in Keyspace::ALL {
            let mut bytes = 0;
            let mut scan = Some(Scan::new(*keyspace, KeyRange::all()));
            while let Some(asked) = scan.take() {
                let page = block_on(self.store.scan(asked.clone()))?;
                bytes += page.items.iter().map(|(key, value)| (key.len() + value.len()) as u64).sum::<u64>();
                scan = page.next.as_ref().map(|cursor| asked.after(cursor));
            }
            keyspaces.push((*keyspace, bytes));
        }
        let files = match &self.directory {
            Some(directory) => bytes_below(directory)?,
            None => block_on(self.store.describe())?.size_on_disk,
        };
        Ok(Size { files, keyspaces })
    }
}

fn bytes_below(directory: &Path) -> io::Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        bytes += if metadata.is_dir() { bytes_below(&entry.path())? } else { metadata.len() };
    }
    Ok(bytes)
}

/// Makes the events of the room, each as large as a real one.
#[derive(Clone)]
pub(super) struct Author {
    pub(super) rules: &'static RoomVersionRules,
    pub(super) room_id: RoomId,
    /// Whether hashes and signatures are real ones; otherwise they have the same length.
    signs: bool,
    create: Option<EventId>,
    power_levels: Option<EventId>,
    join_rules: Option<EventId>,
    /// By number.
    members: Vec<EventId>,
    last: Option<EventId>,
    depth: u64,
}

impl Author {
    fn new(rules: &'static RoomVersionRules) -> Self {
        let room_id = RoomId::parse("!room:s0.example").expect("a room id");
        Self {
            rules,
            room_id,
            signs: false,
            create: None,
            power_levels: None,
            join_rules: None,
            members: Vec::new(),
            last: None,
            depth: 0,
        }
    }

    /// As [`new`](Self::new), with hashes and signatures that don't compress.
    pub(super) fn signing(rules: &'static RoomVersionRules) -> Self {
        Self { signs: true, ..Self::new(rules) }
    }

    /// Makes the room with its members, and returns what its facts, index and current snapshot take in memory, with the events.
    fn resident(&mut self, members: u32) -> (i64, Vec<VerifiedPdu>) {
        let events = self.members(members);
        let mut resident = None;
        let memory = allocation_counter::measure(|| {
            let mut graph = EventGraph::new(self.rules);
            for pdu in &events {
                graph.insert(pdu.event(), None, false).expect("its auth events come before");
            }
            let state = StateMap::of_events(&graph, graph.indices());
            resident = Some((graph, state));
        });
        drop(resident);
        (memory.bytes_current, events)
    }

    /// Makes the room with its members.
    pub(super) fn members(&mut self, members: u32) -> Vec<VerifiedPdu> {
        let creator = user(0);
        let version = self.rules.version.as_str();
        let create =
            self.send(&creator, "m.room.create", Some(""), &json!({ "creator": creator, "room_version": version }));
        self.create = Some(create.event_id().clone());
        if self.rules.room_id_is_create_hash {
            self.room_id = room_id_of_create(create.event_id()).expect("a room id");
        }
        let mut events = vec![create];
        events.push(self.join(0));
        let content = json!({ "users": self.users_with_power() });
        events.push(self.send(&creator, "m.room.power_levels", Some(""), &content));
        self.power_levels = self.last.clone();
        events.push(self.send(&creator, "m.room.join_rules", Some(""), &json!({ "join_rule": "public" })));
        self.join_rules = self.last.clone();
        events.extend((1..members).map(|number| self.join(number)));
        events
    }

    /// The creators of room version 12 have power without being named, and must not be.
    fn users_with_power(&self) -> Value {
        if self.rules.creators_have_infinite_power { json!({}) } else { json!({ user(0): 100 }) }
    }

    fn join(&mut self, number: u32) -> VerifiedPdu {
        let user = user(number);
        let content = json!({ "displayname": format!("User {number}"), "membership": "join" });
        let pdu = self.send(&user, "m.room.member", Some(&user), &content);
        match self.members.get_mut(number as usize) {
            Some(member) => member.clone_from(pdu.event_id()),
            None => self.members.push(pdu.event_id().clone()),
        }
        pdu
    }

    /// Makes a change of the state: nine of ten are members' changes of their profiles, anywhere in the room.
    pub(super) fn change(&mut self, number: u32, members: u32) -> VerifiedPdu {
        if number.is_multiple_of(10) {
            return self.send(&user(0), "m.room.topic", Some(""), &json!({ "topic": format!("topic {number}") }));
        }
        self.join(number.wrapping_mul(2_654_435_761) % members)
    }

    /// Makes the events of a fork: power levels, topic, and kicks and profile changes of ten members.
    fn fork(&mut self, fork: u32, members: u32) -> Vec<VerifiedPdu> {
        let creator = user(0);
        let content = json!({ "events": { "org.example": fork }, "users": self.users_with_power() });
        let mut events = vec![self.send(&creator, "m.room.power_levels", Some(""), &content)];
        self.power_levels = self.last.clone();
        events.push(self.send(&creator, "m.room.topic", Some(""), &json!({ "topic": format!("of fork {fork}") })));
        for number in 1..=9_u32.min(members.saturating_sub(1)) {
            events.push(if number % 2 == fork {
                self.send(&creator, "m.room.member", Some(&user(number)), &json!({ "membership": "leave" }))
            } else {
                self.join(number)
            });
        }
        events
    }

    fn send(&mut self, sender: &str, event_type: &str, state_key: Option<&str>, content: &Value) -> VerifiedPdu {
        let is_create = event_type == "m.room.create";
        let member = number_of(sender).and_then(|place| self.members.get(place));
        let mut auth_events: Vec<&EventId> = Vec::new();
        if !self.rules.room_id_is_create_hash {
            auth_events.extend(&self.create);
        }
        auth_events.extend(self.power_levels.iter().chain(member));
        let target = state_key.filter(|key| *key != sender).and_then(number_of);
        auth_events.extend(target.and_then(|place| self.members.get(place)));
        if content["membership"] == "join" {
            auth_events.extend(&self.join_rules);
        }
        self.depth += 1;
        let texts = |ids: &[&EventId]| ids.iter().map(|id| id.as_str().to_owned()).collect::<Vec<_>>();
        let mut event = json!({
            "auth_events": texts(&auth_events),
            "content": content,
            "depth": self.depth,
            "hashes": { "sha256": "x".repeat(43) },
            "origin_server_ts": 1_700_000_000_000_u64 + self.depth * 1000,
            "prev_events": texts(&self.last.iter().collect::<Vec<_>>()),
            "room_id": self.room_id.as_str(),
            "sender": sender,
            "signatures": { "s0.example": { "ed25519:a_abcd": "x".repeat(86) } },
            "type": event_type,
        });
        if let Value::Object(event) = &mut event {
            if let Some(state_key) = state_key {
                event.insert("state_key".into(), state_key.into());
            }
            if is_create && self.rules.room_id_is_create_hash {
                event.remove("room_id");
            }
        }
        // The keys of a JSON value are sorted, and all is ASCII without escapes: it is canonical.
        let mut json = event.to_string();
        if self.signs {
            json = self.signed(&json);
        }
        let pdu = VerifiedPdu::restore(json.as_bytes(), self.rules, None, true).expect("a well-formed event");
        self.last = Some(pdu.event_id().clone());
        pdu
    }

    /// Gives an event a real hash, and a real signature in place of the one that it has.
    fn signed(&self, json: &str) -> String {
        let server = ServerName::parse("s0.example").expect("a server name");
        let key = SigningKey::from_seed(KeyId::parse("ed25519:a_abcd").expect("a key id"), &[7; 32]);
        let object = parse_object(json.as_bytes(), JsonMode::Strict).expect("it was just written");
        let signed = hash_and_sign_event(object, self.rules, &server, &key).expect("an event can be signed");
        String::from_utf8(object_to_canonical_bytes(&signed)).expect("canonical JSON is UTF-8")
    }
}

fn user(number: u32) -> String {
    format!("@user{number}:s{}.example", number % 3)
}

fn number_of(user: &str) -> Option<usize> {
    user.strip_prefix("@user")?.split_once(':')?.0.parse().ok()
}
