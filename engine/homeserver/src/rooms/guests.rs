//! Guests in rooms.
//!
//! Source: client-server API, "Guest Access".

use ravel_core::{
    canonical_json::CanonicalJsonObject,
    event::Membership,
    id::{EventId, RoomId, UserId},
};

use super::{Inner, LoadedRoom, MembershipChange, Rooms, RoomsError, read::text_in_content};
use crate::{accounts, fact_kind};

/// The state event that says whether guests may join.
const GUEST_ACCESS: &str = "m.room.guest_access";

impl Rooms {
    /// Whether guests may join a room: "if the `m.room.guest_access` state event is present on the room, and has the `guest_access`
    /// value `can_join`".
    ///
    /// # Errors
    ///
    /// `NoSuchRoom`, and when the log can't be read.
    pub async fn guests_can_join(&self, room_id: &RoomId) -> Result<bool, RoomsError> {
        let event_id = self.read(room_id, guest_access).await?;
        self.0.allows_guests(room_id, event_id).await
    }

    /// Whether a user is a guest of this server.
    ///
    /// # Errors
    ///
    /// When the log can't be read.
    pub async fn is_guest(&self, user: &UserId) -> Result<bool, RoomsError> {
        self.0.is_guest(user).await
    }
}

impl Inner {
    /// Makes the guests of this server leave a room that does not let them in any more.
    ///
    /// "If the `m.room.guest_access` event is changed to stop this from being the case, the server MUST set those users'
    /// `m.room.member` state to `leave`."
    pub(super) async fn expel_guests(&self, slot: &mut Option<LoadedRoom>) -> Result<(), RoomsError> {
        let Some(loaded) = slot else { return Ok(()) };
        let room_id = loaded.room.room_id().clone();
        if self.allows_guests(&room_id, guest_access(loaded)).await? {
            return Ok(());
        }
        let joined = self.members().joined(&room_id);
        for user in joined {
            if self.is_guest(&user).await? {
                let (target, content) = (user.clone(), CanonicalJsonObject::new());
                let leave = MembershipChange { target, membership: Membership::Leave, content };
                self.change_once(slot, |writing| writing.change_membership(&user, leave)).await?;
            }
        }
        Ok(())
    }

    async fn allows_guests(&self, room_id: &RoomId, event_id: Option<EventId>) -> Result<bool, RoomsError> {
        let Some(event_id) = event_id else { return Ok(false) };
        let event = self.log.logged_event(room_id, &event_id).await?;
        let text = event.and_then(|event| text_in_content(&event.json?, "guest_access"));
        Ok(text.as_deref() == Some("can_join"))
    }

    async fn is_guest(&self, user: &UserId) -> Result<bool, RoomsError> {
        if user.server_name() != self.server_name.as_str() {
            return Ok(false);
        }
        let account = self.log.fact(fact_kind::ACCOUNT, user.localpart().as_bytes()).await?;
        let role = account.as_ref().map(accounts::role_of).transpose()?;
        Ok(role == Some(accounts::Role::Guest))
    }
}

/// Returns the event of a room's current state that says whether guests may join.
pub(super) fn guest_access(loaded: &LoadedRoom) -> Option<EventId> {
    loaded.room.current_state().get(GUEST_ACCESS, "")
}
