//! ed25519 keys.

use std::fmt;

use ed25519_dalek::{Signature, Signer};

use super::decode_base64_array;
use crate::id::KeyId;

/// Why bytes are not a key to verify with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidVerifyKey {
    /// It is not the base64 of 32 bytes.
    #[error("not the base64 of 32 bytes")]
    Malformed,
    /// The bytes are not a point of the curve.
    #[error("not an ed25519 key")]
    NotAPoint,
    /// The point is of small order: everybody can make signatures for it.
    #[error("weak key")]
    Weak,
}

/// A signature that does not belong to the message and the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid signature")]
pub struct InvalidSignature;

/// The secret key of a server, with its id. `Debug` shows the id only.
#[derive(Clone)]
pub struct SigningKey {
    key_id: KeyId,
    key: ed25519_dalek::SigningKey,
}

impl SigningKey {
    /// Makes the key of its 32-byte seed.
    pub fn from_seed(key_id: KeyId, seed: &[u8; 32]) -> Self {
        Self { key_id, key: ed25519_dalek::SigningKey::from_bytes(seed) }
    }

    /// Returns the id under which others find the key.
    pub fn key_id(&self) -> &KeyId {
        &self.key_id
    }

    /// Returns the public half.
    pub fn verify_key(&self) -> VerifyKey {
        VerifyKey(self.key.verifying_key())
    }

    /// Signs a message.
    pub fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.key.sign(message).to_bytes()
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SigningKey").field(&self.key_id).finish()
    }
}

/// A public ed25519 key that is not weak.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct VerifyKey(ed25519_dalek::VerifyingKey);

impl VerifyKey {
    /// Makes a key of its 32 bytes.
    ///
    /// # Errors
    ///
    /// [`InvalidVerifyKey::NotAPoint`], [`InvalidVerifyKey::Weak`]
    pub fn from_bytes(bytes: &[u8; 32]) -> Result<Self, InvalidVerifyKey> {
        let key = ed25519_dalek::VerifyingKey::from_bytes(bytes).map_err(|_| InvalidVerifyKey::NotAPoint)?;
        if key.is_weak() { Err(InvalidVerifyKey::Weak) } else { Ok(Self(key)) }
    }

    /// Makes a key of its standard or URL-safe base64.
    ///
    /// # Errors
    ///
    /// [`InvalidVerifyKey`]
    pub fn from_base64(text: &str) -> Result<Self, InvalidVerifyKey> {
        Self::from_bytes(&decode_base64_array(text).ok_or(InvalidVerifyKey::Malformed)?)
    }

    /// Returns the 32 bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        self.0.as_bytes()
    }

    /// Checks a signature of a message, strictly (see the module's page).
    ///
    /// # Errors
    ///
    /// [`InvalidSignature`]
    pub fn verify(&self, message: &[u8], signature: &[u8; 64]) -> Result<(), InvalidSignature> {
        self.0.verify_strict(message, &Signature::from_bytes(signature)).map_err(|_| InvalidSignature)
    }
}

impl fmt::Debug for VerifyKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VerifyKey({})", super::encode_base64(self.as_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::{InvalidVerifyKey, Signature, SigningKey, VerifyKey};
    use crate::id::KeyId;

    fn bytes<const N: usize>(hex: &str) -> [u8; N] {
        let byte = |index: usize| u8::from_str_radix(&hex[2 * index..2 * index + 2], 16).unwrap();
        std::array::from_fn(byte)
    }

    #[test]
    fn weak_keys_are_refused() {
        for weak in [
            "0100000000000000000000000000000000000000000000000000000000000000",
            "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
            "0000000000000000000000000000000000000000000000000000000000000000",
            "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
        ] {
            assert_eq!(VerifyKey::from_bytes(&bytes(weak)), Err(InvalidVerifyKey::Weak), "{weak}");
        }
        let no_point = "0200000000000000000000000000000000000000000000000000000000000000";
        assert_eq!(VerifyKey::from_bytes(&bytes(no_point)), Err(InvalidVerifyKey::NotAPoint));
        assert_eq!(VerifyKey::from_base64("AA"), Err(InvalidVerifyKey::Malformed));
    }

    #[test]
    fn secret_is_not_shown() {
        let key = SigningKey::from_seed(KeyId::parse("ed25519:1").unwrap(), &[1; 32]);
        assert_eq!(format!("{key:?}"), "SigningKey(\"ed25519:1\")");
    }

    /// The reason why there is no batch check: signatures of `{}` that the owner of the key of seed 01…01 made with an R of
    /// small order, and with an R that has a part of order two, pass as a batch.
    #[test]
    fn a_batch_would_accept_what_is_refused_alone() {
        let key = SigningKey::from_seed(KeyId::parse("ed25519:1").unwrap(), &[1; 32]).verify_key();
        for signature in [
            "0100000000000000000000000000000000000000000000000000000000000000\
             635852e9e2203834b6e94122e8e505898a2e0dec12b0d13641b9d4910bb79e08",
            "beeecd359e54c7200ff0d015cdd70db3938e2a7f7a47f1b81e6aea34d8172fb8\
             5c7c8ff55e16fdb39834fcbf9a2d9411e516d7cef8afb9f366df401e6e59aa0c",
        ] {
            let signature = bytes(signature);
            assert!(key.verify(b"{}", &signature).is_err());
            let batch = ed25519_dalek::verify_batch(&[b"{}"], &[Signature::from_bytes(&signature)], &[key.0]);
            assert!(batch.is_ok());
        }
    }
}
