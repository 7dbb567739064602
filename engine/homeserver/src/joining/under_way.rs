//! Joins that are under way.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use ravel_core::id::{RoomId, ServerName};

use crate::{homeserver::Homeserver, turns::Turns};

/// The metric of how many rooms of other servers are being joined.
const JOINS_UNDER_WAY: &str = "ravel_joins_under_way";

/// What is known of joins that are under way.
#[derive(Default)]
pub(crate) struct Joining {
    /// Held while this server comes into a room: users who want to join it meanwhile come after it.
    pub(super) turns: Turns<RoomId>,
    under_way: Mutex<BTreeMap<RoomId, Arc<UnderWay>>>,
}

pub(super) struct UnderWay {
    server: ServerName,
    stage: Mutex<JoinStage>,
    pub(super) events: AtomicUsize,
    pub(super) done: Arc<AtomicUsize>,
}

/// How far a join is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinProgress {
    /// The room.
    pub room_id: RoomId,
    /// The server that is asked.
    pub server: ServerName,
    /// What is done.
    pub stage: JoinStage,
    /// How many events the answer has, once that is known.
    pub events: usize,
    /// How many of them were checked.
    pub checked: usize,
}

/// What is done for a join.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum JoinStage {
    Asking,
    WaitingForState,
    FetchingKeys,
    CheckingEvents,
    Storing,
}

impl Joining {
    /// Returns when no join of a room is under way.
    pub(super) async fn finished(&self, room_id: &RoomId) {
        if let Some(turn) = self.turns.under_way(room_id) {
            drop(turn.lock().await);
        }
    }

    /// Notes that a server is asked to help this one into a room.
    pub(super) fn begin(&self, room_id: &RoomId, server: &ServerName) -> Noted<'_> {
        let join = Arc::new(UnderWay {
            server: server.clone(),
            stage: Mutex::new(JoinStage::Asking),
            events: AtomicUsize::new(0),
            done: Arc::default(),
        });
        let mut under_way = self.under_way.lock().unwrap_or_else(PoisonError::into_inner);
        under_way.insert(room_id.clone(), Arc::clone(&join));
        metrics::gauge!(JOINS_UNDER_WAY).increment(1.0);
        Noted { joining: self, room_id: room_id.clone(), join }
    }
}

/// A join that is noted as under way until this is dropped.
pub(super) struct Noted<'j> {
    joining: &'j Joining,
    room_id: RoomId,
    pub(super) join: Arc<UnderWay>,
}

impl Noted<'_> {
    pub(super) fn stage(&self, stage: JoinStage) {
        *self.join.stage.lock().unwrap_or_else(PoisonError::into_inner) = stage;
        let (room_id, server, events) = (&self.room_id, &self.join.server, self.join.events.load(Ordering::Relaxed));
        tracing::info!(%room_id, %server, ?stage, events, "joining a room");
    }
}

impl Drop for Noted<'_> {
    fn drop(&mut self) {
        self.joining.under_way.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.room_id);
        metrics::gauge!(JOINS_UNDER_WAY).decrement(1.0);
    }
}

impl Homeserver {
    /// Returns how far the joins are that are under way, by room.
    pub fn joins_under_way(&self) -> Vec<JoinProgress> {
        let under_way = self.joining.under_way.lock().unwrap_or_else(PoisonError::into_inner);
        let progress = |(room_id, join): (&RoomId, &Arc<UnderWay>)| JoinProgress {
            room_id: room_id.clone(),
            server: join.server.clone(),
            stage: *join.stage.lock().unwrap_or_else(PoisonError::into_inner),
            events: join.events.load(Ordering::Relaxed),
            checked: join.done.load(Ordering::Relaxed),
        };
        under_way.iter().map(progress).collect()
    }
}
