//! One connection: TLS, HTTP/1.1 or 2, and the bounds on what its peer can hold open.

use std::{
    convert::Infallible,
    io,
    net::SocketAddr,
    pin::{Pin, pin},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::{Router, body::Body, extract::ConnectInfo};
use http::{Request, Response, Version};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto::Builder,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::{Instant, Sleep, interval, sleep, timeout},
};
use tokio_rustls::TlsAcceptor;
use tower::ServiceExt;

use super::{App, config::Limits, metrics::Connected};

/// How long a connection may take to close after it was told to.
const CLOSE: Duration = Duration::from_secs(5);

/// Streams that a peer of HTTP/2 may open and reset before they were looked at ("rapid reset").
const PENDING_RESETS_MAX: usize = 20;

/// Answers the requests of a connection until it ends.
pub(super) async fn serve(
    stream: TcpStream,
    peer: SocketAddr,
    acceptor: Option<TlsAcceptor>,
    routes: Router,
    app: &App,
) {
    let _connected = Connected::start();
    let limits = &app.config.limits;
    // Answers are written whole; waiting for more only delays them.
    let _ = stream.set_nodelay(true);
    let Some(acceptor) = acceptor else { return serve_http(stream, peer, routes, app).await };
    tokio::select! {
        handshake = timeout(seconds(limits.header_seconds_max), acceptor.accept(stream)) => match handshake {
            Ok(Ok(stream)) => serve_http(stream, peer, routes, app).await,
            Ok(Err(error)) => tracing::debug!(%error, "a TLS handshake failed"),
            Err(_) => tracing::debug!("a TLS handshake took too long"),
        },
        // Nothing was asked yet.
        () = app.stopping() => {}
    }
}

async fn serve_http<S>(stream: S, peer: SocketAddr, routes: Router, app: &App)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let limits = &app.config.limits;
    let activity = Activity::new();
    let service = service_fn(|request: Request<Incoming>| {
        let running = activity.begin(request.version() == Version::HTTP_2);
        let routes = routes.clone();
        async move {
            let mut request = request.map(Body::new);
            request.extensions_mut().insert(ConnectInfo(peer));
            // A router is always ready.
            let response = routes.oneshot(request).await;
            Ok::<Response<_>, Infallible>(match response {
                Ok(response) => response.map(|body| AnswerBody { body, _running: running }),
                Err(never) => match never {},
            })
        }
    });
    let (header, idle) = (seconds(limits.header_seconds_max), seconds(limits.idle_seconds_max));
    let stream = WatchedStream { stream, activity: activity.clone(), time: idle, stalled: None };
    let builder = builder(limits);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
    let mut stopping = pin!(app.stopping());
    let mut is_told = false;
    let mut look = interval(header.min(idle) / 2);
    loop {
        tokio::select! {
            ended = &mut connection => {
                if let Err(error) = ended {
                    tracing::debug!(error = &*error, "a connection ended with an error");
                }
                return;
            }
            () = &mut stopping, if !is_told => {
                is_told = true;
                connection.as_mut().graceful_shutdown();
            }
            _ = look.tick() => match activity.overdue(header, idle) {
                Some(Overdue::Headers) => return,
                Some(Overdue::Idle(time)) if time > CLOSE => return,
                Some(Overdue::Idle(_)) if !is_told => {
                    is_told = true;
                    connection.as_mut().graceful_shutdown();
                }
                Some(Overdue::Idle(_)) | None => {}
            },
        }
    }
}

fn builder(limits: &Limits) -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        // It would run while a connection waits for its next request, too. See `Activity::overdue`.
        .header_read_timeout(None)
        .max_buf_size(usize::try_from(limits.header_bytes_max).unwrap_or(usize::MAX));
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_header_list_size(limits.header_bytes_max)
        .max_concurrent_streams(limits.http2_streams_max)
        .max_pending_accept_reset_streams(PENDING_RESETS_MAX)
        .keep_alive_interval(seconds(limits.idle_seconds_max))
        .keep_alive_timeout(seconds(limits.header_seconds_max));
    builder
}

fn seconds(seconds: u32) -> Duration {
    Duration::from_secs(u64::from(seconds))
}

/// What a connection is doing. Clones share it.
#[derive(Clone)]
struct Activity(Arc<Mutex<Doing>>);

struct Doing {
    /// How many requests are being answered.
    running: u32,
    /// Since when there is none.
    idle_since: Instant,
    /// When the first bytes came since then.
    headers_since: Option<Instant>,
    /// Whether bytes of an answer, which may be complete for its handler, wait for the peer to read.
    is_stalled: bool,
    /// HTTP/2 has other things to say between requests.
    is_http2: bool,
}

/// Why a connection has to go.
enum Overdue {
    /// The headers of a request did not arrive in time.
    Headers,
    /// There was no request for too long, by so much.
    Idle(Duration),
}

impl Activity {
    fn new() -> Self {
        let doing =
            Doing { running: 0, idle_since: Instant::now(), headers_since: None, is_stalled: false, is_http2: false };
        Self(Arc::new(Mutex::new(doing)))
    }

    fn doing(&self) -> MutexGuard<'_, Doing> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A request's headers are there.
    fn begin(&self, is_http2: bool) -> Running {
        let mut doing = self.doing();
        doing.running += 1;
        doing.headers_since = None;
        doing.is_http2 |= is_http2;
        Running(self.clone())
    }

    /// Bytes have arrived.
    fn bytes_came(&self) {
        let mut doing = self.doing();
        if doing.running == 0 && !doing.is_http2 && doing.headers_since.is_none() {
            doing.headers_since = Some(Instant::now());
        }
    }

    fn overdue(&self, header: Duration, idle: Duration) -> Option<Overdue> {
        let doing = self.doing();
        if doing.running > 0 || doing.is_stalled {
            return None;
        }
        if doing.headers_since.is_some_and(|since| since.elapsed() >= header) {
            return Some(Overdue::Headers);
        }
        doing.idle_since.elapsed().checked_sub(idle).map(Overdue::Idle)
    }
}

/// A request until its answer is written, or given up.
struct Running(Activity);

impl Drop for Running {
    fn drop(&mut self) {
        let mut doing = self.0.doing();
        doing.running -= 1;
        doing.idle_since = Instant::now();
    }
}

/// The body of an answer, which tells when it is written.
struct AnswerBody {
    body: Body,
    _running: Running,
}

impl hyper::body::Body for AnswerBody {
    type Data = axum::body::Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<hyper::body::Frame<Self::Data>, Self::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> hyper::body::SizeHint {
        self.body.size_hint()
    }
}

/// A stream that tells when bytes come, and fails when its peer takes none for too long.
struct WatchedStream<S> {
    stream: S,
    activity: Activity,
    time: Duration,
    /// Runs while a write waits.
    stalled: Option<Pin<Box<Sleep>>>,
}

impl<S> WatchedStream<S> {
    /// Looks at the clock if a write waits.
    fn check<T>(&mut self, context: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            if self.stalled.take().is_some() {
                self.activity.doing().is_stalled = false;
            }
            return written;
        }
        self.activity.doing().is_stalled = true;
        let time = self.time;
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(sleep(time)));
        ready!(stalled.as_mut().poll(context));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for WatchedStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        if buffer.filled().len() > before {
            self.activity.bytes_came();
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for WatchedStream<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.check(context, written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(context);
        self.check(context, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shut = Pin::new(&mut self.stream).poll_shutdown(context);
        self.check(context, shut)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.check(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
