//! EDUs that a server refuses.

use super::*;

/// The number of the EDU that is refused, among so many.
const POISON: u64 = 70;
const EDUS: u64 = 150;

fn numbers(body: &Value) -> Vec<u64> {
    let edus = body["edus"].as_array().into_iter().flatten();
    edus.filter_map(|edu| edu["content"]["number"].as_u64()).collect()
}

#[tokio::test]
async fn sc_089_an_edu_that_a_server_refuses_takes_nothing_with_it() {
    for status in [400, 413] {
        let mut world = World::new().await;
        world.live("b");
        let room_id = world.room_with(&["b"]).await;
        world.answers("b", |_| Answer::Down);
        let mut said = Vec::new();
        for number in 0..EDUS {
            let edu = Edu::new("m.direct_to_device", &json!({ "number": number }), None).unwrap();
            world.server.send_edus_for_sure(vec![(server_name("b"), edu)]).await.unwrap();
            if number % 10 == 0 {
                said.push(number.to_string());
                world.say(&room_id, &number.to_string()).await;
            }
        }
        settle().await;
        let taken = Arc::new(Mutex::new((Vec::new(), Vec::new())));
        let takes = taken.clone();
        world.answers("b", move |body| {
            if numbers(body).contains(&POISON) {
                return Answer::Status(status, r#"{"errcode":"M_UNKNOWN"}"#);
            }
            let mut takes = takes.lock().unwrap();
            takes.0.extend(numbers(body));
            takes.1.extend(Arrived { id: String::new(), body: body.clone() }.texts());
            Answer::Status(200, "{}")
        });
        for _ in 0..60 {
            world.seconds(60).await;
        }
        let (taken_edus, taken_texts) = std::mem::take(&mut *taken.lock().unwrap());
        let expected: Vec<u64> = (0..EDUS).filter(|number| *number != POISON).collect();
        assert_eq!((taken_edus, taken_texts), (expected, said), "status {status}");
        // It is given up for good.
        world.inbox.clear();
        world.restart().await;
        assert!(world.server.log.facts(OUTGOING_EDU, &[], None, 10).await.unwrap().is_empty());
        world.say(&room_id, "last").await;
        world.gets("b", &["last"]).await;
        assert!(world.inbox.of("b").iter().all(|arrived| numbers(&arrived.body).is_empty()));
    }
}
