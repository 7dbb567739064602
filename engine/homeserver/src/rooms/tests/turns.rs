//! Many who write to one room while others read it.

use std::sync::Mutex;

use ravel_store::{Operation, faulty::FaultyStore};

use super::*;
use crate::testing::until;

/// How many write, and how many read.
const EACH: usize = 1_000;

/// How many write before anybody reads.
const EARLY: usize = 3;

/// Who has had its turn, in order: numbers of those who write, and of those who read.
type Served = Arc<Mutex<Vec<(usize, &'static str)>>>;

/// Counts how often a future is asked whether it is ready.
async fn counted<T>(future: impl Future<Output = T>) -> (T, usize) {
    let (mut future, mut polls) = (Box::pin(future), 0);
    std::future::poll_fn(move |context| {
        polls += 1;
        future.as_mut().poll(context).map(|output| (output, polls))
    })
    .await
}

/// Each waits for those who came before it and for nobody else, and does nothing until then.
#[tokio::test]
async fn sc_212_who_writes_and_who_reads_has_its_turn_in_the_order_of_coming() {
    let store = Arc::new(FaultyStore::new(MemoryStore::new()));
    let rooms = open_on(store.clone()).await;
    let room_id = rooms.create(&user("alice"), wanted(RoomVersion::V11, Preset::PublicChat)).await.unwrap();
    let commits = store.hold(Operation::Commit);
    let served = Served::default();
    let queued = |served: &Served| served.lock().unwrap().len();
    let (mut writing, mut reading) = (Vec::new(), Vec::new());
    for number in 0..EACH {
        let (of_writer, of_room, note) = (rooms.clone(), room_id.clone(), served.clone());
        writing.push(tokio::spawn(async move {
            let content = object(r#"{"body":"hi","msgtype":"m.text"}"#);
            let event = SendEvent { event_type: "m.room.message".into(), state_key: None, content, redacts: None };
            let send = move |writing: &mut super::super::Writing<'_>| {
                note.lock().unwrap().push((number, "writes"));
                writing.send(&user("alice"), &event)
            };
            of_writer.write(of_room, Vec::new(), send).await.unwrap();
        }));
        yield_to_all().await;
        let (of_reader, of_room, note) = (rooms.clone(), room_id.clone(), served.clone());
        reading.push(tokio::spawn(counted(async move {
            let read = |_: &_| note.lock().unwrap().push((number, "reads"));
            of_reader.look(&of_room, read).await.unwrap();
        })));
        yield_to_all().await;
        assert_eq!(queued(&served), 1, "the first one's event is being stored, and all others wait for that");
    }
    for number in 0..EACH {
        commits.come(number + 1).await;
        // All who came before the one whose event is being stored have had their turn, and nobody else.
        assert_eq!(queued(&served), 2 * number + 1);
        commits.let_through(1);
    }
    for writer in writing {
        writer.await.unwrap();
    }
    for reader in reading {
        let ((), polls) = reader.await.unwrap();
        assert_eq!(polls, 2, "when it came, and when it was its turn");
    }
    let expected: Vec<_> = (0..EACH).flat_map(|number| [(number, "writes"), (number, "reads")]).collect();
    assert_eq!(*served.lock().unwrap(), expected);
}

/// As the requests of clients are: each looks at the room before it writes.
#[tokio::test]
async fn sc_212_reads_are_answered_before_what_is_written_later() {
    let store = Arc::new(FaultyStore::new(MemoryStore::new()));
    let rooms = open_on(store.clone()).await;
    let room_id = rooms.create(&user("alice"), wanted(RoomVersion::V11, Preset::PublicChat)).await.unwrap();
    let commits = store.hold(Operation::Commit);
    let send = |number: usize| {
        let (rooms, room_id) = (rooms.clone(), room_id.clone());
        tokio::spawn(async move { say(&rooms, &room_id, "alice", &number.to_string()).await.unwrap() })
    };
    // So few are in memory all.
    let early: Vec<_> = (0..EARLY).map(send).collect();
    commits.come(1).await;
    yield_to_all().await;
    let read = |_| {
        let (rooms, room_id) = (rooms.clone(), room_id.clone());
        tokio::spawn(async move { history(&rooms, &room_id, "alice").await })
    };
    let reading: Vec<_> = (0..EACH).map(read).collect();
    yield_to_all().await;
    let late: Vec<_> = (EARLY..EARLY + EACH).map(send).collect();
    yield_to_all().await;
    commits.let_through(early.len());
    until("what came before is answered", || reading.iter().all(tokio::task::JoinHandle::is_finished)).await;
    // None of what came later is stored.
    assert!(late.iter().all(|task| !task.is_finished()));
    for reader in reading {
        let seen = reader.await.unwrap();
        let numbers: Vec<usize> = seen.iter().filter_map(|text| text.parse().ok()).collect();
        assert_eq!(numbers, (0..EARLY).rev().collect::<Vec<_>>());
    }
    commits.let_through(late.len());
    for writer in late {
        writer.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn sc_212_a_thousand_write_to_a_room_while_others_read_it() {
    let rooms = open(&MemoryStore::new()).await;
    let room_id = rooms.create(&user("alice"), wanted(RoomVersion::V11, Preset::PublicChat)).await.unwrap();
    let (mut writing, mut reading) = (Vec::new(), Vec::new());
    for number in 0..EACH {
        let (of_writer, of_room) = (rooms.clone(), room_id.clone());
        writing.push(tokio::spawn(async move { say(&of_writer, &of_room, "alice", &number.to_string()).await }));
        let (of_reader, of_room) = (rooms.clone(), room_id.clone());
        let page = Page { from: None, backward: true, limit: 1 };
        reading.push(tokio::spawn(async move { of_reader.messages(&of_room, &user("alice"), page).await }));
    }
    for reader in reading {
        assert_eq!(reader.await.unwrap().unwrap().events.len(), 1);
    }
    let mut written = Vec::new();
    for writer in writing {
        written.push(writer.await.unwrap().unwrap());
    }
    let whole = rooms.log().load_room(&room_id).await.unwrap().unwrap();
    let messages = whole.events().filter(|(event, _)| &*event.event_type == "m.room.message");
    let mut there: Vec<EventId> = messages.map(|(event, _)| event.event_id.clone()).collect();
    there.sort_unstable();
    written.sort_unstable();
    assert_eq!(there, written);
}

/// Lets everybody come as far as they can.
async fn yield_to_all() {
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
}
