//! Following redirects, over HTTPS only and not for ever.

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{
    Response, StatusCode, Uri,
    header::LOCATION,
    uri::{Authority, PathAndQuery, Scheme},
};

use crate::network::{NetworkError, RequestLimits};

/// Fetches from ordinary web servers.
pub trait HttpsGet: Send + Sync + 'static {
    /// Sends one GET request to an `https` URI and returns the answer, whatever the status. Redirects are not followed.
    ///
    /// # Errors
    ///
    /// [`NetworkError`]
    fn get<'a>(&'a self, uri: Uri, limits: RequestLimits) -> BoxFuture<'a, Result<Response<Bytes>, NetworkError>>;
}

/// Fetches and follows redirects. The limits are those of each hop.
///
/// # Errors
///
/// [`NetworkError::Redirect`] if a redirect leads away from HTTPS, in a circle, or to one redirect too many; others as of
/// [`HttpsGet::get`].
pub async fn get_following(
    getter: &dyn HttpsGet,
    mut uri: Uri,
    limits: RequestLimits,
) -> Result<Response<Bytes>, NetworkError> {
    let mut seen = Vec::new();
    loop {
        let answer = getter.get(uri.clone(), limits).await?;
        let Some(location) = location(&answer)? else { return Ok(answer) };
        let next = redirected(&uri, location).ok_or(NetworkError::Redirect("not to an https address"))?;
        seen.push(uri);
        if seen.contains(&next) {
            return Err(NetworkError::Redirect("in a circle"));
        }
        if seen.len() > REDIRECTS_MAX {
            return Err(NetworkError::Redirect("one too many"));
        }
        uri = next;
    }
}

/// How many redirects are followed.
const REDIRECTS_MAX: usize = 5;

/// Where the answer redirects to, `None` if it does not.
fn location(answer: &Response<Bytes>) -> Result<Option<&str>, NetworkError> {
    let redirects = [
        StatusCode::MOVED_PERMANENTLY,
        StatusCode::FOUND,
        StatusCode::SEE_OTHER,
        StatusCode::TEMPORARY_REDIRECT,
        StatusCode::PERMANENT_REDIRECT,
    ];
    if !redirects.contains(&answer.status()) {
        return Ok(None);
    }
    let location = answer.headers().get(LOCATION).ok_or(NetworkError::Redirect("to nowhere"))?;
    location.to_str().map(Some).map_err(|_| NetworkError::Redirect("not to an address"))
}

/// Resolves a reference (RFC 3986, section 5); `None` unless that gives an `https` URI without user information.
fn redirected(base: &Uri, location: &str) -> Option<Uri> {
    let location = location.split('#').next()?;
    let base_path = base.path();
    let folder = base_path.rfind('/').and_then(|end| base_path.get(..=end)).unwrap_or("/");
    let (authority, path) = if let Some(rest) = location.strip_prefix("//") {
        split_authority(rest)?
    } else if location.starts_with('/') {
        (base.authority()?.clone(), location.to_owned())
    } else if let Some((scheme, rest)) = location.split_once("://").filter(|(scheme, _)| is_scheme(scheme)) {
        if !scheme.eq_ignore_ascii_case("https") {
            return None;
        }
        split_authority(rest)?
    } else if location.is_empty() {
        (base.authority()?.clone(), base.path_and_query()?.to_string())
    } else if location.starts_with('?') {
        (base.authority()?.clone(), format!("{base_path}{location}"))
    } else if location.split(['/', '?']).next()?.contains(':') {
        // Another scheme, such as `file:` or `data:`.
        return None;
    } else {
        (base.authority()?.clone(), format!("{folder}{location}"))
    };
    if authority.as_str().contains('@') {
        return None;
    }
    let path = PathAndQuery::try_from(path).ok()?;
    Uri::builder().scheme(Scheme::HTTPS).authority(authority).path_and_query(path).build().ok()
}

fn is_scheme(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte))
}

fn split_authority(rest: &str) -> Option<(Authority, String)> {
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at_checked(end)?;
    let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
    Some((authority.parse().ok()?, path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_resolved() {
        for (location, expected) in [
            ("https://b/x?y=z", Some("https://b/x?y=z")),
            ("HTTPS://b:1", Some("https://b:1/")),
            ("https://b?q", Some("https://b/?q")),
            ("//b/x", Some("https://b/x")),
            ("/x", Some("https://a/x")),
            ("x", Some("https://a/p/x")),
            ("?x", Some("https://a/p/q?x")),
            ("x?u=https://c/", Some("https://a/p/x?u=https://c/")),
            ("/x#part", Some("https://a/x")),
        ] {
            let uri = redirected(&Uri::from_static("https://a/p/q?r"), location);
            assert_eq!(uri.map(|uri| uri.to_string()).as_deref(), expected, "{location}");
        }
    }

    #[test]
    fn sc_023_sc_196_redirects_leave_https_for_nothing() {
        for location in [
            "http://b/",
            "file:///etc/passwd",
            "gopher://b/",
            "data:text/plain,x",
            "mailto:a",
            "https://user:secret@b/",
            "//user@b/",
            "https://",
            "https:// b/",
            "https://[::1",
        ] {
            assert_eq!(redirected(&Uri::from_static("https://a/p/q?r"), location), None, "{location}");
        }
    }
}
