//! Random JSON text.

use proptest::{collection::vec, prelude::*, sample::select};

/// Draws the JSON text of a value that every room version takes.
pub fn values() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        Just("null".to_owned()),
        any::<bool>().prop_map(|value| value.to_string()),
        (-(1_i64 << 53) + 1..1 << 53).prop_map(|value| value.to_string()),
        strings(),
    ];
    leaf.prop_recursive(3, 24, 5, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(|values| format!("[{}]", values.join(","))),
            objects_of(strings(), inner, 0..4),
        ]
    })
}

/// Draws the JSON text of an object with keys drawn from `keys`, none of them twice.
pub fn objects_of(
    keys: impl Strategy<Value = String>,
    values: impl Strategy<Value = String>,
    count: std::ops::Range<usize>,
) -> impl Strategy<Value = String> {
    proptest::collection::btree_map(keys, values, count).prop_map(|members| {
        let members: Vec<String> = members.iter().map(|(key, value)| format!("{key}:{value}")).collect();
        format!("{{{}}}", members.join(","))
    })
}

/// Draws the JSON text of a string, escapes included.
pub fn strings() -> impl Strategy<Value = String> {
    let pieces =
        select(&["a", "Z", "0", "é", "\u{10000}", "\u{ffff}", "\u{7f}", r"\n", r#"\""#, r"\\", r"\u0000", "/"][..]);
    vec(pieces, 0..5).prop_map(|pieces| format!("\"{}\"", pieces.concat()))
}
