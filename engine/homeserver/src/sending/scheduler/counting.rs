//! The metrics of what is sent.

use super::{Destination, Ending, Scheduler};

const DESTINATIONS: &str = "ravel_sending_destinations";
const QUEUED: &str = "ravel_sending_queued";
const TRANSACTIONS: &str = "ravel_sending_transactions_total";
const SENT: &str = "ravel_sending_sent_total";
pub(super) const PDUS_REFUSED: &str = "ravel_sending_refused_total";
pub(in crate::sending) const EDUS_DROPPED: &str = "ravel_sending_edus_dropped_total";

impl Scheduler {
    /// Tells how much waits.
    pub(super) fn tell_lengths(&self) {
        let (mut pdus, mut edus, mut catching_up) = (0, 0, 0);
        for Destination { queue, .. } in self.destinations.values() {
            let lengths = queue.lengths();
            pdus += lengths.0;
            edus += lengths.1;
            catching_up += usize::from(queue.is_catching_up());
        }
        metrics::gauge!(QUEUED, "kind" => "pdu").set(pdus as f64);
        metrics::gauge!(QUEUED, "kind" => "edu").set(edus as f64);
        let states = [("waiting", self.due.len()), ("running", self.runs_for.len()), ("catching_up", catching_up)];
        for (state, count) in states {
            metrics::gauge!(DESTINATIONS, "state" => state).set(count as f64);
        }
    }
}

/// Counts a transaction.
pub(super) fn count(ending: Ending, pdus: usize, edus: usize) {
    let result = match ending {
        Ending::Delivered => "delivered",
        Ending::Refused | Ending::TooLarge => "refused",
        Ending::Failed => "failed",
        Ending::NotSent => return,
    };
    metrics::counter!(TRANSACTIONS, "result" => result).increment(1);
    if ending == Ending::Delivered {
        metrics::counter!(SENT, "kind" => "pdu").increment(pdus as u64);
        metrics::counter!(SENT, "kind" => "edu").increment(edus as u64);
    }
}

/// Says what the metrics are.
pub(super) fn describe_metrics() {
    metrics::describe_gauge!(DESTINATIONS, "Servers that something is to be sent to, by what they do");
    metrics::describe_gauge!(QUEUED, "PDUs and EDUs that wait in memory, counted for each server that they are for");
    metrics::describe_counter!(TRANSACTIONS, "Transactions by how they ended");
    metrics::describe_counter!(SENT, "PDUs and EDUs that were delivered");
    metrics::describe_counter!(PDUS_REFUSED, "PDUs and EDUs that were given up since a server refuses them");
    metrics::describe_counter!(EDUS_DROPPED, "EDUs that were dropped since there was too much to be sent");
}
