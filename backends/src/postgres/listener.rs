//! Hearing of the commits of other processes.

use std::sync::Arc;

use ravel_store::{Operation, StoreError, watch::Watchers};
use tokio::{
    sync::mpsc::{UnboundedReceiver, unbounded_channel},
    time::{Instant, sleep},
};
use tokio_postgres::{Client, Notification};

use super::{
    notice,
    server::{Server, get, is_lost, store_error},
};

/// A connection that listens.
pub(super) struct Listener {
    server: Arc<Server>,
    channel: String,
    client: Client,
    notifications: UnboundedReceiver<Notification>,
}

impl Listener {
    /// Begins to listen; `None` if the server has no LISTEN.
    ///
    /// # Errors
    /// `Io`.
    pub(super) async fn connect(server: Arc<Server>, deadline: Instant) -> Result<Option<Self>, StoreError> {
        let failed = |error| store_error(Operation::Open, error);
        let (sender, notifications) = unbounded_channel();
        let client = server.connect(deadline, Operation::Open, Some(sender)).await?.client;
        let row = client.query_one("SELECT current_schema()::text", &[]).await.map_err(failed)?;
        let channel = channel(get(&row, 0, Operation::Open)?);
        match client.batch_execute(&format!("LISTEN \"{}\"", channel.replace('"', "\"\""))).await {
            Ok(()) => Ok(Some(Self { server, channel, client, notifications })),
            Err(error) if error.as_db_error().is_some() && !is_lost(&error) => Ok(None),
            Err(error) => Err(failed(error)),
        }
    }

    pub(super) fn channel(&self) -> &str {
        &self.channel
    }

    /// Wakes those who watch what others touch, until the store is closed. `epoch` is our own, whose commits are known.
    pub(super) async fn run(self, watchers: Arc<Watchers>, epoch: Option<i64>) {
        let Self { server, mut client, mut notifications, .. } = self;
        loop {
            while let Some(notification) = notifications.recv().await {
                match notice::decode(notification.payload()) {
                    Some((writer, _)) if Some(writer) == epoch => {}
                    Some((_, touched)) => watchers.notify(&touched),
                    None => watchers.notify(&notice::everything()),
                }
            }
            drop(client);
            (client, notifications) = loop {
                match Self::connect(Arc::clone(&server), server.deadline()).await {
                    Ok(Some(listener)) => break (listener.client, listener.notifications),
                    // Tried for as long as the store is open: a watch has nobody to tell of an error.
                    Ok(None) | Err(_) => sleep(server.patience).await,
                }
            };
            watchers.notify(&notice::everything());
        }
    }
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
