//! Where ruma-state-res and Ravel answer differently, with both answers; and where one might expect it, but they agree.
//!
//! `resolution` explains the results that differ with [`Difference`](crate::resolution::Difference); the others here need events
//! that its random rooms do not have.

use ravel_core::{
    event::StateKey,
    event_auth::{CitedAuthEvent, check_state_independent},
    room_version::RoomVersion::{self, V2, V5, V6, V9, V10, V12},
};
use ravel_proptests::{plain, ruma::event_id};
use ruma_state_res::check_state_independent_auth_rules;

use crate::{
    resolution::Difference::{self, DefaultOfNamedLevel, NoJoinRules},
    written::{ALICE, BOB, CREATE, CREATOR, JOIN_RULES, LEVELS, Line, MEMBER, Written},
};

/// Checks what Ravel and ruma say of the last of these events in the state that the others make up.
#[track_caller]
fn check(version: RoomVersion, create: &str, events: &[Line<'_>], expected: [bool; 2]) {
    let mut room = Written::created(version, create);
    for event in events {
        room.add(*event, &[0]);
    }
    assert_eq!(room.last_is_allowed(), expected, "version {version}: {:?}", events.last());
}

#[test]
fn ruma_lets_nobody_in_where_there_are_no_join_rules() {
    let (invite, join) =
        ((ALICE, MEMBER, BOB, r#"{"membership":"invite"}"#), (BOB, MEMBER, BOB, r#"{"membership":"join"}"#));
    for version in RoomVersion::ALL {
        check(version, CREATOR, &[invite, join], [true, false]);
        check(version, CREATOR, &[join], [false, false]);
        let invite_only = (ALICE, JOIN_RULES, "", r#"{"join_rule":"invite"}"#);
        check(version, CREATOR, &[invite_only, invite, join], [true, true]);
    }
    let mut room = Written::created(V10, CREATOR);
    room.add(invite, &[0]);
    room.add(join, &[0]);
    let state = room.events[..3].iter().map(|(_, event, _)| (event.state_key().unwrap(), event)).collect();
    assert_eq!(Difference::between(room.event(3), &plain::Lookup(state), true), Some(NoJoinRules));
}

#[test]
fn ruma_compares_the_default_of_a_named_level_that_is_added_or_removed() {
    // Bob has 25, and may change power levels.
    let levels = |more: &str| format!(r#"{{"events":{{"{LEVELS}":25}},"users":{{"{BOB}":25}}{more}}}"#);
    let (with, without) = (levels(r#","ban":25"#), levels(""));
    let join = (BOB, MEMBER, BOB, r#"{"membership":"join"}"#);
    for version in RoomVersion::ALL {
        for (current, new) in [(&with, &without), (&without, &with)] {
            check(version, CREATOR, &[join, (ALICE, LEVELS, "", current), (BOB, LEVELS, "", new)], [true, false]);
        }
        let changed = levels(r#","ban":24"#);
        check(version, CREATOR, &[join, (ALICE, LEVELS, "", &with), (BOB, LEVELS, "", &changed)], [true, true]);
    }
    let mut room = Written::created(V10, CREATOR);
    for event in [join, (ALICE, LEVELS, "", &with), (BOB, LEVELS, "", &without)] {
        room.add(event, &[0]);
    }
    let state = room.events[..4].iter().map(|(_, event, _)| (event.state_key().unwrap(), event)).collect();
    assert_eq!(Difference::between(room.event(4), &plain::Lookup(state), true), Some(DefaultOfNamedLevel));
}

#[test]
fn values_of_a_wrong_type_are_read_differently() {
    let topic = (ALICE, "m.room.topic", "", "{}");
    for version in RoomVersion::ALL {
        // `m.federate`: Ravel counts what is no boolean as false, ruma then refuses everything.
        check(version, r#"{"creator":"@alice:ash.example","m.federate":7}"#, &[topic], [true, false]);
        // `membership` of an earlier event: Ravel takes it for none, ruma then refuses what the user does.
        let public = (ALICE, JOIN_RULES, "", r#"{"join_rule":"public"}"#);
        let (odd, join) = ((BOB, MEMBER, BOB, "{}"), (BOB, MEMBER, BOB, r#"{"membership":"join"}"#));
        check(version, CREATOR, &[public, odd, join], [true, false]);
        // `third_party_invite`: null is there for Ravel, and has no `signed`; for ruma it is absent.
        let invite = (ALICE, MEMBER, BOB, r#"{"membership":"invite","third_party_invite":null}"#);
        check(version, CREATOR, &[invite], [false, true]);
        check(
            version,
            CREATOR,
            &[(ALICE, MEMBER, BOB, r#"{"membership":"invite","third_party_invite":7}"#)],
            [false; 2],
        );
    }
    // `notifications`: no rule of versions 1 to 5 looks at them, so Ravel does not either.
    for (version, ravel) in [(V2, true), (V5, true), (V6, false), (V10, false), (V12, false)] {
        check(version, CREATOR, &[(ALICE, LEVELS, "", r#"{"notifications":{"room":null}}"#)], [ravel, false]);
    }
    // Levels: the same spellings in the same versions, but ruma does not take floats.
    let level = |level: &str| format!(r#"{{"ban":{level}}}"#);
    for (version, value, expected) in [
        (V5, "50.5", [true, false]),
        (V5, "1e300", [true, false]),
        (V9, "\" +7 \"", [true, true]),
        (V10, "\"7\"", [false, false]),
        (V10, "7", [true, true]),
    ] {
        check(version, CREATOR, &[(ALICE, LEVELS, "", &level(value))], expected);
    }
}

#[test]
fn ruma_agrees_where_synapse_does_not() {
    for version in RoomVersion::ALL {
        check(version, CREATOR, &[(ALICE, MEMBER, "bob", r#"{"membership":"ban"}"#)], [false, false]);
        let current = (ALICE, LEVELS, "", r#"{"ban":100,"users":{"@bob:birch.example":50}}"#);
        let join = (BOB, MEMBER, BOB, r#"{"membership":"join"}"#);
        let other = (BOB, LEVELS, "other", r#"{"ban":50,"users":{"@bob:birch.example":50}}"#);
        check(version, CREATOR, &[join, current, other], [false, false]);
    }
    // Rule 11 of versions 1 and 2, by somebody without the redact level: a redaction of nothing.
    let join = (BOB, MEMBER, BOB, r#"{"membership":"join"}"#);
    check(V2, CREATOR, &[join, (BOB, "m.room.redaction", "-", "{}")], [false, false]);
}

/// Returns whether Ravel and ruma accept a create event, in a room that has another one already or has none.
fn create_is_accepted(version: RoomVersion, content: &str, second: bool) -> [bool; 2] {
    let mut room = Written::new(version);
    if second {
        room.add((ALICE, CREATE, "", &format!(r#"{{"creator":"{ALICE}","room_version":"{version}"}}"#)), &[]);
    }
    let place = room.add((ALICE, CREATE, "", content), &[]);
    let create = second.then(|| &room.event(0).event_id);
    let cited: &[CitedAuthEvent<'_>] = &[];
    let ravel = check_state_independent(version.rules(), room.event(place), None, create, cited).is_ok();
    let ruma = room.ruma();
    let pdu = &ruma.events[&event_id(&room.event(place).event_id)];
    let theirs = check_state_independent_auth_rules(&ruma.rules.authorization, pdu, |id| ruma.events.get(id));
    [ravel, theirs.is_ok()]
}

#[test]
fn ruma_leaves_more_about_create_events_to_its_callers() {
    let content = r#"{"creator":"@alice:ash.example","room_version":"10"}"#;
    assert_eq!(create_is_accepted(V10, content, false), [true, true]);
    assert_eq!(create_is_accepted(V10, content, true), [false, true], "a second create event");
    assert_eq!(create_is_accepted(V9, content, false), [false, true], "of another version");
    assert_eq!(create_is_accepted(V10, r#"{"creator":7,"room_version":"10"}"#, false), [false, true], "names nobody");
    assert_eq!(create_is_accepted(V10, r#"{"room_version":"10"}"#, false), [false, false], "no creator");
}

#[test]
fn ruma_cannot_resolve_where_an_event_cites_malformed_power_levels() {
    // Such power levels are always rejected, so nothing that is accepted cites them.
    let mut room = Written::created(V10, CREATOR);
    let levels = room.add((ALICE, LEVELS, "", r#"{"users":7}"#), &[0, 1]);
    let rules = room.add((ALICE, JOIN_RULES, "", r#"{"join_rule":"public"}"#), &[0, 1, levels]);
    let [before, after] = [room.state(&[0, 1]), room.state(&[0, 1, rules])];
    let (ravel, ruma) = room.resolve(&[before.clone(), after.clone()]);
    assert_eq!(ravel, before, "who cites malformed power levels has no power");
    assert!(matches!(ruma, Err(ruma_state_res::Error::AuthEvent(_))), "{ruma:?}");
}

#[test]
fn ruma_lets_rejected_events_into_the_state_if_it_allows_them_now() {
    // "Events that have been rejected due to failing auth based on the state at the event [...] are handled as usual": but
    // Ravel never has them in a state.
    for version in [V2, V10, V12] {
        let mut room = Written::created(version, CREATOR);
        let topic = room.add((ALICE, "m.room.topic", "", "{}"), &[0, 1][usize::from(version == V12)..]);
        room.events[topic].2 = true;
        let [before, after] = [room.state(&[0, 1]), room.state(&[0, 1, topic])];
        let (ravel, ruma) = room.resolve(&[before.clone(), after.clone()]);
        assert_eq!((ravel, ruma.unwrap()), (before, after), "version {version}");
    }
}

#[test]
fn ruma_does_not_know_the_creator_of_who_cites_no_create_event() {
    // Two power events by the creator and by a moderator. The creator's cites nothing, so it is rejected whoever looks at it;
    // Ravel orders it by the creator's power all the same, ruma by the default level.
    let mut room = Written::created(V10, CREATOR);
    room.add((BOB, MEMBER, BOB, r#"{"membership":"join"}"#), &[0]);
    let levels =
        room.add((ALICE, LEVELS, "", r#"{"users":{"@alice:ash.example":100,"@bob:birch.example":50}}"#), &[0, 1]);
    let by_bob = room.add((BOB, JOIN_RULES, "", r#"{"join_rule":"public"}"#), &[levels, 2]);
    let by_alice = room.add((ALICE, JOIN_RULES, "", r#"{"join_rule":"invite"}"#), &[1]);
    let [left, right] = [by_bob, by_alice].map(|rules| room.state(&[0, 1, 2, levels, rules]));
    let (ravel, ruma) = room.resolve(&[left, right]);
    let key = StateKey::new(JOIN_RULES, "");
    assert_eq!(ravel[&key], room.event(by_bob).event_id, "the creator's is checked first, the last one allowed wins");
    assert_eq!(ruma.unwrap()[&key], room.event(by_alice).event_id);
}
