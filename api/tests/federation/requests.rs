//! Who may ask.

use serde_json::json;

use crate::remote::Authority;

/// Source: server-server API, "Request Authentication".
#[test]
fn requests_are_signed() {
    let authority = Authority::new();
    let (ravel, remote) = (authority.ravel(), authority.remote());
    let path = "/_matrix/federation/v1/query/profile?user_id=%40nobody%3Aexample.org";
    let get = |authorization: &str| ravel.ask_with("GET", path, authorization, b"");
    let signed = remote.authorization("GET", path, b"");
    get(&signed).fails(404, "M_NOT_FOUND");

    get("").fails(401, "M_UNAUTHORIZED");
    get("Authorization: Bearer abc\r\n").fails(401, "M_UNAUTHORIZED");
    get("Authorization: X-Matrix nonsense\r\n").fails(400, "M_UNAUTHORIZED");
    get(&signed.replace(remote.name.as_str(), "localhost:http")).fails(400, "M_UNAUTHORIZED");
    // For another server, another path, another method.
    get(&remote.authorization_for("other.org", "GET", path, None)).fails(401, "M_UNAUTHORIZED");
    get(&remote.authorization("GET", &path.replace("nobody", "somebody"), b"")).fails(401, "M_UNAUTHORIZED");
    get(&remote.authorization("PUT", path, b"")).fails(401, "M_UNAUTHORIZED");
    // In the name of somebody else, who does not have this key or is not there.
    let other = authority.remote();
    for name in [other.name.as_str(), "localhost:1"] {
        get(&signed.replace(remote.name.as_str(), name)).fails(401, "M_UNAUTHORIZED");
    }

    let path = "/_matrix/federation/v1/user/keys/query";
    let body = json!({ "device_keys": {} }).to_string();
    let post = |authorization: &str, body: &str| ravel.ask_with("POST", path, authorization, body.as_bytes());
    let signed = remote.authorization("POST", path, body.as_bytes());
    post(&signed, &body).ok();
    // What is signed is what the JSON says, not how it is written.
    post(&signed, &body.replace(':', " : ")).ok();
    post(&signed, &json!({ "device_keys": { "@a:example.org": [] } }).to_string()).fails(401, "M_UNAUTHORIZED");
    post(&signed, "").fails(401, "M_UNAUTHORIZED");
    post(&signed, "{").fails(400, "M_NOT_JSON");
    let without_body = remote.authorization("POST", path, b"");
    post(&without_body, &body).fails(401, "M_UNAUTHORIZED");
}
