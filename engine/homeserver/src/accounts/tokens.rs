//! Access tokens, and a memory of whose they are.

use std::sync::{Mutex, MutexGuard, PoisonError};

use sha2::{Digest, Sha256};

use super::Session;
use crate::{
    federation::timed_cache::TimedCache,
    random::{Random, random_text},
};

/// Letters of a token; 42 of them have 249 bits.
const TOKEN_CHARS: usize = 42;

/// Returns a new access token.
pub(super) fn generate(random: &dyn Random) -> String {
    random_text(random, TOKEN_CHARS)
}

/// What is kept of an access token: its SHA-256. Tokens are random, so there is nothing to guess.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct TokenHash(pub(super) [u8; 32]);

impl TokenHash {
    pub(super) fn of(token: &str) -> Self {
        Self(Sha256::digest(token.as_bytes()).into())
    }
}

/// How long something is remembered, in milliseconds. It bounds what a failure of the store can do.
const REMEMBERED_MS: i64 = 600_000;

/// Sessions by their tokens, as the log has them. Tokens that are not valid are not remembered.
pub(super) struct Remembered(Mutex<Inner>);

struct Inner {
    sessions: TimedCache<TokenHash, Session>,
    /// Counts the times that something was forgotten.
    forgotten: u64,
}

/// When somebody began to look a session up.
#[derive(Clone, Copy)]
pub(super) struct Began(u64);

impl Remembered {
    pub(super) fn new(count_max: usize) -> Self {
        Self(Mutex::new(Inner { sessions: TimedCache::new(count_max), forgotten: 0 }))
    }

    /// Returns a session, or if it is not remembered when the look-up in the log begins.
    pub(super) fn get(&self, token: TokenHash, now_ms: i64) -> Result<Session, Began> {
        let inner = self.lock();
        inner.sessions.get(&token, now_ms).cloned().ok_or(Began(inner.forgotten))
    }

    /// Remembers what was looked up, unless something was forgotten since: then it may not be so any more.
    pub(super) fn insert(&self, began: Began, token: TokenHash, session: Session, now_ms: i64) {
        let mut inner = self.lock();
        if inner.forgotten == began.0 {
            inner.sessions.insert(token, session, now_ms.saturating_add(REMEMBERED_MS));
        }
    }

    pub(super) fn forget(&self, tokens: &[TokenHash]) {
        let mut inner = self.lock();
        inner.forgotten = inner.forgotten.wrapping_add(1);
        for token in tokens {
            inner.sessions.remove(token);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use ravel_core::id::UserId;

    use super::*;
    use crate::{accounts::Role, random::OsRandom};

    #[test]
    fn sc_150_tokens_can_not_be_guessed() {
        let token = generate(&OsRandom);
        assert!(token.len() == 42 && token.bytes().all(|byte| byte.is_ascii_alphanumeric()));
        assert_ne!(generate(&OsRandom), token);
    }

    #[test]
    fn what_was_looked_up_before_a_logout_is_not_remembered() {
        let session = Session { user_id: UserId::parse("@a:b").unwrap(), device_id: "D".into(), role: Role::User };
        let remembered = Remembered::new(2);
        let token = TokenHash::of("t");
        let began = remembered.get(token, 0).unwrap_err();
        remembered.forget(&[TokenHash::of("u")]);
        remembered.insert(began, token, session.clone(), 0);
        let began = remembered.get(token, 0).unwrap_err();
        remembered.insert(began, token, session.clone(), 0);
        assert!(remembered.get(token, REMEMBERED_MS - 1).is_ok());
        assert!(remembered.get(token, REMEMBERED_MS).is_err());
        remembered.forget(&[token]);
        assert!(remembered.get(token, 0).is_err());
    }
}
