//! What of a room other servers are to be told by this one.

use std::collections::BTreeSet;

use ravel_core::{
    event::{Event, Membership, event_type},
    id::{EventId, RoomId, ServerName, UserId},
    pdu::VerifiedPdu,
    room::{Outcome, Room},
};
use ravel_store::log::LoggedEvent;

use super::{LoadedRoom, Rooms, RoomsError, ToSend};

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
        self.read(room_id, |loaded| logged.into_iter().filter_map(|event| loaded.outgoing_pdu(event)).collect()).await
    }

    /// Returns what [`ToSend`] said, or would have said, of the events that users of this server sent: those in the log from one place
    /// (included) to another (excluded), in order.
    ///
    /// Its destinations are the servers that are in the room now, and those of the users whose memberships it is about.
    ///
    /// # Errors
    ///
    /// When the log can't be read.
    pub(crate) async fn sent_here(&self, room_id: &RoomId, from: u64, to: u64) -> Result<Vec<ToSend>, RoomsError> {
        let mut found = Vec::new();
        if self.0.log.last_event_before(room_id, to).await?.is_none_or(|last| last < from) {
            return Ok(found);
        }
        let mut next = from;
        loop {
            let page = self.0.log.logged_events(room_id, next, to).await?;
            let Some(last) = page.last() else { return Ok(found) };
            next = last.sequence.saturating_add(1);
            let of_page = |loaded: &LoadedRoom| {
                let servers: BTreeSet<ServerName> = loaded.servers.names().collect();
                let ours = page.iter().filter_map(|logged| {
                    let event =
                        loaded.room.event(&logged.event_id).filter(|event| is_of(&self.0.server_name, event))?;
                    let mut destinations = servers.clone();
                    destinations.extend(server_of_member(event));
                    destinations.remove(&self.0.server_name);
                    let within = logged.sequence..logged.sequence.saturating_add(1);
                    let is_owed = counts(logged) && !destinations.is_empty();
                    let event_id = logged.event_id.clone();
                    is_owed.then(|| ToSend { room_id: room_id.clone(), event_id, within, destinations })
                });
                ours.collect::<Vec<_>>()
            };
            found.extend(self.read(room_id, of_page).await?);
        }
    }

    /// Returns the events of users of this server that another server is to be told of: of those in the log from one place (included)
    /// to another (excluded) the newest `limit`, in order.
    ///
    /// It is to be told of what was sent while it was in the room, and of memberships of its users.
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
        let users = self.look(room_id, |room| users_of(room, server)).await?;
        let mut before = to;
        while !users.is_empty() && owed.len() < limit {
            let page = self.0.log.logged_events_back(room_id, before, from, usize::MAX).await?;
            let Some(last) = page.last() else { break };
            before = last.sequence;
            let of_page = |loaded: &LoadedRoom| {
                let owed = page.iter().filter(|logged| {
                    let event = loaded.room.event(&logged.event_id);
                    counts(logged)
                        && event.is_some_and(|event| {
                            is_of(&self.0.server_name, event) && concerns(loaded, server, &users, event)
                        })
                });
                owed.map(|logged| (logged.sequence, logged.event_id.clone())).collect::<Vec<_>>()
            };
            owed.extend(self.read(room_id, of_page).await?);
        }
        owed.truncate(limit);
        owed.reverse();
        Ok(owed)
    }
}

impl LoadedRoom {
    /// `None` if it was purged.
    fn outgoing_pdu(&self, event: LoggedEvent) -> Option<(EventId, Vec<u8>)> {
        let json = event.json?;
        if !self.redacted_by.contains_key(&event.event_id) || !self.room.is_redacted(&event.event_id) {
            return Some((event.event_id, json));
        }
        let pdu = VerifiedPdu::restore(&json, self.room.rules(), None, true).ok()?;
        Some((event.event_id, pdu.redacted_json().ok()?))
    }
}

/// Whether an event is part of the room for all that is known here.
fn counts(event: &LoggedEvent) -> bool {
    event.outcome == Outcome::Accepted && !event.is_outlier
}

fn is_of(server: &ServerName, event: &Event) -> bool {
    event.sender.server_name() == server.as_str()
}

/// Returns the server of the user whose membership an event is.
pub(super) fn server_of_member(event: &Event) -> Option<ServerName> {
    let user = event.state_key.as_deref().filter(|_| *event.event_type == *event_type::MEMBER)?;
    ServerName::parse(UserId::parse(user).ok()?.server_name()).ok()
}

/// Returns the users of a server that a room has ever heard of, but for those whose memberships only a lost fork had.
fn users_of(room: &Room, server: &ServerName) -> Vec<Box<str>> {
    let keys = room.current_state().iter().map(|(key, _)| key).filter(|key| *key.event_type == *event_type::MEMBER);
    let users =
        keys.filter(|key| UserId::parse(&key.state_key).is_ok_and(|user| user.server_name() == server.as_str()));
    users.map(|key| key.state_key.as_ref().into()).collect()
}

/// Whether a server was in the room before or after an event, or the event is about the membership of one of its users.
fn concerns(loaded: &LoadedRoom, server: &ServerName, users: &[Box<str>], event: &Event) -> bool {
    let room = &loaded.room;
    if server_of_member(event).as_ref() == Some(server) {
        return true;
    }
    let states = [room.state_before(&event.event_id), room.state_after(&event.event_id)];
    let has_joined = |user: &str| {
        states.iter().flatten().any(|state| {
            let member = state.get(event_type::MEMBER, user).and_then(|member| room.event(&member)?.membership());
            member == Some(Membership::Join)
        })
    };
    // Of what was purged nobody knows any more who was there.
    if states.iter().all(Option::is_none) {
        loaded.servers.has(server)
    } else {
        users.iter().any(|user| has_joined(user))
    }
}
