//! Asking notaries for the keys of others, and being one.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use bytes::Bytes;
use http::{Method, Request, header::CONTENT_TYPE};
use ravel_core::{
    canonical_json::{
        self, CanonicalJsonObject, CanonicalJsonValue, JsonMode, get_array, get_str, object_to_canonical_bytes,
    },
    id::{KeyId, ServerName},
    signing::{PublishedKey, sign_json, verify_json},
};
use ravel_store::log::LogError;

use super::{Effort, KeyDocument, KeyStore, Unsatisfied, document::is_conflict, fetching::QUESTION_TIME_MAX};
use crate::{
    federation::{FederationError, SendOptions},
    network::RequestLimits,
};

/// The servers whose keys somebody asks a notary for.
pub type NotaryQuery = BTreeMap<ServerName, NotaryCriteria>;

/// Which keys of a server somebody asks a notary for. No keys are all keys.
#[derive(Clone, Debug, Default)]
pub struct NotaryCriteria {
    /// Until when the answer should be valid, in milliseconds since 1970, if that was said.
    pub until_ms: Option<i64>,
    /// The same for each key that is named.
    pub keys: BTreeMap<KeyId, Option<i64>>,
}

/// How many servers one question of ours, or by others, is about.
pub const NOTARY_SERVERS_MAX: usize = 64;

/// How long the answer of a notary may be.
const NOTARY_ANSWER_BYTES_MAX: usize = 4 << 20;

/// How often a server is asked for others, until nobody has wanted that for some time.
pub(super) const ASKED_FOR_OTHERS_MAX: u32 = 5;
const ASKED_FOR_OTHERS_MS: i64 = 10_000;

/// How many documents of one server are kept to answer with.
const DOCUMENTS_MAX: usize = 4;

/// The longest document that is kept to answer with.
const DOCUMENT_BYTES_MAX: usize = 16 << 10;

/// How long a document is kept to answer with, in milliseconds.
const DOCUMENT_KEPT_MS: i64 = 30 * 24 * 60 * 60 * 1000;

impl KeyStore {
    /// Asks a notary for keys, and keeps what it answers as far as it can be believed.
    pub(super) async fn ask_notary(&self, notary: &ServerName, wanted: &Unsatisfied) -> Result<(), LogError> {
        let servers: Vec<_> = wanted.iter().filter(|(server, _)| *server != notary).collect();
        for chunk in servers.chunks(NOTARY_SERVERS_MAX) {
            let asked: BTreeSet<_> = chunk.iter().map(|(server, _)| (*server).clone()).collect();
            match self.documents_of_notary(notary, chunk).await {
                Ok(documents) => {
                    for document in documents {
                        self.keep_of_notary(notary, document, &asked).await?;
                    }
                }
                Err(error) => {
                    tracing::debug!(notary = %notary, error = %error, "a notary does not answer");
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    async fn documents_of_notary(
        &self,
        notary: &ServerName,
        wanted: &[(&ServerName, &BTreeMap<KeyId, i64>)],
    ) -> Result<Vec<CanonicalJsonObject>, FederationError> {
        let criteria = |until_ms: &i64| {
            let until_ms = ("minimum_valid_until_ts".into(), CanonicalJsonValue::Integer(*until_ms));
            CanonicalJsonValue::from(CanonicalJsonObject::from([until_ms]))
        };
        let servers = wanted.iter().map(|(server, keys)| {
            let keys = keys.iter().map(|(key_id, until_ms)| (key_id.as_str().into(), criteria(until_ms)));
            (server.as_str().into(), keys.collect::<CanonicalJsonObject>().into())
        });
        let servers = servers.collect::<CanonicalJsonObject>();
        let body = object_to_canonical_bytes(&[("server_keys".into(), servers.into())].into());
        let request = Request::builder()
            .method(Method::POST)
            .uri("/_matrix/key/v2/query")
            .header(CONTENT_TYPE, "application/json")
            .body(Bytes::from(body))
            .map_err(|_| FederationError::Request)?;
        let limits = RequestLimits { time: QUESTION_TIME_MAX, answer_bytes: NOTARY_ANSWER_BYTES_MAX };
        let options = SendOptions { limits, ..SendOptions::default() };
        let answer = self.shared.client.send_unsigned(notary, request, options).await?;
        let malformed = |problem: &str| FederationError::Answer { problem: problem.into() };
        let answer = canonical_json::parse_object(answer.body(), JsonMode::Lenient)
            .map_err(|error| malformed(&error.to_string()))?;
        let documents = get_array(&answer, "server_keys").ok_or_else(|| malformed("no array server_keys"))?;
        let documents = documents.iter().take(4 * NOTARY_SERVERS_MAX);
        Ok(documents.filter_map(CanonicalJsonValue::as_object).cloned().collect())
    }

    /// Keeps the keys of a document that came from a notary, if both the notary and the server itself have signed it.
    async fn keep_of_notary(
        &self,
        notary: &ServerName,
        object: CanonicalJsonObject,
        asked: &BTreeSet<ServerName>,
    ) -> Result<(), LogError> {
        let server = get_str(&object, "server_name").and_then(|server| ServerName::parse(server).ok());
        let Some(server) = server.filter(|server| asked.contains(server)) else { return Ok(()) };
        let notary_keys = self.load(notary).await?;
        let is_signed = notary_keys.iter().any(|(key_id, key)| {
            key.expired_ts_ms.is_none() && verify_json(&object, notary.as_str(), key_id.as_str(), &key.key).is_ok()
        });
        if !is_signed {
            tracing::debug!(notary = %notary, server = %server, "not signed by the notary");
            return Ok(());
        }
        match KeyDocument::check(object, &server, self.shared.clock.now_ms()) {
            Ok(document) => self.keep(&document, false).await,
            Err(error) => {
                tracing::debug!(notary = %notary, server = %server, error = %error, "keys are not believed");
                Ok(())
            }
        }
    }

    /// Returns the answer to `/_matrix/key/v2/query`: what servers have published, signed by them and by us. Servers about which
    /// nothing is known are left out, as are those beyond [`NOTARY_SERVERS_MAX`].
    ///
    /// # Errors
    ///
    /// When the store fails.
    pub async fn notary_answer(&self, query: &NotaryQuery) -> Result<Vec<CanonicalJsonObject>, LogError> {
        let own = &self.shared.own;
        let now_ms = self.shared.clock.now_ms();
        let servers: Vec<_> = query.keys().take(NOTARY_SERVERS_MAX).filter(|server| !self.is_ours(server)).collect();
        let stale = servers.into_iter().filter(|server| {
            let wanted = query.get(*server);
            !self
                .shared
                .documents_of(server, now_ms)
                .iter()
                .any(|document| wanted.is_none_or(|wanted| satisfies(document, wanted, now_ms)))
        });
        let stale: Vec<ServerName> = stale.cloned().collect();
        for server in &stale {
            self.shared.let_others_ask(server, now_ms);
        }
        self.fetch_all(stale, &Effort::default()).await?;

        let mut answer = Vec::new();
        for (server, wanted) in query.iter().take(NOTARY_SERVERS_MAX) {
            if self.is_ours(server) {
                answer.extend(own.document(now_ms));
                continue;
            }
            for document in chosen(self.shared.documents_of(server, now_ms), wanted) {
                let mut object = document.object.clone();
                // What could be checked has well-formed signatures of the server, but those of others may be anything.
                if sign_json(&mut object, &own.server_name, &own.signing_key).is_ok() {
                    answer.push(object);
                }
            }
        }
        Ok(answer)
    }
}

impl super::Shared {
    /// Has a server asked again although that was done just now, since somebody wants keys that are valid for longer; but not too
    /// often, as anybody can want that.
    fn let_others_ask(&self, server: &ServerName, now_ms: i64) {
        let mut memory = self.memory();
        let times = memory.asked_for_others.get(server, now_ms).copied().unwrap_or_default();
        if times < ASKED_FOR_OTHERS_MAX {
            memory.asked.remove(server);
            let end_ms = now_ms.saturating_add(ASKED_FOR_OTHERS_MS);
            memory.asked_for_others.insert(server.clone(), times + 1, end_ms);
        }
    }

    /// Keeps a document to answer with, in place of those that it makes superfluous; not if it takes the id of a key that is to stay.
    pub(super) fn keep_document(&self, document: &KeyDocument, stored: &BTreeMap<KeyId, PublishedKey>, now_ms: i64) {
        let has_conflict = document
            .keys
            .iter()
            .any(|(key_id, key)| stored.get(key_id).is_some_and(|stored| is_conflict(stored, key, now_ms)));
        if has_conflict || object_to_canonical_bytes(&document.object).len() > DOCUMENT_BYTES_MAX {
            return;
        }
        let mut documents = self.documents_of(&document.server, now_ms);
        documents.retain(|older| older.keys.keys().any(|key_id| !document.keys.contains_key(key_id)));
        documents.insert(0, Arc::new(document.clone()));
        documents.truncate(DOCUMENTS_MAX);
        let end_ms = now_ms.saturating_add(DOCUMENT_KEPT_MS);
        self.memory().documents.insert(document.server.clone(), documents, end_ms);
    }

    /// The documents of a server, the newest first.
    fn documents_of(&self, server: &ServerName, now_ms: i64) -> Vec<Arc<KeyDocument>> {
        self.memory().documents.get(server, now_ms).cloned().unwrap_or_default()
    }
}

/// Whether a document has all wanted keys for as long as is wanted: "If not supplied, the current time".
fn satisfies(document: &KeyDocument, wanted: &NotaryCriteria, now_ms: i64) -> bool {
    let times = wanted.keys.values().chain([&wanted.until_ms]);
    let until_ms = times.map(|until_ms| until_ms.unwrap_or(now_ms)).max().unwrap_or(now_ms);
    let covers = |key_id: &KeyId| document.keys.contains_key(key_id);
    document.valid_until_ts_ms >= until_ms && wanted.keys.keys().all(covers)
}

/// The documents that have wanted keys; the newest if none has, or no keys are named.
fn chosen(documents: Vec<Arc<KeyDocument>>, wanted: &NotaryCriteria) -> Vec<Arc<KeyDocument>> {
    let newest = documents.first().cloned();
    let has_wanted = |document: &Arc<KeyDocument>| document.keys.keys().any(|key_id| wanted.keys.contains_key(key_id));
    let with_wanted: Vec<_> = documents.into_iter().filter(has_wanted).collect();
    if with_wanted.is_empty() { newest.into_iter().collect() } else { with_wanted }
}
