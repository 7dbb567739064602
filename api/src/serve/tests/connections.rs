//! What a connection can and can't do.

use std::time::{Duration, Instant};

use axum::{Router, body::Body};
use http::{Request, Version};
use http_body_util::BodyExt;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{LARGE_BYTES, TestServer, parse};
use crate::serve::config::Limits;

const FAST: &[u8] = b"GET /fast HTTP/1.1\r\nHost: a\r\n\r\n";

/// Reads until the server closes, and tells how long that took.
async fn until_closed(stream: &mut TcpStream) -> (Vec<u8>, Duration) {
    let began = Instant::now();
    let mut answer = Vec::new();
    let read = stream.read_to_end(&mut answer);
    let _ = tokio::time::timeout(Duration::from_secs(20), read).await.expect("the server does not close");
    (answer, began.elapsed())
}

async fn http2(server: &TestServer) -> hyper::client::conn::http2::SendRequest<Body> {
    let stream = TokioIo::new(server.connect().await);
    let (sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await.unwrap();
    tokio::spawn(connection);
    sender
}

async fn get(mut sender: hyper::client::conn::http2::SendRequest<Body>, path: &str) -> (u16, String) {
    let request = Request::get(format!("http://a{path}")).version(Version::HTTP_2).body(Body::empty()).unwrap();
    let (head, body) = sender.send_request(request).await.unwrap().into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    (head.status.as_u16(), String::from_utf8_lossy(&body).into_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn sc_218_a_panic_fails_its_own_request_only() {
    let server = TestServer::start(Limits::default(), Router::new()).await;
    let sender = http2(&server).await;
    let (slow, panic) = tokio::join!(get(sender.clone(), "/slow"), get(sender.clone(), "/panic"));
    assert_eq!(slow, (200, "done".to_owned()));
    assert_eq!(panic.0, 500);
    assert!(panic.1.contains("M_UNKNOWN") && !panic.1.contains("test's"), "{}", panic.1);
    assert_eq!(get(sender, "/fast").await.0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn running_requests_finish_when_the_server_stops() {
    let server = TestServer::start(Limits::default(), Router::new()).await;
    // One that waits for its next request, and one whose handshake has not begun.
    let mut idle = server.connect().await;
    idle.write_all(FAST).await.unwrap();
    let mut buffer = [0; 1024];
    assert!(idle.read(&mut buffer).await.unwrap() > 0);
    let silent = server.connect().await;
    let mut slow = server.connect().await;
    slow.write_all(b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    let mut poll = server.connect().await;
    poll.write_all(b"GET /poll HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    let sender = http2(&server).await;
    let slow_http2 = tokio::spawn(get(sender.clone(), "/slow"));
    tokio::time::sleep(Duration::from_millis(150)).await;
    server.stop();
    let (answer, _) = until_closed(&mut slow).await;
    assert_eq!(parse(&answer), (200, "done".to_owned()));
    assert_eq!(parse(&until_closed(&mut poll).await.0), (200, "nothing new".to_owned()));
    assert_eq!(slow_http2.await.unwrap(), (200, "done".to_owned()));
    server.finished().await;
    drop(silent);
    assert!(TcpStream::connect(server.address).await.is_err());
}

/// An answer that is complete for its handler may still be on the way to a slow reader.
#[tokio::test(flavor = "multi_thread")]
async fn slow_readers_get_the_whole_answer_when_the_server_stops() {
    let server = TestServer::start(Limits::default(), Router::new()).await;
    let mut slow = server.connect().await;
    slow.write_all(b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    tokio::time::sleep(Duration::from_millis(500)).await;
    server.stop();
    tokio::time::sleep(Duration::from_millis(200)).await;
    let (answer, _) = until_closed(&mut slow).await;
    assert!(answer.len() > LARGE_BYTES, "{} of {LARGE_BYTES} bytes came", answer.len());
    server.finished().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sc_217_headers_have_to_come_in_time() {
    let limits = Limits { header_seconds_max: 1, idle_seconds_max: 30, ..Limits::default() };
    let server = TestServer::start(limits, Router::new()).await;
    let mut drip = server.connect().await;
    // The first request is answered; the second one never ends, though something comes all the time.
    drip.write_all(FAST).await.unwrap();
    let began = Instant::now();
    drip.write_all(b"GET /fast HTTP/1.1\r\nHost: a\r\n").await.unwrap();
    while drip.write_all(b"X-A: b\r\n").await.is_ok() {
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(began.elapsed() < Duration::from_secs(15), "it can go on for ever");
    }
    assert!(began.elapsed() >= Duration::from_millis(900));
    server.finished().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sc_217_idle_connections_are_closed() {
    let limits = Limits { header_seconds_max: 5, idle_seconds_max: 1, ..Limits::default() };
    let server = TestServer::start(limits, Router::new()).await;
    let mut silent = server.connect().await;
    let (_, time) = until_closed(&mut silent).await;
    assert!(time >= Duration::from_millis(900), "{time:?}");
    let mut kept = server.connect().await;
    kept.write_all(FAST).await.unwrap();
    let (answer, time) = until_closed(&mut kept).await;
    assert_eq!(parse(&answer), (200, "fast".to_owned()));
    assert!(time >= Duration::from_millis(900), "{time:?}");
    let sender = http2(&server).await;
    assert_eq!(get(sender.clone(), "/fast").await.0, 200);
    server.finished().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sc_217_a_peer_that_reads_nothing_is_left() {
    let server = TestServer::start(Limits { idle_seconds_max: 1, ..Limits::default() }, Router::new()).await;
    let mut stuck = server.connect().await;
    stuck.write_all(b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    server.finished().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sc_217_headers_are_bounded() {
    let server = TestServer::start(Limits { header_bytes_max: 8192, ..Limits::default() }, Router::new()).await;
    let head = format!("GET /fast HTTP/1.1\r\nX-A: {}", "b".repeat(1 << 20));
    let mut stream = server.connect().await;
    let _ = stream.write_all(head.as_bytes()).await;
    let (answer, _) = until_closed(&mut stream).await;
    // The answer may be lost, as the rest of the headers comes to a closed connection.
    assert!(answer.is_empty() || parse(&answer).0 == 431, "{}", String::from_utf8_lossy(&answer));
    let mut sender = http2(&server).await;
    let request = Request::get("http://a/fast").version(Version::HTTP_2).header("x-a", "b".repeat(20_000));
    let refused = sender.send_request(request.body(Body::empty()).unwrap()).await;
    assert!(!refused.is_ok_and(|answer| answer.status().is_success()));
    server.finished_after_stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_connections_than_allowed_are_served() {
    let limits = Limits { connections_max: 2, ..Limits::default() };
    let server = TestServer::start(limits, Router::new()).await;
    let held = [server.connect().await, server.connect().await];
    tokio::time::sleep(Duration::from_millis(100)).await;
    let mut third = server.connect().await;
    third.write_all(FAST).await.unwrap();
    let mut buffer = [0; 1024];
    let waiting = tokio::time::timeout(Duration::from_millis(300), third.read(&mut buffer)).await;
    assert!(waiting.is_err(), "it was answered");
    drop(held);
    let read = tokio::time::timeout(Duration::from_secs(10), third.read(&mut buffer)).await;
    assert!(read.unwrap().unwrap() > 0);
}
