//! Fetching keys, and taking them over.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::{FutureExt, StreamExt, pin_mut, stream};
use http::Request;
use ravel_core::{
    canonical_json::{self, JsonMode},
    id::ServerName,
    signing::KeyRing,
};
use ravel_store::{Durability, log::LogError};

use super::{
    Effort, KeyStore, Unsatisfied,
    document::{KeyDocument, merged},
};
use crate::{
    clock::within,
    federation::{FederationError, SendOptions},
    network::RequestLimits,
};

/// What came of asking a server for its keys.
enum Fetched {
    /// Keys that can be believed.
    Keys,
    Nothing,
    /// It was not asked, since it is left alone at present.
    NotAsked,
}

impl KeyStore {
    /// Fetches the keys of servers from the servers, many at a time, in this order.
    pub(super) async fn fetch_all(&self, servers: Vec<ServerName>, effort: &Effort) -> Result<(), LogError> {
        let not_asked = &AtomicUsize::new(servers.len());
        let insistent = effort.insistent;
        let fetches = stream::iter(servers.into_iter().map(|server| {
            let store = self.clone();
            async move {
                not_asked.fetch_sub(1, Ordering::Relaxed);
                store.fetch(&server, insistent).await
            }
        }));
        let fetches = fetches.buffer_unordered(SERVERS_AT_ONCE);
        let all = async {
            pin_mut!(fetches);
            let mut result = Ok(());
            while let Some(fetched) = fetches.next().await {
                result = result.and(fetched);
            }
            result
        };
        let fetched = within(&*self.shared.clock, effort.time, all).await;
        let not_asked = not_asked.load(Ordering::Relaxed);
        if not_asked > 0 {
            tracing::warn!(not_asked, "there was no time to ask all servers for their keys");
        }
        fetched.unwrap_or(Ok(()))
    }

    /// Fetches the keys of a server from the server, unless that was done just now.
    async fn fetch(&self, server: &ServerName, insistent: bool) -> Result<(), LogError> {
        if self.shared.memory().asked.get(server, self.shared.clock.now_ms()).is_some() {
            return Ok(());
        }
        let (store, key) = (self.clone(), server.clone());
        let flight = || {
            async move {
                let pause_ms = match store.fetch_now(&key, insistent).await.map_err(Arc::new)? {
                    Fetched::NotAsked => return Ok(()),
                    Fetched::Keys => ASK_AGAIN_AFTER_MS,
                    Fetched::Nothing => TRY_AGAIN_AFTER_MS,
                };
                let end_ms = store.shared.clock.now_ms().saturating_add(pause_ms);
                store.shared.memory().asked.insert(key, (), end_ms);
                Ok(())
            }
            .boxed()
        };
        match self.shared.fetching.run(&(server.clone(), insistent), flight).await {
            Ok(()) => Ok(()),
            // The others that waited see that the keys are missing.
            Err(error) => Arc::into_inner(error).map_or(Ok(()), Err),
        }
    }

    async fn fetch_now(&self, server: &ServerName, insistent: bool) -> Result<Fetched, LogError> {
        let Ok(request) = Request::builder().uri("/_matrix/key/v2/server").body(Bytes::new()) else {
            return Ok(Fetched::NotAsked);
        };
        let limits = RequestLimits { time: QUESTION_TIME_MAX, answer_bytes: DOCUMENT_BYTES_MAX };
        let options = SendOptions { limits, ignore_back_off: insistent };
        let answer = match self.shared.client.send_unsigned(server, request, options).await {
            Ok(answer) => answer,
            Err(FederationError::BackingOff { .. }) => return Ok(Fetched::NotAsked),
            Err(error) => {
                tracing::debug!(server = %server, error = %error, "a server does not give its keys");
                return Ok(Fetched::Nothing);
            }
        };
        let object = match canonical_json::parse_object(answer.body(), JsonMode::Lenient) {
            Ok(object) => object,
            Err(error) => {
                tracing::debug!(server = %server, error = %error, "a server gives no JSON as its keys");
                return Ok(Fetched::Nothing);
            }
        };
        match KeyDocument::check(object, server, self.shared.clock.now_ms()) {
            Ok(document) => self.keep(&document, true).await.map(|()| Fetched::Keys),
            Err(error) => {
                tracing::debug!(server = %server, error = %error, "keys are not believed");
                Ok(Fetched::Nothing)
            }
        }
    }

    /// Asks the notaries for keys that could not be had from their servers, unless that was done just now; for so long at most.
    pub(super) async fn ask_notaries(&self, mut unsatisfied: Unsatisfied, time: Duration) -> Result<(), LogError> {
        if self.shared.notaries.is_empty() {
            return Ok(());
        }
        let now_ms = self.shared.clock.now_ms();
        unsatisfied.retain(|server, _| {
            let asked = &mut self.shared.memory().notaries_asked;
            let is_due = asked.get(server, now_ms).is_none();
            if is_due {
                asked.insert(server.clone(), (), now_ms.saturating_add(ASK_NOTARIES_AGAIN_AFTER_MS));
            }
            is_due
        });
        let all = async {
            for notary in &self.shared.notaries {
                if unsatisfied.is_empty() {
                    break;
                }
                if self.is_ours(notary) {
                    continue;
                }
                // Its own keys are needed to believe it.
                if self.load(notary).await?.is_empty() {
                    self.fetch(notary, false).await?;
                }
                self.ask_notary(notary, &unsatisfied).await?;
                unsatisfied = self.unsatisfied(&unsatisfied).await?;
            }
            Ok(())
        };
        within(&*self.shared.clock, time, all).await.unwrap_or(Ok(()))
    }

    /// Takes the keys of a document over into what is known.
    pub(super) async fn keep(&self, document: &KeyDocument, is_from_server: bool) -> Result<(), LogError> {
        let shared = &self.shared;
        let now_ms = shared.clock.now_ms();
        let _storing = shared.storing.lock().await;
        let known = shared.load_stored(&document.server).await?;
        if is_from_server {
            shared.keep_document(document, &known, now_ms);
        }
        let mut changed = KeyRing::new();
        let mut keys = (*known).clone();
        for (key_id, published) in document.keys.iter().filter(|(_, key)| !shared.denied.contains(key.key.as_bytes())) {
            let stored = keys.get(key_id);
            if stored.is_none() && keys.len() >= KEYS_OF_SERVER_MAX {
                continue;
            }
            if let Some(merged) = merged(stored, published, is_from_server, now_ms) {
                keys.insert(key_id.clone(), merged);
                changed.insert(document.server.clone(), key_id.clone(), merged);
            }
        }
        if changed.iter().next().is_some() {
            // What is lost can be fetched again.
            shared.log.put_server_keys(&changed, Durability::Relaxed).await?;
            shared.remember(&document.server, Arc::new(keys));
        }
        Ok(())
    }
}

/// How many keys of one server are stored.
const KEYS_OF_SERVER_MAX: usize = 256;

/// How many servers are asked at once.
pub(super) const SERVERS_AT_ONCE: usize = 128;

/// How long one question may take.
pub(super) const QUESTION_TIME_MAX: Duration = Duration::from_secs(10);

/// How long a document of keys may be.
const DOCUMENT_BYTES_MAX: usize = 64 << 10;

/// A server is not asked again for so long after it has answered, and after it has not: whoever signs with keys that are none must
/// not make us ask all the time.
const ASK_AGAIN_AFTER_MS: i64 = 10_000;
const TRY_AGAIN_AFTER_MS: i64 = 3_000;

/// Nor are notaries asked for the keys of a server again for so long.
const ASK_NOTARIES_AGAIN_AFTER_MS: i64 = 60_000;
