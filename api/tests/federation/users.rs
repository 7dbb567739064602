//! What other servers are told about users.

use serde_json::json;

use crate::remote::Authority;

#[test]
fn sc_108_only_users_of_this_server_are_told_of() {
    let authority = Authority::new();
    let (ravel, remote) = (authority.ravel(), authority.remote());
    let body = json!({ "username": "alice", "password": "secret", "auth": { "type": "m.login.dummy" } });
    let token = ravel.post("v3/register", None, &body).ok()["access_token"].as_str().unwrap().to_owned();
    let name = json!({ "displayname": "Alice" }).to_string();
    ravel.ask("PUT", "v3/profile/@alice:example.org/displayname", Some(&token), name.as_bytes()).ok();

    let profile = |user: &str, field: &str| remote.get(&ravel, &format!("v1/query/profile?user_id={user}{field}"));
    assert_eq!(profile("@alice:example.org", "").ok(), json!({ "displayname": "Alice" }));
    assert_eq!(profile("@alice:example.org", "&field=displayname").ok(), json!({ "displayname": "Alice" }));
    assert_eq!(profile("@alice:example.org", "&field=avatar_url").ok(), json!({}));
    profile("@nobody:example.org", "").fails(404, "M_NOT_FOUND");
    profile("@alice:other.org", "").fails(400, "M_INVALID_PARAM");
    remote.get(&ravel, "v1/query/profile").fails(400, "M_MISSING_PARAM");
    remote.get(&ravel, "v1/query/weather").fails(404, "M_NOT_FOUND");

    let devices = |user: &str| remote.get(&ravel, &format!("v1/user/devices/{user}"));
    let none = json!({ "user_id": "@alice:example.org", "stream_id": 0, "devices": [] });
    assert_eq!(devices("@alice:example.org").ok(), none);
    devices("@nobody:example.org").fails(404, "M_NOT_FOUND");
    devices("@alice:other.org").fails(400, "M_INVALID_PARAM");

    let query = |user: &str| remote.post(&ravel, "v1/user/keys/query", &json!({ "device_keys": { user: [] } }));
    assert_eq!(query("@alice:example.org").ok(), json!({ "device_keys": { "@alice:example.org": {} } }));
    query("@alice:other.org").fails(400, "M_INVALID_PARAM");
    let claim = |user: &str| {
        let claims = json!({ "one_time_keys": { user: { "DEVICE": "signed_curve25519" } } });
        remote.post(&ravel, "v1/user/keys/claim", &claims)
    };
    assert_eq!(claim("@alice:example.org").ok(), json!({ "one_time_keys": {} }));
    claim("@alice:other.org").fails(400, "M_INVALID_PARAM");
}

#[test]
fn what_is_not_there_is_not_found() {
    let authority = Authority::new();
    let (ravel, remote) = (authority.ravel(), authority.remote());
    remote.get(&ravel, "v1/media/download/abc").fails(404, "M_NOT_FOUND");
    remote.get(&ravel, "v1/media/thumbnail/abc?width=10&height=10").fails(404, "M_NOT_FOUND");
    let userinfo = |query: &str| ravel.ask("GET", &format!("/_matrix/federation/v1/openid/userinfo{query}"), None, b"");
    userinfo("?access_token=abc").fails(401, "M_UNKNOWN_TOKEN");
    // "This endpoint is otherwise optional": who has it is a policy server.
    remote.post(&ravel, "/_matrix/policy/v1/sign", &json!({})).fails(404, "M_UNRECOGNIZED");
}
