//! Number tokens: their grammar, and what each mode makes of them.

use super::{CanonicalJsonValue, INTEGER_MAX, JsonErrorKind, JsonMode};

/// The parts of a number token at the start of `bytes`.
pub(super) struct Token {
    /// Bytes of the whole token.
    pub(super) len: usize,
    /// Bytes of sign and integer part.
    int_len: usize,
}

/// Finds the end of the number token at the start of `bytes`: `[ "-" ] int [ frac ] [ exp ]` of RFC 8259.
///
/// An error carries the offset in `bytes`.
pub(super) fn scan(bytes: &[u8]) -> Result<Token, (usize, JsonErrorKind)> {
    let digits_from = |start: usize| -> Result<usize, (usize, JsonErrorKind)> {
        let count = bytes.get(start..).unwrap_or_default().iter().take_while(|byte| byte.is_ascii_digit()).count();
        if count > 0 {
            return Ok(start + count);
        }
        let kind = if start < bytes.len() { JsonErrorKind::InvalidNumber } else { JsonErrorKind::UnexpectedEnd };
        Err((start, kind))
    };
    let int_start = usize::from(bytes.first() == Some(&b'-'));
    let int_len = digits_from(int_start)?;
    if int_len > int_start + 1 && bytes.get(int_start) == Some(&b'0') {
        return Err((int_start, JsonErrorKind::InvalidNumber));
    }
    let mut len = int_len;
    if bytes.get(len) == Some(&b'.') {
        len = digits_from(len + 1)?;
    }
    if matches!(bytes.get(len), Some(b'e' | b'E')) {
        let signed = usize::from(matches!(bytes.get(len + 1), Some(b'+' | b'-')));
        len = digits_from(len + 1 + signed)?;
    }
    Ok(Token { len, int_len })
}

/// Makes a value of a scanned token, as the mode wants it.
pub(super) fn value(token: &str, scanned: &Token, mode: JsonMode) -> Result<CanonicalJsonValue, JsonErrorKind> {
    let is_integer = scanned.int_len == scanned.len;
    match mode {
        JsonMode::Strict if !is_integer => Err(JsonErrorKind::NotAnInteger),
        JsonMode::Strict if token == "-0" => Err(JsonErrorKind::NegativeZero),
        JsonMode::Strict => in_range(token.parse().ok()),
        JsonMode::ByteExact => Ok(match token.parse() {
            Ok(integer) if is_integer && token != "-0" => CanonicalJsonValue::Integer(integer),
            _ => CanonicalJsonValue::Number(token.into()),
        }),
        JsonMode::Lenient if is_integer => in_range(token.parse().ok()),
        JsonMode::Lenient => integral(token),
    }
}

/// Returns the value of an integer token, bounded to `i64`; `None` if it has a fraction or an exponent.
pub(super) fn saturating_integer(token: &str) -> Option<i64> {
    let digits = token.strip_prefix('-').unwrap_or(token);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    // Nothing but digits is left, so only the range can make this fail.
    Some(token.parse().unwrap_or(if token.starts_with('-') { i64::MIN } else { i64::MAX }))
}

fn in_range(integer: Option<i64>) -> Result<CanonicalJsonValue, JsonErrorKind> {
    match integer {
        Some(integer) if (-INTEGER_MAX..=INTEGER_MAX).contains(&integer) => Ok(CanonicalJsonValue::Integer(integer)),
        _ => Err(JsonErrorKind::IntegerOutOfRange),
    }
}

/// Reads a token with fraction or exponent whose value is an integer, by shifting the point among its digits.
fn integral(token: &str) -> Result<CanonicalJsonValue, JsonErrorKind> {
    let (mantissa, exponent) = token.split_once(['e', 'E']).unwrap_or((token, "0"));
    let negative = mantissa.starts_with('-');
    let mantissa = mantissa.trim_start_matches('-');
    let (int, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let fraction = fraction.trim_end_matches('0');

    let digits = || int.bytes().chain(fraction.bytes()).map(|byte| i64::from(byte.wrapping_sub(b'0')));
    if digits().all(|digit| digit == 0) {
        return Ok(CanonicalJsonValue::Integer(0));
    }
    // The exponent itself may have any number of digits: bounding it changes neither of the two verdicts below.
    let exponent_limit = 1 << 32;
    let exponent = match exponent.strip_prefix('-') {
        Some(digits) => -digits.parse().unwrap_or(exponent_limit).min(exponent_limit),
        None => exponent.trim_start_matches('+').parse().unwrap_or(exponent_limit).min(exponent_limit),
    };
    let digit_count = int.len() + fraction.len();
    let trailing_zeros = digits().rev().take_while(|digit| *digit == 0).count();
    let significant = digit_count - trailing_zeros;
    let as_shift = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
    // value = significant digits * 10^shift
    let shift = exponent - as_shift(fraction.len()) + as_shift(trailing_zeros);
    if shift < 0 {
        return Err(JsonErrorKind::NotAnInteger);
    }
    let mut value: i64 = 0;
    for digit in digits().take(significant).chain((0..shift).map(|_| 0)) {
        value = value * 10 + digit;
        if value > INTEGER_MAX {
            return Err(JsonErrorKind::IntegerOutOfRange);
        }
    }
    Ok(CanonicalJsonValue::Integer(if negative { -value } else { value }))
}
