//! Connections and typed handlers over real sockets, with routes that only tests have.

mod connections;
mod requests;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::{Router, routing::get};
use ravel_core::{
    id::{KeyId, ServerName},
    signing::SigningKey,
};
use ravel_store::MemoryStore;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
    task::JoinHandle,
};

use super::{
    App, Shared,
    config::{Config, Limits},
    listener, routes,
};

/// Bytes of the answer at `/large`: more than the system holds for a reader that does not come.
const LARGE_BYTES: usize = 64 << 20;

/// A server in this process.
struct TestServer {
    address: SocketAddr,
    stop: watch::Sender<bool>,
    accepting: JoinHandle<()>,
    permits: Arc<Semaphore>,
    connections_max: u32,
}

impl TestServer {
    /// Starts one whose routes are given and those of [`own_routes`].
    async fn start(limits: Limits, routes: Router<App>) -> Self {
        let connections_max = limits.connections_max;
        let config = Config { limits, ..Config::of(ServerName::parse("a").unwrap()) };
        let (stop, stopping) = watch::channel(false);
        let (store, key) =
            (Arc::new(MemoryStore::new()), SigningKey::from_seed(KeyId::parse("ed25519:1").unwrap(), &[1; 32]));
        let app = App(Arc::new(Shared::open(config, store, key, stopping, None).await.unwrap().0));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let permits = Arc::new(Semaphore::new(connections_max as usize));
        let accepting = {
            let (permits, routes) = (permits.clone(), routes::finish(routes.merge(own_routes()), &app));
            tokio::spawn(async move { listener::accept(&listener, None, &routes, &permits, &app).await })
        };
        Self { address, stop, accepting, permits, connections_max }
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// Sends a request on a connection of its own and returns status and answer.
    async fn answer(&self, head: &str, body: &[u8]) -> (u16, String) {
        let mut stream = self.connect().await;
        stream.write_all(format!("{head}\r\nHost: a\r\nConnection: close\r\n\r\n").as_bytes()).await.unwrap();
        // The server may have seen enough and closed.
        let _ = stream.write_all(body).await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        parse(&answer)
    }

    /// Tells the server to stop.
    fn stop(&self) {
        self.accepting.abort();
        self.stop.send_replace(true);
    }

    /// Stops, and waits until every connection has ended.
    async fn finished_after_stop(&self) {
        self.stop();
        self.finished().await;
    }

    /// Waits until every connection has ended.
    async fn finished(&self) {
        // While connections are accepted, the next one has its permit already.
        let next = u32::from(!*self.stop.borrow());
        let all = self.permits.acquire_many(self.connections_max - next);
        let _all =
            tokio::time::timeout(Duration::from_secs(10), all).await.expect("a connection does not end").unwrap();
    }
}

/// Splits an answer into status and body.
fn parse(answer: &[u8]) -> (u16, String) {
    let text = String::from_utf8_lossy(answer).into_owned();
    let status = text.split(' ').nth(1).and_then(|status| status.parse().ok());
    let body = text.split_once("\r\n\r\n").map_or("", |(_, body)| body).to_owned();
    (status.unwrap_or_else(|| panic!("no answer: {text:?}")), body)
}

/// Routes that take their time, fail, and wait for the end.
fn own_routes() -> Router<App> {
    #[allow(clippy::panic, reason = "that is what it is for")]
    async fn panics() -> &'static str {
        panic!("a test's panic")
    }
    async fn slow() -> &'static str {
        tokio::time::sleep(Duration::from_millis(400)).await;
        "done"
    }
    async fn poll(app: axum::extract::State<App>) -> &'static str {
        app.stopping().await;
        "nothing new"
    }
    async fn large() -> Vec<u8> {
        vec![b'x'; LARGE_BYTES]
    }
    Router::new()
        .route("/panic", get(panics))
        .route("/slow", get(slow))
        .route("/poll", get(poll))
        .route("/large", get(large))
        .route("/fast", get(async || "fast"))
}
