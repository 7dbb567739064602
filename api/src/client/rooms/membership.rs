//! Joining, inviting, leaving, kicking, banning.

use axum::{Router, extract::State};
use ravel_core::{
    canonical_json::CanonicalJsonObject,
    event::Membership,
    id::{ServerName, UserId},
};
use ravel_homeserver::{
    joining::MembershipError,
    rooms::{MembershipChange, RoomsError},
};
use ruma::api::client::{
    knock::knock_room,
    membership::{
        ban_user, forget_room, invite_user, join_room_by_id, join_room_by_id_or_alias, joined_rooms, kick_user,
        leave_room, unban_user,
    },
};

use super::{room_id, ruma_room_id, user_id};
use crate::{
    client::{Authenticated, directory::room_of},
    serve::{
        App,
        error::{MatrixError, MatrixResult},
        typed::{Routes, Ruma, RumaResponse},
    },
};

pub(super) fn routes() -> Router<App> {
    Router::new()
        .ruma::<join_room_by_id::v3::Request, _, _>(join)
        .ruma::<join_room_by_id_or_alias::v3::Request, _, _>(join_by_name)
        .ruma::<leave_room::v3::Request, _, _>(leave)
        .ruma::<forget_room::v3::Request, _, _>(forget)
        .ruma::<knock_room::v3::Request, _, _>(knock)
        .ruma::<invite_user::v3::Request, _, _>(invite)
        .ruma::<kick_user::v3::Request, _, _>(kick)
        .ruma::<ban_user::v3::Request, _, _>(ban)
        .ruma::<unban_user::v3::Request, _, _>(unban)
        .ruma::<joined_rooms::v3::Request, _, _>(joined)
}

/// Changes the membership of a user, by another one or itself.
async fn change(
    app: &App,
    sender: &Authenticated,
    room: &ruma::RoomId,
    target: &ruma::UserId,
    membership: Membership,
    reason: Option<String>,
) -> MatrixResult<()> {
    // Guests may leave, and join where the room lets them.
    let is_of_guests = matches!(membership, Membership::Leave | Membership::Join);
    if !is_of_guests || sender.user_id.as_str() != target.as_str() {
        sender.no_guest()?;
    }
    let target = user_id(target)?;
    let content = member_content(app, &target, membership, reason).await?;
    let change = MembershipChange { target, membership, content };
    app.rooms.change_membership(&room_id(room)?, &sender.user_id, change).await?;
    Ok(())
}

/// Returns what a member event says beside the membership.
async fn member_content(
    app: &App,
    target: &UserId,
    membership: Membership,
    reason: Option<String>,
) -> MatrixResult<CanonicalJsonObject> {
    let mut content = match membership {
        Membership::Join | Membership::Invite | Membership::Knock => {
            app.homeserver.profiles.member_content(target).await?
        }
        _ => CanonicalJsonObject::new(),
    };
    content.extend(reason.map(|reason| ("reason".into(), reason.into())));
    Ok(content)
}

/// Returns the servers that a client names, and then those that are known by the room's name.
fn server_names(given: &[ruma::OwnedServerName], known: Vec<ServerName>) -> Vec<ServerName> {
    given.iter().filter_map(|server| ServerName::parse(server.as_str()).ok()).chain(known).collect()
}

/// Source: client-server API, "POST /_matrix/client/v3/rooms/{roomId}/join".
async fn join(
    State(app): State<App>,
    sender: Authenticated,
    request: Ruma<join_room_by_id::v3::Request>,
) -> MatrixResult<RumaResponse<join_room_by_id::v3::Response>> {
    let request = request.request;
    enter(&app, &sender, &request.room_id, &[], request.reason).await?;
    Ok(RumaResponse(join_room_by_id::v3::Response::new(request.room_id)))
}

/// Source: client-server API, "POST /_matrix/client/v3/join/{roomIdOrAlias}".
async fn join_by_name(
    State(app): State<App>,
    sender: Authenticated,
    request: Ruma<join_room_by_id_or_alias::v3::Request>,
) -> MatrixResult<RumaResponse<join_room_by_id_or_alias::v3::Response>> {
    let request = request.request;
    let (room_id, servers) = room_of(&app, &request.room_id_or_alias).await?;
    enter(&app, &sender, &room_id, &server_names(&request.via, servers), request.reason).await?;
    Ok(RumaResponse(join_room_by_id_or_alias::v3::Response::new(room_id)))
}

/// Who is in the room already is answered as if it just had joined.
async fn enter(
    app: &App,
    sender: &Authenticated,
    room: &ruma::RoomId,
    via: &[ServerName],
    reason: Option<String>,
) -> MatrixResult<()> {
    let content = member_content(app, &sender.user_id, Membership::Join, reason).await?;
    Ok(app.homeserver.join(&sender.user_id, &room_id(room)?, via, content).await?)
}

/// Source: client-server API, "POST /_matrix/client/v3/rooms/{roomId}/leave". Who is not in the room any more has left.
async fn leave(
    State(app): State<App>,
    sender: Authenticated,
    request: Ruma<leave_room::v3::Request>,
) -> MatrixResult<RumaResponse<leave_room::v3::Response>> {
    let request = request.request;
    let content = member_content(&app, &sender.user_id, Membership::Leave, request.reason).await?;
    match app.homeserver.leave(&sender.user_id, &room_id(&request.room_id)?, content).await {
        Ok(()) | Err(MembershipError::Rooms(RoomsError::NoChange)) => {}
        Err(error) => return Err(error.into()),
    }
    Ok(RumaResponse(leave_room::v3::Response::new()))
}

/// Source: client-server API, "POST /_matrix/client/v3/rooms/{roomId}/forget".
async fn forget(
    State(app): State<App>,
    sender: Authenticated,
    request: Ruma<forget_room::v3::Request>,
) -> MatrixResult<RumaResponse<forget_room::v3::Response>> {
    app.rooms.forget(&room_id(&request.room_id)?, &sender.user_id).await?;
    Ok(RumaResponse(forget_room::v3::Response::new()))
}

/// Source: client-server API, "POST /_matrix/client/v3/knock/{roomIdOrAlias}".
async fn knock(
    State(app): State<App>,
    sender: Authenticated,
    request: Ruma<knock_room::v3::Request>,
) -> MatrixResult<RumaResponse<knock_room::v3::Response>> {
    let request = request.request;
    sender.no_guest()?;
    let (room, servers) = room_of(&app, &request.room_id_or_alias).await?;
    let content = member_content(&app, &sender.user_id, Membership::Knock, request.reason).await?;
    let via = server_names(&request.via, servers);
    app.homeserver.knock(&sender.user_id, &room_id(&room)?, &via, content).await?;
    Ok(RumaResponse(knock_room::v3::Response::new(room)))
}

/// Source: client-server API, "POST /_matrix/client/v3/rooms/{roomId}/invite".
async fn invite(
    State(app): State<App>,
    sender: Authenticated,
    request: Ruma<invite_user::v3::Request>,
) -> MatrixResult<RumaResponse<invite_user::v3::Response>> {
    let request = request.request;
    let invite_user::v3::InvitationRecipient::UserId(recipient) = &request.recipient else {
        return Err(MatrixError::invalid_param("invites by third-party ids are not supported yet"));
    };
    sender.no_guest()?;
    let target = user_id(&recipient.user_id)?;
    let content = member_content(&app, &target, Membership::Invite, recipient.reason.clone()).await?;
    app.homeserver.invite(&sender.user_id, &room_id(&request.room_id)?, &target, content).await?;
    Ok(RumaResponse(invite_user::v3::Response::new()))
}

/// Source: client-server API, "POST /_matrix/client/v3/rooms/{roomId}/kick".
async fn kick(
    State(app): State<App>,
    sender: Authenticated,
    request: Ruma<kick_user::v3::Request>,
) -> MatrixResult<RumaResponse<kick_user::v3::Response>> {
    let request = request.request;
    let now = app.rooms.membership(&room_id(&request.room_id)?, &user_id(&request.user_id)?).await?;
    if now == Some(Membership::Ban) {
        // That would lift the ban.
        return Err(MatrixError::forbidden("the user is banned"));
    }
    change(&app, &sender, &request.room_id, &request.user_id, Membership::Leave, request.reason).await?;
    Ok(RumaResponse(kick_user::v3::Response::new()))
}

/// Source: client-server API, "POST /_matrix/client/v3/rooms/{roomId}/ban".
async fn ban(
    State(app): State<App>,
    sender: Authenticated,
    request: Ruma<ban_user::v3::Request>,
) -> MatrixResult<RumaResponse<ban_user::v3::Response>> {
    let request = request.request;
    change(&app, &sender, &request.room_id, &request.user_id, Membership::Ban, request.reason).await?;
    Ok(RumaResponse(ban_user::v3::Response::new()))
}

/// Source: client-server API, "POST /_matrix/client/v3/rooms/{roomId}/unban".
async fn unban(
    State(app): State<App>,
    sender: Authenticated,
    request: Ruma<unban_user::v3::Request>,
) -> MatrixResult<RumaResponse<unban_user::v3::Response>> {
    let request = request.request;
    let now = app.rooms.membership(&room_id(&request.room_id)?, &user_id(&request.user_id)?).await?;
    if now != Some(Membership::Ban) {
        return Err(MatrixError::forbidden("the user is not banned"));
    }
    change(&app, &sender, &request.room_id, &request.user_id, Membership::Leave, request.reason).await?;
    Ok(RumaResponse(unban_user::v3::Response::new()))
}

/// Source: client-server API, "GET /_matrix/client/v3/joined_rooms".
async fn joined(
    State(app): State<App>,
    sender: Authenticated,
) -> MatrixResult<RumaResponse<joined_rooms::v3::Response>> {
    let rooms = app.rooms.joined_rooms(&sender.user_id);
    let rooms = rooms.iter().map(ruma_room_id).collect::<MatrixResult<_>>()?;
    Ok(RumaResponse(joined_rooms::v3::Response::new(rooms)))
}
