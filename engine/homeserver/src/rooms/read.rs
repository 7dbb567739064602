//! What users may read of a room, and how events look to clients.

use std::{borrow::Cow, collections::BTreeMap};

use ravel_core::{
    canonical_json::{CanonicalJsonObject, JsonMode, get_object, get_str, parse_object},
    event::{Event, Membership, event_type},
    id::{EventId, RoomId, UserId},
    pdu::VerifiedPdu,
    room::{Outcome, Room},
    state::{State, StateMap},
};
use ravel_store::log::LoggedEvent;
use serde_json::{Map, Value};

use super::{LoadedRoom, Rooms, RoomsError};

/// An event as clients get it: with its id, without what only servers need.
#[derive(Clone, Debug, PartialEq)]
pub struct ClientEvent {
    /// Where it is in the log.
    pub sequence: u64,
    /// Its id.
    pub event_id: EventId,
    /// `event_id`, `room_id`, `sender`, `type`, `state_key`, `content`, `origin_server_ts`, `redacts` and `unsigned`.
    pub json: Map<String, Value>,
}

/// Who may read a room's history.
///
/// Source: client-server API, "Room History Visibility".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Visibility {
    WorldReadable,
    #[default]
    Shared,
    Invited,
    Joined,
}

impl Visibility {
    /// Unknown values count as `shared`, as an absent event does.
    fn parse(text: &str) -> Self {
        match text {
            "world_readable" => Self::WorldReadable,
            "invited" => Self::Invited,
            "joined" => Self::Joined,
            _ => Self::Shared,
        }
    }
}

impl Rooms {
    /// Returns the current membership of a user, `None` if the room has none.
    ///
    /// # Errors
    ///
    /// `NoSuchRoom`, and when the log can't be read.
    pub async fn membership(&self, room_id: &RoomId, user: &UserId) -> Result<Option<Membership>, RoomsError> {
        self.read(room_id, |loaded| membership_in(&loaded.room, loaded.room.current_state(), user)).await
    }

    /// Whether a user of another server is in a room with one of ours. Of rooms that nothing has happened in since the server was started,
    /// nothing is known here.
    ///
    /// Costs a look at each of these rooms.
    pub(crate) async fn is_in_open_room(&self, user: &UserId) -> bool {
        for room in self.0.open.all() {
            let is_there = |loaded: &LoadedRoom| {
                let membership = membership_in(&loaded.room, loaded.room.current_state(), user);
                membership == Some(Membership::Join) && loaded.servers.has(&self.0.server_name)
            };
            if room.room.read().await.as_ref().is_some_and(is_there) {
                return true;
            }
        }
        false
    }

    /// Whether a user of this server has joined a room that another user has joined too. Costs a look at each of its rooms.
    ///
    /// # Errors
    ///
    /// When the log can't be read.
    pub async fn share_room(&self, user: &UserId, other: &UserId) -> Result<bool, RoomsError> {
        self.is_in_any(&self.joined_rooms(user), other).await
    }

    /// Whether a user has joined one of these rooms.
    pub(crate) async fn is_in_any<'r>(
        &self,
        rooms: impl IntoIterator<Item = &'r RoomId>,
        user: &UserId,
    ) -> Result<bool, RoomsError> {
        for room_id in rooms {
            if self.membership(room_id, user).await? == Some(Membership::Join) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Returns the rooms that a user of this server has a membership in, and did not forget, sorted.
    pub fn rooms_of(&self, user: &UserId) -> Vec<(RoomId, Membership)> {
        self.0.members().rooms_of(user)
    }

    /// Returns the rooms that a user has joined, sorted.
    pub fn joined_rooms(&self, user: &UserId) -> Vec<RoomId> {
        let rooms = self.0.members().rooms_of(user).into_iter();
        rooms.filter(|(_, membership)| *membership == Membership::Join).map(|(room_id, _)| room_id).collect()
    }

    /// Returns the current state of a room for a user in it, or what it was when the user left.
    ///
    /// # Errors
    ///
    /// `NoSuchRoom`; `NotInRoom` for who never was in it.
    pub async fn state(&self, room_id: &RoomId, user: &UserId) -> Result<Vec<ClientEvent>, RoomsError> {
        let state = self.readable_state(room_id, user).await?.ok_or(RoomsError::NotInRoom)?;
        let entries = self.read(room_id, |loaded| loaded.room.state(&state).sorted_entries()).await?;
        self.events_by_id(room_id, entries.into_iter().map(|(_, id)| id)).await
    }

    /// Returns one event of the state that [`state`](Self::state) returns.
    ///
    /// # Errors
    ///
    /// `NoSuchRoom`, `NotInRoom`; `NoSuchEvent` if nothing holds the key.
    pub async fn state_event(
        &self,
        room_id: &RoomId,
        user: &UserId,
        event_type: &str,
        state_key: &str,
    ) -> Result<ClientEvent, RoomsError> {
        let state = self.readable_state(room_id, user).await?.ok_or(RoomsError::NotInRoom)?;
        let id = self.read(room_id, |loaded| loaded.room.state(&state).get(event_type, state_key)).await?;
        self.events_by_id(room_id, id).await?.pop().ok_or(RoomsError::NoSuchEvent)
    }

    /// Returns the content of an event of a room's current state, for the server's own use.
    ///
    /// # Errors
    ///
    /// `NoSuchRoom`, and when the log can't be read.
    pub async fn state_content(
        &self,
        room_id: &RoomId,
        event_type: &str,
        state_key: &str,
    ) -> Result<Option<CanonicalJsonObject>, RoomsError> {
        let held = self.read(room_id, |loaded| loaded.room.current_state().get(event_type, state_key)).await?;
        let Some(mut event) = self.events_by_id(room_id, held).await?.pop() else { return Ok(None) };
        let content = event.json.remove("content").unwrap_or_default();
        // What is in an event was read as canonical JSON before.
        let content = parse_object(content.to_string().as_bytes(), JsonMode::ByteExact);
        Ok(Some(content.map_err(|_| RoomsError::BadValue("content"))?))
    }

    /// Returns an event, if the user may see it.
    ///
    /// # Errors
    ///
    /// `NoSuchRoom`; `NoSuchEvent` if there is none or the user may not see it.
    pub async fn event(&self, room_id: &RoomId, user: &UserId, event_id: &EventId) -> Result<ClientEvent, RoomsError> {
        let logged = self.0.log.logged_event(room_id, event_id).await?.ok_or(RoomsError::NoSuchEvent)?;
        self.visible(room_id, user, vec![logged]).await?.pop().ok_or(RoomsError::NoSuchEvent)
    }

    /// Returns the events of a page that a user may see, as clients get them.
    pub(super) async fn visible(
        &self,
        room_id: &RoomId,
        user: &UserId,
        page: Vec<LoggedEvent>,
    ) -> Result<Vec<ClientEvent>, RoomsError> {
        let page: Vec<_> =
            page.into_iter().filter(|event| event.outcome == Outcome::Accepted && !event.is_outlier).collect();
        let facts = self
            .read(room_id, |loaded| {
                let of = |event: &LoggedEvent| VisibilityFacts::of(&loaded.room, user, &event.event_id);
                page.iter().map(of).collect::<Vec<_>>()
            })
            .await?;
        let left_sequence = self.left_sequence(room_id, user).await?;
        let mut known: BTreeMap<EventId, Visibility> = BTreeMap::new();
        let mut seen = Vec::new();
        for (event, facts) in page.into_iter().zip(facts) {
            let Some(facts) = facts else { continue };
            let was_there_later = left_sequence.is_some_and(|left| event.sequence <= left);
            let mut may_see = facts.membership == Some(Membership::Join);
            for id in facts.visibilities {
                let visibility = match &id {
                    Some(id) => match known.get(id) {
                        Some(visibility) => *visibility,
                        None => self.visibility_of(room_id, id).await?,
                    },
                    None => Visibility::default(),
                };
                known.extend(id.map(|id| (id, visibility)));
                may_see |= match visibility {
                    Visibility::WorldReadable => true,
                    Visibility::Shared => was_there_later,
                    Visibility::Invited => facts.membership == Some(Membership::Invite),
                    Visibility::Joined => false,
                };
            }
            if may_see {
                seen.push(event);
            }
        }
        self.as_clients_get_them(room_id, seen).await
    }

    /// Returns the place in the log up to which a user was in a room; `None` if it never was there, or forgot it.
    async fn left_sequence(&self, room_id: &RoomId, user: &UserId) -> Result<Option<u64>, RoomsError> {
        if self.0.members().has_forgotten(user, room_id) {
            return Ok(None);
        }
        match self.read(room_id, |loaded| left_at(&loaded.room, user)).await? {
            Left::Never => Ok(None),
            Left::Is => Ok(Some(u64::MAX)),
            Left::At(event_id) => Ok(self.0.log.logged_event(room_id, &event_id).await?.map(|event| event.sequence)),
        }
    }

    /// Returns the place in the log up to which a user may read a room's state; `None` if it may not at all.
    pub(super) async fn readable_until(&self, room_id: &RoomId, user: &UserId) -> Result<Option<u64>, RoomsError> {
        match self.left_sequence(room_id, user).await? {
            Some(u64::MAX) => Ok(Some(u64::MAX)),
            until => Ok(if self.is_world_readable(room_id).await? { Some(u64::MAX) } else { until }),
        }
    }

    /// Returns the state that a user may read: the current one, or that of when it left; `None` if it never was there, unless everybody
    /// may.
    pub(super) async fn readable_state(&self, room_id: &RoomId, user: &UserId) -> Result<Option<StateMap>, RoomsError> {
        let has_forgotten = self.0.members().has_forgotten(user, room_id);
        let readable = |loaded: &LoadedRoom| readable_state(&loaded.room, user).map(|state| state.map().clone());
        let state = self.read(room_id, readable).await?.filter(|_| !has_forgotten);
        if state.is_none() && self.is_world_readable(room_id).await? {
            return self.read(room_id, |loaded| Some(loaded.room.current_state().map().clone())).await;
        }
        Ok(state)
    }

    /// Whether everybody may read a room, by its current state.
    ///
    /// # Errors
    ///
    /// `NoSuchRoom`, and when the log can't be read.
    pub async fn is_world_readable(&self, room_id: &RoomId) -> Result<bool, RoomsError> {
        let event = |loaded: &LoadedRoom| loaded.room.current_state().get(event_type::HISTORY_VISIBILITY, "");
        match self.read(room_id, event).await? {
            Some(event_id) => Ok(self.visibility_of(room_id, &event_id).await? == Visibility::WorldReadable),
            None => Ok(false),
        }
    }

    /// Returns what an `m.room.history_visibility` says.
    pub(crate) async fn visibility_of(&self, room_id: &RoomId, event_id: &EventId) -> Result<Visibility, RoomsError> {
        let event = self.0.log.logged_event(room_id, event_id).await?;
        let text = event.and_then(|event| text_in_content(&event.json?, "history_visibility"));
        Ok(text.as_deref().map_or(Visibility::default(), Visibility::parse))
    }

    /// Returns the accepted event that is nearest to a time in milliseconds, at it or after it (or, backward, before it), with its own time.
    ///
    /// # Errors
    ///
    /// `NoSuchRoom`, and when the log can't be read.
    pub(crate) async fn nearest(
        &self,
        room_id: &RoomId,
        ts_ms: i64,
        backward: bool,
    ) -> Result<Option<(EventId, i64)>, RoomsError> {
        self.read(room_id, |loaded| loaded.indexes.times.nearest(&loaded.room, ts_ms, backward)).await
    }

    /// Returns events as clients get them, whoever asks; those that are not here, or were purged, are left out.
    pub(crate) async fn events_by_id(
        &self,
        room_id: &RoomId,
        ids: impl IntoIterator<Item = EventId>,
    ) -> Result<Vec<ClientEvent>, RoomsError> {
        let events = self.0.log.logged_events_of(room_id, &ids.into_iter().collect::<Vec<_>>()).await?;
        self.as_clients_get_them(room_id, events).await
    }

    async fn as_clients_get_them(
        &self,
        room_id: &RoomId,
        events: Vec<LoggedEvent>,
    ) -> Result<Vec<ClientEvent>, RoomsError> {
        self.read(room_id, |loaded| events.iter().filter_map(|event| loaded.client_event(event)).collect()).await
    }
}

impl LoadedRoom {
    /// Returns a user's member event in the current state.
    pub(super) fn member(&self, user: &UserId) -> Option<&Event> {
        let event_id = self.room.current_state().get(event_type::MEMBER, user.as_str())?;
        Some(self.room.state_event(&event_id)?)
    }

    /// Returns the member events of those who have joined, in the current state.
    pub(super) fn joined(&self) -> Vec<EventId> {
        let members = self.room.current_state().iter().filter(|(key, _)| *key.event_type == *event_type::MEMBER);
        let is_join = |id: &EventId| self.room.event(id).and_then(|event| event.membership()) == Some(Membership::Join);
        members.map(|(_, id)| id).filter(is_join).collect()
    }

    /// `None` if its content was purged, and for redactions without effect.
    fn client_event(&self, event: &LoggedEvent) -> Option<ClientEvent> {
        let LoggedEvent { sequence, event_id, json, .. } = event;
        if self.is_withheld(event_id) {
            return None;
        }
        let mut json = Cow::from(json.as_deref()?);
        let redaction = self.indexes.redaction_of(&self.room, event_id);
        if redaction.is_some() {
            let pdu = VerifiedPdu::restore(&json, self.room.rules(), None, true).ok()?;
            json = pdu.redacted_json().ok()?.into();
        }
        let Ok(Value::Object(mut fields)) = serde_json::from_slice(&json) else { return None };
        fields.retain(|field, _| CLIENT_FIELDS.contains(&field.as_str()));
        fields.insert("event_id".to_owned(), event_id.as_str().into());
        fields.insert("room_id".to_owned(), self.room.room_id().as_str().into());
        if fields.get("type").and_then(Value::as_str) == Some("m.room.redaction") {
            show_target(&mut fields);
        }
        if let Some(redaction) = redaction {
            let unsigned = Map::from_iter([("redacted_by".to_owned(), Value::from(redaction.as_str()))]);
            fields.insert("unsigned".to_owned(), unsigned.into());
        }
        Some(ClientEvent { sequence: *sequence, event_id: event_id.clone(), json: fields })
    }

    /// Whether an event is a redaction that takes no effect, so far or for ever: "If the redaction event is received before the event it
    /// redacts", or that is not here at all, or if its sender may not redact it, clients are not told of it.
    ///
    /// Source: room version 3, "Handling redactions".
    fn is_withheld(&self, event_id: &EventId) -> bool {
        let is_checked_later = !self.room.rules().redaction_auth_rule;
        let target = self.room.event(event_id).and_then(|event| super::target(&event));
        is_checked_later && target.is_some_and(|target| !self.room.redacts(event_id, &target))
    }
}

/// Puts what a redaction names where old and where new clients look for it, whatever the room version.
///
/// Source: room version 11, "Moving the `redacts` property of `m.room.redaction` events to a `content` property".
fn show_target(redaction: &mut Map<String, Value>) {
    let at_top = redaction.get("redacts").cloned();
    let Some(Value::Object(content)) = redaction.get_mut("content") else { return };
    let Some(redacts) = content.get("redacts").cloned().or(at_top) else { return };
    content.insert("redacts".to_owned(), redacts.clone());
    redaction.insert("redacts".to_owned(), redacts);
}

/// What of the state around an event decides whether a user may see it.
struct VisibilityFacts {
    /// The events that say who may read history, before and after it.
    visibilities: [Option<EventId>; 2],
    /// The better membership of both.
    membership: Option<Membership>,
}

impl VisibilityFacts {
    /// "For `m.room.history_visibility` events themselves, the user should be allowed to see the event if the `history_visibility` before
    /// or after the event would allow them to see it. [...] Likewise, for the user's own `m.room.member` events" (client-server API,
    /// "Room History Visibility"). Of other events both are the same.
    fn of(room: &Room, user: &UserId, event_id: &EventId) -> Option<Self> {
        let (before, after) = (room.state_before(event_id)?, room.state_after(event_id)?);
        let memberships = [before, after].map(|state| membership_in(room, state, user));
        let membership = memberships.into_iter().flatten().min_by_key(|membership| match membership {
            Membership::Join => 0,
            Membership::Invite => 1,
            _ => 2,
        });
        let visibilities = [before, after].map(|state| state.get(event_type::HISTORY_VISIBILITY, ""));
        Some(Self { visibilities, membership })
    }
}

/// Until when a user is or was in a room.
enum Left {
    Never,
    Is,
    At(EventId),
}

fn left_at(room: &Room, user: &UserId) -> Left {
    let Some(member) = room.current_state().get(event_type::MEMBER, user.as_str()) else { return Left::Never };
    match room.event(&member).and_then(|event| event.membership()) {
        Some(Membership::Join) => Left::Is,
        Some(Membership::Leave | Membership::Ban) if was_joined_before(room, user, &member) => Left::At(member),
        _ => Left::Never,
    }
}

fn was_joined_before(room: &Room, user: &UserId, member: &EventId) -> bool {
    room.state_before(member).and_then(|state| membership_in(room, state, user)) == Some(Membership::Join)
}

fn membership_in(room: &Room, state: State<'_>, user: &UserId) -> Option<Membership> {
    room.event(&state.get(event_type::MEMBER, user.as_str())?)?.membership()
}

/// Returns a string in the content of an event.
pub(super) fn text_in_content(json: &[u8], field: &str) -> Option<String> {
    let object = parse_object(json, JsonMode::ByteExact).ok()?;
    Some(get_str(get_object(&object, "content")?, field)?.to_owned())
}

/// Returns the state that a user may read: the current one, or that of when it left; `None` if it never was there, or was banned.
fn readable_state<'r>(room: &'r Room, user: &UserId) -> Option<State<'r>> {
    match left_at(room, user) {
        Left::Is => Some(room.current_state()),
        // Who was banned is shown no state, as on other servers.
        Left::At(event_id) if room.event(&event_id)?.membership() == Some(Membership::Ban) => None,
        Left::At(event_id) => room.state_after(&event_id),
        Left::Never => None,
    }
}

/// What clients get of an event.
pub(super) const CLIENT_FIELDS: [&str; 6] = ["content", "origin_server_ts", "redacts", "sender", "state_key", "type"];
