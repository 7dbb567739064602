//! Everything that events rest on: their auth events, those of these, and so on.

use super::{EventGraph, EventIndex};
use crate::work::count;

impl EventGraph {
    /// Returns the auth chains of events together: their auth events, and the auth events of those, recursively; each once, parents
    /// before children. The events themselves are in it only if others of them rest on them.
    ///
    /// O(c + n/64) for c auth edges of the chain and n events of the room.
    pub fn auth_chain(&self, events: impl IntoIterator<Item = EventIndex>) -> Vec<EventIndex> {
        let mut seen = vec![0_u64; self.len().div_ceil(64)];
        count(seen.len());
        let mut is_new = |index: EventIndex| {
            let (word, bit) = (index.as_usize() / 64, 1 << (index.as_usize() % 64));
            let Some(word) = seen.get_mut(word) else { return false };
            std::mem::replace(word, *word | bit) & bit == 0
        };
        let mut chain = Vec::new();
        for event in events {
            chain.extend(self.auth_events(event).iter().copied().filter(|index| is_new(*index)));
        }
        let mut next = 0;
        while let Some(event) = chain.get(next).copied() {
            chain.extend(self.auth_events(event).iter().copied().filter(|index| is_new(*index)));
            next += 1;
        }
        chain.sort_unstable();
        chain
    }
}

#[cfg(test)]
mod tests {
    use crate::{room_version::RoomVersion, testing::TestGraph};

    #[test]
    fn auth_chains_have_everything_once_and_parents_first() {
        let room = TestGraph::new(
            RoomVersion::V10,
            "
            C: alice creates
            A: alice joins
            P: alice power alice=100 bob=50
            J: alice join_rule public
            B: bob joins
            T: bob sets m.room.topic
            M: bob says hi",
        );
        let check = |of: &str, expected: &str| {
            let events = of.split_whitespace().map(|name| room.graph.index_of(&room.names.id(name)).unwrap());
            let chain = room.graph.auth_chain(events).into_iter();
            let names: Vec<_> = chain.map(|index| room.names.name(&room.graph.event_id(index)).to_owned()).collect();
            assert_eq!(names.join(" "), expected, "{of}");
        };
        check("", "");
        check("C", "");
        check("A", "C");
        check("T", "C A P J B");
        check("M", "C A P J B");
        check("M B C T M", "C A P J B");
        check("P J", "C A P");
    }
}
