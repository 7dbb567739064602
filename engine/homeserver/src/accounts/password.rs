//! Passwords: what is kept of them, and how long it takes to check one.

use std::sync::Arc;

use argon2::{
    Algorithm, Argon2, Params, PasswordHash, PasswordHasher, PasswordVerifier, Version,
    password_hash::{self, SaltString},
};
use tokio::sync::Semaphore;

use crate::random::Random;

/// The longest password, in bytes.
pub const PASSWORD_BYTES_MAX: usize = 1024;

/// Why a password can't be hashed.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum PasswordError {
    #[error("a password can't be hashed: {0}")]
    Hash(password_hash::Error),
    #[error("the thread that hashes a password has ended")]
    Thread,
}

impl From<password_hash::Error> for PasswordError {
    fn from(error: password_hash::Error) -> Self {
        Self::Hash(error)
    }
}

/// Hashes passwords by Argon2id, on threads for such work, a few at a time: each takes 19 MiB.
pub(super) struct Passwords {
    hasher: Argon2<'static>,
    running: Arc<Semaphore>,
}

/// How many passwords are hashed at the same time.
const RUNNING_MAX: usize = 4;

impl Passwords {
    /// `is_cheap` is for tests of whole servers, which make many users.
    pub(super) fn new(is_cheap: bool) -> Self {
        // 8 KiB and one pass are the least that Argon2 knows.
        let cheap = Params::new(Params::MIN_M_COST, Params::MIN_T_COST, Params::MIN_P_COST, None);
        // The default is what OWASP recommends: 19 MiB, two passes.
        let params = if is_cheap { cheap.unwrap_or_default() } else { Params::default() };
        let hasher = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
        Self { hasher, running: Arc::new(Semaphore::new(RUNNING_MAX)) }
    }

    /// Returns what is kept of a password.
    pub(super) async fn hash(&self, password: &str, random: &dyn Random) -> Result<String, PasswordError> {
        let mut salt = [0; 16];
        random.fill(&mut salt);
        let (hasher, password) = (self.hasher.clone(), password.to_owned());
        self.run(move || {
            let salt = SaltString::encode_b64(&salt)?;
            Ok(hasher.hash_password(password.as_bytes(), &salt)?.to_string())
        })
        .await
    }

    /// Whether a password is the one of which `kept` was kept. Without `kept` it is not, and that takes as long.
    pub(super) async fn is_right(&self, password: &str, kept: Option<&str>) -> Result<bool, PasswordError> {
        let (hasher, password, kept) = (self.hasher.clone(), password.to_owned(), kept.map(str::to_owned));
        self.run(move || {
            let Some(kept) = kept else {
                let mut hash = [0; 32];
                hasher
                    .hash_password_into(password.as_bytes(), &[0; 16], &mut hash)
                    .map_err(password_hash::Error::from)?;
                // What nobody uses might not be computed.
                std::hint::black_box(hash);
                return Ok(false);
            };
            match hasher.verify_password(password.as_bytes(), &PasswordHash::new(&kept)?) {
                Ok(()) => Ok(true),
                Err(password_hash::Error::Password) => Ok(false),
                Err(error) => Err(error.into()),
            }
        })
        .await
    }

    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, PasswordError> + Send + 'static,
    ) -> Result<T, PasswordError> {
        let permit = self.running.clone().acquire_owned().await.map_err(|_| PasswordError::Thread)?;
        let done = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            work()
        });
        done.await.map_err(|_| PasswordError::Thread)?
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::OsRandom;

    #[tokio::test]
    async fn sc_158_a_hash_tells_right_from_wrong() {
        let passwords = Passwords::new(true);
        let kept = passwords.hash("correct horse", &OsRandom).await.unwrap();
        assert!(kept.starts_with("$argon2id$v=19$m=8,t=1,p=1$") && !kept.contains("horse"), "{kept}");
        assert_ne!(passwords.hash("correct horse", &OsRandom).await.unwrap(), kept, "salted");
        assert!(passwords.is_right("correct horse", Some(&kept)).await.unwrap());
        assert!(!passwords.is_right("correct horse ", Some(&kept)).await.unwrap());
        assert!(!passwords.is_right("", None).await.unwrap());
        // What was hashed with other parameters can still be checked.
        let dear = Passwords::new(false);
        assert!(dear.is_right("correct horse", Some(&kept)).await.unwrap());
        assert!(dear.hash("x", &OsRandom).await.unwrap().starts_with("$argon2id$v=19$m=19456,t=2,p=1$"));
        assert!(matches!(passwords.is_right("x", Some("nonsense")).await, Err(PasswordError::Hash(_))));
    }
}
