//! The state before an event.

use ravel_core::{
    graph::EventIndex,
    id::{EventId, RoomId, ServerName},
    room::Outcome,
    state::State,
};

use super::{AnsweringError, Homeserver, Pdus, pdus::Chosen};
use crate::rooms::LoadedRoom;

/// A state with its auth chain, whose events are read as they are wanted.
pub struct StateAnswer {
    /// The events of the state.
    pub state: Pdus,
    /// The auth chains of all of them, parents before children.
    pub auth_chain: Pdus,
}

impl Homeserver {
    /// Returns the state before an event, "prior to considering any state changes induced by the requested event", and what it rests
    /// on: for `/state`, and by their ids for `/state_ids`.
    ///
    /// Costs what the state and its auth chain hold while it looks at the room, and nothing of the log.
    ///
    /// Source: server-server API, "GET /_matrix/federation/v1/state/{roomId}".
    ///
    /// # Errors
    ///
    /// `NotInRoom`, `Denied`; `NoSuchEvent` also for one that was rejected, and if the state is not known here.
    pub async fn answer_state(
        &self,
        origin: &ServerName,
        room_id: &RoomId,
        event_id: &EventId,
    ) -> Result<StateAnswer, AnsweringError> {
        self.may_ask(origin, room_id).await?;
        let look = self.rooms.read(room_id, |loaded| {
            let room = &loaded.room;
            let is_rejected = room.outcome(event_id)? == Outcome::Rejected;
            let state = room.state_before(event_id).filter(|_| !is_rejected)?;
            Some((room.rules(), chosen_of(loaded, state)))
        });
        let (rules, [state, auth_chain]) = look.await?.ok_or(AnsweringError::NoSuchEvent)?;
        let pdus = |chosen| Pdus::new(&self.log, room_id, rules, chosen);
        Ok(StateAnswer { state: pdus(state), auth_chain: pdus(auth_chain) })
    }
}

/// Returns the events of a state, in the order of their numbers, and those of its auth chain.
fn chosen_of(loaded: &LoadedRoom, state: State<'_>) -> [Vec<Chosen>; 2] {
    let graph = loaded.room.graph();
    let mut state: Vec<EventIndex> = state.map().iter().map(|(_, index)| index).collect();
    state.sort_unstable();
    let auth_chain = graph.auth_chain(state.iter().copied());
    let chosen = |index: EventIndex| Chosen::new(loaded, graph.event_id(index));
    [state.into_iter().map(chosen).collect(), auth_chain.into_iter().map(chosen).collect()]
}
