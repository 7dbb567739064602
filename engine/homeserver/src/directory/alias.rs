//! Aliases of this server.

use bytes::Bytes;
use ravel_core::{
    canonical_json::{CanonicalJsonObject, get_array, get_str},
    id::{RoomId, ServerName, UserId},
};
use ravel_store::{
    Durability,
    log::{Condition, Fact, LogError, StoredFact},
};
use ruma::{OwnedRoomAliasId, RoomAliasId};

use super::{ALIASES_MAX, Alias, AliasRecord, Directory, DirectoryError, Mark, RoomOfAlias, SERVERS_MAX};
use crate::{
    fact_kind,
    record::{all_facts, decode, encode, key, key_parts},
    rooms::{RoomsError, SendEvent},
};

/// The event that names a room's aliases.
const CANONICAL_ALIAS: &str = "m.room.canonical_alias";

impl Directory {
    /// Returns an alias of this server.
    ///
    /// # Errors
    ///
    /// When the log can't be read.
    pub async fn alias(&self, alias: &RoomAliasId) -> Result<Option<Alias>, DirectoryError> {
        let Some(stored) = self.stored(alias).await? else { return Ok(None) };
        let record: AliasRecord = decode(&stored.value)?;
        Ok(Some(Alias { room_id: RoomId::parse(&record.room_id)?, creator: UserId::parse(&record.creator)? }))
    }

    /// Returns the room of an alias of this server, with servers that are in it, this one first if it is.
    ///
    /// # Errors
    ///
    /// When the log can't be read.
    pub async fn room_of(&self, alias: &RoomAliasId) -> Result<Option<RoomOfAlias>, DirectoryError> {
        let Some(Alias { room_id, .. }) = self.alias(alias).await? else { return Ok(None) };
        let mut servers = self.rooms.servers_in(&room_id).await?;
        let ours = self.rooms.server_name();
        servers.sort_by_key(|server| server != ours);
        servers.truncate(SERVERS_MAX);
        if servers.is_empty() {
            // It is all that is known of where the room may be.
            servers.extend(room_id.server_name().and_then(|server| ServerName::parse(server).ok()));
        }
        Ok(Some(RoomOfAlias { room_id, servers }))
    }

    /// Makes an alias of a room.
    ///
    /// # Errors
    ///
    /// `NotOurs`, `InUse`, `TooMany`.
    pub async fn add(&self, alias: &RoomAliasId, room_id: &RoomId, creator: &UserId) -> Result<(), DirectoryError> {
        if !self.is_ours(alias) {
            return Err(DirectoryError::NotOurs);
        }
        if self.aliases_of(room_id).await?.len() >= ALIASES_MAX {
            return Err(DirectoryError::TooMany);
        }
        let record = AliasRecord { room_id: room_id.to_string(), creator: creator.to_string() };
        let facts = [alias_fact(alias, Some(encode(&record)?)), of_room_fact(room_id, alias, Some(encode(&Mark)?))];
        let is_free = Condition { kind: fact_kind::ALIAS, key: alias_key(alias), value: None };
        match self.log.put_facts(&facts, &[is_free], Durability::Sync).await? {
            Some(_) => Ok(()),
            None => Err(DirectoryError::InUse),
        }
    }

    /// Removes an alias, for its creator, for an administrator of the server, or for somebody who may say what the room's aliases are.
    /// If the room names it as one of its own, and the user may change that, it does no longer.
    ///
    /// # Errors
    ///
    /// `NotOurs`, `NoSuchAlias`, `Forbidden`.
    pub async fn remove(&self, alias: &RoomAliasId, user: &UserId, is_admin: bool) -> Result<(), DirectoryError> {
        if !self.is_ours(alias) {
            return Err(DirectoryError::NotOurs);
        }
        let stored = self.stored(alias).await?.ok_or(DirectoryError::NoSuchAlias)?;
        let Alias { room_id, creator } = self.alias(alias).await?.ok_or(DirectoryError::NoSuchAlias)?;
        let may_say = match self.check_may_name(&room_id, user).await {
            Ok(()) => true,
            Err(DirectoryError::Rooms(RoomsError::Refused(_) | RoomsError::NoSuchRoom)) => false,
            Err(error) => return Err(error),
        };
        if creator != *user && !is_admin && !may_say {
            return Err(DirectoryError::Forbidden);
        }
        let facts = [alias_fact(alias, None), of_room_fact(&room_id, alias, None)];
        let is_still_so = Condition { kind: fact_kind::ALIAS, key: alias_key(alias), value: Some(stored.value) };
        if self.log.put_facts(&facts, &[is_still_so], Durability::Sync).await?.is_none() {
            return Err(DirectoryError::NoSuchAlias);
        }
        if may_say {
            self.unname(&room_id, user, alias).await?;
        }
        Ok(())
    }

    /// Checks that a user may say what the aliases of a room are.
    ///
    /// # Errors
    ///
    /// `Rooms`, with `Refused` or `NoSuchRoom`.
    pub async fn check_may_name(&self, room_id: &RoomId, user: &UserId) -> Result<(), DirectoryError> {
        let event = canonical_alias_event(CanonicalJsonObject::new());
        Ok(self.rooms.check_event(room_id, user, &event).await?)
    }

    /// Returns the aliases of a room that this server has, sorted.
    ///
    /// # Errors
    ///
    /// When the log can't be read.
    pub async fn aliases_of(&self, room_id: &RoomId) -> Result<Vec<OwnedRoomAliasId>, DirectoryError> {
        let prefix = key(&[room_id.as_str(), ""]);
        let facts = all_facts(&self.log, fact_kind::ROOM_ALIAS, &prefix).await?.into_iter().map(|fact| {
            let [_, alias] = key_parts(&fact.key)?;
            OwnedRoomAliasId::try_from(alias).map_err(|_| DirectoryError::Invalid(alias.to_owned()))
        });
        facts.collect()
    }

    /// Makes all aliases of a room aliases of another one; that is the room's successor.
    ///
    /// # Errors
    ///
    /// When the log can't be read or written.
    pub async fn move_aliases(&self, from: &RoomId, to: &RoomId) -> Result<(), DirectoryError> {
        for alias in self.aliases_of(from).await? {
            let Some(stored) = self.stored(&alias).await? else { continue };
            let before: AliasRecord = decode(&stored.value)?;
            let after = AliasRecord { room_id: to.to_string(), ..before };
            let facts = [
                alias_fact(&alias, Some(encode(&after)?)),
                of_room_fact(from, &alias, None),
                of_room_fact(to, &alias, Some(encode(&Mark)?)),
            ];
            let is_still_so = Condition { kind: fact_kind::ALIAS, key: alias_key(&alias), value: Some(stored.value) };
            self.log.put_facts(&facts, &[is_still_so], Durability::Sync).await?;
        }
        Ok(())
    }

    /// Takes an alias out of those that a room names.
    async fn unname(&self, room_id: &RoomId, user: &UserId, alias: &RoomAliasId) -> Result<(), DirectoryError> {
        let Some(mut content) = self.rooms.state_content(room_id, CANONICAL_ALIAS, "").await? else { return Ok(()) };
        let before = content.clone();
        if get_str(&content, "alias") == Some(alias.as_str()) {
            content.remove("alias");
        }
        if let Some(others) = get_array(&content, "alt_aliases") {
            let others = others.iter().filter(|other| other.as_str() != Some(alias.as_str())).cloned();
            let others: Vec<_> = others.collect();
            content.remove("alt_aliases");
            if !others.is_empty() {
                content.insert("alt_aliases".into(), others.into());
            }
        }
        if content != before {
            self.rooms.send(room_id, user, canonical_alias_event(content)).await?;
        }
        Ok(())
    }

    async fn stored(&self, alias: &RoomAliasId) -> Result<Option<StoredFact>, LogError> {
        self.log.fact(fact_kind::ALIAS, &alias_key(alias)).await
    }
}

/// Returns the aliases that the content of `m.room.canonical_alias` names.
pub(super) fn named(content: &CanonicalJsonObject) -> Result<Vec<OwnedRoomAliasId>, DirectoryError> {
    let invalid = |text: &str| DirectoryError::Invalid(text.to_owned());
    let texts = |field: &str| match content.get(field) {
        None => Ok(Vec::new()),
        Some(value) if field == "alias" => value.as_str().map(|text| vec![text]).ok_or_else(|| invalid(field)),
        Some(value) => {
            let texts = value.as_array().ok_or_else(|| invalid(field))?.iter();
            texts.map(|text| text.as_str().ok_or_else(|| invalid(field))).collect()
        }
    };
    let all = [texts("alias")?, texts("alt_aliases")?].concat();
    // An empty alias is none, as that of old servers.
    let all = all.into_iter().filter(|text| !text.is_empty());
    all.map(|text| OwnedRoomAliasId::try_from(text).map_err(|_| invalid(text))).collect()
}

pub(super) fn canonical_alias_event(content: CanonicalJsonObject) -> SendEvent {
    let (event_type, state_key) = (CANONICAL_ALIAS.to_owned(), Some(String::new()));
    SendEvent { event_type, state_key, content, redacts: None }
}

fn alias_key(alias: &RoomAliasId) -> Bytes {
    key(&[alias.as_str()])
}

fn alias_fact(alias: &RoomAliasId, value: Option<Bytes>) -> Fact {
    Fact { kind: fact_kind::ALIAS, key: alias_key(alias), value }
}

fn of_room_fact(room_id: &RoomId, alias: &RoomAliasId, value: Option<Bytes>) -> Fact {
    Fact { kind: fact_kind::ROOM_ALIAS, key: key(&[room_id.as_str(), alias.as_str()]), value }
}
