//! The commands and their options.

use std::{path::PathBuf, process::ExitCode};

use clap::{CommandFactory, Parser, Subcommand, ValueEnum};

use ravel_core::id::ServerName;
use ravel_store::log::RetentionLimits;
use rustix::fs::Mode;

#[cfg(feature = "backup")]
use crate::backup::PlaceName;
use crate::{
    command::{self, Failure, purge::Age, replay::ReplayTarget},
    database::DatabaseName,
    output::Output,
};

/// An event-sourced federation engine for Matrix, with pluggable storage.
#[derive(Debug, Parser)]
#[command(name = "ravel", version, about, after_help = EXIT_CODES)]
pub struct Cli {
    /// Print JSON for programs instead of text for people
    #[arg(long, global = true)]
    json: bool,
    /// What to do
    #[command(subcommand)]
    command: Command,
}

const EXIT_CODES: &str = "\
Exit codes: 0 all is well; 1 something disagrees, was dropped or is damaged (the output says what);
2 the input or the command line can't be used; 3 the database failed. With --json, an error is
{\"error\"} on the standard error.";

/// What each command prints with `--json`.
mod json_help {
    pub(super) const REPLAY: &str = "\
With --json: {\"rooms\": [ROOM...], \"total\": TOTAL}.

ROOM has file, room_id, room_version, events, accepted, rejected, soft_failed, redacted (events whose content hash did not match),
already_known, resolutions, current_state_fingerprint, dropped ([{line, event_id, why}]) and waiting (ids of events that build
on what is not there); with --check also merges, agree, disagree and, if there is one, first_disagreement ({line, event_id, what,
explanation}); with --as also as ({server, verdicts, differing: [{line, event_id, here, there, reason}],
forward_extremities_agree, current_state_agrees}, the last two null if they were not recorded).

TOTAL has the sums, seconds and events_per_second.

With several databases, or `all`: {\"databases\": [DATABASE...], \"equal\": true or false}. DATABASE has database, rooms and total as
above, stored ({rooms, events, states}: all that is in the database then, states being different ones), fingerprint, and equal
(to the first). The fingerprint is over every room's id, version, events with their JSON, verdicts, states and current state, as they
are read back from the database after it was closed. It is of the whole database: give new ones.

Exit code 1: an event was dropped or not judged, or with --check or --as something disagrees, or the fingerprints of several databases
differ. The first merge that disagrees is explained.";
    pub(super) const STATE: &str =
        "With --json: one line [\"type\", \"state_key\", \"event_id\"] for each entry, sorted.";
    pub(super) const EXPLAIN: &str = "\
With --json: one object: event_id, prev_events ([{event_id, state_after_fingerprint}]), steps, state_before_fingerprint, outcome
(accepted, soft_failed or rejected) and reason (null, or {check, code, rule, sentence}).

A step is named by step: conflict (key, candidates, absent_from_some), auth_difference, conflicted_state_subgraph and mainline
(events), power_order, mainline_order and depth_order (events: [{event_id, power_level or mainline_position or depth,
origin_server_ts, decided_by}]), check (event_id, key, allowed, code, rule, reason) and outcome (key, event_id or null).";
    pub(super) const DAG: &str = "\
With --json or --format json: {\"events\": [EVENT...], \"prev_events\": [[EVENT_ID, PREV_EVENT_ID]...]}. EVENT has event_id, type,
state_key, sender, depth, origin_server_ts, outcome (accepted, soft_failed or rejected), forward_extremity and purged.

In drawings, edges lead from an event to those it builds on. Red are rejected events, orange are soft-failed ones, bold are
forward extremities, dashed are purged ones; a box is a state event.

For example: ravel dag -d rocksdb:DIR ROOM | dot -Tsvg > room.svg";
    pub(super) const REBUILD: &str = "\
With --json: {\"entries\": N, \"rooms\": N}.

Killed in between, it leaves a database that only `ravel rebuild` opens: run it again.";
    pub(super) const VERIFY: &str = "\
With --json: {\"entries\": N, \"rooms\": N, \"findings\": [{\"kind\", \"room_id\", \"event_id\", \"message\"}...]}. kind is log,
projection, record (it can't be decoded) or surplus; room_id and event_id are null where they are not known.

What is wrong in a projection is mended by `ravel rebuild`; what is wrong in the log is not.";
    pub(super) const PURGE: &str = "\
With --json: {\"rooms\": [{\"room_id\", \"events\", \"states\", \"nodes\", \"bytes\"}...]}: how many events lost their content, around how
many the states were purged, how many snapshot nodes were deleted, and the bytes of entries and nodes that are free now. With
--resume room_id is null, with --retention there is also lifetime_ms: for how long events are kept, null if for ever.

What stays: ids, edges, verdicts and what rules read of every event; and whole, with their content, the events that are needed:
forward extremities, what is in the state at any event that stays, and their auth chains. See docs/purge.md. An engine may take its
time to give the space back to the disk; --compact makes it do so at once.

Killed in between, it is gone on with when the room is next needed, or by `ravel purge --resume`.";
    pub(super) const COLLECT: &str = "\
With --json: {\"rooms\": [{\"room_id\", \"kept\", \"deleted\", \"deleted_bytes\"}...]}.

Such nodes are left behind where branches of a room met, and by purges that were interrupted.";
    pub(super) const STATS: &str = "\
With --json: {\"rooms\": [ROOM...], \"total\": STATS, \"size_on_disk\": BYTES}. ROOM has room_id, room_version and what STATS has: events
({accepted, soft_failed, rejected, purged, without_states}), bytes (of keys and values, by keyspace), snapshots (different states),
nodes, shared_nodes (of more than one snapshot or node), unreferenced_nodes, state_changes, nodes_per_state_change and
forward_extremities; with --resolutions also resolutions: {count, unknown (what it builds on was purged), conflicted and
auth_difference ({median, p99, max}: state keys in conflict, events that only some of the states' events lead to), costliest (the
event before which most of both had to be looked at, or null)}.";
    #[cfg(feature = "backup")]
    pub(super) const BACKUP: &str = "\
With --json: {\"entries\": N, \"entries_added\": N, \"rooms\": N, \"segments_added\": N, \"bytes_added\": N, \"series\": N}; if what is
there already is damaged, {\"findings\": [{\"object\", \"room_id\", \"message\"}...]}.

The backup has the entries that the log had when the command began. A later run into the same place adds what is new; an
interrupted one is taken up. For a bucket the environment says AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION, and for other
services than Amazon's AWS_ENDPOINT_URL (with AWS_ALLOW_HTTP=true if that is http).

Exit code 1: the backup that is to be continued is damaged. Exit code 2: it is another database's, or the place can't be used.";
    #[cfg(feature = "backup")]
    pub(super) const RESTORE: &str = "\
With --json: {\"entries\": N, \"entries_added\": N, \"rooms\": N, \"findings\": []}, with --verify-only without entries_added; if
anything is wrong, {\"findings\": [{\"object\", \"room_id\", \"message\"}...]}, object and room_id null where they do not fit.

Interrupted, it leaves a database that only `ravel restore` opens: run it again, and it goes on from there.

Exit code 1: an object of the backup is missing or damaged, or a room's fingerprints are not those of the backup. Exit code 2: there
is no backup, the identity is missing or another's, the backup is of a newer format, or the database has something else.";
    pub(super) const EXPORT: &str = "\
With --json: {\"rooms\": [{\"file\", \"room_id\", \"events\", \"merges\", \"keys\", \"events_without_key\"}...]}.

Exit code 1: of some events no verify key is known, so that an import drops them.";
    pub(super) const IMPORT: &str = "\
With --json: as `ravel replay`.

Interrupted, run it again: what is there already is passed over. Exit code 1: an event was dropped or not judged.";
    pub(super) const INIT: &str = "\
With --json: {\"configuration\": FILE, \"signing_key\": FILE}.

Exit code 2: there is one of them already, or the folder can't be written. Nothing was changed then.";
    pub(super) const SERVE: &str = "\
With --json: one line when the server is ready, {\"server_name\", \"https\", \"http\", \"metrics\"}, addresses, null where it does not listen.

SIGINT and SIGTERM stop the server: it takes no more connections, running requests finish within limits.stop_seconds_max, and the exit
code is 0. A second one ends it at once, with 128 and the signal's number. SIGHUP reads the TLS certificate again and opens the log file
again.

Exit code 2: the configuration, or something it names, can't be used. Exit code 3: the database failed.";
    pub(super) const COPY: &str = "\
The source may be written to meanwhile, by a server that has it open. Stopped at any time, the same command goes on where it was; until it
is done, nobody else can write to the target.

For each room, the fingerprint of its current state and one over all its events, verdicts and states are compared as they were when
source and copy had the same entries.

With --switch the source takes no more events once the copy has nearly all, then the rest is copied and compared; whoever writes to the
source is told where it was moved. If the command fails in between, run it again. The way back is the same with source and
target exchanged.

With --json: {\"entries\": N, \"copied\": N, \"equal\": true or false, \"switched\": true or false, \"current_state_fingerprints\":
{ROOM_ID: FINGERPRINT...}}; if it was switched before, only {\"switched\": true}. With --follow there are lines {\"entries\": N, \"lag\": N,
\"entries_per_second\": N} until it is stopped.

Exit code 1: the copy is not equal; nothing was switched.";
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Take recorded rooms through the whole receipt path: signatures, hashes, authorization, resolution, storage
    #[command(after_long_help = json_help::REPLAY)]
    Replay {
        /// Files of recorded rooms, plain or compressed with gzip
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
        /// The database: rocksdb:DIR, sled:DIR, memory, or in builds with the feature `postgres` postgres://USER@HOST/DATABASE; or
        /// `all`: memory, RocksDB and sled, these two in temporary folders. With several databases, each is filled, read back, and
        /// compared with the first
        #[arg(long = "database", short, value_name = "DATABASE", required = true)]
        databases: Vec<ReplayTarget>,
        /// Compare the state before each merge with the recorded answer
        #[arg(long)]
        check: bool,
        /// Replay in this server's order of arrival, and compare its verdicts, forward extremities and current state
        #[arg(long = "as", value_name = "SERVER")]
        as_server: Option<String>,
    },
    /// Print a room's state: now, or before or after an event
    #[command(after_long_help = json_help::STATE)]
    State {
        #[command(flatten)]
        database: Database,
        /// The room's id, in single quotes, as a shell changes what follows ! and $
        room: String,
        /// The state before this event
        #[arg(long, value_name = "EVENT", conflicts_with = "after")]
        before: Option<String>,
        /// The state after this event
        #[arg(long, value_name = "EVENT")]
        after: Option<String>,
    },
    /// Tell how the state before an event came about, and how the event was judged
    #[command(after_long_help = json_help::EXPLAIN)]
    Explain {
        #[command(flatten)]
        database: Database,
        /// The room's id, in single quotes, as a shell changes what follows ! and $
        room: String,
        /// The event's id, in single quotes too
        event: String,
    },
    /// Draw a room's event graph
    #[command(after_long_help = json_help::DAG)]
    Dag {
        #[command(flatten)]
        database: Database,
        /// The room's id, in single quotes, as a shell changes what follows ! and $
        room: String,
        /// How to write it
        #[arg(long, value_enum, default_value_t = GraphFormat::Dot)]
        format: GraphFormat,
        /// Only this event and those near it
        #[arg(long, value_name = "EVENT")]
        around: Option<String>,
        /// How many steps from the event, both ways
        #[arg(long, value_name = "N", default_value_t = 3, requires = "around")]
        depth: usize,
    },
    /// Drop every projection and compute it again from the log
    #[command(after_long_help = json_help::REBUILD)]
    Rebuild {
        #[command(flatten)]
        database: Database,
    },
    /// Check the log and compare every projection with a replay of it
    #[command(after_long_help = json_help::VERIFY)]
    Verify {
        #[command(flatten)]
        database: Database,
    },
    /// Drop what is old from a room or from all rooms: the content of events and the states around them
    #[command(after_long_help = json_help::PURGE)]
    Purge {
        #[command(flatten)]
        database: Database,
        /// The room's id, in single quotes, as a shell changes what follows ! and $; all rooms if there is none
        #[arg(required_unless_present_any = ["older_than", "retention", "resume"])]
        room: Option<String>,
        #[command(flatten)]
        what: PurgeWhat,
        #[command(flatten)]
        limits: RetentionBounds,
        /// Give the space back to the disk now
        #[arg(long)]
        compact: bool,
    },
    /// Delete the snapshot nodes of a room, or of all rooms, that no state refers to any more
    #[command(after_long_help = json_help::COLLECT)]
    Collect {
        #[command(flatten)]
        database: Database,
        /// The room's id, in single quotes, as a shell changes what follows ! and $; all rooms if there is none
        room: Option<String>,
        /// Give the space back to the disk now
        #[arg(long)]
        compact: bool,
    },
    /// Tell what a room, or each room, costs: events, bytes, snapshots
    #[command(after_long_help = json_help::STATS)]
    Stats {
        #[command(flatten)]
        database: Database,
        /// The room's id, in single quotes, as a shell changes what follows ! and $; all rooms if there is none
        room: Option<String>,
        /// Resolve the states before every merge once more, and tell what that takes
        #[arg(long)]
        resolutions: bool,
    },
    /// Copy a database into one of any engine, also while it is written to, and prove the copy by every room's fingerprints
    #[command(after_long_help = json_help::COPY)]
    Copy {
        /// What to copy: rocksdb:DIR or sled:DIR, or postgres://USER@HOST/DATABASE
        #[arg(long, value_name = "DATABASE")]
        from: DatabaseName,
        /// Where to: rocksdb:DIR or sled:DIR, or postgres://USER@HOST/DATABASE; empty, missing, or an earlier copy
        #[arg(long, value_name = "DATABASE")]
        to: DatabaseName,
        /// Go on following the source until interrupted
        #[arg(long, conflicts_with = "switch")]
        follow: bool,
        /// Move to the copy: the source takes no more events
        #[arg(long)]
        switch: bool,
    },
    /// Back up a database that may be in use, to a folder or an S3-compatible bucket; later runs add what is new
    #[cfg(feature = "backup")]
    #[command(after_long_help = json_help::BACKUP)]
    Backup {
        #[command(flatten)]
        database: Database,
        /// Where to: a folder, or s3://BUCKET/PREFIX
        #[arg(long, value_name = "PLACE")]
        to: PlaceName,
        /// Encrypt to this age public key (age1...); may be given several times
        #[arg(long = "recipient", value_name = "KEY")]
        recipients: Vec<String>,
        /// Begin anew, and drop the earlier backup when all is written: needed after a purge, as old segments keep what was purged
        #[arg(long)]
        full: bool,
    },
    /// Restore a backup into an empty database of any engine, and prove it by every room's fingerprints
    #[cfg(feature = "backup")]
    #[command(after_long_help = json_help::RESTORE)]
    Restore {
        /// Where the backup is: a folder, or s3://BUCKET/PREFIX
        #[arg(long, value_name = "PLACE")]
        from: PlaceName,
        #[command(flatten)]
        target: command::backup::Target,
    },
    /// Write rooms as files of recorded rooms, which `ravel import` and `ravel replay` read
    #[command(after_long_help = json_help::EXPORT)]
    Export {
        #[command(flatten)]
        database: Database,
        /// The room's id, in single quotes, as a shell changes what follows ! and $; without it all rooms
        room: Option<String>,
        /// The file (compressed if it ends in .gz), or for all rooms the folder
        #[arg(long, short, value_name = "PATH")]
        output: PathBuf,
        /// The server that the files name as the one that saw the events
        #[arg(long, value_name = "NAME", default_value = "ravel", value_parser = ServerName::parse)]
        server_name: ServerName,
        /// Do not compress the files in a folder
        #[arg(long)]
        plain: bool,
    },
    /// Take files of recorded rooms into a database: verified, judged, stored, durable
    #[command(after_long_help = json_help::IMPORT)]
    Import {
        /// Files of recorded rooms, plain or compressed with gzip
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
        #[command(flatten)]
        database: Database,
    },
    /// Measure what rooms cost: state resolution beside ruma-state-res, memory and disk
    #[cfg(feature = "bench")]
    Bench {
        #[command(subcommand)]
        what: command::bench::What,
    },
    /// Make a folder with the configuration and the signing key of a new server
    #[command(after_long_help = json_help::INIT)]
    Init(command::serve::InitOptions),
    /// Print a commented configuration file, or check one
    Config(command::serve::ConfigOptions),
    /// Run a server
    #[command(after_long_help = json_help::SERVE)]
    Serve(command::serve::ServeOptions),
    /// Print the completion script of a shell
    Completions {
        /// The shell
        #[arg(value_enum)]
        shell: clap_complete::Shell,
    },
    /// Print the manual page, for `man -l`
    Man,
}

/// What is purged.
#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
struct PurgeWhat {
    /// What was received before this event
    #[arg(long, value_name = "EVENT", requires = "room")]
    before: Option<String>,
    /// What is older, such as 12h, 90d, 8w or 2y, up to the first event that is not
    #[arg(long, value_name = "AGE")]
    older_than: Option<Age>,
    /// What is older than the room's `m.room.retention` says (its max_lifetime), within the limits given here
    #[arg(long)]
    retention: bool,
    /// The whole room, as if it had never been there
    #[arg(long, requires = "room")]
    whole_room: bool,
    /// Nothing more: go on with purges that were interrupted
    #[arg(long, conflicts_with = "room")]
    resume: bool,
}

/// What else is purged. (An option that only requires another is accepted beside what conflicts with that one.)
const OTHERS_THAN_RETENTION: [&str; 4] = ["before", "older_than", "whole_room", "resume"];

/// What the server says about rooms' policies.
#[derive(Debug, clap::Args)]
struct RetentionBounds {
    /// The lifetime of events in rooms whose policy says none, or that have no valid policy; without it they keep all
    #[arg(long, value_name = "AGE", requires = "retention", conflicts_with_all = OTHERS_THAN_RETENTION)]
    default_max_lifetime: Option<Age>,
    /// No event goes before this age, whatever a room says
    #[arg(long, value_name = "AGE", requires = "retention", conflicts_with_all = OTHERS_THAN_RETENTION)]
    allowed_lifetime_min: Option<Age>,
    /// No longer lifetime than this, whatever a room says
    #[arg(long, value_name = "AGE", requires = "retention", conflicts_with_all = OTHERS_THAN_RETENTION)]
    allowed_lifetime_max: Option<Age>,
}

#[derive(Debug, clap::Args)]
struct Database {
    /// The database: rocksdb:DIR, sled:DIR, memory, or in builds with the feature `postgres` postgres://USER@HOST/DATABASE
    #[arg(long, short, value_name = "DATABASE")]
    database: DatabaseName,
}

/// How to write a graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum GraphFormat {
    /// Graphviz
    Dot,
    /// Mermaid, for Markdown
    Mermaid,
    /// Nodes and edges
    Json,
}

/// Runs the command line of this process.
pub fn run() -> ExitCode {
    // Whatever is written, databases, backups, exports, is for its owner alone, also in a folder that others may look into.
    rustix::process::umask(Mode::RWXG | Mode::RWXO);
    let cli = Cli::parse();
    let mut output = Output::of_process(cli.json);
    let result = execute(cli.command, &mut output);
    // What was found out before a failure stands before it.
    let written = output.finish().map_err(Failure::Output);
    match result.and_then(|code| written.map(|()| code)) {
        Ok(code) => code,
        Err(failure) => {
            output.fail(&failure);
            failure.exit_code()
        }
    }
}

fn execute(command: Command, output: &mut Output) -> Result<ExitCode, Failure> {
    match command {
        Command::Replay { files, databases, check, as_server } => {
            let options = command::replay::Options { check, as_server, skip_known: false };
            command::replay::run(&files, &databases, &options, output)
        }
        Command::State { database, room, before, after } => {
            let at = match (before, after) {
                (Some(event), _) => command::state::At::Before(event),
                (None, Some(event)) => command::state::At::After(event),
                (None, None) => command::state::At::Now,
            };
            command::state::run(&database.database, &room, &at, output)
        }
        Command::Explain { database, room, event } => command::explain::run(&database.database, &room, &event, output),
        Command::Dag { database, room, format, around, depth } => {
            let format = if output.is_json() { GraphFormat::Json } else { format };
            command::dag::run(&database.database, &room, format, around.as_deref().map(|event| (event, depth)), output)
        }
        Command::Rebuild { database } => command::maintain::rebuild(&database.database, output),
        Command::Verify { database } => command::maintain::verify(&database.database, output),
        #[cfg(feature = "backup")]
        Command::Backup { database, to, recipients, full } => {
            command::backup::backup(&database.database, &to, &recipients, full, output)
        }
        #[cfg(feature = "backup")]
        Command::Restore { from, target } => match target.database {
            Some(database) => command::backup::restore(&from, &database, target.identity.as_deref(), output),
            None => command::backup::verify(&from, target.identity.as_deref(), output),
        },
        Command::Export { database, room, output: path, server_name, plain } => {
            let options = command::export::Options { room, output: path, server_name, plain };
            command::export::run(&database.database, &options, output)
        }
        Command::Import { files, database } => command::replay::import(&files, &database.database, output),
        Command::Copy { from, to, follow, switch } => {
            command::copy::run(&from, &to, command::copy::Options { follow, switch }, output)
        }
        Command::Purge { database, room, what, limits, compact } => {
            let room = room.unwrap_or_default();
            let what = match what {
                PurgeWhat { before: Some(event), .. } => command::purge::What::Before { room, event },
                PurgeWhat { older_than: Some(age), .. } => {
                    command::purge::What::OlderThan { room: Some(room).filter(|room| !room.is_empty()), age }
                }
                PurgeWhat { retention: true, .. } => {
                    let limits = RetentionLimits {
                        default_max_ms: limits.default_max_lifetime.map(Age::millis),
                        allowed_min_ms: limits.allowed_lifetime_min.map(Age::millis),
                        allowed_max_ms: limits.allowed_lifetime_max.map(Age::millis),
                    };
                    command::purge::What::Retention { room: Some(room).filter(|room| !room.is_empty()), limits }
                }
                PurgeWhat { whole_room: true, .. } => command::purge::What::WholeRoom { room },
                PurgeWhat { .. } => command::purge::What::Resume,
            };
            command::purge::run(&database.database, &what, compact, output)
        }
        Command::Collect { database, room, compact } => {
            command::purge::collect(&database.database, room.as_deref(), compact, output)
        }
        Command::Stats { database, room, resolutions } => {
            command::stats::run(&database.database, room.as_deref(), resolutions, output)
        }
        #[cfg(feature = "bench")]
        Command::Bench { what: command::bench::What::Resolve(options) } => command::bench::resolve(&options, output),
        #[cfg(feature = "bench")]
        Command::Bench { what: command::bench::What::Room(options) } => command::bench::room::run(&options, output),
        #[cfg(feature = "bench")]
        Command::Bench { what: command::bench::What::Load(options) } => command::bench::load::run(&options),
        #[cfg(feature = "bench")]
        Command::Bench { what: command::bench::What::Storage(options) } => {
            command::bench::storage::run(&options, output)
        }
        Command::Init(options) => command::serve::init(&options, output),
        Command::Config(options) => command::serve::config(&options, output),
        Command::Serve(options) => command::serve::serve(&options, output),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "ravel", &mut script);
            output.bytes(&script);
            Ok(ExitCode::SUCCESS)
        }
        Command::Man => {
            let mut page = Vec::new();
            command::man_page(&Cli::command(), &mut page)?;
            output.bytes(&page);
            Ok(ExitCode::SUCCESS)
        }
    }
}
