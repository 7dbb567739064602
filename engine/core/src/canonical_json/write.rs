//! Writing canonical JSON.

use super::{CanonicalJsonObject, CanonicalJsonValue};

/// Returns the canonical form of an object as if it did not have these keys at its top.
pub(crate) fn write_object_without(object: &CanonicalJsonObject, without: &[&str]) -> Vec<u8> {
    let mut out = Vec::with_capacity(1024);
    write_object_without_into(object, without, &mut out);
    out
}

/// Appends the canonical form of an object as if it did not have these keys at its top.
pub(crate) fn write_object_without_into(object: &CanonicalJsonObject, without: &[&str], out: &mut Vec<u8>) {
    out.push(b'{');
    let mut first = true;
    for (key, value) in object {
        if without.contains(&&**key) {
            continue;
        }
        if !first {
            out.push(b',');
        }
        first = false;
        write_string(key, out);
        out.push(b':');
        write_value(value, out);
    }
    out.push(b'}');
}

/// Appends the canonical form of a value. Recurses as deep as the value is nested.
pub(crate) fn write_value(value: &CanonicalJsonValue, out: &mut Vec<u8>) {
    match value {
        CanonicalJsonValue::Null => out.extend_from_slice(b"null"),
        CanonicalJsonValue::Bool(true) => out.extend_from_slice(b"true"),
        CanonicalJsonValue::Bool(false) => out.extend_from_slice(b"false"),
        CanonicalJsonValue::Integer(integer) => write_integer(*integer, out),
        CanonicalJsonValue::Number(token) => out.extend_from_slice(token.as_bytes()),
        CanonicalJsonValue::String(string) => write_string(string, out),
        CanonicalJsonValue::Array(array) => {
            out.push(b'[');
            for (index, element) in array.iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                write_value(element, out);
            }
            out.push(b']');
        }
        CanonicalJsonValue::Object(object) => write_object_without_into(object, &[], out),
    }
}

/// Appends a string in quotes: only what must be escaped is, in its shortest form.
pub(crate) fn write_string(string: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    let mut rest = string.as_bytes();
    while let Some(position) = rest.iter().position(|byte| matches!(byte, 0..0x20 | b'"' | b'\\')) {
        let (plain, escaped) = rest.split_at(position);
        out.extend_from_slice(plain);
        let Some((byte, after)) = escaped.split_first() else { break };
        write_escape(*byte, out);
        rest = after;
    }
    out.extend_from_slice(rest);
    out.push(b'"');
}

fn write_escape(byte: u8, out: &mut Vec<u8>) {
    let short = match byte {
        b'"' | b'\\' => byte,
        0x08 => b'b',
        0x09 => b't',
        0x0a => b'n',
        0x0c => b'f',
        0x0d => b'r',
        _ => {
            let low = byte & 0x0f;
            let digit = if low < 10 { b'0' + low } else { b'a' + low - 10 };
            out.extend_from_slice(&[b'\\', b'u', b'0', b'0', b'0' + (byte >> 4), digit]);
            return;
        }
    };
    out.extend_from_slice(&[b'\\', short]);
}

fn write_integer(integer: i64, out: &mut Vec<u8>) {
    // Nineteen digits and a sign.
    let mut digits = [0; 20];
    let mut rest = integer.unsigned_abs();
    let mut len = 0;
    for slot in digits.iter_mut().rev() {
        *slot = b'0' + (rest % 10) as u8;
        rest /= 10;
        len += 1;
        if rest == 0 {
            break;
        }
    }
    if integer < 0 {
        out.push(b'-');
    }
    out.extend_from_slice(digits.get(digits.len() - len..).unwrap_or_default());
}
