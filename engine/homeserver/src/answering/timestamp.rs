//! Finding events by their time.

use ravel_core::id::{EventId, RoomId, ServerName};

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
        let found = self.rooms.nearest(room_id, ts_ms, backward).await?;
        found.ok_or(AnsweringError::NoSuchEvent)
    }
}
