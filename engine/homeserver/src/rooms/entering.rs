//! Rooms that this server comes into by the help of another one.

use std::{slice, sync::Arc};

use ravel_core::{
    event::StateKey,
    room::{PersistEvent, Room},
};
use ravel_store::{Durability, log::LogError};

use super::{Inner, LoadedRoom, Rooms, RoomsError, members::local_members};
use crate::parallel::in_background;

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
            let open = inner.open.place(&room_id);
            let mut slot = open.room.write().await;
            if slot.is_some() || inner.log.room_number(&room_id)?.is_some() {
                return Ok(false);
            }
            let server_name = inner.server_name.clone();
            let loaded = in_background(move || (local_members(&room, &server_name), LoadedRoom::new(room))).await;
            let (members, loaded) = loaded.ok_or(RoomsError::Panicked)?;
            if let Err(error) = inner.append_new(&loaded.room, &events, &members).await {
                inner.open.forget(&room_id, &open);
                return Err(error.into());
            }
            inner.open.note_events(loaded.room.in_memory());
            *slot = Some(loaded);
            Ok(true)
        });
        taken.await.map_err(|_| RoomsError::Panicked)?
    }
}

impl Inner {
    /// Appends the events of a room that nobody knows of yet; the last one lets somebody in.
    async fn append_new(&self, room: &Room, events: &[PersistEvent], members: &[StateKey]) -> Result<(), LogError> {
        let Some((entry, before)) = events.split_last() else { return Ok(()) };
        // What comes before the entry is news to nobody, so that nobody's news has to wait for it.
        self.log.append(room.room_id(), room.rules(), before, Durability::Relaxed).await?;
        let _under_way = self.progress.begin(|| self.log.len());
        self.log.append(room.room_id(), room.rules(), slice::from_ref(entry), Durability::Sync).await?;
        self.members().change(room, members, self.log.len());
        Ok(())
    }
}
