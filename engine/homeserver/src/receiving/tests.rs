//! Receiving, by a whole server: others are functions, the clock is moved by hand.

mod denied;
mod gaps;
mod joins;
mod large;
mod relayed;

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use ravel_core::{
    canonical_json::{CanonicalJsonObject, CanonicalJsonValue},
    id::{EventId, RoomId},
    pdu::VerifiedPdu,
    room::Outcome,
    room_version::RoomVersion,
};
use ravel_store::MemoryStore;
use serde_json::{Value, json, value::RawValue};

use super::{PduRefusal, PduResults};
use crate::{
    fact_kind::GAP,
    homeserver::{Homeserver, HomeserverConfig},
    testing::{
        Answer, ManualClock, TestNetwork, config, create_room, foreign_event, foreign_event_with, join_from,
        key_document, object, open_server_as, server_name, user_id,
    },
};

/// The server `a`, in whose room `@user:b` and `@user:c` are.
struct World {
    store: MemoryStore,
    clock: Arc<ManualClock>,
    network: Arc<TestNetwork>,
    server: Homeserver,
    room_id: RoomId,
    /// What others were asked for, but for keys: name and path.
    asked: Arc<Mutex<Vec<String>>>,
}

impl World {
    async fn new() -> Self {
        let (store, clock, network) = (MemoryStore::new(), Arc::default(), Arc::default());
        let server = start(config("a", "nobody"), &store, &clock, &network).await;
        let room_id = create_room(&server, "@alice:a", RoomVersion::V11).await;
        let world = Self { store, clock, network, server, room_id, asked: Arc::default() };
        for name in ["b", "c"] {
            join_from(&world.server, &world.room_id, &format!("@user:{name}")).await;
            world.answers(name, |_| None);
        }
        world
    }

    /// Starts the server again.
    async fn restart(&mut self, config: HomeserverConfig) {
        self.server = start(config, &self.store, &self.clock, &self.network).await;
    }

    /// Makes a server publish its key, and answer other questions by a function of the path. Where that has nothing, the server has
    /// nothing either.
    fn answers(&self, name: &str, answer: impl Fn(&str) -> Option<Value> + Send + Sync + 'static) {
        let (asked, name_of_it) = (self.asked.clone(), name.to_owned());
        self.network.set(name, move |request| {
            let path = request.uri().path();
            if path == "/_matrix/key/v2/server" {
                return Answer::Json(key_document(&name_of_it, 0));
            }
            asked.lock().unwrap().push(format!("{name_of_it}{path}"));
            let nothing = Answer::Status(404, r#"{"errcode":"M_NOT_FOUND"}"#);
            answer(&path.replace("%24", "$")).map_or(nothing, Answer::Json)
        });
    }

    /// Returns which servers were asked since, and forgets it.
    fn servers_asked(&self) -> Vec<String> {
        let mut asked: Vec<String> = std::mem::take(&mut *self.asked.lock().unwrap());
        asked.iter_mut().for_each(|asked| asked.truncate(1));
        asked.dedup();
        asked
    }

    /// Has a server send events.
    async fn send(&self, origin: &str, pdus: &[&VerifiedPdu]) -> PduResults {
        let id = pdus.iter().map(|pdu| pdu.event_id().as_str()).collect::<String>();
        let pdus = pdus.iter().map(|pdu| raw(pdu)).collect();
        self.server.receive_transaction(&server_name(origin), &id, pdus, Vec::new()).await.unwrap()
    }

    /// Makes a message of a user of another server.
    async fn says(&self, user: &str, text: &str) -> VerifiedPdu {
        let content = json!({ "body": text }).to_string();
        foreign_event(&self.server, &self.room_id, user, "m.room.message", None, &content).await
    }

    /// Makes a message on top of an event that is not here.
    async fn says_after(&self, user: &str, prev_event: &str, text: &str) -> VerifiedPdu {
        let content = json!({ "body": text }).to_string();
        self.makes_after(user, prev_event, ("m.room.message", None, &content)).await
    }

    async fn makes_after(&self, user: &str, prev_event: &str, event: (&str, Option<&str>, &str)) -> VerifiedPdu {
        let on_top = |event: &mut CanonicalJsonObject| drop(event.insert("prev_events".into(), ids(&[prev_event])));
        foreign_event_with(&self.server, &self.room_id, user, event, on_top).await
    }

    /// Whether a client is shown an event.
    async fn shows(&self, pdu: &VerifiedPdu) -> bool {
        self.server.rooms.event(&self.room_id, &user_id("@alice:a"), pdu.event_id()).await.is_ok()
    }

    /// Runs everything that can run until a client is shown an event.
    async fn until_shown(&self, pdu: &VerifiedPdu) {
        for _ in 0..100_000 {
            if self.shows(pdu).await {
                return;
            }
            tokio::task::yield_now().await;
        }
        panic!("never shown: {}", pdu.event_id());
    }

    async fn outcome(&self, pdu: &VerifiedPdu) -> Option<Outcome> {
        self.server.rooms.look(&self.room_id, |room| room.outcome(pdu.event_id())).await.unwrap()
    }

    /// Returns the answer to the question for the ids of the state before an event: those of the room's state.
    async fn state_ids(&self) -> Value {
        let state = self.server.rooms.state(&self.room_id, &user_id("@alice:a")).await.unwrap();
        let ids: Vec<&str> = state.iter().map(|event| event.event_id.as_str()).collect();
        json!({ "pdu_ids": ids, "auth_chain_ids": [] })
    }

    /// Lets time pass, and looks after waiting events.
    async fn seconds_pass(&self, seconds: u64) {
        self.clock.advance(Duration::from_secs(seconds));
        self.server.fill_gaps_once().await.unwrap();
    }

    /// Returns how often what waiting events build on was asked for, and when that is done again, in milliseconds since 1970.
    async fn waiting(&self) -> Vec<(i64, i64)> {
        let gaps = self.server.log.facts(GAP, &[], None, 10).await.unwrap();
        let gaps = gaps.iter().map(|gap| serde_json::from_slice::<Value>(&gap.value).unwrap());
        gaps.map(|gap| (gap["attempts"].as_i64().unwrap(), gap["next_ms"].as_i64().unwrap())).collect()
    }
}

async fn start(
    config: HomeserverConfig,
    store: &MemoryStore,
    clock: &Arc<ManualClock>,
    network: &Arc<TestNetwork>,
) -> Homeserver {
    let (server, to_send) = open_server_as(config, store, clock.clone(), network.clone()).await;
    // What is sent is nobody's matter here.
    std::mem::forget(to_send);
    server
}

fn raw(pdu: &VerifiedPdu) -> Box<RawValue> {
    RawValue::from_string(String::from_utf8(pdu.json().to_vec()).unwrap()).unwrap()
}

fn ids(ids: &[&str]) -> CanonicalJsonValue {
    ids.iter().map(|id| CanonicalJsonValue::from(*id)).collect::<Vec<_>>().into()
}

/// Names another event instead of one.
fn cite_instead(event: &mut CanonicalJsonObject, cited: &EventId, instead: &EventId) {
    let auth_events = event["auth_events"].as_array().unwrap().iter().map(|id| id.as_str().unwrap());
    let auth_events: Vec<&str> =
        auth_events.map(|id| if id == cited.as_str() { instead.as_str() } else { id }).collect();
    assert!(auth_events.contains(&instead.as_str()));
    let auth_events = ids(&auth_events);
    event.insert("auth_events".into(), auth_events);
}
