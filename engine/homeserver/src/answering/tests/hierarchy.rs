//! Spaces, and what is told of their children to a server that is in some of them.

use ravel_core::{
    event::{Membership, event_type},
    id::RoomId,
    room_version::RoomVersion,
};

use super::{ALICE, TestServer};
use crate::{
    answering::{AnsweringError, Hierarchy},
    rooms::{CreateRoom, MembershipChange, Preset, SendEvent},
    testing::{object, server_name, user_id},
};

/// A server with rooms of alice's, which she names.
struct Rooms {
    server: TestServer,
}

impl Rooms {
    async fn new() -> Self {
        Self { server: TestServer::new(RoomVersion::V11, "shared").await }
    }

    /// Makes a room of a name with state events: type, state key and content.
    async fn room(&self, name: &str, creation_content: &str, state: &[(&str, &str, &str)]) -> RoomId {
        let state = state.iter().map(|(event_type, state_key, content)| SendEvent {
            event_type: (*event_type).to_owned(),
            state_key: Some((*state_key).to_owned()),
            content: object(content),
            redacts: None,
        });
        let wanted = CreateRoom {
            room_version: RoomVersion::V11,
            preset: Preset::PrivateChat,
            creation_content: object(creation_content),
            power_level_content_override: object("{}"),
            initial_state: state.collect(),
            name: Some(name.to_owned()),
            topic: None,
            invite: Vec::new(),
            is_direct: false,
            member_content: object("{}"),
        };
        self.server.homeserver.rooms.create(&user_id(ALICE), wanted).await.unwrap()
    }

    /// Makes a public space of these children: room and content.
    async fn space(&self, children: &[(&RoomId, &str)]) -> RoomId {
        let mut state = vec![("m.room.join_rules", "", r#"{"join_rule":"public"}"#)];
        state.extend(children.iter().map(|(room_id, content)| ("m.space.child", room_id.as_str(), *content)));
        self.room("space", r#"{"type":"m.space"}"#, &state).await
    }

    async fn hierarchy(&self, room_id: &RoomId, suggested_only: bool) -> Result<Hierarchy, AnsweringError> {
        self.server.homeserver.answer_hierarchy(&server_name("b"), room_id, suggested_only).await
    }
}

/// Returns the names of the children that are told of.
fn names(hierarchy: &Hierarchy) -> Vec<&str> {
    hierarchy.children.iter().map(|child| child.name.as_deref().unwrap()).collect()
}

const VIA: &str = r#"{"via":["a"]}"#;

#[tokio::test]
async fn sc_107_rooms_that_a_server_could_not_enter_are_not_told_of() {
    let rooms = Rooms::new().await;
    let homeserver = &rooms.server.homeserver;
    let joined = rooms.server.room_id.clone();
    let restricted = |to: &RoomId| {
        format!(r#"{{"join_rule":"restricted","allow":[{{"type":"m.room_membership","room_id":"{to}"}}]}}"#)
    };
    let rule = |rule: &str| format!(r#"{{"join_rule":"{rule}"}}"#);
    let room = async |name: &str, join_rules: &str, more: &[(&str, &str, &str)]| {
        let state = [&[(event_type::JOIN_RULES, "", join_rules)], more].concat();
        rooms.room(name, "{}", &state).await
    };
    let hidden = room("hidden", &rule("invite"), &[]).await;
    let readable = r#"{"history_visibility":"world_readable"}"#;
    let denied = r#"{"allow":["*"],"deny":["b"]}"#;
    let children = [
        room("public", &rule("public"), &[]).await,
        room("knock", &rule("knock"), &[]).await,
        room("readable", &rule("invite"), &[(event_type::HISTORY_VISIBILITY, "", readable)]).await,
        room("invited", &rule("invite"), &[]).await,
        room("restricted", &restricted(&joined), &[]).await,
        room("restricted to hidden", &restricted(&hidden), &[]).await,
        room("restricted to unknown", &restricted(&RoomId::parse("!x:y").unwrap()), &[]).await,
        room("denied", &rule("public"), &[("m.room.server_acl", "", denied)]).await,
        rooms.room("at home", r#"{"m.federate":false}"#, &[(event_type::JOIN_RULES, "", &rule("public"))]).await,
        hidden,
        RoomId::parse("!elsewhere:y").unwrap(),
    ];
    let ordered: Vec<String> =
        (0..children.len()).map(|number| format!(r#"{{"via":["a"],"order":"{number:02}"}}"#)).collect();
    let space: Vec<_> = children.iter().zip(ordered.iter().map(String::as_str)).collect();
    let space = rooms.space(&space).await;

    let change = MembershipChange { target: user_id("@bob:b"), membership: Membership::Invite, content: object("{}") };
    homeserver.rooms.change_membership(&children[3], &user_id(ALICE), change).await.unwrap();
    let found = rooms.hierarchy(&space, false).await.unwrap();
    assert_eq!(names(&found), ["public", "knock", "readable", "invited"]);
    assert_eq!(found.inaccessible_children, children[4..10]);
    assert_eq!(found.children_state.len(), children.len());

    rooms.server.join("@bob:b").await;
    let found = rooms.hierarchy(&space, false).await.unwrap();
    assert_eq!(names(&found), ["public", "knock", "readable", "invited", "restricted"]);
    assert_eq!(found.inaccessible_children, children[5..10]);

    // A room that can't be entered is as one that is not there.
    for room_id in [&children[9], &children[10]] {
        assert!(matches!(rooms.hierarchy(room_id, false).await, Err(AnsweringError::NoSuchRoom)));
    }
}

#[tokio::test]
async fn children_are_valid_and_in_order() {
    let rooms = Rooms::new().await;
    let id = |name: &str| RoomId::parse(&format!("!{name}:y")).unwrap();
    let [late, early, none, malformed, suggested] = ["z", "a", "none", "malformed", "suggested"].map(id);
    let children = [
        (&late, VIA),
        (&early, VIA),
        (&none, r#"{"via":[]}"#),
        (&malformed, r#"{"via":7}"#),
        (&suggested, r#"{"via":["a"],"order":"~","suggested":true}"#),
    ];
    let space = rooms.space(&children).await;
    let found = rooms.server.homeserver.rooms.space_children(&space).await.unwrap();
    let ids: Vec<_> = found.iter().map(|child| &child.room_id).collect();
    assert_eq!(ids, [&suggested, &early, &late]);
    let found = rooms.hierarchy(&space, true).await.unwrap();
    let event: serde_json::Value = serde_json::from_str(found.children_state[0].json().get()).unwrap();
    let expected = serde_json::json!({
        "type": "m.space.child",
        "state_key": "!suggested:y",
        "sender": ALICE,
        "origin_server_ts": 0,
        "content": { "via": ["a"], "order": "~", "suggested": true },
    });
    assert_eq!((event, found.children_state.len()), (expected, 1));
    // Only spaces have children.
    let public = (event_type::JOIN_RULES, "", r#"{"join_rule":"public"}"#);
    let room = rooms.room("no space", "{}", &[public, ("m.space.child", early.as_str(), VIA)]).await;
    assert_eq!(rooms.hierarchy(&room, false).await.unwrap().children_state.len(), 0);
}
