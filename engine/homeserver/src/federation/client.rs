//! Requests to other servers, signed.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use http::{
    HeaderValue, Method, Request, Response, StatusCode,
    header::{AUTHORIZATION, CONTENT_TYPE, RETRY_AFTER, USER_AGENT},
};
use ravel_core::{
    canonical_json::{self, JsonMode},
    id::ServerName,
    signing::SigningKey,
};
use ruma::api::{IncomingResponse, OutgoingBody, OutgoingRequest, path_builder::PathBuilder};
use serde::Deserialize;

use super::{
    HttpsGet, ServerFilter,
    back_off::{BackOffs, Pauses},
    x_matrix::{SignedRequest, sign},
};
use crate::{
    clock::Clock,
    network::{Network, NetworkError, RequestLimits},
    random::Random,
};

/// Sends requests as one server to others, and leaves those alone for a while that do not answer. Cloning shares that memory.
#[derive(Clone)]
pub struct FederationClient {
    shared: Arc<Shared>,
}

struct Shared {
    network: Arc<dyn Network>,
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
    our_name: ServerName,
    key: SigningKey,
    servers: ServerFilter,
    back_offs: BackOffs,
    on_alive: OnceLock<OnAlive>,
}

/// What is called with a server that was left alone and is there again.
pub type OnAlive = Box<dyn Fn(&ServerName) + Send + Sync>;

/// How one request is sent.
#[derive(Clone, Copy, Debug, Default)]
pub struct SendOptions {
    /// What it may cost.
    pub limits: RequestLimits,
    /// Sends even if the server did not answer lately: somebody waits for it.
    pub ignore_back_off: bool,
}

/// Why a request has no answer that could be used.
#[derive(Clone, Debug, thiserror::Error)]
pub enum FederationError {
    /// The request would go to ourselves.
    #[error("a request to ourselves")]
    OurselvesAsked,
    /// There is nothing to do with the server: it was not asked.
    #[error("this server has nothing to do with the other one")]
    Denied,
    /// It was not sent: the server did not answer lately, or has asked to wait.
    #[error("the server is left alone until {until_ms}")]
    BackingOff {
        /// In milliseconds since 1970.
        until_ms: i64,
    },
    /// The request can't be written.
    #[error("the request can't be written")]
    Request,
    /// There is no answer.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// The server has answered that it does not do this.
    #[error(transparent)]
    Remote(#[from] RemoteError),
    /// The answer is not what the specification says.
    #[error("the answer can't be read: {problem}")]
    Answer {
        /// What is wrong.
        problem: Box<str>,
    },
}

/// An answer that is an error.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{status} {}", errcode.as_deref().unwrap_or("without errcode"))]
pub struct RemoteError {
    /// The status.
    pub status: StatusCode,
    /// `errcode`, if it is a Matrix error.
    pub errcode: Option<Box<str>>,
    /// `error`, if it is a Matrix error: text by the other server, not to be passed on without thought.
    pub message: Option<Box<str>>,
    /// The whole body.
    pub body: Bytes,
}

impl FederationClient {
    /// Makes a client of a server with this name and signing key.
    pub fn new(
        network: Arc<dyn Network>,
        clock: Arc<dyn Clock>,
        random: Arc<dyn Random>,
        our_name: ServerName,
        key: SigningKey,
        pauses: Pauses,
        servers: ServerFilter,
    ) -> Self {
        let (back_offs, on_alive) = (BackOffs::new(pauses), OnceLock::new());
        Self { shared: Arc::new(Shared { network, clock, random, our_name, key, servers, back_offs, on_alive }) }
    }

    /// Has something called whenever a server that was left alone is there again. Only the first one is.
    pub fn on_alive(&self, call: OnAlive) {
        let _ = self.shared.on_alive.set(call);
    }

    /// Returns the name of our server.
    pub fn our_name(&self) -> &ServerName {
        &self.shared.our_name
    }

    /// Returns how long servers are left alone that do not answer.
    pub fn pauses(&self) -> Pauses {
        self.shared.back_offs.pauses()
    }

    /// Whether there is something to do with a server: whether it may be asked, and whether what it sends is taken.
    pub fn allows(&self, server: &ServerName) -> bool {
        *server == self.shared.our_name || self.shared.servers.allows(server)
    }

    /// Sends a request of ruma's and reads the answer.
    ///
    /// # Errors
    ///
    /// [`FederationError`]
    pub async fn send<R>(
        &self,
        destination: &ServerName,
        request: R,
        options: SendOptions,
    ) -> Result<R::IncomingResponse, FederationError>
    where
        R: OutgoingRequest + Send,
        for<'a> R::PathBuilder: PathBuilder<Input<'a> = ()>,
    {
        let request = written(request)?;
        let answer = self.send_raw(destination, request, options).await?;
        let answer = answer.map(|body| body);
        let (parts, body) = answer.into_parts();
        R::IncomingResponse::try_from_http_response_inner(Response::from_parts(parts, &*body))
            .map_err(|error| FederationError::Answer { problem: error.to_string().into() })
    }

    /// Sends a request, signed, and returns the answer if its status is one of success.
    ///
    /// The URI is path and query; the body is JSON or empty.
    ///
    /// # Errors
    ///
    /// [`FederationError`]
    pub async fn send_raw(
        &self,
        destination: &ServerName,
        mut request: Request<Bytes>,
        options: SendOptions,
    ) -> Result<Response<Bytes>, FederationError> {
        self.check_destination(destination, options)?;
        let authorization = self.authorization(destination, &request)?;
        request.headers_mut().insert(AUTHORIZATION, authorization);
        self.exchange(destination, request, options).await
    }

    /// Sends a GET request without signature, for what is needed to check signatures.
    ///
    /// # Errors
    ///
    /// [`FederationError`]
    pub async fn send_unsigned(
        &self,
        destination: &ServerName,
        request: Request<Bytes>,
        options: SendOptions,
    ) -> Result<Response<Bytes>, FederationError> {
        self.check_destination(destination, options)?;
        self.exchange(destination, request, options).await
    }

    /// Returns the way to ordinary web servers, for what other servers refer to. Nothing that is sent there is signed.
    pub(crate) fn web(&self) -> Option<Arc<dyn HttpsGet>> {
        self.shared.network.web()
    }

    /// Notes that a server is there: it has sent us something. Returns whether it had been given up.
    pub fn sign_of_life(&self, server: &ServerName) -> bool {
        let was_given_up = self.shared.back_offs.is_alive(server);
        if was_given_up && let Some(call) = self.shared.on_alive.get() {
            call(server);
        }
        was_given_up
    }

    /// Returns until when a server is left alone, in milliseconds since 1970; `None` if it is not.
    pub fn backing_off_until_ms(&self, server: &ServerName) -> Option<i64> {
        self.shared.back_offs.until_ms(server, self.shared.clock.now_ms())
    }

    fn check_destination(&self, destination: &ServerName, options: SendOptions) -> Result<(), FederationError> {
        if *destination == self.shared.our_name {
            return Err(FederationError::OurselvesAsked);
        }
        if !self.allows(destination) {
            return Err(FederationError::Denied);
        }
        match self.backing_off_until_ms(destination) {
            Some(until_ms) if !options.ignore_back_off => Err(FederationError::BackingOff { until_ms }),
            _ => Ok(()),
        }
    }

    fn authorization(
        &self,
        destination: &ServerName,
        request: &Request<Bytes>,
    ) -> Result<HeaderValue, FederationError> {
        let content = if request.body().is_empty() {
            None
        } else {
            let content = canonical_json::parse(request.body(), JsonMode::ByteExact);
            Some(content.map_err(|_| FederationError::Request)?)
        };
        let uri = request.uri().path_and_query().ok_or(FederationError::Request)?;
        let signed = SignedRequest { method: request.method().as_str(), uri: uri.as_str(), content: content.as_ref() };
        sign(&signed, &self.shared.our_name, destination, &self.shared.key).map_err(|_| FederationError::Request)
    }

    async fn exchange(
        &self,
        destination: &ServerName,
        mut request: Request<Bytes>,
        options: SendOptions,
    ) -> Result<Response<Bytes>, FederationError> {
        let Shared { network, clock, random, back_offs, .. } = &*self.shared;
        let agent = HeaderValue::from_static(concat!("Ravel/", env!("CARGO_PKG_VERSION")));
        request.headers_mut().insert(USER_AGENT, agent);
        let begun_ms = clock.now_ms();
        let answer = network.send(destination, request, options.limits).await;
        let now_ms = clock.now_ms();
        match &answer {
            Ok(answer) if answer.status() == StatusCode::TOO_MANY_REQUESTS => {
                back_offs.asked_to_wait(destination, wanted_pause_ms(answer), now_ms);
            }
            Ok(answer) if is_of_proxy(answer) => {
                back_offs.failed(destination, begun_ms, now_ms, &**random);
            }
            Err(error) if error.is_of_server() => back_offs.failed(destination, begun_ms, now_ms, &**random),
            _ => drop(self.sign_of_life(destination)),
        }
        let answer = answer?;
        if answer.status().is_success() { Ok(answer) } else { Err(RemoteError::of(answer).into()) }
    }
}

impl RemoteError {
    fn of(answer: Response<Bytes>) -> Self {
        #[derive(Default, Deserialize)]
        struct MatrixError {
            errcode: Option<Box<str>>,
            error: Option<Box<str>>,
        }
        let status = answer.status();
        let body = answer.into_body();
        let MatrixError { errcode, error } = serde_json::from_slice(&body).unwrap_or_default();
        Self { status, errcode, message: error, body }
    }
}

/// How long to wait if a server that wants us to wait does not say for how long.
const PAUSE_MS_DEFAULT: i64 = 30_000;

fn wanted_pause_ms(answer: &Response<Bytes>) -> i64 {
    #[derive(Deserialize)]
    struct LimitExceeded {
        retry_after_ms: i64,
    }
    let header = answer.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse::<i64>().ok());
    let in_body = || serde_json::from_slice::<LimitExceeded>(answer.body()).ok().map(|limit| limit.retry_after_ms);
    header.map(|seconds| seconds.saturating_mul(1000)).or_else(in_body).unwrap_or(PAUSE_MS_DEFAULT)
}

/// Whether an answer says that what is in front of a server can't reach it. A 500 by the server itself is about one request, and so is
/// what it says of one file (server-server API, "GET /_matrix/federation/v1/media/download/{mediaId}").
fn is_of_proxy(answer: &Response<Bytes>) -> bool {
    let is_about_file = || matches!(errcode(answer.body()).as_deref(), Some("M_NOT_YET_UPLOADED" | "M_TOO_LARGE"));
    matches!(answer.status().as_u16(), 502..=504 | 520..=530) && !is_about_file()
}

fn errcode(body: &[u8]) -> Option<Box<str>> {
    #[derive(Deserialize)]
    struct MatrixError {
        errcode: Box<str>,
    }
    serde_json::from_slice::<MatrixError>(body).ok().map(|error| error.errcode)
}

/// Writes a request of ruma's, for [`FederationClient::send_raw`].
///
/// # Errors
///
/// `Request`
pub fn written<R>(request: R) -> Result<Request<Bytes>, FederationError>
where
    R: OutgoingRequest,
    for<'a> R::PathBuilder: PathBuilder<Input<'a> = ()>,
{
    let request = request.try_into_http_request_inner("", ()).map_err(|_| FederationError::Request)?;
    let (mut parts, body) = request.into_parts();
    if let Some(content_type) = body.content_type() {
        parts.headers.entry(CONTENT_TYPE).or_insert(content_type);
    }
    let body: Vec<u8> = body.try_into_buf().map_err(|_| FederationError::Request)?;
    // ruma's bodies of GET requests are empty; a body would have to be signed and most servers refuse it.
    debug_assert!(parts.method != Method::GET || body.is_empty(), "a GET request with a body");
    Ok(Request::from_parts(parts, body.into()))
}

#[cfg(test)]
mod tests;
