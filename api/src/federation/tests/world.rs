//! Several servers, and a network between them that a test can cut and tamper with.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    Router,
    body::{Body, Bytes},
};
use futures_util::future::BoxFuture;
use http::{Request, Response};
use http_body_util::BodyExt;
use ravel_core::{
    canonical_json::{CanonicalJsonObject, JsonMode, object_to_canonical_bytes, parse_object},
    event::Membership,
    id::{EventId, KeyId, RoomId, ServerName, UserId},
    pdu::ParsedPdu,
    room_version::RoomVersion,
    signing::{SigningKey, hash_and_sign_event},
};
use ravel_homeserver::{
    accounts::{Registration, Role},
    network::{Network, NetworkError, RequestLimits},
    rooms::{CreateRoom, MembershipChange, Preset, SendEvent, Sync as News, SyncFilter},
};
use ravel_store::MemoryStore;
use serde_json::Value;
use tower::ServiceExt;

use crate::serve::{
    App, Shared,
    config::{Config, Media},
};

/// What a test does with an answer on its way: server and path of the request, and the answer, which it may change.
pub(super) type Tamper = Box<dyn Fn(&str, &str, &mut Response<Bytes>) + Send + Sync>;

/// Bytes of the largest file of a server.
pub(super) const MAX_UPLOAD_SIZE: u64 = 100_000;

/// The servers.
#[derive(Clone, Default)]
pub(super) struct World(Arc<Mutex<Inner>>);

#[derive(Default)]
struct Inner {
    routes: BTreeMap<ServerName, Router>,
    cut: BTreeSet<ServerName>,
    /// Method, path and query of each request, with its destination.
    asked: Vec<(String, String)>,
    tamper: Option<Arc<Tamper>>,
    /// Those with the servers' files.
    folders: Vec<tempfile::TempDir>,
}

impl Network for World {
    fn send<'a>(
        &'a self,
        destination: &'a ServerName,
        request: Request<Bytes>,
        limits: RequestLimits,
    ) -> BoxFuture<'a, Result<Response<Bytes>, NetworkError>> {
        let path = request.uri().path().to_owned();
        let path_and_query = request.uri().path_and_query().map(ToString::to_string).unwrap_or_default();
        let (routes, tamper) = {
            let mut inner = self.0.lock().unwrap();
            inner.asked.push((destination.to_string(), format!("{} {path_and_query}", request.method())));
            let routes = inner.routes.get(destination).filter(|_| !inner.cut.contains(destination)).cloned();
            (routes, inner.tamper.clone())
        };
        Box::pin(async move {
            let unreachable = || NetworkError::NoSuchServer { host: destination.as_str().into() };
            let routes = routes.ok_or_else(unreachable)?;
            let answer = routes.oneshot(request.map(Body::from)).await.unwrap();
            let (head, body) = answer.into_parts();
            let body = body.collect().await.unwrap().to_bytes();
            if body.len() > limits.answer_bytes {
                return Err(NetworkError::AnswerTooLarge { bytes_max: limits.answer_bytes });
            }
            let mut answer = Response::from_parts(head, body);
            if let Some(tamper) = tamper {
                tamper(destination.as_str(), &path, &mut answer);
            }
            Ok(answer)
        })
    }
}

impl World {
    /// Opens a server.
    pub(super) async fn server(&self, name: &str) -> Server {
        self.server_on(name, MemoryStore::new()).await
    }

    /// Opens a server on what a store has.
    pub(super) async fn server_on(&self, name: &str, store: MemoryStore) -> Server {
        let server_name = ServerName::parse(name).unwrap();
        let mut config = Config::of(server_name.clone());
        config.registration.cheap_password_hashes = true;
        let folder = tempfile::tempdir().unwrap();
        config.media = Media { path: folder.path().to_owned(), max_upload_size: MAX_UPLOAD_SIZE };
        self.0.lock().unwrap().folders.push(folder);
        let key = key_of(name);
        let (app, routes) = Shared::open_for_test(Arc::new(self.clone()), config, Arc::new(store), key).await;
        self.0.lock().unwrap().routes.insert(server_name.clone(), routes);
        Server { app, name: server_name }
    }

    /// Sends a request to a server as a client does.
    pub(super) async fn ask(&self, server: &Server, request: Request<Body>) -> Response<Bytes> {
        let routes = self.0.lock().unwrap().routes[&server.name].clone();
        let (head, body) = routes.oneshot(request).await.unwrap().into_parts();
        Response::from_parts(head, body.collect().await.unwrap().to_bytes())
    }

    /// Makes a server unreachable, or reachable again.
    pub(super) fn cut(&self, server: &Server, is_cut: bool) {
        let mut inner = self.0.lock().unwrap();
        if is_cut {
            inner.cut.insert(server.name.clone());
        } else {
            inner.cut.remove(&server.name);
        }
    }

    /// Changes answers on their way from now on.
    pub(super) fn tamper(&self, tamper: impl Fn(&str, &str, &mut Response<Bytes>) + Send + Sync + 'static) {
        self.0.lock().unwrap().tamper = Some(Arc::new(Box::new(tamper)));
    }

    /// Lets answers pass again.
    pub(super) fn be_honest(&self) {
        self.0.lock().unwrap().tamper = None;
    }

    /// Returns how many requests with this in method, path and query a server got.
    pub(super) fn asked(&self, server: &Server, what: &str) -> usize {
        let inner = self.0.lock().unwrap();
        inner.asked.iter().filter(|(name, path)| *name == server.name.as_str() && path.contains(what)).count()
    }
}

/// A server of a test.
#[derive(Clone)]
pub(super) struct Server {
    pub(super) app: App,
    pub(super) name: ServerName,
}

impl Server {
    /// Returns the id of a user, which is registered if it is not.
    pub(super) async fn user(&self, localpart: &str) -> UserId {
        let id = UserId::parse(&format!("@{localpart}:{}", self.name)).unwrap();
        if !self.app.accounts.is_known(&id).await.unwrap() {
            let registration =
                Registration { username: Some(localpart.to_owned()), password: None, role: Role::User, device: None };
            self.app.accounts.register(registration).await.unwrap();
        }
        id
    }

    /// Makes a room.
    pub(super) async fn room(&self, creator: &UserId, version: RoomVersion, preset: Preset) -> RoomId {
        self.app.rooms.create(creator, wanted(version, preset)).await.unwrap()
    }

    /// Sets an entry of a room's state.
    pub(super) async fn set(&self, room_id: &RoomId, sender: &UserId, event_type: &str, content: &str) {
        let (event_type, state_key) = (event_type.to_owned(), Some(String::new()));
        let event = SendEvent { event_type, state_key, content: object(content), redacts: None };
        self.app.rooms.send(room_id, sender, event).await.unwrap();
    }

    /// Says something in a room.
    pub(super) async fn say(&self, room_id: &RoomId, sender: &UserId, text: &str) -> EventId {
        let content = object(&format!(r#"{{"msgtype":"m.text","body":"{text}"}}"#));
        let event = SendEvent { event_type: "m.room.message".to_owned(), state_key: None, content, redacts: None };
        self.app.rooms.send(room_id, sender, event).await.unwrap()
    }

    /// Changes a membership, as far as no other server is needed.
    pub(super) async fn member(&self, room_id: &RoomId, sender: &UserId, target: &UserId, membership: Membership) {
        let change = MembershipChange { target: target.clone(), membership, content: object("{}") };
        self.app.rooms.change_membership(room_id, sender, change).await.unwrap();
    }

    /// Returns the current state of a room as a user of the server sees it: for each type and state key the event's id.
    pub(super) async fn state(&self, room_id: &RoomId, user: &UserId) -> BTreeMap<(String, String), EventId> {
        let events = self.app.rooms.state(room_id, user).await.unwrap();
        let text = |event: &serde_json::Map<String, Value>, field: &str| event[field].as_str().unwrap().to_owned();
        let entry = |event: ravel_homeserver::rooms::ClientEvent| {
            ((text(&event.json, "type"), text(&event.json, "state_key")), event.event_id)
        };
        events.into_iter().map(entry).collect()
    }

    /// Returns what a user's sync shows since a place, without waiting, and the place to go on from.
    pub(super) async fn sync(&self, user: &UserId, since: Option<u64>) -> (News, u64) {
        let now = self.app.rooms.position();
        (self.app.rooms.news(user, since, now, &SyncFilter::default()).await.unwrap(), now)
    }

    /// Waits until a membership has become known, which another server tells by itself.
    pub(super) async fn sees(&self, room_id: &RoomId, user: &UserId, membership: Membership) {
        self.until(async || (self.membership(room_id, user).await == Some(membership)).then_some(())).await;
    }

    /// Waits for what another server tells by itself.
    pub(super) async fn until<T>(&self, look: impl AsyncFn() -> Option<T>) -> T {
        let seen = async {
            loop {
                if let Some(seen) = look().await {
                    return seen;
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), seen).await.expect("it is told")
    }

    pub(super) async fn membership(&self, room_id: &RoomId, user: &UserId) -> Option<Membership> {
        self.app.rooms.membership(room_id, user).await.ok().flatten()
    }
}

/// Returns the key of a server.
pub(super) fn key_of(server_name: &str) -> SigningKey {
    let seed = [server_name.bytes().fold(0_u8, u8::wrapping_add); 32];
    SigningKey::from_seed(KeyId::parse("ed25519:1").unwrap(), &seed)
}

/// Returns an event, made of another one by a change, with the hash and the signature of a server, and its id.
pub(super) fn made(
    server: &Server,
    version: RoomVersion,
    mut event: CanonicalJsonObject,
    change: impl FnOnce(&mut CanonicalJsonObject),
) -> (EventId, Vec<u8>) {
    change(&mut event);
    let signed = hash_and_sign_event(event, version.rules(), &server.name, &key_of(server.name.as_str())).unwrap();
    let json = object_to_canonical_bytes(&signed);
    let event_id = ParsedPdu::parse(&json, version.rules()).map(|pdu| pdu.event().event_id.clone());
    (event_id.unwrap_or_else(|_| EventId::parse("$none").unwrap()), json)
}

/// Changes a JSON object on its way.
pub(super) fn change_json(answer: &mut Response<Bytes>, change: impl FnOnce(&mut Value)) {
    let mut json: Value = serde_json::from_slice(answer.body()).unwrap();
    change(&mut json);
    *answer.body_mut() = json.to_string().into();
}

pub(super) fn object(json: &str) -> CanonicalJsonObject {
    parse_object(json.as_bytes(), JsonMode::Strict).unwrap()
}

/// A room with a name.
pub(super) fn wanted(version: RoomVersion, preset: Preset) -> CreateRoom {
    CreateRoom {
        room_version: version,
        preset,
        creation_content: object("{}"),
        power_level_content_override: object("{}"),
        initial_state: Vec::new(),
        name: Some("a room".to_owned()),
        topic: None,
        invite: Vec::new(),
        is_direct: false,
        member_content: object("{}"),
    }
}
