//! What passes: who is typing, how far users have read, who is there.
//!
//! Receipts are facts of the log, of which a crash may take the newest. Typing and presence are in memory alone.
//!
//! Source: client-server API, "Typing Notifications", "Receipts", "Presence".

mod changes;
mod presence;
mod receipts;
mod telling;
mod typing;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use ravel_core::id::{EventId, RoomId, UserId};
use ravel_store::log::{EventLog, LogError};
use serde_json::{Map, Value};
use tokio::sync::{broadcast, watch};

use self::{changes::Changes, presence::Presences, typing::Typing};
pub use self::{
    presence::{Presence, PresenceState, STATUS_BYTES_MAX},
    receipts::{Receipt, ReceiptKind, THREADS_MAX},
    typing::TYPING_MS_MAX,
};
use crate::{
    clock::Clock,
    record::RecordError,
    rooms::{Rooms, RoomsError},
};

/// Why something that passes is not taken or told.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum EphemeralError {
    #[error(transparent)]
    Log(#[from] LogError),
    #[error(transparent)]
    Record(#[from] RecordError),
    #[error(transparent)]
    Rooms(#[from] RoomsError),
}

/// What a user of this server did that other servers are to be told of.
#[derive(Clone, Debug, PartialEq)]
pub enum LocalEdu {
    /// Began or stopped typing.
    Typing {
        /// Where.
        room_id: RoomId,
        /// Who.
        user_id: UserId,
        /// Began, or goes on.
        typing: bool,
    },
    /// Has read up to some event. Private receipts are not told.
    Receipt {
        /// Where.
        room_id: RoomId,
        /// Who.
        user_id: UserId,
        /// The receipt.
        receipt: Receipt,
    },
    /// Is there, or not.
    Presence {
        /// Who.
        user_id: UserId,
        /// What others are told.
        presence: Presence,
        /// How long ago the user was active.
        last_active_ago_ms: i64,
    },
}

/// What is new for a user, as events.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct EphemeralNews {
    /// Typing and receipts by room.
    pub rooms: BTreeMap<RoomId, Vec<Map<String, Value>>>,
    /// Presence of those who share rooms with the user, and its own.
    pub presence: Vec<Map<String, Value>>,
}

/// What somebody wants to know.
#[derive(Clone, Copy, Debug)]
pub struct EphemeralQuery<'q> {
    /// Who.
    pub user: &'q UserId,
    /// The place that it knows all before; `None` if it knows nothing.
    pub since: Option<u64>,
    /// The place in the log where it was then.
    pub since_log: u64,
    /// The rooms that it has joined, sorted.
    pub joined: &'q [RoomId],
    /// Those among them of which it knows nothing.
    pub new: &'q BTreeSet<RoomId>,
}

/// How many of what users did wait for those who tell other servers.
const LOCAL_EDUS_MAX: usize = 4_096;

/// What passes on a server. Cheap to clone.
#[derive(Clone)]
pub struct Ephemeral(Arc<Inner>);

struct Inner {
    log: Arc<EventLog>,
    rooms: Rooms,
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
    position: watch::Sender<u64>,
    local: broadcast::Sender<LocalEdu>,
}

struct State {
    changes: Changes,
    typing: Typing,
    presences: Presences,
}

impl Ephemeral {
    /// Begins with nobody typing and nobody there, and with the receipts that the log has.
    ///
    /// Places are numbers that begin with the time of day, so that those of an earlier start are before all of this one.
    pub fn new(log: Arc<EventLog>, rooms: Rooms, clock: Arc<dyn Clock>) -> Self {
        let start = u64::try_from(clock.now_ms()).unwrap_or_default();
        let state = State { changes: Changes::new(start), typing: Typing::default(), presences: Presences::default() };
        let (state, position) = (Mutex::new(state), watch::channel(start).0);
        let local = broadcast::channel(LOCAL_EDUS_MAX).0;
        Self(Arc::new(Inner { log, rooms, clock, state, position, local }))
    }

    /// Returns what tells of what users of this server do from now on, for those who tell other servers.
    pub fn local_edus(&self) -> broadcast::Receiver<LocalEdu> {
        self.0.local.subscribe()
    }

    /// Returns what tells the place before which all is known, when it moves on.
    pub(crate) fn subscribe(&self) -> watch::Receiver<u64> {
        self.0.position.subscribe()
    }

    /// Returns what is new for a user.
    ///
    /// Costs in proportion to what is new on the whole server; of rooms that the user knows nothing of, to their receipts.
    ///
    /// # Errors
    ///
    /// When the log can't be read.
    pub async fn news(&self, query: EphemeralQuery<'_>) -> Result<EphemeralNews, EphemeralError> {
        let mut news = EphemeralNews::default();
        let recent = {
            let state = self.state();
            query.since.and_then(|since| state.changes.since(since))
        };
        let knows_all = recent.is_none();
        let recent = recent.unwrap_or_default();
        // Typing: where it changed; where the user knows nothing, if somebody is or was.
        {
            let state = self.state();
            for room_id in query.joined {
                let is_new = knows_all || query.new.contains(room_id);
                let has_changed = recent.typing.contains(room_id);
                if !is_new && !has_changed {
                    continue;
                }
                // Where somebody was typing, it is told that nobody is: who asks anew may have been told of it before.
                if let Some(typing) = state.typing.in_room(room_id) {
                    news.rooms.entry(room_id.clone()).or_default().push(typing::event(&typing));
                }
            }
        }
        let of_old = if knows_all { query.joined.iter().collect() } else { query.new.iter().collect::<Vec<_>>() };
        let mut receipts = recent.receipts;
        receipts.retain(|room_id, _| query.joined.binary_search(room_id).is_ok());
        for room_id in of_old {
            let from = if query.new.contains(room_id) || query.since.is_none() { 0 } else { query.since_log };
            receipts.insert(room_id.clone(), self.stored_receipts(room_id, from).await?);
        }
        for (room_id, receipts) in receipts {
            if let Some(event) = receipts::event(&receipts, query.user) {
                news.rooms.entry(room_id).or_default().push(event);
            }
        }
        news.presence = self.presence_news(query, knows_all, &recent.presence).await?;
        Ok(news)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes those who wait, after a change of the state.
    fn wake(&self, state: &State) {
        self.0.position.send_replace(state.changes.next());
    }

    fn tell(&self, edu: LocalEdu) {
        // Nobody may be there to tell other servers.
        let _ = self.0.local.send(edu);
    }

    fn is_ours(&self, user: &UserId) -> bool {
        user.server_name() == self.0.rooms.server_name().as_str()
    }
}

/// Makes an event of a type and its content.
fn event_of(event_type: &str, content: Value) -> Map<String, Value> {
    Map::from_iter([("type".to_owned(), event_type.into()), ("content".to_owned(), content)])
}

/// The threads that a receipt can be of, in keys: no thread, the main one, or that of an event.
fn thread_text(thread: Option<&str>) -> &str {
    thread.unwrap_or_default()
}

/// Whether an event comes before another one in the order of a room's timeline; not if one of them has no place there.
async fn is_before(rooms: &Rooms, room_id: &RoomId, event: &EventId, other: &EventId) -> Result<bool, RoomsError> {
    let (event, other) = (rooms.place_of(room_id, event).await?, rooms.place_of(room_id, other).await?);
    Ok(event.zip(other).is_some_and(|(event, other)| event < other))
}

#[cfg(test)]
mod tests;
