//! Finding events by their time.

use ravel_core::{
    id::{EventId, RoomId, ServerName},
    room::{Outcome, Room},
};

use super::{AnsweringError, Homeserver};

impl Homeserver {
    /// Returns the event of a room that is nearest to a time, at it or after it (or, backward, before it), with its own time.
    ///
    /// Source: server-server API, "GET /_matrix/federation/v1/timestamp_to_event/{roomId}".
    ///
    /// # Errors
    ///
    /// `NotInRoom`, `Denied`; `NoSuchEvent` if there is none.
    pub async fn answer_timestamp_to_event(
        &self,
        origin: &ServerName,
        room_id: &RoomId,
        ts_ms: i64,
        backward: bool,
    ) -> Result<(EventId, i64), AnsweringError> {
        self.may_ask(origin, room_id).await?;
        let found = self.rooms.look(room_id, |room| nearest(room, ts_ms, backward)).await?;
        found.ok_or(AnsweringError::NoSuchEvent)
    }
}

/// Returns the nearest accepted event; of several with the same time the first that came. O(n) for n events.
fn nearest(room: &Room, ts_ms: i64, backward: bool) -> Option<(EventId, i64)> {
    let mut nearest: Option<(EventId, i64)> = None;
    for (event, outcome) in room.events() {
        let found_ms = event.origin_server_ts_ms;
        let is_on_side = if backward { found_ms <= ts_ms } else { found_ms >= ts_ms };
        let is_nearer =
            nearest.as_ref().is_none_or(|(_, nearest_ms)| found_ms.abs_diff(ts_ms) < nearest_ms.abs_diff(ts_ms));
        if outcome == Outcome::Accepted && is_on_side && is_nearer && !room.is_outlier(&event.event_id) {
            nearest = Some((event.event_id.clone(), found_ms));
        }
    }
    nearest
}
