//! What servers missed, while they did not answer or this one was not running.

use super::*;

impl World {
    /// Returns the facts that say how far servers were told: of all, and of how many that lag behind.
    async fn told(&self) -> (bool, usize) {
        let log = &self.server.log;
        let behind = log.facts(TOLD, &[], None, 100).await.unwrap();
        (log.fact(TOLD_ALL, &[]).await.unwrap().is_some(), behind.len())
    }
}

#[tokio::test]
async fn a_kill_loses_nothing() {
    let mut world = World::new().await;
    ["b", "c"].iter().for_each(|name| world.live(name));
    let room_id = world.room_with(&["b", "c"]).await;
    world.seconds(10).await;
    assert_eq!(world.told().await, (true, 0));
    world.inbox.clear();
    // Delivered to one of them, and nothing is written of that.
    world.answers("c", |_| Answer::Hangs);
    world.say(&room_id, "one").await;
    world.say(&room_id, "two").await;
    world.gets("b", &["one", "two"]).await;
    world.kill().await;
    world.inbox.clear();
    world.live("c");
    world.gets("c", &["one", "two"]).await;
    world.gets("b", &["one", "two"]).await;
    // Before anything was sent.
    world.inbox.clear();
    world.server.sending.task.lock().unwrap().as_ref().unwrap().abort();
    world.say(&room_id, "three").await;
    world.kill().await;
    world.say(&room_id, "four").await;
    for name in ["b", "c"] {
        until("the last one comes", || world.inbox.texts(name).contains(&"four".to_owned())).await;
        let mut texts = world.inbox.texts(name);
        texts.retain(|text| text != "one" && text != "two");
        assert_eq!(texts, ["three", "four"]);
    }
}

#[tokio::test]
async fn a_start_after_much_looks_no_further_back_than_it_has_to() {
    let mut world = World::new().await;
    world.live("b");
    let (old, busy) = (world.room_with(&["b"]).await, world.room_with(&["b"]).await);
    world.say(&old, "old").await;
    world.gets("b", &["old"]).await;
    world.seconds(10).await;
    world.inbox.clear();
    world.answers("b", |_| Answer::Hangs);
    for number in 0..600 {
        world.say(&busy, &number.to_string()).await;
    }
    world.kill().await;
    world.live("b");
    until("the newest come", || world.inbox.texts("b").contains(&"599".to_owned())).await;
    let mut texts = world.inbox.texts("b");
    texts.retain(|text| text != "0");
    assert_eq!(texts, (550..600).map(|number| number.to_string()).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_stop_writes_what_was_delivered() {
    let mut world = World::new().await;
    ["b", "dead"].iter().for_each(|name| world.live(name));
    let room_id = world.room_with(&["b", "dead"]).await;
    world.answers("dead", |_| Answer::Down);
    world.say(&room_id, "one").await;
    settle().await;
    let stopping = tokio::spawn({
        let server = world.server.clone();
        async move { server.stop().await }
    });
    stopping.await.unwrap();
    assert_eq!(world.told().await, (true, 1));
    world.inbox.clear();
    world.live("dead");
    world.server = start(&world.store, &world.clock, &world.network).await;
    world.gets("dead", &["one"]).await;
    world.gets("b", &[]).await;
    world.seconds(10).await;
    assert_eq!(world.told().await, (true, 0));
    world.restart().await;
    world.say(&room_id, "two").await;
    world.gets("dead", &["one", "two"]).await;
    world.gets("b", &["two"]).await;
}

#[tokio::test]
async fn a_stop_does_not_wait_long() {
    let world = World::new().await;
    world.live("b");
    let room_id = world.room_with(&["b"]).await;
    world.answers("b", |_| Answer::Hangs);
    world.say(&room_id, "one").await;
    settle().await;
    let server = world.server.clone();
    let stopping = tokio::spawn(async move { server.stop().await });
    settle().await;
    assert!(!stopping.is_finished());
    world.seconds(3).await;
    assert!(stopping.is_finished());
}

#[tokio::test]
async fn after_a_long_silence_the_newest_events_of_each_room_come() {
    let world = World::new().await;
    world.live("b");
    let (busy, quiet) = (world.room_with(&["b"]).await, world.room_with(&["b"]).await);
    world.inbox.clear();
    world.answers("b", |_| Answer::Down);
    world.say(&quiet, "quiet 0").await;
    for number in 0..700 {
        world.say(&busy, &format!("busy {number}")).await;
    }
    for number in 1..50 {
        world.say(&quiet, &format!("quiet {number}")).await;
    }
    for _ in 0..20 {
        world.seconds(3_600).await;
    }
    assert_eq!(world.told().await, (true, 1));
    world.live("b");
    world.inbox.clear();
    world.server.client.sign_of_life(&server_name("b"));
    // It may have been tried just now.
    world.seconds(2).await;
    until("the newest come", || world.inbox.texts("b").len() >= 100).await;
    settle().await;
    world.say(&busy, "live again").await;
    settle().await;
    let of = |prefix: &str| {
        let mut texts = world.inbox.texts("b");
        texts.retain(|text| text.starts_with(prefix));
        texts
    };
    let expected = |prefix: &str, numbers: std::ops::Range<u32>| {
        numbers.map(|number| format!("{prefix} {number}")).collect::<Vec<_>>()
    };
    assert_eq!(of("busy"), expected("busy", 650..700));
    assert_eq!(of("quiet"), expected("quiet", 0..50));
    assert_eq!(world.inbox.texts("b").last().unwrap(), "live again");
    world.seconds(10).await;
    assert_eq!(world.told().await, (true, 0));
}

#[tokio::test]
async fn what_came_in_through_us_is_caught_up_with_too() {
    let mut world = World::new().await;
    ["b", "c"].iter().for_each(|name| world.live(name));
    let room_id = world.room_with(&["b"]).await;
    world.answers("b", |_| Answer::Down);
    join_from(&world.server, &room_id, "@user:c").await;
    world.kill().await;
    settle().await;
    world.inbox.clear();
    world.live("b");
    world.seconds(10).await;
    // The first join, b's own, is not for b.
    world.gets("b", &["member"]).await;
    let kept = async |world: &World| world.server.log.facts(PASSED_ON, &[], None, 100).await.unwrap().len();
    assert_eq!(kept(&world).await, 2);
    // Once all have got it, it need not be known any more.
    for text in ["one", "two", "three"] {
        world.say(&room_id, text).await;
        world.seconds(10).await;
    }
    assert_eq!(kept(&world).await, 0);
    world.gets("b", &["member", "one", "two", "three"]).await;
}

#[tokio::test]
async fn a_server_is_not_told_of_what_was_sent_while_it_was_not_there() {
    let mut world = World::new().await;
    ["b", "c"].iter().for_each(|name| world.live(name));
    let room_id = world.room_with(&["b"]).await;
    world.seconds(10).await;
    // Both lag behind from here on.
    ["b", "c"].iter().for_each(|name| world.answers(name, |_| Answer::Down));
    world.say(&room_id, "before").await;
    join_from(&world.server, &room_id, "@user:c").await;
    world.say(&room_id, "while").await;
    let change = MembershipChange { target: user_id("@user:c"), membership: Membership::Leave, content: object("{}") };
    world.server.rooms.change_membership(&room_id, &user_id("@alice:a"), change).await.unwrap();
    world.say(&room_id, "after").await;
    for _ in 0..20 {
        world.seconds(3_600).await;
    }
    world.restart().await;
    settle().await;
    world.inbox.clear();
    ["b", "c"].iter().for_each(|name| world.live(name));
    world.seconds(7_200).await;
    world.gets("b", &["before", "member", "while", "member", "after"]).await;
    world.gets("c", &["while", "member"]).await;
}
