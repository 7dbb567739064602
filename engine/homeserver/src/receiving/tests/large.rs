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
