//! Events of the denied server `c` that others bring: it is asked for nothing, whatever comes of them.

use std::sync::atomic::{AtomicBool, Ordering};

use ravel_core::{event::event_type, signing::sign_json};

use super::*;
use crate::testing::key_of;

/// A world in which `c` is denied, and what tells whether it was asked for anything since.
async fn denying(mut world: World, config: HomeserverConfig) -> (World, Arc<AtomicBool>) {
    world.restart(config).await;
    let is_asked = Arc::new(AtomicBool::new(false));
    let asked = is_asked.clone();
    world.network.set("c", move |_| {
        asked.store(true, Ordering::Relaxed);
        Answer::Json(key_document("c", 0))
    });
    world.asked.lock().unwrap().clear();
    (world, is_asked)
}

fn json_of(pdus: &[&VerifiedPdu]) -> Vec<Value> {
    pdus.iter().map(|pdu| serde_json::from_slice(pdu.json()).unwrap()).collect()
}

impl World {
    /// Has `b` answer questions for missing events with these, for history with those, and for the ids of states if some are given.
    fn b_has(&self, missing: &[&VerifiedPdu], history: &[&VerifiedPdu], state_ids: Option<Value>) {
        let missing = json!({ "events": json_of(missing) });
        let history = json!({ "origin": "b", "origin_server_ts": 1, "pdus": json_of(history) });
        self.answers("b", move |path| match path {
            path if path.contains("/get_missing_events/") => Some(missing.clone()),
            path if path.contains("/backfill/") => Some(history.clone()),
            path if path.contains("/state_ids/") => state_ids.clone(),
            _ => None,
        });
    }

    /// Returns what `b` was asked for since, and forgets it.
    fn questions(&self) -> Vec<String> {
        let asked = std::mem::take(&mut *self.asked.lock().unwrap());
        asked.iter().map(|asked| asked.split('/').nth(4).unwrap_or_default().to_owned()).collect()
    }

    async fn displayname_after(&self, user: &'static str, prev_event: &str, name: &str) -> VerifiedPdu {
        let content = json!({ "membership": "join", "displayname": name }).to_string();
        self.makes_after(user, prev_event, (event_type::MEMBER, Some(user), &content)).await
    }

    /// Returns the member event of `@user:b` in the state before an event.
    async fn member_before(&self, pdu: &VerifiedPdu) -> EventId {
        let member = |room: &ravel_core::room::Room| {
            room.state_before(pdu.event_id()).and_then(|state| state.get(event_type::MEMBER, "@user:b"))
        };
        self.server.rooms.look(&self.room_id, member).await.unwrap().unwrap()
    }
}

#[tokio::test]
async fn sc_146_what_others_bring_of_a_denied_server_is_checked_by_keys_that_are_known() {
    let world = World::new().await;
    let before = world.says("@user:c", "before").await;
    assert!(world.send("b", &[&before]).await[before.event_id()].is_ok());
    let (world, is_asked) = denying(world, config("a", "C")).await;
    let pushed = world.says("@user:c", "pushed").await;
    assert!(world.send("b", &[&pushed]).await[pushed.event_id()].is_ok());
    let missing = world.says("@user:c", "missing").await;
    let last = world.says_after("@user:b", missing.event_id().as_str(), "last").await;
    world.b_has(&[&missing], &[], None);
    assert!(world.send("b", &[&last]).await[last.event_id()].is_ok());
    for event in [&pushed, &missing, &last] {
        assert!(world.shows(event).await);
    }
    assert_eq!((world.questions(), is_asked.load(Ordering::Relaxed)), (vec!["get_missing_events".to_owned()], false));
}

#[tokio::test]
async fn sc_146_what_others_bring_of_a_denied_server_is_checked_by_keys_that_notaries_have() {
    let mut config = config("a", "c");
    config.keys.notaries = vec![server_name("n")];
    let (world, is_asked) = denying(World::new().await, config).await;
    world.network.set("n", |request| match request.uri().path() {
        "/_matrix/key/v2/server" => Answer::Json(key_document("n", 0)),
        _ => {
            let mut document = object(&key_document("c", 0).to_string());
            sign_json(&mut document, &server_name("n"), &key_of("n")).unwrap();
            let document: Value =
                serde_json::from_slice(&ravel_core::canonical_json::object_to_canonical_bytes(&document)).unwrap();
            Answer::Json(json!({ "server_keys": [document] }))
        }
    });
    let pushed = world.says("@user:c", "pushed").await;
    assert!(world.send("b", &[&pushed]).await[pushed.event_id()].is_ok());
    assert_eq!((world.shows(&pushed).await, is_asked.load(Ordering::Relaxed)), (true, false));
}

#[tokio::test]
async fn sc_146_what_cannot_be_checked_is_left_out_and_no_state_is_asked_for() {
    let (world, is_asked) = denying(World::new().await, config("a", "c")).await;
    let extremity = world.says("@user:b", "first").await;
    assert!(world.send("b", &[&extremity]).await[extremity.event_id()].is_ok());
    let named = world.displayname_after("@user:b", extremity.event_id().as_str(), "B").await;
    let of_denied = world.says_after("@user:c", named.event_id().as_str(), "unknown").await;
    let also_of_denied = world.displayname_after("@user:c", of_denied.event_id().as_str(), "C").await;
    let last = world.says_after("@user:b", also_of_denied.event_id().as_str(), "last").await;
    world.b_has(&[&also_of_denied, &of_denied, &named], &[], None);
    assert!(world.send("b", &[&last]).await[last.event_id()].is_ok());
    assert_eq!((world.questions(), is_asked.load(Ordering::Relaxed)), (vec!["get_missing_events".to_owned()], false));
    assert_eq!((world.shows(&named).await, world.shows(&last).await, world.waiting().await), (true, true, vec![]));
    assert_eq!(world.member_before(&last).await, *named.event_id());
    for event in [&of_denied, &also_of_denied] {
        assert_eq!(world.outcome(event).await, None);
    }
    let results = world.send("b", &[&of_denied]).await;
    assert!(matches!(results[of_denied.event_id()], Err(PduRefusal::Signature(_))), "{results:?}");
    assert_eq!((world.waiting().await, world.questions()), (vec![], vec![]), "nor does it wait");
}

#[tokio::test]
async fn what_is_left_out_may_lead_to_what_is_not_here() {
    let (world, _) = denying(World::new().await, config("a", "c")).await;
    let of_denied = world.says_after("@user:c", "$lost", "unknown").await;
    let last = world.says_after("@user:b", of_denied.event_id().as_str(), "last").await;
    world.b_has(&[&of_denied], &[], Some(world.state_ids().await));
    assert!(world.send("b", &[&last]).await[last.event_id()].is_ok());
    assert_eq!(world.questions(), ["get_missing_events", "state_ids"]);
    assert!(world.shows(&last).await);
}

#[tokio::test]
async fn sc_146_history_goes_on_before_what_is_left_out() {
    let (world, is_asked) = denying(World::new().await, config("a", "c")).await;
    let first = world.says("@user:b", "first").await;
    let mut chain = vec![first];
    for user in ["@user:c", "@user:b", "@user:c", "@user:b"] {
        let next = world.says_after(user, chain.last().unwrap().event_id().as_str(), user).await;
        chain.push(next);
    }
    let last = chain.pop().unwrap();
    let newest_first: Vec<&VerifiedPdu> = chain.iter().rev().collect();
    world.b_has(&[], &newest_first, Some(world.state_ids().await));
    assert!(world.send("b", &[&last]).await[last.event_id()].is_ok());
    assert_eq!(world.questions(), ["get_missing_events", "state_ids"]);
    assert!(world.server.backfill(&world.room_id, &[last.event_id().clone()]).await.unwrap());
    let outcomes = futures_util::future::join_all(chain.iter().map(|pdu| world.outcome(pdu))).await;
    let accepted = Some(Outcome::Accepted);
    assert_eq!(outcomes, [accepted, None, accepted, None]);
    assert_eq!((world.questions(), is_asked.load(Ordering::Relaxed)), (vec!["backfill".to_owned()], false));
}
