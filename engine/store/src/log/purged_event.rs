//! What is left in the log of an event whose content was purged.

use std::sync::Arc;

use bincode::{Decode, Encode};
use ravel_core::{
    id::RoomId,
    room::{Outcome, PurgedEvent, RecordedReason},
};

use super::{
    event_facts::{ContentRecord, FieldsRecord, indices},
    records::{ArrivalRecord, ReasonRecord, TimelineRecord, recorded_verdict},
};

/// An event without its content, and how it was judged.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub(super) struct PurgedEventRecord {
    pub(super) room: u32,
    pub(super) fields: FieldsRecord,
    prev_events: Vec<u32>,
    auth_events: Vec<u32>,
    /// What can't be judged again without the content.
    outcome: u8,
    reason: Option<ReasonRecord>,
    content: ContentRecord,
    /// What rules read of the content once it is redacted, if that differs.
    redacted: Option<ContentRecord>,
    arrival: ArrivalRecord,
}

impl PurgedEventRecord {
    /// Returns what is left of an event with this verdict.
    pub(super) fn of(room: u32, event: &PurgedEvent, verdict: &TimelineRecord) -> Self {
        Self {
            room,
            fields: FieldsRecord::of(&event.event),
            prev_events: event.prev_events.iter().map(|index| index.number()).collect(),
            auth_events: event.auth_events.iter().map(|index| index.number()).collect(),
            outcome: verdict.outcome,
            reason: verdict.reason.clone(),
            content: ContentRecord::of(&event.event.content),
            redacted: event.redacted.as_ref().map(ContentRecord::of),
            arrival: ArrivalRecord::of(event.arrival),
        }
    }

    /// Returns the event with its verdict; `None` if something in the record can't be.
    pub(super) fn into_event(self, room_id: &RoomId) -> Option<(PurgedEvent, Outcome, Option<RecordedReason>)> {
        let (outcome, reason) = recorded_verdict(self.outcome, self.reason)?;
        let redacted = match self.redacted {
            Some(content) => Some(content.into_content()?),
            None => None,
        };
        let event = PurgedEvent {
            event: Arc::new(self.fields.into_event(room_id, self.content)?),
            prev_events: indices(self.prev_events)?,
            auth_events: indices(self.auth_events)?,
            redacted,
            arrival: self.arrival.into_arrival(),
        };
        Some((event, outcome, reason))
    }
}
