//! One connection: TLS, HTTP/1.1 or 2, and the bounds on what its peer can hold open.

use std::{
    convert::Infallible,
    io,
    net::SocketAddr,
    pin::{Pin, pin},
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::{Router, body::Body, extract::ConnectInfo};
use http::{Request, Response};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto::Builder,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::{Instant, Sleep, sleep, sleep_until, timeout},
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
        let running = activity.begin();
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
    let stream = BoundedWrites { stream, time: seconds(limits.idle_seconds_max), stalled: None };
    let builder = builder(limits);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
    let mut stopping = pin!(app.stopping());
    let mut is_told = false;
    let idle = seconds(limits.idle_seconds_max);
    let mut deadline = Instant::now() + idle;
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
            () = sleep_until(deadline) => match activity.idle_since() {
                Some(since) if since + idle + CLOSE <= Instant::now() => return,
                Some(since) if since + idle <= Instant::now() => {
                    is_told = true;
                    connection.as_mut().graceful_shutdown();
                    deadline = since + idle + CLOSE;
                }
                Some(since) => deadline = since + idle,
                None => deadline = Instant::now() + idle,
            },
        }
    }
}

fn builder(limits: &Limits) -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        // It runs while a connection waits for its next request, too.
        .header_read_timeout(seconds(limits.header_seconds_max.max(limits.idle_seconds_max)))
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

/// How many requests of a connection are being answered, and since when there is none.
#[derive(Clone)]
struct Activity(Arc<Mutex<(u32, Instant)>>);

impl Activity {
    fn new() -> Self {
        Self(Arc::new(Mutex::new((0, Instant::now()))))
    }

    fn begin(&self) -> Running {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).0 += 1;
        Running(self.clone())
    }

    fn idle_since(&self) -> Option<Instant> {
        let (running, since) = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        (running == 0).then_some(since)
    }
}

/// A request until its answer is written, or given up.
struct Running(Activity);

impl Drop for Running {
    fn drop(&mut self) {
        let mut activity = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        activity.0 -= 1;
        activity.1 = Instant::now();
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

/// A stream that fails when its peer takes no bytes for too long.
struct BoundedWrites<S> {
    stream: S,
    time: Duration,
    /// Runs while a write waits.
    stalled: Option<Pin<Box<Sleep>>>,
}

impl<S> BoundedWrites<S> {
    /// Looks at the clock if a write waits.
    fn check<T>(&mut self, context: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.stalled = None;
            return written;
        }
        let time = self.time;
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(sleep(time)));
        ready!(stalled.as_mut().poll(context));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for BoundedWrites<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for BoundedWrites<S> {
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
