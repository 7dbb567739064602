//! Aliases and lists, here and at other servers.

use ravel_core::{
    canonical_json::CanonicalJsonObject,
    id::{InvalidId, RoomId, ServerName},
};
use ruma::{
    RoomAliasId,
    api::federation::{directory::get_public_rooms_filtered, query::get_room_information},
};

use super::{DirectoryError, ListRequest, RoomList, RoomOfAlias, SERVERS_MAX, alias::named};
use crate::{
    federation::{FederationError, SendOptions},
    homeserver::Homeserver,
};

impl Homeserver {
    /// Returns the room of an alias: of this server, or by asking the one that has it. That may name any room, also one of this server:
    /// who may come into it is said by the room alone.
    ///
    /// # Errors
    ///
    /// `NoSuchAlias`; `Federation` if the other server does not answer, or not as it should.
    pub async fn find_alias(&self, alias: &RoomAliasId) -> Result<RoomOfAlias, DirectoryError> {
        if self.directory.is_ours(alias) {
            return self.directory.room_of(alias).await?.ok_or(DirectoryError::NoSuchAlias);
        }
        let server = ServerName::parse(alias.server_name().as_str())?;
        let request = get_room_information::v1::Request::new(alias.to_owned());
        let answer = match self.client.send(&server, request, urgent()).await {
            Err(FederationError::Remote(error)) if error.status == http::StatusCode::NOT_FOUND => {
                return Err(DirectoryError::NoSuchAlias);
            }
            answer => answer?,
        };
        let problem = |error: InvalidId| FederationError::Answer { problem: error.to_string().into() };
        let room_id = RoomId::parse(answer.room_id.as_str()).map_err(problem)?;
        let servers = answer.servers.iter().take(SERVERS_MAX);
        let servers = servers.filter_map(|server| ServerName::parse(server.as_str()).ok()).collect();
        Ok(RoomOfAlias { room_id, servers })
    }

    /// Returns a part of the list of rooms that another server publishes, no more of it than was asked for.
    ///
    /// # Errors
    ///
    /// `Federation` if the other server does not answer, or not as it should.
    pub async fn list_of(&self, server: &ServerName, request: ListRequest) -> Result<RoomList, DirectoryError> {
        if *server == self.server_name {
            return self.directory.list(&request).await;
        }
        let mut asked = get_public_rooms_filtered::v1::Request::new();
        let limit = request.limit();
        asked.limit = ruma::UInt::new(limit);
        asked.since = request.since;
        asked.filter = request.filter;
        let answer = self.client.send(server, asked, urgent()).await?;
        let get_public_rooms_filtered::v1::Response { mut chunk, next_batch, prev_batch, .. } = answer;
        chunk.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
        let total = answer.total_room_count_estimate.unwrap_or_default();
        Ok(RoomList { chunk, next_batch, prev_batch, total })
    }

    /// Checks what an event is to say of the aliases of a room: those that it did not name before have to be aliases of the room.
    ///
    /// Source: client-server API, "PUT /_matrix/client/v3/rooms/{roomId}/state/{eventType}/{stateKey}": "`M_BAD_ALIAS`: One or more
    /// aliases within the `m.room.canonical_alias` event do not point to the room ID for which the state event is to be sent to."
    ///
    /// # Errors
    ///
    /// `Invalid`, `BadAlias`.
    pub async fn check_canonical_alias(
        &self,
        room_id: &RoomId,
        content: &CanonicalJsonObject,
    ) -> Result<(), DirectoryError> {
        let before = self.rooms.state_content(room_id, "m.room.canonical_alias", "").await?.unwrap_or_default();
        let before = named(&before).unwrap_or_default();
        for alias in named(content)?.into_iter().filter(|alias| !before.contains(alias)) {
            match self.find_alias(&alias).await {
                Ok(found) if found.room_id == *room_id => {}
                Ok(_) | Err(DirectoryError::NoSuchAlias | DirectoryError::Federation(_)) => {
                    return Err(DirectoryError::BadAlias(alias.to_string()));
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// Somebody waits for the answer.
fn urgent() -> SendOptions {
    SendOptions { ignore_back_off: true, ..SendOptions::default() }
}
