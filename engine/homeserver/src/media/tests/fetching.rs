//! Files of other servers.

use std::sync::{
    Mutex,
    atomic::{AtomicUsize, Ordering},
};

use futures_util::future::{BoxFuture, join_all};
use http::{Request, Response, StatusCode, Uri, header};
use tokio::sync::Semaphore;

use super::*;
use crate::{
    federation::{FederationError, HttpsGet},
    network::{NetworkError, RequestLimits},
    testing::Answer,
};

const WAIT: Duration = Duration::from_secs(20);

fn id(text: &str) -> MediaId {
    MediaId::parse(text).unwrap()
}

/// An answer with a file, as the specification has it.
fn two_parts(headers: &str, content: &str) -> Answer {
    let body = format!("--abc\r\n\r\n{{}}\r\n--abc\r\n{headers}\r\n{content}\r\n--abc--\r\n");
    raw(200, &[("content-type", "multipart/mixed; boundary=abc")], &body)
}

fn raw(status: u16, headers: &[(&str, &str)], body: &str) -> Answer {
    let mut response = Response::builder().status(status);
    for (name, value) in headers {
        response = response.header(*name, *value);
    }
    Answer::Raw(response.body(Bytes::copy_from_slice(body.as_bytes())).unwrap())
}

const UNKNOWN_PATH: Answer = Answer::Status(404, r#"{"errcode":"M_UNRECOGNIZED","error":"no"}"#);

#[tokio::test]
async fn a_file_of_another_server_is_fetched_once_and_kept() {
    let world = World::new();
    let asked = Arc::new(Mutex::new(Vec::new()));
    let note = asked.clone();
    world.network.set("b", move |request| {
        note.lock().unwrap().push(request.uri().to_string());
        assert!(request.headers().contains_key(header::AUTHORIZATION));
        two_parts("Content-Type: text/plain\r\nContent-Disposition: inline; filename=x\r\n", "some text")
    });
    let server = world.open().await;
    let (name, media_id) = (server_name("b"), id("abc"));
    let get = || async { read(server.media.get(&name, &media_id, WAIT).await.unwrap()).await };
    assert_eq!(join_all((0..5).map(|_| get())).await, ["some text"; 5]);
    let server = world.open().await;
    let file = server.media.get(&name, &media_id, WAIT).await.unwrap();
    assert_eq!(file.description, named("x", "text/plain"));
    assert_eq!(*asked.lock().unwrap(), ["/_matrix/federation/v1/media/download/abc?timeout_ms=20000"]);
    // It is not given out as one of this server's own.
    assert!(matches!(server.media.local(&media_id).await, Err(MediaError::NotFound)));
    // One that is gone from the folder is fetched again.
    fs::remove_file(files_in(&world.path()).pop().unwrap()).unwrap();
    assert_eq!(read(server.media.get(&name, &media_id, WAIT).await.unwrap()).await, "some text");
    assert_eq!(asked.lock().unwrap().len(), 2);
}

#[tokio::test]
async fn who_asks_meanwhile_waits_for_the_same_answer() {
    let world = World::new();
    let (count, gate) = (Arc::new(AtomicUsize::new(0)), Arc::new(Semaphore::new(0)));
    let (counted, held) = (count.clone(), gate.clone());
    world.network.set("b", move |_| {
        counted.fetch_add(1, Ordering::SeqCst);
        // An answer that is no file.
        Answer::Held(held.clone())
    });
    let server = world.open().await;
    let (name, media_id) = (server_name("b"), id("abc"));
    let both = join_all([server.media.get(&name, &media_id, WAIT), server.media.get(&name, &media_id, WAIT)]);
    let mut both = Box::pin(both);
    while count.load(Ordering::SeqCst) == 0 {
        assert!((&mut both).now_or_never().is_none());
        tokio::task::yield_now().await;
    }
    gate.add_permits(2);
    assert!(both.await.iter().all(|answer| matches!(answer, Err(MediaError::Answer(_)))));
    assert_eq!(count.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn servers_that_do_not_know_the_signed_request_are_asked_without() {
    let world = World::new();
    world.network.set("[::1]:1", |request| match request.uri().path() {
        "/_matrix/federation/v1/media/download/abc" => UNKNOWN_PATH,
        "/_matrix/media/v3/download/%5B::1%5D:1/abc" => {
            assert!(!request.headers().contains_key(header::AUTHORIZATION));
            assert_eq!(request.uri().query(), Some("allow_remote=false&timeout_ms=20000"));
            raw(200, &[("content-type", "a/b"), ("content-disposition", "attachment; filename=x")], "old")
        }
        path => panic!("{path}"),
    });
    let server = world.open().await;
    let file = server.media.get(&server_name("[::1]:1"), &id("abc"), WAIT).await.unwrap();
    assert_eq!(file.description, named("x", "a/b"));
    assert_eq!(read(file).await, "old");
}

#[tokio::test]
async fn sc_202_answers_that_lie_are_not_kept() {
    let world = World::new();
    let server = world.open().await;
    let check = async |answer: Answer, expected: fn(&MediaError) -> bool| {
        let shown = format!("{answer:?}");
        world.network.set("b", move |_| answer.clone());
        let error = server.media.get(&server_name("b"), &id("abc"), WAIT).await.unwrap_err();
        assert!(expected(&error), "{error:?} for {shown:.300}");
        assert_eq!(files_in(&world.path()), [] as [PathBuf; 0]);
    };
    let is_no_answer = |error: &MediaError| matches!(error, MediaError::Answer(_));
    let is_too_large = |error: &MediaError| matches!(error, MediaError::RemoteTooLarge);
    check(two_parts("", "12345678901"), is_too_large).await;
    check(two_parts("", &"x".repeat(100_000)), is_too_large).await;
    check(raw(502, &[], r#"{"errcode":"M_TOO_LARGE"}"#), is_too_large).await;
    check(raw(200, &[("content-type", "text/plain")], "text"), is_no_answer).await;
    check(raw(200, &[("content-type", "multipart/mixed; boundary=x")], "--abc"), is_no_answer).await;
    check(Answer::Status(404, r#"{"errcode":"M_NOT_FOUND"}"#), |error| matches!(error, MediaError::NotFound)).await;
    check(Answer::Status(403, r#"{"errcode":"M_FORBIDDEN"}"#), |error| matches!(error, MediaError::Federation(_)))
        .await;
    let not_yet = Answer::Status(504, r#"{"errcode":"M_NOT_YET_UPLOADED"}"#);
    check(not_yet, |error| matches!(error, MediaError::NotYetUploaded)).await;
    // It was not taken for one that does not answer.
    assert_eq!(server.client.backing_off_until_ms(&server_name("b")), None);
}

/// Web servers.
#[derive(Default)]
struct Web {
    asked: Mutex<Vec<String>>,
}

impl HttpsGet for Web {
    fn get<'a>(&'a self, uri: Uri, _: RequestLimits) -> BoxFuture<'a, Result<Response<Bytes>, NetworkError>> {
        self.asked.lock().unwrap().push(uri.to_string());
        let answer = Response::builder().header(header::CONTENT_TYPE, "a/b");
        let answer = match uri.path() {
            "/good" => answer.body(Bytes::from_static(b"elsewhere")),
            "/large" => answer.body(Bytes::from_static(b"12345678901")),
            "/away" => answer.status(302).header(header::LOCATION, "http://10.0.0.1/").body(Bytes::new()),
            _ => answer.status(StatusCode::FORBIDDEN).body(Bytes::from_static(b"no")),
        };
        Box::pin(async move { Ok(answer.unwrap()) })
    }
}

#[tokio::test]
async fn sc_197_sc_202_redirects_go_to_https_alone_and_without_credentials() {
    let world = World::new();
    let web = Arc::new(Web::default());
    world.network.set_web(web.clone());
    let server = world.open().await;
    let follow = async |location: &str, media_id: &str| {
        let answer = two_parts(&format!("Location: {location}\r\n"), "");
        world.network.set("b", move |_: &Request<Bytes>| answer.clone());
        server.media.get(&server_name("b"), &id(media_id), WAIT).await
    };
    let file = follow("https://cdn.b/good?token=x", "good").await.unwrap();
    assert_eq!(file.description.content_type.as_deref(), Some("a/b"));
    assert_eq!(read(file).await, "elsewhere");
    assert_eq!(*web.asked.lock().unwrap(), ["https://cdn.b/good?token=x"]);
    for location in [
        "http://cdn.b/good",
        "ftp://cdn.b/good",
        "file:///etc/passwd",
        "//cdn.b/good",
        "/good",
        "https://user:secret@cdn.b/good",
        "",
    ] {
        let refused = follow(location, "refused").await;
        assert!(matches!(refused, Err(MediaError::Answer(_))), "{location}: {refused:?}");
    }
    assert_eq!(web.asked.lock().unwrap().len(), 1);
    let refused = follow("https://cdn.b/away", "away").await;
    assert!(matches!(refused, Err(MediaError::Federation(FederationError::Network(_)))), "{refused:?}");
    assert!(matches!(follow("https://cdn.b/large", "large").await, Err(MediaError::RemoteTooLarge)));
    assert!(matches!(follow("https://cdn.b/bad", "bad").await, Err(MediaError::Answer(_))));
}

#[tokio::test]
async fn sc_146_nothing_is_fetched_from_a_denied_server() {
    let world = World::new();
    world.network.set("evil", |_| panic!("it is asked"));
    let server = world.open().await;
    let refused = server.media.get(&server_name("evil"), &id("abc"), WAIT).await;
    assert!(matches!(refused, Err(MediaError::Federation(FederationError::Denied))), "{refused:?}");
    let of_ours = server.media.get(&server_name("a"), &id("abc"), WAIT).await;
    assert!(matches!(of_ours, Err(MediaError::NotFound)), "{of_ours:?}");
}
