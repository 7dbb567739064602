//! Events in an order in which a room can take them.

use std::collections::{BTreeSet, HashMap};

use ravel_core::{event::Event, id::EventId, pdu::VerifiedPdu};

use super::left_out::LeftOut;

/// Returns events so that each comes after those that it names as prev or auth events, or builds on by what is left out, and each once.
/// Those that name each other in a circle are not there.
pub(super) fn by_prev_events(pdus: Vec<VerifiedPdu>, left_out: &LeftOut) -> Vec<VerifiedPdu> {
    sorted(pdus, |event, each| left_out.parents(event).into_iter().chain(&event.auth_events).for_each(each))
}

/// Returns events so that each comes after its auth events, and each once. Those that name each other in a circle are left out.
pub(crate) fn by_auth_events(pdus: Vec<VerifiedPdu>) -> Vec<VerifiedPdu> {
    sorted(pdus, |event, each| event.auth_events.iter().for_each(each))
}

/// Kahn's algorithm; among those that can come next, the first of the input.
fn sorted(pdus: Vec<VerifiedPdu>, each_parent: impl Fn(&Event, &mut dyn FnMut(&EventId))) -> Vec<VerifiedPdu> {
    let mut numbers: HashMap<EventId, usize> = HashMap::with_capacity(pdus.len());
    let mut slots: Vec<Option<VerifiedPdu>> = Vec::with_capacity(pdus.len());
    for pdu in pdus {
        numbers.entry(pdu.event_id().clone()).or_insert_with(|| {
            slots.push(Some(pdu));
            slots.len() - 1
        });
    }
    let mut waits_for = vec![0_usize; slots.len()];
    let mut children: Vec<Vec<usize>> = vec![Vec::new(); slots.len()];
    for (number, (pdu, waits_for)) in slots.iter().zip(&mut waits_for).enumerate() {
        let Some(pdu) = pdu else { continue };
        let mut parents = BTreeSet::new();
        each_parent(pdu.event(), &mut |id| parents.extend(numbers.get(id).copied()));
        *waits_for = parents.len();
        for parent in parents {
            children.get_mut(parent).into_iter().for_each(|children| children.push(number));
        }
    }
    let ready = waits_for.iter().enumerate().filter(|(_, waits_for)| **waits_for == 0).map(|(number, _)| number);
    let mut ready: BTreeSet<usize> = ready.collect();
    let mut sorted = Vec::with_capacity(slots.len());
    while let Some(number) = ready.pop_first() {
        sorted.extend(slots.get_mut(number).and_then(Option::take));
        for child in children.get(number).into_iter().flatten() {
            if let Some(waits_for) = waits_for.get_mut(*child) {
                *waits_for -= 1;
                if *waits_for == 0 {
                    ready.insert(*child);
                }
            }
        }
    }
    sorted
}

/// Returns those of some events that are ancestors of an event, by what they say, as [`by_prev_events`] sorts them.
pub(super) fn ancestors(of: &VerifiedPdu, pdus: Vec<VerifiedPdu>, left_out: &LeftOut) -> Vec<VerifiedPdu> {
    let mut by_id: HashMap<EventId, VerifiedPdu> = pdus.into_iter().map(|pdu| (pdu.event_id().clone(), pdu)).collect();
    by_id.remove(of.event_id());
    let mut ancestors: Vec<VerifiedPdu> = Vec::new();
    let parents = |event: &Event| left_out.parents(event).into_iter().cloned().collect::<Vec<_>>();
    let mut pending = parents(of.event());
    while let Some(event_id) = pending.pop() {
        if let Some(pdu) = by_id.remove(&event_id) {
            pending.extend(parents(pdu.event()));
            ancestors.push(pdu);
        }
    }
    by_prev_events(ancestors, left_out)
}

#[cfg(test)]
mod tests {
    use ravel_core::{
        canonical_json::{JsonMode, object_to_canonical_bytes, parse_object},
        id::KeyId,
        id::ServerName,
        room_version::RoomVersion,
        signing::{SigningKey, hash_and_sign_event},
    };

    use super::*;

    /// Returns an event of room version 1, whose id its server chooses.
    fn event(id: &str, prev_events: &[&str], auth_events: &[&str]) -> VerifiedPdu {
        let references = |ids: &[&str]| {
            let pairs: Vec<String> = ids.iter().map(|id| format!(r#"["${id}:a",{{"sha256":""}}]"#)).collect();
            pairs.join(",")
        };
        let json = format!(
            r#"{{"event_id":"${id}:a","room_id":"!r:a","sender":"@u:a","type":"m","content":{{}},"depth":1,"origin_server_ts":1,
                "prev_events":[{}],"auth_events":[{}]}}"#,
            references(prev_events),
            references(auth_events),
        );
        let object = parse_object(json.as_bytes(), JsonMode::ByteExact).unwrap();
        let key = SigningKey::from_seed(KeyId::parse("ed25519:1").unwrap(), &[7; 32]);
        let rules = RoomVersion::V1.rules();
        let signed = hash_and_sign_event(object, rules, &ServerName::parse("a").unwrap(), &key).unwrap();
        VerifiedPdu::restore(&object_to_canonical_bytes(&signed), rules, None, true).unwrap()
    }

    fn ids(pdus: &[VerifiedPdu]) -> Vec<&str> {
        pdus.iter().map(|pdu| pdu.event_id().as_str().trim_matches(['$', ':', 'a'])).collect()
    }

    #[test]
    fn parents_come_first() {
        let events = vec![
            event("4", &["3", "2"], &["1"]),
            event("3", &["2"], &["1"]),
            event("1", &[], &[]),
            event("2", &["1"], &[]),
        ];
        assert_eq!(ids(&by_prev_events(events.clone(), &LeftOut::default())), ["1", "2", "3", "4"]);
        assert_eq!(ids(&by_auth_events(events)), ["1", "4", "3", "2"]);
        let twice = vec![event("1", &["0"], &["0"]), event("1", &["0"], &["0"])];
        assert_eq!(ids(&by_prev_events(twice, &LeftOut::default())), ["1"]);
    }

    #[test]
    fn sc_066_circles_are_left_out() {
        let events =
            vec![event("1", &["2"], &[]), event("2", &["1"], &[]), event("3", &["3"], &[]), event("4", &[], &[])];
        assert_eq!(ids(&by_prev_events(events, &LeftOut::default())), ["4"]);
    }

    #[test]
    fn only_what_leads_to_an_event_counts() {
        let events = vec![
            event("1", &[], &[]),
            event("2", &["1"], &[]),
            event("x", &["2"], &[]),
            event("3", &["2"], &["y"]),
            event("y", &[], &[]),
        ];
        assert_eq!(ids(&ancestors(&event("4", &["3"], &[]), events, &LeftOut::default())), ["1", "2", "3"]);
    }
}
