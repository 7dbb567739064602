//! Requests that clients send again.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, PoisonError},
};

use ravel_core::id::EventId;
use tokio::sync::OnceCell;

/// What a client calls a request: the user, the device, what it is about, and the transaction id.
pub type Transaction = [String; 4];

/// What became of the newest transactions, so that a request that comes again, even while the first one runs, sends nothing again.
#[derive(Debug, Default)]
pub(super) struct Transactions(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    sent: HashMap<Transaction, Arc<OnceCell<EventId>>>,
    /// In the order in which they came.
    order: VecDeque<Transaction>,
}

/// How many transactions are kept.
const TRANSACTIONS_MAX: usize = 20_000;

impl Transactions {
    /// Returns the place for what becomes of a transaction.
    pub(super) fn of(&self, transaction: &Transaction) -> Arc<OnceCell<EventId>> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(sent) = known.sent.get(transaction) {
            return Arc::clone(sent);
        }
        if known.order.len() >= TRANSACTIONS_MAX
            && let Some(oldest) = known.order.pop_front()
        {
            known.sent.remove(&oldest);
        }
        let sent = Arc::default();
        known.sent.insert(transaction.clone(), Arc::clone(&sent));
        known.order.push_back(transaction.clone());
        sent
    }
}
