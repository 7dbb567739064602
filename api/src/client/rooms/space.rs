//! Spaces.

use axum::{Router, extract::State};
use ravel_homeserver::spaces::{TREE_ROOMS_MAX, TreeRequest};
use ruma::{
    UInt,
    api::client::space::{SpaceHierarchyRoomsChunk, get_hierarchy::v1 as hierarchy},
    room::RoomSummary,
};

use super::room_id;
use crate::{
    client::Authenticated,
    serve::{
        App,
        error::{MatrixError, MatrixResult},
        typed::{Routes, Ruma, RumaResponse},
    },
};

pub(super) fn routes() -> Router<App> {
    Router::new().ruma::<hierarchy::Request, _, _>(get_hierarchy)
}

/// The rooms of an answer unless something else is asked for.
const LIMIT_DEFAULT: usize = 50;

/// Source: client-server API, "GET /_matrix/client/v1/rooms/{roomId}/hierarchy". `from` is the number of rooms that come before.
async fn get_hierarchy(
    State(app): State<App>,
    sender: Authenticated,
    request: Ruma<hierarchy::Request>,
) -> MatrixResult<RumaResponse<hierarchy::Response>> {
    let number = |value: UInt| usize::try_from(u64::from(value)).unwrap_or(usize::MAX);
    let bad = || MatrixError::invalid_param("from is no token of this server");
    let from = match &request.from {
        Some(from) => from.strip_prefix('h').and_then(|from| from.parse().ok()).ok_or_else(bad)?,
        None => 0,
    };
    let limit = request.limit.map_or(LIMIT_DEFAULT, number).min(TREE_ROOMS_MAX);
    let suggested_only = request.suggested_only;
    let wanted = TreeRequest { from, limit, depth_max: request.max_depth.map(number), suggested_only };
    let tree = app.rooms.space_tree(&sender.user_id, &room_id(&request.room_id)?, wanted).await?;
    let mut response = hierarchy::Response::new();
    response.next_batch = tree.next.map(|next| format!("h{next}"));
    let rooms = tree.rooms.into_iter();
    let chunk = rooms.map(|room| SpaceHierarchyRoomsChunk::new(RoomSummary::clone(&room.summary), room.children_state));
    response.rooms = chunk.collect();
    Ok(RumaResponse(response))
}
