//! Typing, receipts and presence, of users here and of other servers.

use std::{sync::Arc, time::Duration};

use ravel_core::room_version::RoomVersion;
use ravel_store::MemoryStore;
use serde_json::{json, value::to_raw_value};

use super::*;
use crate::{
    homeserver::Homeserver,
    sync::{News, NextBatch, SyncRequest},
    testing::{ManualClock, TestNetwork, create_room, join_from, open_server, say, server_name, settle, user_id},
};

const ALICE: &str = "@alice:a";
const BOB: &str = "@bob:b";

struct Server {
    server: Homeserver,
    clock: Arc<ManualClock>,
    room_id: RoomId,
}

/// Opens a server with a room that a user of another server is in.
async fn open(store: &MemoryStore) -> Server {
    open_at(store, Duration::ZERO).await
}

/// Opens it at some time.
async fn open_at(store: &MemoryStore, time: Duration) -> Server {
    let clock = Arc::new(ManualClock::default());
    clock.advance(time);
    let (server, _) = open_server("a", store, clock.clone(), Arc::new(TestNetwork::default())).await;
    let room_id = match server.rooms.joined_rooms(&user_id(ALICE)).pop() {
        Some(room_id) => room_id,
        None => {
            let room_id = create_room(&server, ALICE, RoomVersion::V11).await;
            join_from(&server, &room_id, BOB).await;
            room_id
        }
    };
    Server { server, clock, room_id }
}

impl Server {
    async fn sync(&self, since: Option<NextBatch>) -> News {
        let request = SyncRequest { since, ..SyncRequest::default() };
        self.server.syncs.sync(&user_id(ALICE), request).await.unwrap()
    }

    async fn receive(&self, origin: &str, edus: &[Value]) {
        let edus: Vec<_> = edus.iter().map(|edu| to_raw_value(edu).unwrap()).collect();
        self.server.receive_edus(&server_name(origin), edus).await;
    }

    fn typing_edu(&self, user: &str, typing: bool) -> Value {
        let content = json!({ "room_id": self.room_id.as_str(), "user_id": user, "typing": typing });
        json!({ "edu_type": "m.typing", "content": content })
    }

    fn receipt_edu(&self, kind: &str, user: &str, event_id: &str) -> Value {
        let of_user = json!({ "event_ids": [event_id], "data": { "ts": 7 } });
        json!({ "edu_type": "m.receipt", "content": { self.room_id.as_str(): { kind: { user: of_user } } } })
    }

    /// Returns who is typing, and the receipts, as far as they are new.
    fn passed(&self, news: &News) -> (Option<Value>, Option<Value>) {
        let events = news.ephemeral.get(&self.room_id);
        let content = |kind: &str| {
            let event = events.into_iter().flatten().find(|event| event["type"] == kind)?;
            Some(event["content"].clone())
        };
        (content("m.typing").map(|content| content["user_ids"].clone()), content("m.receipt"))
    }

    async fn read(&self, kind: ReceiptKind, event_id: &EventId, thread: Option<&str>) {
        let thread = thread.map(str::to_owned);
        let receipt = Receipt { kind, event_id: event_id.clone(), thread, ts_ms: 5 };
        self.server.ephemeral.receipt(&self.room_id, &user_id(ALICE), receipt).await.unwrap();
    }
}

#[tokio::test]
async fn who_types_is_told_until_its_time_is_over() {
    let it = open(&MemoryStore::new()).await;
    let mut told = it.server.ephemeral.local_edus();
    let mut since = it.sync(None).await.next;
    let mut typing = async || {
        let news = it.sync(Some(since)).await;
        since = news.next;
        it.passed(&news).0
    };
    assert_eq!(typing().await, None);
    it.server.ephemeral.set_typing(&it.room_id, &user_id(ALICE), Some(20_000));
    it.receive("b", &[it.typing_edu(BOB, true)]).await;
    assert_eq!(typing().await, Some(json!([ALICE, BOB])));
    assert_eq!(typing().await, None, "it was told");
    assert_eq!(it.passed(&it.sync(None).await).0, Some(json!([ALICE, BOB])), "who begins is told too");
    settle().await;
    it.clock.advance(Duration::from_secs(15));
    it.server.ephemeral.set_typing(&it.room_id, &user_id(ALICE), Some(20_000));
    settle().await;
    assert_eq!(typing().await, None, "it goes on");
    it.clock.advance(Duration::from_secs(5));
    settle().await;
    assert_eq!(typing().await, None);
    it.clock.advance(Duration::from_secs(15));
    settle().await;
    assert_eq!(typing().await, Some(json!([BOB])));
    it.receive("b", &[it.typing_edu(BOB, false)]).await;
    assert_eq!(typing().await, Some(json!([])));
    it.receive("b", &[it.typing_edu(BOB, true)]).await;
    settle().await;
    it.clock.advance(Duration::from_secs(60));
    settle().await;
    assert_eq!(typing().await, Some(json!([])));
    // Other servers are told of what was begun and ended here, and of nothing else.
    let of_alice = |typing: bool| LocalEdu::Typing { room_id: it.room_id.clone(), user_id: user_id(ALICE), typing };
    assert_eq!((told.try_recv().unwrap(), told.try_recv().unwrap()), (of_alice(true), of_alice(false)));
    assert!(told.try_recv().is_err());
}

#[tokio::test]
async fn sc_121_nobody_types_or_is_there_for_others() {
    let it = open(&MemoryStore::new()).await;
    let since = Some(it.sync(None).await.next);
    let presence = |user: &str| json!({ "edu_type": "m.presence", "content": { "push": [{ "user_id": user, "presence": "online", "last_active_ago": 1 }] } });
    it.receive("c", &[it.typing_edu(BOB, true), it.typing_edu("@eve:c", true), presence(BOB), presence("@eve:c")])
        .await;
    it.receive("b", &[it.typing_edu(ALICE, true), it.typing_edu("@carol:b", true), presence("@carol:b")]).await;
    let news = it.sync(since).await;
    assert!(news.ephemeral.is_empty() && news.presence.is_empty(), "{news:?}");
    // One wrong one does not keep the others out.
    it.receive("b", &[json!({}), presence(BOB), it.typing_edu(BOB, true)]).await;
    let news = it.sync(since).await;
    assert_eq!((news.presence.len(), it.passed(&news).0), (1, Some(json!([BOB]))));
    assert_eq!(
        (&news.presence[0]["sender"], &news.presence[0]["content"]["presence"]),
        (&json!(BOB), &json!("online"))
    );
}

#[tokio::test]
async fn receipts_go_forward_and_stay() {
    let store = MemoryStore::new();
    let it = open(&store).await;
    let first = say(&it.server, &it.room_id, ALICE, "1").await;
    let second = say(&it.server, &it.room_id, ALICE, "2").await;
    let mut told = it.server.ephemeral.local_edus();
    let since = it.sync(None).await.next;
    it.receive("b", &[it.receipt_edu("m.read", BOB, first.as_str())]).await;
    it.read(ReceiptKind::Read, &second, None).await;
    it.read(ReceiptKind::Read, &first, None).await;
    it.read(ReceiptKind::Private, &second, Some("main")).await;
    let expected = json!({
        first.as_str(): { "m.read": { BOB: { "ts": 7 } } },
        second.as_str(): { "m.read": { ALICE: { "ts": 5 } }, "m.read.private": { ALICE: { "ts": 5, "thread_id": "main" } } },
    });
    let news = it.sync(Some(since)).await;
    assert_eq!(it.passed(&news).1, Some(expected.clone()));
    assert_eq!(it.passed(&it.sync(Some(news.next)).await).1, None);
    assert_eq!(it.passed(&it.sync(None).await).1, Some(expected.clone()));
    let LocalEdu::Receipt { user_id: of, receipt, .. } = told.try_recv().unwrap() else { panic!("a receipt") };
    assert_eq!((of, receipt.event_id, receipt.kind), (user_id(ALICE), second, ReceiptKind::Read));
    assert!(told.try_recv().is_err(), "neither the older one nor the private one");
    // After a restart they are told to who knew nothing, and to who did not know of them.
    let it = open_at(&store, Duration::from_secs(1_000)).await;
    assert_eq!(it.passed(&it.sync(Some(since)).await).1, Some(expected));
}

#[tokio::test]
async fn sc_124_there_are_receipts_in_so_many_threads() {
    let it = open(&MemoryStore::new()).await;
    let event_id = say(&it.server, &it.room_id, ALICE, "1").await;
    for number in 0..THREADS_MAX + 10 {
        it.read(ReceiptKind::Read, &event_id, Some(&format!("$thread{number}"))).await;
    }
    let stored = it.server.ephemeral.stored_receipts(&it.room_id, 0).await.unwrap();
    assert_eq!(stored.len(), THREADS_MAX);
}

#[tokio::test]
async fn presence_is_for_those_who_share_a_room() {
    let it = open(&MemoryStore::new()).await;
    let ephemeral = &it.server.ephemeral;
    let mut told = ephemeral.local_edus();
    let since = it.sync(None).await.next;
    ephemeral.set_presence(&user_id("@stranger:a"), PresenceState::Online, None);
    assert!(it.sync(Some(since)).await.presence.is_empty());
    assert!(it.sync(None).await.presence.is_empty());
    ephemeral.set_presence(&user_id(ALICE), PresenceState::Unavailable, Some("tea".to_owned()));
    it.clock.advance(Duration::from_secs(3));
    let expected = json!({
        "type": "m.presence", "sender": ALICE,
        "content": {
            "presence": "unavailable", "status_msg": "tea", "last_active_ago": 3_000, "currently_active": false,
        },
    });
    let news = it.sync(Some(since)).await;
    assert_eq!(news.presence, [expected.as_object().unwrap().clone()]);
    assert!(it.sync(Some(news.next)).await.presence.is_empty());
    ephemeral.note_sync(&user_id(ALICE), PresenceState::Offline);
    assert!(it.sync(Some(news.next)).await.presence.is_empty());
    // Asking for news makes a user be there, once, and leaves what it says.
    ephemeral.note_sync(&user_id(ALICE), PresenceState::Online);
    let known = ephemeral.presence_of(&user_id(ALICE)).unwrap();
    assert_eq!((known.state, known.status_msg.as_deref()), (PresenceState::Online, Some("tea")));
    let place = it.sync(Some(news.next)).await.next;
    ephemeral.note_sync(&user_id(ALICE), PresenceState::Online);
    assert!(it.sync(Some(place)).await.presence.is_empty());
    let told = std::iter::from_fn(|| told.try_recv().ok()).count();
    assert_eq!(told, 3, "the stranger, and alice twice");
}

#[tokio::test]
async fn other_servers_are_told() {
    let it = open(&MemoryStore::new()).await;
    let servers = it.server.rooms.servers_in(&it.room_id).await.unwrap();
    assert_eq!(servers, [server_name("a"), server_name("b")]);
    let content = |edu: LocalEdu| match edu {
        LocalEdu::Presence { user_id, presence, last_active_ago_ms } => {
            super::telling::presence_content(&user_id, &presence, last_active_ago_ms)
        }
        _ => json!(null),
    };
    let presence = Presence { state: PresenceState::Online, currently_active: true, ..Presence::default() };
    let told = content(LocalEdu::Presence { user_id: user_id(ALICE), presence, last_active_ago_ms: 4 });
    let expected = json!({ "user_id": ALICE, "presence": "online", "last_active_ago": 4, "currently_active": true });
    assert_eq!(told, json!({ "push": [expected] }));
}
