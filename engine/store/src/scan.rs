use std::ops::Bound;

use bytes::Bytes;

use crate::{BoundedBy, KEY_BYTES_MAX, Keyspace, PAGE_BYTES_MAX, PAGE_ITEMS_MAX, StoreError, batch::check};

/// Keys from `start` (included) to `end` (excluded), bytewise; without an `end` all from `start` on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KeyRange {
    /// The first key that belongs to it.
    pub start: Bytes,
    /// The first key behind it that no longer belongs to it.
    pub end: Option<Bytes>,
}

impl KeyRange {
    /// Returns the range of all keys.
    pub fn all() -> Self {
        Self::default()
    }

    /// Returns the range from `start` (included) to `end` (excluded); empty if `end` is not greater.
    pub fn new(start: impl Into<Bytes>, end: impl Into<Bytes>) -> Self {
        Self { start: start.into(), end: Some(end.into()) }
    }

    /// Returns the range from `start` (included) to the last key there is.
    pub fn from(start: impl Into<Bytes>) -> Self {
        Self { start: start.into(), end: None }
    }

    /// Returns the range of all keys that start with `prefix`.
    pub fn prefix(prefix: impl Into<Bytes>) -> Self {
        let start = prefix.into();
        let end = after_prefix(&start);
        Self { start, end }
    }

    /// Tells whether a key belongs to the range.
    pub fn contains(&self, key: &[u8]) -> bool {
        *key >= *self.start && self.end.as_ref().is_none_or(|end| *key < **end)
    }

    /// Tells whether no key can belong to the range.
    pub fn is_empty(&self) -> bool {
        self.end.as_ref().is_some_and(|end| *end <= self.start)
    }

    /// Tells whether some key belongs to both ranges.
    pub fn overlaps(&self, other: &Self) -> bool {
        let start = self.start.clone().max(other.start.clone());
        let end = match (&self.end, &other.end) {
            (Some(a), Some(b)) => Some(a.min(b).clone()),
            (a, b) => a.as_ref().or(b.as_ref()).cloned(),
        };
        !Self { start, end }.is_empty()
    }

    /// Returns the bounds as `BTreeMap::range` takes them; it must not be called with an empty range.
    pub fn bounds(&self) -> (Bound<&[u8]>, Bound<&[u8]>) {
        (Bound::Included(&*self.start), self.end.as_ref().map_or(Bound::Unbounded, |end| Bound::Excluded(&**end)))
    }

    /// Checks the bounds on the length of both ends; an end may be one byte longer than a key, to be just after it.
    ///
    /// # Errors
    /// `TooLarge`.
    pub fn check_bounds(&self) -> Result<(), StoreError> {
        for end in [Some(&self.start), self.end.as_ref()].into_iter().flatten() {
            check(BoundedBy::Key, end.len(), KEY_BYTES_MAX + 1)?;
        }
        Ok(())
    }
}

/// The least key greater than all that start with `prefix`, `None` if there is none (all bytes are 0xFF).
fn after_prefix(prefix: &[u8]) -> Option<Bytes> {
    let last = prefix.iter().rposition(|byte| *byte != 0xFF)?;
    let mut end: Vec<u8> = prefix.iter().copied().take(last + 1).collect();
    if let Some(byte) = end.last_mut() {
        *byte = byte.saturating_add(1);
    }
    Some(end.into())
}

/// Which end of a range comes first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Direction {
    /// Ascending keys.
    #[default]
    Forward,
    /// Descending keys.
    Backward,
}

/// How much one page may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Limits {
    /// Most items; 0 counts as 1, more than [`PAGE_ITEMS_MAX`] as that.
    pub items: usize,
    /// Most bytes of keys and values together, but one item always fits; more than [`PAGE_BYTES_MAX`] counts as that.
    pub bytes: usize,
}

impl Default for Limits {
    /// 1,024 items, 1 MiB.
    fn default() -> Self {
        Self { items: 1024, bytes: 1024 * 1024 }
    }
}

/// What to read of a keyspace, and how much of it at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scan {
    /// Where.
    pub keyspace: Keyspace,
    /// Which keys.
    pub range: KeyRange,
    /// Which end first.
    pub direction: Direction,
    /// How much at once.
    pub limits: Limits,
}

impl Scan {
    /// Asks for a range, ascending, with the default limits.
    pub fn new(keyspace: Keyspace, range: KeyRange) -> Self {
        Self { keyspace, range, direction: Direction::Forward, limits: Limits::default() }
    }

    /// Asks for the keys that start with a prefix, ascending, with the default limits.
    pub fn prefix(keyspace: Keyspace, prefix: impl Into<Bytes>) -> Self {
        Self::new(keyspace, KeyRange::prefix(prefix))
    }

    /// Asks for descending order.
    #[must_use]
    pub fn backward(mut self) -> Self {
        self.direction = Direction::Backward;
        self
    }

    /// Asks for at most so many items a page.
    #[must_use]
    pub fn items(mut self, items: usize) -> Self {
        self.limits.items = items;
        self
    }

    /// Asks for at most so many bytes a page.
    #[must_use]
    pub fn bytes(mut self, bytes: usize) -> Self {
        self.limits.bytes = bytes;
        self
    }

    /// Asks for what comes after `cursor` (excluded) in the direction of the scan; `cursor` is a [`Page::next`].
    #[must_use]
    pub fn after(mut self, cursor: &[u8]) -> Self {
        match self.direction {
            Direction::Forward => {
                let mut start = cursor.to_vec();
                start.push(0);
                self.range.start = self.range.start.max(start.into());
            }
            Direction::Backward => {
                let cursor = Bytes::copy_from_slice(cursor);
                self.range.end = Some(self.range.end.map_or(cursor.clone(), |end| end.min(cursor)));
            }
        }
        self
    }
}

/// A part of a range, as it was at one moment between two commits.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Page {
    /// Keys and values, in the order of the scan.
    pub items: Vec<(Bytes, Bytes)>,
    /// The last key of the page if more came after it, to go on with [`Scan::after`]; `None` at the end of the range.
    pub next: Option<Bytes>,
}

/// Collects a page within its limits; all backends build theirs with it, so that they end at the same item.
#[derive(Debug)]
pub struct PageBuilder {
    page: Page,
    limits: Limits,
    bytes: usize,
}

impl PageBuilder {
    /// Starts a page.
    pub fn new(limits: Limits) -> Self {
        let limits = Limits { items: limits.items.clamp(1, PAGE_ITEMS_MAX), bytes: limits.bytes.min(PAGE_BYTES_MAX) };
        Self { page: Page::default(), limits, bytes: 0 }
    }

    /// Tells whether an item of this size still fits; if not, the page is complete and more is there.
    pub fn fits(&mut self, key_bytes: usize, value_bytes: usize) -> bool {
        let bytes = self.bytes.saturating_add(key_bytes).saturating_add(value_bytes);
        let count = self.page.items.len();
        let fits = count == 0 || (count < self.limits.items && bytes <= self.limits.bytes);
        if !fits {
            self.page.next = self.page.items.last().map(|(key, _)| key.clone());
        }
        fits
    }

    /// Adds an item that fits.
    pub fn push(&mut self, key: Bytes, value: Bytes) {
        self.bytes = self.bytes.saturating_add(key.len()).saturating_add(value.len());
        self.page.items.push((key, value));
    }

    /// Ends the page.
    pub fn finish(self) -> Page {
        self.page
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_ends_before_the_next_one() {
        for (prefix, end) in [
            (&b""[..], None),
            (b"a", Some(&b"b"[..])),
            (b"a\xff", Some(b"b")),
            (b"\xff", None),
            (b"\xff\xff", None),
            (b"\x00", Some(b"\x01")),
            (b"\xfe\xff", Some(b"\xff")),
        ] {
            assert_eq!(KeyRange::prefix(prefix).end.as_deref(), end, "{prefix:?}");
        }
    }

    #[test]
    fn ranges_overlap_if_a_key_is_in_both() {
        let check = |a: &KeyRange, b: &KeyRange, expected| {
            assert_eq!((a.overlaps(b), b.overlaps(a)), (expected, expected), "{a:?} {b:?}");
        };
        check(&KeyRange::all(), &KeyRange::prefix("a"), true);
        check(&KeyRange::new("a", "b"), &KeyRange::new("b", "c"), false);
        check(&KeyRange::new("a", "c"), &KeyRange::new("b", "d"), true);
        check(&KeyRange::new("c", "a"), &KeyRange::all(), false);
        check(&KeyRange::from("x"), &KeyRange::from("z"), true);
        check(&KeyRange::from("x"), &KeyRange::new("a", "b"), false);
    }
}
