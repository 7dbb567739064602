//! What of a room other servers are to be told by this one.

use std::collections::{BTreeSet, HashSet};

use bytes::Bytes;
use ravel_core::{
    id::{EventId, RoomId, ServerName},
    pdu::VerifiedPdu,
    room::{Outcome, Room},
};
use ravel_store::{
    Durability,
    log::{Fact, LogError, LoggedEvent},
};

use super::{
    Inner, LoadedRoom, Rooms, RoomsError, ToSend,
    audience::{Audience, is_of},
};
use crate::fact_kind::PASSED_ON;

/// The place of an event in the log, and its id.
pub(crate) type Place = (u64, EventId);

impl Rooms {
    /// Returns the JSON of those of some events that a room has and that were not purged, with their ids and in order; redacted if they
    /// are redacted by now.
    ///
    /// # Errors
    ///
    /// `NoSuchRoom`, and when the log can't be read.
    pub(crate) async fn outgoing_pdus(
        &self,
        room_id: &RoomId,
        event_ids: &[EventId],
    ) -> Result<Vec<(EventId, Vec<u8>)>, RoomsError> {
        let logged = self.0.log.logged_events_of(room_id, event_ids).await?;
        self.read(room_id, |loaded| logged.iter().filter_map(|event| loaded.outgoing_pdu(event)).collect()).await
    }

    /// Returns what [`ToSend`] said, or would have said, of a room's events: of those in the log from one place (included) to another
    /// (excluded), in order.
    ///
    /// Costs time in proportion to these events, and where there are any to be sent, to the room's members.
    ///
    /// # Errors
    ///
    /// When the log can't be read.
    pub(crate) async fn to_send_of(&self, room_id: &RoomId, from: u64, to: u64) -> Result<Vec<ToSend>, RoomsError> {
        let mut found = Vec::new();
        if self.0.log.last_event_before(room_id, to).await?.is_none_or(|last| last < from) {
            return Ok(found);
        }
        let passed_on = self.passed_on(room_id).await?;
        let mut next = from;
        loop {
            let page = self.0.log.logged_events(room_id, next, to).await?;
            let Some(last) = page.last() else { return Ok(found) };
            next = last.sequence.saturating_add(1);
            let of_page = |loaded: &LoadedRoom| {
                let room = &loaded.room;
                let told = page.iter().filter(|logged| self.is_told(room, logged, &passed_on));
                let told: Vec<&LoggedEvent> = told.collect();
                if told.is_empty() {
                    return Vec::new();
                }
                let audience = Audience::of(room, |server| server != self.0.server_name.as_str());
                let to_send = told.into_iter().filter_map(|logged| {
                    let event = room.event(&logged.event_id)?;
                    let destinations: BTreeSet<ServerName> = audience.of_event(room, &event).cloned().collect();
                    let within = logged.sequence..logged.sequence.saturating_add(1);
                    let (room_id, event_id) = (room_id.clone(), logged.event_id.clone());
                    (!destinations.is_empty()).then_some(ToSend { room_id, event_id, within, destinations })
                });
                to_send.collect()
            };
            found.extend(self.read(room_id, of_page).await?);
        }
    }

    /// Returns the events that another server is to be told of by this one: of those in the log from one place (included) to another
    /// (excluded) the newest `limit`, in order.
    ///
    /// These are events of users of this server, and those that came into the room through it. The other one is told of what was sent
    /// while it was in the room, and of memberships of its users.
    ///
    /// Costs time in proportion to the events of the room since `from`, and to its members.
    ///
    /// # Errors
    ///
    /// When the log can't be read.
    pub(crate) async fn owed_to(
        &self,
        server: &ServerName,
        room_id: &RoomId,
        from: u64,
        to: u64,
        limit: usize,
    ) -> Result<Vec<Place>, RoomsError> {
        let mut owed = Vec::new();
        if self.0.log.last_event_before(room_id, to).await?.is_none_or(|last| last < from) {
            return Ok(owed);
        }
        let audience = self.look(room_id, |room| Audience::of(room, |name| name == server.as_str())).await?;
        let passed_on = self.passed_on(room_id).await?;
        let mut before = to;
        while !audience.is_empty() && owed.len() < limit {
            let page = self.0.log.logged_events_back(room_id, before, from, usize::MAX).await?;
            let Some(last) = page.last() else { break };
            before = last.sequence;
            let of_page = |loaded: &LoadedRoom| {
                let room = &loaded.room;
                let is_concerned = |logged: &LoggedEvent| {
                    room.event(&logged.event_id).is_some_and(|event| audience.of_event(room, &event).next().is_some())
                };
                let owed = page.iter().filter(|it| self.is_told(room, it, &passed_on) && is_concerned(it));
                owed.map(|logged| (logged.sequence, logged.event_id.clone())).collect::<Vec<_>>()
            };
            owed.extend(self.read(room_id, of_page).await?);
        }
        owed.truncate(limit);
        owed.reverse();
        Ok(owed)
    }

    /// Whether it is this server that tells others of an event.
    fn is_told(&self, room: &Room, logged: &LoggedEvent, passed_on: &HashSet<Bytes>) -> bool {
        let is_ours = || room.event(&logged.event_id).is_some_and(|event| is_of(&self.0.server_name, &event));
        let counts = logged.outcome == Outcome::Accepted && !logged.is_outlier;
        counts && (is_ours() || passed_on.contains(logged.event_id.as_str().as_bytes()))
    }

    /// Returns the ids of events of other servers that came into a room through this one. That may be forgotten once all were told.
    async fn passed_on(&self, room_id: &RoomId) -> Result<HashSet<Bytes>, RoomsError> {
        let prefix = passed_on_key(room_id, "");
        let (mut found, mut after) = (HashSet::new(), None);
        loop {
            let page = self.0.log.facts(PASSED_ON, &prefix, after.as_deref(), PAGE).await?;
            let Some(last) = page.last() else { return Ok(found) };
            after = Some(last.key.clone());
            found.extend(page.into_iter().map(|fact| fact.key.slice(prefix.len()..)));
        }
    }
}

/// How many facts are read at once.
const PAGE: usize = 1_000;

fn passed_on_key(room_id: &RoomId, event_id: &str) -> Bytes {
    format!("{room_id}\0{event_id}").into()
}

impl Inner {
    /// Keeps which of these events came into a room through this server. Before they are stored, so that none is missed.
    pub(super) async fn note_passed_on(&self, room_id: &RoomId, to_send: &[VerifiedPdu]) -> Result<(), LogError> {
        let foreign = to_send.iter().filter(|pdu| !is_of(&self.server_name, pdu.event()));
        let fact = |pdu: &VerifiedPdu| {
            let key = passed_on_key(room_id, pdu.event_id().as_str());
            Fact { kind: PASSED_ON, key, value: Some(Bytes::from_static(&[1])) }
        };
        let facts: Vec<Fact> = foreign.map(fact).collect();
        if !facts.is_empty() {
            // What is stored after it is synced with it.
            self.log.put_facts(&facts, &[], Durability::Relaxed).await?;
        }
        Ok(())
    }
}

impl LoadedRoom {
    /// `None` if it was purged.
    fn outgoing_pdu(&self, event: &LoggedEvent) -> Option<(EventId, Vec<u8>)> {
        let json = event.json.as_deref()?;
        if !self.is_redacted(&event.event_id) {
            return Some((event.event_id.clone(), json.to_vec()));
        }
        let pdu = VerifiedPdu::restore(json, self.room.rules(), None, true).ok()?;
        Some((event.event_id.clone(), pdu.redacted_json().ok()?))
    }
}
