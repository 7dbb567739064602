//! Changes of accounts, all or nothing.

use bytes::Bytes;
use ravel_store::log::{Condition, Fact, StoredFact};

use super::{records::DeviceRecord, tokens::TokenHash};
use crate::{
    fact_kind,
    record::{RecordError, decode},
};

/// What is put into the log at once, if what it depends on is still so.
#[derive(Default)]
pub(super) struct Change {
    pub(super) facts: Vec<Fact>,
    pub(super) conditions: Vec<Condition>,
    /// Tokens that end with it.
    pub(super) ended: Vec<TokenHash>,
    /// The keys of devices that end with it.
    pub(super) removed: Vec<Bytes>,
}

impl Change {
    pub(super) fn put(&mut self, kind: u8, key: Bytes, before: Option<Bytes>, value: Option<Bytes>) {
        self.conditions.push(Condition { kind, key: key.clone(), value: before });
        self.facts.push(Fact { kind, key, value });
    }

    pub(super) fn only_if(&mut self, kind: u8, stored: StoredFact) {
        self.conditions.push(Condition { kind, key: stored.key, value: Some(stored.value) });
    }

    pub(super) fn remove_device(&mut self, device: StoredFact) -> Result<(), RecordError> {
        let record: DeviceRecord = decode(&device.value)?;
        self.remove_token(TokenHash(record.token_hash));
        self.removed.push(device.key.clone());
        self.put(fact_kind::DEVICE, device.key, Some(device.value), None);
        Ok(())
    }

    /// Tokens change with their devices only, so the device's condition is enough.
    pub(super) fn remove_token(&mut self, token: TokenHash) {
        let key = Bytes::copy_from_slice(&token.0);
        self.facts.push(Fact { kind: fact_kind::ACCESS_TOKEN, key, value: None });
        self.ended.push(token);
    }
}
