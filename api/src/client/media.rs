//! Files that users upload and look at.
//!
//! Source: client-server API, "Content repository".

use std::time::Duration;

use axum::{
    Json, Router,
    extract::{Query, Request, State},
    response::Response,
    routing::{get, post},
};
use http::header;
use ravel_core::id::ServerName;
use ravel_homeserver::media::{Description, FILE_NAME_BYTES_MAX, OpenFile};
use ruma::{
    OwnedServerName,
    api::client::authenticated_media::{get_content, get_content_as_filename, get_content_thumbnail, get_media_config},
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::Authenticated;
use crate::serve::{
    App,
    error::{MatrixError, MatrixResult},
    files,
    typed::{Routes, Ruma, check_body_headers},
};

pub(super) fn routes() -> Router<App> {
    let routes = Router::new()
        .ruma::<get_content::v1::Request, _, _>(download)
        .ruma::<get_content_as_filename::v1::Request, _, _>(download_as)
        .ruma::<get_content_thumbnail::v1::Request, _, _>(thumbnail)
        .ruma::<get_media_config::v1::Request, _, _>(config);
    ["r0", "v1", "v3"].into_iter().fold(routes, |routes, version| {
        let at = |path: &str| format!("/_matrix/media/{version}/{path}");
        routes
            .route(&at("upload"), post(upload))
            .route(&at("config"), get(config))
            .route(&at("download/{server_name}/{media_id}"), get(frozen))
            .route(&at("download/{server_name}/{media_id}/{file_name}"), get(frozen))
            .route(&at("thumbnail/{server_name}/{media_id}"), get(frozen))
    })
}

/// An upload has `limits.body_seconds_max`, and beyond that as long as it takes at this rate.
const UPLOAD_BYTES_PER_SECOND_MIN: u64 = 16 << 10;

#[derive(Deserialize)]
struct Upload {
    filename: Option<String>,
}

/// Source: client-server API, "POST /_matrix/media/v3/upload".
async fn upload(State(app): State<App>, sender: Authenticated, request: Request) -> MatrixResult<Json<Value>> {
    sender.no_guest()?;
    let media = &app.homeserver.media;
    check_body_headers(request.headers(), media.file_bytes_max())?;
    let query = Query::<Upload>::try_from_uri(request.uri());
    let Query(Upload { filename }) = query.map_err(|error| MatrixError::invalid_param(error.body_text()))?;
    let content_type = request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let description = Description { content_type: content_type.map(str::to_owned), file_name: filename };
    let seconds = u64::from(app.config.limits.body_seconds_max) + media.file_bytes_max() / UPLOAD_BYTES_PER_SECOND_MIN;
    let upload = media.upload(&sender.user_id, description, request.into_body().into_data_stream());
    let uploaded = tokio::time::timeout(Duration::from_secs(seconds), upload).await;
    let media_id = uploaded.map_err(|_| MatrixError::too_slow())??;
    Ok(Json(json!({ "content_uri": format!("mxc://{}/{media_id}", app.server_name()) })))
}

/// Source: client-server API, "GET /_matrix/client/v1/media/config".
async fn config(State(app): State<App>, _: Authenticated) -> Json<Value> {
    Json(json!({ "m.upload.size": app.homeserver.media.file_bytes_max() }))
}

/// Source: client-server API, "GET /_matrix/client/v1/media/download/{serverName}/{mediaId}".
async fn download(
    State(app): State<App>,
    _: Authenticated,
    request: Ruma<get_content::v1::Request>,
) -> MatrixResult<Response> {
    files::answer(file_of(&app, &request.server_name, &request.media_id, request.timeout_ms).await?)
}

/// Source: client-server API, "GET /_matrix/client/v1/media/download/{serverName}/{mediaId}/{fileName}".
async fn download_as(
    State(app): State<App>,
    _: Authenticated,
    request: Ruma<get_content_as_filename::v1::Request>,
) -> MatrixResult<Response> {
    let get_content_as_filename::v1::Request { server_name, media_id, filename, timeout_ms, .. } = request.request;
    if filename.len() > FILE_NAME_BYTES_MAX {
        return Err(MatrixError::invalid_param("the name of the file is too long"));
    }
    let mut file = file_of(&app, &server_name, &media_id, timeout_ms).await?;
    file.description.file_name = Some(filename);
    files::answer(file)
}

/// Source: client-server API, "GET /_matrix/client/v1/media/thumbnail/{serverName}/{mediaId}".
async fn thumbnail(
    State(app): State<App>,
    _: Authenticated,
    request: Ruma<get_content_thumbnail::v1::Request>,
) -> MatrixResult<Response> {
    let wanted = files::wanted_thumbnail(request.width, request.height, request.request.method.as_ref())?;
    let (server, media_id) = (server(&request.server_name)?, files::media_id(&request.media_id)?);
    files::answer(app.homeserver.media.thumbnail(&server, &media_id, wanted, request.timeout_ms).await?)
}

/// Without access token nothing is shown: all files here are younger than the freeze of these endpoints.
///
/// Source: client-server API, "Content repository": "This endpoint MAY return 404 M_NOT_FOUND for media which exists, but is after the
/// server froze unauthenticated media access."
async fn frozen() -> MatrixError {
    MatrixError::not_found("files are shown to users alone, who ask for them at /_matrix/client/v1/media")
}

async fn file_of(app: &App, server_name: &OwnedServerName, media_id: &str, wait: Duration) -> MatrixResult<OpenFile> {
    Ok(app.homeserver.media.get(&server(server_name)?, &files::media_id(media_id)?, wait).await?)
}

fn server(name: &OwnedServerName) -> MatrixResult<ServerName> {
    ServerName::parse(name.as_str()).map_err(|_| MatrixError::invalid_param("the server's name is invalid"))
}
