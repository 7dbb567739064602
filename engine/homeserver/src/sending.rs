//! What other servers are told: events and EDUs, in transactions.
//!
//! Each server has a `queue` while there is something for it, and a task while something is done for it. One task, the
//! `scheduler`, has all queues; it never waits for any of them. What a server has missed, as it did not answer for long or this
//! server was not running, is found in the log (`catch_up`); how far each was told is kept there too (`told`).

mod catch_up;
mod edu;
mod queue;
mod scheduler;
mod told;
mod transaction;

use std::{
    collections::BTreeSet,
    sync::{Mutex, PoisonError},
};

use ravel_core::id::ServerName;
use ravel_store::Durability;
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
};

pub use self::edu::Edu;
use self::scheduler::{Inputs, Scheduler};
use crate::{homeserver::Homeserver, random::random_text, rooms::ToSend, to_device::ToDeviceError};

/// An EDU, and who is to get it.
type EduToSend = (BTreeSet<ServerName>, Edu);

/// The way to the task that sends.
pub(crate) struct Sending {
    edus: mpsc::Sender<EduToSend>,
    /// Until the task begins.
    waiting_edus: Mutex<Option<mpsc::Receiver<EduToSend>>>,
    stop: watch::Sender<bool>,
    task: Mutex<Option<JoinHandle<()>>>,
    /// The length of the log when the server was opened: what came later goes through the outbox.
    opened_at: u64,
}

/// How many EDUs may wait to be put into the queues of their destinations.
const EDUS_MAX: usize = 1_000;

impl Sending {
    /// `opened_at`: the place in the log from which on the outbox tells of events.
    pub(crate) fn new(opened_at: u64) -> Self {
        let (edus, waiting) = mpsc::channel(EDUS_MAX);
        let waiting_edus = Mutex::new(Some(waiting));
        Self { edus, waiting_edus, stop: watch::channel(false).0, task: Mutex::default(), opened_at }
    }
}

impl Homeserver {
    /// Begins to send what comes out of the outbox, until the server is stopped or dropped. Only once.
    pub(crate) fn start_sending(&self, to_send: mpsc::Receiver<ToSend>) {
        let edus = self.sending.waiting_edus.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(edus) = edus else { return };
        // It is told of as many servers as were given up before: no more than are remembered.
        let (alive, revived) = mpsc::unbounded_channel();
        self.client.on_alive(Box::new(move |server| drop(alive.send(server.clone()))));
        let inputs = Inputs { to_send, edus, revived, stop: self.sending.stop.subscribe() };
        let scheduler = Scheduler::new(self, inputs);
        let task = tokio::spawn(scheduler.run(self.sending.opened_at));
        *self.sending.task.lock().unwrap_or_else(PoisonError::into_inner) = Some(task);
    }

    /// Sends an EDU to other servers, at some time; it is lost if this server stops before, and if there is too much to be sent.
    pub fn send_edu(&self, mut destinations: BTreeSet<ServerName>, edu: Edu) {
        destinations.remove(&self.server_name);
        if !destinations.is_empty() && self.sending.edus.try_send((destinations, edu)).is_err() {
            metrics::counter!(scheduler::EDUS_DROPPED).increment(1);
        }
    }

    /// Sends EDUs to other servers, also if this one is stopped before: all of them, or after an error none. Costs one commit.
    ///
    /// # Errors
    ///
    /// When the log can't be written.
    pub(crate) async fn send_edus_for_sure(&self, mut edus: Vec<(ServerName, Edu)>) -> Result<(), ToDeviceError> {
        edus.retain(|(server, _)| self.client.allows(server));
        if edus.is_empty() {
            return Ok(());
        }
        let (mut facts, mut kept) = (Vec::with_capacity(edus.len()), Vec::with_capacity(edus.len()));
        for (server, edu) in edus {
            let fact = told::keep_edu(&server, &random_text(&*self.random, 16), &edu)?;
            kept.push((server, edu.kept_by(fact.key.clone())));
            facts.push(fact);
        }
        self.log.put_facts(&facts, &[], Durability::Sync).await?;
        for (server, edu) in kept {
            // If nobody takes it any more, it is found at the next start.
            let _ = self.sending.edus.send(([server].into(), edu)).await;
        }
        Ok(())
    }

    /// Ends what runs by itself: transactions that are being sent are waited for, not for long. What was not sent is found when the
    /// server starts again.
    pub async fn stop(&self) {
        self.sending.stop.send_replace(true);
        let task = self.sending.task.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(task) = task
            && let Err(error) = task.await
        {
            tracing::error!(%error, "sending has failed");
        }
        if let Err(error) = self.rooms.keep_members().await {
            tracing::error!(%error, "who is in which room can't be kept");
        }
    }
}

#[cfg(test)]
mod tests;
