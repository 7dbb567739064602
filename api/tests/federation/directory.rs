//! Aliases, published rooms and spaces.

use serde_json::{Value, json};

use crate::{remote::Authority, server::Server};

/// Makes a user and a public room with an alias, and returns the room's id.
fn public_room(ravel: &Server, alias: &str, more: &Value) -> String {
    let body = json!({ "username": alias, "password": "secret", "auth": { "type": "m.login.dummy" } });
    let token = ravel.post("v3/register", None, &body).ok()["access_token"].as_str().unwrap().to_owned();
    let mut wanted = json!({
        "preset": "public_chat", "visibility": "public", "room_alias_name": alias, "name": alias, "room_version": "11",
    });
    wanted.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    ravel.post("v3/createRoom", Some(&token), &wanted).ok()["room_id"].as_str().unwrap().to_owned()
}

#[test]
fn aliases_are_looked_up() {
    let authority = Authority::new();
    let (ravel, remote) = (authority.ravel(), authority.remote());
    let room_id = public_room(&ravel, "talk", &json!({}));
    let look_up = |alias: &str| remote.get(&ravel, &format!("v1/query/directory?room_alias=%23{alias}"));
    assert_eq!(look_up("talk:example.org").ok(), json!({ "room_id": room_id, "servers": ["example.org"] }));
    look_up("silence:example.org").fails(404, "M_NOT_FOUND");
    look_up("talk:other.org").fails(404, "M_NOT_FOUND");
    remote.get(&ravel, "v1/query/directory").fails(400, "M_MISSING_PARAM");
    remote.get(&ravel, "v1/query/directory?room_alias=talk").fails(400, "M_INVALID_PARAM");
}

#[test]
fn published_rooms_are_for_other_servers_if_that_is_configured() {
    let authority = Authority::new();
    let remote = authority.remote();
    let closed = authority.ravel();
    remote.get(&closed, "v1/publicRooms").fails(403, "M_FORBIDDEN");
    remote.post(&closed, "v1/publicRooms", &json!({})).fails(403, "M_FORBIDDEN");
    let ravel = authority.ravel_with(&[("RAVEL_ROOMS__PUBLIC_DIRECTORY_OVER_FEDERATION", "true")]);
    public_room(&ravel, "talk", &json!({}));
    public_room(&ravel, "games", &json!({}));
    let at_home = json!({ "creation_content": { "m.federate": false } });
    public_room(&ravel, "home", &at_home);
    let names = |list: &Value| {
        let names = list["chunk"].as_array().unwrap().iter().map(|room| room["name"].as_str().unwrap().to_owned());
        names.collect::<std::collections::BTreeSet<String>>()
    };
    let all = remote.get(&ravel, "v1/publicRooms").ok();
    assert_eq!(names(&all), ["games".to_owned(), "talk".to_owned()].into());
    assert_eq!(all["total_room_count_estimate"], 2);
    let first = remote.get(&ravel, "v1/publicRooms?limit=1").ok();
    let next = first["next_batch"].as_str().unwrap();
    let second = remote.get(&ravel, &format!("v1/publicRooms?limit=1&since={next}")).ok();
    assert_eq!(names(&first).union(&names(&second)).count(), 2);
    assert_eq!(remote.get(&ravel, "v1/publicRooms?limit=0").ok()["chunk"].as_array().unwrap().len(), 2, "no limit");
    let found = remote.post(&ravel, "v1/publicRooms", &json!({ "filter": { "generic_search_term": "GAME" } })).ok();
    assert_eq!(names(&found), ["games".to_owned()].into());
}

#[test]
fn spaces_are_told_of() {
    let authority = Authority::new();
    let (ravel, remote) = (authority.ravel(), authority.remote());
    let child = public_room(&ravel, "talk", &json!({}));
    let space = json!({
        "creation_content": { "type": "m.space" },
        "initial_state": [{ "type": "m.space.child", "state_key": child, "content": { "via": ["example.org"] } }],
    });
    let space = public_room(&ravel, "space", &space);
    let found = remote.get(&ravel, &format!("v1/hierarchy/{space}")).ok();
    assert_eq!((&found["room"]["room_id"], &found["room"]["room_type"]), (&json!(space), &json!("m.space")));
    assert_eq!(found["room"]["children_state"][0]["state_key"], child);
    assert_eq!((&found["children"][0]["room_id"], &found["children"][0]["name"]), (&json!(child), &json!("talk")));
    assert_eq!(found["inaccessible_children"], json!([]));
    let suggested = remote.get(&ravel, &format!("v1/hierarchy/{space}?suggested_only=true")).ok();
    assert_eq!((&suggested["children"], &suggested["room"]["children_state"]), (&json!([]), &json!([])));
    remote.get(&ravel, "v1/hierarchy/!nowhere:example.org").fails(404, "M_NOT_FOUND");
}
