//! Finding out what a server was not told.

use ravel_core::id::ServerName;

use super::queue::{Look, Outgoing, Round};
use crate::{homeserver::Homeserver, receiving::TRANSACTION_PDUS_MAX, rooms::RoomsError};

/// How many events of a room are sent to who has missed more: the newest. It can ask for those before.
const ROOM_PDUS_MAX: usize = 50;

impl Homeserver {
    /// Looks into the log for what a server was not told, room by room, until there is enough for a transaction. Returns what is left to
    /// be looked into, and what was found.
    ///
    /// # Errors
    ///
    /// When the log can't be read.
    pub(super) async fn look_for(
        &self,
        destination: &ServerName,
        look: Look,
    ) -> Result<(Round, Vec<Outgoing>), RoomsError> {
        let Look { from, until, round } = look;
        let mut round = match round {
            Some(round) => round,
            None => Round { to: self.known_to(until).await?, after: None, is_over: false },
        };
        let mut found = Vec::new();
        // A room that is made meanwhile has nothing before the end of the round.
        let rooms = self.log.rooms().into_iter().map(|(room_id, _)| room_id);
        let mut rooms = rooms.filter(|room_id| round.after.as_ref().is_none_or(|after| room_id > after));
        let mut last = None;
        while found.len() < TRANSACTION_PDUS_MAX {
            last = rooms.next();
            let Some(room_id) = &last else { break };
            let owed = match self.rooms.owed_to(destination, room_id, from, round.to, ROOM_PDUS_MAX).await {
                // It was purged.
                Err(RoomsError::NoSuchRoom) => Vec::new(),
                owed => owed?,
            };
            found.extend(owed.into_iter().map(|(sequence, event_id)| {
                let within = sequence..sequence.saturating_add(1);
                Outgoing { room_id: room_id.clone(), event_id, within }
            }));
        }
        drop(rooms);
        (round.is_over, round.after) = (last.is_none(), last);
        Ok((round, found))
    }

    /// Returns how far the log is known, once that is as far as `until`.
    async fn known_to(&self, until: u64) -> Result<u64, RoomsError> {
        let mut positions = self.rooms.positions();
        let known = positions.wait_for(|position| *position >= until).await.map_err(|_| RoomsError::Panicked)?;
        Ok(*known)
    }
}
