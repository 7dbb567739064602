//! What follows a room to its replacement, once a user of this server is there.

use ravel_core::{
    canonical_json::{get_object, get_str},
    event::event_type,
    id::{RoomId, UserId},
};
use serde_json::{Map, Value};

use super::{TOMBSTONE, UpgradeError};
use crate::homeserver::Homeserver;

/// Account data that names the rooms that are chats with one other user.
const DIRECT: &str = "m.direct";
/// Account data of a room with its tags.
const TAGS: &str = "m.tag";

impl Homeserver {
    /// If a room that a user has joined replaces another one that is here, gives it what that had here: aliases, the place in the list
    /// of rooms, and of the user's account data the tags, and that it is a chat with one other user.
    ///
    /// Both rooms have to name each other: who makes a room can say of it that it replaces any other.
    ///
    /// # Errors
    ///
    /// When the log can't be read or written.
    pub(crate) async fn follow_upgrade(&self, user: &UserId, new: &RoomId) -> Result<(), UpgradeError> {
        let create = self.rooms.state_content(new, event_type::CREATE, "").await?.unwrap_or_default();
        let old = get_object(&create, "predecessor").and_then(|old| get_str(old, "room_id"));
        let Some(old) = old.and_then(|old| RoomId::parse(old).ok()).filter(|old| self.rooms.is_known(old)) else {
            return Ok(());
        };
        let tombstone = self.rooms.state_content(&old, TOMBSTONE, "").await?.unwrap_or_default();
        if get_str(&tombstone, "replacement_room") != Some(new.as_str()) {
            return Ok(());
        }
        self.directory.move_aliases(&old, new).await?;
        if self.directory.is_published(&old).await? {
            self.directory.publish(new, true).await?;
            self.directory.publish(&old, false).await?;
        }
        if let Some(Value::Object(tags)) = self.account_data.get(user, Some(&old), TAGS).await?
            && self.account_data.get(user, Some(new), TAGS).await?.is_none()
        {
            self.account_data.set(user, Some(new), TAGS, tags).await?;
        }
        if self.account_data.get(user, None, DIRECT).await?.is_some() {
            self.account_data.update(user, None, DIRECT, |chats| with_successor(chats, &old, new)).await?;
        }
        Ok(())
    }
}

/// Adds a room to the chats of each user with whom its predecessor is one.
fn with_successor(mut chats: Map<String, Value>, old: &RoomId, new: &RoomId) -> Map<String, Value> {
    for rooms in chats.values_mut().filter_map(Value::as_array_mut) {
        let has = |rooms: &[Value], room_id: &RoomId| rooms.iter().any(|room| room.as_str() == Some(room_id.as_str()));
        if has(rooms, old) && !has(rooms, new) {
            rooms.push(new.as_str().into());
        }
    }
    chats
}
