//! Events that can't be verified, since their keys can't be had: those of servers that this one has nothing to do with, and so does not ask.
//!
//! They are part of the room at others, which build on them. What builds on them is judged here as if it built on what they build on.

use std::collections::{BTreeMap, BTreeSet};

use ravel_core::{
    event::Event,
    id::{EventId, RoomId, ServerName},
    pdu::{ParsedPdu, SignatureError, VerifiedPdu},
    room::Room,
    room_version::RoomVersionRules,
};
use serde_json::value::RawValue;

use super::{PduRefusal, verifying::Verified};
use crate::{homeserver::Homeserver, rooms::RoomsError};

/// Some of these events, each with its prev events.
#[derive(Debug, Default)]
pub(crate) struct LeftOut(BTreeMap<EventId, Vec<EventId>>);

impl LeftOut {
    /// Returns the prev events of an event; in the place of those that are left out, theirs.
    pub(super) fn parents<'s>(&'s self, event: &'s Event) -> BTreeSet<&'s EventId> {
        let direct = event.prev_events.iter().filter(|id| !self.0.contains_key(*id));
        direct.chain(self.behind(event)).collect()
    }

    /// Returns the events that an event builds on by those that are left out, and not these themselves.
    fn behind<'s>(&'s self, event: &'s Event) -> BTreeSet<&'s EventId> {
        let (mut behind, mut passed) = (BTreeSet::new(), BTreeSet::new());
        let mut pending: Vec<&EventId> = event.prev_events.iter().filter(|id| self.0.contains_key(*id)).collect();
        while let Some(event_id) = pending.pop() {
            match self.0.get(event_id) {
                Some(prev_events) if passed.insert(event_id) => pending.extend(prev_events),
                Some(_) => {}
                None => drop(behind.insert(event_id)),
            }
        }
        behind
    }

    /// Returns the state before an event whose prev events are here or left out, as far as these leave it no choice: what they build on
    /// has one state.
    fn state_before(&self, room: &Room, event: &Event) -> Option<Vec<EventId>> {
        if !event.prev_events.iter().all(|id| room.has_place(id) || self.0.contains_key(id)) {
            return None;
        }
        let mut behind = self.behind(event).into_iter();
        let state = room.state_after(behind.next()?)?;
        let is_same = |id| room.state_after(id).is_some_and(|other| other.map().is_same(state.map()));
        let event_ids = || state.map().iter().map(|(_, index)| room.graph().event_id(index)).collect();
        behind.all(is_same).then(event_ids)
    }
}

impl Homeserver {
    /// Returns which of a room's events that another server gave are left out; `verified` says what came of each of them.
    pub(super) fn left_out(
        &self,
        room_id: &RoomId,
        rules: &RoomVersionRules,
        pdus: &[Box<RawValue>],
        verified: &[Verified],
    ) -> LeftOut {
        let is_denied = |name: &str| ServerName::parse(name).is_ok_and(|server| !self.client.allows(&server));
        let left_out = pdus.iter().zip(verified).filter_map(|(pdu, (event_id, verified))| {
            let Err(PduRefusal::Signature(error)) = verified else { return None };
            let SignatureError::Missing { server } = &**error else { return None };
            let parsed = is_denied(server).then(|| ParsedPdu::parse_history(pdu.get().as_bytes(), rules))?.ok()?;
            let event = parsed.event();
            (event.room_id == *room_id).then(|| Some((event_id.clone()?, event.prev_events.to_vec())))?
        });
        LeftOut(left_out.collect())
    }

    /// Returns the state before an event that builds on what is left out; `None` if that has to be asked for.
    pub(super) async fn state_around(
        &self,
        room_id: &RoomId,
        pdu: &VerifiedPdu,
        left_out: &LeftOut,
    ) -> Result<Option<Vec<EventId>>, RoomsError> {
        self.rooms.look(room_id, |room| left_out.state_before(room, pdu.event())).await
    }
}
