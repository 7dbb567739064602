//! Hearing of the commits of other processes.

use std::{sync::Arc, time::Duration};

use ravel_store::{Operation, StoreError, watch::Watchers};
use tokio::{
    sync::mpsc::{UnboundedReceiver, unbounded_channel},
    time::{Instant, sleep, timeout},
};
use tokio_postgres::{Client, Notification, Statement};

use super::{
    notice,
    server::{Connected, Link, Server, get, is_gone, store_error, until},
};

/// A connection that listens, or asks now and then where the server knows no LISTEN.
pub(super) struct Listener {
    server: Arc<Server>,
    client: Client,
    link: Link,
    notifications: UnboundedReceiver<Notification>,
    /// Where it listens, `None` if the server has no LISTEN.
    channel: Option<String>,
    latest: Statement,
    /// The newest commit that was seen.
    seen: Commit,
}

/// Who made a commit, and which it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Commit {
    epoch: i64,
    number: i64,
}

impl Listener {
    /// Begins to listen on the connection of its own.
    ///
    /// # Errors
    /// `Io`.
    pub(super) async fn connect(server: Arc<Server>, deadline: Instant) -> Result<Self, StoreError> {
        let failed = |error| store_error(Operation::Open, error);
        let (sender, notifications) = unbounded_channel();
        let Connected { client, link, .. } = server.connect(deadline, Operation::Open, Some(sender)).await?;
        let row = client.query_one("SELECT current_schema()::text", &[]).await.map_err(failed)?;
        let channel = channel(get(&row, 0, Operation::Open)?);
        link.was_warned();
        let channel = match client.batch_execute(&format!("LISTEN \"{}\"", channel.replace('"', "\"\""))).await {
            // Some take it with a warning that it has no effect.
            Ok(()) if link.was_warned() => None,
            Ok(()) => Some(channel),
            // Some do not know it, and a standby refuses it.
            Err(error) if error.as_db_error().is_some() && !is_gone(&error) => None,
            Err(error) => return Err(failed(error)),
        };
        let latest = client.prepare("SELECT epoch, commits FROM ravel_store WHERE id = 1").await.map_err(failed)?;
        let seen = latest_commit(&client, &latest).await?;
        Ok(Self { server, client, link, notifications, channel, latest, seen })
    }

    pub(super) fn channel(&self) -> Option<&str> {
        self.channel.as_deref()
    }

    /// Wakes those who watch what others touch, until the store is closed. `epoch` is our own, whose commits are known.
    pub(super) async fn run(mut self, watchers: Arc<Watchers>, epoch: Option<i64>) {
        loop {
            self.hear(&watchers, epoch).await;
            let server = Arc::clone(&self.server);
            drop(self);
            self = loop {
                let deadline = server.deadline();
                match until(deadline, Operation::Open, Self::connect(Arc::clone(&server), deadline)).await {
                    Ok(listener) => break listener,
                    // Tried for as long as the store is open: a watch has nobody to tell of an error.
                    Err(_) => sleep(CONNECT_PAUSE).await,
                }
            };
            watchers.notify(&notice::everything());
        }
    }

    /// Wakes until the connection is lost.
    async fn hear(&mut self, watchers: &Watchers, epoch: Option<i64>) {
        let pause = if self.channel.is_some() { CHECK_PAUSE } else { POLL_PAUSE };
        loop {
            match timeout(pause, self.notifications.recv()).await {
                Ok(Some(own)) if epoch.is_some() && notice::writer(own.payload()) == epoch => {}
                Ok(Some(notification)) => match notice::decode(notification.payload()) {
                    Some((_, touched)) => watchers.notify(&touched),
                    None => watchers.notify(&notice::everything()),
                },
                Ok(None) => return,
                Err(_) => {
                    // Where we listen, this only shows whether the connection still carries anything.
                    let asked = latest_commit(&self.client, &self.latest);
                    let Ok(latest) = self.link.within(self.server.answer_deadline(), asked).await else { return };
                    let is_others = latest != self.seen && Some(latest.epoch) != epoch;
                    if self.channel.is_none() && is_others {
                        watchers.notify(&notice::everything());
                    }
                    self.seen = latest;
                }
            }
        }
    }
}

async fn latest_commit(client: &Client, statement: &Statement) -> Result<Commit, StoreError> {
    let row = client.query_one(statement, &[]).await.map_err(|error| store_error(Operation::Open, error))?;
    Ok(Commit { epoch: get(&row, 0, Operation::Open)?, number: get(&row, 1, Operation::Open)? })
}

/// Returns the name of the channel of a store: that of its schema, as all schemas of a database share the channels.
fn channel(schema: Option<&str>) -> String {
    let mut channel = format!("ravel:{}", schema.unwrap_or_default());
    // A longer one is cut by LISTEN, but refused by pg_notify.
    while channel.len() > CHANNEL_BYTES_MAX {
        channel.pop();
    }
    channel
}

const CHANNEL_BYTES_MAX: usize = 63;
/// Between two attempts to listen again.
const CONNECT_PAUSE: Duration = Duration::from_secs(1);
/// How often a silent connection is asked whether it still works.
const CHECK_PAUSE: Duration = Duration::from_secs(10);
/// How often a server without LISTEN is asked for commits.
const POLL_PAUSE: Duration = Duration::from_millis(500);
