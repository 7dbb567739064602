//! Messages from device to device.

use serde_json::{Value, json};

use crate::{
    rooms::{put, user},
    server::Server,
};

#[test]
fn messages_wait_for_a_device_until_its_next_sync() {
    let server = Server::open(&[]);
    let (alice, bob) = (user(&server, "alice"), user(&server, "bob"));
    let sync = |since: &str| {
        let answer = server.get(&format!("v3/sync{since}"), Some(&bob)).ok();
        let events = answer["to_device"]["events"].as_array().unwrap().clone();
        (events, format!("?since={}", answer["next_batch"].as_str().unwrap()))
    };
    let (nothing, since) = sync("");
    assert_eq!(nothing, [] as [Value; 0]);
    let messages =
        json!({ "messages": { "@bob:example.org": { "*": { "n": 1 } }, "@nobody:example.org": { "*": {} } } });
    put(&server, &alice, "v3/sendToDevice/m.x/1", &messages).ok();
    put(&server, &alice, "v3/sendToDevice/m.x/1", &messages).ok();
    put(&server, &alice, "v3/sendToDevice/m.y/1", &messages).ok();
    let event = |kind: &str| json!({ "type": kind, "sender": "@alice:example.org", "content": { "n": 1 } });
    let (first, next) = sync(&since);
    assert_eq!(first, [event("m.x"), event("m.y")]);
    assert_eq!(sync(&since).0, first, "the answer may have been lost");
    assert_eq!(sync(&next).0, [] as [Value; 0]);
    assert_eq!(sync(&since).0, [] as [Value; 0]);
    put(&server, &alice, "v3/sendToDevice/m.x/2", &json!({ "messages": { "bob": { "*": {} } } }))
        .fails(400, "M_INVALID_PARAM");
    put(&server, &alice, "v3/sendToDevice/m.x/2", &json!({ "messages": [] })).fails(400, "M_BAD_JSON");
    let long = format!("v3/sendToDevice/{}/2", "x".repeat(256));
    put(&server, &alice, &long, &messages).fails(400, "M_INVALID_PARAM");
}
