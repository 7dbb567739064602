//! The `Authorization: X-Matrix` header: which server has sent a request.
//!
//! Source: server-server API, "Request Authentication".

use http::{HeaderMap, HeaderValue, header::AUTHORIZATION};
use ravel_core::{
    canonical_json::{CanonicalJsonValue, to_canonical_bytes},
    id::{KeyId, ServerName},
    signing::{KeySource, SigningKey, decode_base64, encode_base64},
};

/// What is signed of a request.
#[derive(Clone, Copy, Debug)]
pub struct SignedRequest<'a> {
    /// The method, in upper case.
    pub method: &'a str,
    /// Path and query exactly as on the wire, from `/_matrix/` on.
    pub uri: &'a str,
    /// The body, `None` if it is empty. Parsed with [`JsonMode::ByteExact`](ravel_core::canonical_json::JsonMode): it may hold events
    /// of any room version, and a number that one of them must not have is no reason to refuse the others.
    pub content: Option<&'a CanonicalJsonValue>,
}

/// Who says to have sent a request, and the signatures that are to prove it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct XMatrix {
    /// The sending server.
    pub origin: ServerName,
    /// Signatures by keys of that server, in the order of the headers; never empty.
    pub signatures: Vec<(KeyId, [u8; 64])>,
}

/// Why a request is not authenticated.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum XMatrixError {
    /// There is no header of this scheme.
    #[error("no Authorization header with the scheme X-Matrix")]
    Missing,
    /// A header can't be read.
    #[error("malformed X-Matrix header: {0}")]
    Malformed(&'static str),
    /// The headers name more than one sending server.
    #[error("several X-Matrix headers with different origins")]
    SeveralOrigins,
    /// The request was made for another server.
    #[error("the request is for {destination}")]
    WrongDestination {
        /// That server.
        destination: ServerName,
    },
    /// No key that it is signed with is known and valid now.
    #[error("no valid key of {origin} is known that the request is signed with")]
    NoKey {
        /// The sending server.
        origin: ServerName,
    },
    /// The signature is that of something else.
    #[error("the request is not signed by {origin}")]
    InvalidSignature {
        /// The server that has not sent it.
        origin: ServerName,
    },
}

/// Returns the header that proves that a request is from `origin`.
///
/// # Errors
///
/// None for names and key ids in ASCII without quotes, which their grammars ask for.
pub fn sign(
    request: &SignedRequest<'_>,
    origin: &ServerName,
    destination: &ServerName,
    key: &SigningKey,
) -> Result<HeaderValue, http::header::InvalidHeaderValue> {
    let signature = encode_base64(&key.sign(&request.signed_bytes(origin, destination)));
    let key_id = key.key_id();
    let mut header = HeaderValue::from_str(&format!(
        r#"X-Matrix origin="{origin}",destination="{destination}",key="{key_id}",sig="{signature}""#
    ))?;
    header.set_sensitive(true);
    Ok(header)
}

impl XMatrix {
    /// Reads the headers of a request that `our_name` has received. Other schemes and unknown parameters are ignored.
    ///
    /// # Errors
    ///
    /// [`XMatrixError`], but not the last two. Cost: O(length of the headers), which is bounded.
    pub fn parse(headers: &HeaderMap, our_name: &ServerName) -> Result<Self, XMatrixError> {
        let mut found: Option<Self> = None;
        for header in headers.get_all(AUTHORIZATION) {
            let Some(parameters) = parameters_of(header)? else { continue };
            let parameters = Parameters::parse(parameters)?;
            if let Some(destination) = parameters.destination.filter(|destination| destination != our_name) {
                return Err(XMatrixError::WrongDestination { destination });
            }
            let signature = (parameters.key_id, parameters.signature);
            match &mut found {
                None => found = Some(Self { origin: parameters.origin, signatures: vec![signature] }),
                Some(found) if found.origin != parameters.origin => return Err(XMatrixError::SeveralOrigins),
                Some(found) if found.signatures.len() >= HEADERS_MAX => {
                    return Err(XMatrixError::Malformed("too many of them"));
                }
                Some(found) => found.signatures.push(signature),
            }
        }
        found.ok_or(XMatrixError::Missing)
    }

    /// Checks that the request is from `origin`: one of the signatures is by a key that the server uses now.
    ///
    /// # Errors
    ///
    /// [`XMatrixError::NoKey`], [`XMatrixError::InvalidSignature`]
    pub fn verify(
        &self,
        request: &SignedRequest<'_>,
        our_name: &ServerName,
        keys: &impl KeySource,
        now_ms: i64,
    ) -> Result<(), XMatrixError> {
        let mut bytes = None;
        for (key_id, signature) in &self.signatures {
            let Some(published) = keys.verify_key(self.origin.as_str(), key_id.as_str()) else { continue };
            if published.expired_ts_ms.is_some() || published.valid_until_ts_ms < now_ms {
                continue;
            }
            let bytes = bytes.get_or_insert_with(|| request.signed_bytes(&self.origin, our_name));
            if published.key.verify(bytes, signature).is_ok() {
                return Ok(());
            }
        }
        let origin = self.origin.clone();
        Err(if bytes.is_some() { XMatrixError::InvalidSignature { origin } } else { XMatrixError::NoKey { origin } })
    }
}

impl SignedRequest<'_> {
    /// Returns the canonical JSON that is signed. The destination is part of it even if the header leaves it out.
    fn signed_bytes(&self, origin: &ServerName, destination: &ServerName) -> Vec<u8> {
        let mut bytes = vec![b'{'];
        if let Some(content) = self.content {
            bytes.extend_from_slice(br#""content":"#);
            bytes.extend_from_slice(&to_canonical_bytes(content));
            bytes.push(b',');
        }
        // The names are in canonical order.
        let strings = [
            (r#""destination":"#, destination.as_str()),
            (r#","method":"#, self.method),
            (r#","origin":"#, origin.as_str()),
            (r#","uri":"#, self.uri),
        ];
        for (name, value) in strings {
            bytes.extend_from_slice(name.as_bytes());
            bytes.extend_from_slice(&to_canonical_bytes(&value.into()));
        }
        bytes.push(b'}');
        bytes
    }
}

/// How many headers one request may have.
const HEADERS_MAX: usize = 8;

/// How long one header may be: three names, a signature, and room for what is unknown.
const HEADER_BYTES_MAX: usize = 4096;

/// Returns what follows the scheme, `None` if it is another scheme.
fn parameters_of(header: &HeaderValue) -> Result<Option<&str>, XMatrixError> {
    let bytes = header.as_bytes();
    let scheme_length = bytes.iter().position(|byte| *byte == b' ').unwrap_or(bytes.len());
    if !bytes.get(..scheme_length).is_some_and(|scheme| scheme.eq_ignore_ascii_case(b"X-Matrix")) {
        return Ok(None);
    }
    if bytes.len() > HEADER_BYTES_MAX {
        return Err(XMatrixError::Malformed("too long"));
    }
    let text = std::str::from_utf8(bytes).map_err(|_| XMatrixError::Malformed("not UTF-8"))?;
    Ok(text.get(scheme_length..))
}

struct Parameters {
    origin: ServerName,
    destination: Option<ServerName>,
    key_id: KeyId,
    signature: [u8; 64],
}

impl Parameters {
    fn parse(mut text: &str) -> Result<Self, XMatrixError> {
        let [mut origin, mut destination, mut key, mut sig] = [None, None, None, None];
        loop {
            // RFC 9110, section 5.6.1: empty elements of a list are to be ignored.
            text = text.trim_start_matches([' ', '\t', ',']);
            if text.is_empty() {
                break;
            }
            let (name, rest) = text.split_once('=').ok_or(XMatrixError::Malformed("a parameter without value"))?;
            let (value, rest) = value(rest.trim_start_matches([' ', '\t']))?;
            let place = match name.trim_end_matches([' ', '\t']).to_ascii_lowercase().as_str() {
                "origin" => Some(&mut origin),
                "destination" => Some(&mut destination),
                "key" => Some(&mut key),
                "sig" => Some(&mut sig),
                _ => None,
            };
            if place.is_some_and(|place| place.replace(value).is_some()) {
                return Err(XMatrixError::Malformed("a parameter twice"));
            }
            text = rest.trim_start_matches([' ', '\t']);
            if !text.is_empty() && !text.starts_with(',') {
                return Err(XMatrixError::Malformed("no comma between parameters"));
            }
        }
        let server = |name: String, what| ServerName::parse(&name).map_err(|_| XMatrixError::Malformed(what));
        let origin = origin.ok_or(XMatrixError::Malformed("no origin"))?;
        let key = key.ok_or(XMatrixError::Malformed("no key"))?;
        let signature = sig.ok_or(XMatrixError::Malformed("no sig"))?;
        let signature = decode_base64(&signature).and_then(|bytes| bytes.try_into().ok());
        Ok(Self {
            origin: server(origin, "origin is not a server name")?,
            destination: destination.map(|name| server(name, "destination is not a server name")).transpose()?,
            key_id: KeyId::parse(&key).map_err(|_| XMatrixError::Malformed("key is not a key id"))?,
            signature: signature.ok_or(XMatrixError::Malformed("sig is not the base64 of 64 bytes"))?,
        })
    }
}

/// Splits a value from what follows it: a quoted string, or anything up to a comma or a space. The latter is more than a token may
/// have: "the recipient should allow colons", and some senders leave quotes away around base64, too.
fn value(text: &str) -> Result<(String, &str), XMatrixError> {
    let Some(quoted) = text.strip_prefix('"') else {
        let (value, rest) = text.split_at(text.find([',', ' ', '\t']).unwrap_or(text.len()));
        if value.contains(['"', '\\']) {
            return Err(XMatrixError::Malformed("a quote inside a value"));
        }
        return Ok((value.to_owned(), rest));
    };
    let mut value = String::new();
    let mut characters = quoted.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Ok((value, quoted.get(at + 1..).unwrap_or_default())),
            '\\' => value.extend(characters.next().map(|(_, escaped)| escaped)),
            _ => value.push(character),
        }
    }
    Err(XMatrixError::Malformed("no closing quote"))
}

#[cfg(test)]
mod tests;
