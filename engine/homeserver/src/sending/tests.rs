//! Sending, by whole servers: others are functions, the clock is moved by hand.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use http::Request;
use ravel_core::{
    event::Membership,
    id::{EventId, RoomId},
    room_version::RoomVersion,
};
use ravel_store::MemoryStore;
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use super::Edu;
use crate::{
    fact_kind::{OUTGOING_EDU, PASSED_ON, TOLD, TOLD_ALL},
    homeserver::Homeserver,
    rooms::{MembershipChange, SendEvent},
    testing::{
        Answer, ManualClock, TestNetwork, create_room, foreign_event, join_from, object, open_server, say, server_name,
        settle, until, user_id,
    },
};

mod catching_up;
mod refused;
mod troubles;

/// A transaction as it came to a server.
#[derive(Clone, Debug, PartialEq)]
struct Arrived {
    id: String,
    body: Value,
}

impl Arrived {
    /// Returns the texts of its messages, and the types of other events.
    fn texts(&self) -> Vec<String> {
        let text = |pdu: &Value| match pdu["content"]["body"].as_str() {
            Some(body) => body.to_owned(),
            None => pdu["type"].as_str().unwrap().replace("m.room.", ""),
        };
        self.body["pdus"].as_array().unwrap().iter().map(text).collect()
    }
}

/// What came to each server, in order.
#[derive(Clone, Default)]
struct Inbox(Arc<Mutex<BTreeMap<String, Vec<Arrived>>>>);

impl Inbox {
    /// Takes note of a request.
    fn note(&self, name: &str, request: &Request<Bytes>) -> Value {
        let id = request.uri().path().strip_prefix("/_matrix/federation/v1/send/").expect("a transaction").to_owned();
        let body: Value = serde_json::from_slice(request.body()).unwrap();
        let arrived = Arrived { id, body: body.clone() };
        self.0.lock().unwrap().entry(name.to_owned()).or_default().push(arrived);
        body
    }

    fn of(&self, name: &str) -> Vec<Arrived> {
        self.0.lock().unwrap().get(name).cloned().unwrap_or_default()
    }

    fn texts(&self, name: &str) -> Vec<String> {
        self.0.lock().unwrap().get(name).into_iter().flatten().flat_map(Arrived::texts).collect()
    }

    fn count(&self, name: &str) -> usize {
        let inbox = self.0.lock().unwrap();
        inbox.get(name).into_iter().flatten().map(|it| it.body["pdus"].as_array().unwrap().len()).sum()
    }

    fn clear(&self) {
        self.0.lock().unwrap().clear();
    }
}

/// The server `a`, and what is around it.
struct World {
    store: MemoryStore,
    clock: Arc<ManualClock>,
    network: Arc<TestNetwork>,
    inbox: Inbox,
    server: Homeserver,
}

impl World {
    async fn new() -> Self {
        let (store, clock, network) = (MemoryStore::new(), Arc::default(), Arc::default());
        let server = start(&store, &clock, &network).await;
        Self { store, clock, network, inbox: Inbox::default(), server }
    }

    /// Makes a server answer that it takes everything.
    fn live(&self, name: &str) {
        self.answers(name, |_| Answer::Status(200, r#"{"pdus":{}}"#));
    }

    /// Makes a server answer by a function of the body.
    fn answers(&self, name: &str, answer: impl Fn(&Value) -> Answer + Send + Sync + 'static) {
        let (inbox, name_of_it) = (self.inbox.clone(), name.to_owned());
        self.network.set(name, move |request| answer(&inbox.note(&name_of_it, request)));
    }

    /// Makes a server take one transaction for each permit.
    fn hold(&self, name: &str) -> Arc<Semaphore> {
        let permits = Arc::new(Semaphore::new(0));
        let held = permits.clone();
        self.answers(name, move |_| Answer::Held(held.clone()));
        permits
    }

    /// Makes a room with alice and a user of each of these servers.
    async fn room_with(&self, names: &[&str]) -> RoomId {
        let room_id = create_room(&self.server, "@alice:a", RoomVersion::V11).await;
        for name in names {
            join_from(&self.server, &room_id, &format!("@user:{name}")).await;
        }
        settle().await;
        room_id
    }

    async fn say(&self, room_id: &RoomId, text: &str) -> EventId {
        say(&self.server, room_id, "@alice:a", text).await
    }

    async fn seconds(&self, seconds: u64) {
        self.clock.advance(Duration::from_secs(seconds));
        settle().await;
    }

    /// Waits until a server has got this, and nothing else, since the inbox was cleared.
    async fn gets(&self, name: &str, texts: &[&str]) {
        until(&format!("{name} gets {texts:?}"), || self.inbox.count(name) >= texts.len()).await;
        settle().await;
        assert_eq!(self.inbox.texts(name), texts, "{name}");
    }

    /// Ends as by kill -9, and starts again.
    async fn kill(&mut self) {
        let task = self.server.sending.task.lock().unwrap().take().unwrap();
        task.abort();
        let _ = task.await;
        self.server = start(&self.store, &self.clock, &self.network).await;
    }

    /// Ends as it should, and starts again.
    async fn restart(&mut self) {
        self.server.stop().await;
        self.server = start(&self.store, &self.clock, &self.network).await;
    }
}

async fn start(store: &MemoryStore, clock: &Arc<ManualClock>, network: &Arc<TestNetwork>) -> Homeserver {
    let (server, to_send) = open_server("a", store, clock.clone(), network.clone()).await;
    server.start(to_send);
    server
}

#[tokio::test]
async fn events_are_told_to_the_servers_of_a_room() {
    let world = World::new().await;
    ["b", "c", "d"].iter().for_each(|name| world.live(name));
    let room_id = world.room_with(&["b", "c"]).await;
    let other = world.room_with(&["d"]).await;
    world.inbox.clear();
    world.say(&room_id, "one").await;
    world.say(&room_id, "two").await;
    world.gets("b", &["one", "two"]).await;
    world.gets("c", &["one", "two"]).await;
    world.gets("d", &[]).await;
    let Arrived { body, .. } = world.inbox.of("b").remove(0);
    assert_eq!((&body["origin"], body.get("edus")), (&json!("a"), None));
    let pdu = body["pdus"][0].as_object().unwrap();
    assert!(pdu.contains_key("signatures") && pdu.contains_key("hashes"));
    assert!(!pdu.contains_key("unsigned") && !pdu.contains_key("event_id"));
    // Who is told to go hears it, and no more.
    let change = MembershipChange { target: user_id("@user:d"), membership: Membership::Ban, content: object("{}") };
    world.server.rooms.change_membership(&other, &user_id("@alice:a"), change).await.unwrap();
    world.gets("d", &["member"]).await;
    world.say(&other, "alone").await;
    world.gets("d", &["member"]).await;
}

#[tokio::test]
async fn events_of_the_first_room_versions_have_their_id() {
    let world = World::new().await;
    world.live("b");
    let room_id = create_room(&world.server, "@alice:a", RoomVersion::V2).await;
    join_from(&world.server, &room_id, "@user:b").await;
    let event_id = world.say(&room_id, "hi").await;
    until("it comes", || world.inbox.texts("b").iter().any(|text| text == "hi")).await;
    let pdus: Vec<Value> =
        world.inbox.of("b").iter().flat_map(|it| it.body["pdus"].as_array().unwrap().clone()).collect();
    assert_eq!(pdus.last().unwrap()["event_id"], event_id.as_str());
}

#[tokio::test]
async fn events_of_others_that_come_in_through_us_are_told() {
    let world = World::new().await;
    ["b", "c"].iter().for_each(|name| world.live(name));
    let room_id = world.room_with(&["b"]).await;
    world.inbox.clear();
    join_from(&world.server, &room_id, "@user:c").await;
    world.gets("b", &["member"]).await;
    // What others send in transactions is theirs to tell.
    let event = foreign_event(&world.server, &room_id, "@user:c", "m.room.message", None, r#"{"body":"hi"}"#).await;
    world.server.rooms.receive(&room_id, vec![crate::rooms::Incoming::new(event)]).await.unwrap();
    world.gets("b", &["member"]).await;
}

#[tokio::test]
async fn one_transaction_at_a_time_and_no_more_than_50_and_100() {
    let world = World::new().await;
    world.live("b");
    let room_id = world.room_with(&["b"]).await;
    world.inbox.clear();
    let permits = world.hold("b");
    let texts: Vec<String> = (0..121).map(|number| number.to_string()).collect();
    for text in &texts {
        world.say(&room_id, text).await;
    }
    for number in 0..130 {
        let edu = Edu::new("m.test", &json!({ "number": number }), None).unwrap();
        world.server.send_edu([server_name("b"), server_name("a")].into(), edu);
    }
    settle().await;
    assert_eq!(world.inbox.of("b").len(), 1, "the next one waits for the answer");
    let mut sizes = Vec::new();
    let edus_of = |arrived: &Arrived| arrived.body.get("edus").map_or(0, |edus| edus.as_array().unwrap().len());
    while sizes.iter().map(|(pdus, _)| pdus).sum::<usize>() < 121 {
        until("the next one comes", || world.inbox.of("b").len() > sizes.len()).await;
        settle().await;
        assert_eq!(world.inbox.of("b").len(), sizes.len() + 1);
        let arrived = world.inbox.of("b").pop().unwrap();
        sizes.push((arrived.texts().len(), edus_of(&arrived)));
        permits.add_permits(1);
    }
    assert!(sizes.iter().all(|(pdus, edus)| *pdus <= 50 && *edus <= 100), "{sizes:?}");
    assert_eq!(sizes.iter().map(|(_, edus)| edus).sum::<usize>(), 130);
    assert!(sizes.len() <= 4, "{sizes:?}");
    assert_eq!(world.inbox.texts("b"), texts);
    let mut ids: Vec<String> = world.inbox.of("b").into_iter().map(|arrived| arrived.id).collect();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), sizes.len(), "each has its own id");
}

#[tokio::test]
async fn sc_146_a_denied_server_is_told_nothing() {
    let mut world = World::new().await;
    ["b", "evil"].iter().for_each(|name| world.live(name));
    let room_id = world.room_with(&["b", "evil"]).await;
    world.inbox.clear();
    world.say(&room_id, "one").await;
    let edu = Edu::new("m.test", &json!({}), None).unwrap();
    world.server.send_edu([server_name("evil")].into(), edu.clone());
    world.server.send_edus_for_sure(vec![(server_name("evil"), edu)]).await.unwrap();
    assert!(world.server.log.facts(OUTGOING_EDU, &[], None, 10).await.unwrap().is_empty());
    world.gets("b", &["one"]).await;
    world.restart().await;
    world.say(&room_id, "two").await;
    world.gets("b", &["one", "two"]).await;
    assert!(world.inbox.of("evil").is_empty());
    assert!(world.server.log.facts(TOLD, &[], None, 10).await.unwrap().is_empty(), "it does not count as behind");
}
