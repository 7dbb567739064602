//! The list of published rooms, page by page.

use std::{cmp::Reverse, sync::Arc};

use ravel_core::id::RoomId;
use ruma::{
    UInt,
    directory::{Filter, PublicRoomsChunk},
    room::RoomSummary,
};

use super::{Directory, DirectoryError};
use crate::rooms::RoomsError;

/// What part of the list is asked for.
#[derive(Clone, Debug, Default)]
pub struct ListRequest {
    /// The most rooms; 0 is no limit.
    pub limit: Option<u64>,
    /// A token of an earlier answer.
    pub since: Option<String>,
    /// Which rooms.
    pub filter: Filter,
    /// Only rooms that users of other servers may be in.
    pub is_for_others: bool,
}

impl ListRequest {
    /// Returns the most rooms that an answer may have.
    pub(super) fn limit(&self) -> u64 {
        self.limit.filter(|limit| *limit > 0).map_or(LIMIT_MAX, |limit| limit.min(LIMIT_MAX))
    }
}

/// A part of the list, the largest rooms first.
#[derive(Clone, Debug, Default)]
pub struct RoomList {
    /// The rooms.
    pub chunk: Vec<PublicRoomsChunk>,
    /// For those that come next; `None` if there are none.
    pub next_batch: Option<String>,
    /// For those that come before; `None` if there are none.
    pub prev_batch: Option<String>,
    /// How many there are in all parts.
    pub total: UInt,
}

/// The most rooms of one answer.
const LIMIT_MAX: u64 = 500;

/// A room's place in the list: by its members, then by its id.
type Place = (Reverse<UInt>, String);

/// Where a part of the list begins or ends.
enum Since {
    After(Place),
    Before(Place),
}

impl Directory {
    /// Returns a part of the list of published rooms. Costs in proportion to all of them.
    ///
    /// Source: client-server API, "POST /_matrix/client/v3/publicRooms".
    ///
    /// # Errors
    ///
    /// When the log can't be read.
    pub async fn list(&self, request: &ListRequest) -> Result<RoomList, DirectoryError> {
        let mut rooms: Vec<Arc<RoomSummary>> = Vec::new();
        for room_id in self.published().await? {
            if request.is_for_others && !self.federates(&room_id).await? {
                continue;
            }
            rooms.extend(self.summary_of_published(&room_id).await?);
        }
        rooms.retain(|room| matches(room, &request.filter));
        rooms.sort_by_cached_key(|room| place(room));
        let total = UInt::try_from(rooms.len()).unwrap_or(UInt::MAX);
        let limit = usize::try_from(request.limit()).unwrap_or(usize::MAX);
        let range = match request.since.as_deref().and_then(parse_token) {
            Some(Since::Before(pivot)) => {
                let end = rooms.partition_point(|room| place(room) < pivot);
                end.saturating_sub(limit)..end
            }
            since => {
                let start = match since {
                    Some(Since::After(pivot)) => rooms.partition_point(|room| place(room) <= pivot),
                    _ => 0,
                };
                start..start.saturating_add(limit).min(rooms.len())
            }
        };
        let (has_before, has_after) = (range.start > 0, range.end < rooms.len());
        let page = rooms.get(range).unwrap_or_default();
        let token = |kind: char, room: &Arc<RoomSummary>| format!("{kind}{}_{}", room.num_joined_members, room.room_id);
        Ok(RoomList {
            next_batch: page.last().filter(|_| has_after).map(|room| token('a', room)),
            prev_batch: page.first().filter(|_| has_before).map(|room| token('b', room)),
            chunk: page.iter().map(|room| PublicRoomsChunk::from(RoomSummary::clone(room))).collect(),
            total,
        })
    }

    async fn federates(&self, room_id: &RoomId) -> Result<bool, DirectoryError> {
        match self.rooms.federates(room_id).await {
            Err(RoomsError::NoSuchRoom) => Ok(false),
            federates => Ok(federates?),
        }
    }

    /// `None` of rooms that nobody is in any more.
    async fn summary_of_published(&self, room_id: &RoomId) -> Result<Option<Arc<RoomSummary>>, DirectoryError> {
        match self.rooms.summary(room_id).await {
            Ok(summary) => Ok(Some(summary).filter(|summary| summary.num_joined_members > UInt::MIN)),
            Err(RoomsError::NoSuchRoom) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

fn place(room: &RoomSummary) -> Place {
    (Reverse(room.num_joined_members), room.room_id.to_string())
}

/// What is no token counts as none.
fn parse_token(token: &str) -> Option<Since> {
    let place = |text: &str| {
        let (members, room_id) = text.split_once('_')?;
        Some((Reverse(UInt::new(members.parse().ok()?)?), room_id.to_owned()))
    };
    match token.strip_prefix('a') {
        Some(text) => place(text).map(Since::After),
        None => token.strip_prefix('b').and_then(place).map(Since::Before),
    }
}

/// "An optional string to search for in the room metadata, e.g. name, topic, canonical alias, etc.", in any case; "an optional list of
/// room types to search for", of which `null` is that of rooms without one.
fn matches(room: &RoomSummary, filter: &Filter) -> bool {
    let room_type = room.room_type.as_ref().map(AsRef::as_ref);
    let types = &filter.room_types;
    if !types.is_empty() && !types.iter().any(|wanted| wanted.as_str() == room_type) {
        return false;
    }
    let Some(term) = filter.generic_search_term.as_ref().map(|term| term.to_lowercase()) else { return true };
    let alias = room.canonical_alias.as_ref().map(|alias| alias.as_str());
    let texts = [room.name.as_deref(), room.topic.as_deref(), alias];
    texts.into_iter().flatten().any(|text| text.to_lowercase().contains(&term))
}
