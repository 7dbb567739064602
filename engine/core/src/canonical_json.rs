//! Canonical JSON: parsing, and the one way of writing that hashes and signatures are made of.
//!
//! Source: appendices, "Canonical JSON"; "Canonical JSON" of room version 6. A parser of its own is needed because in room
//! versions 1 to 5 number tokens have to survive as they were written: they are part of what was signed.

use std::collections::BTreeMap;

mod error;
mod number;
mod parse;
mod write;

pub use self::error::{JsonError, JsonErrorKind};
pub(crate) use self::parse::{parse_canonical_event, parse_event};
pub(crate) use self::write::{write_object_without, write_string, write_value};

/// A JSON value whose canonical form is determined.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CanonicalJsonValue {
    /// `null`
    Null,
    /// `true` or `false`
    Bool(bool),
    /// An integer that is written like this in canonical form.
    Integer(i64),
    /// A number token that is no canonical integer of 64 bits, kept byte for byte. Only [`JsonMode::ByteExact`] makes these.
    Number(Box<str>),
    /// A string.
    String(Box<str>),
    /// An array.
    Array(Vec<CanonicalJsonValue>),
    /// An object.
    Object(CanonicalJsonObject),
}

/// A JSON object, ordered by the code points of its keys, which is the order of their UTF-8 bytes.
pub type CanonicalJsonObject = BTreeMap<Box<str>, CanonicalJsonValue>;

/// How numbers and duplicate keys are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JsonMode {
    /// Events of room version 6 and later: integers within ±(2^53 − 1) without fraction, exponent or negative zero; a
    /// duplicate key is refused.
    Strict,
    /// Events of room versions 1 to 5: number tokens are kept as written, whatever their range; of duplicate keys the last
    /// one wins.
    ByteExact,
    /// Signed JSON other than events: a number of integral value, such as `1e10` or `-0`, becomes that integer, any other is
    /// refused, as is one beyond ±(2^53 − 1) and a duplicate key.
    Lenient,
}

/// The largest integer of canonical JSON, 2^53 − 1; the smallest is its negative.
pub const INTEGER_MAX: i64 = (1 << 53) - 1;

/// How deep arrays and objects may be nested.
///
/// Deep values are written, cloned and dropped by recursion; this many levels fit a small stack.
pub const DEPTH_MAX: usize = 512;

/// Parses one JSON value.
///
/// # Errors
///
/// [`JsonError`] says what is wrong and at which byte: anything that is not JSON (RFC 8259) in UTF-8 without byte order mark,
/// lone surrogates, nesting beyond [`DEPTH_MAX`], and what the mode refuses. Cost: O(length).
pub fn parse(bytes: &[u8], mode: JsonMode) -> Result<CanonicalJsonValue, JsonError> {
    parse::parse(bytes, mode)
}

/// Parses one JSON object.
///
/// # Errors
///
/// As [`parse`], and [`JsonErrorKind::NotAnObject`].
pub fn parse_object(bytes: &[u8], mode: JsonMode) -> Result<CanonicalJsonObject, JsonError> {
    match parse(bytes, mode)? {
        CanonicalJsonValue::Object(object) => Ok(object),
        _ => Err(JsonError { offset: 0, kind: JsonErrorKind::NotAnObject }),
    }
}

/// Returns the canonical form of a value. Cost: O(its length).
pub fn to_canonical_bytes(value: &CanonicalJsonValue) -> Vec<u8> {
    let mut bytes = Vec::new();
    write_value(value, &mut bytes);
    bytes
}

/// Returns the canonical form of an object. Cost: O(its length).
pub fn object_to_canonical_bytes(object: &CanonicalJsonObject) -> Vec<u8> {
    write_object_without(object, &[])
}

/// Returns the string under a key; `None` if it is absent or something else.
pub fn get_str<'a>(object: &'a CanonicalJsonObject, key: &str) -> Option<&'a str> {
    object.get(key)?.as_str()
}

/// Returns the integer under a key; `None` if it is absent or something else.
pub fn get_i64(object: &CanonicalJsonObject, key: &str) -> Option<i64> {
    object.get(key)?.as_i64()
}

/// Returns the object under a key; `None` if it is absent or something else.
pub fn get_object<'a>(object: &'a CanonicalJsonObject, key: &str) -> Option<&'a CanonicalJsonObject> {
    object.get(key)?.as_object()
}

/// Returns the array under a key; `None` if it is absent or something else.
pub fn get_array<'a>(object: &'a CanonicalJsonObject, key: &str) -> Option<&'a [CanonicalJsonValue]> {
    object.get(key)?.as_array()
}

impl CanonicalJsonValue {
    /// Returns the string, if it is one.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::String(string) => Some(string),
            _ => None,
        }
    }

    /// Returns the integer, if it is one in canonical form and of 64 bits.
    pub fn as_i64(&self) -> Option<i64> {
        match self {
            Self::Integer(integer) => Some(*integer),
            _ => None,
        }
    }

    /// Returns the integer, also one beyond 64 bits or `-0` of [`JsonMode::ByteExact`]; what is beyond `i64` becomes the
    /// nearest `i64`. `None` if it has a fraction or an exponent, or is no number.
    pub fn as_i64_saturating(&self) -> Option<i64> {
        match self {
            Self::Integer(integer) => Some(*integer),
            Self::Number(token) => number::saturating_integer(token),
            _ => None,
        }
    }

    /// Returns the boolean, if it is one.
    pub fn as_bool(&self) -> Option<bool> {
        match self {
            Self::Bool(bool) => Some(*bool),
            _ => None,
        }
    }

    /// Returns the elements, if it is an array.
    pub fn as_array(&self) -> Option<&[Self]> {
        match self {
            Self::Array(array) => Some(array),
            _ => None,
        }
    }

    /// Returns the object, if it is one.
    pub fn as_object(&self) -> Option<&CanonicalJsonObject> {
        match self {
            Self::Object(object) => Some(object),
            _ => None,
        }
    }
}

impl From<&str> for CanonicalJsonValue {
    fn from(string: &str) -> Self {
        Self::String(string.into())
    }
}

impl From<String> for CanonicalJsonValue {
    fn from(string: String) -> Self {
        Self::String(string.into())
    }
}

impl From<bool> for CanonicalJsonValue {
    fn from(bool: bool) -> Self {
        Self::Bool(bool)
    }
}

impl From<CanonicalJsonObject> for CanonicalJsonValue {
    fn from(object: CanonicalJsonObject) -> Self {
        Self::Object(object)
    }
}

impl From<Vec<Self>> for CanonicalJsonValue {
    fn from(array: Vec<Self>) -> Self {
        Self::Array(array)
    }
}

#[cfg(test)]
mod tests;
