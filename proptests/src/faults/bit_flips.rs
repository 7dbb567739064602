//! Bit flips: one bit of one file of a closed store is changed; then everything is read, and is as it was written, or an error.

#[cfg(feature = "postgres")]
mod cluster;

use std::{fs, io, path::PathBuf, sync::Arc};

use ravel_backends::Engine;
use ravel_store::{Batch, Bytes, Committed, Keyspace, Store, StoreError, block_on};

use crate::{
    faults::{
        campaign::Speaker,
        check::{full, read_all},
        disk::write_image,
        power_cuts::read_image,
        run::open_small,
        script::{Contents, Script, Size, Witness, check_log},
    },
    seed::Choices,
    target::Target,
};

/// The flips of one store.
#[derive(Clone, Debug)]
pub struct BitFlips {
    /// The engine.
    pub engine: Target,
    /// The seed of the store and of the flips.
    pub seed: u64,
    /// How much is in it.
    pub size: Size,
    /// How many flips.
    pub flips: u64,
    /// The one flip to run, instead of all.
    pub only: Option<u64>,
    /// Which files of a PostgreSQL cluster.
    pub files: ClusterFiles,
    /// Whether PostgreSQL's VACUUM goes over the tables before.
    pub vacuum: bool,
    /// Whether a PostgreSQL cluster has checksums over its pages, as it should.
    pub checksums: bool,
    /// A folder to work in.
    pub work: PathBuf,
}

/// Which files of a PostgreSQL cluster bits are flipped in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClusterFiles {
    /// All of the store's database and of the cluster, each kind in its share.
    All,
    /// All but those that PostgreSQL keeps what became of transactions in, which have no checksums.
    Checked,
    /// Only those.
    Outcomes,
}

impl BitFlips {
    /// Makes the store, and a copy of it for each flip, which is read.
    ///
    /// # Errors
    ///
    /// When the machinery fails.
    pub fn run(&self, speaker: &mut Speaker<impl io::Write>) -> io::Result<()> {
        match self.engine {
            Target::Directory(engine) => self.run_in_folder(engine, speaker),
            #[cfg(feature = "postgres")]
            Target::Postgres => cluster::run(self, speaker),
        }
    }

    fn run_in_folder(&self, engine: Engine, speaker: &mut Speaker<impl io::Write>) -> io::Result<()> {
        let store = self.work.join("store");
        let wanted = self.fill(|| open_small(engine, &store, self.seed))?;
        let image = read_image(&store)?;
        fs::remove_dir_all(&store)?;
        let files: Vec<&PathBuf> = image
            .iter()
            .filter(|(_, content)| content.as_ref().is_some_and(|content| !content.is_empty()))
            .map(|(path, _)| path)
            .collect();
        for flip in self.numbers() {
            speaker.fault(flip);
            let mut choices = self.choices(flip);
            let path = files[choices.below(files.len())];
            let mut damaged = image.clone();
            let content = damaged.get_mut(path).and_then(Option::as_mut).expect("the file is there");
            let (byte, bit) = flip_bit(content, &mut choices);
            let place = self.work.join("flipped");
            write_image(&damaged, &place)?;
            let verify = choices.below(4) == 0;
            let read = match engine.open(&place) {
                Ok(store) => wanted.compare(&store, verify, || true),
                Err(_) => Ok(false),
            };
            match read {
                Ok(true) => {}
                Ok(false) => speaker.noticed(),
                Err(problem) => speaker.failed(flip, &format!("{} byte {byte} bit {bit}: {problem}", path.display())),
            }
            fs::remove_dir_all(&place)?;
        }
        speaker.done();
        Ok(())
    }

    /// Runs the script of the seed on a store, and returns what is in it then.
    fn fill(&self, mut open: impl FnMut() -> Result<Arc<dyn Store>, StoreError>) -> io::Result<Wanted> {
        let script = Script::new(self.seed, self.size);
        let nobody: Arc<dyn Witness> = Arc::new(Nobody);
        script.run(&mut open, &nobody).map_err(io::Error::other)?;
        // All is acknowledged before the store is closed.
        let opened = open().map_err(io::Error::other)?;
        block_on(opened.flush()).map_err(io::Error::other)?;
        let expected = script.expected();
        let len = expected.len();
        Ok(Wanted { contents: expected.contents(len), sum: expected.sum(len), has_rooms: script.has_rooms() })
    }

    /// The flips to run.
    fn numbers(&self) -> impl Iterator<Item = u64> {
        let only = self.only;
        (0..self.flips).filter(move |flip| only.is_none_or(|only| only == *flip))
    }

    fn choices(&self, flip: u64) -> Choices {
        Choices::new(self.seed.wrapping_mul(7_919).wrapping_add(flip).wrapping_mul(0x9e37_79b9))
    }
}

/// Flips a bit of a file; returns its byte, and which of that.
fn flip_bit(content: &mut [u8], choices: &mut Choices) -> (usize, usize) {
    // Half of the flips are in the written beginning of files, as sled's is mostly empty.
    let end = if choices.below(2) == 0 { content.len() } else { written_len(content) };
    let (byte, bit) = (choices.below(end), choices.below(8));
    content[byte] ^= 1 << bit;
    (byte, bit)
}

/// What has to be in a store.
struct Wanted {
    contents: Contents,
    sum: u64,
    has_rooms: bool,
}

impl Wanted {
    /// Reads everything and returns whether that was possible. After an error, it is given up when `goes_on` says so.
    ///
    /// # Errors
    ///
    /// When something else is read than what was written.
    fn compare(&self, store: &Arc<dyn Store>, verify: bool, mut goes_on: impl FnMut() -> bool) -> Result<bool, String> {
        let mut complete = true;
        match read_all(store) {
            Ok((found, _)) if found == self.sum => {}
            Ok((_, items)) => {
                return Err(format!("scans show something else: {items} items of {}", self.contents.len()));
            }
            Err(_) => complete = false,
        }
        for keyspace in Keyspace::ALL {
            let wanted: Vec<(Bytes, Bytes)> = self
                .contents
                .iter()
                .filter(|((of, _), _)| of == keyspace)
                .map(|((_, key), value)| (key.clone(), value.clone()))
                .collect();
            for some in wanted.chunks(KEYS_AT_ONCE) {
                if get(store, *keyspace, some)? {
                    continue;
                }
                complete = false;
                // Each on its own, as an error hides the others.
                for one in some {
                    if !goes_on() {
                        return Ok(false);
                    }
                    get(store, *keyspace, std::slice::from_ref(one))?;
                }
            }
        }
        if verify && self.has_rooms && complete {
            check_log(store, true)?;
        }
        go_on(store)?;
        Ok(complete)
    }
}

/// Gets some items; returns whether that was possible.
fn get(store: &Arc<dyn Store>, keyspace: Keyspace, wanted: &[(Bytes, Bytes)]) -> Result<bool, String> {
    let keys: Vec<Bytes> = wanted.iter().map(|(key, _)| key.clone()).collect();
    let Ok(found) = block_on(store.get_many(keyspace, &keys)) else { return Ok(false) };
    match wanted.iter().zip(found).find(|((_, value), found)| found.as_ref() != Some(value)) {
        Some(((key, _), found)) => Err(format!("{keyspace} {key:?} is {found:?}")),
        None => Ok(true),
    }
}

/// How many items are asked for at once.
const KEYS_AT_ONCE: usize = 64;

/// A commit must not panic or hang; it may fail.
fn go_on(store: &Arc<dyn Store>) -> Result<(), String> {
    let mut batch = Batch::new();
    batch.put(Keyspace::Meta, "after the flip", "all goes on");
    match block_on(store.commit(batch)) {
        Ok(Committed::Refused(_)) => Err("a batch without guards was refused".to_owned()),
        Err(error @ StoreError::Locked { .. }) => Err(full(&error)),
        _ => Ok(()),
    }
}

/// Returns where the zeros begin that a file ends with, at least 1.
fn written_len(content: &[u8]) -> usize {
    content.iter().rposition(|byte| *byte != 0).map_or(1, |last| last + 1)
}

struct Nobody;

impl Witness for Nobody {
    fn issued(&self, _: u64, _: &Batch) {}
    fn acknowledged(&self, _: u64, _: &Batch, _: &Committed) {}
    fn flushed(&self, _: u64) {}
}
