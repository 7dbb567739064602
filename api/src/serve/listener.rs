//! The addresses a server listens at, and how it stops to.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::Router;
use ravel_core::id::ServerName;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
};

use super::{App, Ready, ServeError, config::Config, connection, routes, tls::Tls};

/// How long to wait when the system gives no more connections, as when there are too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How long the loop that accepts may take to see that it should stop.
const ABORT_GRACE: Duration = Duration::from_millis(500);

/// Addresses that are bound. The system queues connections from now on; nothing is answered yet.
pub(super) struct Listeners {
    https: Option<(TcpListener, Tls)>,
    http: Option<TcpListener>,
    metrics: Option<TcpListener>,
}

/// How serving ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stopped {
    /// Every connection has finished.
    Finished,
    /// Some had not when the time was over.
    Aborted { connections: usize },
}

impl Listeners {
    pub(super) async fn bind(config: &Config, tls: Option<Tls>) -> Result<Self, ServeError> {
        let listen = &config.listen;
        let https = bind("listen.https", listen.https).await?;
        let metrics = config.metrics.listen.filter(|_| config.metrics.enabled);
        Ok(Self {
            // One is not there without the other.
            https: https.zip(tls),
            http: bind("listen.http", listen.http).await?,
            metrics: bind("metrics.listen", metrics).await?,
        })
    }

    /// Returns the addresses, with the ports that the system chose.
    pub(super) fn ready<'a>(&self, server_name: &'a ServerName) -> Ready<'a> {
        let address = |listener: &TcpListener| listener.local_addr().ok();
        Ready {
            server_name,
            https: self.https.as_ref().and_then(|(listener, _)| address(listener)),
            http: self.http.as_ref().and_then(address),
            metrics: self.metrics.as_ref().and_then(address),
        }
    }

    /// Accepts connections and answers until the server is told to stop, and then as long as connections may take to finish.
    pub(super) async fn serve(self, app: App) -> Stopped {
        let connections_max = usize::try_from(app.config.limits.connections_max).unwrap_or(Semaphore::MAX_PERMITS);
        let permits = Arc::new(Semaphore::new(connections_max));
        // Metrics must be there when the others have taken all connections.
        let own_permits = Arc::new(Semaphore::new(METRICS_CONNECTIONS_MAX));
        let accepting = async {
            tokio::join!(
                async {
                    if let Some((listener, tls)) = &self.https {
                        accept(listener, Some(tls), &routes::public(&app), &permits, &app).await;
                    }
                },
                async {
                    if let Some(listener) = &self.http {
                        accept(listener, None, &routes::plain(&app), &permits, &app).await;
                    }
                },
                async {
                    if let Some(listener) = &self.metrics {
                        accept(listener, None, &routes::metrics(&app), &own_permits, &app).await;
                    }
                }
            )
        };
        tokio::select! {
            _ = accepting => {}
            () = app.stopping() => {}
        }
        // From now on the system refuses connections.
        drop(self);
        let time = Duration::from_secs(u64::from(app.config.limits.stop_seconds_max));
        // Each connection has one: who has all knows that there is none.
        let all = permits.acquire_many(app.config.limits.connections_max);
        match tokio::time::timeout(time.max(ABORT_GRACE), all).await {
            Ok(_) => Stopped::Finished,
            Err(_) => Stopped::Aborted { connections: connections_max - permits.available_permits() },
        }
    }
}

const METRICS_CONNECTIONS_MAX: usize = 16;

async fn bind(key: &'static str, address: Option<SocketAddr>) -> Result<Option<TcpListener>, ServeError> {
    let Some(address) = address else { return Ok(None) };
    // A port of a server that has just ended can be used at once: the standard library of Unix and tokio set SO_REUSEADDR.
    match TcpListener::bind(address).await {
        Ok(listener) => Ok(Some(listener)),
        Err(source) => Err(ServeError::Bind { key, address, source }),
    }
}

/// Accepts connections while there are permits for them.
pub(super) async fn accept(
    listener: &TcpListener,
    tls: Option<&Tls>,
    routes: &Router,
    permits: &Arc<Semaphore>,
    app: &App,
) {
    loop {
        // The semaphore is never closed.
        let Ok(permit) = permits.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, peer)) => start(stream, peer, tls, routes, permit, app),
            Err(error) => {
                tracing::warn!(%error, "a connection can't be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

fn start(
    stream: TcpStream,
    peer: SocketAddr,
    tls: Option<&Tls>,
    routes: &Router,
    permit: OwnedSemaphorePermit,
    app: &App,
) {
    let acceptor = tls.map(Tls::acceptor);
    let (routes, app) = (routes.clone(), app.clone());
    tokio::spawn(async move {
        connection::serve(stream, peer, acceptor, routes, &app).await;
        drop(permit);
    });
}
