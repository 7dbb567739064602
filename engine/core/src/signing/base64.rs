//! Unpadded base64 (appendices, "Unpadded Base64").

use base64::{
    Engine, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};

/// Padding may be there or not, and the bits that the last character has beyond the last byte need not be zero: deployed keys
/// and signatures are like that.
const TOLERANT: GeneralPurposeConfig = GeneralPurposeConfig::new()
    .with_encode_padding(false)
    .with_decode_allow_trailing_bits(true)
    .with_decode_padding_mode(DecodePaddingMode::Indifferent);

const STANDARD: GeneralPurpose = GeneralPurpose::new(&alphabet::STANDARD, TOLERANT);
const URL_SAFE: GeneralPurpose = GeneralPurpose::new(&alphabet::URL_SAFE, TOLERANT);

/// Returns the unpadded standard base64 of bytes.
pub fn encode_base64(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

/// Returns the unpadded URL-safe base64 of bytes.
pub fn encode_base64_url_safe(bytes: &[u8]) -> String {
    URL_SAFE.encode(bytes)
}

/// Decodes standard or URL-safe base64, with or without padding; `None` if it is neither.
pub fn decode_base64(text: &str) -> Option<Vec<u8>> {
    engine_for(text).decode(text).ok()
}

/// Decodes base64 of exactly `N` bytes, at most 64, like [`decode_base64`].
pub(crate) fn decode_base64_array<const N: usize>(text: &str) -> Option<[u8; N]> {
    // Room for what the decoder writes before it knows the length: it works in groups of three bytes.
    let mut buffer = [0; 72];
    if text.len() > 96 {
        return None;
    }
    let len = engine_for(text).decode_slice(text, &mut buffer).ok()?;
    buffer.get(..len)?.try_into().ok()
}

/// The two spellings of a hash in an event id: standard in room version 3, URL-safe from version 4 on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Base64Alphabet {
    Standard,
    UrlSafe,
}

impl Base64Alphabet {
    /// Decodes 32 bytes from exactly the text that [`encode`](Self::encode) makes of them; a text that is the same in both
    /// alphabets is taken as URL-safe.
    pub(crate) fn decode_hash(text: &str) -> Option<(Self, [u8; 32])> {
        let alphabet = if text.contains(['+', '/']) { Self::Standard } else { Self::UrlSafe };
        let mut buffer = [0; 36];
        let len = alphabet.engine().decode_slice(text, &mut buffer).ok()?;
        let hash = buffer.get(..len)?.try_into().ok()?;
        let mut spelled = [0; 43];
        alphabet.encode(&hash, &mut spelled);
        (spelled == *text.as_bytes()).then_some((alphabet, hash))
    }

    /// Writes the 43 characters of a hash.
    pub(crate) fn encode(self, hash: &[u8; 32], text: &mut [u8]) {
        let written = self.engine().encode_slice(hash, text);
        debug_assert_eq!(written, Ok(43), "there is room for 43 characters");
    }

    fn engine(self) -> &'static GeneralPurpose {
        match self {
            Self::Standard => &STANDARD,
            Self::UrlSafe => &URL_SAFE,
        }
    }
}

fn engine_for(text: &str) -> &'static GeneralPurpose {
    if text.contains(['-', '_']) { &URL_SAFE } else { &STANDARD }
}

#[cfg(test)]
mod tests {
    use super::{decode_base64, decode_base64_array, encode_base64};

    #[test]
    fn decoding_is_tolerant() {
        for text in ["+/8", "-_8", "+/8=", "-_8=", "+/9", "-_9="] {
            assert_eq!(decode_base64(text).as_deref(), Some(&[0xfb, 0xff][..]), "{text}");
        }
    }

    #[test]
    fn what_is_not_base64_is_refused() {
        for text in ["a", "+_8a", "a b=", "aa\n", "=", "aa==a", "\u{e4}aaa"] {
            assert_eq!(decode_base64(text), None, "{text:?}");
        }
    }

    #[test]
    fn arrays_have_exactly_their_length() {
        for len in 0..70 {
            let bytes = vec![7; len];
            let text = encode_base64(&bytes);
            assert_eq!(decode_base64_array::<64>(&text).is_some(), len == 64, "{len}");
            assert_eq!(decode_base64_array::<32>(&text).is_some(), len == 32, "{len}");
        }
    }
}
