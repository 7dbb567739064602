//! Messages that were put aside: they are put back for who looks at them, and before a change that asks for them.

use std::collections::BTreeSet;

use ravel_core::{id::EventId, room::PersistEvent};

use super::{Inner, LoadedRoom, RoomsError};

/// How often a room is looked at once more, since something was missed. Each time brings what is near that.
const LOOKS_MAX: usize = 1000;

impl Inner {
    /// Looks at the room in `slot` until nothing is missed.
    pub(super) async fn look_again<T>(
        &self,
        slot: &mut Option<LoadedRoom>,
        look: impl Fn(&LoadedRoom) -> T,
    ) -> Result<T, RoomsError> {
        if let Some(loaded) = slot {
            loaded.room.graph().missed(std::mem::take);
            loaded.indexes.tidy(&mut loaded.room)?;
        }
        for _ in 0..LOOKS_MAX {
            let looked = look(slot.as_ref().ok_or(RoomsError::NoSuchRoom)?);
            if !self.put_back(slot).await? {
                return Ok(looked);
            }
        }
        Err(RoomsError::Aside)
    }

    /// Puts back which of some events were put aside; returns those that the room in `slot` does not have, none if nothing was put aside.
    pub(super) async fn bring(
        &self,
        slot: &mut Option<LoadedRoom>,
        event_ids: Vec<EventId>,
    ) -> Result<BTreeSet<EventId>, RoomsError> {
        let Some(LoadedRoom { room, .. }) = slot.as_ref().filter(|loaded| loaded.room.graph().aside() > 0) else {
            return Ok(BTreeSet::new());
        };
        room.graph().missed(std::mem::take);
        let mut away: BTreeSet<EventId> = event_ids.into_iter().filter(|event_id| !room.has(event_id)).collect();
        self.put_back(slot).await?;
        if let Some(LoadedRoom { room, .. }) = slot {
            away.retain(|event_id| !room.has(event_id));
            room.graph().missed(std::mem::take);
        }
        Ok(away)
    }

    /// Makes sure that a change had all of the room in `slot` that it asked for. The events of `unknown` are not there, nor are those that
    /// it made.
    pub(super) async fn check_missed(
        &self,
        slot: &mut Option<LoadedRoom>,
        unknown: &BTreeSet<EventId>,
        made: &[PersistEvent],
    ) -> Result<(), RoomsError> {
        let is_made = |event_id: &EventId| made.iter().any(|made| made.event.event_id == *event_id);
        if let Some(loaded) = slot {
            loaded.room.graph().missed(|missed| {
                missed.event_ids.retain(|event_id| !unknown.contains(event_id) && !is_made(event_id));
            });
        }
        if self.put_back(slot).await? {
            *slot = None;
            return Err(RoomsError::Aside);
        }
        Ok(())
    }

    /// Puts back what was missed of the room in `slot`; returns whether there was something. After an error the room is to be loaded again:
    /// it may have been purged.
    async fn put_back(&self, slot: &mut Option<LoadedRoom>) -> Result<bool, RoomsError> {
        let Some(LoadedRoom { room, .. }) = slot else { return Ok(false) };
        let missed = room.graph().missed(std::mem::take);
        if missed.is_empty() {
            return Ok(false);
        }
        let before = room.in_memory();
        match self.log.put_back(room, &missed).await {
            Ok(unknown) => {
                self.open.note_events(room.in_memory().saturating_sub(before));
                Ok(unknown != missed)
            }
            Err(error) => {
                *slot = None;
                Err(error.into())
            }
        }
    }
}
