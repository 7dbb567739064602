//! How requests are read into ruma's types, and what is answered where they can't be.

use std::sync::OnceLock;

use axum::{Router, extract::State};
use ruma::api::client::{
    account::get_username_availability,
    room::get_room_event,
    session::{get_login_types, login},
};
use serde_json::Value;

use super::TestServer;
use crate::serve::{
    App,
    config::Limits,
    error::{MatrixError, MatrixResult},
    typed::{Routes, Ruma, RumaResponse},
};

async fn logs_in(State(app): State<App>, request: Ruma<login::v3::Request>) -> MatrixResult<&'static str> {
    assert_eq!(app.server_name().as_str(), "a");
    assert!(request.body.len() > 10);
    Err(MatrixError::forbidden(request.request.device_id.clone().map_or("none".to_owned(), |id| id.to_string())))
}

async fn login_types(_request: Ruma<get_login_types::v3::Request>) -> RumaResponse<get_login_types::v3::Response> {
    RumaResponse(get_login_types::v3::Response::new(vec![]))
}

async fn availability(
    request: Ruma<get_username_availability::v3::Request>,
) -> RumaResponse<get_username_availability::v3::Response> {
    RumaResponse(get_username_availability::v3::Response::new(request.username == "ü b"))
}

async fn event(request: Ruma<get_room_event::v3::Request>) -> MatrixResult<&'static str> {
    Err(MatrixError::not_found(format!("{} {} {}", request.room_id, request.event_id, request.uri)))
}

fn typed_routes() -> Router<App> {
    Router::new()
        .ruma::<login::v3::Request, _, _>(logs_in)
        .ruma::<get_login_types::v3::Request, _, _>(login_types)
        .ruma::<get_username_availability::v3::Request, _, _>(availability)
        .ruma_with_limit::<get_room_event::v3::Request, _, _>(10, event)
}

const LOGIN: &str = "POST /_matrix/client/v3/login HTTP/1.1";

fn with_length(body: &[u8]) -> String {
    format!("{LOGIN}\r\nContent-Length: {}", body.len())
}

#[tokio::test]
async fn bodies_that_cannot_be_read_are_told_apart() {
    let server = TestServer::start(Limits { body_bytes_max: 100_000, ..Limits::default() }, typed_routes()).await;
    let check = async |body: &[u8], status: u16, errcode: &str| {
        let (found, answer) = server.answer(&with_length(body), body).await;
        let shown = String::from_utf8_lossy(&body[..body.len().min(100)]).into_owned();
        let answer: Value =
            serde_json::from_str(&answer).unwrap_or_else(|error| panic!("{error}: {answer:?} to {shown}"));
        assert_eq!((found, answer["errcode"].as_str()), (status, Some(errcode)), "{answer} to {shown}");
    };
    let good =
        br#"{"type":"m.login.password","identifier":{"type":"m.id.user","user":"a"},"password":"p","device_id":"D"}"#;
    check(good, 403, "M_FORBIDDEN").await;
    check(b"", 400, "M_BAD_JSON").await;
    check(b"{}", 400, "M_BAD_JSON").await;
    check(br#"{"type":7}"#, 400, "M_BAD_JSON").await;
    check(b"[]", 400, "M_BAD_JSON").await;
    check(b"{", 400, "M_NOT_JSON").await;
    check(b"nonsense", 400, "M_NOT_JSON").await;
    check(b"{\"type\":\"m.login.password\xff\"}", 400, "M_NOT_JSON").await;
    check(&vec![b' '; 100_001], 413, "M_TOO_LARGE").await;
}

#[tokio::test]
async fn sc_013_deep_json_does_no_harm() {
    let server = TestServer::start(Limits::default(), typed_routes()).await;
    for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
        let depth = 150_000;
        let body = format!("{{\"type\":{}1{}}}", open.repeat(depth), close.repeat(depth));
        let (status, answer) = server.answer(&with_length(body.as_bytes()), body.as_bytes()).await;
        assert_eq!(status, 400, "{answer}");
        assert!(answer.contains("M_BAD_JSON"), "{answer}");
    }
}

#[tokio::test]
async fn sc_195_bodies_without_announced_length_are_bounded_too() {
    let server = TestServer::start(Limits { body_bytes_max: 100_000, ..Limits::default() }, typed_routes()).await;
    let mut body = Vec::new();
    for _ in 0..200 {
        body.extend_from_slice(b"400\r\n");
        body.extend_from_slice(&[b' '; 1024]);
        body.extend_from_slice(b"\r\n");
    }
    let head = format!("{LOGIN}\r\nTransfer-Encoding: chunked\r\nContent-Type: multipart/form-data");
    let (status, answer) = server.answer(&head, &body).await;
    assert_eq!(status, 413, "{answer}");
}

#[tokio::test]
async fn sc_201_compressed_bodies_are_refused() {
    let server = TestServer::start(Limits::default(), typed_routes()).await;
    let head = format!("{LOGIN}\r\nContent-Encoding: gzip\r\nContent-Length: 2");
    assert_eq!(server.answer(&head, b"{}").await.0, 415);
}

#[tokio::test]
async fn a_body_that_does_not_come_is_not_waited_for() {
    let server = TestServer::start(Limits { body_seconds_max: 1, ..Limits::default() }, typed_routes()).await;
    let head = format!("{LOGIN}\r\nContent-Length: 200");
    let (status, answer) = server.answer(&head, b"{").await;
    assert_eq!(status, 408, "{answer}");
}

#[tokio::test]
async fn paths_and_queries_are_read() {
    static EMPTY: OnceLock<Vec<u8>> = OnceLock::new();
    let nothing = EMPTY.get_or_init(Vec::new);
    let server = TestServer::start(Limits::default(), typed_routes()).await;
    let check = async |request: &str, status: u16, part: &str| {
        let (found, answer) = server.answer(&format!("{request} HTTP/1.1"), nothing).await;
        assert!(found == status && answer.contains(part), "{request}: {found} {answer}");
    };
    check("GET /_matrix/client/v3/login", 200, r#"{"flows":[]}"#).await;
    // An older path of the same endpoint.
    check("GET /_matrix/client/r0/login", 200, r#"{"flows":[]}"#).await;
    check("HEAD /_matrix/client/v3/login", 200, "").await;
    check("PUT /_matrix/client/v3/login", 405, "M_UNRECOGNIZED").await;
    check("GET /_matrix/client/v3/register/available?username=%C3%BC+b", 200, r#"{"available":true}"#).await;
    check("GET /_matrix/client/v3/register/available?username=x", 200, r#"{"available":false}"#).await;
    check("GET /_matrix/client/v3/register/available", 400, "M_MISSING_PARAM").await;
    check(
        "GET /_matrix/client/v3/rooms/%21a%3Ab/event/$c%2Fd",
        404,
        r#""!a:b $c/d /_matrix/client/v3/rooms/%21a%3Ab/event/$c%2Fd""#,
    )
    .await;
    check("GET /_matrix/client/v3/rooms/a%3Ab/event/$c", 400, "M_INVALID_PARAM").await;
    check("GET /_matrix/client/v3/rooms/%ff/event/$c", 400, "M_INVALID_PARAM").await;
    // The route has a limit of its own.
    let event = "GET /_matrix/client/v3/rooms/!a:b/event/$c HTTP/1.1\r\nContent-Length: 11";
    assert_eq!(server.answer(event, b"12345678901").await.0, 413);
}
