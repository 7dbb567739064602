//! The rooms in memory, and the places for those that are not.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use ravel_core::id::RoomId;

use super::LoadedRoom;

/// Rooms are put aside, to be loaded again when they are needed, once there are more events in memory than this: about a gigabyte. (Few
/// in this crate's tests.)
pub(super) const EVENTS_MAX: usize = if cfg!(test) { 200 } else { 1_000_000 };

/// A room in memory, or the place for it.
#[derive(Default)]
pub(super) struct OpenRoom {
    /// Nothing until it is loaded, and after an error.
    pub(super) room: tokio::sync::RwLock<Option<LoadedRoom>>,
    /// The higher, the later.
    used: AtomicU64,
}

/// The places of all rooms. There is one for each, as long as somebody has it or the room is in memory.
#[derive(Default)]
pub(super) struct OpenRooms {
    places: Mutex<HashMap<RoomId, Arc<OpenRoom>>>,
    uses: AtomicU64,
    /// About how many events the rooms in memory have.
    events: AtomicUsize,
}

impl OpenRooms {
    /// Returns the place of a room.
    pub(super) fn place(&self, room_id: &RoomId) -> Arc<OpenRoom> {
        let place = Arc::clone(self.places().entry(room_id.clone()).or_default());
        place.used.store(self.uses.fetch_add(1, Ordering::Relaxed), Ordering::Relaxed);
        place
    }

    /// Returns the places that there are.
    pub(super) fn all(&self) -> Vec<Arc<OpenRoom>> {
        self.places().values().cloned().collect()
    }

    /// Takes the place of a room that is not there away; not while others have it.
    pub(super) fn forget(&self, room_id: &RoomId, place: &Arc<OpenRoom>) {
        const MAP_AND_CALLER: usize = 2;
        let mut places = self.places();
        if Arc::strong_count(place) == MAP_AND_CALLER {
            places.remove(room_id);
        }
    }

    /// Takes note of events that came into memory. If there are too many, rooms that nobody has and that were not used for longest are
    /// put aside, until half is left.
    pub(super) fn note_events(&self, count: usize) {
        if self.events.fetch_add(count, Ordering::Relaxed).saturating_add(count) > EVENTS_MAX {
            self.put_aside();
        }
    }

    fn put_aside(&self) {
        let mut places = self.places();
        let mut events = 0;
        let mut idle = Vec::new();
        for (room_id, place) in places.iter() {
            // A room that is written to right now stays, and is not counted.
            let len = place.room.try_read().map_or(0, |room| room.as_ref().map_or(0, |loaded| loaded.room.in_memory()));
            events += len;
            // Places are given out from here only: nobody has one that is only here.
            if Arc::strong_count(place) == 1 {
                idle.push((place.used.load(Ordering::Relaxed), room_id.clone(), len));
            }
        }
        idle.sort_unstable();
        let mut aside = Vec::new();
        for (_, room_id, len) in idle {
            if events <= EVENTS_MAX / 2 {
                break;
            }
            events -= len;
            aside.extend(places.remove(&room_id));
        }
        self.events.store(events, Ordering::Relaxed);
        drop(places);
        // It takes its time.
        drop(aside);
    }

    fn places(&self) -> MutexGuard<'_, HashMap<RoomId, Arc<OpenRoom>>> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
