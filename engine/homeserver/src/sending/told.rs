//! How far other servers were told, as facts of the log: one place for all, and one for each server that lags behind that.
//!
//! They may be older than what was delivered, never newer: then something is delivered twice.

use std::collections::BTreeMap;

use bytes::Bytes;
use ravel_core::id::ServerName;
use ravel_store::{
    Durability,
    log::{EventLog, Fact, LogError},
};
use serde_json::{Value, json};

use super::Edu;
use crate::{
    fact_kind::{OUTGOING_EDU, PASSED_ON, TOLD, TOLD_ALL},
    record::{RecordError, all_facts, decode_json, encode_json, key, key_parts},
};

/// How far other servers were told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Told {
    /// All of them but for those in `behind`: everything before this place in the log.
    pub(super) all: u64,
    /// Those that lag behind: everything before these places.
    pub(super) behind: BTreeMap<ServerName, u64>,
}

const VERSION: u8 = 1;

/// How many facts are read at once.
const PAGE: usize = 1_000;

impl Told {
    /// Reads what was written last.
    pub(super) async fn read(log: &EventLog) -> Result<Self, LogError> {
        let all = log.fact(TOLD_ALL, &[]).await?.and_then(|fact| decode(&fact.value)).unwrap_or_default();
        let (mut behind, mut after) = (BTreeMap::new(), None);
        loop {
            let page = log.facts(TOLD, &[], after.as_deref(), PAGE).await?;
            let Some(last) = page.last() else { return Ok(Self { all, behind }) };
            after = Some(last.key.clone());
            for fact in page {
                let server = std::str::from_utf8(&fact.key).ok().and_then(|name| ServerName::parse(name).ok());
                // What can't be read counts as never told: the beginning of the log.
                behind.extend(server.map(|server| (server, decode(&fact.value).unwrap_or_default())));
            }
        }
    }

    /// Writes what differs from what was written before, and that some facts which kept EDUs are gone, all at once.
    pub(super) async fn write(&self, before: &Self, gone_edus: &[Bytes], log: &EventLog) -> Result<(), LogError> {
        let gone =
            before.behind.keys().filter(|server| !self.behind.contains_key(*server)).map(|server| (server, None));
        let new = self.behind.iter().filter(|(server, told)| before.behind.get(*server) != Some(told));
        let servers = gone.chain(new.map(|(server, told)| (server, Some(*told))));
        let mut facts: Vec<Fact> = servers.map(|(server, told)| fact(TOLD, server.as_str().as_bytes(), told)).collect();
        facts.extend(gone_edus.iter().map(|key| Fact { kind: OUTGOING_EDU, key: key.clone(), value: None }));
        if self.all != before.all {
            facts.push(fact(TOLD_ALL, &[], Some(self.all)));
        }
        if !facts.is_empty() {
            log.put_facts(&facts, &[], Durability::Relaxed).await?;
        }
        Ok(())
    }
}

/// Returns a fact that keeps an EDU for a server until it is delivered; `name` is to be its own.
pub(crate) fn keep_edu(server: &ServerName, name: &str, edu: &Edu) -> Result<Fact, RecordError> {
    let content: Value = serde_json::from_str(edu.content().get())?;
    let value = json!({ "edu_type": edu.edu_type(), "content": content });
    Ok(Fact { kind: OUTGOING_EDU, key: key(&[server.as_str(), name]), value: Some(encode_json(&value)?) })
}

/// Returns the EDUs that are kept, in order, and for whom they are. What can't be read is left out.
pub(super) async fn kept_edus(log: &EventLog) -> Result<Vec<(ServerName, Edu)>, LogError> {
    let mut facts = all_facts(log, OUTGOING_EDU, &[]).await?;
    facts.sort_unstable_by_key(|fact| fact.sequence);
    let edus = facts.into_iter().filter_map(|fact| {
        let [server, _] = key_parts(&fact.key).ok()?;
        let server = ServerName::parse(server).ok()?;
        let edu = decode_json(&fact.value).ok()?;
        let edu = Edu::new(edu.get("edu_type")?.as_str()?, edu.get("content")?, None).ok()?;
        Some((server, edu.kept_by(fact.key)))
    });
    Ok(edus.collect())
}

/// Forgets which events came in through this server, as far as that was kept before a place in the log.
pub(super) async fn forget_passed_on(log: &EventLog, before: u64) -> Result<(), LogError> {
    let mut after: Option<Bytes> = None;
    loop {
        let page = log.facts(PASSED_ON, &[], after.as_deref(), PAGE).await?;
        let Some(last) = page.last() else { return Ok(()) };
        after = Some(last.key.clone());
        let old = page.into_iter().filter(|kept| kept.sequence < before);
        let gone: Vec<Fact> = old.map(|kept| Fact { kind: PASSED_ON, key: kept.key, value: None }).collect();
        if !gone.is_empty() {
            log.put_facts(&gone, &[], Durability::Relaxed).await?;
        }
    }
}

fn fact(kind: u8, key: &[u8], told: Option<u64>) -> Fact {
    let value = told.map(|told| [&[VERSION][..], &told.to_be_bytes()].concat().into());
    Fact { kind, key: Bytes::copy_from_slice(key), value }
}

fn decode(value: &[u8]) -> Option<u64> {
    let (version, told) = value.split_first()?;
    (*version == VERSION).then(|| told.try_into().ok().map(u64::from_be_bytes)).flatten()
}
