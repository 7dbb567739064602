//! Rooms that this server comes into by the help of another one.

use std::sync::Arc;

use ravel_core::room::{PersistEvent, Room};
use ravel_store::Durability;

use super::{LoadedRoom, Rooms, RoomsError, members::local_members};

impl Rooms {
    /// Takes over a room that was judged from its first event on, with what is to be stored of it; returns whether it was not here
    /// before. If it was, nothing happens.
    ///
    /// If that ends in the midst, the log has some of its events and the room has no state.
    ///
    /// # Errors
    ///
    /// When the log can't be written.
    pub(crate) async fn take_over(&self, room: Room, events: Vec<PersistEvent>) -> Result<bool, RoomsError> {
        let inner = Arc::clone(&self.0);
        let taken = tokio::spawn(async move {
            let room_id = room.room_id().clone();
            let open = inner.open_room(&room_id);
            let mut slot = open.room.write().await;
            if slot.is_some() || inner.log.room_number(&room_id)?.is_some() {
                return Ok(false);
            }
            let _under_way = inner.progress.begin(|| inner.log.len());
            let stored = inner.log.append(&room_id, room.rules(), &events, Durability::Sync).await;
            if let Err(error) = stored {
                inner.forget(&room_id, &open);
                return Err(error.into());
            }
            drop(events);
            let members = local_members(&room, &inner.server_name);
            inner.members().change(&room, &members, inner.log.len());
            *slot = Some(LoadedRoom::new(room));
            Ok(true)
        });
        taken.await.map_err(|_| RoomsError::Panicked)?
    }
}
