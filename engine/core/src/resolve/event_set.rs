//! Sets of events by their numbers.

use crate::{graph::EventIndex, work::count};

/// A set of events as bits over their numbers, from the lowest to the highest. Numbers of a conflict lie close together, at the end
/// of the room.
#[derive(Clone, Debug, Default)]
pub(super) struct EventSet {
    /// The number that the lowest bit of the first word stands for, a multiple of 64.
    start: usize,
    words: Vec<u64>,
}

impl EventSet {
    pub(super) fn contains(&self, index: EventIndex) -> bool {
        count(1);
        let Some(place) = index.as_usize().checked_sub(self.start) else { return false };
        self.words.get(place / 64).is_some_and(|word| word >> (place % 64) & 1 == 1)
    }

    /// Adds an event; returns whether it is new.
    pub(super) fn insert(&mut self, index: EventIndex) -> bool {
        count(1);
        let index = index.as_usize();
        if self.words.is_empty() {
            self.start = index / 64 * 64;
        } else if index < self.start {
            // Room for as many again, so that going down one by one stays linear.
            let start = (index / 64 * 64).saturating_sub(self.words.len() * 64);
            let words = (self.start - start) / 64;
            count(words + self.words.len());
            self.words.splice(0..0, std::iter::repeat_n(0, words));
            self.start = start;
        }
        let place = index - self.start;
        if place / 64 >= self.words.len() {
            count(place / 64 + 1 - self.words.len());
            self.words.resize(place / 64 + 1, 0);
        }
        let Some(word) = self.words.get_mut(place / 64) else { return false };
        let new = *word >> (place % 64) & 1 == 0;
        *word |= 1 << (place % 64);
        new
    }

    pub(super) fn remove(&mut self, index: EventIndex) {
        if let Some(place) = index.as_usize().checked_sub(self.start)
            && let Some(word) = self.words.get_mut(place / 64)
        {
            *word &= !(1 << (place % 64));
        }
    }

    /// Takes the highest event out.
    pub(super) fn pop_last(&mut self) -> Option<EventIndex> {
        while let Some(word) = self.words.last_mut() {
            count(1);
            if *word != 0 {
                let bit = 63 - word.leading_zeros() as usize;
                *word &= !(1 << bit);
                return EventIndex::from_usize(self.start + (self.words.len() - 1) * 64 + bit);
            }
            self.words.pop();
        }
        None
    }

    /// Returns the places of the events among each other. O(span / 64).
    pub(super) fn ranks(&self) -> Ranks<'_> {
        count(self.words.len());
        let mut len = 0;
        let mut before = Vec::with_capacity(self.words.len());
        for word in &self.words {
            before.push(len);
            len += word.count_ones() as usize;
        }
        Ranks { set: self, before, len }
    }

    pub(super) fn first(&self) -> Option<EventIndex> {
        self.iter().next()
    }

    /// Returns the events, lowest first.
    pub(super) fn iter(&self) -> impl Iterator<Item = EventIndex> {
        let start = self.start;
        self.words.iter().enumerate().flat_map(move |(place, word)| {
            let mut rest = *word;
            std::iter::from_fn(move || {
                count(1);
                let bit = rest.trailing_zeros() as usize;
                rest &= rest.checked_sub(1)?;
                EventIndex::from_usize(start + place * 64 + bit)
            })
        })
    }
}

/// The place of each event of a set among its events.
pub(super) struct Ranks<'a> {
    set: &'a EventSet,
    /// How many events there are before each word.
    before: Vec<usize>,
    len: usize,
}

impl Ranks<'_> {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Returns the place of an event, `None` if it is not in the set.
    pub(super) fn of(&self, index: EventIndex) -> Option<usize> {
        count(1);
        let place = index.as_usize().checked_sub(self.set.start)?;
        let (word, before) = (self.set.words.get(place / 64)?, self.before.get(place / 64)?);
        let bit = 1 << (place % 64);
        (word & bit != 0).then(|| before + (word & (bit - 1)).count_ones() as usize)
    }
}

impl Extend<EventIndex> for EventSet {
    fn extend<I: IntoIterator<Item = EventIndex>>(&mut self, events: I) {
        for index in events {
            self.insert(index);
        }
    }
}

impl FromIterator<EventIndex> for EventSet {
    fn from_iter<I: IntoIterator<Item = EventIndex>>(events: I) -> Self {
        let mut set = Self::default();
        set.extend(events);
        set
    }
}
