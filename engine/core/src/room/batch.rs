//! Many events at once, in any order.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::{Receipt, Room, RoomError};
use crate::{id::EventId, pdu::VerifiedPdu};

impl Room {
    /// Judges events that may come in any order and cite each other: each after those of the batch that it cites, otherwise in
    /// the order given.
    ///
    /// Returns a receipt for each, in the order in which they were handled. What builds on an event that still needs events needs
    /// that event, and so do events that cite each other in a circle. O(e log e) beside the judging.
    ///
    /// # Errors
    ///
    /// As [`Room::handle_pdu`]; what was judged before stays judged.
    pub fn handle_pdus(&mut self, pdus: &[VerifiedPdu]) -> Result<Vec<(EventId, Receipt)>, RoomError> {
        let in_batch: BTreeSet<&EventId> = pdus.iter().map(|pdu| &pdu.event().event_id).collect();
        let mut waiting: BTreeMap<&EventId, Vec<usize>> = BTreeMap::new();
        let mut waits_for: Vec<usize> = Vec::with_capacity(pdus.len());
        let mut ready = VecDeque::new();
        for (place, pdu) in pdus.iter().enumerate() {
            let event = pdu.event();
            let cited: BTreeSet<&EventId> = event.prev_events.iter().chain(&event.auth_events).collect();
            let cited = cited.into_iter().filter(|id| in_batch.contains(id) && self.graph.index_of(id).is_none());
            let mut count = 0;
            for id in cited {
                waiting.entry(id).or_default().push(place);
                count += 1;
            }
            waits_for.push(count);
            if count == 0 {
                ready.push_back(place);
            }
        }
        let mut receipts = Vec::with_capacity(pdus.len());
        let mut handled = vec![false; pdus.len()];
        while let Some(place) = ready.pop_front() {
            let Some(pdu) = pdus.get(place) else { continue };
            let receipt = self.handle_pdu(pdu)?;
            let event_id = &pdu.event().event_id;
            let known = matches!(receipt, Receipt::Judged(_) | Receipt::AlreadyKnown(_));
            receipts.push((event_id.clone(), receipt));
            if let Some(done) = handled.get_mut(place) {
                *done = true;
            }
            for citing in known.then(|| waiting.remove(event_id)).flatten().unwrap_or_default() {
                if let Some(count) = waits_for.get_mut(citing) {
                    *count -= 1;
                    if *count == 0 {
                        ready.push_back(citing);
                    }
                }
            }
        }
        for (pdu, _) in pdus.iter().zip(handled).filter(|(_, handled)| !handled) {
            receipts.push((pdu.event().event_id.clone(), self.handle_pdu(pdu)?));
        }
        Ok(receipts)
    }
}
