//! Reading a room's timeline, page by page.

use std::collections::{BTreeSet, VecDeque};

use ravel_core::{
    id::{EventId, RoomId, UserId},
    room::{Outcome, Room},
};

use super::{
    ClientEvent, LoadedRoom, Rooms, RoomsError,
    order::{TimelinePosition, TimelineToken, event_at},
};

/// A part of a room's timeline.
#[derive(Clone, Debug, PartialEq)]
pub struct Messages {
    /// In the order that was asked for.
    pub events: Vec<ClientEvent>,
    /// Where it begins.
    pub start: TimelineToken,
    /// Where to go on; `None` if there is no more.
    pub next: Option<TimelinePosition>,
}

/// What part of a timeline is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Page {
    /// Where it begins; the end of the timeline, or forward its start, if nothing is said.
    pub from: Option<TimelineToken>,
    /// Whether earlier events are wanted, the nearest first.
    pub backward: bool,
    /// At most so many events; [`MESSAGES_MAX`] are the most.
    pub limit: usize,
}

/// The most events of one answer to `/messages`.
pub const MESSAGES_MAX: usize = 256;

impl Rooms {
    /// Returns a part of the timeline, of which a user gets what it may see.
    ///
    /// # Errors
    ///
    /// `NoSuchRoom`; `NotInRoom` for who never was in it.
    pub async fn messages(&self, room_id: &RoomId, user: &UserId, page: Page) -> Result<Messages, RoomsError> {
        let until = self.readable_until(room_id, user).await?.ok_or(RoomsError::NotInRoom)?;
        let (mut from, start) = self.begin_of(room_id, page).await?;
        if page.backward && until < u64::MAX {
            // Who has left begins with its leaving: it sees nothing of what came later.
            from = from.min(self.position_of(room_id, until.saturating_add(1)).await?);
        }
        let limit = page.limit.clamp(1, MESSAGES_MAX);
        let places = self.read(room_id, |loaded| places(loaded, from, page.backward, limit)).await?;
        let next = places.last().filter(|_| places.len() == limit).map(|(last, _)| *last);
        let next = next.map(|last| if page.backward { last } else { last.after() });
        let ids: Vec<EventId> = places.into_iter().map(|(_, event_id)| event_id).collect();
        let events = self.0.log.logged_events_of(room_id, &ids).await?;
        Ok(Messages { events: self.visible(room_id, user, events).await?, start, next })
    }

    /// Returns those events of a page, and of the one before it the nearest, of which not all parents are here, the nearest first; none
    /// if the page is not backward.
    pub(crate) async fn history_ends(&self, room_id: &RoomId, page: Page) -> Result<Vec<EventId>, RoomsError> {
        if !page.backward {
            return Ok(Vec::new());
        }
        let (from, _) = self.begin_of(room_id, page).await?;
        let limit = page.limit.clamp(1, MESSAGES_MAX);
        let ends = |loaded: &LoadedRoom| {
            let room = &loaded.room;
            // A sync that begins after a gap has its first event just there.
            let nearest = places(loaded, from, false, 1).into_iter();
            let places = nearest.chain(places(loaded, from, true, limit));
            lacking_parents(room, places.map(|(_, id)| id))
        };
        self.read(room_id, ends).await
    }

    /// Returns the place of an event in a room's timeline, `None` if it has none.
    pub(crate) async fn place_of(
        &self,
        room_id: &RoomId,
        event_id: &EventId,
    ) -> Result<Option<TimelinePosition>, RoomsError> {
        self.read(room_id, |loaded| loaded.indexes.order.position(&loaded.room, event_id)).await
    }

    /// Returns where a page begins, and the token for that.
    async fn begin_of(&self, room_id: &RoomId, page: Page) -> Result<(TimelinePosition, TimelineToken), RoomsError> {
        let position = match page.from {
            Some(TimelineToken::Position(position)) => position,
            Some(TimelineToken::Sync(token)) => self.position_of(room_id, token.0).await?,
            None if page.backward => TimelinePosition::END,
            None => TimelinePosition::START,
        };
        Ok((position, page.from.unwrap_or(TimelineToken::Position(position))))
    }

    /// Returns the place after the newest event of a room before a place in the log.
    pub(super) async fn position_of(&self, room_id: &RoomId, sequence: u64) -> Result<TimelinePosition, RoomsError> {
        let mut before = sequence;
        loop {
            let newest = self.0.log.logged_events_back(room_id, before, 0, NEWEST).await?;
            let Some(oldest) = newest.last() else { return Ok(TimelinePosition::START) };
            before = oldest.sequence;
            let position = |loaded: &LoadedRoom| {
                newest.iter().find_map(|event| loaded.indexes.order.position(&loaded.room, &event.event_id))
            };
            if let Some(position) = self.read(room_id, position).await? {
                return Ok(position.after());
            }
        }
    }
}

/// How many events are looked at together for one that has a place.
const NEWEST: usize = 20;

fn places(
    loaded: &LoadedRoom,
    from: TimelinePosition,
    backward: bool,
    limit: usize,
) -> Vec<(TimelinePosition, EventId)> {
    let with_id = |position| Some((position, event_at(&loaded.room, position)?));
    match backward {
        true => loaded.indexes.order.backward(from).take(limit).filter_map(with_id).collect(),
        false => loaded.indexes.order.forward(from).take(limit).filter_map(with_id).collect(),
    }
}

/// Returns those of some events that have parents which are not here, and those of the events that they build on which are not shown.
fn lacking_parents(room: &Room, events: impl Iterator<Item = EventId>) -> Vec<EventId> {
    let mut pending: VecDeque<EventId> = events.collect();
    let mut seen: BTreeSet<EventId> = pending.iter().cloned().collect();
    let mut lacking = Vec::new();
    while let Some(id) = pending.pop_front() {
        let Some(event) = room.event(&id) else { continue };
        let (here, missing): (Vec<_>, Vec<_>) = event.prev_events.iter().partition(|prev| room.has_place(prev));
        let not_shown = here.into_iter().filter(|prev| room.outcome(prev) != Some(Outcome::Accepted));
        pending.extend(not_shown.filter(|prev| seen.insert((*prev).clone())).cloned());
        if !missing.is_empty() {
            lacking.push(id);
        }
    }
    lacking
}
