//! JSON that is nested as deep as it may be, or deeper.

use ravel_core::{canonical_json::CanonicalJsonValue, id::RoomId, room_version::RoomVersion};
use ravel_homeserver::joining::ResidentError;
use ravel_store::MemoryStore;
use serde_json::value::RawValue;

use super::{
    invites::forged,
    world::{World, object},
};

fn nested(depth: usize) -> String {
    format!("{}1{}", r#"{"a":"#.repeat(depth), "}".repeat(depth))
}

/// What is kept of an invite is in other JSON, and so deeper than it was when it came.
#[tokio::test]
async fn sc_013_sc_218_an_invite_of_any_depth_is_no_trouble_later() {
    let (world, store) = (World::default(), MemoryStore::new());
    let (a, b) = (world.server("a.org").await, world.server_on("b.org", store.clone()).await);
    let bob = b.user("bob").await;
    let mut taken = Vec::new();
    for depth in (1..=500).filter(|depth| (90..=130).contains(depth) || depth % 100 == 1) {
        for is_of_event in [true, false] {
            let room_id = format!("!{depth}-{is_of_event}:a.org");
            let (event_id, pdu) = forged(&a, RoomVersion::V11, |event| {
                event.insert("room_id".into(), room_id.as_str().into());
                if let (true, Some(CanonicalJsonValue::Object(content))) = (is_of_event, event.get_mut("content")) {
                    content.insert("deep".into(), object(&nested(depth)).into());
                }
            });
            let content = nested(if is_of_event { 1 } else { depth });
            let name = format!(r#"{{"type":"m.room.name","state_key":"","sender":"@eve:a.org","content":{content}}}"#);
            let (room_id, state) = (RoomId::parse(&room_id).unwrap(), [RawValue::from_string(name).unwrap()]);
            let server = &b.app.homeserver;
            match server.receive_invite(&a.name, &room_id, event_id.as_str(), &pdu, RoomVersion::V11, &state).await {
                Ok(_) => taken.push((room_id, depth, is_of_event)),
                Err(error) => {
                    assert!(depth > 90 && matches!(error, ResidentError::WrongEvent(_)), "{depth}: {error:?}");
                }
            }
        }
    }
    assert!(taken.iter().any(|(_, depth, is_of_event)| *depth == 90 && *is_of_event));
    assert!(taken.iter().any(|(_, depth, is_of_event)| *depth == 401 && !*is_of_event), "without what is too deep");
    drop(b);
    let b = world.server_on("b.org", store).await;
    let (news, _) = b.sync(&bob, None).await;
    for (room_id, depth, is_of_event) in &taken {
        let shown = news.invited[room_id].len();
        assert!(shown == 2 || (shown == 1 && *depth > 90 && !is_of_event), "{depth} {is_of_event}: {shown}");
        b.app.homeserver.leave(&bob, room_id, object("{}")).await.unwrap();
    }
    assert!(b.sync(&bob, None).await.0.invited.is_empty());
}
