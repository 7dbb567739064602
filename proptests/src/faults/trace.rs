//! What a program did to its files, in the order in which it took effect.

use std::ops::Range;

/// Records, and the bytes that they wrote.
#[derive(Debug)]
pub struct Trace {
    /// What was done.
    pub records: Vec<Record>,
    bytes: Vec<u8>,
}

/// A call that succeeded. Descriptors are numbers of the program, used again after they were closed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Record {
    Open {
        fd: i32,
        flags: u64,
        path: String,
    },
    Close {
        fd: i32,
    },
    Write {
        fd: i32,
        offset: u64,
        data: Range<usize>,
    },
    /// `fsync` or, if `data_only`, `fdatasync`.
    Sync {
        fd: i32,
        data_only: bool,
    },
    /// `sync_file_range`, which promises nothing.
    SyncRange,
    Truncate {
        fd: i32,
        len: u64,
    },
    /// `fallocate` that makes the file longer.
    Allocate {
        fd: i32,
        end: u64,
    },
    Rename {
        from: String,
        to: String,
    },
    Link {
        from: String,
        to: String,
    },
    Unlink {
        path: String,
    },
    MakeDirectory {
        path: String,
    },
    RemoveDirectory {
        path: String,
    },
    Duplicate {
        fd: i32,
        copy: i32,
    },
    /// `sync` or `syncfs`.
    SyncAll,
    /// `fallocate` that makes zeros of a part.
    Punch {
        fd: i32,
        offset: u64,
        len: u64,
    },
    /// A sync that was made to fail.
    FailedSync {
        fd: i32,
    },
    /// A call that the simulation doesn't know.
    Unknown {
        what: String,
    },
}

impl Trace {
    /// Reads what the shim wrote. An unfinished record at the end, which a killed program leaves, is dropped.
    pub fn parse(bytes: Vec<u8>) -> Self {
        let mut records = Vec::new();
        let mut at = 0;
        while let Some((record, end)) = parse(&bytes, at) {
            records.push(record);
            at = end;
        }
        Self { records, bytes }
    }

    /// Returns the bytes of a write.
    pub fn data(&self, range: &Range<usize>) -> &[u8] {
        &self.bytes[range.clone()]
    }
}

const HEAD_BYTES: usize = 40;

fn parse(bytes: &[u8], at: usize) -> Option<(Record, usize)> {
    let head = bytes.get(at..at + HEAD_BYTES)?;
    let number = |at: usize| u64::from_ne_bytes(head[at..at + 8].try_into().unwrap());
    let half = |at: usize| u32::from_ne_bytes(head[at..at + 4].try_into().unwrap());
    let (kind, fd, a, b) = (half(0), half(4) as i32, number(8), number(16));
    let path_at = at + HEAD_BYTES;
    let target_at = path_at + half(24) as usize;
    let data_at = target_at + half(28) as usize;
    let end = data_at + number(32) as usize;
    let text = |range: Range<usize>| bytes.get(range).map(|text| String::from_utf8_lossy(text).into_owned());
    let (path, target) = (text(path_at..target_at)?, text(target_at..data_at)?);
    bytes.get(data_at..end)?;
    let record = match kind {
        1 => Record::Open { fd, flags: a, path },
        2 => Record::Close { fd },
        3 => Record::Write { fd, offset: a, data: data_at..end },
        4 | 5 => Record::Sync { fd, data_only: kind == 5 },
        6 => Record::SyncRange,
        7 => Record::Truncate { fd, len: a },
        8 => Record::Allocate { fd, end: a + b },
        9 => Record::Rename { from: path, to: target },
        10 => Record::Link { from: path, to: target },
        11 => Record::Unlink { path },
        12 => Record::MakeDirectory { path },
        13 => Record::RemoveDirectory { path },
        14 => Record::Duplicate { fd, copy: a as i32 },
        15 => Record::SyncAll,
        17 => Record::FailedSync { fd },
        18 => Record::Punch { fd, offset: a, len: b },
        _ => Record::Unknown { what: path },
    };
    Some((record, end))
}
