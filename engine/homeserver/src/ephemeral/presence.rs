//! Who is there.

use std::collections::{BTreeMap, BTreeSet};

use ravel_core::id::UserId;
use serde_json::{Map, Value, json};

use super::{Ephemeral, EphemeralError, EphemeralQuery, LocalEdu, changes::Change, event_of};

/// How many users' presence is kept.
const PRESENCES_MAX: usize = 100_000;

/// The longest status message, in bytes. Longer ones are dropped, and the rest of what is said is taken.
pub const STATUS_BYTES_MAX: usize = 1_024;

/// Whether a user is there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PresenceState {
    /// It is.
    Online,
    /// It is not.
    #[default]
    Offline,
    /// It was, and does nothing.
    Unavailable,
}

impl PresenceState {
    /// Reads a state.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "online" => Some(Self::Online),
            "offline" => Some(Self::Offline),
            "unavailable" => Some(Self::Unavailable),
            _ => None,
        }
    }

    /// Returns it as on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Online => "online",
            Self::Offline => "offline",
            Self::Unavailable => "unavailable",
        }
    }
}

/// What a user tells of its presence.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Presence {
    /// Whether it is there.
    pub state: PresenceState,
    /// What it says of that.
    pub status_msg: Option<String>,
    /// When it was active, in milliseconds since 1970.
    pub last_active_ms: i64,
    /// Whether it is now.
    pub currently_active: bool,
}

/// The presence of users, if something is known.
#[derive(Debug, Default)]
pub(super) struct Presences(BTreeMap<UserId, Presence>);

impl Ephemeral {
    /// Takes note of what a user of this server says.
    pub fn set_presence(&self, user: &UserId, state: PresenceState, status_msg: Option<String>) {
        let last_active_ms = self.0.clock.now_ms();
        let currently_active = state == PresenceState::Online;
        self.presence(user, Presence { state, status_msg, last_active_ms, currently_active });
    }

    /// Takes note that a user of this server asks for news, and wants to be seen so; what it said of its presence stays. With `Offline`
    /// it is not seen by it.
    pub fn note_sync(&self, user: &UserId, state: PresenceState) {
        if state == PresenceState::Offline {
            return;
        }
        let status_msg = {
            let mut known = self.state();
            let presence = known.presences.0.get_mut(user);
            match presence {
                Some(presence) if presence.state == state => {
                    if state == PresenceState::Online {
                        presence.last_active_ms = self.0.clock.now_ms();
                    }
                    return;
                }
                presence => presence.and_then(|presence| presence.status_msg.clone()),
            }
        };
        self.set_presence(user, state, status_msg);
    }

    /// Takes note of the presence of a user, as its server tells it.
    pub fn presence(&self, user: &UserId, mut presence: Presence) {
        presence.status_msg = presence.status_msg.filter(|text| !text.is_empty() && text.len() <= STATUS_BYTES_MAX);
        {
            let mut state = self.state();
            let known = &mut state.presences.0;
            if !known.contains_key(user) && known.len() >= PRESENCES_MAX {
                return;
            }
            if known.insert(user.clone(), presence.clone()).as_ref() == Some(&presence) {
                return;
            }
            state.changes.add(Change::Presence(user.clone()));
            self.wake(&state);
        }
        if self.is_ours(user) {
            let last_active_ago_ms = self.0.clock.now_ms().saturating_sub(presence.last_active_ms).max(0);
            self.tell(LocalEdu::Presence { user_id: user.clone(), presence, last_active_ago_ms });
        }
    }

    /// Returns what is known of a user's presence.
    pub fn presence_of(&self, user: &UserId) -> Option<Presence> {
        self.state().presences.0.get(user).cloned()
    }

    /// Returns what is known of a user's presence as the content of an event; of somebody unknown, that it is not there.
    pub fn presence_content(&self, user: &UserId) -> Value {
        let known = self.presence_of(user);
        let presence = known.clone().unwrap_or_default();
        let mut content = json!({ "presence": presence.state.as_str() });
        let Some(fields) = content.as_object_mut() else { return content };
        if known.is_some() {
            let ago_ms = self.0.clock.now_ms().saturating_sub(presence.last_active_ms).max(0);
            fields.insert("last_active_ago".to_owned(), ago_ms.into());
            fields.insert("currently_active".to_owned(), presence.currently_active.into());
        }
        fields.extend(presence.status_msg.map(|text| ("status_msg".to_owned(), text.into())));
        content
    }

    /// Returns a user's presence as an event.
    pub fn presence_event(&self, user: &UserId) -> Map<String, Value> {
        let mut event = event_of("m.presence", self.presence_content(user));
        event.insert("sender".to_owned(), user.as_str().into());
        event
    }

    /// Returns the presence of those who changed it, and share a room with the user; and of those of whom it knows nothing.
    pub(super) async fn presence_news(
        &self,
        query: EphemeralQuery<'_>,
        knows_all: bool,
        changed: &BTreeSet<UserId>,
    ) -> Result<Vec<Map<String, Value>>, EphemeralError> {
        let has_new = knows_all || !query.new.is_empty();
        let users: Vec<UserId> = match has_new {
            true => self.state().presences.0.keys().cloned().collect(),
            false => changed.iter().cloned().collect(),
        };
        let mut events = Vec::new();
        for user in users {
            let is_changed = knows_all || changed.contains(&user);
            let is_seen = match is_changed {
                true => user == *query.user || self.0.rooms.is_in_any(query.joined, &user).await?,
                false => self.0.rooms.is_in_any(query.new, &user).await?,
            };
            if is_seen {
                events.push(self.presence_event(&user));
            }
        }
        Ok(events)
    }
}
