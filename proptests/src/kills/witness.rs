//! What was acknowledged and seen, and whether it is still there.

use std::{collections::BTreeMap, sync::Arc};

use ravel_core::id::EventId;
use ravel_store::{KeyRange, Keyspace, Scan, Store, StoreError, block_on, log::EventLog};

use super::{Problem, load::Acknowledged};
use crate::growing::GrowingRoom;

/// What is known of a database.
#[derive(Debug, Default)]
pub(super) struct Witness {
    /// By number, what was acknowledged since the last look.
    acknowledged: BTreeMap<u64, Vec<Acknowledged>>,
    /// By number, the events that the rooms had at the last look.
    seen: BTreeMap<u64, Vec<EventId>>,
    /// How many entries the log had at the last look.
    entries: u64,
}

/// What a look found.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// How many events were acknowledged since the look before.
    pub(super) acknowledged: u64,
    /// How many other events are new.
    pub(super) not_acknowledged: u64,
}

impl Witness {
    pub(super) fn hear(&mut self, acknowledged: Vec<Acknowledged>) {
        for line in acknowledged {
            self.acknowledged.entry(line.room).or_default().push(line);
        }
    }

    /// Looks whether all is there that was acknowledged, and as it was; with `verify`, compares all with a replay.
    pub(super) fn look(&mut self, store: &Arc<dyn Store>, seed: u64, verify: bool) -> Result<Seen, Problem> {
        let log = block_on(EventLog::open(store.clone()))?;
        self.look_for_holes(store, log.len())?;
        let mut seen = Seen::default();
        if verify {
            for number in self.seen.keys() {
                self.acknowledged.entry(*number).or_default();
            }
        }
        for (number, acknowledged) in std::mem::take(&mut self.acknowledged) {
            let room = block_on(log.load_room(GrowingRoom::new(seed, number).room_id()))?;
            let events: Vec<EventId> = room
                .iter()
                .flat_map(|room| room.events().map(|(event, _)| event.event_id.clone()).collect::<Vec<_>>())
                .collect();
            let before = self.seen.entry(number).or_default();
            if !events.starts_with(before) {
                return Err(Problem::HistoryChanged { room: number, count: before.len() });
            }
            for Acknowledged { room, count, event_id } in &acknowledged {
                match count.checked_sub(1).and_then(|last| events.get(last)) {
                    None => {
                        let (event_id, len) = (event_id.clone(), events.len());
                        return Err(Problem::Lost { room: *room, count: *count, event_id, len });
                    }
                    Some(found) if found != event_id => {
                        let (acknowledged, found) = (event_id.clone(), found.clone());
                        return Err(Problem::OtherEvent { room: *room, count: *count, acknowledged, found });
                    }
                    Some(_) => {}
                }
            }
            let promised = acknowledged.iter().map(|line| line.count).max().unwrap_or(0);
            seen.acknowledged += promised.saturating_sub(before.len()) as u64;
            seen.not_acknowledged += (events.len() - promised.max(before.len())) as u64;
            *before = events;
        }
        if verify {
            let verification = block_on(log.verify(|_, _| {}))?;
            if !verification.findings.is_empty() {
                return Err(Problem::Findings(verification.findings));
            }
        }
        Ok(seen)
    }

    /// Looks at what is new in the log.
    fn look_for_holes(&mut self, store: &Arc<dyn Store>, entries: u64) -> Result<(), Problem> {
        if entries < self.entries {
            return Err(Problem::Shorter { before: self.entries, now: entries });
        }
        // Of what was there, the last entry once more.
        let mut next = self.entries.saturating_sub(1);
        let mut scan = Some(Scan::new(Keyspace::Log, KeyRange::from(next.to_be_bytes().to_vec())));
        while let Some(asked) = scan.take() {
            let page = block_on(store.scan(asked.clone()))?;
            for (key, _) in &page.items {
                if **key != next.to_be_bytes() {
                    return Err(Problem::Hole(next));
                }
                next += 1;
            }
            scan = page.next.map(|cursor| asked.after(&cursor));
        }
        if next != entries {
            return Err(
                StoreError::corrupt(Keyspace::Log, &next.to_be_bytes(), "as many entries as the head says").into()
            );
        }
        self.entries = entries;
        Ok(())
    }
}
