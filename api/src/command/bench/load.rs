//! `ravel bench load`: many rooms that grow at once, each line of the output a promise that what it says is stored.

use std::{
    collections::BTreeSet,
    io::{self, Write},
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
};

use ravel_backends::{Engine, RocksDbOptions, RocksDbStore, SledOptions, SledStore};
use ravel_core::{
    id::RoomId,
    room::{Effect, PersistEvent, Receipt, Room},
};
use ravel_proptests::growing::GrowingRoom;
use ravel_store::{Durability, Store, block_on, log::EventLog};

use crate::{
    command::Failure,
    database::{DatabaseName, OpenError},
};

/// Which rooms grow, where, and how they are stored.
#[derive(Debug, clap::Args)]
pub struct LoadOptions {
    /// The database, made if it is not there: rocksdb:DIR, sled:DIR, memory, or in builds with the feature `postgres`
    /// postgres://USER@HOST/DATABASE
    #[arg(long, short, value_name = "DATABASE")]
    database: DatabaseName,
    /// How many rooms grow at once, each by a thread of its own
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u64).range(1..=1000))]
    rooms: u64,
    /// Makes other rooms
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// End after so many events, rather than when nobody reads the output any more
    #[arg(long, value_name = "N")]
    events: Option<u64>,
    /// How many events of a room are stored at a time
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=1000))]
    batch: u64,
    /// A room that has so many events is left, and the next one begun
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..))]
    room_events: u64,
    /// Promise nothing: what is stored may be lost until the command ends
    #[arg(long)]
    relaxed: bool,
    /// Little memory for the engine, so that it writes out and tidies up all the time
    #[arg(long)]
    small_buffers: bool,
    /// Print what was not stored yet, which must be noticed when the process is killed
    #[arg(long, hide = true)]
    acknowledge_early: bool,
}

pub(super) const HELP: &str = "\
The rooms are numbered, and their events are a function of seed and number: run again on its database, the command goes on where
the log stands.

The first line is `serving ROOM EVENTS FINGERPRINT`, once a room was loaded and its current state is known. Then after each append
`acknowledged ROOM EVENTS EVENT_ID` with the room's number, how many events it has and the last of them, written at once.";

/// Lets the rooms grow.
pub fn run(options: &LoadOptions) -> Result<ExitCode, Failure> {
    let store = open(options)?;
    let log = block_on(EventLog::open(store.clone()))?;
    let load = Load {
        options,
        known: log.rooms().into_iter().map(|(room_id, _)| room_id).collect(),
        log,
        left: AtomicU64::new(options.events.unwrap_or(u64::MAX)),
        ended: AtomicBool::new(false),
        serving: AtomicBool::new(false),
    };
    let failed = thread::scope(|scope| {
        let load = &load;
        let rooms: Vec<_> = (0..options.rooms).map(|room| scope.spawn(move || load.grow(room))).collect();
        let mut failed = Ok(());
        for room in rooms {
            match room.join() {
                Ok(result) => failed = failed.and(result),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        failed
    });
    let flushed = block_on(store.flush());
    failed?;
    flushed?;
    Ok(ExitCode::SUCCESS)
}

fn open(options: &LoadOptions) -> Result<Arc<dyn Store>, Failure> {
    let DatabaseName::Directory(engine, path) = &options.database else {
        return Ok(options.database.open_or_create()?);
    };
    if !options.small_buffers {
        return Ok(options.database.open_or_create()?);
    }
    let opened: Result<Arc<dyn Store>, _> = match engine {
        Engine::RocksDb => {
            let options = RocksDbOptions {
                write_buffer_bytes: 128 * 1024,
                block_cache_bytes: 512 * 1024,
                ..RocksDbOptions::default()
            };
            RocksDbStore::open(path, &options).map(|store| Arc::new(store) as _)
        }
        Engine::Sled => {
            let options = SledOptions { cache_bytes: 1024 * 1024, ..SledOptions::default() };
            SledStore::open(path, &options).map(|store| Arc::new(store) as _)
        }
        other => other.open(path),
    };
    Ok(opened.map_err(|source| OpenError::Store { name: options.database.clone(), source })?)
}

struct Load<'a> {
    options: &'a LoadOptions,
    /// The rooms that were there at the start.
    known: BTreeSet<RoomId>,
    log: EventLog,
    /// How many events are still to be made.
    left: AtomicU64,
    /// Somebody failed, or nobody reads the output.
    ended: AtomicBool,
    serving: AtomicBool,
}

impl Load<'_> {
    /// Lets one room after the other grow, every `rooms`th from the first on, beginning with the last that there is.
    fn grow(&self, first: u64) -> Result<(), Failure> {
        let result = self.grow_rooms(first);
        if result.is_err() {
            self.ended.store(true, Ordering::Release);
        }
        match result {
            Err(Failure::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            result => result,
        }
    }

    fn grow_rooms(&self, first: u64) -> Result<(), Failure> {
        let new = |number| GrowingRoom::new(self.options.seed, number);
        let mut growing = new(first);
        loop {
            let next = new(growing.number() + self.options.rooms);
            if !self.known.contains(next.room_id()) {
                break;
            }
            growing = next;
        }
        while !self.ended.load(Ordering::Acquire) {
            let mut room = self.load(&growing)?;
            if !self.serving.swap(true, Ordering::AcqRel) {
                say(format_args!(
                    "serving {} {} {}",
                    growing.number(),
                    room.len(),
                    room.current_state().fingerprint()
                ))?;
            }
            while (room.len() as u64) < self.options.room_events {
                let count = self.take(self.options.batch.min(self.options.room_events - room.len() as u64));
                if count == 0 || self.ended.load(Ordering::Acquire) {
                    return Ok(());
                }
                self.store(&growing, &mut room, count)?;
            }
            growing = new(growing.number() + self.options.rooms);
        }
        Ok(())
    }

    /// Returns how many of the events that are wanted may be made.
    fn take(&self, wanted: u64) -> u64 {
        let take = |left: u64| Some(left.saturating_sub(wanted));
        let left = self.left.fetch_update(Ordering::AcqRel, Ordering::Acquire, take).unwrap_or_default();
        left.min(wanted)
    }

    fn store(&self, growing: &GrowingRoom, room: &mut Room, count: u64) -> Result<(), Failure> {
        let mut events: Vec<PersistEvent> = Vec::new();
        for _ in 0..count {
            let pdu = growing.next(room);
            if let Receipt::Judged(judged) = room.handle_pdu(&pdu)? {
                events.extend(judged.effects.into_iter().filter_map(|effect| match effect {
                    Effect::Persist(persist) => Some(*persist),
                    Effect::Publish(_) => None,
                }));
            }
        }
        let Some(last) = events.last().map(|event| event.event.event_id.clone()) else { return Ok(()) };
        let acknowledge = || say(format_args!("acknowledged {} {} {last}", growing.number(), room.len()));
        if self.options.acknowledge_early {
            acknowledge()?;
        }
        let durability = if self.options.relaxed { Durability::Relaxed } else { Durability::Sync };
        block_on(self.log.append(growing.room_id(), growing.rules(), &events, durability))?;
        if self.options.acknowledge_early { Ok(()) } else { acknowledge() }
    }

    fn load(&self, growing: &GrowingRoom) -> Result<Room, Failure> {
        Ok(block_on(self.log.load_room(growing.room_id()))?.unwrap_or_else(|| growing.empty()))
    }
}

/// Writes a line with one write, so that whoever reads has all of it or nothing when this process is killed.
fn say(line: std::fmt::Arguments<'_>) -> Result<(), Failure> {
    let line = format!("{line}\n");
    let mut out = io::stdout().lock();
    out.write_all(line.as_bytes())?;
    out.flush()?;
    Ok(())
}
