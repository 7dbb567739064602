//! Aliases, the list of published rooms, and spaces, for other servers.

use axum::{Router, extract::State};
use ravel_homeserver::directory::{ListRequest, RoomList};
use ruma::{
    OwnedRoomId, OwnedServerName,
    api::federation::{
        directory::{get_public_rooms::v1 as get_list, get_public_rooms_filtered::v1 as find_in_list},
        query::get_room_information::v1 as alias,
        space::{SpaceHierarchyParentSummary, get_hierarchy::v1 as hierarchy},
    },
    room::RoomSummary,
};

use super::Signed;
use crate::{
    client::rooms::{room_id, ruma_room_id},
    serve::{
        App,
        error::{MatrixError, MatrixResult},
        typed::{Routes, RumaResponse},
    },
};

pub(super) fn routes() -> Router<App> {
    Router::new()
        .ruma::<alias::Request, _, _>(look_up)
        .ruma::<get_list::Request, _, _>(list)
        .ruma::<find_in_list::Request, _, _>(find)
        .ruma::<hierarchy::Request, _, _>(get_hierarchy)
}

/// Source: server-server API, "GET /_matrix/federation/v1/query/directory".
async fn look_up(
    State(app): State<App>,
    request: Signed<alias::Request>,
) -> MatrixResult<RumaResponse<alias::Response>> {
    let found = app.homeserver.directory.room_of(&request.room_alias).await?;
    let found = found.ok_or_else(|| MatrixError::not_found("there is no such alias"))?;
    let servers = found.servers.iter().filter_map(|server| OwnedServerName::try_from(server.as_str()).ok());
    Ok(RumaResponse(alias::Response::new(ruma_room_id(&found.room_id)?, servers.collect())))
}

/// Source: server-server API, "GET /_matrix/federation/v1/publicRooms".
async fn list(
    State(app): State<App>,
    request: Signed<get_list::Request>,
) -> MatrixResult<RumaResponse<get_list::Response>> {
    let (limit, since) = (request.limit.map(u64::from), request.since.clone());
    let list = list_of(&app, ListRequest { limit, since, is_for_others: true, ..ListRequest::default() }).await?;
    let mut response = get_list::Response::new();
    (response.chunk, response.next_batch, response.prev_batch) = (list.chunk, list.next_batch, list.prev_batch);
    response.total_room_count_estimate = Some(list.total);
    Ok(RumaResponse(response))
}

/// Source: server-server API, "POST /_matrix/federation/v1/publicRooms".
async fn find(
    State(app): State<App>,
    request: Signed<find_in_list::Request>,
) -> MatrixResult<RumaResponse<find_in_list::Response>> {
    let (limit, since, filter) = (request.limit.map(u64::from), request.since.clone(), request.filter.clone());
    let list = list_of(&app, ListRequest { limit, since, filter, is_for_others: true }).await?;
    let mut response = find_in_list::Response::new();
    (response.chunk, response.next_batch, response.prev_batch) = (list.chunk, list.next_batch, list.prev_batch);
    response.total_room_count_estimate = Some(list.total);
    Ok(RumaResponse(response))
}

async fn list_of(app: &App, request: ListRequest) -> MatrixResult<RoomList> {
    if !app.config.rooms.public_directory_over_federation {
        return Err(MatrixError::forbidden("the list of rooms is not for other servers"));
    }
    Ok(app.homeserver.directory.list(&request).await?)
}

/// Source: server-server API, "GET /_matrix/federation/v1/hierarchy/{roomId}".
async fn get_hierarchy(
    State(app): State<App>,
    request: Signed<hierarchy::Request>,
) -> MatrixResult<RumaResponse<hierarchy::Response>> {
    let room_id = room_id(&request.room_id)?;
    let found = app.homeserver.answer_hierarchy(&request.origin, &room_id, request.suggested_only).await?;
    let room = SpaceHierarchyParentSummary::new(RoomSummary::clone(&found.room), found.children_state);
    let mut response = hierarchy::Response::new(room);
    response.children = found.children.iter().map(|child| RoomSummary::clone(child)).collect();
    let inaccessible = found.inaccessible_children.iter().map(ruma_room_id);
    response.inaccessible_children = inaccessible.collect::<MatrixResult<Vec<OwnedRoomId>>>()?;
    Ok(RumaResponse(response))
}
