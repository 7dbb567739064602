//! Events as other servers get them.

use std::{collections::VecDeque, sync::Arc};

use ravel_core::{
    id::{EventId, RoomId},
    pdu::VerifiedPdu,
    room_version::RoomVersionRules,
};
use ravel_store::log::EventLog;
use serde_json::value::RawValue;

use crate::rooms::{LoadedRoom, RoomsError};

/// How many events are read at a time: 16 MiB at most.
const PAGE: usize = 256;

/// An event that is to be answered with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Chosen {
    pub(crate) event_id: EventId,
    /// In its redacted form, since it was redacted or is not for the one who asks.
    pub(crate) redacted: bool,
}

impl Chosen {
    pub(crate) fn new(room: &LoadedRoom, event_id: EventId) -> Self {
        Self { redacted: room.is_redacted(&event_id), event_id }
    }
}

/// Events of an answer, which are read from the log as they are wanted. Each is canonical JSON without `unsigned`, redacted if it was
/// redacted or is not for the one who asks. Those whose content was purged are left out.
pub struct Pdus {
    log: Arc<EventLog>,
    room_id: RoomId,
    rules: &'static RoomVersionRules,
    waiting: VecDeque<Chosen>,
}

impl Pdus {
    pub(crate) fn new(
        log: &Arc<EventLog>,
        room_id: &RoomId,
        rules: &'static RoomVersionRules,
        chosen: Vec<Chosen>,
    ) -> Self {
        Self { log: Arc::clone(log), room_id: room_id.clone(), rules, waiting: chosen.into() }
    }

    /// Returns the ids of the events that were not read yet.
    pub fn ids(&self) -> impl ExactSizeIterator<Item = &EventId> {
        self.waiting.iter().map(|chosen| &chosen.event_id)
    }

    /// Returns the next events, `None` when there are no more.
    ///
    /// # Errors
    ///
    /// When the log can't be read.
    pub async fn next(&mut self) -> Result<Option<Vec<Vec<u8>>>, RoomsError> {
        if self.waiting.is_empty() {
            return Ok(None);
        }
        let mut page: VecDeque<Chosen> = self.waiting.drain(..self.waiting.len().min(PAGE)).collect();
        let ids: Vec<EventId> = page.iter().map(|chosen| chosen.event_id.clone()).collect();
        let mut pdus = Vec::with_capacity(page.len());
        for event in self.log.logged_events_of(&self.room_id, &ids).await? {
            // They come in this order, those that are not there left out.
            let chosen = std::iter::from_fn(|| page.pop_front()).find(|chosen| chosen.event_id == event.event_id);
            let Some((chosen, json)) = chosen.zip(event.json) else { continue };
            pdus.push(if chosen.redacted { redacted(&json, self.rules)? } else { json });
        }
        Ok(Some(pdus))
    }

    /// Returns all events.
    ///
    /// # Errors
    ///
    /// When the log can't be read.
    pub async fn all(mut self) -> Result<Vec<Box<RawValue>>, RoomsError> {
        let mut pdus = Vec::with_capacity(self.waiting.len());
        while let Some(page) = self.next().await? {
            // The log has JSON only.
            let raw = page.into_iter().filter_map(|json| String::from_utf8(json).ok());
            pdus.extend(raw.filter_map(|json| RawValue::from_string(json).ok()));
        }
        Ok(pdus)
    }
}

fn redacted(json: &[u8], rules: &RoomVersionRules) -> Result<Vec<u8>, RoomsError> {
    Ok(VerifiedPdu::restore(json, rules, None, true)?.redacted_json()?)
}
