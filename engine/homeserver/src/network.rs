//! The way to other servers, as a narrow trait.

use std::{error::Error, io, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{Request, Response};
use ravel_core::id::ServerName;

use crate::federation::HttpsGet;

/// Brings requests to Matrix servers and their answers back.
///
/// [`HttpsNetwork`](crate::federation::HttpsNetwork) does it over the internet; servers in one process can do it by calling each
/// other.
pub trait Network: Send + Sync + 'static {
    /// Sends one request to a server and returns its answer, whatever the status.
    ///
    /// The URI of the request is path and query only: scheme and host are found by the server's name. Redirects are not followed.
    ///
    /// # Errors
    ///
    /// [`NetworkError`]: there is no answer within the limits. The server may have received the request.
    fn send<'a>(
        &'a self,
        destination: &'a ServerName,
        request: Request<Bytes>,
        limits: RequestLimits,
    ) -> BoxFuture<'a, Result<Response<Bytes>, NetworkError>>;

    /// Returns the way to ordinary web servers, with the same bounds on whom is trusted and connected to, if there is one.
    fn web(&self) -> Option<Arc<dyn HttpsGet>> {
        None
    }
}

/// No network: of a server that is not to federate.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoNetwork;

impl Network for NoNetwork {
    fn send<'a>(
        &'a self,
        destination: &'a ServerName,
        _: Request<Bytes>,
        _: RequestLimits,
    ) -> BoxFuture<'a, Result<Response<Bytes>, NetworkError>> {
        Box::pin(async { Err(NetworkError::NoSuchServer { host: destination.as_str().into() }) })
    }
}

/// What one request may cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestLimits {
    /// How long it may take, from finding the server to the last byte of the answer.
    pub time: Duration,
    /// How long the body of the answer may be.
    pub answer_bytes: usize,
}

impl Default for RequestLimits {
    fn default() -> Self {
        Self { time: Duration::from_secs(60), answer_bytes: 8 << 20 }
    }
}

/// Where an error comes from.
pub type SharedError = Arc<dyn Error + Send + Sync>;

/// Why there is no answer. Addresses are not named, since what is told to others could otherwise show them our network.
#[derive(Clone, Debug, thiserror::Error)]
pub enum NetworkError {
    /// The URI of the request is no path, or its headers are none.
    #[error("not a request that can be sent")]
    InvalidRequest,
    /// The name has no address, or its DNS says that there is no such service.
    #[error("there is no server of the name {host}")]
    NoSuchServer {
        /// The name without address.
        host: Box<str>,
    },
    /// All addresses of the name are in ranges that must not be connected to.
    #[error("{host} is at an address that must not be connected to")]
    RefusedAddress {
        /// The name, or the address if the server is named by it.
        host: Box<str>,
    },
    /// DNS did not answer.
    #[error("DNS has no answer for {host}")]
    Dns {
        /// The name that was asked for.
        host: Box<str>,
        /// Why.
        #[source]
        source: SharedError,
    },
    /// No address could be connected to.
    #[error("could not connect to {host}")]
    Connect {
        /// The name, or the address if the server is named by it.
        host: Box<str>,
        /// What the last attempt met.
        #[source]
        source: Arc<io::Error>,
    },
    /// There is no secure connection, or the certificate is not that of the server.
    #[error("no TLS connection with {host}")]
    Tls {
        /// The name that the certificate must have.
        host: Box<str>,
        /// What is wrong.
        #[source]
        source: Arc<io::Error>,
    },
    /// The connection broke, or what came over it is not HTTP.
    #[error("the HTTP exchange failed")]
    Http(#[source] SharedError),
    /// The answer redirects, and there is no following it.
    #[error("bad redirect: {0}")]
    Redirect(&'static str),
    /// The answer is longer than was allowed.
    #[error("the answer is longer than {bytes_max} bytes")]
    AnswerTooLarge {
        /// How long it may be.
        bytes_max: usize,
    },
    /// It took longer than was allowed.
    #[error("no answer in time")]
    Timeout,
}

impl NetworkError {
    /// Whether it is about the server rather than about this one request: the next request will meet it too.
    pub fn is_of_server(&self) -> bool {
        !matches!(self, Self::InvalidRequest | Self::AnswerTooLarge { .. } | Self::Redirect(_))
    }
}
