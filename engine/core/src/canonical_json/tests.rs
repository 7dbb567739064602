use super::{
    CanonicalJsonValue, DEPTH_MAX, JsonErrorKind,
    JsonMode::{self, ByteExact, Lenient, Strict},
    object_to_canonical_bytes, parse, parse_canonical_event, parse_event, to_canonical_bytes,
};

/// Checks the canonical form of the input, or the error and its byte.
fn check(mode: JsonMode, input: impl AsRef<[u8]>, expected: Result<&str, (JsonErrorKind, usize)>) {
    let input = input.as_ref();
    let written = parse(input, mode).map(|value| String::from_utf8(to_canonical_bytes(&value)).unwrap());
    let shown = String::from_utf8_lossy(input);
    assert_eq!(
        written.as_deref().map_err(|error| (error.kind, error.offset)),
        expected.as_ref().copied().map_err(|e| *e),
        "{shown}"
    );
    if let Ok(written) = written {
        let again = parse(written.as_bytes(), mode).unwrap();
        assert_eq!(to_canonical_bytes(&again), written.as_bytes(), "canonical form of {shown} is not stable");
    }
}

#[test]
fn values_of_every_kind() {
    for mode in [Strict, ByteExact, Lenient] {
        check(mode, " null ", Ok("null"));
        check(mode, "[true,\tfalse,\r\n0 , -1 ]", Ok("[true,false,0,-1]"));
        check(mode, r#"{"b":{},"a":[],"":""}"#, Ok(r#"{"":"","a":[],"b":{}}"#));
        check(mode, r#""\ud83d\ude00\/\u00e9\u0000\u001F\u007f""#, Ok("\"\u{1f600}/\u{e9}\\u0000\\u001f\u{7f}\""));
        check(mode, "9007199254740991", Ok("9007199254740991"));
        check(mode, "-9007199254740991", Ok("-9007199254740991"));
    }
}

#[test]
fn sc_012_what_is_not_json_is_refused_in_every_mode() {
    use JsonErrorKind::*;
    let cases: &[(&[u8], JsonErrorKind, usize)] = &[
        (b"", UnexpectedEnd, 0),
        (b" ", UnexpectedEnd, 1),
        (b"\xef\xbb\xbf{}", ByteOrderMark, 0),
        (b"{} {}", TrailingData, 3),
        (b"{},", TrailingData, 2),
        (b"nul", UnexpectedEnd, 3),
        (b"nulx", UnexpectedCharacter, 3),
        (b"NaN", UnexpectedCharacter, 0),
        (b"[Infinity]", UnexpectedCharacter, 1),
        (b"-Infinity", InvalidNumber, 1),
        (b"'a'", UnexpectedCharacter, 0),
        (b"{a:1}", UnexpectedCharacter, 1),
        (b"{\"a\" 1}", UnexpectedCharacter, 5),
        (b"{\"a\":1,}", UnexpectedCharacter, 7),
        (b"{\"a\":1 \"b\":2}", UnexpectedCharacter, 7),
        (b"{,}", UnexpectedCharacter, 1),
        (b"[1,]", UnexpectedCharacter, 3),
        (b"[1 2]", UnexpectedCharacter, 3),
        (b"[1", UnexpectedEnd, 2),
        (b"[}", UnexpectedCharacter, 1),
        (b"{\"a\":1]", UnexpectedCharacter, 6),
        (b"]", UnexpectedCharacter, 0),
        (b"/**/1", UnexpectedCharacter, 0),
        (b"\"a", UnexpectedEnd, 2),
        (b"\"\\", UnexpectedEnd, 2),
        (b"\"a\nb\"", ControlCharacter, 2),
        (b"\"\\x\"", InvalidEscape, 1),
        (b"\"\\u00g0\"", InvalidEscape, 5),
        (b"\"\\u00", UnexpectedEnd, 5),
        (b"\"\\ud800\"", LoneSurrogate, 1),
        (b"\"\\udc00\"", LoneSurrogate, 1),
        (b"\"\\ud800\\ud800\"", LoneSurrogate, 1),
        (b"\"\\ud800\\n\"", LoneSurrogate, 1),
        (b"\"\xff\"", InvalidUtf8, 1),
        (b"\"\xed\xa0\x80\"", InvalidUtf8, 1),
        (b"\"\xc0\x80\"", InvalidUtf8, 1),
        (b"\xa0 1", InvalidUtf8, 0),
        (b"01", InvalidNumber, 0),
        (b"-01", InvalidNumber, 1),
        (b"+1", UnexpectedCharacter, 0),
        (b"1.", UnexpectedEnd, 2),
        (b".5", UnexpectedCharacter, 0),
        (b"1.e5", InvalidNumber, 2),
        (b"1e", UnexpectedEnd, 2),
        (b"1e+ ", InvalidNumber, 3),
        (b"-", UnexpectedEnd, 1),
        (b"0x10", TrailingData, 1),
    ];
    for (input, kind, offset) in cases {
        for mode in [Strict, ByteExact, Lenient] {
            check(mode, input, Err((*kind, *offset)));
        }
    }
}

#[test]
fn sc_010_strict_mode_takes_canonical_integers_only() {
    use JsonErrorKind::{IntegerOutOfRange, NegativeZero, NotAnInteger};
    for (number, kind) in [
        ("9007199254740992", IntegerOutOfRange),
        ("-9007199254740992", IntegerOutOfRange),
        ("9223372036854775807", IntegerOutOfRange),
        ("100000000000000000000000", IntegerOutOfRange),
        ("1.0", NotAnInteger),
        ("1e3", NotAnInteger),
        ("1E400", NotAnInteger),
        ("-0", NegativeZero),
        ("-0.0", NotAnInteger),
    ] {
        check(Strict, format!("[{number}]"), Err((kind, 1)));
    }
}

#[test]
fn sc_012_byte_exact_mode_keeps_number_tokens() {
    for number in [
        "1.0",
        "1e3",
        "1E+03",
        "1E400",
        "-0",
        "-0.0",
        "9223372036854775807",
        "-9223372036854775808",
        "9223372036854775808",
        "123456789012345678901234567890",
        "5.114698E4",
    ] {
        let json = format!("{{\"a\":[{number}]}}");
        check(ByteExact, &json, Ok(&json));
    }
}

#[test]
fn lenient_mode_turns_integral_values_into_integers() {
    for (number, expected) in [
        ("-0", "0"),
        ("-0.0e5", "0"),
        ("0e99999999999999999999", "0"),
        ("1e10", "10000000000"),
        ("1.0", "1"),
        ("-1.50E1", "-15"),
        ("1200e-2", "12"),
        ("0.00012e5", "12"),
        ("9007199254740991.0", "9007199254740991"),
        ("9.007199254740991e15", "9007199254740991"),
        ("100000000000000000000e-20", "1"),
    ] {
        check(Lenient, number, Ok(expected));
    }
    for number in ["1.5", "1e-1", "12e-2", "0.1e0", "1e-99999999999999999999"] {
        check(Lenient, number, Err((JsonErrorKind::NotAnInteger, 0)));
    }
    for number in ["1e16", "9007199254740992.0", "-9007199254740992", "1e400", "1e99999999999999999999"] {
        check(Lenient, number, Err((JsonErrorKind::IntegerOutOfRange, 0)));
    }
}

#[test]
fn sc_012_duplicate_keys() {
    let json = r#"{"a":1,"b":2,"a":3}"#;
    check(Strict, json, Err((JsonErrorKind::DuplicateKey, 13)));
    check(Lenient, json, Err((JsonErrorKind::DuplicateKey, 13)));
    check(ByteExact, json, Ok(r#"{"a":3,"b":2}"#));
    // The same key, once escaped.
    check(Strict, r#"{"a":1,"\u0061":3}"#, Err((JsonErrorKind::DuplicateKey, 7)));
}

#[test]
fn sc_013_nesting_is_bounded() {
    let nested =
        |levels: usize, open: &str, inner: &str, close: &str| open.repeat(levels) + inner + &close.repeat(levels);
    let work = move || {
        for (open, close) in [("[", "]"), (r#"{"a":"#, "}")] {
            let deepest = nested(DEPTH_MAX, open, "1", close);
            let value = parse(deepest.as_bytes(), Strict).unwrap();
            assert_eq!(to_canonical_bytes(&value), deepest.as_bytes());
            assert!(value.clone() == value);
            assert!(format!("{value:?}").len() > DEPTH_MAX);
            drop(value);
            let too_deep = nested(DEPTH_MAX + 1, open, "1", close);
            assert_eq!(parse(too_deep.as_bytes(), Strict).unwrap_err().kind, JsonErrorKind::TooDeep);
            // A long run of brackets, never closed.
            assert_eq!(parse(open.repeat(1 << 20).as_bytes(), ByteExact).unwrap_err().kind, JsonErrorKind::TooDeep);
        }
        assert!(parse(nested(DEPTH_MAX - 1, "[", "[]", "]").as_bytes(), Strict).is_ok());
        assert!(parse(nested(DEPTH_MAX, "[", "{}", "]").as_bytes(), Strict).is_err());
    };
    // Half of what a thread has by default.
    std::thread::Builder::new().stack_size(1 << 20).spawn(work).unwrap().join().unwrap();
}

#[test]
fn sc_019_unsigned_does_not_decide_whether_an_event_is_valid() {
    let event = br#"{"b":1,"unsigned":{"age":1.5,"x":[{"y":1,"y":2e9}]},"a":2}"#;
    assert_eq!(object_to_canonical_bytes(&parse_event(event, Strict).unwrap()), br#"{"a":2,"b":1}"#);
    assert!(parse_event(br#"{"unsigned":1.5,"b":1.5}"#, Strict).is_err());
    assert!(parse_event(br#"{"a":{"unsigned":1.5}}"#, Strict).is_err());
    assert!(parse_event(br#"{"unsigned":1,"unsigned":2}"#, Strict).is_err());
    assert!(parse_event(b"[]", Strict).is_err());
}

/// Canonical JSON with a byte put in, replaced or left out, at each place.
#[test]
fn what_is_not_canonical_is_noticed_as_it_is_read() {
    let event = r#"{"":[],"a":[1,-20,true,null],"b":{"c":{},"d":"\u0001\n\"\\\u001fé"},"e":"","f":12}"#.as_bytes();
    let mut canonical = 0;
    for at in 0..=event.len() {
        let (before, after) = event.split_at(at);
        let without_next = after.get(1..).unwrap_or_default();
        let changed =
            [&b""[..], b" ", b"\"", b"\\", b"/", b"0", b"-", b"a", b"F", b"\n", b"{}", b",\"b\":0", br"\/", br"\u0061"]
                .map(|put| [after, without_next].map(|rest| [before, put, rest].concat()));
        for (changed, mode) in
            changed.as_flattened().iter().flat_map(|changed| [(changed, Strict), (changed, ByteExact)])
        {
            let is_canonical = parse_event(changed, mode).map(|object| object_to_canonical_bytes(&object) == *changed);
            let noticed = parse_canonical_event(changed, mode).map(|object| object.is_some());
            assert_eq!(noticed, is_canonical, "{}", String::from_utf8_lossy(changed));
            canonical += usize::from(noticed == Ok(true));
        }
    }
    assert!(canonical > 2 * event.len(), "{canonical}");
    let with_unsigned = br#"{"a":1,"unsigned":{}}"#;
    assert_eq!(parse_canonical_event(with_unsigned, Strict), Ok(None));
}

#[test]
fn integers_are_read_with_bounds() {
    let read = |json: &str| parse(json.as_bytes(), ByteExact).unwrap().as_i64_saturating();
    assert_eq!(read("-0"), Some(0));
    assert_eq!(read("9223372036854775808"), Some(i64::MAX));
    assert_eq!(read("-9223372036854775809"), Some(i64::MIN));
    assert_eq!(read("-9223372036854775808"), Some(i64::MIN));
    assert_eq!(read("1.0"), None);
    assert_eq!(read("1e3"), None);
    assert_eq!(read("\"1\""), None);
    assert_eq!(to_canonical_bytes(&CanonicalJsonValue::Integer(i64::MIN)), b"-9223372036854775808");
}
