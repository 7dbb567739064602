//! Keys of this server, and of others when it is asked as a notary.

use ravel_core::{
    canonical_json::{CanonicalJsonObject, JsonMode, get_object, get_str, parse_object},
    signing::{VerifyKey, verify_json},
};
use serde_json::{Value, json};

use crate::{
    remote::{Authority, RAVEL, now_ms},
    server::Server,
};

const DAY_MS: i64 = 24 * 60 * 60 * 1000;

/// Returns a document in Ravel's type of JSON.
fn object(document: &Value) -> CanonicalJsonObject {
    parse_object(document.to_string().as_bytes(), JsonMode::Strict).unwrap()
}

/// Returns the id and the key of Ravel, from a document that it has signed.
fn own_key(ravel: &Server) -> (String, VerifyKey) {
    let document = object(&ravel.ask("GET", "/_matrix/key/v2/server", None, b"").ok());
    assert_eq!(get_str(&document, "server_name"), Some(RAVEL));
    let (key_id, key) = get_object(&document, "verify_keys").unwrap().first_key_value().unwrap();
    let key = VerifyKey::from_base64(get_str(key.as_object().unwrap(), "key").unwrap()).unwrap();
    verify_json(&document, RAVEL, key_id, &key).unwrap();
    (key_id.to_string(), key)
}

#[test]
fn a_notary_signs_what_others_have_signed() {
    let authority = Authority::new();
    let (ravel, remote) = (authority.ravel(), authority.remote());
    let (key_id, key) = own_key(&ravel);
    let until = now_ms() + DAY_MS / 2;
    let own_id = remote.key.key_id().as_str();
    let criteria = json!({ "server_keys": { remote.name.as_str(): { own_id: { "minimum_valid_until_ts": until } } } });
    let all = json!({ "server_keys": { remote.name.as_str(): {}, RAVEL: {}, "localhost:1": {} } });
    let (name, escaped) = (remote.name.as_str(), own_id.replace(':', "%3A"));
    let get = |path: String| ravel.ask("GET", &format!("/_matrix/key/v2/query/{path}"), None, b"").ok();
    let post = |body: &Value| ravel.post("/_matrix/key/v2/query", None, body).ok();
    let answers = [
        get(name.to_owned()),
        get(format!("{name}?minimum_valid_until_ts={until}")),
        get(format!("{name}/{escaped}?minimum_valid_until_ts={until}")),
        post(&criteria),
        post(&all),
    ];
    for answer in answers {
        let documents = answer["server_keys"].as_array().unwrap();
        let of_remote = documents.iter().find(|document| document["server_name"] == name).unwrap();
        verify_json(&object(of_remote), name, own_id, &remote.key.verify_key()).unwrap();
        for document in documents {
            verify_json(&object(document), RAVEL, &key_id, &key).unwrap();
        }
        assert!(documents.len() <= 2);
    }
    assert_eq!(post(&json!({ "server_keys": {} })), json!({ "server_keys": [] }));
    ravel.post("/_matrix/key/v2/query", None, &json!({})).fails(400, "M_BAD_JSON");
    ravel.ask("GET", "/_matrix/key/v2/query/not_a_name", None, b"").fails(400, "M_INVALID_PARAM");
    ravel.ask("GET", "/_matrix/key/v2/query/a?minimum_valid_until_ts=x", None, b"").fails(400, "M_INVALID_PARAM");
}
