//! Connections to other servers: addresses looked up and filtered, TCP, TLS.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures_util::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use http::Uri;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::{
    client::legacy::connect::{Connected, Connection},
    rt::TokioIo,
};
use ravel_core::id::ServerName;
use rustls::{ClientConfig, pki_types};
use tokio::{
    net::TcpStream,
    time::{sleep, timeout},
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tower_service::Service;

use super::{
    AddressFilter, Dns,
    discovery::{Discovery, Host, Target, split},
};
use crate::network::NetworkError;

/// Makes connections for an HTTP client. Cloning is cheap.
#[derive(Clone)]
pub(crate) struct Connector {
    pub(crate) dns: Arc<dyn Dns>,
    pub(crate) filter: AddressFilter,
    pub(crate) tls: Arc<ClientConfig>,
    pub(crate) finder: Finder,
}

/// How the authority of a URI leads to places.
#[derive(Clone)]
pub(crate) enum Finder {
    /// It is the name of a Matrix server after delegation.
    Matrix(Discovery),
    /// It is that of a web server.
    Web,
}

/// How long all of it may take.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(30);

/// How long one address may take for TCP, and the winner for TLS.
const STEP_TIME_MAX: Duration = Duration::from_secs(10);

/// How long one address is waited for before the next is tried as well (RFC 8305 recommends 250 ms).
const NEXT_ADDRESS_AFTER: Duration = Duration::from_millis(250);

/// How many addresses of one host are tried.
const ADDRESSES_MAX: usize = 8;

impl Connector {
    async fn connect(self, uri: Uri) -> Result<TlsConnection, NetworkError> {
        timeout(CONNECT_TIME_MAX, self.connect_to_any(&uri)).await.map_err(|_| NetworkError::Timeout)?
    }

    async fn connect_to_any(&self, uri: &Uri) -> Result<TlsConnection, NetworkError> {
        let authority = uri.authority().ok_or(NetworkError::InvalidRequest)?;
        let name = ServerName::parse(authority.as_str()).map_err(|_| NetworkError::InvalidRequest)?;
        let (host, port) = split(&name);
        let targets = match &self.finder {
            Finder::Matrix(discovery) => discovery.targets(&name).await?,
            Finder::Web => vec![Target { host: host.clone(), port: port.unwrap_or(443) }],
        };
        let mut failure = NetworkError::NoSuchServer { host: host.to_string().into() };
        for target in &targets {
            match self.connect_to(target, &host).await {
                Ok(connection) => return Ok(connection),
                Err(error) => {
                    tracing::debug!(server = %name, %target, error = %error, "no connection");
                    failure = error;
                }
            }
        }
        if let (Finder::Matrix(discovery), NetworkError::NoSuchServer { .. }) = (&self.finder, &failure) {
            discovery.forget_for_a_while(&name);
        }
        Err(failure)
    }

    /// Connects to a place, which has to have a certificate for the host of the name it was found by.
    async fn connect_to(&self, target: &Target, certified: &Host) -> Result<TlsConnection, NetworkError> {
        let addresses = self.addresses(&target.host).await?;
        let host = || Box::from(target.host.to_string());
        let addresses = addresses.into_iter().map(|address| SocketAddr::new(address, target.port));
        let tcp = connect_first(addresses.collect())
            .await
            .map_err(|source| NetworkError::Connect { host: host(), source: source.into() })?;
        // Requests are small and wait for their answers.
        if let Err(error) = tcp.set_nodelay(true) {
            tracing::debug!(%error, "no TCP_NODELAY");
        }
        let tls_failed =
            |source: io::Error| NetworkError::Tls { host: certified.to_string().into(), source: source.into() };
        let name = certificate_name(certified).map_err(|error| tls_failed(io::Error::other(error)))?;
        let handshake = TlsConnector::from(self.tls.clone()).connect(name, tcp);
        match timeout(STEP_TIME_MAX, handshake).await {
            Ok(connected) => Ok(TlsConnection(TokioIo::new(connected.map_err(tls_failed)?))),
            Err(_) => Err(NetworkError::Timeout),
        }
    }

    /// Returns the addresses of a host that may be connected to: never none.
    async fn addresses(&self, host: &Host) -> Result<Vec<IpAddr>, NetworkError> {
        let shown = || Box::from(host.to_string());
        let mut addresses = match host {
            Host::Address(address) => vec![*address],
            Host::Name(name) => self
                .dns
                .addresses(name)
                .await
                .map_err(|error| NetworkError::Dns { host: shown(), source: error.into_source() })?,
        };
        if addresses.is_empty() {
            return Err(NetworkError::NoSuchServer { host: shown() });
        }
        addresses.retain(|address| self.filter.allows(*address));
        if addresses.is_empty() {
            return Err(NetworkError::RefusedAddress { host: shown() });
        }
        addresses = interleaved(addresses);
        addresses.truncate(ADDRESSES_MAX);
        Ok(addresses)
    }
}

/// Returns the same addresses with the two families taking turns, so that the lack of one of them costs one attempt only.
fn interleaved(addresses: Vec<IpAddr>) -> Vec<IpAddr> {
    let first_is_v6 = addresses.first().is_some_and(IpAddr::is_ipv6);
    let (first, second): (Vec<_>, Vec<_>) = addresses.into_iter().partition(|address| address.is_ipv6() == first_is_v6);
    let mut second = second.into_iter();
    let mut mixed: Vec<_> = first.into_iter().flat_map(|address| [Some(address), second.next()]).flatten().collect();
    mixed.extend(second);
    mixed
}

/// Connects to the first that answers; each next one is tried when the one before failed or takes its time.
async fn connect_first(addresses: Vec<SocketAddr>) -> io::Result<TcpStream> {
    let mut waiting = addresses.into_iter();
    let mut running = FuturesUnordered::new();
    let mut failure = io::Error::from(io::ErrorKind::AddrNotAvailable);
    loop {
        match waiting.next() {
            Some(address) => running.push(connect_tcp(address)),
            None if running.is_empty() => return Err(failure),
            None => {}
        }
        let patience =
            async { if waiting.len() == 0 { std::future::pending().await } else { sleep(NEXT_ADDRESS_AFTER).await } };
        tokio::select! {
            biased;
            Some(connected) = running.next() => match connected {
                Ok(tcp) => return Ok(tcp),
                Err(error) => failure = error,
            },
            () = patience => {}
        }
    }
}

async fn connect_tcp(address: SocketAddr) -> io::Result<TcpStream> {
    match timeout(STEP_TIME_MAX, TcpStream::connect(address)).await {
        Ok(connected) => connected,
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    }
}

fn certificate_name(host: &Host) -> Result<pki_types::ServerName<'static>, pki_types::InvalidDnsNameError> {
    match host {
        Host::Address(address) => Ok(pki_types::ServerName::from(*address)),
        Host::Name(name) => pki_types::ServerName::try_from(name.to_string()),
    }
}

impl Service<Uri> for Connector {
    type Response = TlsConnection;
    type Error = NetworkError;
    type Future = BoxFuture<'static, Result<TlsConnection, NetworkError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), NetworkError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        self.clone().connect(uri).boxed()
    }
}

/// A connection to the right server.
pub(crate) struct TlsConnection(TokioIo<TlsStream<TcpStream>>);

impl Connection for TlsConnection {
    fn connected(&self) -> Connected {
        let (_, session) = self.0.inner().get_ref();
        let connected = Connected::new();
        if session.alpn_protocol() == Some(b"h2") { connected.negotiated_h2() } else { connected }
    }
}

impl Read for TlsConnection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl Write for TlsConnection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write_vectored(cx, buffers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_take_turns() {
        for (addresses, expected) in [
            ("::1 ::2 1.1.1.1", "::1 1.1.1.1 ::2"),
            ("1.1.1.1 1.1.1.2 ::1 ::2 ::3", "1.1.1.1 ::1 1.1.1.2 ::2 ::3"),
            ("::1", "::1"),
        ] {
            let addresses = addresses.split(' ').map(|address| address.parse().unwrap()).collect();
            let mixed: Vec<_> = interleaved(addresses).iter().map(IpAddr::to_string).collect();
            assert_eq!(mixed.join(" "), expected);
        }
    }

    #[tokio::test]
    async fn the_next_address_is_tried() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let open = listener.local_addr().unwrap();
        let closed = {
            let gone = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            gone.local_addr().unwrap()
        };
        assert!(connect_first(vec![closed, closed, open]).await.is_ok());
        assert_eq!(connect_first(vec![closed]).await.unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
        assert_eq!(connect_first(vec![]).await.unwrap_err().kind(), io::ErrorKind::AddrNotAvailable);
    }
}
