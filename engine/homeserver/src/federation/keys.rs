//! The keys of other servers: kept, fetched, checked.
//!
//! Source: server-server API, "Retrieving server keys".
//!
//! A key is looked for in memory, in the store, at its server, and at the configured notaries, in this order, until one is found
//! that covers the time it is wanted for. What servers publish is checked when it comes (`document.rs`) and never trusted for more
//! than seven days ahead, so keys have to be fetched again now and then. Denied keys are never given out, wherever they come from.

use std::{
    cmp::Reverse,
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use http::HeaderMap;
use ravel_core::{
    canonical_json::CanonicalJsonObject,
    id::{KeyId, ServerName},
    pdu::ParsedPdu,
    signing::{KEY_LIFETIME_MAX_MS, KeyRing, PublishedKey, SigningError, VerifyKey, decode_base64},
};
use ravel_store::log::{EventLog, LogError};

use super::{
    FederationClient,
    flights::Flights,
    timed_cache::TimedCache,
    x_matrix::{SignedRequest, XMatrix, XMatrixError},
};
use crate::clock::Clock;

mod document;
mod fetching;
mod notary;
mod own;

use self::document::KeyDocument;
pub use self::{
    notary::{NOTARY_SERVERS_MAX, NotaryCriteria, NotaryQuery},
    own::{OWN_KEYS_VALID_MS, OwnKeys},
};

/// The keys of all servers. Cloning shares them.
#[derive(Clone)]
pub struct KeyStore {
    shared: Arc<Shared>,
}

/// Who is asked for keys, and which are never believed.
#[derive(Clone, Debug, Default)]
pub struct KeyStoreConfig {
    /// Servers that are asked for the keys of others, in this order. A notary can make up keys of servers that do not answer.
    pub notaries: Vec<ServerName>,
    /// Keys that others know the secret of, in addition to those that are known to be so ([`LEAKED_KEYS`]).
    pub denied_keys: Vec<VerifyKey>,
}

/// Keys whose secrets are public: a package had shipped one for all of its users (CVE-2026-24044).
pub const LEAKED_KEYS: [&str; 1] = ["l/O9hxMVKB6Lg+3Hqf0FQQZhVESQcMzbPN1Cz2nM3og"];

/// The keys that somebody wants: for each the time that it has to be valid at, in milliseconds since 1970.
pub type WantedKeys = BTreeMap<ServerName, BTreeMap<KeyId, i64>>;

/// How many signatures somebody wants to check with the keys of each server.
pub(crate) type SignatureCounts = BTreeMap<ServerName, usize>;

/// What is done to get keys.
#[derive(Clone, Debug)]
pub(crate) struct Effort {
    /// Asks servers even if they are left alone otherwise.
    pub(crate) insistent: bool,
    /// How long servers, and notaries after them, are asked at most. Whoever was not asked by then is not.
    pub(crate) time: Duration,
    /// Servers with more of these are asked first.
    pub(crate) signatures: SignatureCounts,
}

impl Default for Effort {
    fn default() -> Self {
        Self { insistent: false, time: ALL_TIME_MAX, signatures: SignatureCounts::new() }
    }
}

/// How long servers, and notaries after them, are asked if nothing else is said.
const ALL_TIME_MAX: Duration = Duration::from_secs(30);

/// Those of the wanted keys that are not known, or not for long enough.
type Unsatisfied = WantedKeys;

/// Why a request is not taken as that of a server.
#[derive(Debug, thiserror::Error)]
pub enum AuthenticationError {
    /// It is not signed by a server as it should be.
    #[error(transparent)]
    XMatrix(#[from] XMatrixError),
    /// It says to be from a server that this one has nothing to do with.
    #[error("this server has nothing to do with {origin}")]
    Denied {
        /// That server.
        origin: ServerName,
    },
    /// The store failed.
    #[error(transparent)]
    Log(#[from] LogError),
}

impl KeyStore {
    /// Makes a store of the keys that are in a log, with our own.
    pub fn new(
        log: Arc<EventLog>,
        client: FederationClient,
        clock: Arc<dyn Clock>,
        own: OwnKeys,
        config: KeyStoreConfig,
    ) -> Self {
        let leaked = LEAKED_KEYS.iter().filter_map(|key| decode_base64(key)?.try_into().ok());
        let denied = leaked.chain(config.denied_keys.iter().map(|key| *key.as_bytes())).collect();
        let memory = Mutex::new(Memory {
            keys: TimedCache::new(SERVERS_MAX),
            asked: TimedCache::new(SERVERS_MAX),
            asked_for_others: TimedCache::new(SERVERS_MAX),
            notaries_asked: TimedCache::new(SERVERS_MAX),
            documents: TimedCache::new(DOCUMENT_SERVERS_MAX),
        });
        let notaries = config.notaries;
        let (fetching, storing) = (Flights::new(), tokio::sync::Mutex::default());
        Self { shared: Arc::new(Shared { log, client, clock, own, notaries, denied, memory, fetching, storing }) }
    }

    /// Returns the keys that these events may be verified with, as far as they can be had.
    ///
    /// # Errors
    ///
    /// When the store fails. Takes a minute at most.
    pub async fn keys_for_pdus<'a>(&self, pdus: impl IntoIterator<Item = &'a ParsedPdu>) -> Result<KeyRing, LogError> {
        self.keys_for_pdus_within(pdus, ALL_TIME_MAX).await
    }

    /// As [`keys_for_pdus`](Self::keys_for_pdus), for events that may be of many servers: these, and notaries after them, are asked
    /// for so long at most.
    pub(crate) async fn keys_for_pdus_within<'a>(
        &self,
        pdus: impl IntoIterator<Item = &'a ParsedPdu>,
        time: Duration,
    ) -> Result<KeyRing, LogError> {
        let (wanted, signatures) = wanted_by(pdus);
        self.keys_with(&wanted, &Effort { time, signatures, ..Effort::default() }).await
    }

    /// Returns the wanted keys, as far as they can be had. Keys that are known but not for long enough are among them.
    ///
    /// # Errors
    ///
    /// When the store fails. Takes a minute at most.
    pub async fn keys_for(&self, wanted: &WantedKeys) -> Result<KeyRing, LogError> {
        self.keys_with(wanted, &Effort::default()).await
    }

    /// Returns the wanted keys, as far as they can be had with some effort.
    pub(crate) async fn keys_with(&self, wanted: &WantedKeys, effort: &Effort) -> Result<KeyRing, LogError> {
        let mut unsatisfied = self.unsatisfied(wanted).await?;
        if !unsatisfied.is_empty() {
            let mut servers: Vec<ServerName> = unsatisfied.keys().cloned().collect();
            servers.sort_by_key(|server| Reverse(effort.signatures.get(server)));
            self.fetch_all(servers, effort).await?;
            unsatisfied = self.unsatisfied(&unsatisfied).await?;
        }
        if !unsatisfied.is_empty() {
            self.ask_notaries(unsatisfied, effort.time).await?;
        }
        let mut ring = KeyRing::new();
        for (server, key_ids) in wanted {
            let known = self.load(server).await?;
            for (key_id, key) in key_ids.keys().filter_map(|key_id| known.get_key_value(key_id)) {
                ring.insert(server.clone(), key_id.clone(), *key);
            }
        }
        Ok(ring)
    }

    /// Checks which server has sent a request ("Request Authentication"), and takes it as a sign of life of that server.
    ///
    /// # Errors
    ///
    /// [`AuthenticationError`]: it is not known who has sent it.
    pub async fn authenticate(
        &self,
        headers: &HeaderMap,
        request: &SignedRequest<'_>,
    ) -> Result<ServerName, AuthenticationError> {
        let our_name = &self.shared.own.server_name;
        let x_matrix = XMatrix::parse(headers, our_name)?;
        if !self.shared.client.allows(&x_matrix.origin) {
            return Err(AuthenticationError::Denied { origin: x_matrix.origin });
        }
        let now_ms = self.shared.clock.now_ms();
        let key_ids = x_matrix.signatures.iter().map(|(key_id, _)| (key_id.clone(), now_ms)).collect();
        // A server that did not answer lately seems to be there again.
        let effort = Effort { insistent: true, ..Effort::default() };
        let keys = self.keys_with(&[(x_matrix.origin.clone(), key_ids)].into(), &effort).await?;
        x_matrix.verify(request, our_name, &keys, now_ms)?;
        self.shared.client.sign_of_life(&x_matrix.origin);
        Ok(x_matrix.origin)
    }

    /// Returns the answer to `/_matrix/key/v2/server`.
    ///
    /// # Errors
    ///
    /// None, as of [`OwnKeys::document`].
    pub fn own_document(&self) -> Result<CanonicalJsonObject, SigningError> {
        self.shared.own.document(self.shared.clock.now_ms())
    }

    fn is_ours(&self, server: &ServerName) -> bool {
        *server == self.shared.own.server_name
    }

    async fn unsatisfied(&self, wanted: &WantedKeys) -> Result<Unsatisfied, LogError> {
        let now_ms = self.shared.clock.now_ms();
        let mut unsatisfied = Unsatisfied::new();
        for (server, wanted_keys) in wanted {
            if self.is_ours(server) {
                continue;
            }
            let known = self.load(server).await?;
            let missing = wanted_keys.iter().filter(|(key_id, at_ms)| match known.get(*key_id) {
                None => true,
                // What expired stays so.
                Some(key) if key.expired_ts_ms.is_some() => false,
                // No server publishes keys that cover events from further in the future.
                Some(key) => key.valid_until_ts_ms < (**at_ms).min(now_ms.saturating_add(FUTURE_MS_MAX)),
            });
            let missing: BTreeMap<_, _> = missing.map(|(key_id, at_ms)| (key_id.clone(), *at_ms)).collect();
            if !missing.is_empty() {
                unsatisfied.insert(server.clone(), missing);
            }
        }
        Ok(unsatisfied)
    }

    /// Returns what is known of the keys of a server without asking anybody.
    async fn load(&self, server: &ServerName) -> Result<Arc<BTreeMap<KeyId, PublishedKey>>, LogError> {
        let shared = &self.shared;
        let now_ms = shared.clock.now_ms();
        if self.is_ours(server) {
            return Ok(Arc::new(shared.own.published(now_ms)));
        }
        if let Some(keys) = shared.memory().keys.get(server, now_ms) {
            return Ok(keys.clone());
        }
        let _storing = shared.storing.lock().await;
        shared.load_stored(server).await
    }
}

/// Returns the keys that events may be verified with, and how many signatures there are of each server.
fn wanted_by<'a>(pdus: impl IntoIterator<Item = &'a ParsedPdu>) -> (WantedKeys, SignatureCounts) {
    let (mut wanted, mut signatures) = (WantedKeys::new(), SignatureCounts::new());
    for pdu in pdus {
        let at_ms = pdu.event().origin_server_ts_ms;
        for (server, key_id) in pdu.wanted_keys() {
            let (Ok(server), Ok(key_id)) = (ServerName::parse(server), KeyId::parse(key_id)) else { continue };
            *signatures.entry(server.clone()).or_default() += 1;
            let until_ms = wanted.entry(server).or_default().entry(key_id).or_insert(at_ms);
            *until_ms = at_ms.max(*until_ms);
        }
    }
    (wanted, signatures)
}

/// How many servers' keys are in memory; all are in the store.
const SERVERS_MAX: usize = 20_000;

/// How many servers' documents are kept to answer others with.
const DOCUMENT_SERVERS_MAX: usize = 1_000;

/// How long keys stay in memory.
const IN_MEMORY_MS: i64 = 60 * 60 * 1000;

/// How far in the future the time of an event is taken seriously when it comes to fetching keys.
const FUTURE_MS_MAX: i64 = 60 * 60 * 1000;
const _: () = assert!(FUTURE_MS_MAX < KEY_LIFETIME_MAX_MS);

struct Shared {
    log: Arc<EventLog>,
    client: FederationClient,
    clock: Arc<dyn Clock>,
    own: OwnKeys,
    notaries: Vec<ServerName>,
    denied: std::collections::BTreeSet<[u8; 32]>,
    memory: Mutex<Memory>,
    fetching: Flights<(ServerName, bool), Result<(), Arc<LogError>>>,
    /// Held while keys are read from the store and written to it.
    storing: tokio::sync::Mutex<()>,
}

struct Memory {
    keys: TimedCache<ServerName, Arc<BTreeMap<KeyId, PublishedKey>>>,
    /// Servers that are not to be asked again yet, and those that notaries are not to be asked for.
    asked: TimedCache<ServerName, ()>,
    /// How often servers were asked lately since somebody asked us as a notary.
    asked_for_others: TimedCache<ServerName, u32>,
    notaries_asked: TimedCache<ServerName, ()>,
    documents: TimedCache<ServerName, Vec<Arc<KeyDocument>>>,
}

impl Shared {
    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn load_stored(&self, server: &ServerName) -> Result<Arc<BTreeMap<KeyId, PublishedKey>>, LogError> {
        if let Some(keys) = self.memory().keys.get(server, self.clock.now_ms()) {
            return Ok(keys.clone());
        }
        let stored = self.log.server_keys_of(server).await?;
        let allowed = stored.iter().filter(|(_, _, key)| !self.denied.contains(key.key.as_bytes()));
        let keys = Arc::new(allowed.map(|(_, key_id, key)| (key_id.clone(), *key)).collect());
        self.remember(server, Arc::clone(&keys));
        Ok(keys)
    }

    fn remember(&self, server: &ServerName, keys: Arc<BTreeMap<KeyId, PublishedKey>>) {
        let end_ms = self.clock.now_ms().saturating_add(IN_MEMORY_MS);
        self.memory().keys.insert(server.clone(), keys, end_ms);
    }
}

#[cfg(test)]
mod tests;
