//! What clients may expect of this server.

use axum::{Json, Router, extract::State, routing::get};
use ravel_core::room_version::RoomVersion;
use serde_json::{Map, Value, json};

use super::Authenticated;
use crate::serve::{App, typed::Routes};

pub(super) fn routes() -> Router<App> {
    Router::new().client("/capabilities", get(capabilities))
}

/// Source: client-server API, "GET /_matrix/client/v3/capabilities".
async fn capabilities(State(app): State<App>, _: Authenticated) -> Json<Value> {
    let stable = |version: &RoomVersion| (version.as_str().to_owned(), Value::from("stable"));
    let available: Map<String, Value> = RoomVersion::ALL.iter().map(stable).collect();
    Json(json!({ "capabilities": {
        "m.room_versions": { "default": app.config.rooms.default_version.as_str(), "available": available },
        "m.change_password": { "enabled": false },
        "m.set_displayname": { "enabled": true },
        "m.set_avatar_url": { "enabled": true },
        "m.profile_fields": { "enabled": true },
        "m.3pid_changes": { "enabled": false },
        "m.get_login_token": { "enabled": false },
        "m.forget_forced_upon_leave": { "enabled": false },
    }}))
}
