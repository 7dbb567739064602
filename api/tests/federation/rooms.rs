//! What other servers may read of rooms.

use serde_json::json;

use crate::remote::Authority;

/// Whether a room is not here, or is here and not for the server, makes no difference to it.
#[test]
fn sc_101_sc_103_sc_104_rooms_are_for_servers_in_them() {
    let authority = Authority::new();
    let (ravel, remote) = (authority.ravel(), authority.remote());
    let body = json!({ "username": "alice", "password": "secret", "auth": { "type": "m.login.dummy" } });
    let token = ravel.post("v3/register", None, &body).ok()["access_token"].as_str().unwrap().to_owned();
    let public = json!({ "preset": "public_chat" });
    let room = ravel.post("v3/createRoom", Some(&token), &public).ok()["room_id"].as_str().unwrap().to_owned();
    let say = ravel.ask(
        "PUT",
        &format!("v3/rooms/{room}/send/m.room.message/1"),
        Some(&token),
        json!({ "body": "hello" }).to_string().as_bytes(),
    );
    let event = say.ok()["event_id"].as_str().unwrap().to_owned();

    let answers = |room: &str, event: &str| {
        let wanted = json!({ "latest_events": [event], "earliest_events": [], "limit": 10 });
        let answers = [
            remote.get(&ravel, &format!("v1/event_auth/{room}/{event}")),
            remote.get(&ravel, &format!("v1/state/{room}?event_id={event}")),
            remote.get(&ravel, &format!("v1/state_ids/{room}?event_id={event}")),
            remote.get(&ravel, &format!("v1/backfill/{room}?v={event}&limit=10")),
            remote.post(&ravel, &format!("v1/get_missing_events/{room}"), &wanted),
            remote.get(&ravel, &format!("v1/timestamp_to_event/{room}?ts=0&dir=f")),
        ];
        answers.map(|answer| {
            let text = answer.json.to_string();
            answer.fails(403, "M_FORBIDDEN");
            text
        })
    };
    assert_eq!(answers(&room, &event), answers("!nowhere:example.org", "$unknown"));
    let unknown = remote.get(&ravel, "v1/event/$unknown");
    assert_eq!(remote.get(&ravel, &format!("v1/event/{event}")).json, unknown.json);
    unknown.fails(404, "M_NOT_FOUND");
}
