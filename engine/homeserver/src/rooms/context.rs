//! What was around an event.

use std::collections::BTreeSet;

use ravel_core::{
    event::event_type,
    id::{EventId, RoomId, UserId},
};

use super::{ClientEvent, LoadedRoom, Messages, Page, Rooms, RoomsError, TimelinePosition, TimelineToken};

/// An event and what was around it.
#[derive(Clone, Debug, PartialEq)]
pub struct Context {
    /// The event.
    pub event: ClientEvent,
    /// What came before it, the nearest first.
    pub before: Messages,
    /// What came after it, the nearest first.
    pub after: Messages,
    /// The state after the last of these.
    pub state: Vec<ClientEvent>,
    /// Where earlier events are.
    pub start: TimelinePosition,
    /// Where later events are.
    pub end: TimelinePosition,
}

impl Rooms {
    /// Returns an event with at most `limit` events around it, half of them before it. With `lazy_members` the state has the members
    /// only who sent these events.
    ///
    /// Source: client-server API, "GET /_matrix/client/v3/rooms/{roomId}/context/{eventId}".
    ///
    /// # Errors
    ///
    /// `NoSuchRoom`; `NotInRoom` for who never was in it; `NoSuchEvent` if there is none or the user may not see it.
    pub async fn context(
        &self,
        room_id: &RoomId,
        user: &UserId,
        event_id: &EventId,
        limit: usize,
        lazy_members: bool,
    ) -> Result<Context, RoomsError> {
        if self.readable_until(room_id, user).await?.is_none() {
            return Err(RoomsError::NotInRoom);
        }
        let event = self.event(room_id, user, event_id).await?;
        let position = self.place_of(room_id, event_id).await?.ok_or(RoomsError::NoSuchEvent)?;
        let around = async |from: TimelinePosition, backward: bool, limit: usize| {
            let start = TimelineToken::Position(from);
            match limit {
                0 => Ok(Messages { events: Vec::new(), start, next: Some(from) }),
                limit => self.messages(room_id, user, Page { from: Some(start), backward, limit }).await,
            }
        };
        let before = around(position, true, limit.div_ceil(2)).await?;
        let after = around(position.after(), false, limit / 2).await?;
        let last = after.events.last().unwrap_or(&event).event_id.clone();
        let entries = |loaded: &LoadedRoom| Some(loaded.room.state_after(&last)?.sorted_entries());
        let entries = self.read(room_id, entries).await?.unwrap_or_default();
        let events = before.events.iter().chain([&event]).chain(&after.events);
        let senders: BTreeSet<&str> = events.filter_map(|event| event.json.get("sender")?.as_str()).collect();
        let is_wanted = |kind: &str, key: &str| !lazy_members || kind != event_type::MEMBER || senders.contains(key);
        let wanted = entries.into_iter().filter(|(key, _)| is_wanted(&key.event_type, &key.state_key));
        let state = self.events_by_id(room_id, wanted.map(|(_, id)| id)).await?;
        let start = before.next.unwrap_or(TimelinePosition::START);
        let newest = after.events.last().unwrap_or(&event).event_id.clone();
        let end = self.place_of(room_id, &newest).await?;
        let end = after.next.or(end.map(TimelinePosition::after)).unwrap_or(TimelinePosition::END);
        Ok(Context { event, before, after, state, start, end })
    }
}
