//! Who is in a room, and under what name.

use ravel_core::{
    canonical_json::CanonicalJsonObject,
    event::{Event, Membership, event_type},
    id::{RoomId, UserId},
};

use super::{ClientEvent, LoadedRoom, MembershipChange, Rooms, RoomsError};

impl Rooms {
    /// Returns the member events of the state that [`state`](Self::state) returns; with `at`, of the state at that place in the log.
    ///
    /// # Errors
    ///
    /// `NoSuchRoom`, `NotInRoom`.
    pub async fn members(
        &self,
        room_id: &RoomId,
        user: &UserId,
        at: Option<u64>,
    ) -> Result<Vec<ClientEvent>, RoomsError> {
        let mut state = self.readable_state(room_id, user).await?.ok_or(RoomsError::NotInRoom)?;
        if let Some(at) = at {
            // Who has left does not see what came later.
            let until = self.readable_until(room_id, user).await?.map_or(0, |until| until.saturating_add(1));
            if let Some(event_id) = self.event_before(room_id, at.min(until)).await? {
                let after = |loaded: &LoadedRoom| Some(loaded.room.state_after(&event_id)?.map().clone());
                state = self.read(room_id, after).await?.unwrap_or(state);
            }
        }
        let entries = self.read(room_id, |loaded| loaded.room.state(&state).sorted_entries()).await?;
        let members = entries.into_iter().filter(|(key, _)| *key.event_type == *event_type::MEMBER);
        self.events_by_id(room_id, members.map(|(_, id)| id)).await
    }

    /// Returns the member events of those who have joined a room, for one of them.
    ///
    /// # Errors
    ///
    /// `NoSuchRoom`, `NotInRoom`.
    pub async fn joined_members(&self, room_id: &RoomId, user: &UserId) -> Result<Vec<ClientEvent>, RoomsError> {
        let ids = self.read(room_id, |loaded| {
            let has_joined = loaded.member(user).and_then(Event::membership) == Some(Membership::Join);
            has_joined.then(|| loaded.joined())
        });
        let ids = ids.await?.ok_or(RoomsError::NotInRoom)?;
        self.events_by_id(room_id, ids).await
    }

    /// Tells the rooms that a user has joined what its name and avatar are now.
    ///
    /// "an `m.room.member` event (with a `join` membership) is sent to every room the user is a member of, to update the `displayname`
    /// and `avatar_url`" (client-server API, "Events on Change of Profile Information").
    ///
    /// A room that does not take it keeps the old ones. Costs a commit for each room.
    ///
    /// # Errors
    ///
    /// When the log can't be read or written.
    pub async fn update_profile(&self, user: &UserId, content: &CanonicalJsonObject) -> Result<(), RoomsError> {
        for room_id in self.joined_rooms(user) {
            let change =
                MembershipChange { target: user.clone(), membership: Membership::Join, content: content.clone() };
            match self.change_membership(&room_id, user, change).await {
                Ok(_)
                | Err(
                    RoomsError::Refused(_) | RoomsError::Policy(_) | RoomsError::NotAccepted | RoomsError::NoSuchRoom,
                ) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}
