//! Segments: runs of entries of the log, and the running hash over all entries.

use ravel_store::{Bytes, VALUE_BYTES_MAX};
use sha2::{Digest, Sha256};

use super::Damage;

/// A segment is closed when it has grown to this size.
pub(super) const SEGMENT_BYTES: usize = 4 << 20;
/// The largest segment before compression: one entry more than the size at which it is closed.
pub(super) const PLAIN_BYTES_MAX: usize = SEGMENT_BYTES + VALUE_BYTES_MAX + HEADER_BYTES + MAGIC.len();
/// The largest segment as stored: what can't be compressed grows a little, and so does what is encrypted.
pub(super) const STORED_BYTES_MAX: usize = PLAIN_BYTES_MAX + (PLAIN_BYTES_MAX >> 6) + (64 << 10);

const MAGIC: &[u8] = b"ravel log segment 1\n";
/// Sequence number and length.
const HEADER_BYTES: usize = 12;

/// A hash over all entries from the first on: SHA-256 of the hash before, then the entry as it stands in a segment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Chain(pub(super) [u8; 32]);

impl Chain {
    /// Adds an entry.
    pub(super) fn add(&mut self, sequence: u64, record: &[u8]) {
        let mut hasher = Sha256::new();
        hasher.update(self.0);
        hasher.update(header(sequence, record));
        hasher.update(record);
        self.0 = hasher.finalize().into();
    }

    pub(super) fn to_hex(self) -> String {
        hex(&self.0)
    }

    /// Parses what [`to_hex`](Self::to_hex) wrote.
    pub(super) fn parse(text: &str) -> Option<Self> {
        Some(Self(ravel_core::state::Fingerprint::parse(text)?.0))
    }
}

/// A segment that is being filled.
pub(super) struct Segment {
    pub(super) first: u64,
    pub(super) entries: u64,
    plain: Vec<u8>,
}

impl Segment {
    pub(super) fn new(first: u64) -> Self {
        Self { first, entries: 0, plain: MAGIC.to_vec() }
    }

    pub(super) fn push(&mut self, sequence: u64, record: &[u8]) {
        self.entries += 1;
        self.plain.extend_from_slice(&header(sequence, record));
        self.plain.extend_from_slice(record);
    }

    pub(super) fn is_full(&self, entries_max: u64) -> bool {
        self.entries >= entries_max || self.plain.len() >= SEGMENT_BYTES
    }

    pub(super) fn last(&self) -> u64 {
        self.first + self.entries.saturating_sub(1)
    }

    pub(super) fn into_plain(self) -> Vec<u8> {
        self.plain
    }
}

/// Takes a segment apart: its entries must be those from `first` to `last`.
pub(super) fn entries(plain: &Bytes, first: u64, last: u64) -> Result<Vec<(u64, Bytes)>, Damage> {
    let broken = || Damage::Content("it is not a segment of a log");
    let mut rest = plain.clone();
    if !rest.starts_with(MAGIC) {
        return Err(broken());
    }
    let _ = rest.split_to(MAGIC.len());
    let mut entries = Vec::new();
    let mut next = first;
    while !rest.is_empty() {
        let (header, _) = rest.split_first_chunk::<HEADER_BYTES>().ok_or_else(broken)?;
        let (sequence, len) = header.split_first_chunk::<8>().ok_or_else(broken)?;
        let sequence = u64::from_be_bytes(*sequence);
        let len = u32::from_be_bytes(len.try_into().map_err(|_| broken())?) as usize;
        let _ = rest.split_to(HEADER_BYTES);
        if len > rest.len() || len > VALUE_BYTES_MAX {
            return Err(broken());
        }
        if sequence != next || sequence > last {
            return Err(Damage::Content("its entries are not those of its name"));
        }
        next = next.checked_add(1).ok_or_else(broken)?;
        entries.push((sequence, rest.split_to(len)));
    }
    if next.checked_sub(1) != Some(last) {
        return Err(Damage::Content("its entries are not those of its name"));
    }
    Ok(entries)
}

/// What stands before an entry: sequence number and length, big-endian. No record is longer than a value.
fn header(sequence: u64, record: &[u8]) -> [u8; HEADER_BYTES] {
    let mut header = [0; HEADER_BYTES];
    let (number, len) = header.split_at_mut(8);
    number.copy_from_slice(&sequence.to_be_bytes());
    len.copy_from_slice(&u32::try_from(record.len()).unwrap_or(u32::MAX).to_be_bytes());
    header
}

/// Returns the SHA-256 of some bytes, in hexadecimal.
pub(super) fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain() -> Vec<u8> {
        let mut segment = Segment::new(7);
        segment.push(7, b"one");
        segment.push(8, b"");
        segment.push(9, b"three");
        assert_eq!((segment.last(), segment.is_full(4), segment.is_full(3)), (9, false, true));
        segment.into_plain()
    }

    #[test]
    fn entries_come_back_as_they_were() {
        let expected = [(7, &b"one"[..]), (8, b""), (9, b"three")].map(|(n, r)| (n, Bytes::from(r)));
        assert_eq!(entries(&plain().into(), 7, 9).unwrap(), expected);
    }

    #[test]
    fn other_entries_than_those_of_the_name_are_refused() {
        let plain = Bytes::from(plain());
        for (first, last) in [(6, 9), (7, 8), (7, 10), (8, 9), (0, u64::MAX)] {
            entries(&plain, first, last).unwrap_err();
        }
        for len in 0..plain.len() {
            entries(&plain.slice(..len), 7, 9).unwrap_err();
        }
    }

    /// A length that says more than there is must not be believed.
    #[test]
    fn lengths_are_checked() {
        let mut plain = plain();
        let place = MAGIC.len() + 8;
        plain[place..place + 4].copy_from_slice(&u32::MAX.to_be_bytes());
        entries(&plain.into(), 7, 9).unwrap_err();
    }

    #[test]
    fn the_running_hash_depends_on_each_entry_and_its_place() {
        let chain = |entries: &[(u64, &str)]| {
            let mut chain = Chain::default();
            entries.iter().for_each(|(sequence, record)| chain.add(*sequence, record.as_bytes()));
            chain
        };
        let known = chain(&[(0, "a"), (1, "b")]);
        for other in [&[(0, "a")][..], &[(0, "b"), (1, "a")], &[(0, "a"), (2, "b")], &[(0, "ab"), (1, "")]] {
            assert_ne!(chain(other), known);
        }
    }
}
