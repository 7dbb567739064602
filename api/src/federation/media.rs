//! Files for other servers.

use axum::Router;
use ruma::api::federation::authenticated_media::{get_content, get_content_thumbnail};

use super::Signed;
use crate::serve::{App, error::MatrixError, typed::Routes};

pub(super) fn routes() -> Router<App> {
    Router::new()
        .ruma::<get_content::v1::Request, _, _>(download)
        .ruma::<get_content_thumbnail::v1::Request, _, _>(thumbnail)
}

/// This server has no files yet.
///
/// Source: server-server API, "GET /_matrix/federation/v1/media/download/{mediaId}".
async fn download(_: Signed<get_content::v1::Request>) -> MatrixError {
    MatrixError::not_found("there is no such file")
}

/// Source: server-server API, "GET /_matrix/federation/v1/media/thumbnail/{mediaId}".
async fn thumbnail(_: Signed<get_content_thumbnail::v1::Request>) -> MatrixError {
    MatrixError::not_found("there is no such file")
}
