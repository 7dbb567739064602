//! Files for other servers.

use axum::{
    Router,
    body::{Body, Bytes},
    extract::State,
    response::Response,
};
use futures_util::{StreamExt, stream};
use http::{HeaderValue, header};
use ravel_homeserver::{media::OpenFile, random::random_text};
use ruma::api::federation::authenticated_media::{get_content, get_content_thumbnail};

use super::Signed;
use crate::serve::{
    App,
    error::{MatrixError, MatrixResult},
    files,
    typed::Routes,
};

pub(super) fn routes() -> Router<App> {
    Router::new()
        .ruma::<get_content::v1::Request, _, _>(download)
        .ruma::<get_content_thumbnail::v1::Request, _, _>(thumbnail)
}

/// Letters of a boundary, which no file has but by chance.
const BOUNDARY_CHARS: usize = 30;

/// Gives a file that was uploaded here, and none of other servers.
///
/// Source: server-server API, "GET /_matrix/federation/v1/media/download/{mediaId}".
async fn download(State(app): State<App>, request: Signed<get_content::v1::Request>) -> MatrixResult<Response> {
    let file = app.homeserver.media.local(&files::media_id(&request.media_id)?).await?;
    in_two_parts(file, &random_text(&*app.homeserver.random, BOUNDARY_CHARS))
}

/// Source: server-server API, "GET /_matrix/federation/v1/media/thumbnail/{mediaId}".
async fn thumbnail(
    State(app): State<App>,
    request: Signed<get_content_thumbnail::v1::Request>,
) -> MatrixResult<Response> {
    let wanted = files::wanted_thumbnail(request.width, request.height, request.method.as_ref())?;
    let file = app.homeserver.media.local_thumbnail(&files::media_id(&request.media_id)?, wanted).await?;
    in_two_parts(file, &random_text(&*app.homeserver.random, BOUNDARY_CHARS))
}

/// Answers with a file and what is known of it, which is nothing. (ruma's type for that has the whole file in memory.)
fn in_two_parts(file: OpenFile, boundary: &str) -> MatrixResult<Response> {
    let (content_type, disposition) = (files::content_type(&file.description), files::disposition(&file.description));
    let head = format!(
        "--{boundary}\r\nContent-Type: application/json\r\n\r\n{{}}\r\n--{boundary}\r\n\
         Content-Type: {content_type}\r\nContent-Disposition: {disposition}\r\n\r\n"
    );
    let tail = format!("\r\n--{boundary}--\r\n");
    let bytes = head.len() as u64 + file.bytes + tail.len() as u64;
    let content_type = HeaderValue::from_str(&format!("multipart/mixed; boundary={boundary}"));
    let content_type = content_type.map_err(|error| MatrixError::log_internal(&error))?;
    let whole = |text: String| stream::iter([Ok(Bytes::from(text))]);
    let mut response = Response::new(Body::from_stream(whole(head).chain(files::parts(file)).chain(whole(tail))));
    response.headers_mut().extend([(header::CONTENT_TYPE, content_type), (header::CONTENT_LENGTH, bytes.into())]);
    Ok(response)
}
