//! Events that build on what is not here.

use ravel_core::{
    id::{RoomId, ServerName},
    pdu::VerifiedPdu,
    room::Arrival,
    room_version::RoomVersionRules,
};

use super::{FetchError, PduRefusal, left_out::LeftOut};
use crate::{
    federation::FederationError,
    homeserver::Homeserver,
    rooms::{Incoming, Received},
};

/// How many states before gaps are asked for because of one event.
const GAPS_MAX: usize = 4;

impl Homeserver {
    /// Takes an event that builds on what is not here: asks for that, and keeps the event for later if its server does not answer.
    ///
    /// One whose auth events are not even known to its server is dropped. It could only be rejected, and that is no error of a
    /// transaction.
    pub(super) async fn take_lacking(
        &self,
        origin: &ServerName,
        room_id: &RoomId,
        pdu: VerifiedPdu,
    ) -> Result<(), PduRefusal> {
        let taken = self.take_with_ancestors(origin, room_id, &pdu, Arrival::New).await;
        if let Err(error) = &taken
            && error.is_of_server()
        {
            tracing::info!(%origin, %room_id, event_id = %pdu.event_id(), %error, "an event has to wait");
            self.keep_for_later(origin, room_id, &pdu).await;
        }
        match taken {
            Err(error @ FetchError::AuthEvents(_)) => {
                tracing::info!(%origin, %room_id, event_id = %pdu.event_id(), %error, "an event is dropped");
                Ok(())
            }
            taken => Ok(taken?),
        }
    }

    /// Takes an event after what it builds on, as far as a server can tell.
    ///
    /// Asks it for the events in between; where those don't reach what is here, for the state before the gap.
    pub(super) async fn take_with_ancestors(
        &self,
        server: &ServerName,
        room_id: &RoomId,
        pdu: &VerifiedPdu,
        arrival: Arrival,
    ) -> Result<(), FetchError> {
        let rules = self.rooms.rules(room_id).await?;
        // Another may have brought it meanwhile.
        let lacks_events = match self.take(room_id, pdu, arrival, None).await? {
            Received::NeedEvents(missing) => missing.iter().any(|id| pdu.event().prev_events.contains(id)),
            Received::NeedState(_) => false,
            Received::Judged(_) | Received::Known(_) | Received::OtherRoom => return Ok(()),
        };
        let (mut walk, mut left_out) = (Vec::new(), LeftOut::default());
        if lacks_events {
            match self.fetch_missing(server, room_id, rules, pdu).await {
                Ok(fetched) => (walk, left_out) = fetched,
                // The state may be had all the same.
                Err(FetchError::Federation(error)) => {
                    tracing::debug!(%server, %room_id, %error, "missing events can't be had");
                }
                Err(error) => return Err(error),
            }
        }
        walk.push(pdu.clone());
        self.take_walk(server, room_id, rules, walk, arrival, &left_out).await
    }

    /// Takes events of which each but the first ones builds on others of them, be it by what is left out.
    ///
    /// # Errors
    ///
    /// If the last one could not be taken.
    pub(super) async fn take_walk(
        &self,
        server: &ServerName,
        room_id: &RoomId,
        rules: &'static RoomVersionRules,
        walk: Vec<VerifiedPdu>,
        arrival: Arrival,
        left_out: &LeftOut,
    ) -> Result<(), FetchError> {
        let incoming = walk.iter().cloned().map(|pdu| Incoming { pdu, arrival: Some(arrival), given_state: None });
        let received = self.rooms.receive(room_id, incoming.collect()).await?;
        let mut gaps = 0;
        let mut last = Ok(());
        let newest = walk.last().map(VerifiedPdu::event_id);
        for (pdu, received) in walk.iter().zip(received) {
            last = Ok(());
            let is_between = newest != Some(pdu.event_id());
            if !is_lacking(&received) {
                continue;
            }
            // What it lacked may have come since.
            let received = self.take(room_id, pdu, arrival, None).await?;
            let lacks_place = match received {
                Received::NeedState(_) => true,
                Received::NeedEvents(missing) => missing.iter().any(|id| pdu.event().prev_events.contains(id)),
                Received::Judged(_) | Received::Known(_) | Received::OtherRoom => continue,
            };
            if lacks_place
                && let Some(state) = self.state_around(room_id, pdu, left_out).await?
                && !is_lacking(&self.take(room_id, pdu, arrival, Some(state)).await?)
            {
                continue;
            }
            last = if !lacks_place {
                self.take_with_auth_chain(server, room_id, rules, pdu, arrival).await
            } else if gaps < GAPS_MAX {
                gaps += 1;
                self.take_over_gap(server, room_id, rules, pdu, arrival, is_between).await
            } else {
                Err(FetchError::Incomplete)
            };
            if let Err(error) = &last {
                tracing::debug!(%server, %room_id, event_id = %pdu.event_id(), %error, "an event lacks what it builds on");
            }
        }
        last
    }

    /// Takes an event whose prev events are not all here, by the state before it.
    ///
    /// Of one between ours and the one that was sent, a server may not tell that, but the states before its prev events. (Were they
    /// asked for because of the event that was sent, its server could have prev events made up.)
    async fn take_over_gap(
        &self,
        server: &ServerName,
        room_id: &RoomId,
        rules: &'static RoomVersionRules,
        pdu: &VerifiedPdu,
        arrival: Arrival,
        is_between: bool,
    ) -> Result<(), FetchError> {
        let state = match self.fetch_state_before(server, room_id, rules, pdu).await {
            Err(FetchError::Federation(FederationError::Remote(_))) if is_between => {
                self.fetch_states_after_missing(server, room_id, rules, pdu).await?
            }
            state => state?,
        };
        let received = self.take(room_id, pdu, arrival, Some(state)).await?;
        if is_lacking(&received) { Err(FetchError::Incomplete) } else { Ok(()) }
    }

    async fn take_with_auth_chain(
        &self,
        server: &ServerName,
        room_id: &RoomId,
        rules: &'static RoomVersionRules,
        pdu: &VerifiedPdu,
        arrival: Arrival,
    ) -> Result<(), FetchError> {
        let fetched = self.fetch_auth_chain(server, room_id, rules, pdu.event_id()).await;
        fetched.map_err(|error| match error {
            FetchError::Federation(FederationError::Remote(error)) if error.status.is_client_error() => {
                FetchError::AuthEvents(error.into())
            }
            error => error,
        })?;
        let received = self.take(room_id, pdu, arrival, None).await?;
        if is_lacking(&received) { Err(FetchError::Incomplete) } else { Ok(()) }
    }

    async fn take(
        &self,
        room_id: &RoomId,
        pdu: &VerifiedPdu,
        arrival: Arrival,
        given_state: Option<Vec<ravel_core::id::EventId>>,
    ) -> Result<Received, FetchError> {
        let incoming = Incoming { pdu: pdu.clone(), arrival: Some(arrival), given_state };
        let received = self.rooms.receive(room_id, vec![incoming]).await?.pop();
        Ok(received.unwrap_or(Received::OtherRoom))
    }
}

fn is_lacking(received: &Received) -> bool {
    matches!(received, Received::NeedEvents(_) | Received::NeedState(_))
}
