//! A mark that says how far commits were acknowledged, so that a loss of any of them is noticed when opening.
//!
//! An engine that finds its log damaged cuts it off there. It cannot tell an end that a crash tore, which nobody was promised,
//! from damage to what was acknowledged. So after each sync the engine's position is noted in a file beside it: what is
//! recovered must reach at least that far. The note itself is synced when a store opens, and not with each commit (that would double
//! the cost): it may be some seconds old after a loss of power, never after anything else, and an old note only weakens the check.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
};

use ravel_store::{
    Operation, StoreError,
    directory::{StoreDirectory, sync_directory},
};

/// What to do when opening finds that acknowledged commits are gone.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum LostCommits {
    /// `Corrupt`, and nothing is opened.
    #[default]
    Refuse,
    /// Goes on with what is left: all commits up to some moment, each whole.
    Accept,
}

/// The open file of the mark: the position and its complement, eight bytes each, big-endian.
#[derive(Debug)]
pub(crate) struct SyncedMark {
    file: File,
    /// What was noted last by this process.
    position: Option<u64>,
}

impl SyncedMark {
    /// Opens the mark of a directory and reads it, `None` if there is none or it is unreadable.
    pub(crate) fn open(directory: &StoreDirectory) -> Result<(Self, Option<u64>), StoreError> {
        Self::try_open(directory).map_err(|error| StoreError::from_io(Operation::Open, error))
    }

    fn try_open(directory: &StoreDirectory) -> io::Result<(Self, Option<u64>)> {
        let path = directory.path().join(FILE);
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        let mut mark = Vec::new();
        (&file).take(MARK_BYTES as u64 + 1).read_to_end(&mut mark)?;
        Ok((Self { file, position: None }, parse(&mark)))
    }

    /// Notes the position with which a store opens, all of which is on disk, and makes the note and its file's name durable: from
    /// then on there always is one.
    pub(crate) fn begin(&mut self, directory: &StoreDirectory, position: u64) -> Result<(), StoreError> {
        self.set(position);
        self.file
            .sync_all()
            .and_then(|()| sync_directory(directory.path()))
            .map_err(|error| StoreError::from_io(Operation::Open, error))
    }

    /// Returns the position that was noted last, `None` before the first.
    #[cfg(feature = "rocksdb")]
    pub(crate) fn position(&self) -> Option<u64> {
        self.position
    }

    /// Notes that all up to a position is on disk.
    pub(crate) fn set(&mut self, position: u64) {
        self.position = Some(position);
        let mut mark = [0; MARK_BYTES];
        let (number, complement) = mark.split_at_mut(8);
        number.copy_from_slice(&position.to_be_bytes());
        complement.copy_from_slice(&(!position).to_be_bytes());
        // The commits are on disk, whatever happens here: an old mark is only a weaker check.
        let _ = self.file.seek(SeekFrom::Start(0)).and_then(|_| self.file.write_all(&mark));
    }
}

/// Compares what was recovered with the mark.
///
/// # Errors
/// `Corrupt` if it falls short of it and that is to be refused.
pub(crate) fn check_recovered(
    recovered: u64,
    synced: Option<u64>,
    lost_commits: LostCommits,
) -> Result<(), StoreError> {
    if lost_commits == LostCommits::Accept || synced.is_none_or(|synced| recovered >= synced) {
        return Ok(());
    }
    Err(StoreError::Corrupt {
        keyspace: None,
        key: None,
        expected: "all acknowledged commits, but the newest are gone",
        source: None,
    })
}

fn parse(mark: &[u8]) -> Option<u64> {
    let (number, complement) = mark.split_first_chunk()?;
    let number = u64::from_be_bytes(*number);
    (complement == (!number).to_be_bytes()).then_some(number)
}

const FILE: &str = "ravel.synced";
const MARK_BYTES: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_read_back_and_a_damaged_one_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let directory = StoreDirectory::open(folder.path(), "mine").unwrap();
        let (mut mark, synced) = SyncedMark::open(&directory).unwrap();
        assert_eq!(synced, None);
        for position in [0, 7, u64::MAX] {
            mark.set(position);
            assert_eq!(SyncedMark::open(&directory).unwrap().1, Some(position));
        }
        let content = std::fs::read(folder.path().join(FILE)).unwrap();
        for damaged in [&content[..15], &[], &[&content[..], b"x"].concat(), &[0; MARK_BYTES]] {
            assert_eq!(parse(damaged), None);
        }
    }

    #[test]
    fn falling_short_of_the_mark_is_refused_unless_accepted() {
        for (recovered, synced, fine) in [(5, None, true), (5, Some(5), true), (6, Some(5), true), (4, Some(5), false)]
        {
            assert_eq!(check_recovered(recovered, synced, LostCommits::Refuse).is_ok(), fine);
            check_recovered(recovered, synced, LostCommits::Accept).unwrap();
        }
    }
}
