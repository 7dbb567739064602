//! A server as clients, other servers and those who run it see it.

use std::{
    io::{Read, Write},
    net::TcpStream,
    os::unix::fs::PermissionsExt,
    time::{Duration, Instant},
};

use http_body_util::{BodyExt, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use ravel_core::{
    canonical_json::{JsonMode, parse_object},
    signing::{VerifyKey, verify_json},
};
use rustls::pki_types::CertificateDer;
use serde_json::json;

use crate::{
    server::{Server, client_config},
    support::{Place, ravel},
};

#[test]
fn two_commands_start_a_server() {
    let place = Place::new();
    let folder = place.path("a/server");
    let folder = folder.to_str().unwrap();
    let said = ravel(&["init", "--server-name", "example.org", folder]).ok();
    assert!(said.contains(&format!("ravel serve --config {folder}/ravel.toml")), "{said}");
    for file in ["ravel.toml", "signing.key"] {
        let mode = std::fs::metadata(place.path("a/server").join(file)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{file}");
    }
    let key = std::fs::read_to_string(place.path("a/server/signing.key")).unwrap();
    assert!(key.starts_with("ed25519 a_") && key.lines().count() == 1 && !key.contains('='));
    // Never twice.
    ravel(&["init", "--server-name", "other.org", folder])
        .fails(2, &["has a ravel.toml already", "nothing was changed"]);
    assert_eq!(std::fs::read_to_string(place.path("a/server/signing.key")).unwrap(), key);
    ravel(&["init", "--server-name", "not a name", folder]).fails(2, &["not a valid server name"]);

    let mut server = Server::start(place, "a/server/ravel.toml", &[("RAVEL_LISTEN__HTTP", "127.0.0.1:0")]);
    let versions = server.ask("GET", "/_matrix/client/versions");
    assert!(versions.json()["versions"].as_array().unwrap().contains(&json!("v1.1")), "{versions:?}");
    assert!(versions.head.contains("vary: authorization") && versions.head.contains("cache-control: private"));
    let version = server.ask("GET", "/_matrix/federation/v1/version").json();
    assert_eq!(version["server"]["name"], json!("Ravel"));
    assert_eq!(server.ask("GET", "/_ravel/health/live").status, 200);
    assert_eq!(server.ask("GET", "/_ravel/health/ready").json(), json!({ "status": "ready" }));
    // Without an address to tell there is none.
    assert_eq!(server.ask("GET", "/.well-known/matrix/server").status, 404);
    assert!(server.place.path("a/server/database").is_dir());
    server.signal("TERM");
    assert_eq!(server.ended(), 0);
    assert!(!server.stderr().contains(key.split(' ').nth(2).unwrap().trim()));
}

#[test]
fn own_keys_are_signed() {
    let server = Server::initialized(&[]);
    for path in ["/_matrix/key/v2/server", "/_matrix/key/v2/server/", "/_matrix/key/v2/server/ed25519:x"] {
        let answer = server.ask("GET", path);
        assert_eq!(answer.status, 200);
        let object = parse_object(answer.body.as_bytes(), JsonMode::Strict).unwrap();
        let keys = answer.json();
        let (key_id, key) = keys["verify_keys"].as_object().unwrap().iter().next().unwrap();
        let key = VerifyKey::from_base64(key["key"].as_str().unwrap()).unwrap();
        assert_eq!(verify_json(&object, "example.org", key_id, &key), Ok(()));
        assert_eq!(keys["server_name"], json!("example.org"));
        let now_ms = std::time::UNIX_EPOCH.elapsed().unwrap().as_millis() as u64;
        let valid_for = keys["valid_until_ts"].as_u64().unwrap() - now_ms;
        assert!((3_600_000..=7 * 86_400_000).contains(&valid_for), "{valid_for}");
    }
}

#[test]
fn unknown_paths_and_methods_are_told_in_matrix() {
    let server = Server::initialized(&[]);
    let check = |method, path, status: u16, errcode: &str| {
        let answer = server.ask(method, path);
        assert_eq!(answer.error(), (status, errcode.to_owned()), "{method} {path}");
        assert!(answer.head.contains("content-type: application/json"), "{answer:?}");
        assert!(answer.head.contains("access-control-allow-origin: *"), "{answer:?}");
    };
    check("GET", "/_matrix/client/v3/nothing", 404, "M_UNRECOGNIZED");
    check("GET", "/_matrix/client/versions/", 404, "M_UNRECOGNIZED");
    check("GET", "/_matrix/federation/v1/nothing%ff", 404, "M_UNRECOGNIZED");
    check("POST", "/_matrix/client/versions", 405, "M_UNRECOGNIZED");
    check("BREW", "/_matrix/client/versions", 405, "M_UNRECOGNIZED");
    check("PUT", "/_matrix/key/v2/server", 405, "M_UNRECOGNIZED");
    // Browsers may ask, and nothing is done.
    for path in ["/_matrix/client/versions", "/_matrix/client/v3/anything"] {
        let answer = server.ask("OPTIONS", path);
        assert_eq!((answer.status, answer.body.as_str()), (204, ""));
        assert!(answer.head.contains("access-control-allow-methods: get, post, put, delete, options"), "{answer:?}");
        assert!(answer.head.contains("access-control-allow-headers: x-requested-with, content-type, authorization"));
    }
    // What is for those who run the server is not for pages that their browsers show.
    assert!(!server.ask("GET", "/_ravel/health/live").head.contains("access-control"));
    assert_eq!(server.ask("GET", "/").status, 404);
}

#[test]
fn sc_195_huge_bodies_are_refused_everywhere() {
    let server = Server::initialized(&[]);
    for path in ["/_matrix/client/versions", "/_matrix/client/v3/nothing", "/_ravel/health/live"] {
        let headers = "Content-Type: multipart/form-data\r\nContent-Length: 100000000000\r\n";
        let answer = server.ask_with("POST", path, headers, b"x");
        assert_eq!(answer.error(), (413, "M_TOO_LARGE".to_owned()), "{path}");
    }
}

/// A certificate for `localhost` in PEM, its key, and itself.
fn certificate() -> (String, String, CertificateDer<'static>) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    (made.cert.pem(), made.signing_key.serialize_pem(), made.cert.der().clone())
}

fn tls_server() -> (Server, CertificateDer<'static>) {
    let place = Place::new();
    let (certificate, key, der) = certificate();
    place.file("tls.crt", certificate);
    place.file("tls.key", key);
    place.file("signing.key", "ed25519 1 YJDBA9Xnr2sVqXD9Vj7XVUnmFZcZrlw8Md7kMW+3XA1\n");
    place.file(
        "ravel.toml",
        r#"
        server_name = "localhost:8448"
        public_base_url = "https://matrix.example.org/"
        [listen]
        https = "127.0.0.1:0"
        tls_certificate = "tls.crt"
        tls_private_key = "tls.key"
        [database]
        backend = "memory"
        [metrics]
        listen = "127.0.0.1:0"
        [log]
        level = "trace"
        format = "json"
        file = "ravel.log"
        "#,
    );
    (Server::start(place, "ravel.toml", &[]), der)
}

#[test]
fn tls_and_http2_are_spoken() {
    let (server, certificate) = tls_server();
    let answer = server.ask_tls(&certificate, "GET", "/.well-known/matrix/client");
    assert_eq!(answer.json(), json!({ "m.homeserver": { "base_url": "https://matrix.example.org" } }));
    let answer = server.ask_tls(&certificate, "GET", "/.well-known/matrix/server");
    assert_eq!(answer.json(), json!({ "m.server": "matrix.example.org:443" }));
    assert_eq!(server.ask_tls(&certificate, "GET", "/_ravel/metrics").status, 404);

    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let statuses = runtime.block_on(async {
        let stream = tokio::net::TcpStream::connect(server.https.unwrap()).await.unwrap();
        let connector = tokio_rustls::TlsConnector::from(client_config(&certificate, &[b"h2", b"http/1.1"]));
        let stream = connector.connect("localhost".try_into().unwrap(), stream).await.unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
        let io = TokioIo::new(stream);
        let (mut sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
        tokio::spawn(connection);
        let mut statuses = Vec::new();
        for path in ["/_matrix/client/versions", "/_matrix/nothing"] {
            let request = http::Request::get(format!("https://localhost{path}?access_token=syt_secret"))
                .header("authorization", "Bearer syt_secret")
                .body(Empty::<axum::body::Bytes>::new())
                .unwrap();
            let answer = sender.send_request(request).await.unwrap();
            statuses.push(answer.status().as_u16());
            answer.into_body().collect().await.unwrap();
        }
        statuses
    });
    assert_eq!(statuses, [200, 404]);
    // Each line is JSON, and none has a token, though everything is logged.
    let log = std::fs::read_to_string(server.place.path("ravel.log")).unwrap();
    let lines: Vec<serde_json::Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(lines.iter().any(|line| line["message"] == "ready"), "{log}");
    assert!(lines.iter().any(|line| line["route"] == "/_matrix/client/versions"), "{log}");
    assert!(!log.contains("syt_secret") && !log.contains("access_token"));
    assert_eq!(server.stderr(), "");
}

#[test]
fn a_new_certificate_is_taken_on_sighup() {
    let (server, old) = tls_server();
    assert_eq!(server.ask_tls(&old, "GET", "/_matrix/client/versions").status, 200);
    let log = server.place.path("ravel.log");
    let wait_for = |message: &str| {
        let began = Instant::now();
        while !std::fs::read_to_string(&log).unwrap_or_default().contains(message) {
            assert!(began.elapsed() < Duration::from_secs(30), "{message}: {:?}", std::fs::read_to_string(&log));
            std::thread::sleep(Duration::from_millis(10));
        }
    };
    // One that can't be used changes nothing.
    let (new_certificate, new_key, new) = certificate();
    server.place.file("tls.crt", &new_certificate);
    std::fs::rename(&log, server.place.path("ravel.log.1")).unwrap();
    server.signal("HUP");
    wait_for("the TLS certificate in use stays");
    assert_eq!(server.ask_tls(&old, "GET", "/_matrix/client/versions").status, 200);
    server.place.file("tls.key", &new_key);
    server.signal("HUP");
    wait_for("the TLS certificate was read again");
    assert_eq!(server.ask_tls(&new, "GET", "/_matrix/client/versions").status, 200);
}

#[test]
fn sc_220_metrics_have_bounded_labels_and_are_not_for_everybody() {
    let server = Server::initialized(&[]);
    server.ask("GET", "/_matrix/key/v2/server/ed25519:one");
    server.ask("GET", "/_matrix/key/v2/server/ed25519:two");
    server.ask("GET", "/_matrix/client/v3/nothing/!secret:example.org");
    server.ask("BREW", "/_matrix/client/versions?access_token=secret");
    let metrics = server.ask("GET", "/_ravel/metrics");
    assert!(metrics.head.contains("text/plain"), "{metrics:?}");
    for line in [
        r#"ravel_http_requests_total{method="GET",route="/_matrix/key/v2/server/{key_id}",status="200"} 2"#,
        r#"ravel_http_requests_total{method="GET",route="unmatched",status="404"} 1"#,
        r#"ravel_http_requests_total{method="other",route="/_matrix/client/versions",status="405"} 1"#,
        r#"ravel_http_request_duration_seconds_count{method="GET",route="/_matrix/key/v2/server/{key_id}"} 2"#,
    ] {
        assert!(metrics.body.lines().any(|found| found == line), "{line} is not in {}", metrics.body);
    }
    assert!(!metrics.body.contains("secret") && !metrics.body.contains("BREW"));
    // Forwarded by a proxy.
    assert_eq!(server.ask_with("GET", "/_ravel/metrics", "X-Forwarded-For: 192.0.2.1\r\n", b"").status, 404);

    let (server, _) = tls_server();
    let mut stream = TcpStream::connect(server.metrics.unwrap()).unwrap();
    stream.write_all(b"GET /_ravel/metrics HTTP/1.0\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    assert!(text.contains("ravel_build_info"), "{text}");
    let off = Server::initialized(&[("RAVEL_METRICS__ENABLED", "false")]);
    assert_eq!(off.ask("GET", "/_ravel/metrics").status, 404);
}

#[test]
fn signals_stop_a_server() {
    for signal in ["INT", "TERM"] {
        let mut server = Server::initialized(&[]);
        let address = server.http.unwrap();
        // A connection that is kept open does not keep the server.
        let mut idle = TcpStream::connect(address).unwrap();
        idle.write_all(b"GET /_matrix/client/versions HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
        assert!(idle.read(&mut [0; 4096]).unwrap() > 0);
        let began = Instant::now();
        server.signal(signal);
        assert_eq!(server.ended(), 0, "{}", server.stderr());
        assert!(began.elapsed() < Duration::from_secs(10));
        assert!(TcpStream::connect(address).is_err());
        assert!(server.stderr().contains("stopped"), "{}", server.stderr());
        // The database is free again, also for the next server.
        let place = std::mem::replace(&mut server.place, Place::new());
        drop(server);
        let again = Server::start(place, "server/ravel.toml", &[]);
        assert_eq!(again.ask("GET", "/_ravel/health/ready").status, 200);
    }
}

/// Opens a connection whose answers are never read, so that it can't finish.
fn stuck(server: &Server) -> TcpStream {
    let mut stream = TcpStream::connect(server.http.unwrap()).unwrap();
    // Longer than the server takes to fill its side.
    stream.set_write_timeout(Some(Duration::from_secs(3))).unwrap();
    let requests = b"GET /_ravel/metrics HTTP/1.1\r\nHost: a\r\n\r\n".repeat(1000);
    // Until both ends are full.
    while stream.write_all(&requests).is_ok() {}
    stream
}

#[test]
fn a_connection_that_does_not_finish_is_waited_for_only_so_long() {
    let mut server = Server::initialized(&[("RAVEL_LIMITS__STOP_SECONDS_MAX", "1")]);
    let _stuck = stuck(&server);
    let began = Instant::now();
    server.signal("TERM");
    assert_eq!(server.ended(), 0);
    assert!((1..10).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
    assert!(server.stderr().contains("some connections had not finished in time"), "{}", server.stderr());
}

#[test]
fn a_second_signal_ends_at_once() {
    let mut server = Server::initialized(&[("RAVEL_LIMITS__STOP_SECONDS_MAX", "3600")]);
    let _stuck = stuck(&server);
    server.signal("INT");
    std::thread::sleep(Duration::from_millis(500));
    assert!(server.child.try_wait().unwrap().is_none(), "{}", server.stderr());
    server.signal("INT");
    assert_eq!(server.ended(), 130);
}

#[test]
fn what_keeps_a_server_from_starting_is_told() {
    let server = Server::initialized(&[]);
    let configuration = server.place.path("server/ravel.toml");
    let configuration = configuration.to_str().unwrap();
    let fails = |code: i32, variables: &[(&str, &str)], parts: &[&str]| {
        let mut command = crate::support::command(&["serve", "--config", configuration]);
        let run: crate::support::Run = command.envs(variables.iter().copied()).output().unwrap().into();
        run.fails(code, parts);
    };
    fails(2, &[], &["rocksdb:", "server/database can't be opened", "is in use by another process"]);
    let memory = ("RAVEL_DATABASE__BACKEND", "memory");
    let taken = server.http.unwrap().to_string();
    fails(2, &[memory, ("RAVEL_LISTEN__HTTP", &taken)], &["listen.http = ", &taken, "Address already in use"]);
    fails(2, &[memory, ("RAVEL_SIGNING_KEY", "missing")], &["the signing key ", "server/missing can't be read"]);
    fails(2, &[memory, ("RAVEL_SIGNING_KEY", "ravel.toml")], &["ravel.toml: is not a signing key: expected one line"]);
    fails(2, &[memory, ("RAVEL_LOG__FILE", "no/folder")], &["the log file ", "no/folder can't be opened"]);
    let tls = [
        memory,
        ("RAVEL_LISTEN__HTTPS", "127.0.0.1:0"),
        ("RAVEL_LISTEN__TLS_CERTIFICATE", "ravel.toml"),
        ("RAVEL_LISTEN__TLS_PRIVATE_KEY", "signing.key"),
    ];
    fails(2, &tls, &["listen.tls_certificate: ", "ravel.toml has no certificate"]);
    fails(2, &[("RAVEL_DATABASE__PATH", "signing.key")], &["signing.key can't be opened"]);
    // A folder that is something else's.
    std::fs::create_dir(server.place.path("server/other")).unwrap();
    server.place.file("server/other/file", "");
    fails(2, &[("RAVEL_DATABASE__PATH", "other")], &["other can't be opened"]);
}
