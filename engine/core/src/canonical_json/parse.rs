//! The parser: one pass over the bytes, with the open arrays and objects on a list instead of the stack.

use super::{
    CanonicalJsonObject, CanonicalJsonValue, DEPTH_MAX, JsonError, JsonErrorKind, JsonMode, number, write_string,
};

pub(super) fn parse(bytes: &[u8], mode: JsonMode) -> Result<CanonicalJsonValue, JsonError> {
    Parser::new(bytes, mode, None)?.document().map(|(value, _)| value)
}

/// Parses an event and leaves out its `unsigned`, whose numbers and duplicate keys do not count: any server on the way may
/// change it, so it must have no say in whether the event is valid.
pub(crate) fn parse_event(bytes: &[u8], mode: JsonMode) -> Result<CanonicalJsonObject, JsonError> {
    event(bytes, mode).map(|(object, _)| object)
}

/// As [`parse_event`]; `None` if the bytes are not the canonical form of what comes out.
pub(crate) fn parse_canonical_event(bytes: &[u8], mode: JsonMode) -> Result<Option<CanonicalJsonObject>, JsonError> {
    event(bytes, mode).map(|(object, is_canonical)| is_canonical.then_some(object))
}

fn event(bytes: &[u8], mode: JsonMode) -> Result<(CanonicalJsonObject, bool), JsonError> {
    match Parser::new(bytes, mode, Some("unsigned"))?.document()? {
        (CanonicalJsonValue::Object(mut object), is_canonical) => {
            let had_unsigned = object.remove("unsigned").is_some();
            Ok((object, is_canonical && !had_unsigned))
        }
        _ => Err(JsonError { offset: 0, kind: JsonErrorKind::NotAnObject }),
    }
}

/// An array or object that is not closed yet.
enum Open {
    Array(Vec<CanonicalJsonValue>),
    Object {
        members: CanonicalJsonObject,
        /// The key whose value comes next.
        key: Box<str>,
    },
}

struct Parser<'a> {
    text: &'a str,
    /// Index of the next byte. Invariant: at most the length of the text.
    at: usize,
    mode: JsonMode,
    /// The key at the top whose value is read by [`JsonMode::ByteExact`] instead.
    loose_key: Option<&'static str>,
    open: Vec<Open>,
    /// Whether all that was read is as canonical JSON has it.
    is_canonical: bool,
}

impl<'a> Parser<'a> {
    fn new(bytes: &'a [u8], mode: JsonMode, loose_key: Option<&'static str>) -> Result<Self, JsonError> {
        if bytes.starts_with(b"\xef\xbb\xbf") {
            return Err(JsonError { offset: 0, kind: JsonErrorKind::ByteOrderMark });
        }
        let text = std::str::from_utf8(bytes)
            .map_err(|error| JsonError { offset: error.valid_up_to(), kind: JsonErrorKind::InvalidUtf8 })?;
        Ok(Self { text, at: 0, mode, loose_key, open: Vec::new(), is_canonical: true })
    }

    /// Reads all, and tells whether it is canonical JSON.
    fn document(mut self) -> Result<(CanonicalJsonValue, bool), JsonError> {
        loop {
            // A value stands here.
            let mut value = match self.peek_token()? {
                b'{' => {
                    self.enter()?;
                    if self.peek_token()? == b'}' {
                        self.at += 1;
                        CanonicalJsonValue::Object(CanonicalJsonObject::new())
                    } else {
                        let members = CanonicalJsonObject::new();
                        let key = self.key(&members)?;
                        self.open.push(Open::Object { members, key });
                        continue;
                    }
                }
                b'[' => {
                    self.enter()?;
                    if self.peek_token()? == b']' {
                        self.at += 1;
                        CanonicalJsonValue::Array(Vec::new())
                    } else {
                        self.open.push(Open::Array(Vec::new()));
                        continue;
                    }
                }
                first => self.scalar(first)?,
            };
            // It is complete: put it where it belongs, and close what closes after it.
            loop {
                let Some(open) = self.open.pop() else {
                    self.skip_whitespace();
                    return if self.at == self.text.len() {
                        Ok((value, self.is_canonical))
                    } else {
                        Err(self.error(JsonErrorKind::TrailingData))
                    };
                };
                match open {
                    Open::Array(mut elements) => {
                        elements.push(value);
                        match self.next_token()? {
                            b',' => {
                                self.open.push(Open::Array(elements));
                                break;
                            }
                            b']' => value = CanonicalJsonValue::Array(elements),
                            _ => return Err(self.error_before(JsonErrorKind::UnexpectedCharacter)),
                        }
                    }
                    Open::Object { mut members, key } => {
                        members.insert(key, value);
                        match self.next_token()? {
                            b',' => {
                                let key = self.key(&members)?;
                                self.open.push(Open::Object { members, key });
                                break;
                            }
                            b'}' => value = CanonicalJsonValue::Object(members),
                            _ => return Err(self.error_before(JsonErrorKind::UnexpectedCharacter)),
                        }
                    }
                }
            }
        }
    }

    /// Steps over an opening bracket.
    fn enter(&mut self) -> Result<(), JsonError> {
        if self.open.len() >= DEPTH_MAX {
            return Err(self.error(JsonErrorKind::TooDeep));
        }
        self.at += 1;
        Ok(())
    }

    /// Reads a key and its colon.
    fn key(&mut self, members: &CanonicalJsonObject) -> Result<Box<str>, JsonError> {
        let byte = self.peek_token()?;
        let start = self.at;
        if byte != b'"' {
            return Err(self.error(JsonErrorKind::UnexpectedCharacter));
        }
        let key = self.string()?;
        // Keys mostly come in order, so the last one is asked first.
        let is_last = members.last_key_value().is_none_or(|(last, _)| **last < *key);
        self.is_canonical &= is_last;
        if !is_last && self.mode() != JsonMode::ByteExact && members.contains_key(&key) {
            return Err(JsonError { offset: start, kind: JsonErrorKind::DuplicateKey });
        }
        if self.next_token()? == b':' { Ok(key) } else { Err(self.error_before(JsonErrorKind::UnexpectedCharacter)) }
    }

    fn scalar(&mut self, first: u8) -> Result<CanonicalJsonValue, JsonError> {
        match first {
            b'"' => Ok(CanonicalJsonValue::String(self.string()?)),
            b't' => self.word("true", CanonicalJsonValue::Bool(true)),
            b'f' => self.word("false", CanonicalJsonValue::Bool(false)),
            b'n' => self.word("null", CanonicalJsonValue::Null),
            b'-' | b'0'..=b'9' => self.number(),
            _ => Err(self.error(JsonErrorKind::UnexpectedCharacter)),
        }
    }

    fn word(&mut self, word: &str, value: CanonicalJsonValue) -> Result<CanonicalJsonValue, JsonError> {
        let rest = self.rest();
        if rest.starts_with(word.as_bytes()) {
            self.at += word.len();
            return Ok(value);
        }
        self.at += rest.iter().zip(word.bytes()).take_while(|(a, b)| **a == *b).count();
        let at_end = self.at == self.text.len();
        Err(self.error(if at_end { JsonErrorKind::UnexpectedEnd } else { JsonErrorKind::UnexpectedCharacter }))
    }

    fn number(&mut self) -> Result<CanonicalJsonValue, JsonError> {
        let start = self.at;
        let scanned = number::scan(self.rest())
            .map_err(|(offset, kind)| JsonError { offset: start.saturating_add(offset), kind })?;
        self.at += scanned.len;
        let token = self.text.get(start..self.at).unwrap_or_default();
        // The lenient mode takes others than it would write.
        self.is_canonical &= self.mode() != JsonMode::Lenient;
        number::value(token, &scanned, self.mode()).map_err(|kind| JsonError { offset: start, kind })
    }

    /// Reads a string, at its opening quote.
    fn string(&mut self) -> Result<Box<str>, JsonError> {
        let start = self.at;
        self.at += 1;
        let plain = self.plain();
        if self.peek()? == b'"' {
            self.at += 1;
            return Ok(plain.into());
        }
        let mut string = String::from(plain);
        loop {
            match self.peek()? {
                b'"' => {
                    self.at += 1;
                    let mut canonical = Vec::new();
                    write_string(&string, &mut canonical);
                    self.is_canonical &= self.text.as_bytes().get(start..self.at) == Some(&*canonical);
                    return Ok(string.into_boxed_str());
                }
                b'\\' => string.push(self.escape()?),
                _ => return Err(self.error(JsonErrorKind::ControlCharacter)),
            }
            string.push_str(self.plain());
        }
    }

    /// Steps over the characters that stand for themselves, up to a quote, a backslash or a control character.
    fn plain(&mut self) -> &'a str {
        let rest = self.rest();
        let len = rest.iter().position(|byte| matches!(byte, 0..0x20 | b'"' | b'\\')).unwrap_or(rest.len());
        let start = self.at;
        self.at += len;
        // Both ends are at an ASCII character or the end, so this is always on a character boundary.
        self.text.get(start..self.at).unwrap_or_default()
    }

    /// Reads an escape, at its backslash.
    fn escape(&mut self) -> Result<char, JsonError> {
        let start = self.at;
        self.at += 1;
        let byte = self.peek()?;
        self.at += 1;
        Ok(match byte {
            b'"' | b'\\' | b'/' => char::from(byte),
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => {
                let lone = JsonError { offset: start, kind: JsonErrorKind::LoneSurrogate };
                let unit = self.hex_unit()?;
                let code_point = match unit {
                    0xd800..0xdc00 => {
                        if !self.rest().starts_with(b"\\u") {
                            return Err(lone);
                        }
                        self.at += 2;
                        match self.hex_unit()? {
                            low @ 0xdc00..0xe000 => 0x1_0000 + ((unit - 0xd800) << 10) + (low - 0xdc00),
                            _ => return Err(lone),
                        }
                    }
                    _ => unit,
                };
                // Only the second half of a pair is left to be no character.
                char::from_u32(code_point).ok_or(lone)?
            }
            _ => return Err(JsonError { offset: start, kind: JsonErrorKind::InvalidEscape }),
        })
    }

    /// Reads the four hexadecimal digits of a `\u` escape.
    fn hex_unit(&mut self) -> Result<u32, JsonError> {
        let mut unit = 0;
        for _ in 0..4 {
            let digit = char::from(self.peek()?).to_digit(16).ok_or(self.error(JsonErrorKind::InvalidEscape))?;
            unit = unit << 4 | digit;
            self.at += 1;
        }
        Ok(unit)
    }

    /// The mode for what stands here.
    fn mode(&self) -> JsonMode {
        match (self.loose_key, self.open.first()) {
            (Some(loose_key), Some(Open::Object { key, .. })) if **key == *loose_key => JsonMode::ByteExact,
            _ => self.mode,
        }
    }

    fn rest(&self) -> &'a [u8] {
        self.text.as_bytes().get(self.at..).unwrap_or_default()
    }

    fn peek(&self) -> Result<u8, JsonError> {
        self.text.as_bytes().get(self.at).copied().ok_or(self.error(JsonErrorKind::UnexpectedEnd))
    }

    fn skip_whitespace(&mut self) {
        while let Some(b' ' | b'\t' | b'\n' | b'\r') = self.text.as_bytes().get(self.at) {
            self.is_canonical = false;
            self.at += 1;
        }
    }

    /// Returns the next byte that is not whitespace and stays at it.
    fn peek_token(&mut self) -> Result<u8, JsonError> {
        self.skip_whitespace();
        self.peek()
    }

    /// Returns the next byte that is not whitespace and steps over it.
    fn next_token(&mut self) -> Result<u8, JsonError> {
        let byte = self.peek_token()?;
        self.at += 1;
        Ok(byte)
    }

    fn error(&self, kind: JsonErrorKind) -> JsonError {
        JsonError { offset: self.at, kind }
    }

    /// An error at the byte that was just stepped over.
    fn error_before(&self, kind: JsonErrorKind) -> JsonError {
        JsonError { offset: self.at.saturating_sub(1), kind }
    }
}
