use std::{
    collections::VecDeque,
    sync::{
        Mutex,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use futures_util::future::BoxFuture;
use http::HeaderMap;
use ravel_core::{
    id::KeyId,
    signing::{KeyRing, PublishedKey},
};
use ruma::api::federation::{discovery::get_server_version, transactions::send_transaction_message};

use super::*;
use crate::{federation::x_matrix::XMatrix, random::OsRandom};

/// Gives answers that were laid out for it, and keeps what was sent.
#[derive(Default)]
struct Script {
    answers: Mutex<VecDeque<Result<Response<Bytes>, NetworkError>>>,
    sent: Mutex<Vec<(ServerName, Request<Bytes>)>>,
    now_ms: AtomicI64,
}

impl Script {
    fn answer(&self, status: u16, body: &'static str) {
        let answer = Response::builder().status(status).body(Bytes::from_static(body.as_bytes())).unwrap();
        self.answers.lock().unwrap().push_back(Ok(answer));
    }

    fn fail(&self, error: NetworkError) {
        self.answers.lock().unwrap().push_back(Err(error));
    }
}

impl Network for Script {
    fn send<'a>(
        &'a self,
        destination: &'a ServerName,
        request: Request<Bytes>,
        _: RequestLimits,
    ) -> BoxFuture<'a, Result<Response<Bytes>, NetworkError>> {
        self.sent.lock().unwrap().push((destination.clone(), request));
        let answer = self.answers.lock().unwrap().pop_front().expect("an answer is laid out");
        Box::pin(async move { answer })
    }
}

impl Clock for Script {
    fn now_ms(&self) -> i64 {
        self.now_ms.load(Ordering::SeqCst)
    }

    fn sleep(&self, _: Duration) -> BoxFuture<'static, ()> {
        unreachable!("the client never waits")
    }
}

fn server(name: &str) -> ServerName {
    ServerName::parse(name).unwrap()
}

fn client() -> (FederationClient, Arc<Script>) {
    let script = Arc::new(Script::default());
    let key = SigningKey::from_seed(KeyId::parse("ed25519:1").unwrap(), &[1; 32]);
    let (random, pauses) = (Arc::new(OsRandom), Pauses::default());
    let servers = ServerFilter::new(vec!["*".to_owned()], vec!["*.evil".to_owned()]);
    let client = FederationClient::new(script.clone(), script.clone(), random, server("us"), key, pauses, servers);
    (client, script)
}

fn verified(headers: &HeaderMap, request: &SignedRequest<'_>) -> bool {
    let key = SigningKey::from_seed(KeyId::parse("ed25519:1").unwrap(), &[1; 32]);
    let mut ring = KeyRing::new();
    let published = PublishedKey { key: key.verify_key(), valid_until_ts_ms: 1, expired_ts_ms: None };
    ring.insert(server("us"), key.key_id().clone(), published);
    XMatrix::parse(headers, &server("them")).unwrap().verify(request, &server("them"), &ring, 0).is_ok()
}

#[tokio::test]
async fn requests_of_ruma_are_signed_and_answers_read() {
    let (client, script) = client();
    script.answer(200, r#"{"pdus": {"$a": {"error": "no"}, "$b": {}}}"#);
    let request = send_transaction_message::v1::Request::new(
        "1/2".into(),
        ruma::server_name!("us").to_owned(),
        ruma::MilliSecondsSinceUnixEpoch(ruma::uint!(5)),
    );
    let answer = client.send(&server("them"), request, SendOptions::default()).await.unwrap();
    assert_eq!(answer.pdus.len(), 2);

    let sent = script.sent.lock().unwrap();
    let (destination, request) = sent.first().unwrap();
    assert_eq!(destination.as_str(), "them");
    assert_eq!(request.uri(), "/_matrix/federation/v1/send/1%2F2");
    assert_eq!(request.headers()[CONTENT_TYPE], "application/json");
    let content = canonical_json::parse(request.body(), JsonMode::Strict).unwrap();
    let signed = SignedRequest { method: "PUT", uri: "/_matrix/federation/v1/send/1%2F2", content: Some(&content) };
    assert!(verified(request.headers(), &signed));
    assert!(!verified(request.headers(), &SignedRequest { content: None, ..signed }));
}

#[tokio::test]
async fn answers_that_are_none_are_told_apart() {
    let (client, script) = client();
    let them = server("them");
    let ask = || client.send(&them, get_server_version::v1::Request::new(), SendOptions::default());
    script.answer(404, r#"{"errcode": "M_NOT_FOUND", "error": "no", "more": 1}"#);
    match ask().await {
        Err(FederationError::Remote(error)) => {
            assert_eq!((error.status, error.errcode.as_deref()), (StatusCode::NOT_FOUND, Some("M_NOT_FOUND")));
            assert!(error.body.ends_with(b"\"more\": 1}"));
        }
        other => panic!("{other:?}"),
    }
    script.answer(400, "<html>");
    assert!(matches!(ask().await, Err(FederationError::Remote(RemoteError { errcode: None, .. }))));
    script.answer(302, "");
    assert!(matches!(ask().await, Err(FederationError::Remote(_))));
    script.answer(200, "<html>");
    assert!(matches!(ask().await, Err(FederationError::Answer { .. })));
    script.answer(200, r#"{"server": {"name": "x", "version": "1"}}"#);
    assert_eq!(ask().await.unwrap().server.unwrap().name.as_deref(), Some("x"));
    let ourselves = client.send(&server("us"), get_server_version::v1::Request::new(), SendOptions::default()).await;
    assert!(matches!(ourselves, Err(FederationError::OurselvesAsked)));
}

/// Lays out one answer and checks whether the server is left alone after it.
async fn check_back_off(lay_out: impl Fn(&Script), expected: bool) {
    let (client, script) = client();
    lay_out(&script);
    let request = || Request::builder().uri("/x").body(Bytes::new()).unwrap();
    let _ = client.send_raw(&server("them"), request(), SendOptions::default()).await;
    assert_eq!(client.backing_off_until_ms(&server("them")).is_some(), expected);
    if !expected {
        return;
    }
    let again = client.send_raw(&server("them"), request(), SendOptions::default()).await;
    assert!(matches!(again, Err(FederationError::BackingOff { .. })));
    assert_eq!(script.sent.lock().unwrap().len(), 1);
    // Other servers are not concerned, and whoever is in need may try.
    assert!(client.backing_off_until_ms(&server("others")).is_none());
    script.answer(200, "{}");
    let urgent = SendOptions { ignore_back_off: true, ..SendOptions::default() };
    assert!(client.send_raw(&server("them"), request(), urgent).await.is_ok());
    assert!(client.backing_off_until_ms(&server("them")).is_none(), "an answer is a sign of life");
}

#[tokio::test]
async fn servers_that_do_not_answer_are_left_alone() {
    let none = || NetworkError::NoSuchServer { host: "them".into() };
    check_back_off(|script| script.fail(NetworkError::Timeout), true).await;
    check_back_off(|script| script.fail(none()), true).await;
    check_back_off(|script| script.answer(502, ""), true).await;
    check_back_off(|script| script.answer(429, r#"{"retry_after_ms": 1000}"#), true).await;
    check_back_off(|script| script.answer(200, "{}"), false).await;
    check_back_off(|script| script.answer(403, "{}"), false).await;
    check_back_off(|script| script.answer(500, "{}"), false).await;
    check_back_off(|script| script.fail(NetworkError::AnswerTooLarge { bytes_max: 1 }), false).await;
}

#[tokio::test]
async fn pauses_end_by_themselves_or_by_a_sign_of_life() {
    let (client, script) = client();
    let request = || Request::builder().uri("/x").body(Bytes::new()).unwrap();
    script.fail(NetworkError::Timeout);
    assert!(client.send_raw(&server("them"), request(), SendOptions::default()).await.is_err());
    script.now_ms.store(client.backing_off_until_ms(&server("them")).unwrap(), Ordering::SeqCst);
    assert!(client.backing_off_until_ms(&server("them")).is_none());
    let alive = Arc::new(Mutex::new(Vec::new()));
    let told = Arc::clone(&alive);
    client.on_alive(Box::new(move |server| told.lock().unwrap().push(server.clone())));
    script.fail(NetworkError::Timeout);
    assert!(client.send_raw(&server("them"), request(), SendOptions::default()).await.is_err());
    assert!(!client.sign_of_life(&server("others")) && client.sign_of_life(&server("them")));
    assert!(client.backing_off_until_ms(&server("them")).is_none());
    assert_eq!(*alive.lock().unwrap(), [server("them")], "told once, and of no server that was not given up");
}

#[tokio::test]
async fn sc_146_a_denied_server_is_not_asked() {
    let (client, script) = client();
    let options = SendOptions { ignore_back_off: true, ..SendOptions::default() };
    for name in ["x.evil", "X.EVIL:8448"] {
        let refused = client.send(&server(name), get_server_version::v1::Request::new(), options).await.map(drop);
        assert!(matches!(refused, Err(FederationError::Denied)), "{refused:?}");
        let request = Request::builder().uri("/_matrix/key/v2/server").body(Bytes::new()).unwrap();
        let refused = client.send_unsigned(&server(name), request, options).await;
        assert!(matches!(refused, Err(FederationError::Denied)), "{refused:?}");
    }
    assert!(script.sent.lock().unwrap().is_empty());
}
