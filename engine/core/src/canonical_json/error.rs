use std::fmt;

/// Why bytes are not the JSON that is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{kind} at byte {offset}")]
pub struct JsonError {
    /// The index of the offending byte in the input.
    pub offset: usize,
    /// What is wrong there.
    pub kind: JsonErrorKind,
}

/// What is wrong with a piece of JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JsonErrorKind {
    /// The input is not UTF-8.
    InvalidUtf8,
    /// The input begins with a byte order mark.
    ByteOrderMark,
    /// The input ends inside a value.
    UnexpectedEnd,
    /// A character that cannot stand here.
    UnexpectedCharacter,
    /// Something follows the value.
    TrailingData,
    /// Arrays and objects are nested deeper than [`super::DEPTH_MAX`].
    TooDeep,
    /// A control character stands in a string without escape.
    ControlCharacter,
    /// A backslash is followed by something that is no escape.
    InvalidEscape,
    /// Half of a surrogate pair stands alone.
    LoneSurrogate,
    /// A number is not written as JSON demands.
    InvalidNumber,
    /// A number has a fraction or an exponent (or, in lenient mode, no integral value).
    NotAnInteger,
    /// A number is `-0`.
    NegativeZero,
    /// An integer is beyond ±(2^53 − 1).
    IntegerOutOfRange,
    /// An object has a key twice.
    DuplicateKey,
    /// The value is not an object.
    NotAnObject,
}

impl fmt::Display for JsonErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::InvalidUtf8 => "invalid UTF-8",
            Self::ByteOrderMark => "byte order mark",
            Self::UnexpectedEnd => "unexpected end of input",
            Self::UnexpectedCharacter => "unexpected character",
            Self::TrailingData => "data after the value",
            Self::TooDeep => "arrays and objects nested too deep",
            Self::ControlCharacter => "control character in a string",
            Self::InvalidEscape => "invalid escape",
            Self::LoneSurrogate => "lone surrogate",
            Self::InvalidNumber => "malformed number",
            Self::NotAnInteger => "number that is not an integer",
            Self::NegativeZero => "negative zero",
            Self::IntegerOutOfRange => "integer out of range",
            Self::DuplicateKey => "duplicate key",
            Self::NotAnObject => "value that is not an object",
        })
    }
}
