//! As the server that asks: what a resident tells about a room, read and checked with all cores.
//!
//! It may be hundreds of megabytes. The answer is kept as it came, its events are found in it by their places, and each is read when
//! it is checked.

use std::{
    collections::{BTreeMap, HashSet},
    fmt,
    ops::Range,
    panic::resume_unwind,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use bytes::Bytes;
use ravel_core::{
    event::event_type,
    id::{EventId, KeyId, ServerName},
    pdu::{ParsedPdu, VerifiedPdu},
    room_version::{RoomVersion, RoomVersionRules},
    signing::KeyRing,
};
use serde::{
    Deserialize, Deserializer,
    de::{Error as _, IgnoredAny, SeqAccess, Visitor},
};
use serde_json::value::RawValue;

use super::JoinFailure;
use crate::{
    federation::keys::{SignatureCounts, WantedKeys},
    parallel::cores,
    receiving::by_auth_events,
};

/// An answer to `send_join`.
pub(super) struct Answer {
    body: Bytes,
    /// The places of the events of the state in the body.
    state: Vec<Range<usize>>,
    /// Those of the auth chain that are not among the state.
    auth_chain: Vec<Range<usize>>,
    /// The join as the resident signed it.
    event: Option<Range<usize>>,
}

/// The events of an answer that are what they say.
pub(super) struct Checked {
    /// The ids of the state, those that were here before among them.
    pub(super) state: Vec<EventId>,
    /// The events of both that were not here, each after its auth events.
    pub(super) events: Vec<VerifiedPdu>,
    /// The join as the resident signed it.
    pub(super) join: Option<VerifiedPdu>,
    /// How many were dropped.
    pub(super) dropped: usize,
}

/// What the checks need.
pub(super) struct Checking {
    pub(super) rules: &'static RoomVersionRules,
    pub(super) keys: KeyRing,
    pub(super) now_ms: i64,
    /// Events that are here already.
    pub(super) known: HashSet<EventId>,
    /// How many events were looked at.
    pub(super) done: Arc<AtomicUsize>,
}

#[derive(Deserialize)]
struct Fields<'a> {
    #[serde(borrow, deserialize_with = "bounded")]
    state: Vec<&'a RawValue>,
    #[serde(borrow, deserialize_with = "bounded")]
    auth_chain: Vec<&'a RawValue>,
    #[serde(borrow, default)]
    event: Option<&'a RawValue>,
    #[serde(default)]
    members_omitted: bool,
}

/// The most events that a state or an auth chain may have: what is no event can be a single byte, and a place takes sixteen.
const EVENTS_MAX: usize = 2_000_000;

/// Reads a list of bounded length.
fn bounded<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<&'de RawValue>, D::Error> {
    struct Bounded;

    impl<'de> Visitor<'de> for Bounded {
        type Value = Vec<&'de RawValue>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a list of events")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
            let mut events = Vec::new();
            while let Some(event) = list.next_element()? {
                if events.len() >= EVENTS_MAX {
                    return Err(A::Error::custom("too many events"));
                }
                events.push(event);
            }
            Ok(events)
        }
    }

    deserializer.deserialize_seq(Bounded)
}

/// What a create event says of the version of its room.
#[derive(Deserialize)]
struct CreateFields<'a> {
    #[serde(borrow, rename = "type")]
    event_type: std::borrow::Cow<'a, str>,
    state_key: Option<std::borrow::Cow<'a, str>>,
    content: Option<CreateContent>,
}

#[derive(Deserialize)]
struct CreateContent {
    room_version: Option<String>,
}

impl Answer {
    /// Finds the events of an answer; `is_v1` if it is one of the old form, `[200, {...}]`. Costs one pass over it.
    ///
    /// # Errors
    ///
    /// When it is no such answer, or members are left out of it.
    pub(super) fn read(body: Bytes, is_v1: bool) -> Result<Self, JoinFailure> {
        let unreadable = |error: serde_json::Error| JoinFailure::Answer(error.to_string().into());
        let fields: Fields<'_> = match is_v1 {
            false => serde_json::from_slice(&body).map_err(unreadable)?,
            true => serde_json::from_slice::<(IgnoredAny, Fields<'_>)>(&body).map_err(unreadable)?.1,
        };
        if fields.members_omitted {
            return Err(JoinFailure::Answer("members are left out, which was not asked for".into()));
        }
        let start = body.as_ptr().addr();
        let place = |event: &RawValue| {
            let from = event.get().as_ptr().addr().saturating_sub(start);
            from..from.saturating_add(event.get().len())
        };
        // Many servers repeat the state in the auth chain.
        let mut seen: HashSet<&str> = HashSet::with_capacity(fields.state.len());
        let state = fields.state.iter().filter(|event| seen.insert(event.get())).map(|event| place(event)).collect();
        let auth_chain =
            fields.auth_chain.iter().filter(|event| seen.insert(event.get())).map(|event| place(event)).collect();
        let event = fields.event.filter(|event| event.get() != "null").map(place);
        drop(seen);
        Ok(Self { body, state, auth_chain, event })
    }

    /// Returns the number of different events.
    pub(super) fn len(&self) -> usize {
        self.state.len() + self.auth_chain.len()
    }

    /// Returns the version that the create event of the state names.
    ///
    /// # Errors
    ///
    /// When there is none, or none that is known.
    pub(super) fn room_version(&self) -> Result<RoomVersion, JoinFailure> {
        let create = self.state.iter().find_map(|place| {
            let fields: CreateFields<'_> = serde_json::from_slice(self.body.get(place.clone())?).ok()?;
            let is_create = fields.event_type == event_type::CREATE && fields.state_key.as_deref() == Some("");
            is_create.then_some(fields.content)
        });
        let content = create.flatten().ok_or_else(|| JoinFailure::Answer("the state has no create event".into()))?;
        let version = content.room_version.as_deref().unwrap_or("1");
        RoomVersion::parse(version).ok_or_else(|| JoinFailure::UnknownRoomVersion(version.into()))
    }

    /// Returns the keys that the events may be verified with, and how many signatures there are of each server. Costs the reading of
    /// all events.
    pub(super) fn wanted_keys(&self, rules: &'static RoomVersionRules) -> (WantedKeys, SignatureCounts) {
        let wanted_of = |places: &[Range<usize>]| {
            let mut wanted: BTreeMap<String, (usize, BTreeMap<String, i64>)> = BTreeMap::new();
            for place in places {
                let Some(pdu) = self.parsed(place, rules) else { continue };
                let at_ms = pdu.event().origin_server_ts_ms;
                for (server, key_id) in pdu.wanted_keys() {
                    if !wanted.contains_key(server) {
                        wanted.insert(server.to_owned(), (0, BTreeMap::new()));
                    }
                    let Some((signatures, keys)) = wanted.get_mut(server) else { continue };
                    *signatures += 1;
                    match keys.get_mut(key_id) {
                        Some(until_ms) => *until_ms = at_ms.max(*until_ms),
                        None => drop(keys.insert(key_id.to_owned(), at_ms)),
                    }
                }
            }
            wanted
        };
        let (mut all, mut signatures) = (WantedKeys::new(), SignatureCounts::new());
        let places: Vec<Range<usize>> = self.places().into_iter().chain(self.event.clone()).collect();
        for (server, (count, keys)) in on_all_cores(&places, wanted_of).into_iter().flatten() {
            let Ok(server) = ServerName::parse(&server) else { continue };
            *signatures.entry(server.clone()).or_default() += count;
            let known = all.entry(server).or_default();
            for (key_id, at_ms) in keys {
                let Ok(key_id) = KeyId::parse(&key_id) else { continue };
                let until_ms = known.entry(key_id).or_insert(at_ms);
                *until_ms = at_ms.max(*until_ms);
            }
        }
        (all, signatures)
    }

    /// Checks format, signatures and hashes of all events. Those that don't pass are dropped.
    pub(super) fn check(self, checking: &Checking) -> Checked {
        let state_len = self.state.len();
        let check = |places: &[Range<usize>]| {
            let mut events = Vec::with_capacity(places.len());
            for place in places {
                events.push(self.checked(place, checking));
                checking.done.fetch_add(1, Ordering::Relaxed);
            }
            events
        };
        let places = self.places();
        let events: Vec<Option<One>> = on_all_cores(&places, check).into_iter().flatten().collect();
        let dropped = events.iter().filter(|event| event.is_none()).count();
        let id = |event: &One| match event {
            One::Known(event_id) => event_id.clone(),
            One::New(pdu) => pdu.event_id().clone(),
        };
        let state = events.iter().take(state_len).flatten().map(id).collect();
        let new = events.into_iter().flatten().filter_map(|event| match event {
            One::Known(_) => None,
            One::New(pdu) => Some(pdu),
        });
        let events = by_auth_events(new.collect());
        let join = self.event.as_ref().and_then(|place| match self.checked(place, checking) {
            Some(One::New(pdu)) => Some(pdu),
            _ => None,
        });
        Checked { state, events, join, dropped }
    }

    fn places(&self) -> Vec<Range<usize>> {
        self.state.iter().chain(&self.auth_chain).cloned().collect()
    }

    fn parsed(&self, place: &Range<usize>, rules: &RoomVersionRules) -> Option<ParsedPdu> {
        ParsedPdu::parse(self.body.get(place.clone())?, rules).ok()
    }

    fn checked(&self, place: &Range<usize>, checking: &Checking) -> Option<One> {
        let pdu = self.parsed(place, checking.rules)?;
        let event_id = &pdu.event().event_id;
        if checking.known.contains(event_id) {
            return Some(One::Known(event_id.clone()));
        }
        let event_id = event_id.clone();
        match pdu.verify(&checking.keys, checking.now_ms) {
            Ok(pdu) => Some(One::New(pdu)),
            Err(error) => {
                tracing::debug!(%event_id, %error, "an event of a room that is joined was dropped");
                None
            }
        }
    }
}

/// An event of an answer.
enum One {
    /// It is here already.
    Known(EventId),
    New(VerifiedPdu),
}

/// Calls a function for parts of some items, one part for each core; returns what it returned, in their order.
fn on_all_cores<T: Sync, R: Send>(items: &[T], work: impl Fn(&[T]) -> R + Sync) -> Vec<R> {
    let size = items.len().div_ceil(cores()).max(1);
    let work = &work;
    thread::scope(|scope| {
        let workers: Vec<_> = items.chunks(size).map(|part| scope.spawn(move || work(part))).collect();
        workers.into_iter().map(|worker| worker.join().unwrap_or_else(|panic| resume_unwind(panic))).collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(body: &str, is_v1: bool) -> Result<Answer, JoinFailure> {
        Answer::read(body.to_owned().into(), is_v1)
    }

    fn create(version: &str) -> String {
        format!(r#"{{"type":"m.room.create","state_key":"","content":{{"room_version":{version}}}}}"#)
    }

    #[test]
    fn answers_of_both_versions_are_read_in_place() {
        let fields =
            format!(r#"{{"state":[{0},7,{0}],"auth_chain":[7, {{"a":1}}],"event":[],"origin":"a"}}"#, create("\"10\""));
        for (body, is_v1) in [(fields.clone(), false), (format!("[200, {fields}]"), true)] {
            let answer = read(&body, is_v1).unwrap();
            let texts =
                |places: &[Range<usize>]| places.iter().map(|place| body[place.clone()].to_owned()).collect::<Vec<_>>();
            assert_eq!(texts(&answer.state), [create("\"10\""), "7".to_owned()]);
            assert_eq!(texts(&answer.auth_chain), [r#"{"a":1}"#]);
            assert_eq!(texts(answer.event.as_slice()), ["[]"]);
            assert_eq!((answer.len(), answer.room_version().unwrap()), (3, RoomVersion::V10));
        }
        assert!(read(&fields, true).is_err());
    }

    #[test]
    fn sc_084_what_is_no_answer_is_refused() {
        for body in [
            "",
            "[]",
            "{}",
            r#"{"state":[],"auth_chain":{}}"#,
            r#"{"state":[],"auth_chain":[],"members_omitted":true}"#,
        ] {
            assert!(read(body, false).is_err(), "{body}");
        }
        let version =
            |create: &str| read(&format!(r#"{{"state":[{create}],"auth_chain":[]}}"#), false).unwrap().room_version();
        assert!(matches!(version(&create("\"odd\"")), Err(JoinFailure::UnknownRoomVersion(_))));
        assert_eq!(version(&create("null")).unwrap(), RoomVersion::V1);
        for no_create in ["7", "{}", r#"{"type":"m.room.create","state_key":"x","content":{}}"#, r#"{"type":7}"#] {
            assert!(version(no_create).is_err(), "{no_create}");
        }
    }

    #[test]
    fn sc_215_a_list_is_bounded() {
        let list = format!("[{}1]", "1,".repeat(EVENTS_MAX));
        assert!(read(&format!(r#"{{"state":{list},"auth_chain":[]}}"#), false).is_err());
    }
}
