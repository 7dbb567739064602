//! The directory: aliases of rooms, and the list of rooms that are published.
//!
//! Source: client-server API, "Room Aliases" and "Published Room Directory".

mod alias;
mod list;
mod remote;

use std::sync::Arc;

use bincode::{Decode, Encode};
use ravel_core::id::{InvalidId, RoomId, ServerName, UserId};
use ravel_store::{
    Durability,
    log::{EventLog, Fact, LogError},
};
use ruma::RoomAliasId;

pub use self::list::{ListRequest, RoomList};
use crate::{
    fact_kind,
    federation::FederationError,
    record::{Record, RecordError, all_facts, encode, key, key_parts},
    rooms::{Rooms, RoomsError},
};

/// The most aliases that a room has here.
pub const ALIASES_MAX: usize = 1_000;

/// The most servers that are named with the room of an alias.
const SERVERS_MAX: usize = 50;

/// Why something about the directory is not done.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum DirectoryError {
    #[error("there is no such alias")]
    NoSuchAlias,
    #[error("the alias is taken")]
    InUse,
    #[error("aliases of other servers are theirs to change")]
    NotOurs,
    #[error("the alias is someone else's")]
    Forbidden,
    #[error("the room has {ALIASES_MAX} aliases already")]
    TooMany,
    #[error("`{0}` is no alias")]
    Invalid(String),
    #[error("`{0}` is no alias of this room")]
    BadAlias(String),
    #[error(transparent)]
    Federation(#[from] FederationError),
    #[error(transparent)]
    Log(#[from] LogError),
    #[error(transparent)]
    Record(#[from] RecordError),
    #[error(transparent)]
    Rooms(#[from] RoomsError),
    #[error(transparent)]
    Id(#[from] InvalidId),
}

/// An alias of this server's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alias {
    /// The room that it is of.
    pub room_id: RoomId,
    /// Who made it.
    pub creator: UserId,
}

/// The room of an alias.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoomOfAlias {
    /// The room.
    pub room_id: RoomId,
    /// Servers that are in it.
    pub servers: Vec<ServerName>,
}

#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
struct AliasRecord {
    room_id: String,
    creator: String,
}

impl Record for AliasRecord {
    const VERSION: u8 = 1;
}

/// Something that is there or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
struct Mark;

impl Record for Mark {
    const VERSION: u8 = 1;
}

/// The directory of a server. Cheap to clone.
#[derive(Clone)]
pub struct Directory {
    log: Arc<EventLog>,
    rooms: Rooms,
}

impl Directory {
    /// Opens the directory that a log has.
    pub fn new(log: Arc<EventLog>, rooms: Rooms) -> Self {
        Self { log, rooms }
    }

    /// Whether an alias is one of this server.
    pub fn is_ours(&self, alias: &RoomAliasId) -> bool {
        alias.server_name().as_str() == self.rooms.server_name().as_str()
    }

    /// Puts a room on the list of published rooms, or takes it off.
    ///
    /// # Errors
    ///
    /// When the log can't be written.
    pub async fn publish(&self, room_id: &RoomId, is_published: bool) -> Result<(), DirectoryError> {
        if self.is_published(room_id).await? == is_published {
            return Ok(());
        }
        let value = if is_published { Some(encode(&Mark)?) } else { None };
        let fact = Fact { kind: fact_kind::PUBLISHED_ROOM, key: key(&[room_id.as_str()]), value };
        self.log.put_facts(&[fact], &[], Durability::Sync).await?;
        Ok(())
    }

    /// Whether a room is on the list of published rooms.
    ///
    /// # Errors
    ///
    /// When the log can't be read.
    pub async fn is_published(&self, room_id: &RoomId) -> Result<bool, DirectoryError> {
        Ok(self.log.fact(fact_kind::PUBLISHED_ROOM, room_id.as_str().as_bytes()).await?.is_some())
    }

    /// Returns the rooms on the list, sorted by id.
    async fn published(&self) -> Result<Vec<RoomId>, DirectoryError> {
        let facts = all_facts(&self.log, fact_kind::PUBLISHED_ROOM, b"").await?.into_iter().map(|fact| {
            let [room_id] = key_parts(&fact.key)?;
            Ok(RoomId::parse(room_id)?)
        });
        facts.collect()
    }
}

#[cfg(test)]
mod tests;
