//! What a writer tells other processes of a commit, in the payload of NOTIFY.

use std::{collections::BTreeSet, fmt::Write};

use ravel_store::{Batch, KeyRange, Keyspace};

use super::group::Effect;

/// Writes down what a commit touched: the writer's epoch, then each key as the keyspace's byte and the key in hex; a keyspace's
/// byte and `*` if anything in it may have been touched.
pub(super) fn encode(epoch: i64, effect: &Effect) -> String {
    let mut payload = epoch.to_string();
    let ranges: BTreeSet<_> = effect.ranges.iter().map(|(keyspace, _)| *keyspace).collect();
    ranges.into_iter().for_each(|keyspace| push_all_of(&mut payload, keyspace));
    let points_bytes: usize = effect.points.keys().map(|(_, key)| 3 + key.len() * 2).sum();
    if payload.len() + points_bytes > PAYLOAD_BYTES_MAX {
        return encode_keyspaces(epoch, effect);
    }
    for (keyspace, key) in effect.points.keys() {
        push_byte(&mut payload, *keyspace);
        for byte in key {
            // Writing to a string cannot fail.
            let _ = write!(payload, "{byte:02x}");
        }
    }
    payload
}

/// Reads the writer's epoch of a payload.
pub(super) fn writer(payload: &str) -> Option<i64> {
    payload.split(' ').next()?.parse().ok()
}

/// Reads a payload: the writer's epoch, and a batch that touches what the commit touched. Anything unknown is skipped.
pub(super) fn decode(payload: &str) -> Option<(i64, Batch)> {
    let epoch = writer(payload)?;
    let mut touched = Batch::new();
    for word in payload.split(' ').skip(1) {
        let Some((byte, key)) = word.split_at_checked(2) else { continue };
        let Some(keyspace) = u8::from_str_radix(byte, 16).ok().and_then(Keyspace::from_byte) else { continue };
        match parse_hex(key) {
            Some(key) => touched.delete(keyspace, key),
            None => touched.delete_range(keyspace, KeyRange::all()),
        };
    }
    Some((epoch, touched))
}

/// Returns a batch that touches everything, for who may have missed something.
pub(super) fn everything() -> Batch {
    let mut touched = Batch::new();
    for keyspace in Keyspace::ALL {
        touched.delete_range(*keyspace, KeyRange::all());
    }
    touched
}

fn encode_keyspaces(epoch: i64, effect: &Effect) -> String {
    let ranges = effect.ranges.iter().map(|(keyspace, _)| *keyspace);
    let keyspaces: BTreeSet<_> = effect.points.keys().map(|(keyspace, _)| *keyspace).chain(ranges).collect();
    let mut payload = epoch.to_string();
    keyspaces.into_iter().for_each(|keyspace| push_all_of(&mut payload, keyspace));
    payload
}

fn push_all_of(payload: &mut String, keyspace: Keyspace) {
    push_byte(payload, keyspace);
    payload.push('*');
}

fn push_byte(payload: &mut String, keyspace: Keyspace) {
    let _ = write!(payload, " {:02x}", keyspace.byte());
}

fn parse_hex(text: &str) -> Option<Vec<u8>> {
    if !text.len().is_multiple_of(2) || !text.is_ascii() {
        return None;
    }
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(text.get(at..at + 2)?, 16).ok()).collect()
}

/// PostgreSQL takes less than 8,000 bytes.
const PAYLOAD_BYTES_MAX: usize = 7_900;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_wakes_what_was_touched() {
        let check = |points: &[(Keyspace, &'static [u8])], ranges: &[Keyspace], payload: &str| {
            let mut effect = Effect::default();
            effect.points.extend(points.iter().map(|(keyspace, key)| ((*keyspace, (*key).into()), None)));
            effect.ranges.extend(ranges.iter().map(|keyspace| (*keyspace, KeyRange::from("x"))));
            assert_eq!(encode(7, &effect), payload);
            let mut touched = Batch::new();
            for keyspace in ranges {
                touched.delete_range(*keyspace, KeyRange::all());
            }
            for (keyspace, key) in points {
                touched.delete(*keyspace, *key);
            }
            assert_eq!(decode(payload), Some((7, touched)), "{payload}");
        };
        check(&[], &[], "7");
        check(&[(Keyspace::Log, b"\x00\xffa"), (Keyspace::Events, b"")], &[], "7 0300ff61 04");
        check(&[(Keyspace::Log, b"a")], &[Keyspace::Meta], "7 01* 0361");
    }

    #[test]
    fn what_is_too_long_to_tell_is_told_by_keyspaces() {
        let mut effect = Effect::default();
        for number in 0..300u32 {
            effect.points.insert((Keyspace::Log, vec![number as u8; 20].into()), None);
            effect.points.insert((Keyspace::Meta, "a".into()), None);
        }
        assert_eq!(encode(1, &effect), "1 01* 03*");
    }

    #[test]
    fn what_others_send_is_skipped() {
        let check = |payload, expected: Option<usize>| {
            assert_eq!(decode(payload).map(|(_, touched)| touched.ops().len()), expected, "{payload}");
        };
        check("", None);
        check("x 03", None);
        check("1 ff00 é 3 0361", Some(1));
        check("1 03zz", Some(1));
    }
}
