//! Kills `ravel bench load` with SIGKILL at random moments, over and over on the same database, and compares what is there with
//! what was acknowledged.
//!
//! A cycle starts the binary, lets it work for a moment that the seed and the number of the cycle decide, kills it, and checks
//! that every event it acknowledged is in the log, in order, and that nothing changed of what was there. The process is killed
//! while it opens the database too, and some databases have so little memory that files are written out and merged all the time.

mod load;
mod witness;

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use ravel_backends::Engine;
#[cfg(feature = "postgres")]
use ravel_backends::{PostgresOptions, PostgresStore, postgres::testing::Cluster};
use ravel_core::id::EventId;
use ravel_store::{
    Store, StoreError,
    log::{Finding, LogError},
};

use self::{
    load::{Load, LoadSettings},
    witness::Witness,
};
pub use crate::target::Target;

use crate::seed::Choices;

/// What is killed, how often, and how it is looked at.
#[derive(Clone, Debug)]
pub struct Options {
    /// The binary `ravel`, built with the feature `bench`.
    pub binary: PathBuf,
    /// The engine.
    pub engine: Target,
    /// A folder for the databases, which is kept when something is wrong.
    pub folder: PathBuf,
    /// Decides all that chance decides here.
    pub seed: u64,
    /// The first cycle; a database begins with it.
    pub first_cycle: u64,
    /// How many cycles.
    pub cycles: u64,
    /// After so many cycles an empty database is begun.
    pub cycles_of_a_database: u64,
    /// After so many cycles the log is replayed and compared with all that is stored.
    pub verify_every: u64,
    /// Has the binary acknowledge what is not stored, which must be found.
    pub acknowledge_early: bool,
}

impl Options {
    /// Returns what is usual for an engine.
    pub fn new(binary: PathBuf, engine: Target, folder: PathBuf) -> Self {
        Self {
            binary,
            engine,
            folder,
            seed: 1,
            first_cycle: 0,
            cycles: 20,
            cycles_of_a_database: 50,
            verify_every: 25,
            acknowledge_early: false,
        }
    }
}

/// What happened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// How often the process was killed.
    pub cycles: u64,
    /// How often that was before it had acknowledged anything.
    pub killed_while_starting: u64,
    /// How often the server was killed under the process.
    pub servers_killed: u64,
    /// How many databases were begun.
    pub databases: u64,
    /// How many events were acknowledged; each was there.
    pub acknowledged: u64,
    /// How many entries were stored without having been acknowledged: the process was killed in between.
    pub not_acknowledged: u64,
    /// How often all that is stored was compared with a replay.
    pub verified: u64,
    /// How long all that took.
    pub elapsed: Duration,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cycles, killed_while_starting, databases, acknowledged, not_acknowledged, verified, .. } = self;
        let elapsed = self.elapsed.as_secs_f64();
        let servers = match self.servers_killed {
            0 => String::new(),
            killed => format!("; {killed} of the server, too"),
        };
        let each = elapsed / (*cycles).max(1) as f64;
        write!(
            f,
            "{cycles} kills ({killed_while_starting} before anything was acknowledged{servers}) on {databases} databases, {acknowledged} events \
             acknowledged, 0 lost, {not_acknowledged} stored and not yet acknowledged, {verified} times compared with a replay, {elapsed:.0} s, \
             {each:.2} s each",
        )
    }
}

/// What is wrong, in which cycle.
#[derive(Debug, thiserror::Error)]
#[error("cycle {cycle}: {problem}\nthe database is {database}\nrun it again: {again}")]
pub struct Failure {
    /// The cycle.
    pub cycle: u64,
    /// What is wrong.
    pub problem: Box<Problem>,
    /// What the database is called on the command line.
    pub database: String,
    /// The command that runs all cycles of this database again; when exactly the process is killed differs.
    pub again: String,
}

/// What is wrong.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum Problem {
    #[error("event {count} of room {room}, {event_id}, was acknowledged and is lost; the room has {len} events")]
    Lost { room: u64, count: usize, event_id: EventId, len: usize },
    #[error("event {count} of room {room} was acknowledged as {acknowledged}, and {found} is there")]
    OtherEvent { room: u64, count: usize, acknowledged: EventId, found: EventId },
    #[error("room {room} does not begin any more with the {count} events that it had")]
    HistoryChanged { room: u64, count: usize },
    #[error("the log has a hole: entry {0} is missing")]
    Hole(u64),
    #[error("the log had {before} entries, and has {now}")]
    Shorter { before: u64, now: u64 },
    #[error("a replay of the log differs in {} places, the first: {}", .0.len(), .0.first().map(ToString::to_string).unwrap_or_default())]
    Findings(Vec<Finding>),
    #[error("the log can't be read: {0}")]
    Log(#[from] LogError),
    #[error("the database can't be opened: {0}")]
    Store(#[from] StoreError),
    #[error("the process ended by itself, with {status}: {stderr}")]
    Ended { status: String, stderr: String },
    #[error("the process did not acknowledge anything within {} seconds: {stderr}", .waited.as_secs())]
    Stuck { waited: Duration, stderr: String },
    #[error("the process printed a line that is not understood: {0:?}")]
    Line(String),
    #[error("the process can't be started, killed or read: {0}")]
    Io(#[from] io::Error),
}

/// How long the process has at most to acknowledge something.
const ACKNOWLEDGED_WITHIN: Duration = Duration::from_secs(60);

/// How many rooms grow at once.
const ROOMS: u64 = 16;

/// Runs the cycles; `progress` is told of each.
///
/// # Errors
///
/// [`Failure`] at the first thing that is wrong; the database stays where it is.
pub fn run(options: &Options, mut progress: impl FnMut(&Summary)) -> Result<Summary, Failure> {
    let began = Instant::now();
    let mut summary = Summary::default();
    let server = Server::start(options);
    let mut database: Option<Database<'_>> = None;
    for cycle in options.first_cycle..options.first_cycle + options.cycles {
        let place_in_database = (cycle - options.first_cycle) % options.cycles_of_a_database;
        if place_in_database == 0
            && let Some(old) = database.take()
        {
            old.remove();
        }
        let database = database.get_or_insert_with(|| Database::new(options, cycle, &server));
        summary.databases += u64::from(place_in_database == 0);
        let is_last =
            place_in_database + 1 == options.cycles_of_a_database || cycle + 1 == options.first_cycle + options.cycles;
        let result = database.cycle(options, cycle, is_last, &mut summary);
        result.map_err(|problem| Failure {
            cycle,
            problem: Box::new(problem),
            database: database.name.clone(),
            again: format!(
                "ravel-kills --engine {} --seed {} --first-cycle {} --cycles {} --binary {}",
                options.engine,
                options.seed,
                cycle - place_in_database,
                place_in_database + 1,
                options.binary.display()
            ),
        })?;
        summary.cycles += 1;
        summary.elapsed = began.elapsed();
        progress(&summary);
    }
    if let Some(old) = database {
        old.remove();
    }
    Ok(summary)
}

/// What the databases need besides the process.
enum Server {
    None(Engine),
    #[cfg(feature = "postgres")]
    Postgres(Cluster),
}

impl Server {
    fn start(options: &Options) -> Self {
        match options.engine {
            Target::Directory(engine) => Self::None(engine),
            #[cfg(feature = "postgres")]
            Target::Postgres => Self::Postgres(Cluster::start_in(&options.folder.join("postgres"))),
        }
    }
}

/// A database, and what is known of it.
struct Database<'a> {
    server: &'a Server,
    /// As on the command line.
    name: String,
    path: PathBuf,
    /// The rooms' seed.
    seed: u64,
    witness: Witness,
}

impl<'a> Database<'a> {
    fn new(options: &Options, cycle: u64, server: &'a Server) -> Self {
        let seed = options.seed.wrapping_add(cycle);
        let path = options.folder.join(format!("{}-{seed}", options.engine));
        let name = match server {
            Server::None(engine) => format!("{engine}:{}", path.display()),
            #[cfg(feature = "postgres")]
            Server::Postgres(cluster) => cluster.new_schema(&format!("database_{seed}")),
        };
        Self { server, name, path, seed, witness: Witness::default() }
    }

    fn open(&self) -> Result<Arc<dyn Store>, StoreError> {
        match self.server {
            Server::None(engine) => engine.open(&self.path),
            #[cfg(feature = "postgres")]
            Server::Postgres(_) => Ok(Arc::new(PostgresStore::open(&self.name, &PostgresOptions::default())?)),
        }
    }

    fn cycle(&mut self, options: &Options, cycle: u64, is_last: bool, summary: &mut Summary) -> Result<(), Problem> {
        let mut choices = Choices::new(options.seed ^ cycle.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let kill_while_starting = choices.below(8) == 0;
        let small_buffers = choices.below(2) == 0;
        let batch = [1, 1, 1, 50][choices.below(4)];
        let wait = Duration::from_micros(choices.below(if kill_while_starting { 60_000 } else { 300_000 }) as u64);
        // Otherwise it is the binary's next start that recovers what the kill left.
        let looks = is_last || choices.below(4) != 0;
        let kills_server = choices.below(2) == 0;
        let verifies = is_last || (cycle + 1).is_multiple_of(options.verify_every);

        let settings = LoadSettings {
            database: &self.name,
            rooms: ROOMS,
            seed: self.seed,
            batch,
            small_buffers,
            acknowledge_early: options.acknowledge_early,
        };
        let mut load = Load::start(&options.binary, &settings)?;
        if !kill_while_starting {
            load.wait_for_acknowledgement(ACKNOWLEDGED_WITHIN)?;
        }
        thread::sleep(wait);
        let acknowledged = match self.server {
            #[cfg(feature = "postgres")]
            Server::Postgres(cluster) if kills_server => {
                cluster.kill();
                cluster.start_again();
                summary.servers_killed += 1;
                load.go_on_or_give_up(ACKNOWLEDGED_WITHIN)?
            }
            _ => load.kill()?,
        };
        let _ = kills_server;
        summary.killed_while_starting += u64::from(acknowledged.is_empty());
        self.witness.hear(acknowledged);
        if looks || verifies {
            let seen = self.witness.look(&self.open()?, self.seed, verifies)?;
            summary.acknowledged += seen.acknowledged;
            summary.not_acknowledged += seen.not_acknowledged;
            summary.verified += u64::from(verifies);
        }
        Ok(())
    }

    /// What is left of a database that was found right is of no use.
    fn remove(self) {
        let _ = fs::remove_dir_all(self.path);
    }
}

/// How a process started after it was killed.
#[derive(Clone, Copy, Debug)]
pub struct Start {
    /// From the start of the process until it had answered the first room's state.
    pub serving: Duration,
    /// Until it had acknowledged the first event.
    pub acknowledged: Duration,
}

/// Kills the process that writes to a database, starts it again and measures that; `events` fills a database that is empty.
///
/// # Errors
///
/// When the process ends by itself, or takes longer than a minute to start.
pub fn measure_start(binary: &Path, database: &str, seed: u64, events: Option<u64>) -> Result<Start, Problem> {
    let settings =
        LoadSettings { database, rooms: ROOMS, seed, batch: 1, small_buffers: false, acknowledge_early: false };
    if let Some(events) = events {
        load::fill(binary, &settings, events)?;
    }
    // So that there is something to recover.
    let mut load = Load::start_in_long_rooms(binary, &settings)?;
    load.wait_for_acknowledgement(ACKNOWLEDGED_WITHIN)?;
    thread::sleep(Duration::from_secs(2));
    load.kill()?;
    let began = Instant::now();
    let mut load = Load::start_in_long_rooms(binary, &settings)?;
    load.wait_until_serving(ACKNOWLEDGED_WITHIN)?;
    let serving = began.elapsed();
    load.wait_for_acknowledgement(ACKNOWLEDGED_WITHIN)?;
    let acknowledged = began.elapsed();
    load.kill()?;
    Ok(Start { serving, acknowledged })
}
