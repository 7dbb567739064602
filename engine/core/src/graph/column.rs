//! Storage in blocks: growing copies next to nothing, and at most one block is not full.

/// How many values are in a block.
const COLUMN_BLOCK: usize = 1024;

/// Values by dense numbers. They only grow, but for those that are taken out, which leave gaps.
#[derive(Debug)]
pub(crate) struct Column<T> {
    blocks: Vec<Block<T>>,
    len: usize,
}

#[derive(Debug)]
enum Block<T> {
    /// Without gaps.
    Whole(Vec<T>),
    /// What is left, by place in the block. Invariant: sorted.
    Left(Vec<(u16, T)>),
}

impl<T> Default for Column<T> {
    fn default() -> Self {
        Self { blocks: Vec::new(), len: 0 }
    }
}

impl<T> Block<T> {
    fn get(&self, place: usize) -> Option<&T> {
        match self {
            Self::Whole(values) => values.get(place),
            Self::Left(values) => values.get(left_at(values, place).ok()?).map(|(_, value)| value),
        }
    }

    fn get_mut(&mut self, place: usize) -> Option<&mut T> {
        match self {
            Self::Whole(values) => values.get_mut(place),
            Self::Left(values) => {
                let at = left_at(values, place).ok()?;
                values.get_mut(at).map(|(_, value)| value)
            }
        }
    }

    fn iter(&self) -> impl Iterator<Item = (usize, &T)> {
        let (whole, left) = match self {
            Self::Whole(values) => (values.as_slice(), &[][..]),
            Self::Left(values) => (&[][..], values.as_slice()),
        };
        whole.iter().enumerate().chain(left.iter().map(|(place, value)| (usize::from(*place), value)))
    }

    fn values_mut(&mut self) -> impl Iterator<Item = &mut T> {
        let (whole, left) = match self {
            Self::Whole(values) => (values.as_mut_slice(), &mut [][..]),
            Self::Left(values) => (&mut [][..], values.as_mut_slice()),
        };
        whole.iter_mut().chain(left.iter_mut().map(|(_, value)| value))
    }

    /// Takes values out.
    fn take_out(&mut self, places: &[usize]) {
        let is_taken = |place: usize| places.binary_search_by_key(&place, |taken| taken % COLUMN_BLOCK).is_ok();
        match self {
            Self::Whole(values) => {
                let left = std::mem::take(values).into_iter().enumerate().filter(|(place, _)| !is_taken(*place));
                let left: Vec<_> =
                    left.filter_map(|(place, value)| Some((u16::try_from(place).ok()?, value))).collect();
                *self = Self::Left(left);
            }
            Self::Left(values) => {
                values.retain(|(place, _)| !is_taken(usize::from(*place)));
                values.shrink_to_fit();
            }
        }
    }
}

/// Finds a place among what is left of a block, or where it would be.
fn left_at<T>(left: &[(u16, T)], place: usize) -> Result<usize, usize> {
    left.binary_search_by_key(&place, |(place, _)| usize::from(*place))
}

impl<T> Column<T> {
    /// Returns how many numbers were given out, whether their values are there or not.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn push(&mut self, value: T) {
        let place = self.len % COLUMN_BLOCK;
        match (self.blocks.last_mut().filter(|_| place > 0), u16::try_from(place)) {
            (Some(Block::Whole(block)), _) => block.push(value),
            (Some(Block::Left(left)), Ok(place)) => left.push((place, value)),
            _ => {
                // The first grows as it is needed: most rooms are small.
                let capacity = if self.blocks.is_empty() { 0 } else { COLUMN_BLOCK };
                let mut block = Vec::with_capacity(capacity);
                block.push(value);
                self.blocks.push(Block::Whole(block));
            }
        }
        self.len += 1;
    }

    pub(crate) fn get(&self, place: usize) -> Option<&T> {
        self.blocks.get(place / COLUMN_BLOCK)?.get(place % COLUMN_BLOCK)
    }

    /// Returns a value that is there.
    ///
    /// # Panics
    ///
    /// If it is not: this is for numbers that were given out with their values, which are never taken out.
    #[allow(clippy::expect_used, reason = "that is the contract")]
    pub(crate) fn at(&self, place: usize) -> &T {
        self.get(place).expect("the number was given out with its value")
    }

    pub(crate) fn get_mut(&mut self, place: usize) -> Option<&mut T> {
        self.blocks.get_mut(place / COLUMN_BLOCK)?.get_mut(place % COLUMN_BLOCK)
    }

    /// Returns the values that are there with their numbers, in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (usize, &T)> {
        let blocks = self.blocks.iter().enumerate();
        blocks
            .flat_map(|(number, block)| block.iter().map(move |(place, value)| (number * COLUMN_BLOCK + place, value)))
    }

    pub(crate) fn values_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.blocks.iter_mut().flat_map(Block::values_mut)
    }

    /// Takes values out. Their numbers are sorted.
    pub(crate) fn take_out(&mut self, places: &[usize]) {
        for of_block in places.chunk_by(|a, b| a / COLUMN_BLOCK == b / COLUMN_BLOCK) {
            let block = of_block.first().and_then(|place| self.blocks.get_mut(place / COLUMN_BLOCK));
            if let Some(block) = block {
                block.take_out(of_block);
            }
        }
    }

    /// Puts a value back that was taken out.
    pub(crate) fn put_back(&mut self, place: usize, value: T) {
        let block = self.blocks.get_mut(place / COLUMN_BLOCK);
        let (Some(Block::Left(left)), Ok(place)) = (block, u16::try_from(place % COLUMN_BLOCK)) else { return };
        if let Err(at) = left_at(left, place.into()) {
            left.insert(at, (place, value));
        }
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
        assert!((0..3 * COLUMN_BLOCK).all(|number| column.get(number) == Some(&number)));
        assert_eq!(column.get(2 * COLUMN_BLOCK), Some(&(2 * COLUMN_BLOCK)));
        assert_eq!(column.get(3 * COLUMN_BLOCK), None);
    }

    #[test]
    fn what_is_taken_out_of_a_column_leaves_gaps_and_can_be_put_back() {
        let mut column = Column::default();
        let len = 2 * COLUMN_BLOCK + 1;
        (0..len).for_each(|number| column.push(number));
        let taken: Vec<usize> = (0..len).filter(|number| !number.is_multiple_of(7)).collect();
        // Some of them at first, then others of the same block.
        let (first, second): (Vec<usize>, Vec<usize>) = taken.iter().partition(|number| *number % 2 == 0);
        column.take_out(&first);
        column.take_out(&second);
        assert_eq!(column.len(), len);
        let is_left = |number: usize| number.is_multiple_of(7);
        for number in 0..len {
            assert_eq!(column.get(number).copied(), Some(number).filter(|number| is_left(*number)));
            assert_eq!(column.get_mut(number).copied(), Some(number).filter(|number| is_left(*number)));
        }
        let left: Vec<usize> = (0..len).filter(|number| is_left(*number)).collect();
        assert!(column.iter().map(|(number, value)| (number, *value)).eq(left.iter().map(|number| (*number, *number))));
        assert!(column.values_mut().map(|value| *value).eq(left.iter().copied()));
        column.push(len);
        for number in taken {
            column.put_back(number, number);
        }
        assert!(column.iter().map(|(number, value)| (number, *value)).eq((0..=len).map(|number| (number, number))));
        assert_eq!(column.len(), len + 1);
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
