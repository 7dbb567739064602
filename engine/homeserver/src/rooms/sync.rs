//! What is new for a user since some place in the log.

use std::{collections::BTreeMap, time::Duration};

use ravel_core::{
    event::{Membership, event_type},
    id::{EventId, RoomId, UserId},
    room::Room,
};

use super::{ClientEvent, Rooms, RoomsError, TimelineToken};

/// A place in the log that a sync goes on from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SyncToken(pub u64);

impl SyncToken {
    /// Reads what [`Display`](std::fmt::Display) wrote.
    pub fn parse(text: &str) -> Option<Self> {
        text.strip_prefix('s')?.parse().ok().map(Self)
    }
}

impl std::fmt::Display for SyncToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "s{}", self.0)
    }
}

/// What is new, by room.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sync {
    /// Rooms that the user is in.
    pub joined: BTreeMap<RoomId, JoinedRoom>,
    /// Rooms that it was invited to, each with events that describe it.
    pub invited: BTreeMap<RoomId, Vec<ClientEvent>>,
    /// Rooms that it knocked on, likewise.
    pub knocked: BTreeMap<RoomId, Vec<ClientEvent>>,
    /// Rooms that it left since.
    pub left: BTreeMap<RoomId, LeftRoom>,
    /// Where the next sync goes on.
    pub next: Option<SyncToken>,
}

/// A room that the user is in.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct JoinedRoom {
    /// The newest events, in order.
    pub timeline: Vec<ClientEvent>,
    /// There are more between the last sync and these.
    pub limited: bool,
    /// Where earlier events are.
    pub prev_batch: Option<TimelineToken>,
    /// What changed of the state before the timeline since the last sync; all of it if there was none.
    pub state: Vec<ClientEvent>,
    /// How many members there are; `None` if there is no member event among these.
    pub members: Option<MemberCounts>,
}

/// How many members a room has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemberCounts {
    /// Who are in it.
    pub joined: usize,
    /// Who are invited.
    pub invited: usize,
}

/// A room that the user left.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LeftRoom {
    /// The last events up to its leaving.
    pub timeline: Vec<ClientEvent>,
    /// What changed of the state before them.
    pub state: Vec<ClientEvent>,
}

impl Rooms {
    /// Returns what is new for a user since a place, all of its rooms if there is none. Waits up to `timeout` while nothing is.
    ///
    /// # Errors
    ///
    /// When the log can't be read.
    pub async fn sync(
        &self,
        user: &UserId,
        since: Option<SyncToken>,
        timeline_limit: usize,
        timeout: Duration,
    ) -> Result<Sync, RoomsError> {
        let mut position = self.0.progress.subscribe();
        let mut timeout = self.0.clock.sleep(timeout);
        loop {
            let now = *position.borrow_and_update();
            let has_news = since.is_none_or(|since| self.0.members().has_news_from(user, since.0));
            let nothing = Sync { next: Some(SyncToken(now)), ..Sync::default() };
            let sync = if has_news { self.sync_to(user, since, now, timeline_limit).await? } else { nothing };
            if since.is_none() || !sync.is_empty() {
                return Ok(sync);
            }
            tokio::select! {
                () = &mut timeout => return Ok(sync),
                changed = position.changed() => changed.map_err(|_| RoomsError::Panicked)?,
            }
        }
    }

    async fn sync_to(
        &self,
        user: &UserId,
        since: Option<SyncToken>,
        now: u64,
        limit: usize,
    ) -> Result<Sync, RoomsError> {
        let from = since.map_or(0, |since| since.0.min(now));
        let mut sync = Sync { next: Some(SyncToken(now)), ..Sync::default() };
        let rooms = self.0.members().rooms_of(user);
        for (room_id, membership) in rooms {
            let newest = self.0.log.last_event_before(&room_id, now).await?;
            if newest.is_none_or(|newest| newest < from) {
                continue;
            }
            match membership {
                Membership::Join => {
                    let joined = self.joined_room(&room_id, user, since, from, now, limit).await?;
                    if since.is_none() || !joined.timeline.is_empty() || !joined.state.is_empty() {
                        sync.joined.insert(room_id, joined);
                    }
                }
                Membership::Invite | Membership::Knock => {
                    let member = self.member_event(&room_id, user).await?;
                    let Some(member) = member.filter(|member| member.sequence >= from) else { continue };
                    let mut events = self.description(&room_id).await?;
                    events.push(member);
                    let rooms = if membership == Membership::Invite { &mut sync.invited } else { &mut sync.knocked };
                    rooms.insert(room_id, events);
                }
                Membership::Leave | Membership::Ban if since.is_some() => {
                    let member = self.member_event(&room_id, user).await?;
                    let Some(member) = member.filter(|member| member.sequence >= from) else { continue };
                    let left = self.joined_room(&room_id, user, since, from, member.sequence + 1, limit).await?;
                    sync.left.insert(room_id, LeftRoom { timeline: left.timeline, state: left.state });
                }
                Membership::Leave | Membership::Ban | Membership::Unknown => {}
            }
        }
        Ok(sync)
    }

    async fn joined_room(
        &self,
        room_id: &RoomId,
        user: &UserId,
        since: Option<SyncToken>,
        from: u64,
        now: u64,
        limit: usize,
    ) -> Result<JoinedRoom, RoomsError> {
        let before = self.0.log.logged_events_back(room_id, from, 0, 1).await?.pop().map(|event| event.event_id);
        let joined_since = self.read(room_id, |loaded| !was_in(&loaded.room, before.as_ref(), user)).await?;
        // Who was not in the room then gets it as if there had been no sync.
        let since = since.filter(|_| !joined_since);
        let from = if since.is_some() { from } else { 0 };
        let mut page = self.0.log.logged_events_back(room_id, now, from, limit.saturating_add(1)).await?;
        let limited = page.len() > limit;
        page.truncate(limit);
        page.reverse();
        let first = page.iter().find(|event| !event.is_outlier);
        let first = first.map(|first| first.event_id.clone());
        let prev_batch = match &first {
            Some(first) => self.read(room_id, |loaded| loaded.order.position(&loaded.room, first)).await?,
            None => None,
        };
        let prev_batch = prev_batch.map(TimelineToken::Position);
        let before = before.as_ref().filter(|_| since.is_some());
        let state = self.read(room_id, |loaded| changed_state(&loaded.room, before, first.as_ref())).await?;
        let timeline = self.visible(room_id, user, page).await?;
        let state = self.events_by_id(room_id, state).await?;
        let is_member = |event: &ClientEvent| event.json.get("type").is_some_and(|kind| kind == event_type::MEMBER);
        let members = match timeline.iter().chain(&state).any(is_member) {
            true => Some(self.read(room_id, |loaded| MemberCounts::of(&loaded.room)).await?),
            false => None,
        };
        Ok(JoinedRoom { timeline, limited, prev_batch, state, members })
    }

    async fn member_event(&self, room_id: &RoomId, user: &UserId) -> Result<Option<ClientEvent>, RoomsError> {
        let member = |room: &Room| room.current_state().get(event_type::MEMBER, user.as_str());
        let member = self.read(room_id, |loaded| member(&loaded.room)).await?;
        Ok(self.events_by_id(room_id, member).await?.pop())
    }

    /// Returns the events that tell somebody outside what a room is.
    ///
    /// Source: client-server API, "Stripped state".
    async fn description(&self, room_id: &RoomId) -> Result<Vec<ClientEvent>, RoomsError> {
        let ids = self.read(room_id, |loaded| {
            let state = loaded.room.current_state();
            DESCRIPTION.iter().filter_map(|event_type| state.get(event_type, "")).collect::<Vec<_>>()
        });
        let ids = ids.await?;
        self.events_by_id(room_id, ids).await
    }
}

impl MemberCounts {
    fn of(room: &Room) -> Self {
        let mut counts = Self::default();
        for (_, id) in room.current_state().iter().filter(|(key, _)| *key.event_type == *event_type::MEMBER) {
            match room.event(&id).and_then(|event| event.membership()) {
                Some(Membership::Join) => counts.joined += 1,
                Some(Membership::Invite) => counts.invited += 1,
                _ => {}
            }
        }
        counts
    }
}

impl Sync {
    fn is_empty(&self) -> bool {
        self.joined.is_empty() && self.invited.is_empty() && self.knocked.is_empty() && self.left.is_empty()
    }
}

/// The state events that an invite shows.
const DESCRIPTION: [&str; 7] = [
    "m.room.create",
    "m.room.join_rules",
    "m.room.canonical_alias",
    "m.room.avatar",
    "m.room.name",
    "m.room.encryption",
    "m.room.topic",
];

/// Whether a user was in a room after an event; not if there was none.
fn was_in(room: &Room, event_id: Option<&EventId>, user: &UserId) -> bool {
    let state = event_id.and_then(|event_id| room.state_after(event_id));
    let member = state.and_then(|state| state.get(event_type::MEMBER, user.as_str()));
    member.and_then(|member| room.event(&member)?.membership()) == Some(Membership::Join)
}

/// Returns what the state before `first` has that the state after `before` had not.
fn changed_state(room: &Room, before: Option<&EventId>, first: Option<&EventId>) -> Vec<EventId> {
    let now = match first {
        Some(first) => room.state_before(first),
        None => Some(room.current_state()),
    };
    let Some(now) = now else { return Vec::new() };
    let then = before.and_then(|before| room.state_after(before));
    let held = |key: &ravel_core::event::StateKey| then.and_then(|then| then.get(&key.event_type, &key.state_key));
    now.iter().filter(|(key, id)| held(key).as_ref() != Some(id)).map(|(_, id)| id).collect()
}
