//! Users' files in answers: headers that keep browsers from running them, and bodies that are read while they are sent.

use std::io;

use axum::{
    body::{Body, Bytes},
    response::Response,
};
use futures_util::{Stream, stream};
use http::{HeaderName, HeaderValue, StatusCode, header};
use ravel_homeserver::{
    federation::FederationError,
    media::{Description, MediaError, MediaId, OpenFile, ThumbnailMethod, WantedThumbnail},
};
use ruma::{
    UInt,
    api::error::ErrorKind,
    http_headers::{ContentDisposition, ContentDispositionType},
    media::Method,
};
use tokio::io::AsyncReadExt;

use super::error::{MatrixError, MatrixResult};

/// What browsers may show by themselves. Source: client-server API, "Serving inline content".
const INLINE_TYPES: [&str; 26] = [
    "text/css",
    "text/plain",
    "text/csv",
    "application/json",
    "application/ld+json",
    "image/jpeg",
    "image/gif",
    "image/png",
    "image/apng",
    "image/webp",
    "image/avif",
    "video/mp4",
    "video/webm",
    "video/ogg",
    "video/quicktime",
    "audio/mp4",
    "audio/webm",
    "audio/aac",
    "audio/mpeg",
    "audio/ogg",
    "audio/wave",
    "audio/wav",
    "audio/x-wav",
    "audio/x-pn-wav",
    "audio/flac",
    "audio/x-flac",
];

/// The first is what the specification recommends. A file never changes, so who may see it may keep it; others may not.
///
/// Source: client-server API, "Content repository".
const HEADERS: [(HeaderName, HeaderValue); 4] = [
    (
        header::CONTENT_SECURITY_POLICY,
        HeaderValue::from_static(
            "sandbox; default-src 'none'; script-src 'none'; plugin-types application/pdf; style-src 'unsafe-inline'; \
             object-src 'self';",
        ),
    ),
    (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    (HeaderName::from_static("cross-origin-resource-policy"), HeaderValue::from_static("cross-origin")),
    (header::CACHE_CONTROL, HeaderValue::from_static("private, max-age=86400, immutable")),
];

/// The content type of what nobody has told of.
const OF_UNKNOWN_TYPE: &str = "application/octet-stream";

/// How much of a file is read at once.
const PART_BYTES: usize = 64 << 10;

/// Parses an id of a file.
///
/// # Errors
///
/// 400 `M_INVALID_PARAM`
pub(crate) fn media_id(id: &str) -> MatrixResult<MediaId> {
    MediaId::parse(id).map_err(|error| MatrixError::invalid_param(error.to_string()))
}

/// Reads what thumbnail somebody wants. It has always one picture, which is right for whoever does not ask for an animated one, and
/// allowed for who does.
///
/// # Errors
///
/// 400 `M_INVALID_PARAM`
pub(crate) fn wanted_thumbnail(width: UInt, height: UInt, method: Option<&Method>) -> MatrixResult<WantedThumbnail> {
    let pixels = |number: UInt| u32::try_from(u64::from(number)).unwrap_or(u32::MAX);
    let method = match method {
        Some(Method::Crop) => ThumbnailMethod::Crop,
        Some(Method::Scale) | None => ThumbnailMethod::Scale,
        Some(_) => return Err(MatrixError::invalid_param("a method is crop or scale")),
    };
    Ok(WantedThumbnail { width: pixels(width), height: pixels(height), method })
}

/// Answers with a file.
pub(crate) fn answer(file: OpenFile) -> MatrixResult<Response> {
    let (content_type, disposition) = (content_type(&file.description), disposition(&file.description).to_string());
    let value = |text: &str| HeaderValue::from_str(text).map_err(|error| MatrixError::log_internal(&error));
    let own = [
        (header::CONTENT_TYPE, value(content_type)?),
        (header::CONTENT_DISPOSITION, value(&disposition)?),
        (header::CONTENT_LENGTH, file.bytes.into()),
    ];
    let mut response = Response::new(Body::from_stream(parts(file)));
    response.headers_mut().extend(own.into_iter().chain(HEADERS));
    Ok(response)
}

/// Returns the content type that a file is sent with.
pub(crate) fn content_type(description: &Description) -> &str {
    description.content_type.as_deref().unwrap_or(OF_UNKNOWN_TYPE)
}

/// Returns what a browser is to do with a file, and its name, if it has one.
pub(crate) fn disposition(description: &Description) -> ContentDisposition {
    let content_type = content_type(description);
    let essence = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    // Of several types in one header, browsers take the last.
    let is_one = !content_type.contains(',');
    let is_inline = is_one && INLINE_TYPES.contains(&essence.as_str());
    let kind = if is_inline { ContentDispositionType::Inline } else { ContentDispositionType::Attachment };
    ContentDisposition::new(kind).with_filename(description.file_name.clone())
}

/// Returns the content of a file, part by part.
pub(crate) fn parts(file: OpenFile) -> impl Stream<Item = io::Result<Bytes>> + Send {
    stream::try_unfold(file.content.take(file.bytes), async |mut content| {
        let mut part = Vec::with_capacity(PART_BYTES);
        let read = content.read_buf(&mut part).await?;
        Ok((read > 0).then(|| (Bytes::from(part), content)))
    })
}

impl From<MediaError> for MatrixError {
    fn from(error: MediaError) -> Self {
        match error {
            MediaError::NotFound => Self::not_found(error.to_string()),
            MediaError::TooLarge { bytes_max } => Self::too_large(bytes_max),
            MediaError::FileNameTooLong => Self::invalid_param(error.to_string()),
            MediaError::NoThumbnail => Self::bad_request(ErrorKind::Unknown, error.to_string()),
            MediaError::ImageTooLarge => {
                Self::new(StatusCode::PAYLOAD_TOO_LARGE, ErrorKind::TooLarge, error.to_string())
            }
            MediaError::NotYetUploaded => {
                Self::new(StatusCode::GATEWAY_TIMEOUT, ErrorKind::NotYetUploaded, error.to_string())
            }
            MediaError::RemoteTooLarge => Self::new(StatusCode::BAD_GATEWAY, ErrorKind::TooLarge, error.to_string()),
            MediaError::Federation(FederationError::Denied) => Self::forbidden(error.to_string()),
            MediaError::Federation(_) => {
                Self::bad_gateway("the other server does not answer, or does not give the file")
            }
            MediaError::Answer(_) => Self::bad_gateway(error.to_string()),
            MediaError::BrokenOff => Self::bad_request(ErrorKind::Unknown, error.to_string()),
            MediaError::Io(_) | MediaError::Log(_) | MediaError::Record(_) => Self::log_internal(&error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(content_type: &str, file_name: &str) -> String {
        let file_name = (!file_name.is_empty()).then(|| file_name.to_owned());
        disposition(&Description { content_type: Some(content_type.to_owned()), file_name }).to_string()
    }

    #[test]
    fn sc_191_only_what_is_harmless_is_shown_by_browsers() {
        for harmless in ["image/png", "IMAGE/PNG", " image/png ; x=y", "text/plain; charset=utf-8", "audio/x-flac"] {
            assert_eq!(shown(harmless, ""), "inline", "{harmless}");
        }
        for harmful in [
            "text/html",
            "TEXT/HTML",
            "image/svg+xml",
            "image/svg+xml; x=text/html",
            "text/xml",
            "application/xhtml+xml",
            "application/pdf",
            "image/png, text/html",
            "image/png;,text/html",
            "image/png/",
            "nonsense",
            "",
        ] {
            assert_eq!(shown(harmful, ""), "attachment", "{harmful}");
        }
        assert_eq!(disposition(&Description::default()).to_string(), "attachment");
    }

    #[test]
    fn sc_192_file_names_are_no_headers() {
        for (name, expected) in [
            ("a.png", "inline; filename=a.png"),
            ("a b.png", "inline; filename=\"a b.png\""),
            ("a\r\nSet-Cookie: b", "inline; filename=\"aSet-Cookie: b\""),
            ("a\"; filename=b\\", "inline; filename=\"a\\\"; filename=b\\\\\""),
            ("\u{e4}\r\n.png", "inline; filename*=utf-8''%C3%A4%0D%0A.png"),
        ] {
            assert_eq!(shown("image/png", name), expected, "{name:?}");
        }
    }
}
