use std::time::Duration;

use ravel_store::MemoryStore;
use serde_json::value::to_raw_value;

use super::*;
use crate::{
    accounts::{NewDevice, PasswordLogin, Registration, Role, Session},
    fact_kind::OUTGOING_EDU,
    testing::{Answer, ManualClock, TestNetwork, open_server, server_name, settle, user_id},
};

async fn server(store: &MemoryStore, network: &Arc<TestNetwork>) -> Homeserver {
    let clock = Arc::new(ManualClock::default());
    clock.advance(Duration::from_secs(1));
    let (server, to_send) = open_server("a", store, clock, network.clone()).await;
    server.start(to_send);
    server
}

/// Makes an account with two devices, of which the id of one begins with that of the other.
async fn register(server: &Homeserver, name: &str) {
    let device = |id: &str| NewDevice { device_id: Some(id.into()), ..NewDevice::default() };
    let registration = Registration {
        username: Some(name.to_owned()),
        password: Some("a password".to_owned()),
        role: Role::User,
        device: Some(device("D")),
    };
    server.accounts.register(registration).await.unwrap();
    log_in(server, name, "D\0D").await;
}

async fn log_in(server: &Homeserver, name: &str, device_id: &str) {
    let device = NewDevice { device_id: Some(device_id.into()), ..NewDevice::default() };
    let login = PasswordLogin { user: name.to_owned(), password: "a password".to_owned(), device };
    server.accounts.log_in(&login).await.unwrap();
}

fn message(id: &str, to: &[(&str, &str, u32)]) -> ToDeviceMessage {
    let mut messages = Messages::new();
    for (user, device, number) in to {
        let content = to_raw_value(&json!({ "number": number })).unwrap();
        messages.entry(user_id(user)).or_default().insert((*device).to_owned(), content);
    }
    ToDeviceMessage { sender: user_id("@sender:b"), event_type: "m.x".to_owned(), message_id: id.to_owned(), messages }
}

/// Returns the contents of what waits, as of a sync.
async fn waiting(server: &Homeserver, device: &str, since: Option<u64>) -> Vec<u64> {
    let now = server.rooms.position();
    let events = server.to_device.waiting(&user_id("@alice:a"), device, since, now).await.unwrap();
    events.iter().map(|event| event["content"]["number"].as_u64().unwrap()).collect()
}

#[tokio::test]
async fn sc_129_messages_wait_in_order_until_they_are_acknowledged() {
    let (store, network) = (MemoryStore::new(), Arc::default());
    let mut alices = server(&store, &network).await;
    register(&alices, "alice").await;
    for number in 0..20 {
        alices.to_device.keep(&message(&number.to_string(), &[("@alice:a", "D", number)])).await.unwrap();
        if number == 10 {
            // As after a crash.
            alices = server(&store, &network).await;
        }
    }
    let all: Vec<u64> = (0..20).collect();
    assert_eq!(waiting(&alices, "D", None).await, all);
    let since = Some(alices.rooms.position());
    alices.to_device.keep(&message("last", &[("@alice:a", "D", 20)])).await.unwrap();
    // The first answer may be lost: nothing was acknowledged.
    assert_eq!(waiting(&alices, "D", None).await.len(), 21);
    assert_eq!(waiting(&alices, "D", since).await, [20]);
    assert_eq!(waiting(&alices, "D", since).await, [20]);
    assert_eq!(waiting(&alices, "D", None).await, [20]);
    assert_eq!(waiting(&alices, "D", Some(alices.rooms.position())).await, [0_u64; 0]);
    assert_eq!(waiting(&alices, "D\0D", None).await, [0_u64; 0]);
}

#[tokio::test]
async fn sc_123_messages_are_for_devices_that_exist() {
    let (store, network) = (MemoryStore::new(), Arc::default());
    let server = server(&store, &network).await;
    register(&server, "alice").await;
    register(&server, "gone").await;
    server.accounts.deactivate(&user_id("@gone:a"), false).await.unwrap();
    let to = [("@alice:a", "*", 1), ("@gone:a", "*", 2), ("@gone:a", "D", 3), ("@nobody:a", "D", 4), ("@x:b", "D", 5)];
    let length = server.log.len();
    server.to_device.keep(&message("1", &to)).await.unwrap();
    assert_eq!(server.log.len(), length + 2);
    // The same once more is nothing new; another message is.
    server.to_device.keep(&message("1", &to)).await.unwrap();
    server
        .to_device
        .keep(&message("2", &[("@alice:a", "D", 6), ("@alice:a", "*", 7), ("@alice:a", "E", 8)]))
        .await
        .unwrap();
    assert_eq!((waiting(&server, "D", None).await, waiting(&server, "D\0D", None).await), (vec![1, 6], vec![1, 7]));
    // A device of the same name that comes later is another one.
    let session = Session { user_id: user_id("@alice:a"), device_id: "D".into(), role: Role::User };
    server.accounts.log_out(&session).await.unwrap();
    log_in(&server, "alice", "D").await;
    assert_eq!((waiting(&server, "D", None).await, waiting(&server, "D\0D", None).await), (vec![], vec![1, 7]));
}

fn raw(json: &str) -> Box<RawValue> {
    RawValue::from_string(json.to_owned()).unwrap()
}

fn nested(depth: usize) -> String {
    format!("{}1{}", r#"{"a":"#.repeat(depth), "}".repeat(depth))
}

#[tokio::test]
async fn sc_089_of_a_message_that_not_everybody_could_read_nothing_is_kept() {
    let (store, network) = (MemoryStore::new(), Arc::<TestNetwork>::default());
    let server = server(&store, &network).await;
    register(&server, "alice").await;
    let length = server.log.len();
    let with = |device: &str, content: &str| {
        let mut message = message("1", &[("@alice:a", "D", 1), ("@bob:b", "*", 2), ("@carol:c", "*", 3)]);
        message.messages.get_mut(&user_id("@carol:c")).unwrap().insert(device.to_owned(), raw(content));
        ToDeviceMessage { sender: user_id("@alice:a"), ..message }
    };
    let deep = [CONTENT_DEPTH_MAX + 1, 122, 127, 128, 500, 100_000 / 6].map(nested);
    let unreadable = ["1", "null", "[]", r#""{}""#, r#"{"a":1e400}"#, r#"{"a":"\ud800"}"#, r#"{"\udfff":1}"#];
    for content in unreadable.into_iter().chain(deep.iter().map(String::as_str)) {
        let refused = server.send_to_devices(with("E", content)).await;
        assert!(
            matches!(refused, Err(ToDeviceError::InvalidContent | ToDeviceError::TooLarge)),
            "{content}: {refused:?}"
        );
    }
    for content in [r#"{"a":1.5}"#, r#"{"a":[9007199254740992]}"#, r#"{"a":1,"a":2}"#, r#"{"a":-0}"#] {
        let refused = server.send_to_devices(with("E", content)).await;
        assert!(matches!(refused, Err(ToDeviceError::NotCanonical(_))), "{content}: {refused:?}");
    }
    for device in ["", &"x".repeat(256)] {
        let refused = server.send_to_devices(with(device, "{}")).await;
        assert!(matches!(refused, Err(ToDeviceError::InvalidName)), "{device}: {refused:?}");
    }
    settle().await;
    assert_eq!((server.log.len(), waiting(&server, "D", None).await), (length, vec![]));
    // What is at the limit is read wherever it is kept: here, and for the others until the next start.
    server.send_to_devices(with("E", &nested(CONTENT_DEPTH_MAX))).await.unwrap();
    let mut to_alice = message("2", &[]);
    to_alice.messages = [(user_id("@alice:a"), [("D".to_owned(), raw(&nested(CONTENT_DEPTH_MAX)))].into())].into();
    server.to_device.keep(&to_alice).await.unwrap();
    assert_eq!(
        server.to_device.waiting(&user_id("@alice:a"), "D", None, server.rooms.position()).await.unwrap().len(),
        2
    );
    let kept = all_facts(&server.log, OUTGOING_EDU, b"").await.unwrap();
    assert_eq!(kept.iter().filter(|fact| decode_json(&fact.value).is_ok()).count(), 2);
}

/// What other servers send, which may be no canonical JSON, is kept as far as it can be read.
#[tokio::test]
async fn sc_218_contents_of_others_that_could_not_be_read_later_are_dropped() {
    let (store, network) = (MemoryStore::new(), Arc::<TestNetwork>::default());
    let server = server(&store, &network).await;
    register(&server, "alice").await;
    let deep = [CONTENT_DEPTH_MAX + 1, 126, 127, 128, 500].map(nested);
    let bad = ["1", "[]", r#"{"a":1e400}"#, r#"{"a":"\ud800"}"#].into_iter().chain(deep.iter().map(String::as_str));
    let good = [r#"{"number":1,"float":1.5}"#.to_owned(), format!(r#"{{"number":2,"deep":{}}}"#, nested(99))];
    let edus = bad.chain(good.iter().map(String::as_str)).enumerate().map(|(number, content)| {
        raw(&format!(
            r#"{{"edu_type":"m.direct_to_device","content":{{"sender":"@bob:b","type":"m.x","message_id":"{number}",
                "messages":{{"@alice:a":{{"D":{content}}}}}}}}}"#
        ))
    });
    server.receive_edus(&server_name("b"), edus.collect()).await;
    assert_eq!(waiting(&server, "D", None).await, [1, 2]);
}

#[tokio::test]
async fn what_waits_for_a_device_is_bounded() {
    let (store, network) = (MemoryStore::new(), Arc::default());
    let server = server(&store, &network).await;
    register(&server, "alice").await;
    for number in 0..u32::try_from(WAITING_MAX).unwrap() + 5 {
        let sent = message(&number.to_string(), &[("@alice:a", "D", number)]);
        server.to_device.keep(&sent).await.unwrap();
    }
    assert_eq!(waiting(&server, "D", None).await.len(), WAITING_MAX);
    let too_long = ToDeviceMessage { message_id: "x".repeat(256), ..message("", &[]) };
    assert!(matches!(too_long.check(), Err(ToDeviceError::InvalidName)));
    let mut too_large = message("1", &[("@alice:a", "D", 1)]);
    let content = to_raw_value(&json!({ "a": "x".repeat(CONTENT_BYTES_MAX) })).unwrap();
    too_large.messages.entry(user_id("@alice:a")).or_default().insert("D".to_owned(), content);
    assert!(matches!(too_large.check(), Err(ToDeviceError::TooLarge)));
}

#[tokio::test]
async fn messages_to_others_go_to_their_servers() {
    let (store, network) = (MemoryStore::new(), Arc::<TestNetwork>::default());
    let sent = Arc::new(Mutex::new(Vec::new()));
    let arrived = sent.clone();
    network.set("b", move |request| {
        arrived.lock().unwrap().push(serde_json::from_slice::<Value>(request.body()).unwrap());
        Answer::Status(200, "{}")
    });
    let server = server(&store, &network).await;
    register(&server, "alice").await;
    let to = [("@alice:a", "D", 1), ("@bob:b", "*", 2), ("@bella:b", "E", 3)];
    let message = ToDeviceMessage { sender: user_id("@alice:a"), ..message("1", &to) };
    server.send_to_devices(message).await.unwrap();
    assert_eq!(waiting(&server, "D", None).await, [1]);
    settle().await;
    let content = json!({
        "sender": "@alice:a",
        "type": "m.x",
        "message_id": "1.0",
        "messages": { "@bob:b": { "*": { "number": 2 } }, "@bella:b": { "E": { "number": 3 } } },
    });
    let edus = sent.lock().unwrap().iter().map(|body| body["edus"].clone()).collect::<Vec<_>>();
    assert_eq!(edus, [json!([{ "edu_type": "m.direct_to_device", "content": content }])]);
    assert_eq!(server.server_name, server_name("a"));
}

#[tokio::test]
async fn messages_to_a_server_that_is_away_come_after_a_restart_and_once() {
    let (store, network) = (MemoryStore::new(), Arc::<TestNetwork>::default());
    let first = server(&store, &network).await;
    register(&first, "alice").await;
    for number in 0..3 {
        let sent = message(&number.to_string(), &[("@bob:b", "*", number)]);
        first.send_to_devices(ToDeviceMessage { sender: user_id("@alice:a"), ..sent }).await.unwrap();
    }
    settle().await;
    first.stop().await;
    let sent = Arc::new(Mutex::new(Vec::new()));
    let arrived = sent.clone();
    network.set("b", move |request| {
        let body: Value = serde_json::from_slice(request.body()).unwrap();
        let edus = body["edus"].as_array().unwrap();
        arrived
            .lock()
            .unwrap()
            .extend(edus.iter().map(|edu| edu["content"]["messages"]["@bob:b"]["*"]["number"].clone()));
        Answer::Status(200, "{}")
    });
    let second = server(&store, &network).await;
    settle().await;
    assert_eq!(*sent.lock().unwrap(), [0, 1, 2]);
    second.stop().await;
    let third = server(&store, &network).await;
    settle().await;
    assert_eq!(sent.lock().unwrap().len(), 3);
    third.stop().await;
}

#[test]
fn many_messages_go_in_parts() {
    let content = RawValue::from_string(format!("\"{}\"", "x".repeat(20_000))).unwrap();
    let devices = (0..7).map(|number| (number.to_string(), content.clone())).collect();
    let parts = in_parts(Messages::from([(user_id("@a:b"), devices), (user_id("@b:b"), BTreeMap::new())]));
    let sizes: Vec<usize> = parts.iter().map(|part| part.values().map(BTreeMap::len).sum()).collect();
    assert_eq!(sizes, [3, 3, 1]);
}
