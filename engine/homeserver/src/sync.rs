//! What is new for a user: in its rooms, in its account data.
//!
//! Source: client-server API, "Syncing".

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use ravel_core::id::{RoomId, UserId};
use ruma::OwnedDeviceId;
use ruma::api::client::filter::{Filter, FilterDefinition, RoomFilter};
use serde_json::{Map, Value};

use crate::{
    account_data::{AccountData, AccountDataError},
    clock::Clock,
    ephemeral::{Ephemeral, EphemeralError, EphemeralNews, EphemeralQuery},
    filters::matching::{allows_room, passes, passes_in_room},
    rooms::{Rooms, RoomsError, Sync, SyncFilter},
    to_device::{ToDevice, ToDeviceError},
};

/// Why a sync fails.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum SyncError {
    #[error(transparent)]
    Rooms(#[from] RoomsError),
    #[error(transparent)]
    AccountData(#[from] AccountDataError),
    #[error(transparent)]
    Ephemeral(#[from] EphemeralError),
    #[error(transparent)]
    ToDevice(#[from] ToDeviceError),
}

/// Where a sync goes on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct NextBatch {
    /// A place in the log.
    pub log: u64,
    /// A place in what passes.
    pub ephemeral: u64,
}

impl NextBatch {
    /// Reads what [`Display`](std::fmt::Display) wrote.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.strip_prefix('s')?;
        // Those of earlier versions have one place.
        let (log, ephemeral) = text.split_once('_').unwrap_or((text, "0"));
        Some(Self { log: log.parse().ok()?, ephemeral: ephemeral.parse().ok()? })
    }
}

impl std::fmt::Display for NextBatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "s{}_{}", self.log, self.ephemeral)
    }
}

/// What a client asks for.
#[derive(Clone, Debug, Default)]
pub struct SyncRequest {
    /// Where it goes on; everything, if there is none.
    pub since: Option<NextBatch>,
    /// What it wants to see.
    pub filter: FilterDefinition,
    /// The device that asks: it gets the messages that wait for it.
    pub device_id: Option<OwnedDeviceId>,
    /// All rooms with all of their state, also where nothing is new.
    pub full_state: bool,
    /// How long it waits if nothing is new.
    pub timeout: Duration,
}

/// What is new for a user.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct News {
    /// In its rooms.
    pub rooms: Sync,
    /// Account data of no room, as events.
    pub account_data: Vec<Map<String, Value>>,
    /// Account data of rooms that it is in, likewise.
    pub room_account_data: BTreeMap<RoomId, Vec<Map<String, Value>>>,
    /// Typing and receipts in rooms that it is in.
    pub ephemeral: BTreeMap<RoomId, Vec<Map<String, Value>>>,
    /// Who came or went.
    pub presence: Vec<Map<String, Value>>,
    /// Messages for the device.
    pub to_device: Vec<Map<String, Value>>,
    /// Where the next sync goes on.
    pub next: NextBatch,
}

/// The syncs of a server's users. Cheap to clone.
#[derive(Clone)]
pub struct Syncs {
    rooms: Rooms,
    account_data: AccountData,
    ephemeral: Ephemeral,
    to_device: Arc<ToDevice>,
    clock: Arc<dyn Clock>,
}

impl Syncs {
    /// Makes them.
    pub fn new(
        rooms: Rooms,
        account_data: AccountData,
        ephemeral: Ephemeral,
        to_device: Arc<ToDevice>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self { rooms, account_data, ephemeral, to_device, clock }
    }

    /// Returns the place from which on everything is yet to come.
    pub fn now(&self) -> NextBatch {
        NextBatch { log: self.rooms.position(), ephemeral: *self.ephemeral.subscribe().borrow() }
    }

    /// Returns what is new for a user since a place, everything if there is none. Waits up to `timeout` while nothing is.
    ///
    /// # Errors
    ///
    /// When the log can't be read.
    pub async fn sync(&self, user: &UserId, request: SyncRequest) -> Result<News, SyncError> {
        let SyncRequest { since, filter, device_id, full_state, timeout } = request;
        let (mut position, mut passed) = (self.rooms.subscribe(), self.ephemeral.subscribe());
        let mut timeout = self.clock.sleep(timeout);
        let FilterDefinition { room, account_data, presence, .. } = filter;
        let rooms = SyncFilter { room, full_state };
        loop {
            let now = NextBatch { log: *position.borrow_and_update(), ephemeral: *passed.borrow_and_update() };
            let mut news = News { next: now, ..News::default() };
            news.rooms = self.rooms.news(user, since.map(|since| since.log), now.log, &rooms).await?;
            self.add_account_data(user, since, &mut news, &account_data, &rooms.room).await?;
            self.add_ephemeral(user, since, &mut news, &presence, &rooms.room).await?;
            if let Some(device_id) = &device_id {
                let since = since.map(|since| since.log);
                news.to_device = self.to_device.waiting(user, device_id.as_str(), since, now.log).await?;
            }
            if since.is_none() || full_state || !news.is_empty() {
                return Ok(news);
            }
            tokio::select! {
                () = &mut timeout => return Ok(news),
                changed = position.changed() => changed.map_err(|_| RoomsError::Panicked)?,
                changed = passed.changed() => changed.map_err(|_| RoomsError::Panicked)?,
            }
        }
    }

    /// Returns all account data of a user that is of no room, as events.
    ///
    /// # Errors
    ///
    /// When the log can't be read.
    pub async fn account_data(&self, user: &UserId) -> Result<Vec<Map<String, Value>>, SyncError> {
        Ok(events(self.account_data.since(user, 0).await?.global))
    }

    async fn add_ephemeral(
        &self,
        user: &UserId,
        since: Option<NextBatch>,
        news: &mut News,
        presence_filter: &Filter,
        room_filter: &RoomFilter,
    ) -> Result<(), SyncError> {
        let joined = self.rooms.joined_rooms(user);
        let is_new = news.rooms.joined.iter().filter(|(_, room)| room.is_new).map(|(room_id, _)| room_id.clone());
        let (new, since_log) = (is_new.collect(), since.map_or(0, |since| since.log));
        let since = since.map(|since| since.ephemeral);
        let query = EphemeralQuery { user, since, since_log, joined: &joined, new: &new };
        let EphemeralNews { rooms: of_rooms, presence } = self.ephemeral.news(query).await?;
        let RoomFilter { rooms, not_rooms, ephemeral: filter, .. } = room_filter;
        for (room_id, mut events) in of_rooms {
            events.retain(|event| passes_in_room(filter, room_id.as_str(), event));
            if allows_room(rooms.as_deref(), not_rooms, room_id.as_str()) && !events.is_empty() {
                news.ephemeral.insert(room_id, events);
            }
        }
        news.presence = presence;
        news.presence.retain(|event| passes(presence_filter, event));
        Ok(())
    }

    async fn add_account_data(
        &self,
        user: &UserId,
        since: Option<NextBatch>,
        news: &mut News,
        filter: &Filter,
        room_filter: &RoomFilter,
    ) -> Result<(), SyncError> {
        let mut account_data = self.account_data.since(user, since.map_or(0, |since| since.log)).await?;
        let is_new = news.rooms.joined.iter().filter(|(_, room)| room.is_new).map(|(room_id, _)| room_id);
        for room_id in is_new.filter(|_| since.is_some()) {
            // Its tags may be older than the user's being there.
            if let Some(all) = self.account_data.since(user, 0).await?.rooms.remove(room_id) {
                account_data.rooms.insert(room_id.clone(), all);
            }
        }
        news.account_data = events(account_data.global);
        news.account_data.retain(|event| passes(filter, event));
        let joined = self.rooms.joined_rooms(user);
        let RoomFilter { rooms, not_rooms, account_data: filter, .. } = room_filter;
        for (room_id, entries) in account_data.rooms {
            let is_wanted = allows_room(rooms.as_deref(), not_rooms, room_id.as_str());
            let mut events = events(entries);
            events.retain(|event| passes_in_room(filter, room_id.as_str(), event));
            if is_wanted && joined.binary_search(&room_id).is_ok() && !events.is_empty() {
                news.room_account_data.insert(room_id, events);
            }
        }
        Ok(())
    }
}

fn events(contents: BTreeMap<String, Value>) -> Vec<Map<String, Value>> {
    let event = |(event_type, content): (String, Value)| {
        Map::from_iter([("type".to_owned(), event_type.into()), ("content".to_owned(), content)])
    };
    contents.into_iter().map(event).collect()
}

impl News {
    fn is_empty(&self) -> bool {
        let is_empty = self.account_data.is_empty() && self.room_account_data.is_empty();
        let is_empty = is_empty && self.to_device.is_empty();
        is_empty && self.rooms.is_empty() && self.ephemeral.is_empty() && self.presence.is_empty()
    }
}

#[cfg(test)]
mod tests;
