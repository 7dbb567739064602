//! What a room is, for those who are not in it: its name, its topic, how it can be joined.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use ravel_core::{
    event::event_type,
    id::{EventId, RoomId},
    room_version::RoomVersion,
    state::StateMap,
};
use ruma::{
    OwnedMxcUri, OwnedRoomAliasId, OwnedRoomId, RoomVersionId, UInt,
    room::{JoinRuleSummary, RestrictedSummary, RoomSummary, RoomType},
};
use serde_json::Value;

use super::{LoadedRoom, Rooms, RoomsError};

/// The summary of a room as long as its state stays as it is.
#[derive(Debug, Default)]
pub(super) struct CachedSummary(Mutex<Option<(StateMap, Arc<RoomSummary>)>>);

impl CachedSummary {
    fn get(&self, state: &StateMap) -> Option<Arc<RoomSummary>> {
        let cached = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        cached.as_ref().filter(|(of, _)| of.is_same(state)).map(|(_, summary)| Arc::clone(summary))
    }

    fn set(&self, state: StateMap, summary: Arc<RoomSummary>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some((state, summary));
    }
}

impl Rooms {
    /// Returns what a room is, by its current state.
    ///
    /// Costs nothing while the state stays as it is; otherwise it reads some events.
    ///
    /// # Errors
    ///
    /// `NoSuchRoom`, and when the log can't be read.
    pub async fn summary(&self, room_id: &RoomId) -> Result<Arc<RoomSummary>, RoomsError> {
        let look = |loaded: &LoadedRoom| {
            let state = loaded.room.current_state();
            let cached = loaded.summary.get(state.map());
            let ids = SUMMARIZED.iter().filter_map(|event_type| state.get(event_type, "")).collect::<Vec<EventId>>();
            (cached, state.map().clone(), ids, loaded.servers.users(), loaded.room.rules().version)
        };
        let (cached, state, ids, users, version) = self.read(room_id, look).await?;
        if let Some(summary) = cached {
            return Ok(summary);
        }
        let events = self.events_by_id(room_id, ids).await?.into_iter().filter_map(|mut event| {
            let event_type = event.json.get("type")?.as_str()?.to_owned();
            Some((event_type, event.json.remove("content")?))
        });
        let summary = Arc::new(summarize(room_id, &events.collect(), users, version)?);
        self.read(room_id, |loaded| loaded.summary.set(state.clone(), Arc::clone(&summary))).await?;
        Ok(summary)
    }
}

/// The state events that a summary is made of.
const SUMMARIZED: [&str; 9] = [
    event_type::CREATE,
    event_type::JOIN_RULES,
    event_type::HISTORY_VISIBILITY,
    "m.room.guest_access",
    "m.room.name",
    "m.room.topic",
    "m.room.avatar",
    "m.room.canonical_alias",
    "m.room.encryption",
];

/// Makes a summary of contents by type. Values that are not what they should be are left out.
fn summarize(
    room_id: &RoomId,
    contents: &BTreeMap<String, Value>,
    users: usize,
    version: RoomVersion,
) -> Result<RoomSummary, RoomsError> {
    let text = |event_type: &str, field: &str| contents.get(event_type)?.get(field)?.as_str();
    let room_id = OwnedRoomId::try_from(room_id.as_str()).map_err(|_| RoomsError::BadValue("room_id"))?;
    let join_rule = join_rule(contents.get(event_type::JOIN_RULES));
    let guest_can_join = text("m.room.guest_access", "guest_access") == Some("can_join");
    let world_readable = text(event_type::HISTORY_VISIBILITY, "history_visibility") == Some("world_readable");
    let users = UInt::try_from(users).unwrap_or(UInt::MAX);
    let mut summary = RoomSummary::new(room_id, join_rule, guest_can_join, users, world_readable);
    let not_empty = |text: &&str| !text.is_empty();
    summary.name = text("m.room.name", "name").filter(not_empty).map(str::to_owned);
    summary.topic = text("m.room.topic", "topic").filter(not_empty).map(str::to_owned);
    summary.avatar_url = text("m.room.avatar", "url").filter(not_empty).map(OwnedMxcUri::from);
    let alias = text("m.room.canonical_alias", "alias");
    summary.canonical_alias = alias.and_then(|alias| OwnedRoomAliasId::try_from(alias).ok());
    summary.room_type = text(event_type::CREATE, "type").map(RoomType::from);
    summary.encryption = text("m.room.encryption", "algorithm").map(Into::into);
    summary.room_version = RoomVersionId::try_from(version.as_str()).ok();
    Ok(summary)
}

/// "If not given, the room is assumed to be `invite`", which is what the rules do.
fn join_rule(content: Option<&Value>) -> JoinRuleSummary {
    let allowed = || {
        let conditions = content.and_then(|content| content.get("allow")?.as_array()).into_iter().flatten();
        let rooms =
            conditions.filter(|condition| condition.get("type").is_some_and(|kind| kind == "m.room_membership"));
        let rooms = rooms.filter_map(|condition| OwnedRoomId::try_from(condition.get("room_id")?.as_str()?).ok());
        RestrictedSummary::new(rooms.collect())
    };
    match content.and_then(|content| content.get("join_rule")?.as_str()) {
        Some("public") => JoinRuleSummary::Public,
        Some("knock") => JoinRuleSummary::Knock,
        Some("private") => JoinRuleSummary::Private,
        Some("restricted") => JoinRuleSummary::Restricted(allowed()),
        Some("knock_restricted") => JoinRuleSummary::KnockRestricted(allowed()),
        _ => JoinRuleSummary::Invite,
    }
}
