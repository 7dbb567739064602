//! Calls into the file system that fail: one write or sync of a script, each in its turn, or a disk that is full until it is not.
//!
//! The process in which the script runs goes on after the first error, with batches of its own, to see what is still acknowledged. Then the
//! store is opened again, as the process left the files, and once more as loss of power would have left them: of what a failed sync was to
//! write, nothing is on the disk, whatever later syncs say.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use ravel_backends::Engine;
use ravel_store::{Batch, Bytes, Durability, Keyspace, Store, StoreError, block_on};

use crate::{
    faults::{
        campaign::Speaker,
        check::{describe_difference, full, read_all},
        disk::{Disk, Promises, write_image},
        run::{DISK, MARKS, Marks, NAME, Progress, open_small},
        script::{Expected, Script, ScriptError, Size, Witness, item_sum},
        shim::{self, Control, Number},
        trace::Trace,
    },
    seed::Choices,
};

/// The argument that makes the program run a script below which calls fail.
pub const FAULTY_ARGUMENT: &str = "run-faulty";

/// The failing calls of one script.
#[derive(Clone, Debug)]
pub struct FailingCalls {
    /// The engine.
    pub engine: Engine,
    /// The script's seed.
    pub seed: u64,
    /// How long the script is.
    pub size: Size,
    /// How many faults, each in a run of its own.
    pub faults: u64,
    /// The one fault to run, instead of all.
    pub only: Option<u64>,
    /// What fails.
    pub kind: Kind,
    /// A folder to work in.
    pub work: PathBuf,
    /// The program that runs scripts.
    pub program: PathBuf,
}

/// What fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The n-th write, alone or with all after it.
    Writes,
    /// The n-th sync, alone or with all after it.
    Syncs,
    /// Everything that needs room, from so many bytes on; later there is room again.
    FullDisk,
}

/// What the process of a script reports, in a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Told {
    /// The first error, in words; none if all went well.
    error: Option<String>,
    /// Whether the process had to be killed.
    hangs: bool,
    /// Whether that was `Full`.
    full: bool,
    /// What was read after the error: the sum of all items, or an error.
    read: Option<Result<u64, String>>,
    /// The numbers of the batches that were acknowledged after the error, while calls went on to fail.
    acknowledged: Vec<u64>,
    /// The same, after there was room again.
    acknowledged_with_room: Vec<u64>,
    /// The error of the last batch that was not acknowledged.
    last_error: Option<String>,
}

impl FailingCalls {
    /// Counts the calls of the script, then lets a sample of them fail.
    ///
    /// # Errors
    ///
    /// When the machinery fails.
    pub fn run(&self, speaker: &mut Speaker<impl io::Write>) -> io::Result<()> {
        let script = Script::new(self.seed, self.size).one_by_one();
        let expected = script.expected();
        let control = self.prepare()?;
        control.set(Number::BudgetSet, 1);
        const PLENTY: i64 = 1 << 40;
        control.set(Number::Budget, PLENTY);
        let told = self.run_script()?;
        if let Some(error) = &told.error {
            return Err(io::Error::other(format!("the script of seed {} fails without faults: {error}", self.seed)));
        }
        let counts = [control.get(Number::Writes), control.get(Number::Syncs), PLENTY - control.get(Number::Budget)];
        if counts.contains(&0) {
            return Err(io::Error::other("nothing is between program and file system"));
        }
        for fault in (0..self.faults).filter(|fault| self.only.is_none_or(|only| only == *fault)) {
            speaker.fault(fault);
            let mut choices =
                Choices::new(self.seed.wrapping_mul(31_337).wrapping_add(fault).wrapping_mul(0x9e37_79b9));
            let control = self.prepare()?;
            let at = 1 + choices.below(counts[self.kind as usize] as usize) as i64;
            match self.kind {
                Kind::Writes => control.set(Number::WriteFailsAt, at),
                Kind::Syncs => control.set(Number::SyncFailsAt, at),
                Kind::FullDisk => {
                    control.set(Number::BudgetSet, 1);
                    control.set(Number::Budget, at);
                }
            }
            const ENOSPC: i64 = 28;
            const EIO: i64 = 5;
            control.set(Number::Error, [EIO, ENOSPC][choices.below(2)]);
            control.set(Number::KeepsFailing, choices.below(2) as i64);
            let told = self.run_script()?;
            if told.error.is_some() {
                speaker.noticed();
            }
            if let Err(problem) = self.check(&expected, &told) {
                // Threads take turns differently each time, so that a fault may not do the same again.
                for kept in [TRACE, TOLD, MARKS] {
                    let _ = fs::copy(self.work.join(kept), self.work.join(format!("{kept}-of-{fault}")));
                }
                speaker.failed(fault, &format!("{:?} at {at}: {problem}", self.kind));
            }
        }
        speaker.done();
        Ok(())
    }

    fn prepare(&self) -> io::Result<Control> {
        for folder in [DISK, "left", "lost"] {
            match fs::remove_dir_all(self.work.join(folder)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        for file in [MARKS, TRACE, TOLD] {
            match fs::remove_file(self.work.join(file)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        fs::create_dir_all(self.work.join(DISK))?;
        Control::create(&self.work.join(CONTROL))
    }

    fn run_script(&self) -> io::Result<Told> {
        let mut command = Command::new(&self.program);
        command.arg(FAULTY_ARGUMENT).args(["--engine", self.engine.name(), "--seed", &self.seed.to_string()]);
        command.arg("--work").arg(&self.work);
        if self.size == Size::Small {
            command.arg("--small");
        }
        let control = self.work.join(CONTROL);
        shim::attach(&mut command, &self.work.join(DISK), Some(&self.work.join(TRACE)), Some(&control))?;
        let complaints = self.work.join("complaints");
        let mut child = command.stdin(Stdio::null()).stderr(fs::File::create(&complaints)?).spawn()?;
        let began = Instant::now();
        let status = loop {
            match child.try_wait()? {
                Some(status) => break status,
                None if began.elapsed() > SCRIPT_TIME_MAX => {
                    child.kill()?;
                    child.wait()?;
                    return Ok(Told { error: Some("it hangs".to_owned()), hangs: true, ..Told::default() });
                }
                None => thread::sleep(Duration::from_millis(2)),
            }
        };
        if !status.success() {
            let said = fs::read_to_string(&complaints)?;
            let mut lines = said.lines().skip_while(|line| !line.contains("panicked"));
            let last = lines.by_ref().take(2).collect::<Vec<_>>().join(" | ");
            return Ok(Told { error: Some(format!("the process ended ({status}): {last}")), ..Told::default() });
        }
        Ok(Told::parse(&fs::read_to_string(self.work.join(TOLD))?))
    }

    fn check(&self, expected: &Expected, told: &Told) -> Result<(), String> {
        if let Some(error) = told.error.as_ref().filter(|error| error.starts_with("the process ended")) {
            return Err(error.clone());
        }
        // Known of sled: an error in one of its threads may leave another one waiting.
        if told.hangs && self.engine != Engine::Sled {
            return Err("the process hangs".to_owned());
        }
        let mut progress = Progress::default();
        progress.read(&fs::read(self.work.join(MARKS)).unwrap_or_default());
        if let Some(error) = told.error.as_ref().filter(|_| !told.hangs) {
            match &told.read {
                Some(Ok(sum))
                    if expected.find(*sum, progress.acknowledged.max(progress.durable), progress.issued).is_some() => {}
                Some(Ok(_)) => return Err(format!("after the error ({error}) something else is read")),
                // Whoever can't tell what is in memory says so.
                Some(Err(_)) if self.may_stop_reading() => {}
                Some(Err(read)) => return Err(format!("after the error ({error}) nothing is read: {read}")),
                None => {}
            }
            if self.kind == Kind::Syncs && !told.acknowledged.is_empty() && !error.contains("cannot open") {
                return Err(format!("a sync failed ({error}), and then commits were acknowledged"));
            }
            if self.kind == Kind::FullDisk {
                if !told.full {
                    return Err(format!("a full disk is not told: {error}"));
                }
                if self.engine == Engine::RocksDb && told.acknowledged_with_room.is_empty() && told.read.is_some() {
                    let last = told.last_error.as_deref().unwrap_or_default();
                    return Err(format!("there is room again, but no commit is taken: {last}"));
                }
            }
        }
        let store = self.work.join(DISK).join(NAME);
        self.check_files(&store, expected, &progress, told)
            .map_err(|problem| format!("opened again after {:?}, it {problem}", told.error))?;
        // The same again, had power been lost when the process ended.
        let trace = Trace::parse(fs::read(self.work.join(TRACE)).map_err(|error| error.to_string())?);
        let mut disk = Disk::new(&self.work.join(DISK), Promises::Posix);
        trace.records.iter().for_each(|record| disk.apply(&trace, record));
        let lost = self.work.join("lost");
        write_image(&disk.durable(), &lost).map_err(|error| error.to_string())?;
        self.check_files(&lost.join(NAME), expected, &progress, told)
            .map_err(|problem| format!("after loss of power, it {problem}"))
    }

    /// sled may have applied a part of a batch whose write failed, and keeps an error of its own for all later calls.
    fn may_stop_reading(&self) -> bool {
        self.engine == Engine::Sled
    }

    fn check_files(&self, path: &Path, expected: &Expected, progress: &Progress, told: &Told) -> Result<(), String> {
        let store = self.engine.open(path).map_err(|error| format!("does not open: {}", full(&error)))?;
        let (mut sum, _) = read_all(&store).map_err(|error| format!("cannot be read: {}", full(&error)))?;
        for probe in 0..PROBES_MAX {
            let (key, value) = probe_item(probe);
            let found = block_on(store.get_many(Keyspace::Meta, std::slice::from_ref(&key)))
                .map_err(|error| format!("cannot be read: {}", full(&error)))?;
            match found.first() {
                Some(Some(found)) if *found == value => sum = sum.wrapping_sub(item_sum(Keyspace::Meta, &key, &value)),
                Some(None) if !told.acknowledged.contains(&probe) && !told.acknowledged_with_room.contains(&probe) => {}
                _ => return Err(format!("has lost batch {probe} after the error, which was acknowledged")),
            }
        }
        match expected.find(sum, progress.durable, progress.issued) {
            Some(_) => Ok(()),
            None => Err(describe_difference(&store, expected, progress)),
        }
    }
}

/// Runs a script, and what comes after its first error, in this process.
///
/// # Errors
///
/// When what happened can't be written down.
pub fn run_faulty(engine: Engine, work: &Path, seed: u64, size: Size) -> Result<(), ScriptError> {
    let os = |error| StoreError::from_io(ravel_store::Operation::Open, error);
    let control = Control::open(&work.join(CONTROL)).map_err(os)?;
    let marks = OpenOptions::new().append(true).create(true).open(work.join(MARKS)).map_err(os)?;
    let marks: Arc<dyn Witness> = Arc::new(Marks(marks));
    let path = work.join(DISK).join(NAME);
    let last: std::cell::RefCell<Option<Arc<dyn Store>>> = std::cell::RefCell::default();
    let script = Script::new(seed, size).one_by_one();
    let result = script.run(
        || {
            // The store that the script is done with must be closed.
            drop(last.borrow_mut().take());
            let store = open_small(engine, &path, seed)?;
            *last.borrow_mut() = Some(Arc::clone(&store));
            Ok(store)
        },
        &marks,
    );
    let mut told = Told::default();
    if let Err(error) = result {
        told.full = matches!(&error, ScriptError::Store(StoreError::Full { .. }))
            || matches!(&error, ScriptError::Log(ravel_store::log::LogError::Store(StoreError::Full { .. })));
        told.error = Some(full(&error));
        if let Some(store) = last.borrow_mut().take() {
            told.read = Some(read_all(&store).map(|(sum, _)| sum).map_err(|error| full(&error)));
            for probe in 0..3 {
                told.probe(&store, probe, false);
            }
            if control.get(Number::BudgetSet) == 1 {
                control.set(Number::Budget, 1 << 40);
                let began = Instant::now();
                for probe in 3..PROBES_MAX {
                    told.probe(&store, probe, true);
                    if began.elapsed() < ROOM_WAIT_MAX && told.acknowledged_with_room.is_empty() {
                        thread::sleep(Duration::from_millis(50));
                    }
                }
            }
        }
    }
    // No fault when closing: that is for another script.
    control.set(Number::KeepsFailing, 0);
    fs::File::create(work.join(TOLD)).and_then(|mut file| file.write_all(told.text().as_bytes())).map_err(os)?;
    Ok(())
}

const CONTROL: &str = "control";
const TRACE: &str = "trace";
const TOLD: &str = "told";
/// What takes longer hangs.
const SCRIPT_TIME_MAX: Duration = Duration::from_secs(20);
const PROBES_MAX: u64 = 20;
const ROOM_WAIT_MAX: Duration = Duration::from_secs(2);

fn probe_item(probe: u64) -> (Bytes, Bytes) {
    (format!("probe {probe}").into(), vec![b'p'; 2_000].into())
}

impl Told {
    fn probe(&mut self, store: &Arc<dyn Store>, probe: u64, with_room: bool) {
        let (key, value) = probe_item(probe);
        let mut batch = Batch::new();
        batch.put(Keyspace::Meta, key, value).durability(Durability::Sync);
        match block_on(store.commit(batch)) {
            Ok(_) if with_room => self.acknowledged_with_room.push(probe),
            Ok(_) => self.acknowledged.push(probe),
            Err(error) => self.last_error = Some(full(&error)),
        }
    }

    fn text(&self) -> String {
        let mut lines = Vec::new();
        let mut line = |name: &str, value: &str| lines.push(format!("{name} {}", value.replace('\n', " ")));
        if let Some(error) = &self.error {
            line("error", error);
        }
        if self.full {
            line("full", "");
        }
        match &self.read {
            Some(Ok(sum)) => line("read", &sum.to_string()),
            Some(Err(error)) => line("unread", error),
            None => {}
        }
        self.acknowledged.iter().for_each(|probe| line("acknowledged", &probe.to_string()));
        self.acknowledged_with_room.iter().for_each(|probe| line("with-room", &probe.to_string()));
        if let Some(error) = &self.last_error {
            line("last", error);
        }
        lines.join("\n")
    }

    fn parse(text: &str) -> Self {
        let mut told = Self::default();
        for (name, value) in text.lines().filter_map(|line| line.split_once(' ')) {
            match name {
                "error" => told.error = Some(value.to_owned()),
                "full" => told.full = true,
                "read" => told.read = value.parse().ok().map(Ok),
                "unread" => told.read = Some(Err(value.to_owned())),
                "acknowledged" => told.acknowledged.extend(value.parse::<u64>()),
                "with-room" => told.acknowledged_with_room.extend(value.parse::<u64>()),
                _ => told.last_error = Some(value.to_owned()),
            }
        }
        told
    }
}
