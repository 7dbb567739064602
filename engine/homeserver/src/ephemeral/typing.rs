//! Who is typing.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use ravel_core::id::{RoomId, UserId};
use serde_json::{Map, Value, json};

use super::{Ephemeral, LocalEdu, changes::Change, event_of};

/// The longest that a user is typing without saying so again, in milliseconds.
pub const TYPING_MS_MAX: i64 = 120_000;

/// How long a user of another server is typing unless that says something else.
const REMOTE_TYPING_MS: i64 = 60_000;

/// How often other servers are told that a user is still typing.
const RETELL_MS: i64 = 30_000;

/// How many users are typing in a room at most.
const TYPISTS_MAX: usize = 200;

/// In how many rooms somebody is or was typing at most.
const ROOMS_MAX: usize = 100_000;

/// Who is typing, by room. Rooms in which nobody ever was are not there.
#[derive(Debug, Default)]
pub(super) struct Typing(HashMap<RoomId, BTreeMap<UserId, Typist>>);

#[derive(Clone, Copy, Debug)]
struct Typist {
    until_ms: i64,
    /// When other servers were told.
    told_ms: i64,
}

impl Typing {
    /// Returns who is typing in a room; `None` if nobody ever was.
    pub(super) fn in_room(&self, room_id: &RoomId) -> Option<Vec<UserId>> {
        Some(self.0.get(room_id)?.keys().cloned().collect())
    }

    fn get_mut(&mut self, room_id: &RoomId, user: &UserId) -> Option<&mut Typist> {
        self.0.get_mut(room_id)?.get_mut(user)
    }

    /// Returns whether there was room for it.
    fn insert(&mut self, room_id: &RoomId, user: &UserId, typist: Typist) -> bool {
        if !self.0.contains_key(room_id) && self.0.len() >= ROOMS_MAX {
            self.0.retain(|_, users| !users.is_empty());
            if self.0.len() >= ROOMS_MAX {
                return false;
            }
        }
        let users = self.0.entry(room_id.clone()).or_default();
        let fits = users.len() < TYPISTS_MAX;
        if fits {
            users.insert(user.clone(), typist);
        }
        fits
    }

    /// Returns whether the user was typing.
    fn remove(&mut self, room_id: &RoomId, user: &UserId) -> bool {
        self.0.get_mut(room_id).is_some_and(|users| users.remove(user).is_some())
    }
}

impl Ephemeral {
    /// Takes note that a user of this server, who has joined the room, is typing, for a time; or not any more.
    pub fn set_typing(&self, room_id: &RoomId, user: &UserId, typing_ms: Option<i64>) {
        self.typing_until(room_id, user, typing_ms.map(|time| time.clamp(0, TYPING_MS_MAX)));
    }

    /// Takes note of what another server says: that its user, who has joined the room, is typing, or not any more.
    pub fn typing(&self, room_id: &RoomId, user: &UserId, is_typing: bool) {
        self.typing_until(room_id, user, is_typing.then_some(REMOTE_TYPING_MS));
    }

    fn typing_until(&self, room_id: &RoomId, user: &UserId, typing_ms: Option<i64>) {
        let Some(typing_ms) = typing_ms else { return self.stop_typing(room_id, user) };
        let now_ms = self.0.clock.now_ms();
        let until_ms = now_ms.saturating_add(typing_ms);
        let is_told = {
            let mut state = self.state();
            if let Some(typist) = state.typing.get_mut(room_id, user) {
                typist.until_ms = until_ms;
                let is_told = now_ms < typist.told_ms.saturating_add(RETELL_MS);
                if !is_told {
                    typist.told_ms = now_ms;
                }
                is_told
            } else {
                if !state.typing.insert(room_id, user, Typist { until_ms, told_ms: now_ms }) {
                    return;
                }
                state.changes.add(Change::Typing(room_id.clone()));
                self.wake(&state);
                self.watch_typist(room_id.clone(), user.clone(), typing_ms);
                false
            }
        };
        if !is_told && self.is_ours(user) {
            self.tell(LocalEdu::Typing { room_id: room_id.clone(), user_id: user.clone(), typing: true });
        }
    }

    fn stop_typing(&self, room_id: &RoomId, user: &UserId) {
        let mut state = self.state();
        if !state.typing.remove(room_id, user) {
            return;
        }
        state.changes.add(Change::Typing(room_id.clone()));
        self.wake(&state);
        drop(state);
        if self.is_ours(user) {
            self.tell(LocalEdu::Typing { room_id: room_id.clone(), user_id: user.clone(), typing: false });
        }
    }

    /// Ends the typing of a user when its time is over, as long as it does not go on.
    fn watch_typist(&self, room_id: RoomId, user: UserId, typing_ms: i64) {
        let (clock, inner) = (self.0.clock.clone(), Arc::downgrade(&self.0));
        tokio::spawn(async move {
            let mut wait_ms = typing_ms;
            while let Ok(time) = u64::try_from(wait_ms) {
                clock.sleep(Duration::from_millis(time)).await;
                let Some(inner) = inner.upgrade() else { return };
                let this = Ephemeral(inner);
                let until_ms = this.state().typing.get_mut(&room_id, &user).map(|typist| typist.until_ms);
                let left_ms = until_ms.map(|until_ms| until_ms.saturating_sub(clock.now_ms()));
                match left_ms {
                    Some(left_ms) if left_ms > 0 => wait_ms = left_ms,
                    _ => return this.stop_typing(&room_id, &user),
                }
            }
        });
    }
}

pub(super) fn event(users: &[UserId]) -> Map<String, Value> {
    let users: Vec<&str> = users.iter().map(UserId::as_str).collect();
    event_of("m.typing", json!({ "user_ids": users }))
}
