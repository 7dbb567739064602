//! Registering, logging in and out.

use hmac::{Hmac, KeyInit, Mac};
use serde_json::{Value, json};

use crate::server::{Answer, Server};

fn register(server: &Server, username: &str) -> Value {
    let auth = json!({ "type": "m.login.dummy" });
    server.post("v3/register", None, &json!({ "username": username, "password": "secret", "auth": auth })).ok()
}

fn login(server: &Server, user: &str, password: &str) -> Answer {
    let identifier = json!({ "type": "m.id.user", "user": user });
    let body = json!({ "type": "m.login.password", "identifier": identifier, "password": password });
    server.post("v3/login", None, &body)
}

fn token(answer: &Value) -> &str {
    answer["access_token"].as_str().unwrap()
}

#[test]
fn an_account_is_made_in_two_steps() {
    let server = Server::open(&[]);
    let mut body = json!({ "username": "alice", "password": "secret", "device_id": "PHONE" });
    let first = server.post("v3/register", None, &body);
    assert_eq!(first.status, 401);
    let session = first.json["session"].as_str().unwrap();
    let expected = json!({ "flows": [{ "stages": ["m.login.dummy"] }], "params": {}, "session": session });
    assert_eq!(first.json, expected);
    body["auth"] = json!({ "type": "m.login.dummy", "session": session });
    let made = server.post("v3/register", None, &body).ok();
    assert_eq!((&made["user_id"], &made["device_id"]), (&json!("@alice:example.org"), &json!("PHONE")));
    let whoami = json!({ "user_id": "@alice:example.org", "device_id": "PHONE" });
    assert_eq!(server.get("v3/account/whoami", Some(token(&made))).ok(), whoami);
    assert_eq!(server.get("r0/account/whoami", Some(token(&made))).ok(), whoami);
    let query = format!("v3/account/whoami?access_token={}", token(&made));
    assert_eq!(server.get(&query, None).ok(), whoami);
    // The session is used up.
    body["username"] = json!("bob");
    let again = server.post("v3/register", None, &body);
    assert_eq!(again.json["flows"], expected["flows"]);
    assert_ne!(again.json["session"], expected["session"]);
    again.fails(401, "M_FORBIDDEN");
}

#[test]
fn sc_151_an_account_is_ended_by_who_knows_its_password() {
    let server = Server::open(&[]);
    let alice = register(&server, "alice");
    let alice = token(&alice);
    let bob = register(&server, "bob");
    let bob = token(&bob);
    let public = json!({ "preset": "public_chat" });
    let room = server.post("v3/createRoom", Some(alice), &public).ok()["room_id"].as_str().unwrap().to_owned();
    server.post(&format!("v3/join/{room}"), Some(bob), &json!({})).ok();
    let end = |auth: Value| server.post("v3/account/deactivate", Some(alice), &json!({ "auth": auth, "erase": true }));
    let with = |user: &str, password: &str| {
        let identifier = json!({ "type": "m.id.user", "user": user });
        end(json!({ "type": "m.login.password", "identifier": identifier, "password": password }))
    };
    let first = end(Value::Null);
    assert_eq!((first.status, &first.json["flows"]), (401, &json!([{ "stages": ["m.login.password"] }])));
    end(json!({ "type": "m.login.dummy" })).fails(401, "M_FORBIDDEN");
    with("alice", "wrong").fails(401, "M_FORBIDDEN");
    with("bob", "secret").fails(401, "M_FORBIDDEN");
    assert_eq!(server.get("v3/joined_rooms", Some(alice)).ok()["joined_rooms"], json!([room]));
    with("@alice:example.org", "secret").ok();
    server.get("v3/account/whoami", Some(alice)).fails(401, "M_UNKNOWN_TOKEN");
    login(&server, "alice", "secret").fails(403, "M_USER_DEACTIVATED");
    // It is in no room any more.
    let members = server.get(&format!("v3/rooms/{room}/joined_members"), Some(bob)).ok();
    assert_eq!(members["joined"].as_object().unwrap().keys().collect::<Vec<_>>(), ["@bob:example.org"]);
}

#[test]
fn steps_that_do_not_succeed() {
    let server = Server::open(&[]);
    let with = |auth: Value| {
        server.post("v3/register", None, &json!({ "username": "alice", "password": "secret", "auth": auth }))
    };
    with(json!({ "type": "m.login.dummy", "session": "unknown" })).fails(401, "M_FORBIDDEN");
    with(json!({ "session": "unknown" })).fails(401, "M_FORBIDDEN");
    with(json!({ "type": "m.login.magic" })).fails(401, "M_FORBIDDEN");
    with(json!({ "type": "m.login.registration_token", "token": "x" })).fails(401, "M_FORBIDDEN");
    with(json!("m.login.dummy")).fails(400, "M_BAD_JSON");
    let session = with(Value::Null).json["session"].clone();
    let asked = with(json!({ "session": session }));
    assert_eq!((asked.status, &asked.json["session"], &asked.json["errcode"]), (401, &session, &Value::Null));
    // A session outlives a request that fails.
    let auth = json!({ "type": "m.login.dummy", "session": session });
    let failed = server.post("v3/register", None, &json!({ "username": "alice", "password": "", "auth": auth }));
    failed.fails(400, "M_WEAK_PASSWORD");
    with(auth).ok();
}

#[test]
fn names_are_checked_before_anything_else() {
    let server = Server::open(&[]);
    assert_eq!(register(&server, "Alice")["user_id"], "@alice:example.org");
    for (name, errcode) in [("alice", "M_USER_IN_USE"), ("a%20b", "M_INVALID_USERNAME"), ("", "M_INVALID_USERNAME")] {
        server.get(&format!("v3/register/available?username={name}"), None).fails(400, errcode);
        let name = name.replace("%20", " ");
        server.post("r0/register", None, &json!({ "username": name, "password": "x" })).fails(400, errcode);
    }
    assert_eq!(server.get("v3/register/available?username=bob", None).ok(), json!({ "available": true }));
    server.get("v3/register/available", None).fails(400, "M_MISSING_PARAM");
}

#[test]
fn registrations_differ() {
    let server = Server::open(&[("RAVEL_REGISTRATION__GUESTS", "true")]);
    let auth = json!({ "type": "m.login.dummy" });
    let body = json!({ "username": "quiet", "password": "secret", "inhibit_login": true, "auth": auth });
    let quiet = server.post("v3/register", None, &body).ok();
    assert_eq!(quiet, json!({ "user_id": "@quiet:example.org", "home_server": "example.org" }));
    login(&server, "quiet", "secret").ok();

    let guest = server.post("v3/register?kind=guest", None, &json!({ "username": "x", "device_id": "X" })).ok();
    assert!(guest["user_id"] != "@x:example.org" && guest["device_id"] != "X", "{guest}");
    let whoami = server.get("v3/account/whoami", Some(token(&guest))).ok();
    assert_eq!((&whoami["user_id"], &whoami["is_guest"]), (&guest["user_id"], &json!(true)));
    login(&server, guest["user_id"].as_str().unwrap(), "").fails(403, "M_FORBIDDEN");

    let generated = server.post("v3/register", None, &json!({ "password": "secret", "auth": auth })).ok();
    login(&server, generated["user_id"].as_str().unwrap(), "secret").ok();
    server.post("v3/register?kind=king", None, &json!({})).fails(400, "M_INVALID_PARAM");
    server.post("v3/register", None, &json!({ "username": "a", "auth": auth })).fails(400, "M_MISSING_PARAM");
    let service = json!({ "type": "m.login.application_service", "username": "a" });
    server.post("v3/register", Some("x"), &service).fails(401, "M_UNKNOWN_TOKEN");
}

#[test]
fn sc_255_nobody_can_register_unless_it_is_configured() {
    let server = Server::start(tempfile::tempdir().unwrap(), &[]);
    let auth = json!({ "type": "m.login.dummy" });
    let body = json!({ "username": "alice", "password": "secret", "auth": auth });
    server.post("v3/register", None, &body).fails(403, "M_FORBIDDEN");
    server.post("v3/register?kind=guest", None, &body).fails(403, "M_FORBIDDEN");
    server.get("v3/register/available?username=alice", None).fails(403, "M_FORBIDDEN");
    server.get("/_synapse/admin/v1/register", None).fails(404, "M_UNRECOGNIZED");
}

#[test]
fn logging_in_and_out() {
    let server = Server::open(&[]);
    let flows = json!({ "flows": [{ "type": "m.login.password" }] });
    assert_eq!(server.get("v3/login", None).ok(), flows);
    let first = register(&server, "alice");
    for user in ["alice", "@alice:example.org"] {
        let again = login(&server, user, "secret").ok();
        assert_eq!((&again["user_id"], &again["home_server"]), (&json!("@alice:example.org"), &json!("example.org")));
        assert!(again["device_id"].is_string());
    }
    let old = json!({ "type": "m.login.password", "user": "alice", "password": "secret", "device_id": "TV" });
    let tv = server.post("r0/login", None, &old).ok();
    assert_eq!(tv["device_id"], "TV");
    let newer = server.post("r0/login", None, &old).ok();
    server.get("v3/account/whoami", Some(token(&tv))).fails(401, "M_UNKNOWN_TOKEN");
    server.get("v3/account/whoami", Some(token(&newer))).ok();

    for (user, password) in
        [("alice", "wrong"), ("alice", ""), ("nobody", "secret"), ("@alice:other.org", "secret"), ("", "secret")]
    {
        login(&server, user, password).fails(403, "M_FORBIDDEN");
    }
    let check = |body: Value, errcode| server.post("v3/login", None, &body).fails(400, errcode);
    check(json!({ "type": "m.login.token", "token": "x" }), "M_UNKNOWN");
    check(json!({ "type": "m.login.magic" }), "M_UNKNOWN");
    check(json!({ "type": "m.login.password", "user": "alice" }), "M_MISSING_PARAM");
    check(json!({ "type": "m.login.password", "password": "secret" }), "M_MISSING_PARAM");
    let phone = json!({ "type": "m.id.phone", "country": "GB", "phone": "1" });
    check(json!({ "type": "m.login.password", "identifier": phone, "password": "secret" }), "M_UNKNOWN");
    check(json!({}), "M_BAD_JSON");
    check(json!([]), "M_BAD_JSON");

    // Whoever logs out is out, and nobody else is.
    assert_eq!(server.ask("POST", "v3/logout", Some(token(&newer)), b"").ok(), json!({}));
    for path in ["v3/account/whoami", "r0/account/whoami"] {
        server.get(path, Some(token(&newer))).fails(401, "M_UNKNOWN_TOKEN");
    }
    server.post("v3/logout", Some(token(&newer)), &json!({})).fails(401, "M_UNKNOWN_TOKEN");
    let other = register(&server, "bob");
    assert_eq!(server.post("v3/logout/all", Some(token(&first)), &json!({})).ok(), json!({}));
    server.get("v3/account/whoami", Some(token(&first))).fails(401, "M_UNKNOWN_TOKEN");
    server.get("v3/account/whoami", Some(token(&other))).ok();
}

#[test]
fn tokens_and_bodies_are_checked() {
    let server = Server::open(&[]);
    server.get("v3/account/whoami", None).fails(401, "M_MISSING_TOKEN");
    server.get("v3/account/whoami", Some("")).fails(401, "M_MISSING_TOKEN");
    server.get("v3/account/whoami?access_token=", None).fails(401, "M_MISSING_TOKEN");
    server.get("v3/account/whoami?access_token=a", Some("a")).fails(401, "M_MISSING_TOKEN");
    server.get("v3/account/whoami", Some("wrong")).fails(401, "M_UNKNOWN_TOKEN");
    server.post("v3/logout", None, &json!({})).fails(401, "M_MISSING_TOKEN");
    server.post("v3/logout/all", None, &json!({})).fails(401, "M_MISSING_TOKEN");
    server.post("v3/account/whoami", None, &json!({})).fails(405, "M_UNRECOGNIZED");
    for path in ["v3/register", "v3/login"] {
        for body in [&b"{"[..], b"nonsense", b"{\"username\": \"a\",}"] {
            server.ask("POST", path, None, body).fails(400, "M_NOT_JSON");
        }
    }
    server.ask("POST", "v3/login", None, b"{\"type\":\"\xff\"}").fails(400, "M_NOT_JSON");
    let long = json!({ "type": "m.login.password", "user": "a", "password": "x".repeat(2 << 20) });
    server.post("v3/login", None, &long).fails(413, "M_TOO_LARGE");
}

#[test]
fn accounts_outlive_the_server() {
    let variables = [("RAVEL_REGISTRATION__ENABLED", "true")];
    let server = Server::open(&[]);
    let alice = register(&server, "alice");
    let out = login(&server, "alice", "secret").ok();
    server.post("v3/logout", Some(token(&out)), &json!({})).ok();
    let server = server.restarted(&variables);
    server.get("v3/account/whoami", Some(token(&alice))).ok();
    server.get("v3/account/whoami", Some(token(&out))).fails(401, "M_UNKNOWN_TOKEN");
    login(&server, "alice", "secret").ok();
    let log = server.log();
    assert!(!log.contains(token(&alice)) && !log.contains("secret"), "{log}");
}

#[test]
fn sc_167_a_shared_secret_makes_accounts() {
    let server = Server::start(tempfile::tempdir().unwrap(), &[("RAVEL_REGISTRATION__SHARED_SECRET", "reg_secret")]);
    let path = "/_synapse/admin/v1/register";
    let register = |username: &str, is_admin: bool, secret: &str| {
        let nonce = server.get(path, None).ok()["nonce"].as_str().unwrap().to_owned();
        let mut mac = Hmac::<sha1::Sha1>::new_from_slice(secret.as_bytes()).unwrap();
        let role = if is_admin { "admin" } else { "notadmin" };
        mac.update([&nonce, username, "pass", role].join("\0").as_bytes());
        let mac: String = mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
        let body = json!({ "nonce": nonce, "username": username, "password": "pass", "admin": is_admin, "mac": mac });
        (server.post(path, None, &body), body)
    };
    let (made, body) = register("Root", true, "reg_secret");
    let made = made.ok();
    assert_eq!(made["user_id"], "@root:example.org");
    server.get("v3/account/whoami", Some(token(&made))).ok();
    login(&server, "root", "pass").ok();
    server.post(path, None, &body).fails(403, "M_FORBIDDEN");
    register("eve", true, "another").0.fails(403, "M_FORBIDDEN");
    register("us,er", false, "reg_secret").0.fails(400, "M_INVALID_USERNAME");
    register("root", false, "reg_secret").0.fails(400, "M_USER_IN_USE");
    server.ask("POST", path, None, b"{").fails(400, "M_NOT_JSON");
}
