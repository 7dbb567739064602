//! What other servers are asked for: events, auth chains, states.

use std::{collections::BTreeSet, time::Duration};

use futures_util::{FutureExt, StreamExt, stream};
use ravel_core::{
    event::event_type,
    id::{EventId, RoomId, ServerName},
    pdu::VerifiedPdu,
    room::Room,
    room_version::RoomVersionRules,
};
use ruma::{
    OwnedEventId, OwnedRoomId,
    api::{
        IncomingResponse, OutgoingRequest,
        federation::{
            authorization::get_event_authorization::v1 as event_auth,
            event::{
                get_event::v1 as get_event, get_missing_events::v1 as missing_events, get_room_state::v1 as get_state,
                get_room_state_ids::v1 as state_ids,
            },
        },
        path_builder::PathBuilder,
    },
};
use serde_json::value::RawValue;
use tokio::sync::{Semaphore, SemaphorePermit};

use super::{PduRefusal, by_auth_events, left_out::LeftOut, sorting::ancestors, verifying::Verified};
use crate::{
    clock::within,
    federation::{FederationError, SendOptions},
    homeserver::Homeserver,
    network::RequestLimits,
    rooms::{Incoming, RoomsError},
};

/// Why something can't be had from another server.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The server does not answer, or says no.
    #[error(transparent)]
    Federation(#[from] FederationError),
    /// The server does not have what an event of its cites.
    #[error("its auth events can't be had: {0}")]
    AuthEvents(#[source] FederationError),
    /// What it answers is not enough to judge an event by.
    #[error("the answer does not have what the event builds on")]
    Incomplete,
    /// There are too many large answers under way: it was not asked for.
    #[error("too much is asked for already")]
    Busy,
    /// The room can't take it.
    #[error(transparent)]
    Rooms(#[from] RoomsError),
}

impl FetchError {
    /// Whether it may be had later, or from another server.
    pub(super) fn is_of_server(&self) -> bool {
        !matches!(self, Self::Rooms(_) | Self::AuthEvents(_))
    }
}

/// How many events one question for missing ones asks for.
const MISSING_EVENTS_MAX: u32 = 20;

/// How many of our forward extremities are named in it.
const EARLIEST_MAX: usize = 20;

/// Up to so many events are asked for one by one; if more are unknown, the whole state is.
const SINGLE_EVENTS_MAX: usize = 50;

/// Of so many prev events of one event the states before them are asked for.
const MISSING_PREV_EVENTS_MAX: usize = 4;

/// How many single events are asked for at the same time.
const AT_ONCE: usize = 8;

/// The most events of a state with its auth chain.
const STATE_EVENTS_MAX: usize = 500_000;

/// What a question for one event, for some, for the ids of a state, and for a state or an auth chain may cost.
const EVENT: RequestLimits = RequestLimits { time: Duration::from_secs(20), answer_bytes: 512 << 10 };
const EVENTS: RequestLimits = RequestLimits { time: Duration::from_secs(20), answer_bytes: 8 << 20 };
const IDS: RequestLimits = RequestLimits { time: Duration::from_secs(120), answer_bytes: 32 << 20 };
const STATE: RequestLimits = RequestLimits { time: Duration::from_secs(120), answer_bytes: 512 << 20 };

/// How many of the last two are asked at the same time: their answers are in memory.
const IDS_AT_ONCE: usize = 16;
const STATES_AT_ONCE: usize = 2;

/// How long such a question waits until it is asked.
const ROOM_FOR_ANSWER_TIME_MAX: Duration = Duration::from_secs(120);

/// Permits to ask for what is large.
pub(super) struct LargeAnswers {
    ids: Semaphore,
    states: Semaphore,
}

impl Default for LargeAnswers {
    fn default() -> Self {
        Self { ids: Semaphore::new(IDS_AT_ONCE), states: Semaphore::new(STATES_AT_ONCE) }
    }
}

impl Homeserver {
    /// Asks a server for the events between ours and one of its own; returns those that lead to it, in an order in which the room can
    /// take them, and what is left out between them.
    ///
    /// Source: server-server API, "POST /_matrix/federation/v1/get_missing_events/{roomId}".
    pub(super) async fn fetch_missing(
        &self,
        server: &ServerName,
        room_id: &RoomId,
        rules: &'static RoomVersionRules,
        to: &VerifiedPdu,
    ) -> Result<(Vec<VerifiedPdu>, LeftOut), FetchError> {
        let mut earliest = self.rooms.look(room_id, Room::forward_extremities).await?;
        earliest.truncate(EARLIEST_MAX);
        let earliest = earliest.iter().filter_map(ruma_event_id).collect();
        let latest = ruma_event_id(to.event_id()).into_iter().collect();
        let mut request = missing_events::Request::new(ruma_room_id(room_id)?, earliest, latest);
        request.limit = MISSING_EVENTS_MAX.into();
        let answer = self.ask(server, request, EVENTS).await?;
        let mut events = answer.events;
        events.truncate(MISSING_EVENTS_MAX as usize);
        let verified = self.verify_pdus(rules, events.clone()).await;
        let left_out = self.left_out(room_id, rules, &events, &verified);
        Ok((ancestors(to, of_room(room_id, verified), &left_out), left_out))
    }

    /// Asks a server for the state before an event, and puts what is unknown of it and of its auth chain into the room; returns the
    /// state's events.
    ///
    /// Asks for ids first, and then for what is missing: one by one if that is little, for all of it otherwise.
    ///
    /// Source: server-server API, "GET /_matrix/federation/v1/state_ids/{roomId}", "GET /_matrix/federation/v1/state/{roomId}".
    ///
    /// # Errors
    ///
    /// [`FetchError`]; `Incomplete` if what the event itself cites, or the create event, is not there in the end.
    pub(super) async fn fetch_state_before(
        &self,
        server: &ServerName,
        room_id: &RoomId,
        rules: &'static RoomVersionRules,
        pdu: &VerifiedPdu,
    ) -> Result<Vec<EventId>, FetchError> {
        let event_id = ruma_event_id(pdu.event_id()).ok_or(FetchError::Incomplete)?;
        let request = state_ids::Request::new(event_id.clone(), ruma_room_id(room_id)?);
        let permit = self.room_for_answer(&self.receiving.large.ids).await?;
        let answer = self.ask(server, request, IDS).await?;
        if answer.pdu_ids.len().saturating_add(answer.auth_chain_ids.len()) > STATE_EVENTS_MAX {
            return Err(FetchError::Incomplete);
        }
        let state = event_ids(&answer.pdu_ids);
        let mut wanted: BTreeSet<EventId> = event_ids(&answer.auth_chain_ids).into_iter().collect();
        wanted.extend(state.iter().chain(&pdu.event().auth_events).cloned());
        wanted.remove(pdu.event_id());
        drop((answer, permit));
        let unknown = self.unknown(room_id, &wanted).await?;
        if unknown.len() > SINGLE_EVENTS_MAX {
            let request = get_state::Request::new(event_id, ruma_room_id(room_id)?);
            let _permit = self.room_for_answer(&self.receiving.large.states).await?;
            let answer = self.ask(server, request, STATE).await?;
            let mut pdus = answer.auth_chain;
            pdus.extend(answer.pdus);
            pdus.truncate(STATE_EVENTS_MAX);
            self.take_outliers(room_id, rules, pdus, Some(&unknown)).await?;
        } else {
            self.fetch_events(server, room_id, rules, &unknown).await?;
        }
        let has_all = |room: &Room| {
            let has = |id: &EventId| room.has(id);
            let is_create =
                |id: &EventId| room.state_event(id).is_some_and(|event| event.is_state(event_type::CREATE, ""));
            let known: Vec<EventId> = state.iter().filter(|id| has(id)).cloned().collect();
            (pdu.event().auth_events.iter().all(has) && known.iter().any(is_create)).then_some(known)
        };
        self.rooms.look(room_id, has_all).await?.ok_or(FetchError::Incomplete)
    }

    /// Asks a server for the prev events of an event that are not here, and for the states before those; returns the events of the
    /// states after them. Of several for one key the newest counts, unless it is rejected.
    pub(super) async fn fetch_states_after_missing(
        &self,
        server: &ServerName,
        room_id: &RoomId,
        rules: &'static RoomVersionRules,
        pdu: &VerifiedPdu,
    ) -> Result<Vec<EventId>, FetchError> {
        let prev_events = pdu.event().prev_events.iter().cloned().collect();
        let missing = self.unknown(room_id, &prev_events).await?;
        if missing.len() > MISSING_PREV_EVENTS_MAX {
            return Err(FetchError::Incomplete);
        }
        let mut states = BTreeSet::new();
        for event_id in missing {
            let request = get_event::Request::new(ruma_event_id(&event_id).ok_or(FetchError::Incomplete)?);
            let answer = self.ask(server, request, EVENT).await?;
            let prev = self.verified_of_room(room_id, rules, vec![answer.pdu]).await.pop();
            let prev = prev.filter(|prev| *prev.event_id() == event_id).ok_or(FetchError::Incomplete)?;
            states.extend(self.fetch_state_before(server, room_id, rules, &prev).await?);
            self.rooms.receive(room_id, vec![Incoming::outlier(prev)]).await?;
            states.insert(event_id);
        }
        Ok(states.into_iter().collect())
    }

    /// Asks a server for the auth chain of an event, and puts what is unknown of it into the room.
    ///
    /// Source: server-server API, "GET /_matrix/federation/v1/event_auth/{roomId}/{eventId}".
    pub(super) async fn fetch_auth_chain(
        &self,
        server: &ServerName,
        room_id: &RoomId,
        rules: &'static RoomVersionRules,
        event_id: &EventId,
    ) -> Result<(), FetchError> {
        let event_id = ruma_event_id(event_id).ok_or(FetchError::Incomplete)?;
        let request = event_auth::Request::new(ruma_room_id(room_id)?, event_id);
        let _permit = self.room_for_answer(&self.receiving.large.states).await?;
        let answer = self.ask(server, request, STATE).await?;
        let mut pdus = answer.auth_chain;
        pdus.truncate(STATE_EVENTS_MAX);
        self.take_outliers(room_id, rules, pdus, None).await
    }

    async fn fetch_events(
        &self,
        server: &ServerName,
        room_id: &RoomId,
        rules: &'static RoomVersionRules,
        event_ids: &BTreeSet<EventId>,
    ) -> Result<(), FetchError> {
        let requests = event_ids.iter().filter_map(ruma_event_id).map(get_event::Request::new);
        let answers: Vec<_> = requests.map(|request| self.ask(server, request, EVENT).boxed()).collect();
        let answers: Vec<_> = stream::iter(answers).buffer_unordered(AT_ONCE).collect().await;
        let mut pdus = Vec::with_capacity(answers.len());
        for answer in answers {
            match answer {
                Ok(answer) => pdus.push(answer.pdu),
                // The others may be enough.
                Err(FederationError::Remote(error)) => tracing::debug!(%server, %error, "an event can't be had"),
                Err(error) => return Err(error.into()),
            }
        }
        self.take_outliers(room_id, rules, pdus, Some(event_ids)).await
    }

    /// Puts events without place into a room, those of them that are wanted; all if nothing is said.
    async fn take_outliers(
        &self,
        room_id: &RoomId,
        rules: &'static RoomVersionRules,
        pdus: Vec<Box<RawValue>>,
        wanted: Option<&BTreeSet<EventId>>,
    ) -> Result<(), FetchError> {
        let mut events = of_room(room_id, self.verify_state(rules, pdus).await);
        events.retain(|pdu| wanted.is_none_or(|wanted| wanted.contains(pdu.event_id())));
        let events = by_auth_events(events).into_iter().map(Incoming::outlier).collect();
        self.rooms.receive(room_id, events).await?;
        Ok(())
    }

    /// Returns those of another server's events that are valid, and of this room.
    pub(super) async fn verified_of_room(
        &self,
        room_id: &RoomId,
        rules: &'static RoomVersionRules,
        pdus: Vec<Box<RawValue>>,
    ) -> Vec<VerifiedPdu> {
        of_room(room_id, self.verify_pdus(rules, pdus).await)
    }

    async fn unknown(&self, room_id: &RoomId, events: &BTreeSet<EventId>) -> Result<BTreeSet<EventId>, RoomsError> {
        let unknown = |room: &Room| events.iter().filter(|id| !room.has(id)).cloned().collect();
        self.rooms.look(room_id, unknown).await
    }

    /// Waits until there is room in memory for a large answer, but not for ever.
    async fn room_for_answer<'a>(&self, answers: &'a Semaphore) -> Result<SemaphorePermit<'a>, FetchError> {
        let permit = within(&*self.clock, ROOM_FOR_ANSWER_TIME_MAX, answers.acquire()).await;
        permit.and_then(Result::ok).ok_or(FetchError::Busy)
    }

    pub(super) async fn ask<R>(
        &self,
        server: &ServerName,
        request: R,
        limits: RequestLimits,
    ) -> Result<R::IncomingResponse, FederationError>
    where
        R: OutgoingRequest + Send,
        R::IncomingResponse: IncomingResponse,
        for<'a> R::PathBuilder: PathBuilder<Input<'a> = ()>,
    {
        self.client.send(server, request, SendOptions { limits, ..SendOptions::default() }).await
    }
}

pub(super) fn ruma_event_id(id: &EventId) -> Option<OwnedEventId> {
    OwnedEventId::try_from(id.as_str()).ok()
}

pub(super) fn ruma_room_id(id: &RoomId) -> Result<OwnedRoomId, FetchError> {
    OwnedRoomId::try_from(id.as_str()).map_err(|_| FetchError::Incomplete)
}

fn event_ids(ids: &[OwnedEventId]) -> Vec<EventId> {
    ids.iter().filter_map(|id| EventId::parse(id.as_str()).ok()).collect()
}

/// Returns those of another server's events that are valid, and of a room.
pub(super) fn of_room(room_id: &RoomId, verified: Vec<Verified>) -> Vec<VerifiedPdu> {
    let of_room = verified.into_iter().filter_map(|(event_id, pdu)| {
        let refusal = match pdu {
            Ok(pdu) if pdu.event().room_id == *room_id => return Some(pdu),
            Ok(_) => PduRefusal::OtherRoom,
            Err(refusal) => refusal,
        };
        tracing::debug!(%room_id, event_id = event_id.map(tracing::field::display), %refusal, "an event was dropped");
        None
    });
    of_room.collect()
}
