//! Servers that Ravel is told to have nothing to do with.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use ravel_core::room_version::RoomVersion::V11;
use serde_json::json;

use crate::{member::Local, remote::Authority};

fn check(variable: (&str, &str)) {
    let authority = Authority::new();
    let (ravel, remote) = (authority.ravel_with(&[variable]), authority.remote());
    let was_asked = Arc::new(AtomicBool::new(false));
    let note = was_asked.clone();
    // Not even for its key.
    remote.answers(move |_| {
        note.store(true, Ordering::SeqCst);
        None
    });
    let alice = Local::register(&ravel, "alice");
    let room = alice.public_room(V11);
    let name = remote.name.as_str();

    for path in [
        "v1/query/profile?user_id=%40alice%3Aexample.org".to_owned(),
        format!("v1/make_join/{room}/{}?ver=11", remote.user("bob")),
        format!("v1/backfill/{room}?v=$x&limit=1"),
        "v1/media/download/abc".to_owned(),
    ] {
        remote.get(&ravel, &path).fails(403, "M_FORBIDDEN");
    }
    let transaction = json!({ "origin": name, "origin_server_ts": 1, "pdus": [] });
    remote.put(&ravel, "v1/send/1", &transaction).fails(403, "M_FORBIDDEN");

    let keys = ravel.ask("GET", &format!("/_matrix/key/v2/query/{name}"), None, b"").ok();
    assert_eq!(keys, json!({ "server_keys": [] }));
    let keys = ravel.post("/_matrix/key/v2/query", None, &json!({ "server_keys": { name: {} } })).ok();
    assert_eq!(keys, json!({ "server_keys": [] }));

    for path in [
        format!("v3/directory/room/%23x:{name}"),
        format!("v3/profile/{}", remote.user("bob")),
        format!("v3/publicRooms?server={name}"),
        format!("v1/media/download/{name}/abc"),
    ] {
        ravel.get(&path, Some(&alice.token)).fails(403, "M_FORBIDDEN");
    }
    for path in [
        format!("v3/join/%23x:{name}"),
        format!("v3/join/!x:{name}"),
        format!("v3/join/!x?via={name}&server_name={name}"),
        format!("v3/knock/!x?via={name}"),
    ] {
        ravel.post(&path, Some(&alice.token), &json!({})).fails(403, "M_FORBIDDEN");
    }
    let invite = json!({ "user_id": remote.user("bob") });
    ravel.post(&format!("v3/rooms/{room}/invite"), Some(&alice.token), &invite).fails(403, "M_FORBIDDEN");
    assert!(!was_asked.load(Ordering::SeqCst));
}

#[test]
fn sc_146_a_denied_server_is_neither_asked_nor_answered() {
    check(("RAVEL_FEDERATION__DENIED_SERVERS", r#"["LOCAL*"]"#));
}

#[test]
fn sc_146_a_server_that_is_not_allowed_is_neither_asked_nor_answered() {
    check(("RAVEL_FEDERATION__ALLOWED_SERVERS", r#"["*.org"]"#));
}
