//! Power cuts: a script is recorded, then cut at many moments; each disk that may be left is opened and checked.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use ravel_backends::Engine;

use crate::{
    faults::{
        campaign::Speaker,
        check::{Depth, check},
        disk::{Disk, Image, Promises, write_image},
        run::{DISK, MARKS, NAME, Progress, recorded},
        script::{Script, Size},
        trace::{Record, Trace},
    },
    seed::Choices,
};

/// The cuts of one script.
#[derive(Clone, Debug)]
pub struct PowerCuts {
    /// The engine.
    pub engine: Engine,
    /// The script's seed; with it and the record, each cut is the same again.
    pub seed: u64,
    /// How long the script is.
    pub size: Size,
    /// How many cuts.
    pub cuts: u64,
    /// The one cut to run, instead of all.
    pub only: Option<u64>,
    /// What the file system promises.
    pub promises: Promises,
    /// Weaker commits are held to the promise of the others: a lie, to see whether the checks notice.
    pub relaxed_counts_as_durable: bool,
    /// A folder to work in, in memory if possible.
    pub work: PathBuf,
    /// The program that runs scripts.
    pub program: PathBuf,
    /// An earlier record of this script, instead of a new one.
    pub trace: Option<PathBuf>,
}

impl PowerCuts {
    /// Returns where a record is written to.
    pub fn trace_path(&self) -> PathBuf {
        self.work.join("trace")
    }

    /// Records the script, unless there is a record, and checks all cuts.
    ///
    /// # Errors
    ///
    /// When the machinery fails: scripts that don't run, calls that the recorder didn't see, files that can't be written.
    pub fn run(&self, speaker: &mut Speaker<impl io::Write>) -> io::Result<()> {
        fs::create_dir_all(self.work.join(DISK))?;
        let trace = match &self.trace {
            Some(trace) => fs::read(trace)?,
            None => self.record()?,
        };
        let trace = Trace::parse(trace);
        let expected = Script::new(self.seed, self.size).expected();
        let moments: Vec<usize> = (0..trace.records.len()).filter(|at| is_boundary(&trace.records[*at])).collect();
        if moments.is_empty() {
            return Err(io::Error::other("the record is empty: nothing is between program and file system"));
        }
        let mut cuts: Vec<(usize, u64)> = (0..self.cuts)
            .filter(|cut| self.only.is_none_or(|only| only == *cut))
            .map(|cut| (moments[self.choices(cut).below(moments.len())], cut))
            .collect();
        cuts.sort_unstable();
        let mut replay = Replay::new(self, &trace);
        let place = self.work.join("cut");
        for (moment, cut) in cuts {
            replay.go_to(moment);
            speaker.fault(cut);
            let mut choices = self.choices(cut + (1 << 40));
            let image = replay.disk.after_power_cut(&mut choices);
            write_image(&image, &place)?;
            if self.only.is_some() {
                // To look at: opening changes the other one.
                write_image(&image, &self.work.join(format!("cut-{cut}")))?;
            }
            let depth = Depth {
                rooms: self.seed.is_multiple_of(2) && choices.below(4) == 0,
                verify: choices.below(4) == 0,
                goes_on: choices.below(4) == 0,
            };
            match check(self.engine, &place.join(NAME), &expected, &replay.progress, depth) {
                Ok(number) if number < replay.progress.issued => speaker.noticed(),
                Ok(_) => {}
                Err(problem) => speaker.failed(cut, &problem),
            }
            fs::remove_dir_all(&place)?;
        }
        speaker.done();
        Ok(())
    }

    /// Runs the script and checks that the recorder saw all that happened to its files.
    fn record(&self) -> io::Result<Vec<u8>> {
        let trace_path = self.trace_path();
        let (succeeded, said) = recorded(&self.program, self.engine, &self.work, self.seed, self.size, &trace_path)?;
        if !succeeded {
            return Err(io::Error::other(format!("the script of seed {} failed: {said}", self.seed)));
        }
        let bytes = fs::read(&trace_path)?;
        let trace = Trace::parse(bytes.clone());
        let mut replay = Replay::new(self, &trace);
        replay.go_to(trace.records.len());
        let root = self.work.join(DISK);
        let simulated = replay.disk.current();
        if let Some(different) = different_files(&simulated, &read_image(&root)?) {
            return Err(io::Error::other(format!("the recorder did not see all that happened to {different}")));
        }
        fs::remove_dir_all(&root)?;
        Ok(bytes)
    }

    fn choices(&self, cut: u64) -> Choices {
        Choices::new(self.seed.wrapping_mul(1_000_003).wrapping_add(cut).wrapping_mul(0x9e37_79b9))
    }
}

/// A record up to some moment.
struct Replay<'a> {
    trace: &'a Trace,
    next: usize,
    disk: Disk,
    progress: Progress,
    marks: String,
    marks_fd: Option<i32>,
    relaxed_counts_as_durable: bool,
}

impl<'a> Replay<'a> {
    fn new(cuts: &PowerCuts, trace: &'a Trace) -> Self {
        let work = root_of(trace).unwrap_or_else(|| cuts.work.clone());
        Self {
            trace,
            next: 0,
            disk: Disk::new(&work.join(DISK), cuts.promises),
            progress: Progress::default(),
            marks: work.join(MARKS).to_string_lossy().into_owned(),
            marks_fd: None,
            relaxed_counts_as_durable: cuts.relaxed_counts_as_durable,
        }
    }

    /// Replays what came before the record at `moment`.
    fn go_to(&mut self, moment: usize) {
        while self.next < moment {
            let record = &self.trace.records[self.next];
            self.next += 1;
            match record {
                Record::Open { fd, path, .. } if *path == self.marks => self.marks_fd = Some(*fd),
                Record::Write { fd, data, .. } if Some(*fd) == self.marks_fd => {
                    self.progress.read(self.trace.data(data));
                    if self.relaxed_counts_as_durable {
                        self.progress.durable = self.progress.durable.max(self.progress.acknowledged);
                    }
                }
                Record::Close { fd } if Some(*fd) == self.marks_fd => self.marks_fd = None,
                record => self.disk.apply(self.trace, record),
            }
        }
    }
}

/// Returns the folder of work of a record, which may come from another run: that of its marks.
fn root_of(trace: &Trace) -> Option<PathBuf> {
    trace.records.iter().find_map(|record| match record {
        Record::Open { path, .. } => path.strip_suffix(MARKS)?.strip_suffix('/').map(PathBuf::from),
        _ => None,
    })
}

/// Power may be lost before any of these.
fn is_boundary(record: &Record) -> bool {
    !matches!(record, Record::Open { flags: 0, .. } | Record::Close { .. } | Record::Duplicate { .. })
}

/// Returns the first path at which two images differ.
fn different_files(simulated: &Image, found: &Image) -> Option<String> {
    let paths = simulated.keys().chain(found.keys()).filter(|path| !is_unrecorded(path));
    let mut different = paths.filter(|path| simulated.get(*path) != found.get(*path));
    different.next().map(|path| path.display().to_string())
}

/// RocksDB's log for people goes through buffers of the C library; no engine reads it.
fn is_unrecorded(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name == "LOG" || name.to_string_lossy().starts_with("LOG.old"))
}

pub(crate) fn read_image(root: &Path) -> io::Result<Image> {
    let mut image = Image::new();
    let mut folders = vec![PathBuf::new()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(root.join(&folder))? {
            let entry = entry?;
            let path = folder.join(entry.file_name());
            if entry.file_type()?.is_dir() {
                folders.push(path);
            } else {
                image.insert(path, Some(fs::read(entry.path())?));
            }
        }
        image.insert(folder, None);
    }
    Ok(image)
}
