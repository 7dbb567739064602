//! History of a room from before this server was in it.

use std::time::Duration;

use ravel_core::{
    event::Membership,
    id::{EventId, RoomId, ServerName, UserId},
    pdu::VerifiedPdu,
    room::Arrival,
};
use ruma::api::federation::backfill::get_backfill::v1 as get_backfill;

use super::{
    FetchError,
    fetching::{of_room, ruma_event_id, ruma_room_id},
    sorting::by_prev_events,
};
use crate::{
    homeserver::Homeserver,
    network::RequestLimits,
    rooms::{Messages, Page, RoomsError},
};

/// How many events are asked for at once.
const EVENTS_MAX: u32 = 100;

/// How many servers are asked, and how many events they are asked to begin at.
const SERVERS_MAX: usize = 3;
const FROM_MAX: usize = 10;

/// How often history is asked for to fill one page.
const ROUNDS_MAX: usize = 3;

const LIMITS: RequestLimits = RequestLimits { time: Duration::from_secs(20), answer_bytes: 16 << 20 };

impl Homeserver {
    /// Asks other servers of a room for what comes before some of its events, and puts it into the room as history. Returns whether
    /// anything came.
    ///
    /// Source: server-server API, "GET /_matrix/federation/v1/backfill/{roomId}".
    ///
    /// # Errors
    ///
    /// When the room can't take it. That nobody answers is no error.
    pub async fn backfill(&self, room_id: &RoomId, from: &[EventId]) -> Result<bool, FetchError> {
        let servers = self.rooms.servers_in(room_id).await?;
        let others = servers.into_iter().filter(|server| *server != self.server_name);
        let awake = others.filter(|server| self.client.backing_off_until_ms(server).is_none());
        for server in awake.take(SERVERS_MAX).collect::<Vec<_>>() {
            match self.backfill_from(&server, room_id, from).await {
                Ok(true) => return Ok(true),
                Ok(false) => {}
                Err(FetchError::Rooms(error)) => return Err(error.into()),
                Err(error) => tracing::debug!(%server, %room_id, %error, "no history from there"),
            }
        }
        Ok(false)
    }

    /// Returns a part of a room's timeline, of which a user gets what it may see; asks other servers for history where it is needed.
    ///
    /// Source: client-server API, "GET /_matrix/client/v3/rooms/{roomId}/messages".
    ///
    /// # Errors
    ///
    /// As [`Rooms::messages`](crate::rooms::Rooms::messages).
    pub async fn messages(&self, room_id: &RoomId, user: &UserId, page: Page) -> Result<Messages, RoomsError> {
        if self.rooms.membership(room_id, user).await? == Some(Membership::Join) {
            for _ in 0..ROUNDS_MAX {
                let ends = self.rooms.history_ends(room_id, page).await?;
                let came = !ends.is_empty() && self.backfill(room_id, &ends).await.unwrap_or(false);
                if !came {
                    break;
                }
            }
        }
        self.rooms.messages(room_id, user, page).await
    }

    async fn backfill_from(&self, server: &ServerName, room_id: &RoomId, from: &[EventId]) -> Result<bool, FetchError> {
        let rules = self.rooms.rules(room_id).await?;
        let v = from.iter().take(FROM_MAX).filter_map(ruma_event_id).collect();
        let request = get_backfill::Request::new(ruma_room_id(room_id)?, v, EVENTS_MAX.into());
        let mut pdus = self.ask(server, request, LIMITS).await?.pdus;
        pdus.truncate(EVENTS_MAX as usize);
        let verified = self.verify_history(rules, pdus.clone()).await;
        let left_out = self.left_out(room_id, rules, &pdus, &verified);
        let pdus = of_room(room_id, verified);
        let placed = self.rooms.look(room_id, |room| pdus.iter().map(|pdu| room.has_place(pdu.event_id())).collect());
        let placed: Vec<bool> = placed.await?;
        let new: Vec<VerifiedPdu> =
            pdus.into_iter().zip(placed).filter(|(_, placed)| !placed).map(|(pdu, _)| pdu).collect();
        if new.is_empty() {
            return Ok(false);
        }
        let ids: Vec<EventId> = new.iter().map(|pdu| pdu.event_id().clone()).collect();
        // Some may lack what they build on; those that don't are there all the same.
        let walk = by_prev_events(new, &left_out);
        let taken = self.take_walk(server, room_id, rules, walk, Arrival::History, &left_out).await;
        if let Err(FetchError::Rooms(error)) = taken {
            return Err(error.into());
        }
        Ok(self.rooms.look(room_id, |room| ids.iter().any(|id| room.has_place(id))).await?)
    }
}
