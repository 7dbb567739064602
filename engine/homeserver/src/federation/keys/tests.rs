use std::{
    collections::BTreeSet,
    sync::atomic::{AtomicI64, Ordering},
    time::Duration,
};

use bytes::Bytes;
use futures_util::future::{BoxFuture, join_all};
use http::{Request, Response, header::AUTHORIZATION};
use ravel_core::{
    canonical_json::{JsonMode, get_object, object_to_canonical_bytes, parse_object},
    room_version::RoomVersion,
    signing::{KeySource, SigningKey, encode_base64, hash_and_sign_event, sign_json, verify_json},
};
use ravel_store::MemoryStore;

use super::*;
use crate::{
    federation::{Pauses, ServerFilter, x_matrix::sign},
    network::{Network, NetworkError, RequestLimits},
    random::OsRandom,
};

const NOW: i64 = 1_700_000_000_000;
const DAY: i64 = 86_400_000;

/// A network in one process: each server has a document of its keys, and perhaps a key store that answers as a notary.
#[derive(Default)]
struct World {
    documents: Mutex<BTreeMap<ServerName, Bytes>>,
    notaries: Mutex<BTreeMap<ServerName, Notary>>,
    /// Servers that do not answer, which is told when the time is over.
    silent: Mutex<BTreeSet<ServerName>>,
    asked: Mutex<Vec<String>>,
    now_ms: AtomicI64,
}

#[derive(Clone)]
enum Notary {
    Honest(KeyStore),
    Fixed(Vec<CanonicalJsonObject>),
}

impl Network for World {
    fn send<'a>(
        &'a self,
        destination: &'a ServerName,
        request: Request<Bytes>,
        limits: RequestLimits,
    ) -> BoxFuture<'a, Result<Response<Bytes>, NetworkError>> {
        Box::pin(async move {
            self.asked.lock().unwrap().push(format!("{destination}{}", request.uri()));
            let is_silent = self.silent.lock().unwrap().contains(destination);
            tokio::time::sleep(if is_silent { limits.time } else { Duration::from_millis(1) }).await;
            if request.uri() == "/_matrix/key/v2/server" {
                let document = self.documents.lock().unwrap().get(destination).cloned();
                return document.map(Response::new).ok_or(NetworkError::Timeout);
            }
            assert_eq!(request.uri(), "/_matrix/key/v2/query");
            let notary = self.notaries.lock().unwrap().get(destination).cloned();
            let answer = match notary.ok_or(NetworkError::Timeout)? {
                Notary::Fixed(documents) => documents,
                Notary::Honest(store) => store.notary_answer(&query_of(request.body())).await.unwrap(),
            };
            let answer: Vec<_> = answer.into_iter().map(Into::into).collect();
            Ok(Response::new(object_to_canonical_bytes(&[("server_keys".into(), answer.into())].into()).into()))
        })
    }
}

impl Clock for World {
    fn now_ms(&self) -> i64 {
        NOW + self.now_ms.load(Ordering::SeqCst)
    }

    fn sleep(&self, time: Duration) -> BoxFuture<'static, ()> {
        Box::pin(tokio::time::sleep(time))
    }
}

impl World {
    fn store(self: &Arc<Self>, name: &str, seed: u8, config: KeyStoreConfig) -> KeyStore {
        let log = ravel_store::block_on(EventLog::open(Arc::new(MemoryStore::new()))).unwrap();
        self.store_of(Arc::new(log), name, seed, config)
    }

    fn store_of(self: &Arc<Self>, log: Arc<EventLog>, name: &str, seed: u8, config: KeyStoreConfig) -> KeyStore {
        let own = own(name, seed);
        let client = FederationClient::new(
            self.clone(),
            self.clone(),
            Arc::new(OsRandom),
            own.server_name.clone(),
            own.signing_key.clone(),
            Pauses::default(),
            ServerFilter::new(vec!["*".to_owned()], vec!["evil".to_owned()]),
        );
        KeyStore::new(log, client, self.clone(), own, config)
    }

    fn publish(&self, document: &CanonicalJsonObject) {
        let name = document.get("server_name").unwrap().as_str().unwrap();
        self.documents.lock().unwrap().insert(server(name), object_to_canonical_bytes(document).into());
    }

    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut *self.asked.lock().unwrap())
    }

    fn wait(&self, time_ms: i64) {
        self.now_ms.fetch_add(time_ms, Ordering::SeqCst);
    }
}

fn query_of(body: &[u8]) -> NotaryQuery {
    let body = parse_object(body, JsonMode::Strict).unwrap();
    let servers = get_object(&body, "server_keys").unwrap().iter().map(|(name, keys)| {
        let keys = keys.as_object().unwrap().iter().map(|(key_id, criteria)| {
            let until_ms = criteria.as_object().unwrap().get("minimum_valid_until_ts").unwrap().as_i64();
            (key_id.parse().unwrap(), until_ms)
        });
        (server(name), NotaryCriteria { keys: keys.collect(), until_ms: None })
    });
    servers.collect()
}

fn server(name: &str) -> ServerName {
    ServerName::parse(name).unwrap()
}

/// A server whose key of seed n has the id `ed25519:n`.
fn own(name: &str, seed: u8) -> OwnKeys {
    let key_id = KeyId::parse(&format!("ed25519:{seed}")).unwrap();
    OwnKeys {
        server_name: server(name),
        signing_key: SigningKey::from_seed(key_id, &[seed; 32]),
        old_keys: BTreeMap::new(),
    }
}

fn document(name: &str, seed: u8) -> CanonicalJsonObject {
    own(name, seed).document(NOW).unwrap()
}

fn wanted(name: &str, seeds: &[u8], at_ms: i64) -> WantedKeys {
    let keys = seeds.iter().map(|seed| (KeyId::parse(&format!("ed25519:{seed}")).unwrap(), at_ms));
    [(server(name), keys.collect())].into()
}

/// Returns the ids of the keys that are had.
async fn have(store: &KeyStore, wanted: &WantedKeys) -> String {
    let ring = store.keys_for(wanted).await.unwrap();
    ring.iter().map(|(server, key_id, _)| format!("{server} {key_id};")).collect()
}

#[tokio::test(start_paused = true)]
async fn keys_are_fetched_once_and_kept() {
    let world = Arc::new(World::default());
    let log = Arc::new(EventLog::open(Arc::new(MemoryStore::new())).await.unwrap());
    let store = world.store_of(log.clone(), "us", 9, KeyStoreConfig::default());
    world.publish(&document("a", 1));
    let want = wanted("a", &[1], NOW);
    let all = join_all((0..5).map(|_| have(&store, &want))).await;
    assert_eq!(all, ["a ed25519:1;"; 5]);
    assert_eq!(world.asked(), ["a/_matrix/key/v2/server"]);
    assert_eq!(have(&store, &want).await, "a ed25519:1;");
    // Another process with the same store.
    let store = world.store_of(log, "us", 9, KeyStoreConfig::default());
    assert_eq!(have(&store, &want).await, "a ed25519:1;");
    assert_eq!(world.asked(), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn sc_005_keys_are_fetched_again_when_their_time_is_over() {
    let world = Arc::new(World::default());
    let store = world.store("us", 9, KeyStoreConfig::default());
    let mut ten_years = document("a", 1);
    ten_years
        .insert("valid_until_ts".into(), ravel_core::canonical_json::CanonicalJsonValue::Integer(NOW + 3650 * DAY));
    sign_json(&mut ten_years, &server("a"), &own("a", 1).signing_key).unwrap();
    world.publish(&ten_years);
    for (day, asked) in [(0, 1), (6, 0), (7, 0), (8, 1), (9, 0)] {
        world.now_ms.store(day * DAY, Ordering::SeqCst);
        let ring = store.keys_for(&wanted("a", &[1], NOW + day * DAY)).await.unwrap();
        assert!(ring.verify_key("a", "ed25519:1").unwrap().valid_until_ts_ms >= NOW + day * DAY);
        assert_eq!(world.asked().len(), asked, "{day}");
    }
    // The server is gone: what is known is still given, and is not enough for events of now.
    world.documents.lock().unwrap().clear();
    world.now_ms.store(20 * DAY, Ordering::SeqCst);
    let ring = store.keys_for(&wanted("a", &[1], NOW + 20 * DAY)).await.unwrap();
    let key = ring.verify_key("a", "ed25519:1").unwrap();
    assert!(!key.counts_at(NOW + 20 * DAY, NOW + 20 * DAY, RoomVersion::V5.rules()));
    assert!(key.counts_at(NOW + 8 * DAY, NOW + 20 * DAY, RoomVersion::V5.rules()));
}

#[tokio::test(start_paused = true)]
async fn one_that_answers_is_found_among_many_that_do_not() {
    let world = Arc::new(World::default());
    world.publish(&document("z", 1));
    let mut want = wanted("z", &[1], NOW);
    // More than can be asked in half a minute.
    for number in 0..5 * fetching::SERVERS_AT_ONCE {
        let name = format!("silent{number}");
        world.silent.lock().unwrap().insert(server(&name));
        want.extend(wanted(&name, &[1], NOW));
    }
    let count = want.len();
    let usual = Effort::default();
    let patient = Effort { time: Duration::from_secs(60), ..Effort::default() };
    let informed = Effort { signatures: [(server("z"), 2), (server("silent1"), 1)].into(), ..Effort::default() };
    for (effort, found, all_are_asked) in [(usual, 0, false), (patient, 1, true), (informed, 1, false)] {
        let store = world.store("us", 9, KeyStoreConfig::default());
        let ring = store.keys_with(&want, &effort).await.unwrap();
        let found_and_asked = (ring.iter().count(), world.asked().len() == count);
        assert_eq!(found_and_asked, (found, all_are_asked), "{effort:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn keys_that_are_none_do_not_make_us_ask_all_the_time() {
    let world = Arc::new(World::default());
    let store = world.store("us", 9, KeyStoreConfig::default());
    world.publish(&document("a", 1));
    for number in 10..60 {
        assert_eq!(have(&store, &wanted("a", &[number], NOW)).await, "");
        assert_eq!(have(&store, &wanted("gone", &[number], NOW)).await, "");
    }
    let mut asked = world.asked();
    asked.sort();
    assert_eq!(asked, ["a/_matrix/key/v2/server", "gone/_matrix/key/v2/server"]);
    world.wait(20_000);
    assert_eq!(have(&store, &wanted("a", &[10], NOW)).await, "");
    assert_eq!(world.asked().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn sc_006_only_what_the_server_has_signed_is_taken_from_a_notary() {
    let signed_by_notary = |mut object: CanonicalJsonObject| {
        sign_json(&mut object, &server("notary"), &own("notary", 8).signing_key).unwrap();
        object
    };
    let unsigned = |mut object: CanonicalJsonObject| {
        object.remove("signatures");
        object
    };
    let signed_with_another_key = |mut object: CanonicalJsonObject| {
        let key_id = KeyId::parse("ed25519:1").unwrap();
        sign_json(&mut object, &server("a"), &SigningKey::from_seed(key_id, &[3; 32])).unwrap();
        object
    };
    for (what, documents, expected) in [
        ("both have signed", vec![signed_by_notary(document("a", 1))], "a ed25519:1;"),
        ("the notary has not", vec![document("a", 1)], ""),
        ("the server has not", vec![signed_by_notary(unsigned(document("a", 1)))], ""),
        ("with another key", vec![signed_by_notary(signed_with_another_key(unsigned(document("a", 1))))], ""),
        ("not asked for", vec![signed_by_notary(document("b", 1))], ""),
        ("bad ones before", vec![document("a", 2), signed_by_notary(document("a", 1))], "a ed25519:1;"),
    ] {
        let world = Arc::new(World::default());
        let config = KeyStoreConfig { notaries: vec![server("notary")], ..KeyStoreConfig::default() };
        let store = world.store("us", 9, config);
        world.publish(&document("notary", 8));
        world.notaries.lock().unwrap().insert(server("notary"), Notary::Fixed(documents));
        assert_eq!(have(&store, &wanted("a", &[1], NOW)).await, expected, "{what}");
        assert!(store.load(&server("b")).await.unwrap().is_empty(), "{what}");
    }
}

#[tokio::test(start_paused = true)]
async fn notaries_give_the_keys_of_servers_that_are_gone() {
    let world = Arc::new(World::default());
    let notary = world.store("notary", 8, KeyStoreConfig::default());
    world.publish(&notary.own_document().unwrap());
    for name in ["a", "b"] {
        world.publish(&document(name, 1));
        assert_eq!(have(&notary, &wanted(name, &[1], NOW)).await, format!("{name} ed25519:1;"));
    }
    world.documents.lock().unwrap().remove(&server("a"));
    world.documents.lock().unwrap().remove(&server("b"));
    world.notaries.lock().unwrap().insert(server("notary"), Notary::Honest(notary));
    world.asked();

    let notaries = vec![server("silent"), server("us"), server("notary")];
    let store = world.store("us", 9, KeyStoreConfig { notaries, ..KeyStoreConfig::default() });
    let mut want = wanted("a", &[1], NOW);
    want.extend(wanted("b", &[1], NOW));
    want.extend(wanted("c", &[1], NOW));
    assert_eq!(have(&store, &want).await, "a ed25519:1;b ed25519:1;");
    let queries = || world.asked().iter().filter(|asked| asked.starts_with("notary/_matrix/key/v2/query")).count();
    assert_eq!(queries(), 1, "one question for all of them");
    assert_eq!(have(&store, &want).await, "a ed25519:1;b ed25519:1;");
    assert_eq!(queries(), 0);
}

#[tokio::test(start_paused = true)]
async fn sc_007_a_spurious_answer_does_not_replace_a_valid_key() {
    let world = Arc::new(World::default());
    let store = world.store("us", 9, KeyStoreConfig::default());
    world.publish(&document("a", 1));
    let query = |until_ms| {
        let keys = [("ed25519:1".parse().unwrap(), Some(until_ms))].into();
        NotaryQuery::from([(server("a"), NotaryCriteria { keys, until_ms: None })])
    };
    assert_eq!(store.notary_answer(&query(NOW)).await.unwrap().len(), 1);

    // The same id with another key, and another key alone.
    let mut other = own("a", 2);
    other.signing_key = SigningKey::from_seed(KeyId::parse("ed25519:1").unwrap(), &[2; 32]);
    for spurious in [other.document(NOW).unwrap(), document("a", 2)] {
        world.publish(&spurious);
        world.wait(60_000);
        world.asked();
        let answer = store.notary_answer(&query(NOW + 2 * DAY)).await.unwrap();
        assert_eq!(world.asked().len(), 1, "what is there is not valid for long enough");
        let found = answer.iter().any(|document| {
            let keys = get_object(document, "verify_keys").unwrap();
            keys.get("ed25519:1").is_some_and(|key| {
                let expected = encode_base64(own("a", 1).signing_key.verify_key().as_bytes());
                key.as_object().unwrap().get("key").unwrap().as_str() == Some(&expected)
            })
        });
        assert!(found, "{answer:?}");
        let ring = store.keys_for(&wanted("a", &[1], NOW)).await.unwrap();
        assert_eq!(ring.verify_key("a", "ed25519:1").unwrap().key, own("a", 1).signing_key.verify_key());
    }
}

#[tokio::test(start_paused = true)]
async fn notary_answers_are_signed_twice() {
    let world = Arc::new(World::default());
    let store = world.store("us", 9, KeyStoreConfig::default());
    world.publish(&document("a", 1));
    let query = NotaryQuery::from_iter(["a", "us", "gone"].map(|name| (server(name), NotaryCriteria::default())));
    let answer = store.notary_answer(&query).await.unwrap();
    let [of_a, of_us] = &*answer else { panic!("{answer:?}") };
    let [key_of_a, key_of_us] = [own("a", 1), own("us", 9)].map(|own| own.signing_key.verify_key());
    assert!(verify_json(of_a, "a", "ed25519:1", &key_of_a).is_ok());
    assert!(verify_json(of_a, "us", "ed25519:9", &key_of_us).is_ok());
    assert!(verify_json(of_us, "us", "ed25519:9", &key_of_us).is_ok());
    // Again, from memory.
    world.asked();
    let until = |until_ms| NotaryQuery::from([(server("a"), NotaryCriteria { until_ms, ..NotaryCriteria::default() })]);
    for until_ms in [None, Some(NOW + DAY / 2)] {
        assert_eq!(store.notary_answer(&until(until_ms)).await.unwrap().len(), 1);
        assert_eq!(world.asked(), [""; 0]);
    }
    world.wait(60_000);
    assert_eq!(store.notary_answer(&until(Some(NOW + 2 * DAY))).await.unwrap().len(), 1);
    assert_eq!(world.asked().len(), 1, "what is there is not valid for long enough");
    // It is asked again for who wants that, but not for ever.
    for _ in 0..2 * notary::ASKED_FOR_OTHERS_MAX {
        store.notary_answer(&until(Some(NOW + 2 * DAY))).await.unwrap();
    }
    assert_eq!(world.asked().len(), notary::ASKED_FOR_OTHERS_MAX as usize - 1);
    // Many servers are not a way to make us ask them all.
    let many =
        NotaryQuery::from_iter((0..1000).map(|number| (server(&format!("s{number}")), NotaryCriteria::default())));
    assert_eq!(store.notary_answer(&many).await.unwrap().len(), 0);
    assert_eq!(world.asked().len(), NOTARY_SERVERS_MAX);
}

#[tokio::test(start_paused = true)]
async fn our_document_can_be_believed_by_others() {
    let world = Arc::new(World::default());
    let mut own = own("us", 9);
    let old = SigningKey::from_seed(KeyId::parse("ed25519:old").unwrap(), &[5; 32]);
    own.old_keys.insert(old.key_id().clone(), (old.verify_key(), NOW - DAY));
    let document = KeyDocument::check(own.document(NOW).unwrap(), &server("us"), NOW).unwrap();
    assert_eq!(document.keys, own.published(NOW));
    assert_eq!(document.valid_until_ts_ms, NOW + OWN_KEYS_VALID_MS);
    // Nobody is asked for our own keys.
    let store = world.store("us", 9, KeyStoreConfig::default());
    assert_eq!(have(&store, &wanted("us", &[9, 7], NOW)).await, "us ed25519:9;");
    assert_eq!(world.asked(), [""; 0]);
}

/// Signs a request as `a` with a key, and checks it in a store.
async fn check_authentication(store: &KeyStore, name: &str, seed: u8, expected: Result<&str, &str>) {
    let key = own(name, seed).signing_key;
    let request = SignedRequest { method: "GET", uri: "/_matrix/x", content: None };
    let header = sign(&request, &server(name), &server("us"), &key).unwrap();
    let headers = HeaderMap::from_iter([(AUTHORIZATION, header)]);
    let origin = store.authenticate(&headers, &request).await.map_err(|error| error.to_string());
    assert_eq!(origin.as_ref().map(ServerName::as_str).map_err(String::as_str), expected);
}

#[tokio::test(start_paused = true)]
async fn requests_are_authenticated() {
    let world = Arc::new(World::default());
    let store = world.store("us", 9, KeyStoreConfig::default());
    let no_key = Err("no valid key of a is known that the request is signed with");
    check_authentication(&store, "a", 1, no_key).await;
    world.publish(&document("a", 1));
    // The server is left alone now, but it has come by itself.
    assert!(store.shared.client.backing_off_until_ms(&server("a")).is_some());
    world.wait(3_000);
    check_authentication(&store, "a", 1, Ok("a")).await;
    check_authentication(&store, "a", 2, no_key).await;
    assert!(store.shared.client.backing_off_until_ms(&server("a")).is_none());
}

#[tokio::test(start_paused = true)]
async fn sc_146_a_denied_server_is_not_listened_to() {
    let world = Arc::new(World::default());
    let store = world.store("us", 9, KeyStoreConfig::default());
    world.publish(&document("evil", 1));
    check_authentication(&store, "evil", 1, Err("this server has nothing to do with evil")).await;
    check_authentication(&store, "EVIL:80", 1, Err("this server has nothing to do with EVIL:80")).await;
    assert_eq!(have(&store, &wanted("evil", &[1], NOW)).await, "");
    let query = NotaryQuery::from([(server("evil"), NotaryCriteria::default())]);
    assert_eq!(store.notary_answer(&query).await.unwrap().len(), 0);
    assert_eq!(world.asked(), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn sc_008_leaked_keys_are_refused() {
    let world = Arc::new(World::default());
    world.publish(&document("a", 1));
    let denied_keys = vec![own("a", 1).signing_key.verify_key()];
    let store = world.store("us", 9, KeyStoreConfig { denied_keys, ..KeyStoreConfig::default() });
    check_authentication(&store, "a", 1, Err("no valid key of a is known that the request is signed with")).await;
    assert_eq!(have(&store, &wanted("a", &[1], NOW)).await, "");
    // One that was stored before it was denied.
    let log = Arc::new(EventLog::open(Arc::new(MemoryStore::new())).await.unwrap());
    let trusting = world.store_of(log.clone(), "us", 9, KeyStoreConfig::default());
    assert_eq!(have(&trusting, &wanted("a", &[1], NOW)).await, "a ed25519:1;");
    let denied_keys = vec![own("a", 1).signing_key.verify_key()];
    let store = world.store_of(log, "us", 9, KeyStoreConfig { denied_keys, ..KeyStoreConfig::default() });
    assert_eq!(have(&store, &wanted("a", &[1], NOW)).await, "");
    for key in LEAKED_KEYS {
        let key = VerifyKey::from_base64(key).unwrap();
        assert!(store.shared.denied.contains(key.as_bytes()));
    }
}

#[tokio::test(start_paused = true)]
async fn keys_of_events_are_found() {
    let world = Arc::new(World::default());
    let store = world.store("us", 9, KeyStoreConfig::default());
    world.publish(&document("a", 1));
    let rules = RoomVersion::V11.rules();
    let pdu = |seed: u8| {
        let event = br#"{"type": "m.room.message", "sender": "@u:a", "room_id": "!r:a", "content": {}, "depth": 1,
            "origin_server_ts": 1700000000000, "prev_events": [], "auth_events": []}"#;
        let event = parse_object(event, JsonMode::Strict).unwrap();
        let event = hash_and_sign_event(event, rules, &server("a"), &own("a", seed).signing_key).unwrap();
        ParsedPdu::parse(&object_to_canonical_bytes(&event), rules).unwrap()
    };
    let pdus = [pdu(1), pdu(2)];
    let keys = store.keys_for_pdus(&pdus).await.unwrap();
    assert_eq!(world.asked(), ["a/_matrix/key/v2/server"]);
    let verified = pdus.map(|pdu| pdu.verify(&keys, NOW).is_ok());
    assert_eq!(verified, [true, false], "sc_002: a key that was never published counts for nothing");
}
