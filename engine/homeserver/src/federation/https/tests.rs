//! Over real sockets, with certificates of a certificate authority made for the test.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};

use http_body_util::{StreamBody, combinators::BoxBody};
use hyper::{body::Frame, service::service_fn};
use hyper_util::{rt::TokioIo, server::conn::auto};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer},
};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::{
    clock::SystemClock,
    federation::{DnsError, SrvRecord, get_following},
    random::OsRandom,
};

const LIMITS: RequestLimits = RequestLimits { time: Duration::from_secs(5), answer_bytes: 1000 };

/// A certificate authority, names that it vouches for, and where they are.
struct World {
    issuer: Issuer<'static, KeyPair>,
    root: CertificateDer<'static>,
    names: Mutex<BTreeMap<String, Vec<IpAddr>>>,
    services: Mutex<BTreeMap<String, SrvRecord>>,
    lookups: AtomicUsize,
}

impl World {
    fn new() -> Arc<Self> {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let root = params.self_signed(&key).unwrap().der().clone();
        Arc::new(Self {
            issuer: Issuer::new(params, key),
            root,
            names: Mutex::default(),
            services: Mutex::default(),
            lookups: AtomicUsize::new(0),
        })
    }

    /// Starts a server that has a certificate for a name, and returns its port.
    async fn serve(&self, certified: &str, alpn: &[&str]) -> u16 {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![certified.to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap().der().clone();
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let mut tls = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)
            .unwrap();
        tls.alpn_protocols = alpn.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        let tls = TlsAcceptor::from(Arc::new(tls));
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            while let Ok((tcp, peer)) = listener.accept().await {
                let tls = tls.clone();
                tokio::spawn(async move {
                    let Ok(stream) = tls.accept(tcp).await else { return };
                    let service = service_fn(move |request| answer(request, peer));
                    let _ =
                        auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        port
    }

    fn name(&self, name: &str, addresses: &[&str]) {
        let addresses = addresses.iter().map(|address| address.parse().unwrap()).collect();
        self.names.lock().unwrap().insert(name.into(), addresses);
    }

    fn network(self: &Arc<Self>, allow_private_addresses: bool) -> HttpsNetwork {
        self.network_with(allow_private_addresses, true)
    }

    fn network_with(self: &Arc<Self>, allow_private_addresses: bool, verify_certificates: bool) -> HttpsNetwork {
        let config = HttpsNetworkConfig {
            addresses: AddressFilter { allow_private_addresses },
            tls: TlsConfig {
                platform_roots: false,
                ca_certificates: vec![self.root.clone()],
                verify_certificates,
                ..TlsConfig::default()
            },
            servers: ServerFilter::default(),
        };
        HttpsNetwork::new(&config, self.clone(), Arc::new(SystemClock), Arc::new(OsRandom)).unwrap()
    }
}

impl Dns for World {
    fn srv<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Vec<SrvRecord>, DnsError>> {
        let record = self.services.lock().unwrap().get(name).cloned();
        Box::pin(async move { Ok(record.into_iter().collect()) })
    }

    fn addresses<'a>(&'a self, host: &'a str) -> BoxFuture<'a, Result<Vec<IpAddr>, DnsError>> {
        self.lookups.fetch_add(1, Ordering::SeqCst);
        let addresses = self.names.lock().unwrap().get(host).cloned().unwrap_or_default();
        Box::pin(async move { Ok(addresses) })
    }
}

/// `/echo` tells what came, the other paths misbehave.
async fn answer(
    request: Request<Incoming>,
    peer: SocketAddr,
) -> Result<Response<BoxBody<Bytes, Infallible>>, Infallible> {
    let text = |text: String| Response::new(Full::from(text).boxed());
    let path = request.uri().path_and_query().unwrap().as_str().to_owned();
    Ok(match request.uri().path() {
        "/large" => text("x".repeat(1001)),
        // Without length and end.
        "/endless" => {
            let frames = futures_util::stream::repeat_with(|| Ok(Frame::data(Bytes::from_static(&[b'x'; 100]))));
            Response::new(BodyExt::boxed(StreamBody::new(frames)))
        }
        "/slow" => std::future::pending().await,
        "/redirect" => {
            let to = request.uri().query().unwrap_or_default().to_owned();
            Response::builder().status(302).header("location", to).body(Full::default().boxed()).unwrap()
        }
        _ => {
            let host = request.headers().get(HOST).map(|host| host.to_str().unwrap().to_owned());
            let host = host.or(request.uri().authority().map(Authority::to_string)).unwrap_or_default();
            text(format!("{} {path} {host} {:?} {}", request.method(), request.version(), peer.port()))
        }
    })
}

async fn get(network: &HttpsNetwork, server: &str, path: &str, limits: RequestLimits) -> Result<String, NetworkError> {
    let request = Request::builder().uri(path).body(Bytes::new()).unwrap();
    let answer = network.send(&ServerName::parse(server).unwrap(), request, limits).await?;
    Ok(String::from_utf8(answer.into_body().to_vec()).unwrap())
}

#[tokio::test]
async fn answers_come_back_over_both_protocols() {
    for (alpn, version) in [(&["h2", "http/1.1"][..], "HTTP/2.0"), (&["http/1.1"], "HTTP/1.1"), (&[], "HTTP/1.1")] {
        let world = World::new();
        let port = world.serve("a.test", alpn).await;
        // Only the last address has a server.
        world.name("a.test", &["127.0.0.9", "127.0.0.8", "127.0.0.1"]);
        let network = world.network(true);
        let server = format!("a.test:{port}");
        let first = get(&network, &server, "/echo?q=%20", LIMITS).await.unwrap();
        assert!(first.starts_with(&format!("GET /echo?q=%20 {server} {version} ")), "{first}");
        let second = get(&network, &server, "/echo?q=%20", LIMITS).await.unwrap();
        assert_eq!(first, second, "the connection is used again");
    }
}

#[tokio::test]
async fn a_certificate_for_an_address_is_checked() {
    let world = World::new();
    let port = world.serve("127.0.0.1", &[]).await;
    let network = world.network(true);
    assert!(get(&network, &format!("127.0.0.1:{port}"), "/echo", LIMITS).await.is_ok());
    world.name("a.test", &["127.0.0.1"]);
    let error = get(&network, &format!("a.test:{port}"), "/echo", LIMITS).await.unwrap_err();
    assert!(matches!(error, NetworkError::Tls { .. }), "{error:?}");
}

/// A server found by SRV must prove the name that it was looked for under, not the one that DNS gives.
#[tokio::test]
async fn sc_023_srv_does_not_change_whose_certificate_is_wanted() {
    let world = World::new();
    for (certified, is_good) in [("a.test", true), ("target.test", false)] {
        let port = world.serve(certified, &["h2"]).await;
        world.name("target.test", &["127.0.0.1"]);
        let record = SrvRecord { priority: 0, weight: 0, port, target: "target.test".into() };
        world.services.lock().unwrap().insert("_matrix-fed._tcp.a.test".into(), record);
        match get(&world.network(true), "a.test", "/echo", LIMITS).await {
            Ok(answer) => assert!(is_good && answer.contains(" a.test HTTP/2.0 "), "{answer}"),
            Err(error) => assert!(!is_good && matches!(error, NetworkError::Tls { .. }), "{error:?}"),
        }
    }
}

#[tokio::test]
async fn sc_023_wrong_certificates_are_refused() {
    let world = World::new();
    world.name("a.test", &["127.0.0.1"]);
    let wrong_name = world.serve("b.test", &["h2"]).await;
    let wrong_issuer = World::new().serve("a.test", &["h2"]).await;
    for port in [wrong_name, wrong_issuer] {
        let server = format!("a.test:{port}");
        let error = get(&world.network(true), &server, "/echo", LIMITS).await.unwrap_err();
        assert!(matches!(error, NetworkError::Tls { .. }), "{error:?}");
        assert!(get(&world.network_with(true, false), &server, "/echo", LIMITS).await.is_ok());
    }
}

#[tokio::test]
async fn sc_023_plain_http_is_refused() {
    let world = World::new();
    world.name("a.test", &["127.0.0.1"]);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        use tokio::io::AsyncWriteExt;
        let (mut tcp, _) = listener.accept().await.unwrap();
        tcp.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
        std::future::pending::<()>().await;
    });
    let error = get(&world.network(true), &format!("a.test:{port}"), "/echo", LIMITS).await.unwrap_err();
    assert!(matches!(error, NetworkError::Tls { .. }), "{error:?}");
}

#[tokio::test]
async fn sc_197_private_addresses_are_refused() {
    let world = World::new();
    let port = world.serve("a.test", &[]).await;
    world.name("a.test", &["127.0.0.1"]);
    world.name("b.test", &["10.0.0.1", "::ffff:127.0.0.1", "fe80::1"]);
    let record = SrvRecord { priority: 0, weight: 0, port, target: "a.test".into() };
    world.services.lock().unwrap().insert("_matrix-fed._tcp.c.test".into(), record);
    let network = world.network(false);
    for server in
        [format!("a.test:{port}"), format!("127.0.0.1:{port}"), "b.test".into(), "c.test".into(), "[::1]".into()]
    {
        let error = get(&network, &server, "/echo", LIMITS).await.unwrap_err();
        assert!(matches!(error, NetworkError::RefusedAddress { .. }), "{server}: {error:?}");
        assert!(!error.to_string().contains("10.0"), "sc_180: {error}");
    }
}

/// The address that counts is the one that is connected to, however often the name is looked up.
#[tokio::test]
async fn sc_196_a_name_that_changes_its_address_gains_nothing() {
    let world = World::new();
    let port = world.serve("a.test", &[]).await;
    let network = world.network(false);
    world.name("a.test", &["2001:db8::1"]);
    assert!(get(&network, &format!("a.test:{port}"), "/", LIMITS).await.is_err());
    world.name("a.test", &["127.0.0.1"]);
    let error = get(&network, &format!("a.test:{port}"), "/", LIMITS).await.unwrap_err();
    assert!(matches!(error, NetworkError::RefusedAddress { .. }), "{error:?}");
    assert_eq!(world.lookups.load(Ordering::SeqCst), 2, "one look-up for each connection, and no other");
}

/// The filter looks at each hop, so the first server is let through here by hand.
#[tokio::test]
async fn sc_197_redirects_to_private_addresses_are_refused() {
    let world = World::new();
    let port = world.serve("a.test", &[]).await;
    world.name("a.test", &["127.0.0.1"]);
    let target = format!("https://a.test:{port}/echo");

    struct FirstHopOpen(Arc<dyn HttpsGet>, Arc<dyn HttpsGet>);
    impl HttpsGet for FirstHopOpen {
        fn get<'a>(&'a self, uri: Uri, limits: RequestLimits) -> BoxFuture<'a, Result<Response<Bytes>, NetworkError>> {
            if uri.path() == "/redirect" { self.0.get(uri, limits) } else { self.1.get(uri, limits) }
        }
    }
    let open = world.network(true).web();
    let start: Uri = format!("https://a.test:{port}/redirect?{target}").parse().unwrap();
    assert!(get_following(&*open, start.clone(), LIMITS).await.is_ok());
    let filtered = FirstHopOpen(open, world.network(false).web());
    let error = get_following(&filtered, start, LIMITS).await.unwrap_err();
    assert!(matches!(error, NetworkError::RefusedAddress { .. }), "{error:?}");
}

#[tokio::test]
async fn sc_199_answers_are_bounded() {
    let world = World::new();
    let network = world.network(true);
    world.name("a.test", &["127.0.0.1"]);
    for alpn in ["h2", "http/1.1"] {
        let server = format!("a.test:{}", world.serve("a.test", &[alpn]).await);
        for path in ["/large", "/endless"] {
            let error = get(&network, &server, path, LIMITS).await.unwrap_err();
            assert!(matches!(error, NetworkError::AnswerTooLarge { bytes_max: 1000 }), "{error:?}");
        }
        let enough = RequestLimits { answer_bytes: 1001, ..LIMITS };
        assert_eq!(get(&network, &server, "/large", enough).await.unwrap().len(), 1001);
        let start = Instant::now();
        let short = RequestLimits { time: Duration::from_millis(300), ..LIMITS };
        let error = get(&network, &server, "/slow", short).await.unwrap_err();
        assert!(matches!(error, NetworkError::Timeout), "{error:?}");
        assert!(start.elapsed() < Duration::from_secs(3));
    }
}

#[tokio::test]
async fn failures_are_told_apart() {
    let world = World::new();
    let network = world.network(true);
    world.name("a.test", &["127.0.0.1"]);
    let error = get(&network, "nowhere.test", "/", LIMITS).await.unwrap_err();
    assert!(matches!(error, NetworkError::NoSuchServer { .. }), "{error:?}");
    let lookups = world.lookups.load(Ordering::SeqCst);
    assert!(get(&network, "nowhere.test", "/", LIMITS).await.is_err());
    assert_eq!(world.lookups.load(Ordering::SeqCst), lookups, "it is remembered");
    // The port of a listener that is gone.
    let port = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    let error = get(&network, &format!("a.test:{port}"), "/", LIMITS).await.unwrap_err();
    assert!(matches!(error, NetworkError::Connect { .. }), "{error:?}");
    let error = get(&network, "a.test:1", "https://b.test/", LIMITS).await.unwrap_err();
    assert!(matches!(error, NetworkError::InvalidRequest), "{error:?}");
}

#[test]
fn the_host_header_has_the_port_of_the_name() {
    for (name, uri, host) in [
        ("a.test:443", "https://a.test:443/x?y", Some("a.test:443")),
        ("[::1]:443", "https://[::1]:443/x?y", Some("[::1]:443")),
        // The client adds it.
        ("a.test:8448", "https://a.test:8448/x?y", None),
        ("a.test", "https://a.test/x?y", None),
    ] {
        let request = Request::builder().uri("/x?y").body(Bytes::new()).unwrap();
        let request = addressed(request, &ServerName::parse(name).unwrap()).unwrap();
        assert_eq!(request.uri().to_string(), uri);
        assert_eq!(request.headers().get(HOST).map(|host| host.to_str().unwrap()), host);
    }
}

/// `.well-known` is on port 443, which a test can't have: the web side alone, with a port.
#[tokio::test]
async fn web_pages_are_fetched_over_https_only() {
    let world = World::new();
    let port = world.serve("a.test", &["h2", "http/1.1"]).await;
    world.name("a.test", &["127.0.0.1"]);
    let web = world.network(true).web();
    let page = web.get(format!("https://a.test:{port}/echo").parse().unwrap(), LIMITS).await.unwrap();
    assert!(page.body().starts_with(b"GET /echo a.test"));
    let error = web.get(format!("http://a.test:{port}/echo").parse().unwrap(), LIMITS).await.unwrap_err();
    assert!(matches!(error, NetworkError::InvalidRequest), "{error:?}");
}

#[test]
fn authorities_are_read_from_files() {
    let folder = std::env::temp_dir().join(format!("ravel-tls-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let [good, empty, missing] = ["good.pem", "empty.pem", "missing.pem"].map(|name| folder.join(name));
    let root = rcgen::generate_simple_self_signed(vec!["a.test".into()]).unwrap();
    std::fs::write(&good, root.cert.pem()).unwrap();
    std::fs::write(&empty, "nothing").unwrap();
    let load = |file: &std::path::Path| {
        let config = TlsConfig { platform_roots: false, ca_files: vec![file.to_owned()], ..TlsConfig::default() };
        config.client_config()
    };
    assert!(load(&good).is_ok());
    assert!(matches!(load(&empty), Err(TlsConfigError::EmptyCaFile { .. })));
    assert!(matches!(load(&missing), Err(TlsConfigError::CaFile { .. })));
    let nobody = TlsConfig { platform_roots: false, ..TlsConfig::default() };
    assert!(matches!(nobody.client_config(), Err(TlsConfigError::NoRoots)));
    std::fs::remove_dir_all(&folder).unwrap();
}
