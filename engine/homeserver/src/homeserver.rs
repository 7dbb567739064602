//! A whole server: its parts, and what they share.

use std::{
    ops::Deref,
    sync::{Arc, Weak},
};

use ravel_core::{id::ServerName, signing::SigningKey};
use ravel_store::log::EventLog;
use tokio::sync::mpsc;

use crate::{
    account_data::AccountData,
    accounts::{Accounts, AccountsConfig},
    clock::Clock,
    directory::Directory,
    ephemeral::Ephemeral,
    federation::{
        FederationClient, KeyStore, Pauses, ServerFilter,
        keys::{KeyStoreConfig, OwnKeys},
    },
    filters::Filters,
    joining::Joining,
    media::{Media, MediaConfig},
    network::Network,
    open_id::OpenId,
    profiles::Profiles,
    random::Random,
    receiving::Receiving,
    rooms::{Rooms, RoomsError, ToSend},
    sending::Sending,
    sync::Syncs,
    to_device::ToDevice,
};

/// A homeserver. Cloning shares it.
///
/// What it does with rooms and users of its own is in its parts; what it does with other servers are its methods: `receiving`
/// (their transactions), `joining` (going into their rooms, and letting them into ours), `answering` (what they ask), `sending`.
#[derive(Clone)]
pub struct Homeserver(Arc<Parts>);

/// What a homeserver is made of.
pub struct Parts {
    /// Its name.
    pub server_name: ServerName,
    /// Its key.
    pub signing_key: SigningKey,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Randomness.
    pub random: Arc<dyn Random>,
    /// All that it knows.
    pub log: Arc<EventLog>,
    /// Users, devices, access tokens.
    pub accounts: Accounts,
    /// Rooms.
    pub rooms: Rooms,
    /// Names and avatars of users.
    pub profiles: Profiles,
    /// What clients keep here.
    pub account_data: AccountData,
    /// What clients want to see.
    pub filters: Filters,
    /// Aliases and published rooms.
    pub directory: Directory,
    /// Typing, receipts, presence.
    pub ephemeral: Ephemeral,
    /// Tokens by which users prove who they are.
    pub open_id: OpenId,
    /// Files of users.
    pub media: Media,
    /// What is new for users.
    pub syncs: Syncs,
    /// Requests to other servers.
    pub client: FederationClient,
    /// Keys of other servers, and its own.
    pub keys: KeyStore,
    pub(crate) receiving: Receiving,
    /// Messages that wait for devices.
    pub(crate) to_device: Arc<ToDevice>,
    /// What is sent to others by itself.
    pub(crate) sending: Sending,
    /// Joins that are under way.
    pub(crate) joining: Joining,
}

/// What a homeserver is told.
#[derive(Clone, Debug)]
pub struct HomeserverConfig {
    /// Its name.
    pub server_name: ServerName,
    /// Its key.
    pub signing_key: SigningKey,
    /// Passwords are hashed fast, and badly: for tests.
    pub cheap_password_hashes: bool,
    /// Whose keys are asked for and believed.
    pub keys: KeyStoreConfig,
    /// How long servers are left alone that do not answer.
    pub pauses: Pauses,
    /// Which servers it has to do with.
    pub servers: ServerFilter,
    /// Where files are, and how large they may be.
    pub media: MediaConfig,
}

/// How many events may wait to be put into the queues of their destinations.
const OUTBOX_MAX: usize = 1_000;

impl Deref for Homeserver {
    type Target = Parts;

    fn deref(&self) -> &Parts {
        &self.0
    }
}

impl Homeserver {
    /// Opens a server on what a log has. What other servers are to be told of comes out of the channel: it is to be given to
    /// [`start`](Self::start).
    ///
    /// # Errors
    ///
    /// When the log can't be read.
    pub async fn open(
        config: HomeserverConfig,
        log: Arc<EventLog>,
        clock: Arc<dyn Clock>,
        random: Arc<dyn Random>,
        network: Arc<dyn Network>,
    ) -> Result<(Self, mpsc::Receiver<ToSend>), RoomsError> {
        let HomeserverConfig { server_name, signing_key, cheap_password_hashes, keys, pauses, servers, media } = config;
        let accounts_config = AccountsConfig { server_name: server_name.clone(), cheap_password_hashes };
        let accounts = Accounts::new(log.clone(), clock.clone(), random.clone(), accounts_config);
        let (outbox, to_send) = mpsc::channel(OUTBOX_MAX);
        let key = signing_key.clone();
        let (name, of_clock, of_random) = (server_name.clone(), clock.clone(), random.clone());
        let client = FederationClient::new(network, of_clock, of_random, name, key, pauses, servers);
        let (name, key) = (server_name.clone(), signing_key.clone());
        let rooms = Rooms::open(name, key, log.clone(), clock.clone(), random.clone(), client.clone(), outbox).await?;
        let (old_keys, key) = (Default::default(), signing_key.clone());
        let own = OwnKeys { server_name: server_name.clone(), signing_key: key, old_keys };
        let keys = KeyStore::new(log.clone(), client.clone(), clock.clone(), own, keys);
        let (receiving, joining) = (Receiving::new(), Joining::default());
        let sending = Sending::new(rooms.position());
        let profiles = Profiles::new(log.clone(), rooms.clone());
        let account_data = AccountData::new(log.clone(), rooms.clone());
        let filters = Filters::new(log.clone());
        let directory = Directory::new(log.clone(), rooms.clone());
        let open_id = OpenId::new(clock.clone(), random.clone());
        let ephemeral = Ephemeral::new(log.clone(), rooms.clone(), clock.clone());
        let media = Media::open(media, log.clone(), client.clone(), clock.clone(), random.clone()).await;
        let to_device = ToDevice::new(log.clone(), rooms.clone(), accounts.clone(), clock.clone(), random.clone());
        let to_device = Arc::new(to_device);
        let syncs =
            Syncs::new(rooms.clone(), account_data.clone(), ephemeral.clone(), to_device.clone(), clock.clone());
        let parts = Parts {
            server_name,
            signing_key,
            clock,
            random,
            log,
            accounts,
            rooms,
            profiles,
            account_data,
            filters,
            directory,
            ephemeral,
            open_id,
            media,
            syncs,
            client,
            keys,
            receiving,
            to_device,
            sending,
            joining,
        };
        Ok((Self(Arc::new(parts)), to_send))
    }

    /// Begins what runs by itself, until the server is dropped.
    pub fn start(&self, to_send: mpsc::Receiver<ToSend>) {
        tokio::spawn(self.clone().fill_gaps());
        tokio::spawn(Self::send_local_edus(self.downgrade()));
        tokio::spawn(Self::keep_members(self.downgrade()));
        self.start_sending(to_send);
    }

    /// Returns what it is made of, without keeping that there.
    pub(crate) fn downgrade(&self) -> Weak<Parts> {
        Arc::downgrade(&self.0)
    }

    /// Returns the server that is made of these parts, if it is still there.
    pub(crate) fn upgrade(parts: &Weak<Parts>) -> Option<Self> {
        parts.upgrade().map(Self)
    }
}

#[cfg(test)]
mod tests;
