//! Single events, and what they rest on.

use ravel_core::{
    id::{EventId, RoomId, ServerName},
    room::Outcome,
};

use super::{AnsweringError, Homeserver, Pdus, pdus::Chosen};

impl Homeserver {
    /// Returns an event that a server asks for, from a room that it may ask about; redacted if it may not see it. It may also be one
    /// that was not accepted here: whoever asks has seen events that build on it, and judges it by itself.
    ///
    /// Source: server-server API, "GET /_matrix/federation/v1/event/{eventId}".
    ///
    /// # Errors
    ///
    /// `NoSuchEvent`: it is not here, or not for that server.
    pub async fn answer_event(&self, origin: &ServerName, event_id: &EventId) -> Result<Pdus, AnsweringError> {
        for room_id in self.log.rooms_with_event(event_id).await? {
            match self.may_ask(origin, &room_id).await {
                Ok(()) => return self.event_of(origin, &room_id, event_id).await,
                Err(AnsweringError::NotInRoom | AnsweringError::Denied) => {}
                Err(error) => return Err(error),
            }
        }
        Err(AnsweringError::NoSuchEvent)
    }

    async fn event_of(
        &self,
        origin: &ServerName,
        room_id: &RoomId,
        event_id: &EventId,
    ) -> Result<Pdus, AnsweringError> {
        let look = self.rooms.read(room_id, |loaded| {
            let room = &loaded.room;
            // A rejected outlier is in no state and in no auth chain.
            let is_of_room = room.outcome(event_id)? != Outcome::Rejected || !room.is_outlier(event_id);
            is_of_room.then(|| (room.rules(), Chosen::new(loaded, event_id.clone())))
        });
        let (rules, chosen) = look.await?.ok_or(AnsweringError::NoSuchEvent)?;
        let mut chosen = [chosen];
        self.hide_from(origin, room_id, &mut chosen).await?;
        Ok(Pdus::new(&self.log, room_id, rules, chosen.into()))
    }

    /// Returns the auth chain of an event, parents before children.
    ///
    /// Source: server-server API, "GET /_matrix/federation/v1/event_auth/{roomId}/{eventId}".
    ///
    /// # Errors
    ///
    /// `NotInRoom`, `Denied`; `NoSuchEvent` also for one that was rejected.
    pub async fn answer_event_auth(
        &self,
        origin: &ServerName,
        room_id: &RoomId,
        event_id: &EventId,
    ) -> Result<Pdus, AnsweringError> {
        self.may_ask(origin, room_id).await?;
        let look = self.rooms.read(room_id, |loaded| {
            let graph = loaded.room.graph();
            let index = graph.index_of(event_id).filter(|index| !graph.is_rejected(*index))?;
            let chain = graph.auth_chain([index]).into_iter();
            let chosen = chain.map(|index| Chosen::new(loaded, graph.event_id(index))).collect();
            Some((loaded.room.rules(), chosen))
        });
        let (rules, chosen) = look.await?.ok_or(AnsweringError::NoSuchEvent)?;
        Ok(Pdus::new(&self.log, room_id, rules, chosen))
    }
}
