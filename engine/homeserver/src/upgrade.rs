//! Replacing a room by one of another version.
//!
//! Source: client-server API, "Room Upgrades".

mod following;

use ravel_core::{
    canonical_json::{CanonicalJsonObject, CanonicalJsonValue, get_i64, get_object},
    event::{Membership, event_type},
    id::{EventId, RoomId, UserId},
    room_version::RoomVersion,
};

use crate::{
    account_data::AccountDataError,
    directory::DirectoryError,
    homeserver::Homeserver,
    profiles::ProfileError,
    rooms::{CreateRoom, Preset, Rooms, RoomsError, SendEvent},
};

/// Why a room is not replaced.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum UpgradeError {
    #[error(transparent)]
    Rooms(#[from] RoomsError),
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    #[error(transparent)]
    AccountData(#[from] AccountDataError),
    #[error(transparent)]
    Profile(#[from] ProfileError),
}

const TOMBSTONE: &str = "m.room.tombstone";
const CANONICAL_ALIAS: &str = "m.room.canonical_alias";

/// "Replicates transferable state events to the new room": those of the specification's list, and what describes the room.
const TRANSFERRED: [&str; 9] = [
    "m.room.server_acl",
    "m.room.encryption",
    "m.room.name",
    "m.room.avatar",
    "m.room.topic",
    "m.room.guest_access",
    event_type::HISTORY_VISIBILITY,
    event_type::JOIN_RULES,
    CANONICAL_ALIAS,
];

/// Fields of a create event that are the new room's own.
const NOT_TRANSFERRED: [&str; 4] = ["additional_creators", "creator", "predecessor", "room_version"];

impl Homeserver {
    /// Replaces a room by a new one of another version, and returns its id: what describes the room, who is banned and the power
    /// levels go with it, as do aliases of this server and its place in the list of rooms. In the old room nobody without power can
    /// speak any more.
    ///
    /// `creators` have the power of creators in the new room, from version 12 on.
    ///
    /// Source: client-server API, "POST /_matrix/client/v3/rooms/{roomId}/upgrade", "Server behaviour".
    ///
    /// # Errors
    ///
    /// `Refused` if the user may not end the old room; nothing is done then. After another error the old room may have ended.
    pub async fn upgrade_room(
        &self,
        user: &UserId,
        old: &RoomId,
        version: RoomVersion,
        creators: &[UserId],
    ) -> Result<RoomId, UpgradeError> {
        let rooms = &self.rooms;
        let member_content = self.profiles.member_content(user).await?;
        // 1. "Checks that the user has permission to send `m.room.tombstone` events in the room."
        rooms.check_event(old, user, &tombstone(old)).await?;
        let power_levels = rooms.state_content(old, event_type::POWER_LEVELS, "").await?.unwrap_or_default();
        let mut wanted = self.replacement(user, old, version, creators, &power_levels).await?;
        wanted.member_content = member_content;
        // 2. to 5. The new room names the event by which the old one ends, unless its id depends on what it names.
        let has_free_id = !version.rules().room_id_is_create_hash;
        let (new, _) = if has_free_id {
            let new = rooms.new_room_id()?;
            let end = rooms.send(old, user, tombstone(&new)).await?;
            wanted.creation_content.insert("predecessor".into(), predecessor(old, Some(&end)).into());
            (rooms.create_as(user, wanted, Some(&new)).await?, end)
        } else {
            wanted.creation_content.insert("predecessor".into(), predecessor(old, None).into());
            let new = rooms.create(user, wanted).await?;
            let end = rooms.send(old, user, tombstone(&new)).await?;
            (new, end)
        };
        self.follow_upgrade(user, &new).await?;
        // 6. What the user may not do any more is left as it is.
        if rooms.state_content(old, CANONICAL_ALIAS, "").await?.is_some_and(|content| !content.is_empty()) {
            may_be_refused(rooms.send(old, user, state(CANONICAL_ALIAS, CanonicalJsonObject::new())).await)?;
        }
        let closed = closed(&power_levels);
        if closed != power_levels {
            may_be_refused(rooms.send(old, user, state(event_type::POWER_LEVELS, closed)).await)?;
        }
        Ok(new)
    }

    async fn replacement(
        &self,
        user: &UserId,
        old: &RoomId,
        version: RoomVersion,
        creators: &[UserId],
        power_levels: &CanonicalJsonObject,
    ) -> Result<CreateRoom, UpgradeError> {
        let rooms = &self.rooms;
        let rules = version.rules();
        let mut creation_content = rooms.state_content(old, event_type::CREATE, "").await?.unwrap_or_default();
        creation_content.retain(|field, _| !NOT_TRANSFERRED.contains(&&**field));
        let mut power_levels = power_levels.clone();
        if rules.creators_have_infinite_power {
            if !creators.is_empty() {
                let ids: Vec<CanonicalJsonValue> = creators.iter().map(|user| user.as_str().into()).collect();
                creation_content.insert("additional_creators".into(), ids.into());
            }
            // Creators must not be named there.
            let mut users = get_object(&power_levels, "users").cloned().unwrap_or_default();
            users.retain(|id, _| **id != *user.as_str() && !creators.iter().any(|creator| creator.as_str() == &**id));
            power_levels.insert("users".into(), users.into());
        }
        let mut initial_state = Vec::new();
        for event_type in TRANSFERRED {
            let content = rooms.state_content(old, event_type, "").await?;
            initial_state.extend(content.map(|content| state(event_type, content)));
        }
        initial_state.extend(rooms.kept_by_key(old).await?);
        // For a while the user has all the power that it takes to say who has how much.
        let mut power_level_content_override = CanonicalJsonObject::new();
        if !rules.creators_have_infinite_power {
            let all = CanonicalJsonValue::Integer(greatest(&power_levels).max(100));
            let users = CanonicalJsonObject::from([(user.as_str().into(), all)]);
            power_level_content_override.insert("users".into(), users.into());
        }
        initial_state.push(state(event_type::POWER_LEVELS, power_levels));
        Ok(CreateRoom {
            room_version: version,
            preset: Preset::PrivateChat,
            creation_content,
            power_level_content_override,
            initial_state,
            name: None,
            topic: None,
            invite: Vec::new(),
            is_direct: false,
            member_content: CanonicalJsonObject::new(),
        })
    }
}

impl Rooms {
    /// Returns who is banned from a room, and the children of a space, as events for its replacement.
    async fn kept_by_key(&self, room_id: &RoomId) -> Result<Vec<SendEvent>, RoomsError> {
        let ids = self.look(room_id, |room| {
            let is_banned = |id: &EventId| room.event(id).and_then(|event| event.membership()) == Some(Membership::Ban);
            let entries = room.current_state().iter();
            let kept = entries.filter(|(key, id)| match &*key.event_type {
                event_type::MEMBER => is_banned(id),
                "m.space.child" => true,
                _ => false,
            });
            kept.map(|(key, _)| key).collect::<Vec<_>>()
        });
        let mut events = Vec::new();
        for key in ids.await? {
            if let Some(content) = self.state_content(room_id, &key.event_type, &key.state_key).await? {
                let (event_type, state_key) = (key.event_type.to_string(), Some(key.state_key.to_string()));
                events.push(SendEvent { event_type, state_key, content, redacts: None });
            }
        }
        Ok(events)
    }
}

fn may_be_refused(sent: Result<EventId, RoomsError>) -> Result<(), RoomsError> {
    match sent {
        Ok(_) | Err(RoomsError::Refused(_) | RoomsError::Policy(_) | RoomsError::NotAccepted) => Ok(()),
        Err(error) => Err(error),
    }
}

fn state(event_type: &str, content: CanonicalJsonObject) -> SendEvent {
    SendEvent { event_type: event_type.to_owned(), state_key: Some(String::new()), content, redacts: None }
}

fn tombstone(replacement: &RoomId) -> SendEvent {
    let body = ("body".into(), "This room has been replaced".into());
    let content = CanonicalJsonObject::from([body, ("replacement_room".into(), replacement.as_str().into())]);
    state(TOMBSTONE, content)
}

fn predecessor(old: &RoomId, end: Option<&EventId>) -> CanonicalJsonObject {
    let event_id = end.map(|end| ("event_id".into(), end.as_str().into()));
    [("room_id".into(), old.as_str().into())].into_iter().chain(event_id).collect()
}

/// "it is recommended to set `events_default` and `invite` to the greater of `50` and `users_default + 1`", if they are less.
fn closed(power_levels: &CanonicalJsonObject) -> CanonicalJsonObject {
    let level = get_i64(power_levels, "users_default").unwrap_or(0).saturating_add(1).max(50);
    let mut closed = power_levels.clone();
    for field in ["events_default", "invite"] {
        if get_i64(power_levels, field).unwrap_or(0) < level {
            closed.insert(field.into(), CanonicalJsonValue::Integer(level));
        }
    }
    closed
}

/// Returns the greatest number in power levels.
fn greatest(power_levels: &CanonicalJsonObject) -> i64 {
    let number = |value: &CanonicalJsonValue| value.as_i64();
    let inside =
        |value: &CanonicalJsonValue| value.as_object().and_then(|object| object.values().filter_map(number).max());
    power_levels.values().filter_map(|value| number(value).or_else(|| inside(value))).max().unwrap_or(0)
}

#[cfg(test)]
mod tests;
