//! Writing down how far servers were told.

use std::collections::BTreeMap;

use ravel_store::log::LogError;

use super::{Done, Scheduler};
use crate::sending::told::{Told, forget_passed_on};

/// How often it is written how far servers were told, while there is something new.
pub(super) const WRITE_EVERY_MS: i64 = 5_000;

/// How often it is written although nothing is sent, so that less of the log is to be looked into after a crash, and how much there has
/// to be.
const WRITE_IDLE_EVERY_MS: i64 = 60_000;
const WRITE_IDLE_ENTRIES: u64 = 1_000;

/// What is kept of events that came in through this server: what was kept before one place in the log is of no use once everybody was told
/// of everything before another one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Forgetting {
    kept_before: u64,
    told: u64,
}

impl Scheduler {
    /// Sees to it that what has changed is written soon.
    pub(super) fn write_soon(&mut self, now_ms: i64) {
        self.has_sent = true;
        self.write_at_ms = self.write_at_ms.min(now_ms.saturating_add(WRITE_EVERY_MS));
    }

    /// Returns how far servers were told.
    pub(super) fn told(&self) -> Told {
        let mut all = self.horizon;
        let mut behind = BTreeMap::new();
        for (name, destination) in &self.destinations {
            let queue = &destination.queue;
            let Some(told) = queue.told(self.horizon) else { continue };
            if queue.is_catching_up() || queue.failures() > 0 || told < self.written.all {
                behind.insert(name.clone(), told);
            } else {
                all = all.min(told);
            }
        }
        Told { all, behind }
    }

    /// Begins to write how far servers were told, if that is new.
    pub(super) fn write(&mut self) {
        self.tell_lengths();
        let now_ms = self.clock.now_ms();
        self.write_at_ms = now_ms.saturating_add(WRITE_IDLE_EVERY_MS);
        self.look_ahead();
        let Some(server) = self.server().filter(|_| !self.is_writing) else { return };
        let (told, before) = (self.told(), self.written.clone());
        let is_idle = told.behind == before.behind && !self.has_sent && self.gone.is_empty();
        if (told == before && self.gone.is_empty())
            || (is_idle && told.all < before.all.saturating_add(WRITE_IDLE_ENTRIES))
        {
            return;
        }
        (self.is_writing, self.has_sent) = (true, false);
        let forget_before = self.forget_before(&told, server.log.len());
        let gone = std::mem::take(&mut self.gone);
        self.steps.spawn(async move {
            let mut result = told.write(&before, &gone, &server.log).await;
            if let (Ok(()), Some(place)) = (&result, forget_before) {
                result = forget_passed_on(&server.log, place).await;
            }
            Done::Written(told, result)
        });
    }

    /// Returns before which place nothing need be kept any more of events that came in through this server. What is kept of an event
    /// stands in the log before it, and once the log is known as far as that, the event is there too.
    fn forget_before(&mut self, told: &Told, length: u64) -> Option<u64> {
        let all_told = told.behind.values().copied().min().unwrap_or(told.all).min(told.all);
        match self.forgetting {
            Some(forgetting) if all_told < forgetting.told => None,
            forgetting => {
                self.forgetting = Some(Forgetting { kept_before: all_told, told: length });
                forgetting.map(|forgetting| forgetting.kept_before)
            }
        }
    }

    pub(super) fn written(&mut self, told: Told, result: Result<(), LogError>) {
        self.is_writing = false;
        match result {
            Ok(()) => self.written = told,
            Err(error) => {
                tracing::error!(error = &error as &dyn std::error::Error, "how far servers were told can't be written");
            }
        }
    }
}
