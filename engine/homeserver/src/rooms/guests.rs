//! Guests in rooms.
//!
//! Source: client-server API, "Guest Access".

use std::time::Duration;

use futures_util::future::BoxFuture;
use ravel_core::{
    canonical_json::CanonicalJsonObject,
    event::Membership,
    id::{EventId, RoomId, UserId},
};

use super::{Inner, LoadedRoom, MembershipChange, Rooms, RoomsError, read::text_in_content};
use crate::{accounts, fact_kind};

/// When it is tried again to make guests leave whose leaves were not signed.
const EXPEL_AGAIN_AFTER: [Duration; 3] =
    [Duration::from_secs(30), Duration::from_secs(600), Duration::from_secs(7_200)];

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

    /// Makes the guests of this server leave a room if it does not let them in any more.
    ///
    /// They have left when this returns; but if the room uses a policy server, which has to sign that, it goes on by itself.
    ///
    /// "If the `m.room.guest_access` event is changed to stop this from being the case, the server MUST set those users'
    /// `m.room.member` state to `leave`."
    pub(super) fn close_to_guests(self, room_id: RoomId) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            let has_policy_server = self.policy_server(&room_id).await.is_ok_and(|server| server.is_some());
            if has_policy_server {
                tokio::spawn(async move { self.expel_guests_insistently(&room_id).await });
            } else {
                self.expel_guests(&room_id).await;
            }
        })
    }

    async fn expel_guests_insistently(&self, room_id: &RoomId) {
        for pause in EXPEL_AGAIN_AFTER {
            if self.expel_guests(room_id).await {
                return;
            }
            self.0.clock.sleep(pause).await;
        }
        self.expel_guests(room_id).await;
    }

    /// Returns whether no guest stays that may not.
    async fn expel_guests(&self, room_id: &RoomId) -> bool {
        let expelled = self.try_to_expel_guests(room_id).await;
        if let Err(error) = &expelled {
            tracing::error!(%room_id, %error, "a room is closed to guests, and some stay in it");
        }
        expelled.is_ok()
    }

    /// Makes all guests leave that can; returns why others stay.
    async fn try_to_expel_guests(&self, room_id: &RoomId) -> Result<(), RoomsError> {
        if self.guests_can_join(room_id).await? {
            return Ok(());
        }
        let joined = self.0.members().joined(room_id);
        let mut left = Ok(());
        for guest in joined {
            if self.is_guest(&guest).await? {
                let (target, content) = (guest.clone(), CanonicalJsonObject::new());
                let leave = MembershipChange { target, membership: Membership::Leave, content };
                left = self.change_membership(room_id, &guest, leave).await.map(drop).and(left);
            }
        }
        left
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
