//! Reading back what a room in memory has put aside.

use std::collections::BTreeSet;

use bytes::Bytes;
use ravel_core::{
    graph::{EventIndex, Missed},
    id::EventId,
    room::Room,
};

use super::{
    EventLog, LogError,
    event_facts::EventFactsRecord,
    records::{EventRecord, LogEntry, key},
    replay::restore,
};
use crate::{GET_KEYS_MAX, Record, codec};

/// What is asked for of a room's past is followed by what came near it: so many events are read at once.
const NEAR: u32 = 64;

/// How many events are read at a time: 16 MiB at most.
const AT_ONCE: usize = 256;

impl EventLog {
    /// Puts events back that a room in memory missed, and what came near them; returns what of it the room does not have.
    ///
    /// Costs four look-ups of many keys for some hundred events.
    ///
    /// # Errors
    ///
    /// `Purged` if that is not in the store any more; when the store fails, or what it has does not fit together.
    pub async fn put_back(&self, room: &mut Room, missed: &Missed) -> Result<Missed, LogError> {
        let missing = || LogError::Purged { room_id: room.room_id().clone() };
        let number = self.room_number(room.room_id())?.ok_or_else(missing)?;
        self.put_back_of(room, number, missed).await
    }

    /// As [`put_back`](Self::put_back), of a room by its number.
    pub(super) async fn put_back_of(&self, room: &mut Room, number: u32, missed: &Missed) -> Result<Missed, LogError> {
        let mut unknown = Missed::default();
        let mut wanted: BTreeSet<EventIndex> = missed.numbers.clone();
        let keys = missed.event_ids.iter().map(|event_id| key::event(number, event_id)).collect();
        for (event_id, place) in missed.event_ids.iter().zip(self.records::<EventRecord>(keys).await?) {
            match place.and_then(|place| EventIndex::from_number(place.number)) {
                Some(index) if room.graph().has(index) => wanted.insert(index),
                _ => unknown.event_ids.insert(event_id.clone()),
            };
        }
        let firsts: BTreeSet<u32> = wanted
            .into_iter()
            .filter(|index| room.graph().is_aside(*index))
            .map(|index| index.number() / NEAR * NEAR)
            .collect();
        let near = firsts
            .into_iter()
            .flat_map(|first| (first..first.saturating_add(NEAR)).filter_map(EventIndex::from_number));
        let wanted: Vec<EventIndex> = near.filter(|index| room.graph().is_aside(*index)).collect();
        for indices in wanted.chunks(AT_ONCE) {
            self.put_back_these(room, number, indices).await?;
        }
        Ok(unknown)
    }

    async fn put_back_these(&self, room: &mut Room, number: u32, indices: &[EventIndex]) -> Result<(), LogError> {
        let gone = || LogError::Purged { room_id: room.room_id().clone() };
        let keys = indices.iter().map(|index| key::event_facts(number, *index)).collect();
        let mut places = Vec::with_capacity(indices.len());
        for facts in self.records::<EventFactsRecord>(keys).await? {
            let event_id = EventId::parse(&facts.ok_or_else(gone)?.fields.event_id).map_err(|_| gone())?;
            places.push(key::event(number, &event_id));
        }
        let places = self.records::<EventRecord>(places).await?;
        let sequences = places.into_iter().map(|place| Ok(place.ok_or_else(gone)?.sequence));
        let sequences: Vec<u64> = sequences.collect::<Result<_, LogError>>()?;
        for (index, (sequence, entry)) in indices.iter().zip(self.entries(&sequences).await?) {
            let LogEntry::Event { json, content_hash_matched, authorising_user_signed, .. } = entry else {
                return Err(LogError::Purged { room_id: room.room_id().clone() });
            };
            let pdu = restore(room.rules(), &json, authorising_user_signed, content_hash_matched);
            room.put_back(*index, pdu.map_err(|source| LogError::BadEvent { sequence, source })?.event())?;
        }
        Ok(())
    }

    /// Reads records by their keys, in their order.
    pub(super) async fn records<R: Record>(&self, keys: Vec<Bytes>) -> Result<Vec<Option<R>>, LogError> {
        let mut records = Vec::with_capacity(keys.len());
        for keys in keys.chunks(GET_KEYS_MAX) {
            for (key, value) in keys.iter().zip(self.store.get_many(R::KEYSPACE, keys).await?) {
                records.push(value.map(|value| codec::decode(key, &value)).transpose()?);
            }
        }
        Ok(records)
    }
}
