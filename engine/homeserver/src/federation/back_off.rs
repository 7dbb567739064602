//! The memory of which servers do not answer.

use std::sync::{Mutex, MutexGuard, PoisonError};

use ravel_core::id::ServerName;

use super::timed_cache::TimedCache;
use crate::random::Random;

/// Servers that did not answer lately, and until when to leave them alone.
///
/// Any sign of life ends a pause.
pub(crate) struct BackOffs {
    pauses: Pauses,
    servers: Mutex<TimedCache<ServerName, BackOff>>,
}

/// How long a server is left alone that did not answer: the pause doubles with each failure in a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pauses {
    /// The first pause, in milliseconds.
    pub min_ms: i64,
    /// The longest.
    pub max_ms: i64,
}

impl Default for Pauses {
    /// From five seconds to an hour.
    fn default() -> Self {
        Self { min_ms: 5_000, max_ms: 60 * 60 * 1000 }
    }
}

impl Pauses {
    /// Returns the pause after so many failures in a row, spread by a quarter either way so that servers that fell together are not all
    /// tried together.
    pub(crate) fn after(self, failures: u32, random: &dyn Random) -> i64 {
        let pause_ms = self.min_ms.saturating_mul(1 << failures.saturating_sub(1).min(20)).min(self.max_ms);
        let mut bytes = [0; 4];
        random.fill(&mut bytes);
        // Between three and five quarters.
        pause_ms * 3 / 4 + pause_ms / 2 * i64::from(u32::from_le_bytes(bytes)) / i64::from(u32::MAX)
    }
}

#[derive(Clone, Copy)]
struct BackOff {
    failures: u32,
    until_ms: i64,
}

/// How many servers are remembered.
const SERVERS_MAX: usize = 50_000;

/// How long a server may want to be left alone, and how long failures are remembered after a pause.
const HOUR_MS: i64 = 60 * 60 * 1000;

impl BackOffs {
    pub(crate) fn new(pauses: Pauses) -> Self {
        Self { pauses, servers: Mutex::new(TimedCache::new(SERVERS_MAX)) }
    }

    pub(crate) fn pauses(&self) -> Pauses {
        self.pauses
    }

    /// Returns until when a server is left alone, `None` if it is not.
    pub(crate) fn until_ms(&self, server: &ServerName, now_ms: i64) -> Option<i64> {
        let until_ms = self.servers().get(server, now_ms)?.until_ms;
        (until_ms > now_ms).then_some(until_ms)
    }

    /// Notes that a request did not reach a server. One that was begun before the present pause ended says nothing new.
    pub(crate) fn failed(&self, server: &ServerName, begun_ms: i64, now_ms: i64, random: &dyn Random) {
        let mut servers = self.servers();
        let before = servers.get(server, now_ms).copied();
        if before.is_some_and(|before| begun_ms < before.until_ms) {
            return;
        }
        let failures = before.map_or(0, |before| before.failures).saturating_add(1);
        let until_ms = now_ms.saturating_add(self.pauses.after(failures, random));
        insert(&mut servers, server, BackOff { failures, until_ms });
    }

    /// Notes that a server wants to be left alone for a while.
    pub(crate) fn asked_to_wait(&self, server: &ServerName, pause_ms: i64, now_ms: i64) {
        let mut servers = self.servers();
        let failures = servers.get(server, now_ms).map_or(0, |before| before.failures);
        let until_ms = now_ms.saturating_add(pause_ms.clamp(0, HOUR_MS));
        insert(&mut servers, server, BackOff { failures, until_ms });
    }

    /// Notes that a server is there, and returns whether it had been left alone.
    pub(crate) fn is_alive(&self, server: &ServerName) -> bool {
        self.servers().remove(server).is_some()
    }

    fn servers(&self) -> MutexGuard<'_, TimedCache<ServerName, BackOff>> {
        self.servers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The count is remembered for some time after the pause, for otherwise it would never grow.
fn insert(servers: &mut TimedCache<ServerName, BackOff>, server: &ServerName, back_off: BackOff) {
    servers.insert(server.clone(), back_off, back_off.until_ms.saturating_add(4 * HOUR_MS));
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All bits the same.
    struct Fixed(u8);

    impl Random for Fixed {
        fn fill(&self, bytes: &mut [u8]) {
            bytes.fill(self.0);
        }
    }

    fn server() -> ServerName {
        ServerName::parse("a").unwrap()
    }

    /// Checks the pauses in seconds after so many failures in a row.
    fn check(random: u8, expected_s: [i64; 12]) {
        let back_offs = BackOffs::new(Pauses::default());
        let mut now_ms = 0;
        for expected_s in expected_s {
            back_offs.failed(&server(), now_ms, now_ms, &Fixed(random));
            let until_ms = back_offs.until_ms(&server(), now_ms).unwrap();
            assert_eq!((until_ms - now_ms) / 1000, expected_s);
            now_ms = until_ms;
            assert_eq!(back_offs.until_ms(&server(), now_ms), None);
        }
    }

    #[test]
    fn pauses_double_and_are_spread() {
        check(0, [3, 7, 15, 30, 60, 120, 240, 480, 960, 1920, 2700, 2700]);
        check(255, [6, 12, 25, 50, 100, 200, 400, 800, 1600, 3200, 4500, 4500]);
    }

    #[test]
    fn requests_that_fail_together_are_one_failure() {
        let back_offs = BackOffs::new(Pauses::default());
        back_offs.failed(&server(), 0, 10, &Fixed(0));
        let until_ms = back_offs.until_ms(&server(), 10);
        for begun_ms in 0..100 {
            back_offs.failed(&server(), begun_ms, 100, &Fixed(0));
        }
        assert_eq!(back_offs.until_ms(&server(), 100), until_ms);
    }

    #[test]
    fn a_sign_of_life_ends_it() {
        let back_offs = BackOffs::new(Pauses::default());
        assert!(!back_offs.is_alive(&server()));
        back_offs.failed(&server(), 0, 0, &Fixed(0));
        assert!(back_offs.is_alive(&server()));
        assert_eq!(back_offs.until_ms(&server(), 0), None);
        back_offs.asked_to_wait(&server(), i64::MAX, 0);
        assert_eq!(back_offs.until_ms(&server(), 0), Some(HOUR_MS));
    }
}
