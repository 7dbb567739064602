//! Sessions of user-interactive authentication: requests that wait until their sender has shown who they are.
//!
//! They are kept in memory: whoever is in the midst of one when the server is started anew begins again.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::{
    clock::Clock,
    federation::timed_cache::TimedCache,
    random::{Random, random_text},
};

/// What a session is for. It is good for nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Making an account.
    Register,
    /// Ending one.
    Deactivate,
}

/// How long a session is kept, in milliseconds.
const KEPT_MS: i64 = 1_800_000;

/// How many are kept; then the oldest ends.
const SESSIONS_MAX: usize = 10_000;

/// The sessions that have begun. Cheap to clone.
#[derive(Clone)]
pub struct InteractiveSessions {
    sessions: Arc<Mutex<TimedCache<String, Waiting>>>,
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
}

#[derive(Clone, Copy)]
struct Waiting {
    purpose: Purpose,
    end_ms: i64,
}

/// A session in the hands of one request; nobody else can use it meanwhile. If it is not [finished](Self::finish), it waits on.
pub struct InteractiveAttempt {
    sessions: InteractiveSessions,
    waiting: Waiting,
    name: Option<String>,
}

impl InteractiveSessions {
    pub(super) fn new(clock: Arc<dyn Clock>, random: Arc<dyn Random>) -> Self {
        Self { sessions: Arc::new(Mutex::new(TimedCache::new(SESSIONS_MAX))), clock, random }
    }

    /// Begins one and returns its name.
    pub fn begin(&self, purpose: Purpose) -> String {
        let name = random_text(&*self.random, 24);
        let end_ms = self.clock.now_ms().saturating_add(KEPT_MS);
        self.lock().insert(name.clone(), Waiting { purpose, end_ms }, end_ms);
        name
    }

    /// Takes up one that has begun for this purpose; `None` if there is none, or another request has it.
    pub fn resume(&self, name: &str, purpose: Purpose) -> Option<InteractiveAttempt> {
        let name = name.to_owned();
        let mut sessions = self.lock();
        let waiting = *sessions.get(&name, self.clock.now_ms()).filter(|waiting| waiting.purpose == purpose)?;
        sessions.remove(&name);
        drop(sessions);
        Some(InteractiveAttempt { sessions: self.clone(), waiting, name: Some(name) })
    }

    fn lock(&self) -> MutexGuard<'_, TimedCache<String, Waiting>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl InteractiveAttempt {
    /// Ends the session: what it was for is done.
    pub fn finish(mut self) {
        self.name = None;
    }
}

impl Drop for InteractiveAttempt {
    fn drop(&mut self) {
        if let Some(name) = self.name.take() {
            self.sessions.lock().insert(name, self.waiting, self.waiting.end_ms);
        }
    }
}
