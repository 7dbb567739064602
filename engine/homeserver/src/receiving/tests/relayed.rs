//! Events that one server brings of another.

use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::rooms::SendEvent;

#[tokio::test]
async fn sc_140_who_is_shut_out_does_not_come_by_another_server() {
    let world = World::new().await;
    let before = world.says("@user:c", "before").await;
    assert!(world.send("b", &[&before]).await[before.event_id()].is_ok());
    let acl = SendEvent {
        event_type: "m.room.server_acl".to_owned(),
        state_key: Some(String::new()),
        content: object(r#"{"allow":["*"],"deny":["C"]}"#),
        redacts: None,
    };
    let after = world.says("@user:c", "after").await;
    world.server.rooms.send(&world.room_id, &user_id("@alice:a"), acl).await.unwrap();
    let others = [world.says("@user:b", "one").await, world.says("@user:b", "two").await];
    let results = world.send("b", &[&others[0], &after, &others[1]]).await;
    assert!(matches!(results[after.event_id()], Err(PduRefusal::NotAllowed)), "{results:?}");
    assert_eq!(world.outcome(&after).await, None);
    for event in [&before, &others[0], &others[1]] {
        assert!(world.shows(event).await);
    }
}

#[tokio::test]
async fn of_who_may_not_send_no_signature_is_checked() {
    let world = World::new().await;
    let acl = SendEvent {
        event_type: "m.room.server_acl".to_owned(),
        state_key: Some(String::new()),
        content: object(r#"{"allow":["*"],"deny":["b"]}"#),
        redacts: None,
    };
    world.server.rooms.send(&world.room_id, &user_id("@alice:a"), acl).await.unwrap();
    let is_asked_for_keys = Arc::new(AtomicBool::new(false));
    let asked = is_asked_for_keys.clone();
    world.network.set("d", move |_| {
        asked.store(true, Ordering::Relaxed);
        Answer::Json(key_document("d", 0))
    });
    let event = world.says("@user:d", "of a server whose key is not known").await;
    let results = world.send("b", &[&event]).await;
    assert!(matches!(results[event.event_id()], Err(PduRefusal::NotAllowed)), "named all the same: {results:?}");
    assert!(!is_asked_for_keys.load(Ordering::Relaxed));
    world.send("c", &[&event]).await;
    assert!(is_asked_for_keys.load(Ordering::Relaxed));
}
