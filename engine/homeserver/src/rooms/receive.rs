//! Events of other servers on their way into a room.

use std::collections::VecDeque;

use ravel_core::{
    event::{Content, Event, event_type},
    id::{EventId, RoomId, ServerName},
    pdu::VerifiedPdu,
    room::{Arrival, Effect, Outcome, Receipt, Room, RoomError},
    room_version::RoomVersionRules,
};

use super::{Rooms, RoomsError, Writing, policy::changes_policy_server, target};

/// An event of another server, and how it comes into its room.
#[derive(Clone, Debug)]
pub struct Incoming {
    /// The event.
    pub pdu: VerifiedPdu,
    /// How it comes; `None` for an event of a state or an auth chain, whose place in the DAG is not known.
    pub arrival: Option<Arrival>,
    /// The state before it, if another server was asked for that; all of its events have come before.
    pub given_state: Option<Vec<EventId>>,
}

impl Incoming {
    /// An event that was just made.
    pub fn new(pdu: VerifiedPdu) -> Self {
        Self { pdu, arrival: Some(Arrival::New), given_state: None }
    }

    /// An event of a state or an auth chain.
    pub fn outlier(pdu: VerifiedPdu) -> Self {
        Self { pdu, arrival: None, given_state: None }
    }
}

/// What became of an event of another server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Received {
    /// It is part of the room now.
    Judged(Outcome),
    /// It was before.
    Known(Outcome),
    /// These have to come first: its prev and auth events that are not here.
    NeedEvents(Vec<EventId>),
    /// The state after these of its prev events is not here.
    NeedState(Vec<EventId>),
    /// It is of another room.
    OtherRoom,
}

/// How many events are judged before others get their turn.
const SLICE: usize = 100;

impl Rooms {
    /// Hands events to a room, in this order; returns what became of each once it is durable.
    ///
    /// Others may write to the room in between. If the room uses a policy server, what that has not signed waits for its answer.
    ///
    /// # Errors
    ///
    /// `NoSuchRoom`, `Policy` for history, and when the log can't be written. What came before the error stays.
    pub async fn receive(&self, room_id: &RoomId, events: Vec<Incoming>) -> Result<Vec<Received>, RoomsError> {
        let mut received = Vec::with_capacity(events.len());
        let mut events = VecDeque::from(events);
        loop {
            if events.is_empty() {
                return Ok(received);
            }
            let policy_server = self.named_policy_server(room_id).await?;
            let mut firsts = events.iter().take(SLICE);
            let last = firsts.position(|event| changes_policy_server(event.pdu.event(), policy_server.as_ref()));
            let len = last.map_or(SLICE, |last| last.saturating_add(1)).min(events.len());
            let mut slice: Vec<Incoming> = events.drain(..len).collect();
            if let Some(server) = policy_server
                && self.has_server(room_id, &server.via).await?
            {
                self.check_by_policy_server(room_id, &server, &mut slice).await?;
            }
            let about = slice.iter().flat_map(|incoming| asked_for(incoming.pdu.event())).collect();
            received.extend(self.write(room_id.clone(), about, move |writing| writing.receive(&slice)).await?);
        }
    }

    /// Takes an event in that comes into the room through this server, which tells the others of it: the join of a user of another
    /// server, say. Returns it with the signature of the room's policy server, if the room uses one.
    ///
    /// # Errors
    ///
    /// `NoSuchRoom`; `Policy`; `Refused` if the room's current state does not allow it.
    pub async fn take_foreign(&self, room_id: &RoomId, pdu: VerifiedPdu) -> Result<VerifiedPdu, RoomsError> {
        let pdu = self.signed_by_policy_server(room_id, pdu).await?;
        let about = asked_for(pdu.event()).collect();
        self.write(room_id.clone(), about, move |writing| writing.take_foreign(&pdu).map(|()| pdu)).await
    }

    /// Whether a room is here, be it that nobody of this server is in it any more.
    pub fn is_known(&self, room_id: &RoomId) -> bool {
        self.0.log.room_number(room_id).is_ok_and(|number| number.is_some())
    }

    /// Returns the rules of a room.
    ///
    /// # Errors
    ///
    /// `NoSuchRoom`, and when the log can't be read.
    pub async fn rules(&self, room_id: &RoomId) -> Result<&'static RoomVersionRules, RoomsError> {
        self.look(room_id, Room::rules).await
    }

    /// Whether users of other servers may be in a room: its creator decides (`m.federate`).
    ///
    /// # Errors
    ///
    /// `NoSuchRoom`, and when the log can't be read.
    pub async fn federates(&self, room_id: &RoomId) -> Result<bool, RoomsError> {
        let look = |room: &Room| {
            let create = room.current_state().get(event_type::CREATE, "");
            let create = create.and_then(|event_id| room.state_event(&event_id));
            create.is_some_and(|create| matches!(&create.content, Content::Create(content) if content.federate))
        };
        self.look(room_id, look).await
    }

    /// Returns the servers that have users in a room, ours too, sorted; none if the room is not here.
    ///
    /// # Errors
    ///
    /// When the log can't be read.
    pub async fn servers_in(&self, room_id: &RoomId) -> Result<Vec<ServerName>, RoomsError> {
        match self.read(room_id, |loaded| loaded.servers.names().collect()).await {
            Err(RoomsError::NoSuchRoom) => Ok(Vec::new()),
            servers => servers,
        }
    }

    /// Whether a server has users in a room; not if the room is not here.
    ///
    /// # Errors
    ///
    /// When the log can't be read.
    pub async fn has_server(&self, room_id: &RoomId, server: &ServerName) -> Result<bool, RoomsError> {
        match self.read(room_id, |loaded| loaded.servers.has(server)).await {
            Err(RoomsError::NoSuchRoom) => Ok(false),
            has => has,
        }
    }

    /// Whether a user of this server is in a room.
    ///
    /// # Errors
    ///
    /// When the log can't be read.
    pub async fn is_resident(&self, room_id: &RoomId) -> Result<bool, RoomsError> {
        self.has_server(room_id, &self.0.server_name).await
    }
}

/// Returns the events that a room is asked for when it judges one.
pub(super) fn asked_for(event: &Event) -> impl Iterator<Item = EventId> {
    let built_on = event.prev_events.iter().chain(&event.auth_events).cloned();
    [event.event_id.clone()].into_iter().chain(built_on).chain(target(event))
}

impl Writing<'_> {
    fn receive(&mut self, events: &[Incoming]) -> Result<Vec<Received>, RoomsError> {
        events.iter().map(|event| self.receive_one(event).map_err(RoomsError::Room)).collect()
    }

    fn receive_one(&mut self, event: &Incoming) -> Result<Received, RoomError> {
        let receipt = match event.arrival {
            Some(arrival) => self.room.handle(&event.pdu, arrival, event.given_state.as_deref())?,
            None => self.room.handle_outlier(&event.pdu)?,
        };
        Ok(match receipt {
            Receipt::Judged(judged) => {
                let (outcome, reason) = judged.verdict.record(self.room.rules().version);
                if let Some(reason) = reason {
                    tracing::debug!(event_id = %judged.event.event_id, ?outcome, ?reason, "an event was not accepted");
                }
                self.events.extend(judged.effects.into_iter().filter_map(|effect| match effect {
                    Effect::Persist(event) => Some(*event),
                    Effect::Publish(_) => None,
                }));
                Received::Judged(outcome)
            }
            Receipt::AlreadyKnown(outcome) => Received::Known(outcome),
            Receipt::NeedEvents(missing) => Received::NeedEvents(missing),
            Receipt::NeedState(events) => Received::NeedState(events),
            Receipt::OtherRoom(_) => Received::OtherRoom,
        })
    }
}
