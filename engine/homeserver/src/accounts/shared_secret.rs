//! Accounts for whoever knows a secret of the server's.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use hmac::{Hmac, KeyInit, Mac};
use sha1::Sha1;

use crate::{
    clock::Clock,
    federation::timed_cache::TimedCache,
    random::{Random, random_text},
};

/// How long a nonce can be used, in milliseconds.
const NONCE_MS: i64 = 60_000;

/// How many are kept; then the oldest ends.
const NONCES_MAX: usize = 1_000;

/// Checks that whoever wants an account knows the secret.
pub struct SharedSecret {
    secret: String,
    nonces: Mutex<TimedCache<String, ()>>,
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
}

impl fmt::Debug for SharedSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SharedSecret")
    }
}

/// Why an account is not made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)]
pub enum SharedSecretError {
    #[error("there is no such nonce, or no longer")]
    UnknownNonce,
    #[error("the mac is not right")]
    WrongMac,
}

/// What whoever knows the secret has signed.
#[derive(Clone, Copy)]
pub struct SignedRegistration<'a> {
    /// From [`SharedSecret::nonce`].
    pub nonce: &'a str,
    /// The name.
    pub username: &'a str,
    /// The password.
    pub password: &'a str,
    /// Whether it is for an administrator.
    pub is_admin: bool,
}

impl SharedSecret {
    /// Makes the check of a secret.
    pub fn new(secret: String, clock: Arc<dyn Clock>, random: Arc<dyn Random>) -> Self {
        Self { secret, nonces: Mutex::new(TimedCache::new(NONCES_MAX)), clock, random }
    }

    /// Returns a text that a registration can be signed with, once.
    pub fn nonce(&self) -> String {
        let nonce = random_text(&*self.random, 32);
        let end_ms = self.clock.now_ms().saturating_add(NONCE_MS);
        self.nonces.lock().unwrap_or_else(PoisonError::into_inner).insert(nonce.clone(), (), end_ms);
        nonce
    }

    /// Checks the HMAC-SHA1, in hexadecimal, of nonce, name, password and `admin` or `notadmin`, separated by NUL.
    ///
    /// # Errors
    ///
    /// [`SharedSecretError`]. The nonce is used up in any case.
    pub fn check(&self, signed: &SignedRegistration<'_>, mac: &str) -> Result<(), SharedSecretError> {
        let mut nonces = self.nonces.lock().unwrap_or_else(PoisonError::into_inner);
        let nonce = signed.nonce.to_owned();
        let is_known = nonces.get(&nonce, self.clock.now_ms()).is_some();
        nonces.remove(&nonce);
        drop(nonces);
        if !is_known {
            return Err(SharedSecretError::UnknownNonce);
        }
        // NUL separates: with one in a name, two registrations would be signed alike.
        if signed.username.contains('\0') || signed.password.contains('\0') {
            return Err(SharedSecretError::WrongMac);
        }
        let Ok(mut expected) = Hmac::<Sha1>::new_from_slice(self.secret.as_bytes()) else {
            return Err(SharedSecretError::WrongMac);
        };
        let role = if signed.is_admin { "admin" } else { "notadmin" };
        expected.update([signed.nonce, signed.username, signed.password, role].join("\0").as_bytes());
        let mac = from_hex(mac).ok_or(SharedSecretError::WrongMac)?;
        expected.verify_slice(&mac).map_err(|_| SharedSecretError::WrongMac)
    }
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digits: Vec<u8> =
        text.chars().map(|digit| u8::try_from(digit.to_digit(16)?).ok()).collect::<Option<Vec<u8>>>()?;
    let (pairs, rest) = digits.as_chunks::<2>();
    rest.is_empty().then(|| pairs.iter().map(|[high, low]| high << 4 | low).collect())
}
