//! Messages that clients send again.

use ravel_store::{
    Operation,
    faulty::{Fault, FaultyStore},
};

use super::*;
use crate::{
    accounts::{NewDevice, Registration, Role},
    rooms::{Transaction, transactions::TRANSACTIONS_MAX},
};

fn transaction(device: &str, path: &str, id: &str) -> Transaction {
    Transaction { device_id: device.to_owned(), path: path.to_owned(), transaction_id: id.to_owned() }
}

/// Says something as alice.
async fn once(rooms: &Rooms, room_id: &RoomId, transaction: &Transaction) -> Result<EventId, RoomsError> {
    let (event_type, content) = ("m.room.message".to_owned(), object(r#"{"body":"hi"}"#));
    let event = SendEvent { event_type, state_key: None, content, redacts: None };
    rooms.send_once(room_id, &user("alice"), transaction, event).await
}

async fn messages(rooms: &Rooms, room_id: &RoomId) -> usize {
    history(rooms, room_id, "alice").await.iter().filter(|told| *told == "hi").count()
}

async fn room_of(rooms: &Rooms) -> RoomId {
    rooms.create(&user("alice"), wanted(RoomVersion::V11, Preset::PublicChat)).await.unwrap()
}

#[tokio::test]
async fn what_is_sent_again_after_a_restart_is_there_once() {
    let store = MemoryStore::new();
    let rooms = open(&store).await;
    let room_id = room_of(&rooms).await;
    let first = transaction("D", "room type", "1");
    let sent = once(&rooms, &room_id, &first).await.unwrap();
    assert_eq!(once(&rooms, &room_id, &first).await.unwrap(), sent);
    let rooms = open(&store).await;
    assert_eq!(once(&rooms, &room_id, &first).await.unwrap(), sent);
    assert_eq!(messages(&rooms, &room_id).await, 1);
    // The same id in another scope is another transaction.
    let others = [("E", "room type", "1"), ("D", "room other", "1"), ("D", "room type", "2"), ("D", "room type1", "")];
    for (device, path, id) in others {
        assert_ne!(once(&rooms, &room_id, &transaction(device, path, id)).await.unwrap(), sent);
    }
    let event = SendEvent { event_type: "x".to_owned(), state_key: None, content: object("{}"), redacts: None };
    member(&rooms, &room_id, "bob", "bob", Membership::Join).await.unwrap();
    assert_ne!(rooms.send_once(&room_id, &user("bob"), &first, event).await.unwrap(), sent);
}

#[tokio::test]
async fn what_comes_again_while_it_runs_waits_for_it() {
    let rooms = open(&MemoryStore::new()).await;
    let room_id = room_of(&rooms).await;
    let first = transaction("D", "room type", "1");
    let sent = futures_util::future::join_all((0..5).map(|_| once(&rooms, &room_id, &first))).await;
    let sent: std::collections::BTreeSet<EventId> = sent.into_iter().map(Result::unwrap).collect();
    assert_eq!((sent.len(), messages(&rooms, &room_id).await), (1, 1));
    // What failed can be tried again.
    let refused = SendEvent { event_type: "m.room.create".to_owned(), ..event_of("x") };
    let second = transaction("D", "room type", "2");
    rooms.send_once(&room_id, &user("alice"), &second, refused).await.unwrap_err();
    once(&rooms, &room_id, &second).await.unwrap();
    assert_eq!(messages(&rooms, &room_id).await, 2);
}

fn event_of(event_type: &str) -> SendEvent {
    SendEvent { event_type: event_type.to_owned(), state_key: None, content: object("{}"), redacts: None }
}

#[tokio::test]
async fn a_message_and_its_transaction_are_stored_together() {
    let first = transaction("D", "room type", "1");
    for (fault, is_there) in [(Fault::Failed, 0), (Fault::DoneButFailed, 1)] {
        for restarts in [false, true] {
            let store = Arc::new(FaultyStore::new(MemoryStore::new()));
            let mut rooms = open_on(store.clone()).await;
            let room_id = room_of(&rooms).await;
            store.fail(Operation::Commit, 1, fault);
            once(&rooms, &room_id, &first).await.unwrap_err();
            assert_eq!(messages(&open(store.inner()).await, &room_id).await, is_there);
            if restarts {
                rooms = open(store.inner()).await;
            }
            once(&rooms, &room_id, &first).await.unwrap();
            assert_eq!(messages(&open(store.inner()).await, &room_id).await, 1, "{fault:?} {restarts}");
        }
    }
}

#[tokio::test]
async fn only_the_newest_are_kept() {
    let store = MemoryStore::new();
    let mut rooms = open(&store).await;
    let room_id = room_of(&rooms).await;
    let of = |number: usize| transaction("D", "room type", &number.to_string());
    let mut sent = Vec::new();
    for number in 0..TRANSACTIONS_MAX + 5 {
        sent.push(once(&rooms, &room_id, &of(number)).await.unwrap());
        if number == TRANSACTIONS_MAX / 2 {
            rooms = open(&store).await;
        }
    }
    let kept = rooms.log().facts(crate::fact_kind::TRANSACTION, b"", None, 1_000).await.unwrap();
    assert_eq!(kept.len(), TRANSACTIONS_MAX);
    for rooms in [&rooms, &open(&store).await] {
        assert_eq!(once(rooms, &room_id, &of(5)).await.unwrap(), sent[5]);
    }
    assert_ne!(once(&rooms, &room_id, &of(4)).await.unwrap(), sent[4]);
}

#[tokio::test]
async fn transactions_end_with_their_device() {
    let rooms = open(&MemoryStore::new()).await;
    let accounts = accounts_of(&rooms);
    let device = |id: &str| NewDevice { device_id: Some(id.into()), display_name: None };
    let (username, password) = (Some("alice".to_owned()), Some("secret".to_owned()));
    let alice = Registration { username, password, role: Role::User, device: Some(device("D")) };
    let login = accounts.register(alice).await.unwrap().login.unwrap();
    let room_id = room_of(&rooms).await;
    let [first, other] = ["D", "D2"].map(|device| transaction(device, "room type", "1"));
    let (sent, of_other) =
        (once(&rooms, &room_id, &first).await.unwrap(), once(&rooms, &room_id, &other).await.unwrap());
    let session = accounts.authenticate(&login.access_token).await.unwrap().unwrap();
    accounts.log_out(&session).await.unwrap();
    assert_ne!(once(&rooms, &room_id, &first).await.unwrap(), sent);
    assert_eq!(once(&rooms, &room_id, &other).await.unwrap(), of_other);
}
