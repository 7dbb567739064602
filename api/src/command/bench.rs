//! `ravel bench`: how long a resolution takes, beside ruma-state-res on the same input in the same run; what a room costs; a load of
//! many rooms; and what storage engines do with it.

pub mod load;
mod measure;
mod plot;
mod recorded;
pub mod room;
pub mod storage;

use std::{
    fs::{self, OpenOptions},
    path::{Path, PathBuf},
    process::ExitCode,
};

use ravel_core::room_version::RoomVersion;
use ravel_proptests::rooms::Shape;
use serde_json::Value;

use self::{
    measure::{MeasuredShape, clock_us},
    recorded::MeasuredFile,
};
use super::{Failure, disagreement};
use crate::{output::Output, recorded_room::RecordedRoom};

/// What to measure.
#[derive(Debug, clap::Subcommand)]
pub enum What {
    /// State resolution: the rooms of a fixed table, one room of the given shape, or the merges of recorded rooms
    #[command(after_long_help = JSON_HELP)]
    Resolve(ResolveOptions),
    /// What a room takes in memory and on disk, and each further change of its state
    Room(self::room::RoomOptions),
    /// Let many rooms grow at once, and print what is stored as soon as it is
    #[command(after_long_help = self::load::HELP)]
    Load(self::load::LoadOptions),
    /// The same work on every engine, beside what the bare engine does with the same keys and bytes
    #[command(after_long_help = self::storage::HELP)]
    Storage(self::storage::StorageOptions),
}

/// What is resolved; without any file or shape, a fixed table of rooms.
#[derive(Debug, clap::Args)]
#[command(group(clap::ArgGroup::new("shape").multiple(true)))]
pub struct ResolveOptions {
    /// Recorded rooms, plain or gzip, of which every merge is resolved; without any, generated rooms are
    #[arg(value_name = "FILE", conflicts_with_all = ["shape", "room_version", "seed"])]
    files: Vec<PathBuf>,
    /// How many users are joined before the forks [default: 1000]
    #[arg(long, value_name = "N", group = "shape", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    members: Option<u32>,
    /// How many times the power levels change before the forks [default: 10]
    #[arg(long, value_name = "N", group = "shape", value_parser = clap::value_parser!(u32).range(..=100_000))]
    power_changes: Option<u32>,
    /// How many forks there are [default: 2]
    #[arg(long, value_name = "N", group = "shape", value_parser = clap::value_parser!(u32).range(2..=1000))]
    forks: Option<u32>,
    /// How many events are in conflict, over all forks [default: 22]
    #[arg(long, value_name = "N", group = "shape", value_parser = clap::value_parser!(u32).range(2..=1_000_000))]
    conflict: Option<u32>,
    /// How many users the power levels name [default: 10]
    #[arg(long, value_name = "N", group = "shape", value_parser = clap::value_parser!(u32).range(1..=2000))]
    power_users: Option<u32>,
    /// How many times each fork changes the power levels [default: 1]
    #[arg(long, value_name = "N", group = "shape", value_parser = clap::value_parser!(u32).range(..=10_000))]
    chained_power_changes: Option<u32>,
    /// Let each fork but the first begin in the midst of another one
    #[arg(long, group = "shape")]
    nested: bool,
    /// Let all users with power act, and the forks refuse each other's events
    #[arg(long, group = "shape")]
    disputed: bool,
    /// The generated rooms' version, 2 to 12; without it 11 and 12
    #[arg(long, value_name = "VERSION", value_parser = room_version)]
    room_version: Option<RoomVersion>,
    /// Makes other generated rooms of the same shape [default: 1]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Draw cost against room size and against conflict size, as SVG files in this folder
    #[arg(long, value_name = "DIR", conflicts_with_all = ["shape", "files"])]
    plot: Option<PathBuf>,
    /// Write what --json prints to this file too
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
}

const JSON_HELP: &str = "\
With --json: a list of objects, one for each generated room, or for each file the sums over its merges.

Each has room_version, members (joined; of a file the most), forks (resolved states; of a file the most), conflicted_events, ravel_us and ruma_us (CPU
time of a resolution in microseconds: the median; the same name with _min, _q1, _q3 and _max has the fastest, the quartiles and the
slowest), ravel_runs and ruma_runs (how many), ratio (ruma_us / ravel_us), allocations and reads (of one resolution by Ravel: of
memory while the room is there, and of records of a store when nothing of it is) and equal (whether the answers are).

Of a generated room also power_changes, power_users, chained_power_changes, nested, disputed and seed. Of a file also file, merges
(events with several prev events whose states differ), ravel_us_per_merge and ruma_us_per_merge (the median merge), left_out (events
that Ravel dropped or can't judge) and different_answers ([{event_id, why}]); ruma_us and ratio are null in room version 1, whose
resolution ruma-state-res does not have.

Exit code 1: some answers differ, or events of a file were left out.";

pub(super) fn room_version(text: &str) -> Result<RoomVersion, String> {
    let version = RoomVersion::parse(text).filter(|version| *version != RoomVersion::V1);
    version.ok_or_else(|| "expected a room version from 2 to 12".to_owned())
}

/// Conflicts in a room of 10,000 members that plots have between those of the fixed rooms.
const PLOTTED_TOO: [usize; 2] = [202, 632];

impl ResolveOptions {
    fn shapes(&self) -> Vec<Shape> {
        let versions =
            self.room_version.map_or_else(|| vec![RoomVersion::V11, RoomVersion::V12], |version| vec![version]);
        versions.into_iter().flat_map(|version| self.shapes_of(version)).collect()
    }

    fn shapes_of(&self, room_version: RoomVersion) -> Vec<Shape> {
        let shape = Shape { room_version, seed: self.seed.unwrap_or(1), ..Shape::default() };
        let numbers =
            [self.members, self.power_changes, self.forks, self.conflict, self.power_users, self.chained_power_changes];
        if self.nested || self.disputed || numbers.iter().any(Option::is_some) {
            let or = |number: Option<u32>, default| number.map_or(default, |number| number as usize);
            return vec![Shape {
                members: or(self.members, shape.members),
                power_changes: or(self.power_changes, shape.power_changes),
                power_users: or(self.power_users, shape.power_users),
                forks: or(self.forks, shape.forks),
                chained_power_changes: or(self.chained_power_changes, shape.chained_power_changes),
                conflicted_events: or(self.conflict, shape.conflicted_events),
                nested: self.nested,
                disputed: self.disputed,
                ..shape
            }];
        }
        let seed = shape.seed;
        let plotted_too = if self.plot.is_some() { &PLOTTED_TOO[..] } else { &[] };
        let plotted_too = plotted_too.iter().map(|conflicted_events| Shape {
            members: 10_000,
            conflicted_events: *conflicted_events,
            ..shape.clone()
        });
        Shape::measured(room_version).chain(plotted_too).map(|shape| Shape { seed, ..shape }).collect()
    }
}

/// Measures and prints; exit code 1 if the answers differ.
pub fn resolve(options: &ResolveOptions, output: &mut Output) -> Result<ExitCode, Failure> {
    let shapes = options.shapes();
    if options.files.is_empty() {
        for shape in &shapes {
            shape.check()?;
        }
    }
    // What can't be written is better known before the minutes of measuring.
    let unwritable = |path: &Path| {
        let path = path.to_owned();
        move |source| Failure::Unwritable { path, source }
    };
    if let Some(file) = &options.output {
        OpenOptions::new().create(true).append(true).open(file).map_err(unwritable(file))?;
    }
    if let Some(folder) = &options.plot {
        fs::create_dir_all(folder).map_err(unwritable(folder))?;
    }

    let (rows, all_well) = match options.files.as_slice() {
        [] => generated(&shapes, options.plot.as_deref(), output)?,
        files => recorded_files(files, output)?,
    };
    let rows = Value::Array(rows);
    if let Some(file) = &options.output {
        fs::write(file, format!("{rows:#}\n")).map_err(unwritable(file))?;
    }
    if output.is_json() {
        output.value(&rows);
    }
    Ok(if all_well { ExitCode::SUCCESS } else { disagreement() })
}

/// Measures generated rooms; returns the rows as JSON, and whether all answers are equal.
fn generated(shapes: &[Shape], plot: Option<&Path>, output: &mut Output) -> Result<(Vec<Value>, bool), Failure> {
    header(output, "one resolution of a room's forks", &MeasuredShape::header());
    let mut measured = Vec::new();
    for shape in shapes {
        let row = MeasuredShape::of(shape)?;
        print(output, || row.line())?;
        measured.push(row);
    }
    if let Some(folder) = plot {
        for path in plot::draw(folder, &measured)? {
            print(output, || format!("{} written", path.display()))?;
        }
    }
    Ok((measured.iter().map(MeasuredShape::to_json).collect(), measured.iter().all(|row| row.equal)))
}

/// Measures the merges of recorded rooms; returns the rows as JSON, and whether all events were judged and all answers are equal.
fn recorded_files(files: &[PathBuf], output: &mut Output) -> Result<(Vec<Value>, bool), Failure> {
    // An unreadable file is better known before the minutes of measuring.
    let rooms = files.iter().map(|path| RecordedRoom::read(path)).collect::<Result<Vec<_>, _>>()?;
    header(
        output,
        "resolving all merges of a room one after the other, and of the median one",
        &MeasuredFile::header(),
    );
    let mut measured = Vec::new();
    for room in &rooms {
        let row = MeasuredFile::of(room)?;
        for line in row.lines() {
            print(output, || line)?;
        }
        measured.push(row);
    }
    let merges: usize = measured.iter().map(|row| row.merges).sum();
    let differing: usize = measured.iter().map(|row| row.different_answers.len()).sum();
    print(output, || format!("{merges} merges resolved, {differing} answers of ruma-state-res differ"))?;
    let all_judged = measured.iter().all(|row| row.left_out == 0);
    Ok((measured.iter().map(MeasuredFile::to_json).collect(), differing == 0 && all_judged))
}

fn header(output: &mut Output, what: &str, columns: &str) {
    if output.is_json() {
        return;
    }
    output.line(format!(
        "CPU time of {what}, in microseconds.\n\
         The median of many runs after a warm-up, and in brackets the first and third quartile and the slowest run. Both start from\n\
         the same states in memory and keep no result; the auth chains that ruma-state-res asks for are made outside of its time.\n\
         Reading the clock is {:.2} us of each run.\n\n{columns}",
        clock_us(),
    ));
}

/// Prints a line at once, unless JSON is wanted.
fn print(output: &mut Output, line: impl FnOnce() -> String) -> Result<(), Failure> {
    if !output.is_json() {
        output.line(line());
        output.finish()?;
    }
    Ok(())
}
