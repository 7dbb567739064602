//! Tokens by which users prove to others who they are.
//!
//! They are in memory: a restart ends them, as an hour does.
//!
//! Source: client-server API, "OpenID".

use std::sync::{Arc, Mutex, PoisonError};

use ravel_core::id::UserId;
use sha2::{Digest, Sha256};

use crate::{
    clock::Clock,
    federation::timed_cache::TimedCache,
    random::{Random, random_text},
};

/// How long a token is valid, in seconds.
pub const OPEN_ID_SECONDS: u64 = 3_600;

/// How many tokens are valid at once; the oldest make room.
const TOKENS_MAX: usize = 100_000;

/// Letters of a token; 42 of them have 249 bits.
const TOKEN_CHARS: usize = 42;

/// The tokens of a server's users. Cheap to clone.
#[derive(Clone)]
pub struct OpenId(Arc<Inner>);

struct Inner {
    /// By the SHA-256 of the token.
    tokens: Mutex<TimedCache<[u8; 32], UserId>>,
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
}

impl OpenId {
    /// Begins without any.
    pub fn new(clock: Arc<dyn Clock>, random: Arc<dyn Random>) -> Self {
        Self(Arc::new(Inner { tokens: Mutex::new(TimedCache::new(TOKENS_MAX)), clock, random }))
    }

    /// Makes a token of a user.
    pub fn grant(&self, user: &UserId) -> String {
        let token = random_text(&*self.0.random, TOKEN_CHARS);
        let valid_ms = i64::try_from(OPEN_ID_SECONDS).unwrap_or(i64::MAX).saturating_mul(1_000);
        let end_ms = self.0.clock.now_ms().saturating_add(valid_ms);
        self.tokens().insert(hash(&token), user.clone(), end_ms);
        token
    }

    /// Returns whose a token is; `None` if it is not valid.
    pub fn user_of(&self, token: &str) -> Option<UserId> {
        self.tokens().get(&hash(token), self.0.clock.now_ms()).cloned()
    }

    fn tokens(&self) -> std::sync::MutexGuard<'_, TimedCache<[u8; 32], UserId>> {
        self.0.tokens.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn hash(token: &str) -> [u8; 32] {
    Sha256::digest(token.as_bytes()).into()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{random::OsRandom, testing::ManualClock};

    #[test]
    fn a_token_is_its_users_for_an_hour() {
        let clock = Arc::new(ManualClock::default());
        let open_id = OpenId::new(clock.clone(), Arc::new(OsRandom));
        let alice = UserId::parse("@alice:a").unwrap();
        let (first, second) = (open_id.grant(&alice), open_id.grant(&alice));
        assert_ne!(first, second);
        clock.advance(Duration::from_secs(OPEN_ID_SECONDS - 1));
        assert_eq!(open_id.user_of(&first), Some(alice));
        assert_eq!(open_id.user_of("nonsense"), None);
        clock.advance(Duration::from_secs(1));
        assert_eq!(open_id.user_of(&second), None);
    }
}
