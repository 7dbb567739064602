//! Bit flips: one bit of one file of a closed store is changed; then everything is read, and is as it was written, or an error.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

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
};

/// The flips of one store.
#[derive(Clone, Debug)]
pub struct BitFlips {
    /// The engine.
    pub engine: Engine,
    /// The seed of the store and of the flips.
    pub seed: u64,
    /// How much is in it.
    pub size: Size,
    /// How many flips.
    pub flips: u64,
    /// The one flip to run, instead of all.
    pub only: Option<u64>,
    /// A folder to work in.
    pub work: PathBuf,
}

impl BitFlips {
    /// Makes the store, and a copy of it for each flip, which is read.
    ///
    /// # Errors
    ///
    /// When the machinery fails.
    pub fn run(&self, speaker: &mut Speaker<impl io::Write>) -> io::Result<()> {
        let store = self.work.join("store");
        let script = Script::new(self.seed, self.size);
        let nobody: Arc<dyn Witness> = Arc::new(Nobody);
        script.run(|| open_small(self.engine, &store, self.seed), &nobody).map_err(io::Error::other)?;
        // All is acknowledged before the store is closed.
        let opened = open_small(self.engine, &store, self.seed).map_err(io::Error::other)?;
        block_on(opened.flush()).map_err(io::Error::other)?;
        drop(opened);
        let expected = script.expected();
        let contents = expected.contents(expected.len());
        let sum = expected.sum(expected.len());
        let image = read_image(&store)?;
        fs::remove_dir_all(&store)?;
        let files: Vec<&PathBuf> = image
            .iter()
            .filter(|(_, content)| content.as_ref().is_some_and(|content| !content.is_empty()))
            .map(|(path, _)| path)
            .collect();
        for flip in (0..self.flips).filter(|flip| self.only.is_none_or(|only| only == *flip)) {
            speaker.fault(flip);
            let mut choices = Choices::new(self.seed.wrapping_mul(7_919).wrapping_add(flip).wrapping_mul(0x9e37_79b9));
            let path = files[choices.below(files.len())];
            let mut damaged = image.clone();
            let content = damaged.get_mut(path).and_then(Option::as_mut).expect("the file is there");
            // Half of the flips are in the written beginning of files, as sled's is mostly empty.
            let end = if choices.below(2) == 0 { content.len() } else { written_len(content) };
            let (byte, bit) = (choices.below(end), choices.below(8));
            content[byte] ^= 1 << bit;
            let place = self.work.join("flipped");
            write_image(&damaged, &place)?;
            let verify = choices.below(4) == 0;
            match self.read(&place, &contents, sum, verify && script.has_rooms()) {
                Ok(true) => {}
                Ok(false) => speaker.noticed(),
                Err(problem) => speaker.failed(flip, &format!("{} byte {byte} bit {bit}: {problem}", path.display())),
            }
            fs::remove_dir_all(&place)?;
        }
        speaker.done();
        Ok(())
    }

    /// Returns whether all could be read.
    ///
    /// # Errors
    ///
    /// When something else is read than what was written.
    fn read(&self, place: &Path, contents: &Contents, sum: u64, verify: bool) -> Result<bool, String> {
        let Ok(store) = self.engine.open(place) else { return Ok(false) };
        let mut complete = true;
        match read_all(&store) {
            Ok((found, _)) if found == sum => {}
            Ok((_, items)) => return Err(format!("scans show something else: {items} items of {}", contents.len())),
            Err(_) => complete = false,
        }
        for keyspace in Keyspace::ALL {
            let wanted: Vec<(&Bytes, &Bytes)> =
                contents.iter().filter(|((of, _), _)| of == keyspace).map(|((_, key), value)| (key, value)).collect();
            // Each on its own, as an error hides the others.
            for (key, value) in wanted {
                match block_on(store.get_many(*keyspace, std::slice::from_ref(key))) {
                    Ok(found) if found == [Some(value.clone())] => {}
                    Ok(found) => return Err(format!("{keyspace} {key:?} is {found:?}")),
                    Err(_) => complete = false,
                }
            }
        }
        if verify && complete {
            check_log(&store, true)?;
        }
        self.go_on(&store)?;
        Ok(complete)
    }

    /// A commit must not panic or hang; it may fail.
    fn go_on(&self, store: &Arc<dyn Store>) -> Result<(), String> {
        let mut batch = Batch::new();
        batch.put(Keyspace::Meta, "after the flip", "all goes on");
        match block_on(store.commit(batch)) {
            Ok(Committed::Refused(_)) => Err("a batch without guards was refused".to_owned()),
            Err(error @ StoreError::Locked { .. }) => Err(full(&error)),
            _ => Ok(()),
        }
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
