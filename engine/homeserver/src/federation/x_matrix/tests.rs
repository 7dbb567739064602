use ravel_core::{
    canonical_json::{JsonMode, parse},
    signing::{KeyRing, PublishedKey},
};

use super::*;

const NOW: i64 = 1_700_000_000_000;

fn server(name: &str) -> ServerName {
    ServerName::parse(name).unwrap()
}

fn key(id: &str, seed: u8) -> SigningKey {
    SigningKey::from_seed(KeyId::parse(id).unwrap(), &[seed; 32])
}

/// What `a` has published: a key for now, one that has lapsed, one that has expired.
fn ring() -> KeyRing {
    let mut ring = KeyRing::new();
    for (id, seed, valid_until_ts_ms, expired_ts_ms) in [
        ("ed25519:now", 1, NOW, None),
        ("ed25519:lapsed", 2, NOW - 1, None),
        ("ed25519:expired", 3, NOW + 1000, Some(NOW + 1000)),
    ] {
        let key = key(id, seed);
        let published = PublishedKey { key: key.verify_key(), valid_until_ts_ms, expired_ts_ms };
        ring.insert(server("a"), key.key_id().clone(), published);
    }
    ring
}

fn headers(values: &[&str]) -> HeaderMap {
    values.iter().map(|value| (AUTHORIZATION, HeaderValue::from_str(value).unwrap())).collect()
}

const SIG: &str = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

/// Checks what is read as `origin key,key`, or why nothing is; `SIG` stands for a signature.
fn check_parse(values: &[&str], expected: &str) {
    let values: Vec<_> = values.iter().map(|value| value.replace("SIG", SIG)).collect();
    let values: Vec<_> = values.iter().map(String::as_str).collect();
    let read = match XMatrix::parse(&headers(&values), &server("b:1")) {
        Ok(read) => {
            let keys: Vec<_> = read.signatures.iter().map(|(key_id, _)| key_id.as_str()).collect();
            format!("{} {}", read.origin, keys.join(","))
        }
        Err(error) => error.to_string(),
    };
    assert!(read.ends_with(expected) && !expected.is_empty(), "{values:?}: {read}, expected {expected}");
}

#[test]
fn headers_are_read_in_all_their_forms() {
    for header in [
        r#"X-Matrix origin="a",destination="b:1",key="ed25519:1",sig="SIG""#,
        r#"X-Matrix origin="a",key="ed25519:1",sig="SIG""#,
        r#"X-Matrix origin=a,destination=b:1,key=ed25519:1,sig=SIG"#,
        r#"x-matrix ORIGIN=a,Destination="b:1",KEY=ed25519:1,sig="SIG""#,
        "X-Matrix   sig=SIG \t, \tkey=ed25519:1 ,origin=a  ",
        r#"X-Matrix origin="a",key="ed25519:1",sig="SIG==""#,
        r#"X-Matrix origin="\a",key="ed2551\9:1",sig="SIG""#,
        r#"X-Matrix ,origin=a,,key=ed25519:1,sig=SIG,"#,
        r#"X-Matrix origin=a,key=ed25519:1,sig=SIG,other="x,y\"=",more=z"#,
    ] {
        check_parse(&[header], "a ed25519:1");
    }
    check_parse(&[r#"X-Matrix origin="[::1]:2",key="ed25519:1",sig="SIG""#], "[::1]:2 ed25519:1");
}

#[test]
fn several_headers_are_several_signatures() {
    let header = |origin: &str, key: &str| format!("X-Matrix origin={origin},key={key},sig=SIG");
    check_parse(&[&header("a", "k:1"), "Bearer abc", &header("a", "k:2")], "a k:1,k:2");
    check_parse(&[&header("a", "k:1"), &header("c", "k:2")], "different origins");
    check_parse(&[header("a", "k:1").as_str(); 8], "k:1,k:1,k:1,k:1,k:1,k:1,k:1,k:1");
    check_parse(&[header("a", "k:1").as_str(); 9], "too many of them");
    check_parse(&[&header("a", "k:1"), "X-Matrix nonsense"], "a parameter without value");
}

#[test]
fn what_is_no_header_is_refused() {
    for (header, expected) in [
        ("Bearer abc", "scheme X-Matrix"),
        ("X-Matrix", "no origin"),
        ("X-MatrixX origin=a", "scheme X-Matrix"),
        ("X-Matrix origin=a,key=k:1", "no sig"),
        ("X-Matrix origin=a,sig=SIG", "no key"),
        ("X-Matrix key=k:1,sig=SIG", "no origin"),
        ("X-Matrix origin=a,origin=a,key=k:1,sig=SIG", "a parameter twice"),
        ("X-Matrix origin=a,Origin=c,key=k:1,sig=SIG", "a parameter twice"),
        ("X-Matrix origin=a key=k:1,sig=SIG", "no comma between parameters"),
        (r#"X-Matrix origin="a"key=k:1,sig=SIG"#, "no comma between parameters"),
        (r#"X-Matrix origin="a,key=k:1,sig=SIG"#, "no closing quote"),
        (r#"X-Matrix origin="a\"#, "no closing quote"),
        (r#"X-Matrix origin=a"b",key=k:1,sig=SIG"#, "a quote inside a value"),
        ("X-Matrix origin=,key=k:1,sig=SIG", "origin is not a server name"),
        ("X-Matrix origin=a/b,key=k:1,sig=SIG", "origin is not a server name"),
        ("X-Matrix origin=a,destination=b:x,key=k:1,sig=SIG", "destination is not a server name"),
        ("X-Matrix origin=a,key=k,sig=SIG", "key is not a key id"),
        ("X-Matrix origin=a,key=k:1,sig=AAAA", "sig is not the base64 of 64 bytes"),
        ("X-Matrix origin=a,key=k:1,sig=!", "sig is not the base64 of 64 bytes"),
    ] {
        check_parse(&[header], expected);
    }
    check_parse(&[&format!("X-Matrix x={},origin=a,key=k:1,sig=SIG", "y".repeat(4096))], "too long");
    check_parse(&[], "scheme X-Matrix");
}

#[test]
fn sc_009_a_request_for_another_server_is_refused() {
    for destination in ["c", "b", "b:2", "B:1"] {
        let header = format!("X-Matrix origin=a,destination={destination},key=k:1,sig=SIG");
        check_parse(&[&header], &format!("the request is for {destination}"));
        // One header that is right does not help.
        check_parse(&["X-Matrix origin=a,destination=b:1,key=k:1,sig=SIG", &header], &format!("is for {destination}"));
    }
}

/// Signs one request with a key and checks another one.
fn check_verify(
    key: &SigningKey,
    signed: (&str, &str, Option<&str>),
    received: (&str, &str, Option<&str>),
    expected: Result<(), &str>,
) {
    let content = |(_, _, content): (&str, &str, Option<&str>)| {
        content.map(|content| parse(content.as_bytes(), JsonMode::ByteExact).unwrap())
    };
    let (signed_content, received_content) = (content(signed), content(received));
    let request = SignedRequest { method: signed.0, uri: signed.1, content: signed_content.as_ref() };
    let header = sign(&request, &server("a"), &server("b"), key).unwrap();
    let headers = HeaderMap::from_iter([(AUTHORIZATION, header)]);
    let request = SignedRequest { method: received.0, uri: received.1, content: received_content.as_ref() };
    let verified = XMatrix::parse(&headers, &server("b"))
        .and_then(|x_matrix| x_matrix.verify(&request, &server("b"), &ring(), NOW))
        .map_err(|error| error.to_string());
    assert_eq!(verified, expected.map_err(str::to_owned));
}

#[test]
fn sc_009_what_was_signed_is_what_came() {
    let now = key("ed25519:now", 1);
    let put = ("PUT", "/_matrix/x?a=%20b", Some(r#"{"b": 1, "a": [1.0, 9007199254740993]}"#));
    let wrong = Err("the request is not signed by a");
    check_verify(&now, put, put, Ok(()));
    check_verify(&now, put, ("PUT", put.1, Some(r#"{"a":[1.0,9007199254740993],"b":1}"#)), Ok(()));
    check_verify(&now, put, ("POST", put.1, put.2), wrong);
    check_verify(&now, put, (put.0, "/_matrix/x?a= b", put.2), wrong);
    check_verify(&now, put, (put.0, "/_matrix/x", put.2), wrong);
    check_verify(&now, put, (put.0, put.1, Some(r#"{"b":2}"#)), wrong);
    check_verify(&now, put, (put.0, put.1, None), wrong);
    check_verify(&now, ("GET", "/x", None), ("GET", "/x", None), Ok(()));
    check_verify(&now, ("GET", "/x", None), ("GET", "/x", Some("{}")), wrong);
}

#[test]
fn keys_have_to_be_those_of_now() {
    let get = ("GET", "/x", None);
    let no_key = Err("no valid key of a is known that the request is signed with");
    check_verify(&key("ed25519:lapsed", 2), get, get, no_key);
    check_verify(&key("ed25519:expired", 3), get, get, no_key);
    check_verify(&key("ed25519:unknown", 1), get, get, no_key);
    check_verify(&key("ed25519:now", 9), get, get, Err("the request is not signed by a"));
}

/// The example of the specification, as far as it gives the bytes.
#[test]
fn the_signed_object_is_canonical() {
    let content = parse(br#"{"b":[],"a":"\u00e9"}"#, JsonMode::ByteExact).unwrap();
    let request = SignedRequest { method: "POST", uri: "/target\"", content: Some(&content) };
    let expected = "{\"content\":{\"a\":\"\u{e9}\",\"b\":[]},\"destination\":\"destination.hs.example.com\",\
        \"method\":\"POST\",\"origin\":\"origin.hs.example.com\",\"uri\":\"/target\\\"\"}";
    let bytes = request.signed_bytes(&server("origin.hs.example.com"), &server("destination.hs.example.com"));
    assert_eq!(String::from_utf8(bytes).unwrap(), expected);
}

/// The same header and bytes as another implementation makes.
#[test]
fn another_implementation_agrees() {
    use ruma::{
        api::{auth_scheme::AuthScheme, federation::authentication::ServerSignatures},
        server_name,
    };
    let header = HeaderMap::from_iter([(
        AUTHORIZATION,
        sign(
            &SignedRequest { method: "GET", uri: "/x?y=z", content: None },
            &server("a"),
            &server("b"),
            &key("ed25519:now", 1),
        )
        .unwrap(),
    )]);
    let mut request = http::Request::builder().uri("/x?y=z").body(Vec::<u8>::new()).unwrap();
    *request.headers_mut() = header;
    let read = ServerSignatures::extract_authentication(&request).unwrap();
    assert_eq!(read.origin, server_name!("a"));
    assert_eq!(read.destination.as_deref(), Some(server_name!("b")));
    let keys =
        [("ed25519:now".to_owned(), ruma::serde::Base64::new(key("ed25519:now", 1).verify_key().as_bytes().to_vec()))];
    let keys = std::collections::BTreeMap::from([("a".to_owned(), keys.into_iter().collect())]);
    read.verify_http_request(&request, server_name!("b"), &keys).unwrap();
}
