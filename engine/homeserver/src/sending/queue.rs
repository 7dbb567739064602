//! What one server is still to be told.
//!
//! A queue knows no clock, task or network: it says what is to be done next, and is told what came of it.
//!
//! Invariant, with the *horizon*: the place in the log before which everything that others are to be told of has been pushed. Of the
//! events that the server is to be told of, each one that was pushed, or stands before the horizon,
//!
//! - has been delivered, or given up as one that the server refuses; or
//! - is in `transaction` or `pdus`; or
//! - the queue is catching up, and the event is at `from` or after it. Catching up goes on until `from` is beyond all that was pushed.
//!
//! So nothing is lost between the look into the log and what is pushed meanwhile. An event may be delivered twice.

use std::{collections::VecDeque, ops::Range, sync::Arc};

use bytes::Bytes;
use ravel_core::id::{EventId, RoomId};
use tokio::sync::OnceCell;

use super::Edu;
use crate::receiving::{TRANSACTION_EDUS_MAX, TRANSACTION_PDUS_MAX};

/// An event that is to be delivered.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Outgoing {
    pub(super) room_id: RoomId,
    pub(super) event_id: EventId,
    /// Where in the log it is: somewhere in this range.
    pub(super) within: Range<u64>,
}

/// What is sent at once. Sent again, it has the same id and the same body.
#[derive(Debug)]
pub(super) struct Transaction {
    pub(super) id: String,
    pub(super) pdus: Vec<Arc<Outgoing>>,
    pub(super) edus: Vec<Edu>,
    /// Made when it is sent first.
    pub(super) body: OnceCell<Bytes>,
}

/// What is to be done next.
#[derive(Clone, Debug)]
pub(super) enum Step {
    /// This is to be sent.
    Send(Arc<Transaction>),
    /// The log is to be looked into for what the server was not told.
    Look(Look),
}

/// What is to be looked for in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Look {
    /// From there on.
    pub(super) from: u64,
    /// At least to here, and as far as the log is known.
    pub(super) until: u64,
    /// With what was looked for before, if that was not all.
    pub(super) round: Option<Round>,
}

/// A look into the log that is not at its end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Round {
    /// How far it goes.
    pub(super) to: u64,
    /// The last room that was looked into; they are sorted by id.
    pub(super) after: Option<RoomId>,
    /// Whether that was the last one.
    pub(super) is_over: bool,
}

/// How a transaction ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// The server has it.
    Delivered,
    /// The server says that there is something wrong with it. Whether it would say so again is not certain.
    Refused,
    /// The server does not want so much at once.
    TooLarge,
    /// Nobody knows whether the server has it.
    Failed,
    /// It was not sent.
    NotSent,
}

/// What one server is still to be told.
#[derive(Debug)]
pub(super) struct Queue {
    /// In the order in which they are to be sent.
    pdus: VecDeque<Arc<Outgoing>>,
    edus: VecDeque<Edu>,
    /// What was sent last, until the server has it.
    transaction: Option<Arc<Transaction>>,
    catching_up: Option<CatchingUp>,
    /// How many PDUs and EDUs the next transaction may have: fewer after one was refused.
    items_max: usize,
    /// How often the transaction was refused.
    refusals: u32,
    /// How many transactions in a row failed, or were given up.
    failures: u32,
}

/// A queue that lost sight of what it is to deliver.
#[derive(Debug)]
struct CatchingUp {
    /// What stands before this in the log is delivered, or in the transaction.
    from: u64,
    /// The end of what was pushed meanwhile.
    until: u64,
    round: Option<Round>,
}

/// How many events wait in memory.
const PDUS_MAX: usize = 500;

/// How many EDUs wait that nothing keeps; the oldest are dropped, as they are out of date.
const EDUS_MAX: usize = 200;

/// How many EDUs wait that facts keep; those that come later are dropped.
const KEPT_EDUS_MAX: usize = 1_000;

/// After so many failures nothing but the place in the log is kept in memory.
const FAILURES_KEPT_MAX: u32 = 3;

/// How often something has to be refused until that is believed.
const REFUSALS: u32 = 2;

const ITEMS_MAX: usize = TRANSACTION_PDUS_MAX + TRANSACTION_EDUS_MAX;

impl Default for Queue {
    fn default() -> Self {
        let (pdus, edus) = (VecDeque::new(), VecDeque::new());
        Self { pdus, edus, transaction: None, catching_up: None, items_max: ITEMS_MAX, refusals: 0, failures: 0 }
    }
}

impl Queue {
    /// Makes the queue of a server that was told everything before a place in the log.
    pub(super) fn behind(from: u64) -> Self {
        Self { catching_up: Some(CatchingUp { from, until: from, round: None }), ..Self::default() }
    }

    /// Takes an event that is to be delivered. Those of a room come in order.
    pub(super) fn push(&mut self, pdu: &Arc<Outgoing>, horizon: u64) {
        match &mut self.catching_up {
            // What stands before `from` was found when the log was looked into.
            Some(catching_up) => catching_up.until = catching_up.until.max(pdu.within.end),
            None => {
                self.pdus.push_back(Arc::clone(pdu));
                if self.pdus.len() > PDUS_MAX {
                    self.fall_behind(horizon);
                }
            }
        }
    }

    /// Takes an EDU, in place of one that it replaces. Returns what is dropped for it, or that it is dropped itself.
    pub(super) fn push_edu(&mut self, edu: Edu) -> Option<Edu> {
        if let Some(place) = self.edus.iter_mut().find(|other| edu.replaces(other)) {
            *place = edu;
            return None;
        }
        let is_kept = edu.kept().is_some();
        let alike = self.edus.iter().filter(|other| other.kept().is_some() == is_kept).count();
        if is_kept && alike >= KEPT_EDUS_MAX {
            return Some(edu);
        }
        let oldest = self.edus.iter().position(|other| other.kept().is_none());
        let oldest = oldest.filter(|_| !is_kept && alike >= EDUS_MAX);
        let dropped = oldest.and_then(|oldest| self.edus.remove(oldest));
        self.edus.push_back(edu);
        dropped
    }

    /// Returns what is to be done next, the same as before until that is [`ended`](Self::ended) or [`found`](Self::found); nothing if
    /// there is nothing to do. `new_id` makes ids for transactions.
    pub(super) fn next(&mut self, new_id: impl FnOnce() -> String) -> Option<Step> {
        if let Some(transaction) = &self.transaction {
            return Some(Step::Send(Arc::clone(transaction)));
        }
        while self.pdus.is_empty()
            && let Some(catching_up) = &mut self.catching_up
        {
            match &catching_up.round {
                Some(round) if round.is_over => {
                    catching_up.from = round.to;
                    catching_up.round = None;
                    if catching_up.until <= catching_up.from {
                        self.catching_up = None;
                    }
                }
                round => {
                    let (from, until, round) = (catching_up.from, catching_up.until, round.clone());
                    return Some(Step::Look(Look { from, until, round }));
                }
            }
        }
        let pdus_count = self.pdus.len().min(TRANSACTION_PDUS_MAX).min(self.items_max);
        let edus_count = self.edus.len().min(TRANSACTION_EDUS_MAX).min(self.items_max - pdus_count);
        if pdus_count + edus_count == 0 {
            return None;
        }
        let (pdus, edus) = (self.pdus.drain(..pdus_count).collect(), self.edus.drain(..edus_count).collect());
        let transaction = Arc::new(Transaction { id: new_id(), pdus, edus, body: OnceCell::new() });
        self.transaction = Some(Arc::clone(&transaction));
        Some(Step::Send(transaction))
    }

    /// Takes what a look into the log has found, and what is left to be looked into.
    pub(super) fn found(&mut self, round: Round, pdus: Vec<Outgoing>) {
        if let Some(catching_up) = &mut self.catching_up {
            catching_up.round = Some(round);
            self.pdus.extend(pdus.into_iter().map(Arc::new));
        }
    }

    /// Takes note of how the transaction ended. Returns what is given up, since the server refuses it.
    pub(super) fn ended(&mut self, ending: Ending, horizon: u64) -> Option<Arc<Transaction>> {
        match ending {
            Ending::Delivered => {
                self.transaction = None;
                self.items_max = self.items_max.saturating_mul(2).min(ITEMS_MAX);
                (self.refusals, self.failures) = (0, 0);
            }
            Ending::NotSent => {}
            Ending::Failed => {
                self.failures = self.failures.saturating_add(1);
                if self.failures >= FAILURES_KEPT_MAX {
                    self.take_back();
                    if self.catching_up.is_none() && !self.pdus.is_empty() {
                        self.fall_behind(horizon);
                    }
                }
            }
            Ending::Refused if self.refusals + 1 < REFUSALS => self.refusals += 1,
            Ending::Refused | Ending::TooLarge => {
                self.refusals = 0;
                let (pdus, edus) = self.in_transaction();
                if pdus + edus <= 1 {
                    // Some refuse everything: the pauses grow, so that not too much is given up.
                    self.failures = self.failures.saturating_add(1);
                    return self.transaction.take();
                }
                self.items_max = (pdus + edus).div_ceil(2);
                self.take_back();
            }
        }
        None
    }

    /// Puts what is in the transaction back to where it came from.
    fn take_back(&mut self) {
        let Some(transaction) = self.transaction.take() else { return };
        transaction.pdus.iter().rev().for_each(|pdu| self.pdus.push_front(Arc::clone(pdu)));
        transaction.edus.iter().rev().for_each(|edu| self.edus.push_front(edu.clone()));
    }

    /// Forgets what is to be delivered but for the place in the log from where it is found.
    fn fall_behind(&mut self, horizon: u64) {
        let from = self.pdus.iter().map(|pdu| pdu.within.start).min().unwrap_or(horizon).min(horizon);
        let until = self.pdus.iter().map(|pdu| pdu.within.end).max().unwrap_or(from);
        self.pdus = VecDeque::new();
        self.catching_up = Some(CatchingUp { from, until, round: None });
    }

    /// Returns a place in the log before which everything is delivered; `None` if everything is that was pushed or stands before the
    /// horizon.
    pub(super) fn told(&self, horizon: u64) -> Option<u64> {
        let sent = self.transaction.iter().flat_map(|transaction| &transaction.pdus);
        let waiting = sent.chain(&self.pdus).map(|pdu| pdu.within.start);
        waiting.chain(self.catching_up.as_ref().map(|it| it.from)).min().map(|told| told.min(horizon))
    }

    /// Whether it looks into the log for what is to be delivered.
    pub(super) fn is_catching_up(&self) -> bool {
        self.catching_up.is_some()
    }

    /// Returns how many transactions in a row failed, or were given up.
    pub(super) fn failures(&self) -> u32 {
        self.failures
    }

    /// Returns the keys of the facts that keep EDUs of the transaction.
    pub(super) fn kept_in_transaction(&self) -> Vec<Bytes> {
        let edus = self.transaction.iter().flat_map(|transaction| &transaction.edus);
        edus.filter_map(|edu| edu.kept().cloned()).collect()
    }

    /// Returns how many PDUs and EDUs are in the transaction.
    pub(super) fn in_transaction(&self) -> (usize, usize) {
        self.transaction.as_ref().map_or((0, 0), |it| (it.pdus.len(), it.edus.len()))
    }

    /// Returns how many PDUs and EDUs wait in memory.
    pub(super) fn lengths(&self) -> (usize, usize) {
        let (pdus, edus) = self.in_transaction();
        (self.pdus.len() + pdus, self.edus.len() + edus)
    }
}

#[cfg(test)]
mod tests;
