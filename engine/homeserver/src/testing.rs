//! What tests of whole servers need: a clock that is set by hand, a network in memory, users of other servers.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{Request, Response};
use ravel_core::{
    canonical_json::{CanonicalJsonObject, JsonMode, object_to_canonical_bytes, parse_object},
    event::event_type,
    id::{EventId, KeyId, RoomId, ServerName, UserId},
    pdu::VerifiedPdu,
    room::{NewEvent, Room},
    room_version::RoomVersion,
    signing::{SigningKey, hash_and_sign_event},
};
use ravel_store::{MemoryStore, log::EventLog};
use serde_json::Value;
use tokio::sync::{Semaphore, mpsc, oneshot};

use crate::{
    clock::Clock,
    federation::{
        HttpsGet, Pauses, ServerFilter,
        keys::{KeyStoreConfig, OwnKeys},
    },
    homeserver::{Homeserver, HomeserverConfig},
    media::MediaConfig,
    network::{Network, NetworkError, RequestLimits},
    random::OsRandom,
    rooms::{CreateRoom, Preset, SendEvent, ToSend},
};

/// A clock that stands still until it is moved on.
#[derive(Debug, Default)]
pub(crate) struct ManualClock {
    now_ms: AtomicI64,
    sleepers: Mutex<Vec<(i64, oneshot::Sender<()>)>>,
}

impl ManualClock {
    /// Sets it, also to an earlier time, and wakes whoever waits for what is over then.
    pub(crate) fn set_ms(&self, now_ms: i64) {
        self.now_ms.store(now_ms, Ordering::SeqCst);
        self.advance(Duration::ZERO);
    }

    /// Moves on, and wakes whoever waits for that.
    pub(crate) fn advance(&self, time: Duration) {
        let ms = i64::try_from(time.as_millis()).unwrap();
        let now_ms = self.now_ms.fetch_add(ms, Ordering::SeqCst) + ms;
        let mut sleepers = self.sleepers.lock().unwrap();
        let (due, waiting) = sleepers.drain(..).partition(|(until_ms, _)| *until_ms <= now_ms);
        *sleepers = waiting;
        sleepers.retain(|(_, wake)| !wake.is_closed());
        drop(sleepers);
        let due: Vec<(i64, oneshot::Sender<()>)> = due;
        for (_, wake) in due {
            let _ = wake.send(());
        }
    }
}

impl Clock for ManualClock {
    fn now_ms(&self) -> i64 {
        self.now_ms.load(Ordering::SeqCst)
    }

    fn sleep(&self, time: Duration) -> BoxFuture<'static, ()> {
        if time.is_zero() {
            return Box::pin(std::future::ready(()));
        }
        let until_ms = self.now_ms().saturating_add(i64::try_from(time.as_millis()).unwrap_or(i64::MAX));
        let (wake, woken) = oneshot::channel();
        self.sleepers.lock().unwrap().push((until_ms, wake));
        Box::pin(async move { drop(woken.await) })
    }
}

/// What another server does with a request.
pub(crate) type Answers = Arc<dyn Fn(&Request<Bytes>) -> Answer + Send + Sync>;

/// What comes back of a request.
#[derive(Clone, Debug)]
pub(crate) enum Answer {
    /// An answer with this status.
    Status(u16, &'static str),
    /// Success, with this as the answer.
    Json(Value),
    /// This.
    Raw(Response<Bytes>),
    /// Nothing: the connection fails.
    Down,
    /// Nothing, ever.
    Hangs,
    /// Success, once there is a permit.
    Held(Arc<Semaphore>),
}

/// A network of servers that are functions. Those that are not there are down.
#[derive(Default)]
pub(crate) struct TestNetwork {
    servers: Mutex<HashMap<ServerName, Answers>>,
    web: Mutex<Option<Arc<dyn HttpsGet>>>,
}

impl TestNetwork {
    /// Sets what a server does from now on.
    pub(crate) fn set(&self, name: &str, answers: impl Fn(&Request<Bytes>) -> Answer + Send + Sync + 'static) {
        self.servers.lock().unwrap().insert(server_name(name), Arc::new(answers));
    }

    /// Sets what web servers do.
    pub(crate) fn set_web(&self, web: Arc<dyn HttpsGet>) {
        *self.web.lock().unwrap() = Some(web);
    }
}

impl Network for TestNetwork {
    fn web(&self) -> Option<Arc<dyn HttpsGet>> {
        self.web.lock().unwrap().clone()
    }

    fn send<'a>(
        &'a self,
        destination: &'a ServerName,
        request: Request<Bytes>,
        limits: RequestLimits,
    ) -> BoxFuture<'a, Result<Response<Bytes>, NetworkError>> {
        let answers = self.servers.lock().unwrap().get(destination).cloned();
        let answer = answers.map_or(Answer::Down, |answers| answers(&request));
        Box::pin(async move {
            match answer {
                Answer::Status(status, body) => {
                    Ok(Response::builder().status(status).body(Bytes::from_static(body.as_bytes())).unwrap())
                }
                Answer::Json(json) => within(Response::new(Bytes::from(json.to_string())), limits),
                Answer::Raw(response) => within(response, limits),
                Answer::Down => Err(NetworkError::Timeout),
                Answer::Hangs => std::future::pending().await,
                Answer::Held(permits) => {
                    permits.acquire().await.unwrap().forget();
                    Ok(Response::new(Bytes::from_static(b"{}")))
                }
            }
        })
    }
}

/// Returns an answer unless it is too long.
fn within(answer: Response<Bytes>, limits: RequestLimits) -> Result<Response<Bytes>, NetworkError> {
    let bytes_max = limits.answer_bytes;
    if answer.body().len() > bytes_max { Err(NetworkError::AnswerTooLarge { bytes_max }) } else { Ok(answer) }
}

/// Runs everything that can run until something is so. Panics if it never is.
pub(crate) async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    for _ in 0..100_000 {
        if is_so() {
            return;
        }
        tokio::task::yield_now().await;
    }
    panic!("never: {what}");
}

/// Runs everything that can run, until nothing can for all that is known.
pub(crate) async fn settle() {
    for _ in 0..2_000 {
        tokio::task::yield_now().await;
    }
}

pub(crate) fn server_name(name: &str) -> ServerName {
    ServerName::parse(name).unwrap()
}

pub(crate) fn user_id(id: &str) -> UserId {
    UserId::parse(id).unwrap()
}

pub(crate) fn object(json: &str) -> CanonicalJsonObject {
    parse_object(json.as_bytes(), JsonMode::Strict).unwrap()
}

/// Returns the key of a server of the tests.
pub(crate) fn key_of(name: &str) -> SigningKey {
    let mut seed = [0; 32];
    name.bytes().zip(&mut seed).for_each(|(byte, seed)| *seed = byte);
    SigningKey::from_seed(KeyId::parse("ed25519:1").unwrap(), &seed)
}

/// Returns the document with the key of a server of the tests, as the server publishes it at a time.
pub(crate) fn key_document(name: &str, now_ms: i64) -> Value {
    let keys = OwnKeys { server_name: server_name(name), signing_key: key_of(name), old_keys: Default::default() };
    serde_json::from_slice(&object_to_canonical_bytes(&keys.document(now_ms).unwrap())).unwrap()
}

/// Returns what a server is told, with a server that is denied.
pub(crate) fn config(name: &str, denied: &str) -> HomeserverConfig {
    HomeserverConfig {
        server_name: server_name(name),
        signing_key: key_of(name),
        cheap_password_hashes: true,
        keys: KeyStoreConfig::default(),
        pauses: Pauses::default(),
        servers: ServerFilter::new(vec!["*".to_owned()], vec![denied.to_owned()]),
        media: MediaConfig::default(),
    }
}

/// Opens a server on what a store has, which has nothing to do with one that is called `evil`.
pub(crate) async fn open_server(
    name: &str,
    store: &MemoryStore,
    clock: Arc<dyn Clock>,
    network: Arc<dyn Network>,
) -> (Homeserver, mpsc::Receiver<ToSend>) {
    open_server_as(config(name, "evil"), store, clock, network).await
}

/// Opens a server on what a store has.
pub(crate) async fn open_server_as(
    config: HomeserverConfig,
    store: &MemoryStore,
    clock: Arc<dyn Clock>,
    network: Arc<dyn Network>,
) -> (Homeserver, mpsc::Receiver<ToSend>) {
    let log = Arc::new(EventLog::open(Arc::new(store.clone())).await.unwrap());
    Homeserver::open(config, log, clock, Arc::new(OsRandom), network).await.unwrap()
}

/// Makes a public room.
pub(crate) async fn create_room(server: &Homeserver, user: &str, room_version: RoomVersion) -> RoomId {
    let wanted = CreateRoom {
        room_version,
        preset: Preset::PublicChat,
        creation_content: object("{}"),
        power_level_content_override: object("{}"),
        initial_state: Vec::new(),
        name: None,
        topic: None,
        invite: Vec::new(),
        is_direct: false,
        member_content: object("{}"),
    };
    server.rooms.create(&user_id(user), wanted).await.unwrap()
}

/// Says something in a room.
pub(crate) async fn say(server: &Homeserver, room_id: &RoomId, user: &str, text: &str) -> EventId {
    let content = object(&format!(r#"{{"body":"{text}","msgtype":"m.text"}}"#));
    let event = SendEvent { event_type: "m.room.message".to_owned(), state_key: None, content, redacts: None };
    server.rooms.send(room_id, &user_id(user), event).await.unwrap()
}

/// Makes an event by a user of another server as that server would, on what a room has at this one.
pub(crate) async fn foreign_event(
    server: &Homeserver,
    room_id: &RoomId,
    user: &str,
    event_type: &str,
    state_key: Option<&str>,
    content: &str,
) -> VerifiedPdu {
    foreign_event_with(server, room_id, user, (event_type, state_key, content), |_| {}).await
}

/// As [`foreign_event`], with a change before it is signed.
pub(crate) async fn foreign_event_with(
    server: &Homeserver,
    room_id: &RoomId,
    user: &str,
    (event_type, state_key, content): (&str, Option<&str>, &str),
    change: impl FnOnce(&mut CanonicalJsonObject),
) -> VerifiedPdu {
    let sender = user_id(user);
    let name = sender.server_name().to_owned();
    let compose = |room: &Room| {
        let event_id = format!("${}:{name}", room.len());
        let new = NewEvent {
            sender: &sender,
            event_type,
            state_key,
            content: object(content),
            redacts: None,
            origin_server_ts_ms: 1,
            event_id: &event_id,
        };
        (room.compose(&new).unwrap(), room.rules())
    };
    let (mut event, rules) = server.rooms.look(room_id, compose).await.unwrap();
    change(&mut event);
    let signed = hash_and_sign_event(event, rules, &server_name(&name), &key_of(&name)).unwrap();
    VerifiedPdu::restore(&object_to_canonical_bytes(&signed), rules, None, true).unwrap()
}

/// Lets a user of another server into a room, through this server.
pub(crate) async fn join_from(server: &Homeserver, room_id: &RoomId, user: &str) {
    let join = foreign_event(server, room_id, user, event_type::MEMBER, Some(user), r#"{"membership":"join"}"#).await;
    server.rooms.take_foreign(room_id, join).await.unwrap();
}
