//! A room of alice's at `a` that names `p` as its policy server, with bob of `b` in it.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use ravel_core::{
    canonical_json::{JsonMode, get_object, get_str, parse_object},
    event::{Membership, event_type},
    id::{EventId, KeyId, RoomId},
    pdu::{POLICY_KEY_ID, PolicyServer, VerifiedPdu},
    room::{Arrival, Check, Outcome, Room},
    room_version::RoomVersion,
    signing::{SigningKey, encode_base64, sign_event},
};
use ravel_store::MemoryStore;
use serde_json::{Value, json};

use super::{PolicyError, WAIT_MAX};
use crate::{
    accounts::{Registration, Role},
    homeserver::Homeserver,
    rooms::{CreateRoom, Incoming, MembershipChange, Page, Preset, Received, RoomsError, SendEvent, tests::wanted},
    testing::{
        Answer, ManualClock, TestNetwork, create_room, foreign_event, foreign_event_with, join_from, object,
        open_server, server_name, settle, until, user_id,
    },
};

const ALICE: &str = "@alice:a";
const BOB: &str = "@bob:b";
const BOT: &str = "@bot:p";

const VERSION: RoomVersion = RoomVersion::V11;

/// What the policy server does.
#[derive(Clone, Debug)]
enum Policy {
    /// Signs by the key of this seed.
    Signs(u8),
    Answers(Answer),
    /// Signs events of this type, and answers nothing about others.
    SignsOnly(&'static str),
}

const SIGNS: Policy = Policy::Signs(1);
const REFUSAL: &str = r#"{"errcode":"M_FORBIDDEN","error":"spam"}"#;
const REFUSES: Policy = Policy::Answers(Answer::Status(403, REFUSAL));

struct Scene {
    server: Homeserver,
    room_id: RoomId,
    clock: Arc<ManualClock>,
    policy: Arc<Mutex<Policy>>,
    /// The events that the policy server was asked to sign.
    asked: Arc<Mutex<Vec<Value>>>,
}

fn policy_key(seed: u8) -> SigningKey {
    SigningKey::from_seed(KeyId::parse(POLICY_KEY_ID).unwrap(), &[seed; 32])
}

/// Returns the signature of the policy server.
fn signature(event: &[u8], seed: u8) -> String {
    let mut event = parse_object(event, JsonMode::ByteExact).unwrap();
    sign_event(&mut event, VERSION.rules(), &server_name("p"), &policy_key(seed)).unwrap();
    let of_server = get_object(get_object(&event, "signatures").unwrap(), "p").unwrap();
    get_str(of_server, POLICY_KEY_ID).unwrap().to_owned()
}

fn policy_content() -> String {
    let key = encode_base64(policy_key(1).verify_key().as_bytes());
    json!({ "via": "p", "public_keys": { "ed25519": key } }).to_string()
}

fn policy_server() -> PolicyServer {
    PolicyServer::of_content(&object(&policy_content())).unwrap()
}

fn state_event(event_type: &str, state_key: &str, content: &str) -> SendEvent {
    let (event_type, state_key) = (event_type.to_owned(), Some(state_key.to_owned()));
    SendEvent { event_type, state_key, content: object(content), redacts: None }
}

fn message(text: &str) -> SendEvent {
    let content = object(&json!({ "body": text }).to_string());
    SendEvent { event_type: "m.room.message".to_owned(), state_key: None, content, redacts: None }
}

impl Scene {
    /// The policy server has a user in the room.
    async fn new() -> Self {
        let scene = Self::without_policy_server().await;
        join_from(&scene.server, &scene.room_id, BOT).await;
        scene
    }

    async fn without_policy_server() -> Self {
        let (clock, network) = (Arc::new(ManualClock::default()), Arc::new(TestNetwork::default()));
        let (policy, asked) = (Arc::new(Mutex::new(SIGNS)), Arc::<Mutex<Vec<Value>>>::default());
        let (does, note) = (policy.clone(), asked.clone());
        network.set("p", move |request| {
            assert_eq!(request.uri().path(), "/_matrix/policy/v1/sign");
            note.lock().unwrap().push(serde_json::from_slice(request.body()).unwrap());
            let sign = |seed| Answer::Json(json!({ "p": { POLICY_KEY_ID: signature(request.body(), seed) } }));
            let event_type = || note.lock().unwrap().last().unwrap()["type"].clone();
            match does.lock().unwrap().clone() {
                Policy::Signs(seed) => sign(seed),
                Policy::SignsOnly(signed) if event_type() == signed => sign(1),
                Policy::SignsOnly(_) => Answer::Down,
                Policy::Answers(answer) => answer,
            }
        });
        let (server, _) = open_server("a", &MemoryStore::new(), clock.clone(), network).await;
        let room_id = create_room(&server, ALICE, VERSION).await;
        join_from(&server, &room_id, BOB).await;
        let powers = r#"{"users":{"@alice:a":100,"@bob:b":100}}"#;
        let scene = Self { server, room_id, clock, policy, asked };
        scene.send(state_event(event_type::POWER_LEVELS, "", powers)).await.unwrap();
        scene.send(state_event(event_type::POLICY, "", &policy_content())).await.unwrap();
        assert_eq!(scene.asked(), 0);
        scene
    }

    async fn send(&self, event: SendEvent) -> Result<EventId, RoomsError> {
        self.server.rooms.send(&self.room_id, &user_id(ALICE), event).await
    }

    /// Makes an event of bob's.
    async fn event(&self, event_type: &str, state_key: Option<&str>, content: &str) -> VerifiedPdu {
        foreign_event(&self.server, &self.room_id, BOB, event_type, state_key, content).await
    }

    async fn message(&self, text: &str) -> VerifiedPdu {
        self.event("m.room.message", None, &json!({ "body": text }).to_string()).await
    }

    async fn receive(&self, incoming: Incoming) -> Result<Received, RoomsError> {
        Ok(self.server.rooms.receive(&self.room_id, vec![incoming]).await?.remove(0))
    }

    async fn receive_new(&self, pdu: &VerifiedPdu) -> Received {
        self.receive(Incoming::new(pdu.clone())).await.unwrap()
    }

    /// Checks that an event is in the room and is not recommended.
    #[track_caller]
    fn is_not_recommended<'s>(&'s self, pdu: &'s VerifiedPdu) -> impl Future<Output = ()> + 's {
        let caller = std::panic::Location::caller();
        async move {
            let id = pdu.event_id();
            let look = |room: &Room| (room.outcome(id), room.reason(id).map(|reason| reason.check));
            let found = self.server.rooms.look(&self.room_id, look).await.unwrap();
            assert_eq!(found, (Some(Outcome::SoftFailed), Some(Check::PolicyServer)), "{caller}");
        }
    }

    /// Whether the policy server has signed an event as it is stored, and so sent to others.
    async fn is_stored_signed(&self, event_id: &EventId) -> bool {
        let json = self.server.rooms.pdus(&self.room_id, std::slice::from_ref(event_id)).await.unwrap().remove(0);
        policy_server().has_signed(&VerifiedPdu::restore(&json, VERSION.rules(), None, true).unwrap())
    }

    fn set(&self, policy: Policy) {
        *self.policy.lock().unwrap() = policy;
    }

    /// How often the policy server was asked.
    fn asked(&self) -> usize {
        self.asked.lock().unwrap().len()
    }

    async fn len(&self) -> usize {
        self.server.rooms.look(&self.room_id, Room::len).await.unwrap()
    }
}

#[tokio::test]
async fn sc_145_what_comes_unsigned_is_signed_or_soft_failed() {
    let scene = Scene::new().await;
    let good = scene.message("good").await;
    assert_eq!(scene.receive_new(&good).await, Received::Judged(Outcome::Accepted));
    assert!(scene.is_stored_signed(good.event_id()).await);
    // It gets the event as it is, and nothing that is no part of it.
    assert_eq!(scene.asked.lock().unwrap()[..], [serde_json::from_slice::<Value>(good.json()).unwrap()]);

    scene.set(REFUSES);
    let spam = scene.message("spam").await;
    assert_eq!(scene.receive_new(&spam).await, Received::Judged(Outcome::SoftFailed));
    scene.is_not_recommended(&spam).await;
    // What is known is not asked about again.
    assert_eq!(scene.receive_new(&spam).await, Received::Known(Outcome::SoftFailed));
    assert_eq!(scene.receive_new(&good).await, Received::Known(Outcome::Accepted));
    assert_eq!(scene.asked(), 2);
    // State is checked as well.
    let topic = scene.event("m.room.topic", Some(""), r#"{"topic":"spam"}"#).await;
    assert_eq!(scene.receive_new(&topic).await, Received::Judged(Outcome::SoftFailed));
    let topic = scene.server.rooms.state_content(&scene.room_id, "m.room.topic", "").await.unwrap();
    assert_eq!(topic, None);
}

#[tokio::test]
async fn sc_145_only_the_key_in_the_state_counts() {
    let scene = Scene::new().await;
    let signed = |pdu: &VerifiedPdu| policy_server().add_signature(pdu, &signature(pdu.json(), 1)).unwrap().unwrap();
    let good = signed(&scene.message("good").await);
    assert_eq!(scene.receive_new(&good).await, Received::Judged(Outcome::Accepted));
    assert_eq!(scene.asked(), 0);

    // By another key, it is asked for a new one: "the Policy Server's key may have rotated".
    let other = PolicyServer { key: Some(policy_key(2).verify_key()), ..policy_server() };
    let old = scene.message("old").await;
    let old = other.add_signature(&old, &signature(old.json(), 2)).unwrap().unwrap();
    assert_eq!(scene.receive_new(&old).await, Received::Judged(Outcome::Accepted));
    assert_eq!(scene.asked(), 1);
    assert!(scene.is_stored_signed(old.event_id()).await);

    let answers = [
        Policy::Signs(2),
        Policy::Answers(Answer::Status(200, "{}")),
        Policy::Answers(Answer::Status(200, r#"{"p":{"ed25519:policy_server":"AA"}}"#)),
        Policy::Answers(Answer::Status(200, r#"{"p":{"ed25519:1":"AA"},"b":{"ed25519:policy_server":"AA"}}"#)),
        Policy::Answers(Answer::Status(200, "no JSON")),
        Policy::Answers(Answer::Json(json!("x".repeat(1 << 20)))),
    ];
    for (number, answer) in answers.into_iter().enumerate() {
        scene.set(answer);
        let pdu = scene.message(&number.to_string()).await;
        assert_eq!(scene.receive_new(&pdu).await, Received::Judged(Outcome::SoftFailed));
        scene.is_not_recommended(&pdu).await;
    }
    assert_eq!(scene.asked(), 7);
}

#[tokio::test]
async fn sc_145_a_policy_server_that_is_away_stops_nothing() {
    let scene = Scene::new().await;
    scene.set(Policy::Answers(Answer::Hangs));
    let pdus = [scene.message("one").await, scene.message("two").await];
    let incoming = pdus.iter().cloned().map(Incoming::new).collect();
    let (rooms, room_id) = (scene.server.rooms.clone(), scene.room_id.clone());
    let receiving = tokio::spawn(async move { rooms.receive(&room_id, incoming).await.unwrap() });
    until("it is asked about both at once", || scene.asked() == 2).await;
    // Others go on with the room meanwhile; who has the power for it can have it use none.
    scene.send(state_event(event_type::POLICY, "", "{}")).await.unwrap();
    scene.send(message("without")).await.unwrap();
    assert!(!receiving.is_finished());
    scene.clock.advance(WAIT_MAX);
    assert_eq!(receiving.await.unwrap(), [const { Received::Judged(Outcome::SoftFailed) }; 2]);
    for pdu in &pdus {
        scene.is_not_recommended(pdu).await;
    }
    assert_eq!(scene.receive_new(&scene.message("free").await).await, Received::Judged(Outcome::Accepted));
}

#[tokio::test]
async fn sc_145_one_that_does_not_answer_is_not_asked_about_each_event() {
    let scene = Scene::new().await;
    scene.set(Policy::Answers(Answer::Down));
    for text in ["one", "two", "three"] {
        let pdu = scene.message(text).await;
        assert_eq!(scene.receive_new(&pdu).await, Received::Judged(Outcome::SoftFailed));
        scene.is_not_recommended(&pdu).await;
    }
    assert_eq!(scene.asked(), 1);
}

#[tokio::test]
async fn sc_145_a_server_that_has_not_joined_is_no_policy_server() {
    let scene = Scene::without_policy_server().await;
    scene.set(REFUSES);
    assert_eq!(scene.receive_new(&scene.message("one").await).await, Received::Judged(Outcome::Accepted));
    scene.send(message("two")).await.unwrap();
    // An invite is not enough.
    let invite = MembershipChange { target: user_id(BOT), membership: Membership::Invite, content: object("{}") };
    scene.server.rooms.change_membership(&scene.room_id, &user_id(ALICE), invite).await.unwrap();
    scene.send(message("three")).await.unwrap();
    assert_eq!(scene.asked(), 0);
}

#[tokio::test]
async fn who_is_the_policy_server_follows_from_the_events_before() {
    let scene = Scene::without_policy_server().await;
    let member = |membership: &str| format!(r#"{{"membership":"{membership}"}}"#);
    let join = foreign_event(&scene.server, &scene.room_id, BOT, event_type::MEMBER, Some(BOT), &member("join")).await;
    let after = |pdu: &VerifiedPdu, sender: &'static str, event: (&'static str, Option<&'static str>, String)| {
        let prev = pdu.event_id().to_string();
        let scene = &scene;
        async move {
            let (event_type, state_key, content) = event;
            let made = (event_type, state_key, content.as_str());
            foreign_event_with(&scene.server, &scene.room_id, sender, made, |event| {
                event.insert("prev_events".into(), vec![prev.as_str().into()].into());
            })
            .await
        }
    };
    let body = || ("m.room.message", None, r#"{"body":"x"}"#.to_owned());
    let asked = after(&join, BOB, body()).await;
    let off = after(&asked, BOB, (event_type::POLICY, Some(""), "{}".to_owned())).await;
    let free = after(&off, BOB, body()).await;
    let on = after(&free, BOB, (event_type::POLICY, Some(""), policy_content())).await;
    let again = after(&on, BOB, body()).await;
    let incoming = [&join, &asked, &off, &free, &on, &again].map(|pdu| Incoming::new(pdu.clone())).to_vec();
    let received = scene.server.rooms.receive(&scene.room_id, incoming).await.unwrap();
    assert_eq!(received, [const { Received::Judged(Outcome::Accepted) }; 6]);
    let wanted = [&asked, &again].map(|pdu| serde_json::from_slice::<Value>(pdu.json()).unwrap());
    assert_eq!(scene.asked.lock().unwrap()[..], wanted);
}

#[tokio::test]
async fn sc_145_history_is_checked_too() {
    let scene = Scene::new().await;
    let history = |pdu: &VerifiedPdu| Incoming { arrival: Some(Arrival::History), ..Incoming::new(pdu.clone()) };
    let (first, second) = (scene.message("first").await, scene.message("second").await);
    scene.set(REFUSES);
    assert_eq!(scene.receive(history(&first)).await.unwrap(), Received::Judged(Outcome::SoftFailed));
    scene.is_not_recommended(&first).await;
    // It is there for later what can't be told now.
    let limited = Answer::Status(429, r#"{"errcode":"M_LIMIT_EXCEEDED","retry_after_ms":1000}"#);
    for answer in [limited, Answer::Down] {
        scene.set(Policy::Answers(answer));
        let len = scene.len().await;
        let refused = scene.receive(history(&second)).await;
        assert!(matches!(refused, Err(RoomsError::Policy(PolicyError::Away(_)))), "{refused:?}");
        assert_eq!(scene.len().await, len);
        scene.clock.advance(Duration::from_secs(3600));
    }
    scene.set(SIGNS);
    assert_eq!(scene.receive(history(&second)).await.unwrap(), Received::Judged(Outcome::Accepted));
}

#[tokio::test]
async fn history_goes_on_behind_what_is_not_recommended() {
    let scene = Scene::new().await;
    let state = scene.server.rooms.look(&scene.room_id, |room| room.current_state().to_map().into_values().collect());
    let state: Vec<EventId> = state.await.unwrap();
    let made = ("m.room.message", None, r#"{"body":"spam"}"#);
    let spam = foreign_event_with(&scene.server, &scene.room_id, BOB, made, |event| {
        event.insert("prev_events".into(), vec!["$elsewhere".into()].into());
    });
    let spam = spam.await;
    scene.set(REFUSES);
    let incoming = Incoming { pdu: spam.clone(), arrival: Some(Arrival::History), given_state: Some(state) };
    assert_eq!(scene.receive(incoming).await.unwrap(), Received::Judged(Outcome::SoftFailed));
    scene.set(SIGNS);
    let made = ("m.room.message", None, r#"{"body":"good"}"#);
    let good = foreign_event_with(&scene.server, &scene.room_id, BOB, made, |event| {
        event.insert("prev_events".into(), vec![spam.event_id().as_str().into()].into());
    });
    assert_eq!(scene.receive_new(&good.await).await, Received::Judged(Outcome::Accepted));
    let page = Page { from: None, backward: true, limit: 10 };
    let ends = scene.server.rooms.history_ends(&scene.room_id, page).await.unwrap();
    assert_eq!(ends, [spam.event_id().clone()]);
}

#[tokio::test]
async fn sc_145_what_is_not_to_be_signed_is_not_asked_about() {
    let scene = Scene::new().await;
    scene.set(REFUSES);
    let other_key = scene.event(event_type::POLICY, Some("x"), &policy_content()).await;
    assert_eq!(scene.receive_new(&other_key).await, Received::Judged(Outcome::SoftFailed));
    let no_state = scene.event(event_type::POLICY, None, &policy_content()).await;
    assert_eq!(scene.receive_new(&no_state).await, Received::Judged(Outcome::SoftFailed));
    assert_eq!(scene.asked(), 2);
    let outlier = Incoming::outlier(scene.message("of a state").await);
    assert_eq!(scene.receive(outlier).await.unwrap(), Received::Judged(Outcome::Accepted));
    let policy = scene.event(event_type::POLICY, Some(""), r#"{"via":"p"}"#).await;
    assert_eq!(scene.receive_new(&policy).await, Received::Judged(Outcome::Accepted));
    // Without a key it names no policy server.
    assert_eq!(scene.receive_new(&scene.message("free").await).await, Received::Judged(Outcome::Accepted));
    assert_eq!(scene.asked(), 2);
}

#[tokio::test]
async fn sc_145_what_is_sent_is_signed_or_not_sent() {
    let scene = Scene::new().await;
    let rooms = &scene.server.rooms;
    let said = scene.send(message("good")).await.unwrap();
    let named = scene.send(state_event("m.room.name", "", r#"{"name":"a room"}"#)).await.unwrap();
    let redaction = SendEvent { redacts: Some(said.clone()), event_type: "m.room.redaction".into(), ..message("") };
    let redacted = scene.send(redaction.clone()).await.unwrap();
    let change_membership = async |target, membership| {
        let change = MembershipChange { target: user_id(target), membership, content: object("{}") };
        rooms.change_membership(&scene.room_id, &user_id(ALICE), change).await
    };
    let invited = change_membership("@carol:a", Membership::Invite).await.unwrap();
    for event_id in [&named, &redacted, &invited] {
        assert!(scene.is_stored_signed(event_id).await);
    }
    assert_eq!(scene.asked(), 4);
    assert!(matches!(change_membership("@dave:a", Membership::Leave).await, Err(RoomsError::NoChange)));

    let len = scene.len().await;
    let join = async |reason: &str| {
        let content = json!({ "membership": "join", "reason": reason }).to_string();
        let eve = "@eve:e";
        foreign_event(&scene.server, &scene.room_id, eve, event_type::MEMBER, Some(eve), &content).await
    };
    let limited = Answer::Status(429, r#"{"errcode":"M_LIMIT_EXCEEDED","retry_after_ms":1000}"#);
    for (answer, is_final) in [
        (REFUSES, true),
        (Policy::Signs(2), true),
        (Policy::Answers(limited), false),
        (Policy::Answers(Answer::Down), false),
    ] {
        scene.set(answer.clone());
        // Other events than before.
        scene.clock.advance(Duration::from_millis(1));
        let foreign = rooms.take_foreign(&scene.room_id, join(&format!("{answer:?}")).await).await.map(drop);
        let results = [
            scene.send(message("spam")).await.map(drop),
            scene.send(redaction.clone()).await.map(drop),
            change_membership("@dave:a", Membership::Invite).await.map(drop),
            foreign,
        ];
        for result in results {
            let Err(RoomsError::Policy(error)) = &result else { panic!("{answer:?}: {result:?}") };
            assert_eq!(!matches!(error, PolicyError::Away(_)), is_final, "{answer:?}: {error}");
        }
        assert_eq!(scene.len().await, len, "nothing is stored");
    }
    scene.set(REFUSES);
    let Err(RoomsError::Policy(PolicyError::Refused(refusal))) = scene.send(message("spam")).await else {
        panic!("it is refused")
    };
    assert_eq!(refusal.errcode.as_deref(), Some("M_FORBIDDEN"));
    // What the rules refuse is not asked about.
    let asked = scene.asked();
    let stranger = rooms.send(&scene.room_id, &user_id("@mallory:a"), message("spam")).await;
    assert!(matches!(stranger, Err(RoomsError::Refused(_))));
    assert_eq!(scene.asked(), asked);
    // As a resident, this server hands out what was signed.
    scene.set(SIGNS);
    let joined = rooms.take_foreign(&scene.room_id, join("good").await).await.unwrap();
    assert!(policy_server().has_signed(&joined) && scene.is_stored_signed(joined.event_id()).await);
    // The event that names the policy server needs no signature.
    scene.set(REFUSES);
    scene.send(state_event(event_type::POLICY, "", "{}")).await.unwrap();
    scene.send(message("free")).await.unwrap();
}

#[tokio::test]
async fn sc_145_guests_leave_with_the_signature_of_the_policy_server() {
    let scene = Scene::new().await;
    let rooms = &scene.server.rooms;
    let set_access = async |access: &str| {
        let content = json!({ "guest_access": access }).to_string();
        scene.send(state_event("m.room.guest_access", "", &content)).await.unwrap();
    };
    set_access("can_join").await;
    let mut guests = Vec::new();
    for _ in 0..2 {
        let guest = Registration { username: None, password: None, role: Role::Guest, device: None };
        let guest = scene.server.accounts.register(guest).await.unwrap().user_id;
        let join = MembershipChange { target: guest.clone(), membership: Membership::Join, content: object("{}") };
        rooms.change_membership(&scene.room_id, &guest, join).await.unwrap();
        guests.push(guest);
    }
    let memberships = async || {
        let memberships = guests.iter().map(|guest| rooms.membership(&scene.room_id, guest));
        futures_util::future::try_join_all(memberships).await.unwrap()
    };
    let asked = scene.asked();
    scene.set(Policy::SignsOnly("m.room.guest_access"));
    set_access("forbidden").await;
    until("it is asked about both leaves", || scene.asked() == asked + 3).await;
    settle().await;
    assert_eq!(memberships().await, [Some(Membership::Join); 2]);
    scene.set(SIGNS);
    scene.clock.advance(Duration::from_secs(30));
    until("it is asked again", || scene.asked() == asked + 5).await;
    settle().await;
    assert_eq!(memberships().await, [Some(Membership::Leave); 2]);
    for guest in &guests {
        let of_guest = |room: &Room| room.current_state().get(event_type::MEMBER, guest.as_str());
        let leave = rooms.look(&scene.room_id, of_guest).await.unwrap().unwrap();
        assert!(scene.is_stored_signed(&leave).await);
    }
}

#[tokio::test]
async fn sc_145_a_room_is_made_with_the_signatures_that_it_asks_for() {
    let scene = Scene::new().await;
    let rooms = &scene.server.rooms;
    let create = async |via: &str, name: Option<&str>| {
        let policy = policy_content().replace(r#""p""#, &format!(r#""{via}""#));
        let initial_state = vec![state_event(event_type::POLICY, "", &policy)];
        let name = name.map(str::to_owned);
        let wanted = CreateRoom { initial_state, name, ..wanted(VERSION, Preset::PublicChat) };
        rooms.create(&user_id(ALICE), wanted).await
    };
    let known = scene.server.log.rooms().len();
    // The one that signs nothing is in the room from the beginning.
    let refused = create("a", Some("a name")).await;
    assert!(matches!(refused, Err(RoomsError::Policy(PolicyError::Unsigned))), "{refused:?}");
    assert_eq!(scene.server.log.rooms().len(), known);
    create("a", None).await.unwrap();
    // The other one is none as long as none of its users has joined.
    create("p", Some("a name")).await.unwrap();
    assert_eq!(scene.asked(), 0);
}

#[tokio::test]
async fn sc_145_sending_does_not_wait_for_ever() {
    let scene = Scene::new().await;
    scene.set(Policy::Answers(Answer::Hangs));
    let (rooms, room_id) = (scene.server.rooms.clone(), scene.room_id.clone());
    let sending = tokio::spawn(async move { rooms.send(&room_id, &user_id(ALICE), message("hello")).await });
    until("it is asked", || scene.asked() == 1).await;
    scene.clock.advance(WAIT_MAX - Duration::from_millis(1));
    settle().await;
    assert!(!sending.is_finished());
    scene.clock.advance(Duration::from_millis(1));
    assert!(matches!(sending.await.unwrap(), Err(RoomsError::Policy(PolicyError::Away(_)))));
}

#[tokio::test]
async fn a_room_whose_policy_server_is_never_asked_takes_nothing() {
    let scene = Scene::new().await;
    join_from(&scene.server, &scene.room_id, "@mallory:evil").await;
    assert_eq!(scene.asked(), 1);
    // This server is none, and the other one is denied.
    for via in ["a", "evil"] {
        let content = policy_content().replace(r#""p""#, &format!(r#""{via}""#));
        scene.send(state_event(event_type::POLICY, "", &content)).await.unwrap();
        let refused = scene.send(message("hello")).await;
        assert!(matches!(refused, Err(RoomsError::Policy(PolicyError::Unsigned))), "{via}: {refused:?}");
    }
    scene.send(state_event(event_type::POLICY, "", "{}")).await.unwrap();
    scene.send(message("hello")).await.unwrap();
    assert_eq!(scene.asked(), 1);
}
