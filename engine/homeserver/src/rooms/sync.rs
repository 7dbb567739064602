//! What is new for a user since some place in the log.

use std::collections::{BTreeMap, BTreeSet};

use ravel_core::{
    event::{Membership, StateKey, event_type},
    id::{EventId, RoomId, UserId},
    room::{Outcome, Room},
};
use ravel_store::log::LoggedEvent;
use ruma::api::client::filter::{RoomEventFilter, RoomFilter};

use super::{ClientEvent, LoadedRoom, Rooms, RoomsError, TimelineToken};
use crate::filters::matching::{allows_room, is_open, passes_in_room};

/// A place in the log that a sync goes on from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SyncToken(pub u64);

impl SyncToken {
    /// Reads what [`Display`](std::fmt::Display) wrote.
    pub fn parse(text: &str) -> Option<Self> {
        // What follows is of no room's history.
        let place = text.strip_prefix('s')?.split('_').next()?;
        place.parse().ok().map(Self)
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
    /// The user has joined it since the last sync, or there was none: it knows nothing of the room.
    pub is_new: bool,
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
    /// There are more between the last sync and these.
    pub limited: bool,
    /// Where earlier events are.
    pub prev_batch: Option<TimelineToken>,
    /// What changed of the state before them.
    pub state: Vec<ClientEvent>,
}

impl Rooms {
    /// Returns what is new in a user's rooms between the place `since` and the place `now` in the log; with `None`, all that there is.
    ///
    /// # Errors
    ///
    /// When the log can't be read.
    pub async fn news(
        &self,
        user: &UserId,
        since: Option<u64>,
        now: u64,
        filter: &SyncFilter,
    ) -> Result<Sync, RoomsError> {
        let from = since.map_or(0, |since| since.min(now));
        let mut sync = Sync::default();
        if since.is_some() && !filter.full_state && !self.0.members().has_news_from(user, from) {
            return Ok(sync);
        }
        let rooms = self.0.members().rooms_of(user);
        for (room_id, membership) in rooms {
            let RoomFilter { rooms, not_rooms, .. } = &filter.room;
            if !allows_room(rooms.as_deref(), not_rooms, room_id.as_str()) {
                continue;
            }
            if !filter.full_state && !self.0.members().room_has_news_from(&room_id, from) {
                continue;
            }
            let newest = self.0.log.last_event_before(&room_id, now).await?;
            if newest.is_none_or(|newest| newest < from && !filter.full_state) {
                continue;
            }
            match membership {
                Membership::Join => {
                    let joined = self.joined_room(&room_id, user, since, now, filter).await?;
                    if joined.is_new || filter.full_state || !joined.timeline.is_empty() || !joined.state.is_empty() {
                        sync.joined.insert(room_id, joined);
                    }
                }
                Membership::Invite | Membership::Knock => {
                    let member = self.member_event(&room_id, user).await?;
                    let Some(member) = member.filter(|member| member.sequence >= from) else { continue };
                    let inviter = member.json.get("sender").and_then(|sender| sender.as_str());
                    let inviter = inviter.filter(|_| membership == Membership::Invite);
                    let mut events = self.description(&room_id, inviter).await?;
                    events.push(member);
                    let rooms = if membership == Membership::Invite { &mut sync.invited } else { &mut sync.knocked };
                    rooms.insert(room_id, events);
                }
                Membership::Leave | Membership::Ban => {
                    let member = self.member_event(&room_id, user).await?;
                    let Some(member) = member.filter(|member| member.sequence >= from) else { continue };
                    // Whoever was made to leave is told, even by the first sync.
                    let has_left = member.json.get("sender").is_some_and(|sender| *sender == user.as_str());
                    if has_left && since.is_none() && !filter.room.include_leave {
                        continue;
                    }
                    let until = member.sequence.saturating_add(1);
                    let left = self.joined_room(&room_id, user, since, until, filter).await?;
                    let JoinedRoom { timeline, limited, prev_batch, state, .. } = left;
                    sync.left.insert(room_id, LeftRoom { timeline, limited, prev_batch, state });
                }
                Membership::Unknown => {}
            }
        }
        self.add_outside(user, since, now, &mut sync).await?;
        Ok(sync)
    }

    /// Returns what tells when there is more in the log for readers.
    pub(crate) fn subscribe(&self) -> tokio::sync::watch::Receiver<u64> {
        self.0.progress.subscribe()
    }

    async fn joined_room(
        &self,
        room_id: &RoomId,
        user: &UserId,
        since: Option<u64>,
        now: u64,
        filter: &SyncFilter,
    ) -> Result<JoinedRoom, RoomsError> {
        let from = since.map_or(0, |since| since.min(now));
        let before = self.event_before(room_id, from).await?;
        let is_new = self.read(room_id, |loaded| !was_in(&loaded.room, before.as_ref(), user)).await?;
        // Who was not in the room then gets it as if there had been no sync.
        let from = if is_new || since.is_none() { 0 } else { from };
        let Page { events: timeline, limited } =
            self.newest_visible(room_id, user, from, now, &filter.room.timeline).await?;
        let first = timeline.first().map(|first| first.event_id.clone());
        // Of a room that this server has entered, earlier events are at other servers.
        let goes_back = |loaded: &LoadedRoom| first.as_ref().is_some_and(|first| has_unknown_past(&loaded.room, first));
        let limited = limited || is_new && self.read(room_id, goes_back).await?;
        let prev_batch = match &first {
            Some(first) => self.place_of(room_id, first).await?,
            None => None,
        };
        let prev_batch = Some(prev_batch.map_or(TimelineToken::Sync(SyncToken(now)), TimelineToken::Position));
        let before = before.as_ref().filter(|_| from > 0 && !filter.full_state);
        let lazy = !filter.room.state.lazy_load_options.is_disabled();
        let senders = || timeline.iter().filter_map(|event| event.json.get("sender")?.as_str());
        let users: Option<BTreeSet<&str>> = lazy.then(|| senders().chain([user.as_str()]).collect());
        let state =
            self.read(room_id, |loaded| changed_state(&loaded.room, before, first.as_ref(), users.as_ref())).await?;
        let mut state = self.events_by_id(room_id, state).await?;
        state.retain(|event| passes_in_room(&filter.room.state, room_id.as_str(), &event.json));
        let is_member = |event: &ClientEvent| event.json.get("type").is_some_and(|kind| kind == event_type::MEMBER);
        let members = match timeline.iter().chain(&state).any(is_member) {
            true => Some(self.read(room_id, |loaded| MemberCounts::of(&loaded.room)).await?),
            false => None,
        };
        Ok(JoinedRoom { timeline, limited, prev_batch, state, members, is_new })
    }

    /// Returns the newest event of a room's timeline before a place in the log.
    pub(super) async fn event_before(&self, room_id: &RoomId, place: u64) -> Result<Option<EventId>, RoomsError> {
        let mut before = place;
        loop {
            let page = self.0.log.logged_events_back(room_id, before, 0, SCANNED_FOR_ONE).await?;
            let Some(oldest) = page.last() else { return Ok(None) };
            before = oldest.sequence;
            let is_told =
                |event: &LoggedEvent| event.outcome == Outcome::Accepted && !event.is_outlier && !event.is_history;
            if let Some(event) = page.into_iter().find(is_told) {
                return Ok(Some(event.event_id));
            }
        }
    }

    /// Returns the newest events of a room between two places that the user may see and the filter lets through, in order.
    async fn newest_visible(
        &self,
        room_id: &RoomId,
        user: &UserId,
        from: u64,
        now: u64,
        filter: &RoomEventFilter,
    ) -> Result<Page, RoomsError> {
        let limit =
            filter.limit.map_or(TIMELINE_DEFAULT, |limit| usize::try_from(u64::from(limit)).unwrap_or(usize::MAX));
        let limit = limit.min(TIMELINE_MAX);
        let items = if is_open(filter) { limit.saturating_add(1) } else { SCANNED_ITEMS };
        let (mut events, mut before) = (Vec::new(), now);
        for _ in 0..SCANNED_PAGES_MAX {
            let page = self.0.log.logged_events_back(room_id, before, from, items).await?;
            let (is_last, oldest) = (page.len() < items, page.last().map(|event| event.sequence));
            // What was asked for later is told by pages of the timeline.
            let page = page.into_iter().filter(|event| !event.is_history).collect();
            let mut visible = self.visible(room_id, user, page).await?;
            visible.retain(|event| passes_in_room(filter, room_id.as_str(), &event.json));
            events.extend(visible);
            let limited = events.len() > limit;
            if limited || is_last {
                events.truncate(limit);
                events.reverse();
                return Ok(Page { events, limited });
            }
            before = oldest.unwrap_or(from);
        }
        events.reverse();
        Ok(Page { events, limited: true })
    }

    /// Returns the event by which a user is invited to a room, `None` if it is not.
    ///
    /// # Errors
    ///
    /// `NoSuchRoom`, and when the log can't be read.
    pub async fn invite_event(&self, room_id: &RoomId, user: &UserId) -> Result<Option<ClientEvent>, RoomsError> {
        match self.membership(room_id, user).await? {
            Some(Membership::Invite) => self.member_event(room_id, user).await,
            _ => Ok(None),
        }
    }

    async fn member_event(&self, room_id: &RoomId, user: &UserId) -> Result<Option<ClientEvent>, RoomsError> {
        let member = |room: &Room| room.current_state().get(event_type::MEMBER, user.as_str());
        let member = self.read(room_id, |loaded| member(&loaded.room)).await?;
        Ok(self.events_by_id(room_id, member).await?.pop())
    }

    /// Returns the events that tell somebody outside what a room is, and who invites to it.
    async fn description(&self, room_id: &RoomId, inviter: Option<&str>) -> Result<Vec<ClientEvent>, RoomsError> {
        let ids = self.read(room_id, |loaded| loaded.description(inviter)).await?;
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

/// What a client wants of its rooms.
#[derive(Clone, Debug, Default)]
pub struct SyncFilter {
    /// Which rooms, and which of their events.
    pub room: RoomFilter,
    /// All rooms with all of their state, also where nothing is new.
    pub full_state: bool,
}

/// A part of a timeline.
struct Page {
    events: Vec<ClientEvent>,
    limited: bool,
}

/// How many events of a room are told unless a filter says something else.
const TIMELINE_DEFAULT: usize = 10;
/// The most events of a room.
const TIMELINE_MAX: usize = 250;
/// How many events are looked at at once for those that a filter lets through.
const SCANNED_ITEMS: usize = 250;
/// And how often.
const SCANNED_PAGES_MAX: usize = 20;
/// How many events are looked at at once for one that was told.
const SCANNED_FOR_ONE: usize = 10;

impl Sync {
    /// Whether nothing is new.
    pub fn is_empty(&self) -> bool {
        self.joined.is_empty() && self.invited.is_empty() && self.knocked.is_empty() && self.left.is_empty()
    }
}

/// Whether what an event builds on is not all here.
fn has_unknown_past(room: &Room, event_id: &EventId) -> bool {
    let event = room.event(event_id);
    event.is_some_and(|event| event.prev_events.iter().any(|prev| room.state_after(prev).is_none()))
}

/// Whether a user was in a room after an event; not if there was none.
fn was_in(room: &Room, event_id: Option<&EventId>, user: &UserId) -> bool {
    let state = event_id.and_then(|event_id| room.state_after(event_id));
    let member = state.and_then(|state| state.get(event_type::MEMBER, user.as_str()));
    member.and_then(|member| room.event(&member)?.membership()) == Some(Membership::Join)
}

/// Returns what the state before `first` has that the state after `before` had not. With `users` it has no members but these, and all of
/// them.
fn changed_state(
    room: &Room,
    before: Option<&EventId>,
    first: Option<&EventId>,
    users: Option<&BTreeSet<&str>>,
) -> Vec<EventId> {
    let now = match first {
        Some(first) => room.state_before(first),
        None => Some(room.current_state()),
    };
    let Some(now) = now else { return Vec::new() };
    let then = before.and_then(|before| room.state_after(before));
    let changed = match then {
        Some(then) => now.changed_since(then),
        None => now.iter().collect(),
    };
    let is_wanted = |key: &StateKey| users.is_none() || *key.event_type != *event_type::MEMBER;
    let changed = changed.into_iter().filter(|(key, _)| is_wanted(key)).map(|(_, id)| id);
    let members = users.into_iter().flatten().filter_map(|user| now.get(event_type::MEMBER, user));
    changed.chain(members).collect()
}
