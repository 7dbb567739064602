//! `ravel backup` and `ravel restore`.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use ravel_store::{block_on, log::EventLog};
use serde_json::json;

use super::{Failure, count, disagreement, open_log};
use crate::{
    backup::{self, Backup, BackupError, Identities, Options, Place, PlaceName, Problem, Recipients},
    database::DatabaseName,
    output::Output,
};

/// Backs up the entries that the log has now.
pub fn backup(
    database: &DatabaseName,
    to: &PlaceName,
    recipients: &[String],
    full: bool,
    output: &mut Output,
) -> Result<ExitCode, Failure> {
    let options = Options { recipients: Recipients::parse(recipients)?, full, ..Options::default() };
    let log = open_log(database)?;
    let place = Place::open_or_create(to)?;
    let progress = output.progress(log.len(), "backing up", "entries");
    let made = backup::make(&log, &place, &options, |done| progress.set_position(done));
    progress.finish_and_clear();
    let made = match made {
        Err(BackupError::Damaged { object, damage }) => {
            return Ok(print_problems(&[Problem::Object { object, damage }], output));
        }
        made => made?,
    };
    let manifest = &made.manifest;
    let added = manifest.position - made.position_before;
    if output.is_json() {
        output.value(&json!({
            "entries": manifest.position,
            "entries_added": added,
            "rooms": manifest.rooms.len(),
            "segments_added": made.segments_added,
            "bytes_added": made.bytes_added,
            "series": manifest.series,
        }));
    } else {
        let segments = count(made.segments_added, "segment");
        output.line(format_args!("{} added in {segments} of {}", log_entries(added), count(made.bytes_added, "byte")));
        let rooms = count(manifest.rooms.len() as u64, "room");
        output.line(format_args!("{to} has {} of {rooms}", log_entries(manifest.position)));
    }
    Ok(ExitCode::SUCCESS)
}

/// Restores a backup into a database that is empty, or that an interrupted restore left.
pub fn restore(
    from: &PlaceName,
    database: &DatabaseName,
    identity: Option<&Path>,
    output: &mut Output,
) -> Result<ExitCode, Failure> {
    let (place, identities) = open(from, identity)?;
    // Nothing is made for a backup that can't be read.
    let backup = match Backup::open(&place, &identities).and_then(|backup| backup.probe().map(|()| backup)) {
        Err(BackupError::Damaged { object, damage }) => {
            return Ok(print_problems(&[Problem::Object { object, damage }], output));
        }
        backup => backup?,
    };
    let log = block_on(EventLog::open_to_restore(database.open_or_create()?))?;
    let progress = output.progress(backup.manifest().position, "restoring", "entries");
    let mut there = log.len();
    let restored = backup.restore(log, |done, _| {
        there = done;
        progress.set_position(done);
    });
    progress.finish_and_clear();
    let restored = match restored {
        Err(BackupError::Damaged { object, damage }) => {
            let code = print_problems(&[Problem::Object { object, damage }], output);
            if !output.is_json() {
                let restored = log_entries(there);
                output.line(format_args!("{restored} restored; the database is not complete and can't be opened"));
            }
            return Ok(code);
        }
        restored => restored?,
    };
    if !restored.problems.is_empty() {
        return Ok(print_problems(&restored.problems, output));
    }
    let (entries, added) = (restored.entries, restored.entries - restored.entries_before);
    if output.is_json() {
        output.value(&json!({
            "entries": entries, "entries_added": added, "rooms": restored.rooms, "findings": [],
        }));
    } else {
        let rooms = count(restored.rooms, "room");
        output.line(format_args!("{} restored, {} there before", log_entries(added), restored.entries_before));
        output
            .line(format_args!("{rooms}, {}: every room's fingerprints are those of the backup", log_entries(entries)));
    }
    Ok(ExitCode::SUCCESS)
}

/// Checks every object of a backup.
pub fn verify(from: &PlaceName, identity: Option<&Path>, output: &mut Output) -> Result<ExitCode, Failure> {
    let (place, identities) = open(from, identity)?;
    let backup = match Backup::open(&place, &identities) {
        Err(BackupError::Damaged { object, damage }) => {
            return Ok(print_problems(&[Problem::Object { object, damage }], output));
        }
        backup => backup?,
    };
    let manifest = backup.manifest();
    let progress = output.progress(manifest.position, "checking", "entries");
    let problems = backup.verify(|done, _| progress.set_position(done));
    progress.finish_and_clear();
    let problems = problems?;
    if !problems.is_empty() {
        return Ok(print_problems(&problems, output));
    }
    let (entries, rooms) = (manifest.position, manifest.rooms.len() as u64);
    if output.is_json() {
        output.value(&json!({ "entries": entries, "rooms": rooms, "findings": [] }));
    } else {
        let segments = count(manifest.segments.len() as u64, "segment");
        output.line(format_args!("{segments}, {}, {}: all is well", log_entries(entries), count(rooms, "room")));
    }
    Ok(ExitCode::SUCCESS)
}

fn open(from: &PlaceName, identity: Option<&Path>) -> Result<(Place, Identities), Failure> {
    let identities = identity.map(Identities::read).transpose()?.unwrap_or_default();
    Ok((Place::open(from)?, identities))
}

fn print_problems(problems: &[Problem], output: &mut Output) -> ExitCode {
    if output.is_json() {
        let findings: Vec<_> = problems
            .iter()
            .map(|problem| {
                let (object, room_id) = match problem {
                    Problem::Object { object, .. } => (Some(object.as_str()), None),
                    Problem::Room { room_id, .. } => (None, Some(room_id.as_str())),
                    Problem::RoomMissing { .. } => (None, None),
                };
                json!({ "object": object, "room_id": room_id, "message": problem.to_string() })
            })
            .collect();
        output.value(&json!({ "findings": findings }));
    } else {
        for problem in problems {
            output.line(problem);
        }
        output.line(format_args!("{} wrong", count(problems.len() as u64, "thing")));
    }
    disagreement()
}

fn log_entries(entries: u64) -> String {
    count(entries, "log entry")
}

/// The options of `ravel restore` that name a database or do without.
#[derive(Debug, clap::Args)]
pub struct Target {
    /// Where to: as for other commands, empty, missing or left by an interrupted restore
    #[arg(long, short, value_name = "DATABASE", required_unless_present = "verify_only")]
    pub database: Option<DatabaseName>,
    /// Check every object of the backup, and write nothing
    #[arg(long, conflicts_with = "database")]
    pub verify_only: bool,
    /// The age identities that open an encrypted backup, as age-keygen writes them
    #[arg(long, value_name = "FILE")]
    pub identity: Option<PathBuf>,
}
