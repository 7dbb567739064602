//! The process in which a script runs on an engine, and the marks it leaves of what was acknowledged.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    path::Path,
    process::Command,
    sync::Arc,
};

use ravel_backends::{Engine, RocksDbOptions, RocksDbStore, SledOptions, SledStore};
use ravel_store::{Batch, Committed, Durability, Store, StoreError};

use crate::{
    faults::{
        script::{Script, ScriptError, Size, Witness},
        shim,
    },
    seed::Choices,
};

/// The argument that makes the program run a script and nothing else.
pub const RUN_ARGUMENT: &str = "run-script";

/// The root of the simulated disk, in a folder of work.
pub const DISK: &str = "disk";
/// The store's folder in it, which the store makes.
pub const NAME: &str = "store";
/// The file of marks.
pub const MARKS: &str = "marks";

/// Opens an engine with so little memory that it writes out and compacts all the time.
///
/// # Errors
///
/// Those of the engine.
pub fn open_small(engine: Engine, path: &Path, seed: u64) -> Result<Arc<dyn Store>, StoreError> {
    let mut choices = Choices::new(seed ^ 0x5a11);
    Ok(match engine {
        Engine::RocksDb => {
            let options = RocksDbOptions {
                block_cache_bytes: 1024 * 1024,
                write_buffer_bytes: (32 * 1024) << choices.below(7),
                reader_threads: 1,
                ..RocksDbOptions::default()
            };
            Arc::new(RocksDbStore::open(path, &options)?)
        }
        Engine::Sled => {
            let options = SledOptions { cache_bytes: (64 * 1024) << choices.below(8), ..SledOptions::default() };
            Arc::new(SledStore::open(path, &options)?)
        }
        _ => unreachable!("there are two engines with a folder"),
    })
}

/// Runs a script on an engine in this process.
///
/// # Errors
///
/// The first of the store.
pub fn run(engine: Engine, work: &Path, seed: u64, size: Size) -> Result<(), ScriptError> {
    let marks = OpenOptions::new().append(true).create(true).open(work.join(MARKS));
    let marks: Arc<dyn Witness> =
        Arc::new(Marks(marks.map_err(|error| StoreError::from_io(ravel_store::Operation::Open, error))?));
    let store = work.join(DISK).join(NAME);
    Script::new(seed, size).run(|| open_small(engine, &store, seed), &marks)
}

/// Runs a script on an engine in a process of its own, which is recorded to `trace`. Returns whether it succeeded, and what it said.
///
/// `program` is `ravel-faults`.
///
/// # Errors
///
/// When it can't be started.
pub fn recorded(
    program: &Path,
    engine: Engine,
    work: &Path,
    seed: u64,
    size: Size,
    trace: &Path,
) -> io::Result<(bool, String)> {
    let mut command = Command::new(program);
    command.arg(RUN_ARGUMENT).args(["--engine", engine.name(), "--seed", &seed.to_string()]).arg("--work").arg(work);
    if size == Size::Small {
        command.arg("--small");
    }
    shim::attach(&mut command, work, Some(trace), None)?;
    let output = command.output()?;
    Ok((output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned()))
}

/// What is known of commits at a moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// The number of batches that went to the store.
    pub issued: u64,
    /// The batches up to this number are promised to last.
    pub durable: u64,
    /// The batches up to this number were acknowledged, the weaker ones too.
    pub acknowledged: u64,
}

impl Progress {
    /// Takes in marks.
    pub fn read(&mut self, marks: &[u8]) {
        for mark in marks.chunks_exact(MARK_BYTES) {
            let number = u64::from_be_bytes(mark[1..].try_into().expect("a mark has nine bytes"));
            let known = match mark[0] {
                ISSUED => &mut self.issued,
                DURABLE => &mut self.durable,
                _ => &mut self.acknowledged,
            };
            *known = number.max(*known);
        }
    }
}

/// Writes marks to a file.
pub(crate) struct Marks(pub(crate) File);

impl Marks {
    fn mark(&self, kind: u8, number: u64) {
        let mut mark = [kind; MARK_BYTES];
        mark[1..].copy_from_slice(&number.to_be_bytes());
        (&self.0).write_all(&mark).expect("marks are on a disk without faults");
    }
}

impl Witness for Marks {
    fn issued(&self, number: u64, _: &Batch) {
        self.mark(ISSUED, number);
    }

    fn acknowledged(&self, number: u64, batch: &Batch, committed: &Committed) {
        // A refusal, too, speaks of a state that is durable.
        let _: &Committed = committed;
        let durable = batch.wanted_durability() == Durability::Sync;
        self.mark(if durable { DURABLE } else { ACKNOWLEDGED }, number);
    }

    fn flushed(&self, number: u64) {
        self.mark(DURABLE, number);
    }
}

const MARK_BYTES: usize = 9;
const ISSUED: u8 = b'i';
const DURABLE: u8 = b'd';
const ACKNOWLEDGED: u8 = b'a';
