//! Servers that do not answer, or do not want what they get.

use super::*;
use crate::clock::Clock;

#[tokio::test]
async fn what_failed_is_sent_again_with_the_same_id() {
    let world = World::new().await;
    world.live("b");
    let room_id = world.room_with(&["b"]).await;
    world.inbox.clear();
    for answer in [Answer::Down, Answer::Status(500, "{}"), Answer::Status(403, "{}"), Answer::Status(502, "")] {
        world.answers("b", move |_| answer.clone());
        world.say(&room_id, "one").await;
        settle().await;
        world.say(&room_id, "two").await;
        world.seconds(1).await;
        assert_eq!(world.inbox.of("b").len(), 1, "there is a pause");
        world.live("b");
        world.seconds(30).await;
        let arrived = world.inbox.of("b");
        assert_eq!((arrived.len(), &arrived[0]), (3, &arrived[1]));
        assert_eq!(world.inbox.texts("b"), ["one", "one", "two"]);
        world.inbox.clear();
    }
}

#[tokio::test]
async fn a_server_that_is_there_again_gets_everything_at_once() {
    let world = World::new().await;
    world.live("b");
    let room_id = world.room_with(&["b"]).await;
    world.inbox.clear();
    world.answers("b", |_| Answer::Down);
    world.say(&room_id, "one").await;
    let until_ms = || world.server.client.backing_off_until_ms(&server_name("b")).unwrap_or(0);
    while until_ms() < world.clock.now_ms() + 60_000 {
        world.seconds(10).await;
    }
    world.say(&room_id, "two").await;
    world.inbox.clear();
    world.live("b");
    world.seconds(30).await;
    world.gets("b", &[]).await;
    // It has sent us something.
    assert!(world.server.client.sign_of_life(&server_name("b")));
    world.gets("b", &["one", "two"]).await;
}

#[tokio::test]
async fn a_dead_server_delays_nobody() {
    let world = World::new().await;
    let names: Vec<String> = (0..100).map(|number| format!("live{number}")).collect();
    let mut all: Vec<&str> = names.iter().map(String::as_str).collect();
    all.iter().for_each(|name| world.live(name));
    all.extend(["dead", "silent"]);
    world.answers("silent", |_| Answer::Hangs);
    let room_id = world.room_with(&all).await;
    world.inbox.clear();
    for number in 0..20 {
        world.say(&room_id, &number.to_string()).await;
    }
    let texts: Vec<String> = (0..20).map(|number| number.to_string()).collect();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    until("all get it", || names.iter().all(|name| world.inbox.count(name) == texts.len())).await;
    names.iter().for_each(|name| assert_eq!(world.inbox.texts(name), texts));
    assert_eq!(world.inbox.of("silent").len(), 1);
}

#[tokio::test]
async fn many_dead_servers_leave_room_for_others() {
    let world = World::new().await;
    let names: Vec<String> = (0..300).map(|number| format!("silent{number}")).collect();
    let mut all: Vec<&str> = names.iter().map(String::as_str).collect();
    let room_id = world.room_with(&all).await;
    world.say(&room_id, "nobody hears this").await;
    // All of them have failed before.
    world.seconds(10).await;
    for name in &all {
        world.answers(name, |_| Answer::Hangs);
    }
    all.push("b");
    world.live("b");
    join_from(&world.server, &room_id, "@user:b").await;
    world.seconds(3_600).await;
    let asked = world.inbox.0.lock().unwrap().keys().filter(|name| name.starts_with("silent")).count();
    assert!((1..=64).contains(&asked), "{asked}");
    world.inbox.clear();
    world.say(&room_id, "hi").await;
    world.gets("b", &["hi"]).await;
}

#[tokio::test]
async fn an_event_that_is_refused_is_dropped_alone() {
    for status in [400, 413] {
        let world = World::new().await;
        world.live("b");
        let room_id = world.room_with(&["b"]).await;
        world.inbox.clear();
        world.answers("b", |_| Answer::Down);
        world.say(&room_id, "first").await;
        settle().await;
        for number in 0..60 {
            world.say(&room_id, &if number == 40 { "poison".to_owned() } else { number.to_string() }).await;
        }
        let taken = Arc::new(Mutex::new(Vec::new()));
        let takes = taken.clone();
        world.answers("b", move |body| {
            let texts = Arrived { id: String::new(), body: body.clone() }.texts();
            if texts.iter().any(|text| text == "poison") {
                return Answer::Status(status, r#"{"errcode":"M_UNKNOWN"}"#);
            }
            takes.lock().unwrap().extend(texts);
            Answer::Status(200, "{}")
        });
        for _ in 0..60 {
            world.seconds(60).await;
        }
        let texts = (0..60).filter(|number| *number != 40).map(|number| number.to_string());
        let texts: Vec<String> = std::iter::once("first".to_owned()).chain(texts).collect();
        assert_eq!(*taken.lock().unwrap(), texts, "status {status}");
    }
}

#[tokio::test]
async fn what_was_redacted_before_it_is_sent_is_sent_redacted() {
    let world = World::new().await;
    world.live("b");
    let room_id = world.room_with(&["b"]).await;
    world.inbox.clear();
    let permits = world.hold("b");
    world.say(&room_id, "first").await;
    settle().await;
    let oops = world.say(&room_id, "oops").await;
    let redaction = SendEvent {
        event_type: "m.room.redaction".to_owned(),
        state_key: None,
        content: object("{}"),
        redacts: Some(oops),
    };
    world.server.rooms.send(&room_id, &user_id("@alice:a"), redaction).await.unwrap();
    permits.add_permits(10);
    world.gets("b", &["first", "message", "redaction"]).await;
}
