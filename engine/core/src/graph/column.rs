//! Storage that only grows, in blocks: growing copies next to nothing, and at most one block is not full.

/// How many values are in a block.
const COLUMN_BLOCK: usize = 1024;

/// Values by dense numbers.
#[derive(Debug)]
pub(crate) struct Column<T> {
    blocks: Vec<Vec<T>>,
}

impl<T> Default for Column<T> {
    fn default() -> Self {
        Self { blocks: Vec::new() }
    }
}

impl<T> Column<T> {
    pub(crate) fn len(&self) -> usize {
        self.blocks.last().map_or(0, |last| (self.blocks.len() - 1) * COLUMN_BLOCK + last.len())
    }

    pub(crate) fn push(&mut self, value: T) {
        match self.blocks.last_mut() {
            Some(block) if block.len() < COLUMN_BLOCK => block.push(value),
            // The first grows as it is needed: most rooms are small.
            last => {
                let mut block = if last.is_some() { Vec::with_capacity(COLUMN_BLOCK) } else { Vec::new() };
                block.push(value);
                self.blocks.push(block);
            }
        }
    }

    pub(crate) fn get(&self, place: usize) -> Option<&T> {
        self.blocks.get(place / COLUMN_BLOCK)?.get(place % COLUMN_BLOCK)
    }

    /// Returns a value that is there.
    ///
    /// # Panics
    ///
    /// If it is not: this is for numbers that were given out with their values.
    #[allow(clippy::indexing_slicing, reason = "that is the contract")]
    pub(crate) fn at(&self, place: usize) -> &T {
        &self.blocks[place / COLUMN_BLOCK][place % COLUMN_BLOCK]
    }

    pub(crate) fn get_mut(&mut self, place: usize) -> Option<&mut T> {
        self.blocks.get_mut(place / COLUMN_BLOCK)?.get_mut(place % COLUMN_BLOCK)
    }
}

/// How many values are in a block of an arena, and so the most of one slice.
const ARENA_BLOCK: usize = 1 << 16;

/// Slices one after the other.
#[derive(Debug)]
pub(crate) struct Arena<T> {
    /// A slice lies in one block; what is left at the end of a block is lost.
    blocks: Vec<Vec<T>>,
}

/// Where a slice lies in an arena.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Span {
    /// Number of the block, and place in it in the lower 16 bits.
    pub(crate) start: u32,
    pub(crate) len: u32,
}

impl<T> Default for Arena<T> {
    fn default() -> Self {
        Self { blocks: Vec::new() }
    }
}

impl<T: Copy> Arena<T> {
    /// Copies a slice into the arena; `None` if it is longer than a block or the arena is full.
    pub(crate) fn store(&mut self, values: &[T]) -> Option<Span> {
        let fits = |block: &Vec<T>| block.len() + values.len() <= ARENA_BLOCK && block.len() < ARENA_BLOCK;
        if values.len() > ARENA_BLOCK {
            return None;
        }
        if !self.blocks.last().is_some_and(fits) {
            self.blocks.push(if self.blocks.is_empty() { Vec::new() } else { Vec::with_capacity(ARENA_BLOCK) });
        }
        let number = self.blocks.len() - 1;
        let block = self.blocks.last_mut()?;
        let start = u32::try_from(number * ARENA_BLOCK + block.len()).ok()?;
        block.extend_from_slice(values);
        Some(Span { start, len: u32::try_from(values.len()).ok()? })
    }

    pub(crate) fn get(&self, span: Span) -> &[T] {
        let (block, place) = (span.start as usize / ARENA_BLOCK, span.start as usize % ARENA_BLOCK);
        let block = self.blocks.get(block).map_or(&[][..], Vec::as_slice);
        block.get(place..place + span.len as usize).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::{ARENA_BLOCK, Arena, COLUMN_BLOCK, Column};

    #[test]
    fn a_column_gives_back_what_was_pushed() {
        let mut column = Column::default();
        for number in 0..3 * COLUMN_BLOCK {
            assert_eq!(column.len(), number);
            column.push(number);
        }
        assert!((0..3 * COLUMN_BLOCK).all(|number| *column.at(number) == number));
        assert_eq!(column.get(2 * COLUMN_BLOCK), Some(&(2 * COLUMN_BLOCK)));
        assert_eq!(column.get(3 * COLUMN_BLOCK), None);
    }

    #[test]
    fn an_arena_gives_back_what_was_stored() {
        let mut arena = Arena::default();
        let slices: Vec<Vec<u32>> = (0..700).map(|number| (0..number).collect()).collect();
        let spans: Vec<_> = slices.iter().map(|slice| arena.store(slice).unwrap()).collect();
        for (slice, span) in slices.iter().zip(spans) {
            assert_eq!(arena.get(span), slice);
        }
        assert!(arena.store(&vec![0; ARENA_BLOCK]).is_some());
        assert!(arena.store(&vec![0; ARENA_BLOCK + 1]).is_none());
    }
}
