//! What events cite: a list that comes again soon, as those of a user's messages do, is stored once.

use super::{Arena, EventIndex, Span};

/// How many lists are looked at for one that is the same.
const RECENT: usize = 64;

/// The auth events of a room's events.
#[derive(Debug)]
pub(super) struct AuthEdges {
    edges: Arena<EventIndex>,
    /// Lists that were stored lately, each at the place that its events give.
    recent: [Span; RECENT],
}

impl Default for AuthEdges {
    fn default() -> Self {
        Self { edges: Arena::default(), recent: [Span::default(); RECENT] }
    }
}

impl AuthEdges {
    /// Returns where a list is, which is put there unless it is; `None` if there is no room for it.
    pub(super) fn store(&mut self, events: &[EventIndex]) -> Option<Span> {
        let place = events.iter().fold(0_usize, |sum, event| sum.wrapping_add(event.as_usize())) % RECENT;
        let recent = self.recent.get_mut(place)?;
        if self.edges.get(*recent) != events {
            *recent = self.edges.store(events)?;
        }
        Some(*recent)
    }

    pub(super) fn get(&self, span: Span) -> &[EventIndex] {
        self.edges.get(span)
    }
}

#[cfg(test)]
mod tests {
    use super::{AuthEdges, EventIndex, RECENT};

    #[test]
    fn a_list_that_comes_again_is_stored_once_and_others_stay_what_they_are() {
        let mut edges = AuthEdges::default();
        let list = |first: usize| [first, first + RECENT, 2].map(|place| EventIndex::from_usize(place).unwrap());
        // Those of one place push each other out.
        let spans: Vec<_> = (0..4 * RECENT).map(|first| edges.store(&list(first)).unwrap()).collect();
        for (first, span) in spans.iter().enumerate() {
            assert_eq!(edges.get(*span), list(first));
        }
        let again = edges.store(&list(4 * RECENT - 1)).unwrap();
        assert_eq!(again.start, spans[4 * RECENT - 1].start);
        let empty = edges.store(&[]).unwrap();
        assert!(edges.get(empty).is_empty());
    }
}
