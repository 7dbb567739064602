//! Answers that may be large.

use tokio::{sync::Semaphore, task::JoinHandle};

use super::*;
use crate::testing::{settle, until};

/// Returns an answer to the question for the ids of a state by which all of the state has to be asked for.
fn unknown_state_ids(padding: usize) -> Value {
    let ids: Vec<String> = (0..51).map(|number| format!("$unknown{number}")).collect();
    json!({ "pdu_ids": ids, "auth_chain_ids": [], "padding": "x".repeat(padding) })
}

#[tokio::test]
async fn two_states_at_most_are_asked_for_at_the_same_time() {
    let world = World::new().await;
    join_from(&world.server, &world.room_id, "@user:d").await;
    let (asked, answers) = (Arc::new(Mutex::new(0)), Arc::new(Semaphore::new(0)));
    let mut sending = Vec::new();
    for name in ["b", "c", "d"] {
        let (is_asked, answers) = (asked.clone(), answers.clone());
        world.network.set(name, move |request| match request.uri().path() {
            "/_matrix/key/v2/server" => Answer::Json(key_document(name, 0)),
            path if path.contains("/state_ids/") => Answer::Json(unknown_state_ids(0)),
            path if path.contains("/state/") => {
                *is_asked.lock().unwrap() += 1;
                Answer::Held(answers.clone())
            }
            _ => Answer::Status(404, "{}"),
        });
        let event = world.says_after(&format!("@user:{name}"), "$lost", "hello").await;
        let server = world.server.clone();
        sending.push(tokio::spawn(async move {
            let taken = server.receive_transaction(&server_name(name), "1", vec![raw(&event)], Vec::new()).await;
            taken.unwrap().remove(event.event_id()).unwrap()
        }));
    }
    let count = || *asked.lock().unwrap();
    until("two are asked", || count() == 2).await;
    settle().await;
    assert_eq!(count(), 2);
    // The third one waits for a while, and comes later.
    world.clock.advance(Duration::from_secs(120));
    until("one has waited", || sending.iter().any(JoinHandle::is_finished)).await;
    assert_eq!(world.waiting().await.len(), 1);
    answers.add_permits(10);
    let mut busy = 0;
    for sending in sending {
        let refusal = sending.await.unwrap().unwrap_err();
        busy += usize::from(refusal.to_string().contains("too much is asked for already"));
    }
    assert_eq!((busy, count()), (1, 2));
    world.seconds_pass(30).await;
    assert_eq!(count(), 5, "when others are done, there is room again");
}

#[tokio::test]
async fn ids_of_a_state_are_bounded() {
    let world = World::new().await;
    world.answers("b", |path| path.contains("/state_ids/").then(|| unknown_state_ids(32 << 20)));
    let event = world.says_after("@user:b", "$lost", "hello").await;
    let refusal = world.send("b", &[&event]).await.remove(event.event_id()).unwrap().unwrap_err();
    assert!(refusal.to_string().contains("longer than 33554432 bytes"), "{refusal}");
    assert!(!world.asked.lock().unwrap().iter().any(|asked| asked.contains("/state/")));
}

/// More servers than are asked for their keys at once do not answer.
#[tokio::test]
async fn a_state_has_events_of_servers_whose_turn_comes_late() {
    let world = World::new().await;
    let (asked, answers) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
    let mut joins = Vec::new();
    for name in (0..150).map(|number| format!("silent{number}")).chain(["z".to_owned()]) {
        let user = format!("@user:{name}");
        let member = ("m.room.member", Some(user.as_str()), r#"{"membership":"join"}"#);
        joins.push(world.makes_after(&user, "$lost", member).await);
        let (is_asked, answers) = (asked.clone(), answers.clone());
        world.network.set(&name, move |_| {
            is_asked.add_permits(1);
            Answer::Held(answers.clone())
        });
    }
    world.answers("z", |_| None);
    let event = world.says_after("@user:b", "$lost", "hello").await;
    let mut state_ids = world.state_ids().await;
    let ids = joins.iter().map(|pdu| Value::from(pdu.event_id().as_str()));
    state_ids["pdu_ids"].as_array_mut().unwrap().extend(ids);
    let pdus: Vec<Value> = joins.iter().map(|pdu| serde_json::from_slice(pdu.json()).unwrap()).collect();
    let state = json!({ "pdus": pdus, "auth_chain": [] });
    world.answers("b", move |path| match path {
        path if path.contains("/state_ids/") => Some(state_ids.clone()),
        path if path.contains("/state/") => Some(state.clone()),
        _ => None,
    });
    let (server, pdus) = (world.server.clone(), vec![raw(&event)]);
    let sending =
        tokio::spawn(
            async move { server.receive_transaction(&server_name("b"), "1", pdus, Vec::new()).await.unwrap() },
        );
    drop(asked.acquire_many(100).await.unwrap());
    assert!(asked.available_permits() < 150);
    world.clock.advance(Duration::from_secs(60));
    settle().await;
    answers.add_permits(150);
    assert!(sending.await.unwrap()[event.event_id()].is_ok());
    let outcomes = [world.outcome(joins.last().unwrap()).await, world.outcome(&joins[0]).await];
    assert_eq!(outcomes, [Some(Outcome::Accepted), None]);
}
