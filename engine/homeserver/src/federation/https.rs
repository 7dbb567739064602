//! The network of Matrix servers over HTTPS.

use std::{error::Error, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use futures_util::future::BoxFuture;
use http::{
    HeaderValue, Method, Request, Response, Uri,
    header::{CONTENT_LENGTH, HOST, USER_AGENT},
    uri::{Authority, Scheme},
};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::{
    client::legacy::{Client, Error as ClientError},
    rt::{TokioExecutor, TokioTimer},
};
use ravel_core::id::ServerName;
use tokio::time::timeout;

use super::{
    AddressFilter, Dns, HttpsGet, ServerFilter, TlsConfig, TlsConfigError,
    connector::{Connector, Finder},
    discovery::Discovery,
};
use crate::{
    clock::Clock,
    network::{Network, NetworkError, RequestLimits},
    random::Random,
};

/// Connects to Matrix servers as the specification says, and keeps connections for later. Speaks HTTP/1.1 and HTTP/2.
pub struct HttpsNetwork {
    discovery: Discovery,
    client: Client<Connector, Full<Bytes>>,
    web: Arc<Web>,
}

/// Whom to trust and what to keep away from.
#[derive(Clone, Debug, Default)]
pub struct HttpsNetworkConfig {
    /// Which addresses may be connected to.
    pub addresses: AddressFilter,
    /// Whose certificates are trusted.
    pub tls: TlsConfig,
    /// Which servers others may delegate to.
    pub servers: ServerFilter,
}

impl HttpsNetwork {
    /// Makes a network without connections.
    ///
    /// # Errors
    ///
    /// [`TlsConfigError`]
    pub fn new(
        config: &HttpsNetworkConfig,
        dns: Arc<dyn Dns>,
        clock: Arc<dyn Clock>,
        random: Arc<dyn Random>,
    ) -> Result<Self, TlsConfigError> {
        let tls = Arc::new(config.tls.client_config()?);
        let connector = Connector { dns: dns.clone(), filter: config.addresses, tls, finder: Finder::Web };
        let web = Arc::new(Web { client: client(connector.clone(), 0) });
        let discovery = Discovery::new(dns, web.clone(), clock, random, config.servers.clone());
        let connector = Connector { finder: Finder::Matrix(discovery.clone()), ..connector };
        Ok(Self { discovery, client: client(connector, IDLE_CONNECTIONS_MAX), web })
    }

    /// Returns how servers are found.
    pub fn discovery(&self) -> &Discovery {
        &self.discovery
    }

    /// Returns a way to fetch from ordinary web servers, with the same trust and the same address filter.
    pub fn web(&self) -> Arc<dyn HttpsGet> {
        self.web.clone()
    }

    async fn send_within_time(
        &self,
        destination: &ServerName,
        request: Request<Bytes>,
        answer_bytes: usize,
    ) -> Result<Response<Bytes>, NetworkError> {
        let name = self.discovery.delegated_name(destination).await;
        let request = addressed(request, &name)?;
        exchange(&self.client, request, answer_bytes).await
    }
}

impl Network for HttpsNetwork {
    fn send<'a>(
        &'a self,
        destination: &'a ServerName,
        request: Request<Bytes>,
        limits: RequestLimits,
    ) -> BoxFuture<'a, Result<Response<Bytes>, NetworkError>> {
        let exchange = self.send_within_time(destination, request, limits.answer_bytes);
        Box::pin(async move { timeout(limits.time, exchange).await.map_err(|_| NetworkError::Timeout)? })
    }

    fn web(&self) -> Option<Arc<dyn HttpsGet>> {
        Some(self.web.clone())
    }
}

/// How many idle connections are kept for each name.
const IDLE_CONNECTIONS_MAX: usize = 4;

/// How long an idle connection is kept: web servers close them after a minute or so.
const IDLE_TIME: Duration = Duration::from_secs(50);

struct Web {
    client: Client<Connector, Full<Bytes>>,
}

impl HttpsGet for Web {
    fn get<'a>(&'a self, uri: Uri, limits: RequestLimits) -> BoxFuture<'a, Result<Response<Bytes>, NetworkError>> {
        Box::pin(async move {
            if uri.scheme() != Some(&Scheme::HTTPS) {
                return Err(NetworkError::InvalidRequest);
            }
            let request = Request::builder()
                .method(Method::GET)
                .uri(uri)
                .header(USER_AGENT, concat!("Ravel/", env!("CARGO_PKG_VERSION")))
                .body(Bytes::new())
                .map_err(|_| NetworkError::InvalidRequest)?;
            let exchange = exchange(&self.client, request, limits.answer_bytes);
            timeout(limits.time, exchange).await.map_err(|_| NetworkError::Timeout)?
        })
    }
}

fn client(connector: Connector, idle_connections_max: usize) -> Client<Connector, Full<Bytes>> {
    Client::builder(TokioExecutor::new())
        .timer(TokioTimer::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(IDLE_TIME)
        .pool_max_idle_per_host(idle_connections_max)
        .http1_max_headers(100)
        .http2_max_header_list_size(64 << 10)
        .http2_adaptive_window(true)
        .http2_keep_alive_interval(Duration::from_secs(20))
        .http2_keep_alive_timeout(Duration::from_secs(20))
        .build(connector)
}

/// Makes a request whose URI is path and query one to the server of that name.
fn addressed(mut request: Request<Bytes>, name: &ServerName) -> Result<Request<Bytes>, NetworkError> {
    if request.uri().authority().is_some() {
        return Err(NetworkError::InvalidRequest);
    }
    let authority: Authority = name.as_str().parse().map_err(|_| NetworkError::InvalidRequest)?;
    // HTTP clients leave the default port of the scheme out; the specification wants it if the name has it.
    if authority.port_u16() == Some(443) {
        let host = HeaderValue::from_str(name.as_str()).map_err(|_| NetworkError::InvalidRequest)?;
        request.headers_mut().insert(HOST, host);
    }
    let path = request.uri().path_and_query().ok_or(NetworkError::InvalidRequest)?.clone();
    let uri = Uri::builder().scheme(Scheme::HTTPS).authority(authority).path_and_query(path).build();
    *request.uri_mut() = uri.map_err(|_| NetworkError::InvalidRequest)?;
    Ok(request)
}

async fn exchange(
    client: &Client<Connector, Full<Bytes>>,
    request: Request<Bytes>,
    bytes_max: usize,
) -> Result<Response<Bytes>, NetworkError> {
    let answer = client.request(request.map(Full::new)).await.map_err(|error| cause(&error))?;
    let (parts, body) = answer.into_parts();
    let length = parts.headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if length.is_some_and(|length| length > bytes_max as u64) {
        return Err(NetworkError::AnswerTooLarge { bytes_max });
    }
    Ok(Response::from_parts(parts, collect(body, bytes_max).await?))
}

async fn collect(mut body: Incoming, bytes_max: usize) -> Result<Bytes, NetworkError> {
    let mut bytes = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| NetworkError::Http(Arc::new(error)))?;
        if let Ok(data) = frame.into_data() {
            if data.len() > bytes_max - bytes.len() {
                return Err(NetworkError::AnswerTooLarge { bytes_max });
            }
            bytes.extend_from_slice(&data);
        }
    }
    Ok(bytes.freeze())
}

/// Finds what the connector said in what the client says.
fn cause(error: &ClientError) -> NetworkError {
    let mut source = error.source();
    while let Some(error) = source {
        if let Some(error) = error.downcast_ref::<NetworkError>() {
            return error.clone();
        }
        source = error.source();
    }
    // The client's error can't be shared, so what it says is kept.
    NetworkError::Http(Arc::new(HttpFailure(shown(error))))
}

#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct HttpFailure(Box<str>);

fn shown(error: &ClientError) -> Box<str> {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text.into()
}

#[cfg(test)]
mod tests;
