//! Making rooms.

use axum::{Router, extract::State};
use ravel_core::{canonical_json::CanonicalJsonObject, room_version::RoomVersion};
use ravel_homeserver::rooms::{CreateRoom, Preset, SendEvent};
use ruma::{
    OwnedRoomAliasId,
    api::{
        client::room::{Visibility, create_room::v3 as create_room},
        error::ErrorKind,
    },
    serde::Raw,
};

use super::{content, ruma_room_id, user_id};
use crate::{
    client::{Authenticated, directory::check_publishing},
    serve::{
        App,
        error::{MatrixError, MatrixResult},
        typed::{Routes, Ruma, RumaResponse},
    },
};

pub(super) fn routes() -> Router<App> {
    Router::new().ruma::<create_room::Request, _, _>(create)
}

/// Source: client-server API, "POST /_matrix/client/v3/createRoom".
async fn create(
    State(app): State<App>,
    sender: Authenticated,
    request: Ruma<create_room::Request>,
) -> MatrixResult<RumaResponse<create_room::Response>> {
    sender.no_guest()?;
    let request = request.request;
    let version = match &request.room_version {
        Some(version) => version.as_str(),
        None => app.config.rooms.default_version.as_str(),
    };
    let unsupported = || {
        let message = "this server does not know the room version";
        MatrixError::bad_request(ErrorKind::UnsupportedRoomVersion, message)
    };
    let room_version = RoomVersion::parse(version).ok_or_else(unsupported)?;
    if !request.invite_3pid.is_empty() {
        return Err(MatrixError::invalid_param("invites by third-party ids are not supported yet"));
    }
    let is_published = request.visibility == Visibility::Public;
    if is_published {
        check_publishing(&app)?;
    }
    let alias = match &request.room_alias_name {
        Some(name) => Some(free_alias(&app, name).await?),
        None => None,
    };
    let preset = match &request.preset {
        Some(create_room::RoomPreset::PrivateChat) => Preset::PrivateChat,
        Some(create_room::RoomPreset::TrustedPrivateChat) => Preset::TrustedPrivateChat,
        Some(create_room::RoomPreset::PublicChat) => Preset::PublicChat,
        None if request.visibility == Visibility::Public => Preset::PublicChat,
        None => Preset::PrivateChat,
        Some(_) => return Err(MatrixError::invalid_param("the preset is unknown")),
    };
    let optional = |given: Option<CanonicalJsonObject>| given.unwrap_or_default();
    let mut initial_state = request.initial_state.iter().map(initial_state).collect::<MatrixResult<Vec<_>>>()?;
    for event in initial_state.iter().filter(|event| event.event_type == CANONICAL_ALIAS) {
        check_names_nothing(event)?;
    }
    if let Some(alias) = &alias {
        let content = CanonicalJsonObject::from([("alias".into(), alias.as_str().into())]);
        let (event_type, state_key) = (CANONICAL_ALIAS.to_owned(), Some(String::new()));
        initial_state.insert(0, SendEvent { event_type, state_key, content, redacts: None });
    }
    let wanted = CreateRoom {
        room_version,
        preset,
        creation_content: optional(request.creation_content.as_ref().map(content).transpose()?),
        power_level_content_override: optional(request.power_level_content_override.as_ref().map(content).transpose()?),
        initial_state,
        name: request.name,
        topic: request.topic,
        invite: request.invite.iter().map(|user| user_id(user)).collect::<MatrixResult<_>>()?,
        is_direct: request.is_direct,
        member_content: app.homeserver.profiles.member_content(&sender.user_id).await?,
    };
    let room_id = app.homeserver.create_room(&sender.user_id, wanted).await?;
    let directory = &app.homeserver.directory;
    if let Some(alias) = &alias {
        directory.add(alias, &room_id, &sender.user_id).await?;
    }
    if is_published {
        directory.publish(&room_id, true).await?;
    }
    Ok(RumaResponse(create_room::Response::new(ruma_room_id(&room_id)?)))
}

/// Returns the alias of a name, which nobody has yet.
async fn free_alias(app: &App, name: &str) -> MatrixResult<OwnedRoomAliasId> {
    let alias = OwnedRoomAliasId::try_from(format!("#{name}:{}", app.server_name()));
    let alias = alias.ok().filter(|_| !name.contains([':', '#']) && !name.chars().any(char::is_whitespace));
    let alias = alias.ok_or_else(|| MatrixError::invalid_param("there can be no alias of this name"))?;
    match app.homeserver.directory.alias(&alias).await? {
        Some(_) => Err(MatrixError::bad_request(ErrorKind::RoomInUse, "the alias is taken")),
        None => Ok(alias),
    }
}

/// No alias is of a room that is not there yet.
fn check_names_nothing(event: &SendEvent) -> MatrixResult<()> {
    if event.content.contains_key("alias") || event.content.contains_key("alt_aliases") {
        return Err(MatrixError::bad_request(
            ErrorKind::BadAlias,
            "`initial_state` names aliases that are not the room's",
        ));
    }
    Ok(())
}

/// The event that names a room's aliases.
const CANONICAL_ALIAS: &str = "m.room.canonical_alias";

fn initial_state<T>(event: &Raw<T>) -> MatrixResult<SendEvent> {
    let mut event = content(event)?;
    let bad = || MatrixError::bad_json("an event of initial_state lacks its type or content");
    let text = |value: Option<_>| match value {
        Some(ravel_core::canonical_json::CanonicalJsonValue::String(text)) => Some(String::from(text)),
        _ => None,
    };
    let event_type = text(event.remove("type")).ok_or_else(bad)?;
    let state_key = text(event.remove("state_key")).unwrap_or_default();
    let Some(ravel_core::canonical_json::CanonicalJsonValue::Object(content)) = event.remove("content") else {
        return Err(bad());
    };
    Ok(SendEvent { event_type, state_key: Some(state_key), content, redacts: None })
}
