//! Events that wait for what they build on.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::testing::settle;

#[tokio::test]
async fn an_event_waits_until_somebody_tells_its_past() {
    let world = World::new().await;
    let event = world.says_after("@user:b", "$lost", "hello").await;
    let results = world.send("b", &[&event]).await;
    assert!(matches!(results[event.event_id()], Err(PduRefusal::Missing(_))), "{results:?}");
    assert_eq!((world.waiting().await, world.servers_asked()), (vec![(1, 30_000)], vec!["b".to_owned()]));
    world.seconds_pass(29).await;
    assert_eq!(world.servers_asked(), [""; 0], "its time has not come");
    // The next server has nothing either, and it is the first one's turn again.
    world.seconds_pass(1).await;
    assert_eq!((world.waiting().await, world.servers_asked()), (vec![(2, 90_000)], vec!["c".to_owned()]));
    assert!(!world.shows(&event).await);
    let state_ids = world.state_ids().await;
    world.answers("b", move |path| path.contains("/state_ids/").then(|| state_ids.clone()));
    world.seconds_pass(60).await;
    assert_eq!((world.waiting().await, world.servers_asked()), (vec![], vec!["b".to_owned()]));
    assert!(world.shows(&event).await);
}

#[tokio::test]
async fn an_event_does_not_wait_for_ever() {
    let world = World::new().await;
    let event = world.says_after("@user:b", "$lost", "hello").await;
    world.send("b", &[&event]).await;
    let mut pauses = Vec::new();
    let mut now_s = 0;
    while let [(attempts, next_ms)] = world.waiting().await[..] {
        pauses.push(next_ms / 1000 - now_s);
        assert_eq!(attempts, i64::try_from(pauses.len()).unwrap());
        // It comes again meanwhile, as nothing of it is known: that changes nothing.
        world.server.keep_for_later(&server_name("b"), &world.room_id, &event).await;
        world.seconds_pass(u64::try_from(next_ms / 1000 - now_s).unwrap()).await;
        now_s = next_ms / 1000;
    }
    let doubled: Vec<i64> = (0..12).map(|doublings| 30 << doublings).collect();
    assert_eq!(pauses, doubled);
    world.servers_asked();
    world.seconds_pass(1_000_000).await;
    assert_eq!((world.servers_asked(), world.shows(&event).await), (vec![], false));
}

/// Of three rooms, `c` is to be asked for two, and does not answer; `b` is for the last one.
#[tokio::test]
async fn a_server_that_does_not_answer_delays_neither_others_nor_rooms_that_wait_for_others() {
    let mut world = World::new().await;
    let mut rooms = vec![world.room_id.clone()];
    for _ in 0..2 {
        let room_id = create_room(&world.server, "@alice:a", RoomVersion::V11).await;
        for user in ["@user:b", "@user:c"] {
            join_from(&world.server, &room_id, user).await;
        }
        rooms.push(room_id);
    }
    // In this order they have their turns.
    rooms.sort();
    let mut events = Vec::new();
    for (room_id, (origin, user)) in rooms.iter().zip([("b", "@user:b"), ("b", "@user:b"), ("c", "@user:c")]) {
        world.room_id = room_id.clone();
        let event = world.says_after(user, "$lost", "hello").await;
        world.server.keep_for_later(&server_name(origin), room_id, &event).await;
        events.push(event);
    }
    // Attempts go round: the next one is that of the other server.
    let state_ids = world.state_ids().await;
    world.answers("b", move |path| path.contains("/state_ids/").then(|| state_ids.clone()));
    let asked = Arc::new(AtomicUsize::new(0));
    let is_asked = asked.clone();
    world.network.set("c", move |request| match request.uri().path() {
        "/_matrix/key/v2/server" => Answer::Json(key_document("c", 0)),
        _ => {
            is_asked.fetch_add(1, Ordering::Relaxed);
            Answer::Hangs
        }
    });
    world.clock.advance(Duration::from_secs(30));
    let server = world.server.clone();
    let filling = tokio::spawn(async move { server.fill_gaps_once().await.unwrap() });
    world.until_shown(&events[2]).await;
    settle().await;
    assert_eq!(asked.load(Ordering::Relaxed), 1, "one room at a time asks it");
    world.clock.advance(Duration::from_secs(10));
    settle().await;
    assert_eq!((asked.load(Ordering::Relaxed), filling.is_finished()), (1, false), "the other room waits no longer");
    world.clock.advance(Duration::from_secs(230));
    filling.await.unwrap();
    // Its attempt was the second one of the first room, and none of the second.
    assert_eq!(world.waiting().await, [(2, 330_000), (1, 30_000)]);
}

#[tokio::test]
async fn so_many_events_of_a_room_wait_at_most_however_large_they_are() {
    let world = World::new().await;
    let text = "x".repeat(60_000);
    for number in 0..105 {
        let event = world.says_after("@user:b", "$lost", &format!("{number}{text}")).await;
        for _ in 0..2 {
            world.server.keep_for_later(&server_name("b"), &world.room_id, &event).await;
        }
    }
    let (mut count, mut after) = (0, None);
    loop {
        let page = world.server.log.facts(GAP, &[], after.as_deref(), 1000).await.unwrap();
        let Some(last) = page.last() else { break };
        (count, after) = (count + page.len(), Some(last.key.clone()));
    }
    assert_eq!(count, 100);
}

/// The first answer leaves an ancestor out: nothing is judged by it, and nothing of it is kept as if it was all.
#[tokio::test]
async fn sc_071_an_incomplete_auth_chain_is_not_taken_for_a_complete_one() {
    let world = World::new().await;
    let state = async |event_type: &'static str, state_key: &'static str| {
        let state = world.server.rooms.state_event(&world.room_id, &user_id("@alice:a"), event_type, state_key).await;
        state.unwrap().event_id
    };
    let [joined, levels] = [state("m.room.member", "@user:b").await, state("m.room.power_levels", "").await];
    let made = async |event: (&'static str, Option<&'static str>, &'static str), cited: &EventId, instead: &EventId| {
        let change = |event: &mut CanonicalJsonObject| cite_instead(event, cited, instead);
        foreign_event_with(&world.server, &world.room_id, "@user:b", event, change).await
    };
    let member = |content| ("m.room.member", Some("@user:b"), content);
    let first = made(member(r#"{"membership":"join","displayname":"1"}"#), &joined, &joined).await;
    let second = made(member(r#"{"membership":"join","displayname":"2"}"#), &joined, first.event_id()).await;
    let good = made(("m.room.message", None, r#"{"body":"good"}"#), &joined, second.event_id()).await;
    // He may not set them, which is known by the whole chain.
    let forged = ("m.room.power_levels", Some(""), r#"{"users":{"@user:b":100}}"#);
    let forged = made(forged, &joined, second.event_id()).await;
    let bad = made(("m.room.message", None, r#"{"body":"bad"}"#), &levels, forged.event_id()).await;

    let chain = |pdus: &[&VerifiedPdu]| {
        let pdus: Vec<Value> = pdus.iter().map(|pdu| serde_json::from_slice(pdu.json()).unwrap()).collect();
        json!({ "auth_chain": pdus })
    };
    let (of_good, of_bad) = (chain(&[&second]), chain(&[&second, &forged]));
    let asked_for_good = good.event_id().to_string();
    world.answers("b", move |path| {
        let chain = if path.ends_with(&asked_for_good) { &of_good } else { &of_bad };
        path.contains("/event_auth/").then(|| chain.clone())
    });
    let results = world.send("b", &[&good, &bad]).await;
    for event in [&good, &bad] {
        assert!(matches!(results[event.event_id()], Err(PduRefusal::Missing(_))), "{results:?}");
    }
    for event in [&first, &second, &forged, &good, &bad] {
        assert_eq!(world.outcome(event).await, None);
    }
    assert_eq!(world.waiting().await.len(), 2);

    let whole = chain(&[&first, &second, &forged]);
    for name in ["b", "c"] {
        let whole = whole.clone();
        world.answers(name, move |path| path.contains("/event_auth/").then(|| whole.clone()));
    }
    world.seconds_pass(30).await;
    assert_eq!(world.waiting().await, []);
    let outcomes = [&first, &second, &forged, &good, &bad].map(async |event| world.outcome(event).await.unwrap());
    let outcomes = futures_util::future::join_all(outcomes).await;
    let (accepted, rejected) = (Outcome::Accepted, Outcome::Rejected);
    assert_eq!(outcomes, [accepted, accepted, rejected, accepted, rejected]);
    assert_eq!((world.shows(&good).await, world.shows(&bad).await), (true, false));
}
