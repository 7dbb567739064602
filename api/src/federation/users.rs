//! What other servers ask about users of this one.

use std::collections::BTreeMap;

use axum::{Json, Router, extract::State};
use ravel_core::id::UserId;
use ruma::{
    UInt,
    api::federation::{
        device::get_devices::v1 as devices,
        keys::{claim_keys::v1 as claim_keys, get_keys::v1 as get_keys},
        openid::get_openid_userinfo::v1 as userinfo,
        query::{get_custom_information::v1 as other_query, get_profile_information::v1 as profile},
    },
};
use serde_json::{Map, Value};

use super::Signed;
use crate::{
    client::{rooms::user_id, ruma_user_id},
    serve::{
        App,
        error::{MatrixError, MatrixResult},
        typed::{Routes, Ruma, RumaResponse},
    },
};

pub(super) fn routes() -> Router<App> {
    Router::new()
        .ruma::<profile::Request, _, _>(get_profile)
        .ruma::<other_query::Request, _, _>(get_other)
        .ruma::<devices::Request, _, _>(get_devices)
        .ruma::<get_keys::Request, _, _>(query_keys)
        .ruma::<claim_keys::Request, _, _>(claim)
        .ruma::<userinfo::Request, _, _>(get_userinfo)
}

/// Source: server-server API, "GET /_matrix/federation/v1/query/profile".
async fn get_profile(
    State(app): State<App>,
    request: Signed<profile::Request>,
) -> MatrixResult<Json<Map<String, Value>>> {
    let user = known_user(&app, &request.user_id).await?;
    let mut profile = app.homeserver.profiles.get(&user).await?;
    if let Some(field) = &request.field {
        profile.retain(|name, _| name == field.as_str());
    }
    Ok(Json(profile))
}

/// Source: server-server API, "GET /_matrix/federation/v1/query/{queryType}".
async fn get_other(_: Signed<other_query::Request>) -> MatrixError {
    MatrixError::not_found("there are no queries of this type")
}

/// No device of this server has keys yet.
///
/// Source: server-server API, "GET /_matrix/federation/v1/user/devices/{userId}".
async fn get_devices(
    State(app): State<App>,
    request: Signed<devices::Request>,
) -> MatrixResult<RumaResponse<devices::Response>> {
    known_user(&app, &request.user_id).await?;
    Ok(RumaResponse(devices::Response::new(request.user_id.clone(), UInt::MIN)))
}

/// Source: server-server API, "POST /_matrix/federation/v1/user/keys/query".
async fn query_keys(
    State(app): State<App>,
    request: Signed<get_keys::Request>,
) -> MatrixResult<RumaResponse<get_keys::Response>> {
    for user in request.device_keys.keys() {
        own_user(&app, user)?;
    }
    let none = request.device_keys.keys().map(|user| (user.clone(), BTreeMap::new()));
    Ok(RumaResponse(get_keys::Response::new(none.collect())))
}

/// Source: server-server API, "POST /_matrix/federation/v1/user/keys/claim".
async fn claim(
    State(app): State<App>,
    request: Signed<claim_keys::Request>,
) -> MatrixResult<RumaResponse<claim_keys::Response>> {
    for user in request.one_time_keys.keys() {
        own_user(&app, user)?;
    }
    Ok(RumaResponse(claim_keys::Response::new(BTreeMap::new())))
}

/// The request is not signed: it may be from anybody who got a token from its user.
///
/// Source: server-server API, "GET /_matrix/federation/v1/openid/userinfo".
async fn get_userinfo(
    State(app): State<App>,
    request: Ruma<userinfo::Request>,
) -> MatrixResult<RumaResponse<userinfo::Response>> {
    let user = app.homeserver.open_id.user_of(&request.access_token);
    let user = user.ok_or_else(|| MatrixError::unknown_token(false))?;
    Ok(RumaResponse(userinfo::Response::new(ruma_user_id(&user)?)))
}

/// Returns a user of this server, be there one or not. What is known here of users of others is for nobody but our own users to see.
fn own_user(app: &App, user: &ruma::UserId) -> MatrixResult<UserId> {
    let user = user_id(user)?;
    if user.server_name() == app.server_name().as_str() {
        Ok(user)
    } else {
        Err(MatrixError::invalid_param("this is no user of this server"))
    }
}

/// Returns a user of this server that there is.
async fn known_user(app: &App, user: &ruma::UserId) -> MatrixResult<UserId> {
    let user = own_user(app, user)?;
    if app.accounts.is_known(&user).await? { Ok(user) } else { Err(MatrixError::not_found("there is no such user")) }
}
