//! Messages from devices to devices: kept until the device has got them, and said so by its next sync.
//!
//! Source: client-server API, "Send-to-Device messaging".

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use ravel_core::{
    canonical_json::{JsonError, JsonMode, parse_object},
    id::{ServerName, UserId},
};
use ravel_store::{
    Durability,
    log::{EventLog, Fact, LogError, StoredFact},
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json, value::RawValue};
use sha2::{Digest, Sha256};

use crate::{
    accounts::{AccountError, Accounts, Session},
    clock::Clock,
    fact_kind::TO_DEVICE,
    federation::timed_cache::TimedCache,
    homeserver::Homeserver,
    random::{Random, random_text},
    record::{PART_DEPTH_MAX, RecordError, all_facts, decode_json, encode_json, is_within, key},
    rooms::{Rooms, RoomsError},
    sending::Edu,
};

/// Why a message to devices is not taken.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum ToDeviceError {
    #[error("there are more than {MESSAGES_MAX} messages, or one of them is longer than {CONTENT_BYTES_MAX} bytes")]
    TooLarge,
    #[error("the type, the message id, a user id or a device id is empty or longer than {NAME_BYTES_MAX} bytes")]
    InvalidName,
    #[error(
        "a content is no JSON object, is nested deeper than {CONTENT_DEPTH_MAX} levels, or has a number out of any range"
    )]
    InvalidContent,
    #[error("a content can't be sent: {0}")]
    NotCanonical(#[from] JsonError),
    #[error(transparent)]
    Log(#[from] LogError),
    #[error(transparent)]
    Record(#[from] RecordError),
    #[error(transparent)]
    Rooms(#[from] RoomsError),
    #[error(transparent)]
    Accounts(#[from] AccountError),
    #[error("a message can't be written")]
    Json(#[from] serde_json::Error),
}

/// Returns the id of a message that a client calls by a transaction id: 24 characters, the same if it is sent again.
pub fn message_id(sender: &Session, event_type: &str, transaction_id: &str) -> String {
    let mut hash = Sha256::new();
    for part in [sender.user_id.as_str(), sender.device_id.as_str(), event_type, transaction_id] {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    hash.finalize().iter().take(12).map(|byte| format!("{byte:02x}")).collect()
}

/// Contents by user and device; the device `*` stands for all of the user's.
pub type Messages = BTreeMap<UserId, BTreeMap<String, Box<RawValue>>>;

/// What a user sends to devices.
#[derive(Clone, Debug)]
pub struct ToDeviceMessage {
    /// Who.
    pub sender: UserId,
    /// The type of the events.
    pub event_type: String,
    /// The same when it is sent again, for some time.
    pub message_id: String,
    /// What, to whom.
    pub messages: Messages,
}

/// The content of `m.direct_to_device`.
///
/// Source: server-server API, "Send-to-device messaging".
#[derive(Serialize, Deserialize)]
pub(crate) struct DirectToDevice {
    pub(crate) sender: String,
    #[serde(rename = "type")]
    pub(crate) event_type: String,
    pub(crate) message_id: String,
    pub(crate) messages: BTreeMap<String, BTreeMap<String, Box<RawValue>>>,
}

/// The messages that wait for devices of this server.
pub struct ToDevice {
    log: Arc<EventLog>,
    rooms: Rooms,
    accounts: Accounts,
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
    /// Those that were taken lately: sender and message id.
    taken: Mutex<TimedCache<(UserId, String), ()>>,
}

/// How many messages may be sent at once.
pub const MESSAGES_MAX: usize = 10_000;

/// How many messages wait for one device; those that come later are dropped.
pub const WAITING_MAX: usize = 1_000;

/// The longest content, in bytes.
pub const CONTENT_BYTES_MAX: usize = 65_536;

/// How deep a content may be nested.
pub const CONTENT_DEPTH_MAX: usize = PART_DEPTH_MAX;

/// The longest type, message id, user id and device id, in bytes.
pub const NAME_BYTES_MAX: usize = 255;

/// How many messages are remembered as taken, and for how long.
const TAKEN_MAX: usize = 10_000;
const TAKEN_KEPT_MS: i64 = 60 * 60 * 1000;

/// The device that stands for all.
const ALL_DEVICES: &str = "*";

const DROPPED: &str = "ravel_to_device_dropped_total";

impl ToDevice {
    /// Opens what a log has.
    pub fn new(
        log: Arc<EventLog>,
        rooms: Rooms,
        accounts: Accounts,
        clock: Arc<dyn Clock>,
        random: Arc<dyn Random>,
    ) -> Self {
        Self { log, rooms, accounts, clock, random, taken: Mutex::new(TimedCache::new(TAKEN_MAX)) }
    }

    /// Keeps a message for the devices of this server that it is for; those that do not exist are left out. A message that was taken
    /// before changes nothing.
    pub(crate) async fn keep(&self, message: &ToDeviceMessage) -> Result<(), ToDeviceError> {
        let id = (message.sender.clone(), message.message_id.clone());
        let now_ms = self.clock.now_ms();
        if self.taken().get(&id, now_ms).is_some() {
            return Ok(());
        }
        for (user_id, contents) in &message.messages {
            self.keep_for(user_id, message, contents).await?;
        }
        self.taken().insert(id, (), now_ms.saturating_add(TAKEN_KEPT_MS));
        Ok(())
    }

    async fn keep_for(
        &self,
        user_id: &UserId,
        message: &ToDeviceMessage,
        contents: &BTreeMap<String, Box<RawValue>>,
    ) -> Result<(), ToDeviceError> {
        if !self.accounts.is_known(user_id).await? {
            return Ok(());
        }
        let mut facts = Vec::new();
        for device in self.accounts.devices(user_id).await?.into_iter().filter_map(|device| device.device_id) {
            let device = device.as_str();
            let Some(content) = contents.get(device).or_else(|| contents.get(ALL_DEVICES)) else { continue };
            if facts_of_device(&self.log, TO_DEVICE, &device_key(user_id, device)).await?.len() >= WAITING_MAX {
                metrics::counter!(DROPPED).increment(1);
                continue;
            }
            let name = random_text(&*self.random, NAME_BYTES);
            let content: Value = serde_json::from_str(content.get())?;
            let event = json!({ "type": message.event_type, "sender": message.sender.as_str(), "content": content });
            let fact_key = key(&[user_id.localpart(), device, &name]);
            facts.push(Fact { kind: TO_DEVICE, key: fact_key, value: Some(encode_json(&event)?) });
        }
        if !facts.is_empty() {
            self.rooms.put_facts_for(user_id.clone(), facts, Vec::new()).await?;
        }
        Ok(())
    }

    /// Returns what waits for a device, as events and in order: what stands in the log before `now`. What it got by an earlier sync, which
    /// is what stands before `since`, is dropped.
    pub(crate) async fn waiting(
        &self,
        user_id: &UserId,
        device_id: &str,
        since: Option<u64>,
        now: u64,
    ) -> Result<Vec<Map<String, Value>>, ToDeviceError> {
        let waiting = facts_of_device(&self.log, TO_DEVICE, &device_key(user_id, device_id)).await?;
        let (got, waiting): (Vec<_>, Vec<_>) =
            waiting.into_iter().partition(|fact| since.is_some_and(|since| fact.sequence < since));
        if !got.is_empty() {
            let gone = got.into_iter().map(|fact| Fact { kind: TO_DEVICE, key: fact.key, value: None });
            // What comes back by a loss of power is told again.
            self.log.put_facts(&gone.collect::<Vec<_>>(), &[], Durability::Relaxed).await?;
        }
        let mut events = Vec::with_capacity(waiting.len());
        for fact in waiting.into_iter().filter(|fact| fact.sequence < now) {
            if let Value::Object(event) = decode_json(&fact.value)? {
                events.push(event);
            }
        }
        Ok(events)
    }

    fn taken(&self) -> std::sync::MutexGuard<'_, TimedCache<(UserId, String), ()>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns facts of a device of a kind whose keys name the device first, then something of [`NAME_BYTES`]; in order.
pub(crate) async fn facts_of_device(log: &EventLog, kind: u8, device_key: &[u8]) -> Result<Vec<StoredFact>, LogError> {
    let prefix = [device_key, b"\0"].concat();
    let mut facts = all_facts(log, kind, &prefix).await?;
    // A device id may have a NUL, and begin with another device's id.
    facts.retain(|fact| fact.key.len() == prefix.len() + NAME_BYTES);
    facts.sort_unstable_by_key(|fact| fact.sequence);
    Ok(facts)
}

/// How long the names are by which messages for a device differ, or its transactions.
pub(crate) const NAME_BYTES: usize = 16;

fn device_key(user_id: &UserId, device_id: &str) -> Bytes {
    key(&[user_id.localpart(), device_id])
}

impl ToDeviceMessage {
    /// Checks its bounds, and that each content is a JSON object which can be read wherever it is sent or kept.
    ///
    /// # Errors
    ///
    /// `TooLarge`, `InvalidName`, `InvalidContent`
    pub fn check(&self) -> Result<(), ToDeviceError> {
        let device_ids = self.messages.values().flat_map(BTreeMap::keys).map(String::as_str);
        let user_ids = self.messages.keys().map(UserId::as_str);
        let mut names = [&*self.event_type, &*self.message_id].into_iter().chain(user_ids).chain(device_ids);
        if names.any(|name| name.is_empty() || name.len() > NAME_BYTES_MAX) {
            return Err(ToDeviceError::InvalidName);
        }
        let count: usize = self.messages.values().map(BTreeMap::len).sum();
        if count > MESSAGES_MAX || self.contents().any(|content| content.get().len() > CONTENT_BYTES_MAX) {
            return Err(ToDeviceError::TooLarge);
        }
        if self.contents().all(is_readable) { Ok(()) } else { Err(ToDeviceError::InvalidContent) }
    }

    fn contents(&self) -> impl Iterator<Item = &RawValue> {
        self.messages.values().flat_map(BTreeMap::values).map(|content| &**content)
    }
}

/// Whether a content is a JSON object of some depth at most.
fn is_readable(content: &RawValue) -> bool {
    let content: Result<Map<String, Value>, _> = serde_json::from_str(content.get());
    content.is_ok_and(|content| is_within(&content.into(), CONTENT_DEPTH_MAX))
}

impl Homeserver {
    /// Sends a message of a user of this server to devices, of this server and of others. When this returns, it is kept until they, or their
    /// servers, have got it.
    ///
    /// The contents have to be what can be signed, as they go to other servers in transactions (appendices, "Canonical JSON"). If one is
    /// not, nothing is sent.
    ///
    /// # Errors
    ///
    /// [`ToDeviceError`]
    pub async fn send_to_devices(&self, message: ToDeviceMessage) -> Result<(), ToDeviceError> {
        message.check()?;
        for content in message.contents() {
            parse_object(content.get().as_bytes(), JsonMode::Strict)?;
        }
        let (mut ours, mut of_servers) = (Messages::new(), BTreeMap::<ServerName, Messages>::new());
        for (user_id, contents) in &message.messages {
            let messages = match user_id.server_name() {
                name if name == self.server_name.as_str() => &mut ours,
                name => {
                    let server = ServerName::parse(name).map_err(|_| ToDeviceError::InvalidName)?;
                    of_servers.entry(server).or_default()
                }
            };
            messages.insert(user_id.clone(), contents.clone());
        }
        let mut edus = Vec::new();
        for (server, messages) in of_servers {
            for (number, messages) in in_parts(messages).into_iter().enumerate() {
                let content = DirectToDevice {
                    sender: message.sender.to_string(),
                    event_type: message.event_type.clone(),
                    message_id: format!("{}.{number}", message.message_id),
                    messages: messages.into_iter().map(|(user, contents)| (user.to_string(), contents)).collect(),
                };
                edus.push((server.clone(), Edu::new("m.direct_to_device", &content, None)?));
            }
        }
        if !ours.is_empty() {
            self.to_device.keep(&ToDeviceMessage { messages: ours, ..message }).await?;
        }
        self.send_edus_for_sure(edus).await
    }
}

/// Divides messages so that no part is much longer than the longest content.
fn in_parts(messages: Messages) -> Vec<Messages> {
    let (mut parts, mut bytes) = (Vec::<Messages>::new(), usize::MAX);
    for (user_id, contents) in messages {
        for (device, content) in contents {
            let more = content.get().len() + device.len() + user_id.as_str().len();
            bytes = bytes.saturating_add(more);
            if bytes > CONTENT_BYTES_MAX {
                parts.push(Messages::new());
                bytes = more;
            }
            if let Some(part) = parts.last_mut() {
                part.entry(user_id.clone()).or_default().insert(device, content);
            }
        }
    }
    parts
}

#[cfg(test)]
mod tests;
