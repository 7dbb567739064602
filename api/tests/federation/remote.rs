//! Other servers, made for tests: each signs what it sends, publishes its keys over HTTPS, and answers what a test tells it to.

use std::{
    net::Ipv4Addr,
    sync::{Arc, Mutex},
    time::{SystemTime, UNIX_EPOCH},
};

use axum::{
    Router,
    body::Bytes,
    extract::State,
    http::{HeaderMap, Method, StatusCode, Uri, header},
    response::{IntoResponse, Response},
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
    service::TowerToHyperService,
};
use ravel_core::{
    canonical_json::{CanonicalJsonValue, JsonMode, object_to_canonical_bytes, parse, parse_object},
    id::{KeyId, ServerName},
    pdu::ParsedPdu,
    room_version::RoomVersion,
    signing::{SigningKey, hash_and_sign_event},
};
use ravel_homeserver::federation::{
    keys::OwnKeys,
    x_matrix::{SignedRequest, sign},
};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::Value;
use tokio_rustls::TlsAcceptor;

use crate::server::{Answer, Server};

/// The name of the Ravel that is tested.
pub(crate) const RAVEL: &str = "example.org";

/// A certificate authority, whose own certificate is in a file.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    folder: tempfile::TempDir,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("ca.pem"), params.self_signed(&key).unwrap().pem()).unwrap();
        Self { issuer: Issuer::new(params, key), folder }
    }

    /// Starts a Ravel that trusts this authority, and in which everybody can register.
    pub(crate) fn ravel(&self) -> Server {
        self.ravel_with(&[])
    }

    /// As [`ravel`](Self::ravel), with more environment variables.
    pub(crate) fn ravel_with(&self, variables: &[(&str, &str)]) -> Server {
        let certificates = format!("[{:?}]", self.folder.path().join("ca.pem"));
        let federation = [
            ("RAVEL_FEDERATION__CA_CERTIFICATES", certificates.as_str()),
            ("RAVEL_FEDERATION__ALLOW_PRIVATE_ADDRESSES", "true"),
            ("RAVEL_RATE_LIMITS__ENABLED", "false"),
        ];
        Server::open(&[&federation, variables].concat())
    }

    /// Starts another server.
    pub(crate) fn remote(&self) -> Remote {
        Remote::start(self)
    }

    fn certificate(&self) -> (CertificateDer<'static>, PrivateKeyDer<'static>) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap().der().clone();
        (certificate, PrivateKeyDer::try_from(key.serialize_der()).unwrap())
    }
}

/// Another server, whose name is `localhost` with the port that it listens at.
pub(crate) struct Remote {
    pub(crate) name: ServerName,
    /// The key that it signs and publishes.
    pub(crate) key: SigningKey,
    shared: Arc<Shared>,
    /// Serves until it is dropped.
    _runtime: tokio::runtime::Runtime,
}

/// A request that a remote server has got.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) method: Method,
    /// Path and query.
    pub(crate) path: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Asked {
    /// Returns the body, which has to be JSON.
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

type Handler = Box<dyn Fn(&Asked) -> Option<(u16, Value)> + Send + Sync>;

#[derive(Default)]
struct Shared {
    asked: Mutex<Vec<Asked>>,
    /// The newest first.
    handlers: Mutex<Vec<Handler>>,
}

impl Remote {
    fn start(authority: &Authority) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = runtime.block_on(tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))).unwrap();
        let port = listener.local_addr().unwrap().port();
        let name = ServerName::parse(&format!("localhost:{port}")).unwrap();
        let mut seed = [b'.'; 32];
        seed.iter_mut().zip(name.as_str().bytes()).for_each(|(byte, letter)| *byte = letter);
        let key = SigningKey::from_seed(KeyId::parse("ed25519:remote").unwrap(), &seed);
        let (certificate, private_key) = authority.certificate();
        let mut tls = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate], private_key)
            .unwrap();
        tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let tls = TlsAcceptor::from(Arc::new(tls));
        let shared = Arc::new(Shared::default());
        let routes = Router::new().fallback(answer).with_state(shared.clone());
        runtime.spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                let (tls, routes) = (tls.clone(), routes.clone());
                tokio::spawn(async move {
                    let Ok(stream) = tls.accept(tcp).await else { return };
                    let service = TowerToHyperService::new(routes);
                    let connection = auto::Builder::new(TokioExecutor::new());
                    let _ = connection.serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        let remote = Self { name, key, shared, _runtime: runtime };
        remote.publish_key();
        remote
    }

    /// Answers the question for its keys, as long as no later handler does.
    fn publish_key(&self) {
        let keys =
            OwnKeys { server_name: self.name.clone(), signing_key: self.key.clone(), old_keys: Default::default() };
        self.answers(move |asked| {
            let document = object_to_canonical_bytes(&keys.document(now_ms()).unwrap());
            asked.path.starts_with("/_matrix/key/v2/server").then(|| (200, serde_json::from_slice(&document).unwrap()))
        });
    }

    /// Has requests answered, with status and body: those for which the function returns something, also if earlier functions
    /// would.
    pub(crate) fn answers(&self, handler: impl Fn(&Asked) -> Option<(u16, Value)> + Send + Sync + 'static) {
        self.shared.handlers.lock().unwrap().insert(0, Box::new(handler));
    }

    /// Returns the requests that it got, but for those for keys.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        let asked = self.shared.asked.lock().unwrap();
        asked.iter().filter(|asked| !asked.path.starts_with("/_matrix/key/")).cloned().collect()
    }

    /// Returns the id of a user of this server.
    pub(crate) fn user(&self, localpart: &str) -> String {
        format!("@{localpart}:{}", self.name)
    }

    pub(crate) fn get(&self, ravel: &Server, path: &str) -> Answer {
        self.ask(ravel, "GET", path, None)
    }

    pub(crate) fn post(&self, ravel: &Server, path: &str, body: &Value) -> Answer {
        self.ask(ravel, "POST", path, Some(body))
    }

    pub(crate) fn put(&self, ravel: &Server, path: &str, body: &Value) -> Answer {
        self.ask(ravel, "PUT", path, Some(body))
    }

    /// Asks a server of the name [`RAVEL`], signed, for a path below `/_matrix/federation/`, or for another one if it begins with a
    /// slash.
    pub(crate) fn ask(&self, ravel: &Server, method: &str, path: &str, body: Option<&Value>) -> Answer {
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/_matrix/federation/{path}") };
        let body = body.map(|body| body.to_string().into_bytes()).unwrap_or_default();
        ravel.ask_with(method, &path, &self.authorization(method, &path, &body), &body)
    }

    /// Returns the header that signs a request.
    pub(crate) fn authorization(&self, method: &str, uri: &str, body: &[u8]) -> String {
        let content = (!body.is_empty()).then(|| parse(body, JsonMode::ByteExact).unwrap());
        self.authorization_for(RAVEL, method, uri, content.as_ref())
    }

    /// As [`authorization`](Self::authorization), for a server of another name.
    pub(crate) fn authorization_for(
        &self,
        destination: &str,
        method: &str,
        uri: &str,
        content: Option<&CanonicalJsonValue>,
    ) -> String {
        let request = SignedRequest { method, uri, content };
        let header = sign(&request, &self.name, &ServerName::parse(destination).unwrap(), &self.key).unwrap();
        format!("Authorization: {}\r\n", header.to_str().unwrap())
    }

    /// Has a user join a room that a server is in; returns the answer to `send_join` and the join's id.
    pub(crate) fn join(&self, ravel: &Server, room_id: &str, localpart: &str) -> (Value, String) {
        let versions: String = RoomVersion::ALL.iter().map(|version| format!("&ver={version}")).collect();
        let path = format!("v1/make_join/{room_id}/{}?{}", self.user(localpart), versions.trim_start_matches('&'));
        let mut template = self.get(ravel, &path).ok();
        let version = RoomVersion::parse(template["room_version"].as_str().unwrap()).unwrap();
        template["event"]["origin_server_ts"] = now_ms().into();
        let (event_id, event) = self.sign(version, &template["event"]);
        (self.put(ravel, &format!("v2/send_join/{room_id}/{}", escaped(&event_id)), &event).ok(), event_id)
    }

    /// Hashes and signs an event, and returns it with its id.
    pub(crate) fn sign(&self, version: RoomVersion, event: &Value) -> (String, Value) {
        let rules = version.rules();
        let event = parse_object(event.to_string().as_bytes(), JsonMode::Strict).unwrap();
        let signed = hash_and_sign_event(event, rules, &self.name, &self.key).unwrap();
        let json = object_to_canonical_bytes(&signed);
        let event_id = ParsedPdu::parse(&json, rules).unwrap().event().event_id.to_string();
        (event_id, serde_json::from_slice(&json).unwrap())
    }
}

/// Returns an event id as it is written in a path or a query: those of room version 3 can have `/` and `+`.
pub(crate) fn escaped(event_id: &str) -> String {
    event_id.replace('/', "%2F").replace('+', "%2B")
}

/// Returns the time in milliseconds since 1970.
pub(crate) fn now_ms() -> i64 {
    i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap()
}

async fn answer(
    State(shared): State<Arc<Shared>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let path = uri.path_and_query().map(ToString::to_string).unwrap_or_default();
    let asked = Asked { method, path, headers, body };
    shared.asked.lock().unwrap().push(asked.clone());
    let answer = shared.handlers.lock().unwrap().iter().find_map(|handler| handler(&asked));
    let nothing = || (404, serde_json::json!({ "errcode": "M_UNRECOGNIZED", "error": "nobody has told" }));
    let (status, body) = answer.unwrap_or_else(nothing);
    let status = StatusCode::from_u16(status).unwrap();
    (status, [(header::CONTENT_TYPE, "application/json")], body.to_string()).into_response()
}
