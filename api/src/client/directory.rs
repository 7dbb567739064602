//! Aliases, and the list of published rooms.

use axum::{Router, extract::State};
use ravel_core::{
    event::Membership,
    id::{RoomId, ServerName},
};
use ravel_homeserver::{
    accounts::Role,
    directory::{DirectoryError, ListRequest, RoomList, RoomOfAlias},
    federation::FederationError,
};
use ruma::{
    OwnedRoomId, OwnedServerName, RoomAliasId, RoomOrAliasId,
    api::{
        client::{
            alias::{create_alias::v3 as create_alias, delete_alias::v3 as delete_alias, get_alias::v3 as get_alias},
            directory::{
                get_public_rooms::v3 as get_list, get_public_rooms_filtered::v3 as find_in_list,
                get_room_visibility::v3 as get_visibility, set_room_visibility::v3 as set_visibility,
            },
            room::{Visibility, aliases::v3 as aliases},
        },
        error::ErrorKind,
    },
};

use super::{
    Authenticated,
    rooms::{room_id, ruma_room_id},
};
use crate::serve::{
    App,
    error::{MatrixError, MatrixResult},
    typed::{Routes, Ruma, RumaResponse},
};

pub(super) fn routes() -> Router<App> {
    Router::new()
        .ruma::<create_alias::Request, _, _>(add)
        .ruma::<get_alias::Request, _, _>(look_up)
        .ruma::<delete_alias::Request, _, _>(remove)
        .ruma::<aliases::Request, _, _>(of_room)
        .ruma::<get_visibility::Request, _, _>(is_published)
        .ruma::<set_visibility::Request, _, _>(publish)
        .ruma::<get_list::Request, _, _>(list)
        .ruma::<find_in_list::Request, _, _>(find)
}

/// Source: client-server API, "PUT /_matrix/client/v3/directory/room/{roomAlias}".
async fn add(
    State(app): State<App>,
    sender: Authenticated,
    request: Ruma<create_alias::Request>,
) -> MatrixResult<RumaResponse<create_alias::Response>> {
    sender.no_guest()?;
    let room_id = room_id(&request.room_id)?;
    if app.config.rooms.aliases_require_membership
        && app.rooms.membership(&room_id, &sender.user_id).await? != Some(Membership::Join)
    {
        return Err(MatrixError::forbidden("you are not in this room"));
    }
    app.homeserver.directory.add(&request.room_alias, &room_id, &sender.user_id).await?;
    Ok(RumaResponse(create_alias::Response::new()))
}

/// Source: client-server API, "GET /_matrix/client/v3/directory/room/{roomAlias}".
async fn look_up(
    State(app): State<App>,
    request: Ruma<get_alias::Request>,
) -> MatrixResult<RumaResponse<get_alias::Response>> {
    let found = app.homeserver.find_alias(&request.room_alias).await?;
    let servers = found.servers.iter().filter_map(|server| OwnedServerName::try_from(server.as_str()).ok());
    Ok(RumaResponse(get_alias::Response::new(ruma_room_id(&found.room_id)?, servers.collect())))
}

/// Source: client-server API, "DELETE /_matrix/client/v3/directory/room/{roomAlias}".
async fn remove(
    State(app): State<App>,
    sender: Authenticated,
    request: Ruma<delete_alias::Request>,
) -> MatrixResult<RumaResponse<delete_alias::Response>> {
    sender.no_guest()?;
    let is_admin = sender.role == Role::Admin;
    app.homeserver.directory.remove(&request.room_alias, &sender.user_id, is_admin).await?;
    Ok(RumaResponse(delete_alias::Response::new()))
}

/// Source: client-server API, "GET /_matrix/client/v3/rooms/{roomId}/aliases": for its members, and for all if it is world-readable.
async fn of_room(
    State(app): State<App>,
    sender: Authenticated,
    request: Ruma<aliases::Request>,
) -> MatrixResult<RumaResponse<aliases::Response>> {
    let room_id = room_id(&request.room_id)?;
    let is_member = app.rooms.membership(&room_id, &sender.user_id).await? == Some(Membership::Join);
    if !is_member && !app.rooms.is_world_readable(&room_id).await? {
        return Err(MatrixError::forbidden("you are not in this room"));
    }
    Ok(RumaResponse(aliases::Response::new(app.homeserver.directory.aliases_of(&room_id).await?)))
}

/// Source: client-server API, "GET /_matrix/client/v3/directory/list/room/{roomId}".
async fn is_published(
    State(app): State<App>,
    request: Ruma<get_visibility::Request>,
) -> MatrixResult<RumaResponse<get_visibility::Response>> {
    let room_id = room_id(&request.room_id)?;
    if !app.rooms.is_known(&room_id) {
        return Err(MatrixError::not_found("this server does not know the room"));
    }
    let is_published = app.homeserver.directory.is_published(&room_id).await?;
    let visibility = if is_published { Visibility::Public } else { Visibility::Private };
    Ok(RumaResponse(get_visibility::Response::new(visibility)))
}

/// Source: client-server API, "PUT /_matrix/client/v3/directory/list/room/{roomId}": for those who may name the room's aliases.
async fn publish(
    State(app): State<App>,
    sender: Authenticated,
    request: Ruma<set_visibility::Request>,
) -> MatrixResult<RumaResponse<set_visibility::Response>> {
    sender.no_guest()?;
    let room_id = room_id(&request.room_id)?;
    let directory = &app.homeserver.directory;
    if sender.role != Role::Admin {
        directory.check_may_name(&room_id, &sender.user_id).await?;
    }
    let is_published = request.visibility == Visibility::Public;
    if is_published {
        check_publishing(&app)?;
    }
    directory.publish(&room_id, is_published).await?;
    Ok(RumaResponse(set_visibility::Response::new()))
}

/// Refuses to publish rooms where the configuration says so.
pub(super) fn check_publishing(app: &App) -> MatrixResult<()> {
    if app.config.rooms.allow_publishing { Ok(()) } else { Err(MatrixError::forbidden("no rooms are published here")) }
}

/// Source: client-server API, "GET /_matrix/client/v3/publicRooms".
async fn list(
    State(app): State<App>,
    sender: Option<Authenticated>,
    request: Ruma<get_list::Request>,
) -> MatrixResult<RumaResponse<get_list::Response>> {
    if sender.is_none() && !app.config.rooms.public_directory_without_auth {
        return Err(MatrixError::missing_token());
    }
    let get_list::Request { limit, since, server, .. } = request.request;
    let wanted = ListRequest { limit: limit.map(u64::from), since, ..ListRequest::default() };
    let list = list_of(&app, server, wanted).await?;
    let mut response = get_list::Response::new(list.chunk);
    (response.next_batch, response.prev_batch) = (list.next_batch, list.prev_batch);
    response.total_room_count_estimate = Some(list.total);
    Ok(RumaResponse(response))
}

/// Source: client-server API, "POST /_matrix/client/v3/publicRooms".
async fn find(
    State(app): State<App>,
    _: Authenticated,
    request: Ruma<find_in_list::Request>,
) -> MatrixResult<RumaResponse<find_in_list::Response>> {
    let find_in_list::Request { server, limit, since, filter, .. } = request.request;
    let list =
        list_of(&app, server, ListRequest { limit: limit.map(u64::from), since, filter, ..ListRequest::default() })
            .await?;
    let mut response = find_in_list::Response::new();
    (response.chunk, response.next_batch, response.prev_batch) = (list.chunk, list.next_batch, list.prev_batch);
    response.total_room_count_estimate = Some(list.total);
    Ok(RumaResponse(response))
}

async fn list_of(app: &App, server: Option<OwnedServerName>, request: ListRequest) -> MatrixResult<RoomList> {
    let server = match server {
        Some(server) => {
            let invalid = |_| MatrixError::invalid_param("the server's name is invalid");
            ServerName::parse(server.as_str()).map_err(invalid)?
        }
        None => app.server_name().clone(),
    };
    Ok(app.homeserver.list_of(&server, request).await?)
}

/// Returns the room that an id or an alias is of, with servers that may know it.
pub(super) async fn room_of(app: &App, room: &RoomOrAliasId) -> MatrixResult<(OwnedRoomId, Vec<ServerName>)> {
    if let Ok(alias) = <&RoomAliasId>::try_from(room) {
        let RoomOfAlias { room_id, servers } = app.homeserver.find_alias(alias).await?;
        return Ok((ruma_room_id(&room_id)?, servers));
    }
    let invalid = |_| MatrixError::invalid_param("the room id is invalid");
    let room_id = OwnedRoomId::try_from(room.as_str()).map_err(invalid)?;
    let server = RoomId::parse(room_id.as_str()).ok();
    let server = server.and_then(|room_id| ServerName::parse(room_id.server_name()?).ok());
    Ok((room_id, server.into_iter().collect()))
}

impl From<DirectoryError> for MatrixError {
    fn from(error: DirectoryError) -> Self {
        let message = error.to_string();
        match error {
            DirectoryError::NoSuchAlias => Self::not_found(message),
            DirectoryError::InUse => Self::new(http::StatusCode::CONFLICT, ErrorKind::Unknown, message),
            DirectoryError::Forbidden | DirectoryError::TooMany => Self::forbidden(message),
            DirectoryError::NotOurs | DirectoryError::Invalid(_) => Self::invalid_param(message),
            DirectoryError::BadAlias(_) => Self::bad_request(ErrorKind::BadAlias, message),
            DirectoryError::Federation(error @ FederationError::Denied) => Self::forbidden(error.to_string()),
            DirectoryError::Federation(_) => Self::bad_gateway("the other server does not answer"),
            DirectoryError::Rooms(error) => error.into(),
            DirectoryError::Log(_) | DirectoryError::Record(_) | DirectoryError::Id(_) => Self::log_internal(&error),
        }
    }
}
