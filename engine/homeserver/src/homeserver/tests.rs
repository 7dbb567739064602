//! A whole server.

mod neighbors;

use std::sync::Arc;

use http::{HeaderMap, header::AUTHORIZATION};
use ravel_core::room_version::RoomVersion;
use ravel_store::MemoryStore;
use serde_json::value::RawValue;

use super::*;
use crate::{
    ephemeral::PresenceState,
    federation::x_matrix::{SignedRequest, sign},
    rooms::{Page, tests::told},
    sync::SyncRequest,
    testing::{
        Answer, ManualClock, TestNetwork, create_room, foreign_event, join_from, key_document, key_of, open_server,
        say, server_name, settle, user_id,
    },
};

const START_MS: i64 = 1_700_000_000_000;
const DAY_MS: i64 = 24 * 60 * 60 * 1000;

async fn start(store: &MemoryStore, clock: &Arc<ManualClock>, network: &Arc<TestNetwork>) -> Homeserver {
    let (server, to_send) = open_server("a", store, clock.clone(), network.clone()).await;
    server.start(to_send);
    server
}

/// The order of things is that in which they come, whatever the clock says; requests and tokens are valid by the clock.
#[tokio::test]
async fn sc_237_the_clock_may_jump() {
    let (store, clock, network) = (MemoryStore::new(), Arc::<ManualClock>::default(), Arc::<TestNetwork>::default());
    clock.set_ms(START_MS);
    let clock_of_b = clock.clone();
    network.set("b", move |request| match request.uri().path() {
        "/_matrix/key/v2/server" => Answer::Json(key_document("b", clock_of_b.now_ms())),
        _ => Answer::Status(200, r#"{"pdus":{}}"#),
    });
    let mut server = start(&store, &clock, &network).await;
    let (alice, b) = (user_id("@alice:a"), server_name("b"));
    let room_id = create_room(&server, "@alice:a", RoomVersion::V11).await;
    join_from(&server, &room_id, "@user:b").await;
    let mut since = server.syncs.now();
    let mut texts = Vec::new();
    for (number, now_ms) in
        [START_MS, START_MS - DAY_MS, START_MS + 3650 * DAY_MS, START_MS - DAY_MS, 0, START_MS].into_iter().enumerate()
    {
        clock.set_ms(now_ms);
        settle().await;
        let new = [format!("ours {number}"), format!("theirs {number}")];
        say(&server, &room_id, "@alice:a", &new[0]).await;
        let content = format!(r#"{{"body":"{}"}}"#, new[1]);
        let pdu = foreign_event(&server, &room_id, "@user:b", "m.room.message", None, &content).await;
        let raw = RawValue::from_string(String::from_utf8(pdu.json().to_vec()).unwrap()).unwrap();
        let taken = server.receive_transaction(&b, &number.to_string(), vec![raw], Vec::new()).await.unwrap();
        assert!(taken[pdu.event_id()].is_ok(), "{taken:?}");
        server.ephemeral.set_typing(&room_id, &alice, Some(30_000));
        server.ephemeral.set_presence(&alice, PresenceState::Online, None);
        assert_eq!(server.open_id.user_of(&server.open_id.grant(&alice)).as_ref(), Some(&alice));
        let request = SignedRequest { method: "GET", uri: "/_matrix/x", content: None };
        let header = sign(&request, &b, &server.server_name, &key_of("b")).unwrap();
        let headers = HeaderMap::from_iter([(AUTHORIZATION, header)]);
        assert_eq!(server.keys.authenticate(&headers, &request).await.unwrap(), b, "at {now_ms}");

        let news = SyncRequest { since: Some(since), ..SyncRequest::default() };
        let news = server.syncs.sync(&alice, news).await.unwrap();
        assert_eq!(told(&news.rooms.joined[&room_id].timeline), new);
        assert!(news.next.log > since.log);
        (since, texts) = (news.next, [texts, new.to_vec()].concat());
        if number % 2 == 1 {
            server.stop().await;
            server = start(&store, &clock, &network).await;
            since = server.syncs.now();
            assert_eq!(since.log, server.log.len());
        }
    }
    let page = Page { from: None, backward: true, limit: texts.len() };
    let history = server.rooms.messages(&room_id, &alice, page).await.unwrap();
    texts.reverse();
    assert_eq!(told(&history.events), texts);
}
