//! Who makes a request.

use axum::extract::{FromRequestParts, OptionalFromRequestParts, Query};
use http::{HeaderMap, Uri, header, request::Parts};
use ravel_homeserver::accounts::{Role, Session};
use ruma::api::error::ErrorKind;

use crate::serve::{
    App,
    error::{MatrixError, MatrixResult},
};

/// The user and device that a request's access token belongs to.
///
/// As an extractor it answers requests without token with `M_MISSING_TOKEN` and those with a wrong one with `M_UNKNOWN_TOKEN`.
#[derive(Clone, Debug)]
pub struct Authenticated(pub Session);

impl std::ops::Deref for Authenticated {
    type Target = Session;

    fn deref(&self) -> &Session {
        &self.0
    }
}

impl Authenticated {
    /// Refuses guests.
    ///
    /// # Errors
    ///
    /// 403 `M_GUEST_ACCESS_FORBIDDEN`
    pub fn no_guest(&self) -> MatrixResult<()> {
        if self.role == Role::Guest {
            let message = "this is not for guests";
            return Err(MatrixError::new(http::StatusCode::FORBIDDEN, ErrorKind::GuestAccessForbidden, message));
        }
        Ok(())
    }
}

impl FromRequestParts<App> for Authenticated {
    type Rejection = MatrixError;

    async fn from_request_parts(head: &mut Parts, app: &App) -> Result<Self, MatrixError> {
        let token = access_token(&head.headers, &head.uri).ok_or_else(MatrixError::missing_token)?;
        let session = app.accounts.authenticate(&token).await?;
        session.map(Self).ok_or_else(|| MatrixError::unknown_token(false))
    }
}

/// Nobody, of requests without access token. A wrong one is refused.
impl OptionalFromRequestParts<App> for Authenticated {
    type Rejection = MatrixError;

    async fn from_request_parts(head: &mut Parts, app: &App) -> Result<Option<Self>, MatrixError> {
        if access_token(&head.headers, &head.uri).is_none() {
            return Ok(None);
        }
        <Self as FromRequestParts<App>>::from_request_parts(head, app).await.map(Some)
    }
}

/// Returns the access token of a request: from the header, or as old clients send it from the query.
///
/// With two of them it is not clear which counts, so then there is none. Source: client-server API, "Using access tokens".
pub(super) fn access_token(headers: &HeaderMap, uri: &Uri) -> Option<String> {
    let bearer = headers.get_all(header::AUTHORIZATION).iter().filter_map(|value| {
        let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| token.trim().to_owned())
    });
    let query = Query::<Vec<(String, String)>>::try_from_uri(uri).map(|query| query.0).unwrap_or_default();
    let of_query = query.into_iter().filter(|(name, _)| name == "access_token").map(|(_, token)| token);
    let mut tokens = bearer.chain(of_query);
    match (tokens.next(), tokens.next()) {
        (Some(token), None) if !token.trim().is_empty() => Some(token),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn sc_152_a_request_has_one_access_token() {
        let check = |headers: &[&'static str], uri: &str, expected: Option<&str>| {
            let values = headers.iter().map(|value| (header::AUTHORIZATION, HeaderValue::from_static(value)));
            let mut map = HeaderMap::new();
            for (name, value) in values {
                map.append(name, value);
            }
            assert_eq!(access_token(&map, &uri.parse().unwrap()).as_deref(), expected, "{headers:?} {uri}");
        };
        check(&["Bearer abc"], "/x", Some("abc"));
        check(&["bearer  abc "], "/x", Some("abc"));
        check(&[], "/x?access_token=a%62c&b=d", Some("abc"));
        check(&["Basic abc"], "/x?access_token=abc", Some("abc"));
        check(&[], "/x", None);
        check(&["Bearer"], "/x", None);
        check(&["Bearer "], "/x", None);
        check(&["Bearer \t "], "/x", None);
        check(&["abc"], "/x", None);
        check(&["Bearer a", "Bearer b"], "/x", None);
        check(&["Bearer a"], "/x?access_token=a", None);
        check(&["Bearer a"], "/x?access_token=", None);
        check(&[], "/x?access_token=", None);
        check(&[], "/x?access_token=%20", None);
        check(&[], "/x?access_token=a&access_token=b", None);
    }
}
