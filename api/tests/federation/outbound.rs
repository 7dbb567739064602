//! What users of Ravel's have sent to other servers.

use std::time::{Duration, Instant};

use ravel_core::room_version::RoomVersion::V11;
use serde_json::{Value, json};

use crate::{
    member::Local,
    receiving::Scene,
    remote::{Asked, Remote},
    server::Answer,
};

/// How long something may take until it comes.
const PATIENCE: Duration = Duration::from_secs(30);

/// Returns type and content of all EDUs that a server got, in order.
fn edus(remote: &Remote) -> Vec<(String, Value)> {
    let transactions = remote.asked().into_iter().filter(is_transaction);
    let edus = transactions.flat_map(|asked| asked.json()["edus"].as_array().cloned().unwrap_or_default());
    edus.map(|edu| (edu["edu_type"].as_str().unwrap().to_owned(), edu["content"].clone())).collect()
}

fn is_transaction(asked: &Asked) -> bool {
    asked.path.starts_with("/_matrix/federation/v1/send/")
}

/// Waits until what a server has got is enough.
fn wait_until(remote: &Remote, is_enough: impl Fn(&[(String, Value)]) -> bool) -> Vec<(String, Value)> {
    let began = Instant::now();
    loop {
        let edus = edus(remote);
        if is_enough(&edus) {
            return edus;
        }
        assert!(began.elapsed() < PATIENCE, "that is all: {edus:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Waits until a server has got so many EDUs.
fn wait_for(remote: &Remote, count: usize) {
    wait_until(remote, |edus| edus.len() >= count);
}

impl Local<'_> {
    fn put(&self, path: &str, body: impl AsRef<[u8]>) -> Answer {
        self.server.ask("PUT", path, Some(&self.token), body.as_ref())
    }

    fn post(&self, path: &str, body: impl AsRef<[u8]>) -> Answer {
        self.server.ask("POST", path, Some(&self.token), body.as_ref())
    }
}

fn nested(depth: usize) -> String {
    format!("{}1{}", r#"{"a":"#.repeat(depth), "}".repeat(depth))
}

/// Whatever a user sends, other servers get only what they can read, and all of it in order.
#[test]
fn sc_089_no_user_poisons_what_other_servers_are_sent() {
    let scene = Scene::new();
    scene.remote.answers(|asked| is_transaction(asked).then(|| (200, json!({ "pdus": {} }))));
    let (alice, room, bob) = scene.room(V11);
    let said = alice.say(&room, "hi");
    let huge = " ".repeat(10 << 20);

    // There are no keys yet, and nothing of what is sent for them is looked at.
    for body in ["{}", r#"{"device_keys":7,"one_time_keys":[[]]}"#, &nested(1_000), &huge] {
        alice.post("v3/keys/upload", body).fails(404, "M_UNRECOGNIZED");
    }

    // Messages to devices.
    let to =
        |user: &str, device: &str, content: &str| format!(r#"{{"messages":{{"{user}":{{"{device}":{content}}}}}}}"#);
    let to_bob = |content: &str| to(&bob.user, "*", content);
    let send = |body: &str| alice.put("v3/sendToDevice/m.bad/bad", body);
    for body in ["", "{", "nonsense", &huge[..100]] {
        send(body).fails(400, "M_NOT_JSON");
    }
    alice.put("v3/sendToDevice/m.bad/bad", b"{\"messages\":{},\"\xff\":1}").fails(400, "M_NOT_JSON");
    for body in ["{}", "[]", "7", r#"{"messages":[]}"#, r#"{"messages":{"@bob:x":[]}}"#, r#"{"messages":{"@bob:x":1}}"#]
    {
        send(body).fails(400, "M_BAD_JSON");
    }
    for content in ["1", "null", "[]", r#""text""#, r#"{"a":1.5}"#, r#"{"a":1e400}"#, r#"{"a":[{"b":-0}]}"#] {
        send(&to_bob(content)).fails(400, "M_BAD_JSON");
    }
    for content in [r#"{"a":9007199254740992}"#, r#"{"a":"\ud800"}"#, r#"{"\udc00":1}"#, r#"{"a":1,"a":2}"#] {
        send(&to_bob(content)).fails(400, "M_BAD_JSON");
    }
    for depth in [101, 120, 127, 128, 500, 1_000, 10_000] {
        send(&to_bob(&nested(depth))).fails(400, "M_BAD_JSON");
    }
    let long_user = format!("@{}:x", "ü".repeat(200));
    for user in ["", "bob", "@bob", "@bob:", "@bob:no name", r"@b\u0000b:x", &long_user] {
        send(&to(user, "*", "{}")).fails(400, "M_INVALID_PARAM");
    }
    for device in ["", &"x".repeat(256)] {
        send(&to(&bob.user, device, "{}")).fails(400, "M_INVALID_PARAM");
    }
    let long = format!(r#"{{"a":"{}"}}"#, "x".repeat(65_536));
    let devices = |count: usize| (0..count).map(|number| (format!("D{number}"), json!({}))).collect::<Value>();
    let many = json!({ "messages": { &bob.user: devices(10_001) } }).to_string();
    for body in [&to_bob(&long), &many, &to_bob(&huge), &huge] {
        send(body).fails(413, "M_TOO_LARGE");
    }
    // What is right beside what is wrong is not taken either.
    let beside =
        format!(r#"{{"messages":{{"{0}":{{"A":{{}},"B":[]}},"@c:{1}":{{"A":{{}}}}}}}}"#, bob.user, bob.remote.name);
    send(&beside).fails(400, "M_BAD_JSON");
    alice.put(&format!("v3/sendToDevice/{}/bad", "x".repeat(256)), to_bob("{}")).fails(400, "M_INVALID_PARAM");
    alice.put(&format!("v3/sendToDevice/{}/bad", "%ff"), to_bob("{}")).fails(400, "M_INVALID_PARAM");

    // Typing.
    let me = scene.ravel.get("v3/account/whoami", Some(&alice.token)).ok()["user_id"].as_str().unwrap().to_owned();
    let typing = |user: &str, body: &str| alice.put(&format!("v3/rooms/{room}/typing/{user}"), body);
    for body in ["", "{", &nested(100_000)[..200_000]] {
        typing(&me, body).fails(400, "M_NOT_JSON");
    }
    for body in ["{}", "[]", r#"{"typing":1}"#, r#"{"typing":"yes"}"#, r#"{"typing":{"a":[]}}"#, &nested(100_000)] {
        typing(&me, body).fails(400, "M_BAD_JSON");
    }
    for time in ["-1", "1.5", r#""30000""#, "{}", "1e400", "99999999999999999999"] {
        typing(&me, &format!(r#"{{"typing":true,"timeout":{time}}}"#)).fails(400, "M_BAD_JSON");
    }
    typing(&me, &huge).fails(413, "M_TOO_LARGE");
    let yes = r#"{"typing":true,"timeout":30000}"#;
    typing(&bob.user, yes).fails(403, "M_FORBIDDEN");
    for user in ["alice", "@alice", "@alice:no%20name", "%ff"] {
        typing(user, yes).fails(400, "M_INVALID_PARAM");
    }
    alice.put(&format!("v3/rooms/!nowhere:x/typing/{me}"), yes).fails(403, "M_FORBIDDEN");

    // Receipts.
    let at_receipt = |kind: &str, event: &str| format!("v3/rooms/{room}/receipt/{kind}/{event}");
    let receipt = |event: &str, body: &str| alice.post(&at_receipt("m.read", event), body);
    for event in ["event", "$", "%24a%00b", "%ff", &format!("${}", "x".repeat(255))] {
        receipt(event, "{}").fails(400, "M_INVALID_PARAM");
    }
    alice.post(&at_receipt("m.other", &said), "{}").fails(400, "M_INVALID_PARAM");
    for body in ["{", "nonsense"] {
        receipt(&said, body).fails(400, "M_NOT_JSON");
    }
    for body in ["7", r#"{"thread_id":7}"#, r#"{"thread_id":["main"]}"#, r#"{"thread_id":{"a":1.5}}"#] {
        receipt(&said, body).fails(400, "M_BAD_JSON");
    }
    let long_thread = format!("${}", "x".repeat(2_000));
    for thread in ["", "other", "$", r"$a\u0000b", &long_thread] {
        receipt(&said, &format!(r#"{{"thread_id":"{thread}"}}"#)).fails(400, "M_INVALID_PARAM");
    }
    receipt(&said, &huge).fails(413, "M_TOO_LARGE");
    let markers = |body: &str| alice.post(&format!("v3/rooms/{room}/read_markers"), body);
    for body in [r#"{"m.read":7}"#, r#"{"m.read":"event"}"#, r#"{"m.read":{"a":1}}"#, "[]"] {
        markers(body).fails(400, "M_BAD_JSON");
    }
    markers(&huge).fails(413, "M_TOO_LARGE");

    // Presence.
    let presence = |user: &str, body: &str| alice.put(&format!("v3/presence/{user}/status"), body);
    presence(&me, "{").fails(400, "M_NOT_JSON");
    for body in ["{}", "[]", r#"{"presence":7}"#, r#"{"presence":["online"]}"#] {
        presence(&me, body).fails(400, "M_BAD_JSON");
    }
    presence(&me, r#"{"presence":"busy"}"#).fails(400, "M_INVALID_PARAM");
    for text in ["7", "1.5", r#"["a"]"#, "{}", r#""\ud800""#] {
        presence(&me, &format!(r#"{{"presence":"online","status_msg":{text}}}"#)).fails(400, "M_BAD_JSON");
    }
    let long = format!(r#"{{"presence":"online","status_msg":"{}"}}"#, "x".repeat(1_025));
    presence(&me, &long).fails(400, "M_INVALID_PARAM");
    presence(&me, &huge).fails(413, "M_TOO_LARGE");
    presence(&bob.user, r#"{"presence":"online"}"#).fails(403, "M_FORBIDDEN");

    // What is as it should be comes, first things first; of all that came before it, nothing.
    let message = |kind: &str, messages: &Value| {
        let body = json!({ "messages": { &bob.user: messages } }).to_string();
        alice.put(&format!("v3/sendToDevice/{kind}/1"), body).ok();
    };
    message("m.first", &json!({ "*": { "number": 1 } }));
    wait_for(&scene.remote, 1);
    typing(&me, yes).ok();
    wait_for(&scene.remote, 2);
    receipt(&said, "").ok();
    wait_for(&scene.remote, 3);
    presence(&me, r#"{"presence":"online","status_msg":"tea"}"#).ok();
    wait_for(&scene.remote, 4);
    for number in 5..10 {
        message(&format!("m.number{number}"), &json!({ "*": { "number": number } }));
    }
    let deep: Value = serde_json::from_str(&nested(100)).unwrap();
    message("m.deep", &json!({ "DEVICE": deep }));
    message("m.many", &devices(10_000));
    alice.say(&room, "bye");
    let count = |edus: &[(String, Value)]| {
        let of_many = edus.iter().filter(|(_, content)| content["type"] == "m.many");
        of_many.map(|(_, content)| content["messages"][&bob.user].as_object().unwrap().len()).sum::<usize>()
    };
    let all = wait_until(&scene.remote, |edus| count(edus) >= 10_000);
    assert_eq!(count(&all), 10_000);
    let types: Vec<&str> = all.iter().map(|(edu_type, _)| edu_type.as_str()).collect();
    assert_eq!(types[..4], ["m.direct_to_device", "m.typing", "m.receipt", "m.presence"]);
    assert!(types[4..].iter().all(|edu_type| *edu_type == "m.direct_to_device"), "{types:?}");
    let of = |place: usize| &all[place].1;
    assert_eq!(of(0)["type"], "m.first");
    assert_eq!(*of(1), json!({ "room_id": room, "user_id": me, "typing": true }));
    assert_eq!(of(2)[&room]["m.read"][&me]["event_ids"], json!([said]));
    assert_eq!((&of(3)["push"][0]["user_id"], &of(3)["push"][0]["status_msg"]), (&json!(me), &json!("tea")));
    for number in 5..10 {
        assert_eq!(
            *of(number - 1),
            json!({
                "sender": me,
                "type": format!("m.number{number}"),
                "message_id": of(number - 1)["message_id"],
                "messages": { &bob.user: { "*": { "number": number } } },
            })
        );
    }
    assert_eq!(of(9)["messages"][&bob.user]["DEVICE"], deep);
}
