//! Flaws that homeservers had, each with the number of its security case, as far as the room decides.

use serde_json::{Value, json};

use super::{handle_batch, restore, room};
use crate::{
    pdu::ParsedPdu,
    room::{Outcome, Receipt},
    room_version::RoomVersion::{self, V1, V2, V10, V11, V12},
    testing::TestRoom,
};

/// Events of an auth chain go the same way as all others, as there is no other: a bad signature or format drops them, a wrong hash
/// leaves them in their redacted form.
#[test]
fn sc_001_sc_003_nothing_gets_into_a_room_unchecked() {
    for version in RoomVersion::ALL {
        let room = room(version, "P2: alice power bob=50\nI: carol invites erin");
        let tampered = |name: &str, change: &dyn Fn(&mut Value)| {
            let mut event: Value = serde_json::from_slice(room.pdu(name).json()).unwrap();
            change(&mut event);
            room.receive(event.to_string().as_bytes())
        };
        assert!(tampered("A", &|event| event["origin_server_ts"] = 99.into()).is_none(), "another event");
        assert!(
            tampered("A", &|event| event["signatures"]["a"]["ed25519:1"] = "AAAA".into()).is_none(),
            "no signature"
        );
        assert!(tampered("A", &|event| event["depth"] = "1".into()).is_none(), "another format");
        // Power levels with a level that was not signed: redaction takes it away.
        let pdu = tampered("P2", &|event| event["content"]["notifications"] = json!({"room": 1})).unwrap();
        assert!(!pdu.content_hash_matched());
        let mut other = room.empty_room();
        let pdus = room.pdus.iter().map(|original| if original.event_id() == pdu.event_id() { &pdu } else { original });
        other.handle_pdus(&pdus.cloned().collect::<Vec<_>>()).unwrap();
        assert_eq!(other.history_fingerprint(), room.room.history_fingerprint(), "version {version}");
    }
}

/// Depth says nothing about where an event stands.
#[test]
fn sc_011_a_depth_at_the_limit_does_not_stop_the_room() {
    const LAST: i64 = (1 << 53) - 1;
    for version in RoomVersion::ALL {
        let mut lines = format!("X: carol says hi depth {LAST} => accepted\n");
        for number in 0..20 {
            lines += &format!("M{number}: bob says hi depth {LAST} => accepted\n");
        }
        lines += "T: bob sets m.room.topic depth 0 => accepted";
        let room = room(version, &lines);
        room.check("now", "topic=T");
        assert_eq!(room.extremities(), "T");
    }
}

/// An event is read by the rules of one version alone. Those of version 12 have another room id.
#[test]
fn sc_020_an_event_is_of_the_rooms_version() {
    for version in [V1, V10, V11] {
        let text = r#"
            C: alice creates with {"content":{"room_version":"OTHER"}} => rejected 4 WHY
            A: alice joins => rejected 4 auth_events_rejected"#;
        for (other, why) in [("9", "create_other_room_version"), ("org.example", "create_unknown_room_version")] {
            TestRoom::new(
                version,
                &text.replace("OTHER", other).replace("WHY", why).replace("alice joins", "alice joins auth C"),
            );
        }
    }
    let of_11 = room(V11, "");
    assert!(ParsedPdu::parse(of_11.pdu("C").json(), V12.rules()).is_ok_and(|pdu| pdu.event().carries_room_id));
    let of_12 = room(V12, "");
    assert!(ParsedPdu::parse(of_12.pdu("C").json(), V11.rules()).is_err(), "it has no room id");
}

/// A rejected event stays rejected, however often it comes, and what cites it is rejected too; the room goes on.
#[test]
fn sc_032_rejected_events_stay_rejected() {
    for version in RoomVersion::ALL {
        let cites = if version == V12 { "auth R,A" } else { "auth C,R,A" };
        let mut room = room(
            version,
            &format!(
                "
                R: carol power carol=100 => rejected 4 required_power_level
                T: alice sets m.room.topic {cites} => rejected 4 auth_events_rejected
                U: alice sets m.room.topic after T => accepted"
            ),
        );
        for _ in 0..2 {
            let pdu = room.pdu("R").clone();
            let receipt = room.room.handle_pdu(&pdu).unwrap();
            assert!(matches!(receipt, Receipt::AlreadyKnown(Outcome::Rejected)), "{receipt:?}");
            room.check("now", "power_levels=P topic=U");
            room.room = restore(&room);
        }
    }
}

/// Leaving the power levels out gives the powers that a room without them gives; the state before the event decides.
#[test]
fn sc_036_an_event_that_leaves_the_power_levels_out_is_rejected() {
    for version in RoomVersion::ALL {
        room(
            version,
            "
            P2: alice power events_default=50
            M: carol says hi omits m.room.power_levels => rejected 5 required_power_level",
        );
    }
    // The creator had 100 before there were power levels.
    let text = "
        C: alice creates
        A: alice joins
        J: alice join_rule public
        B: bob joins
        P: alice power bob=100 alice=100
        P2: alice power bob=100
        T: alice sets m.room.topic omits m.room.power_levels => rejected 5 required_power_level";
    for version in RoomVersion::ALL.into_iter().filter(|version| *version < V12) {
        TestRoom::new(version, text);
    }
}

/// A room has the first create event that was accepted; before version 12 a server can make up another one with the same room id.
#[test]
fn sc_043_the_first_create_event_wins() {
    for version in RoomVersion::ALL.into_iter().filter(|version| *version < V12) {
        let room = room(
            version,
            "
            C2: alan creates => rejected 4 create_second
            A2: alan joins after C2 auth C2 => rejected 4 auth_events_rejected
            M: carol says hi after D => accepted",
        );
        room.check("now", "create=C @alan=-");
        let text = "C: alice creates => accepted\nC2: eve creates => rejected 4 create_other_domain";
        TestRoom::new(version, text);
    }
    // In version 12 another create event makes another room.
    let mut room = room(V12, "");
    let other = room.pdu_of("C2: eve creates");
    assert!(matches!(room.room.handle_pdu(&other).unwrap(), Receipt::OtherRoom(id) if id == other.event().room_id));
    // And events of a room whose create event is not there are of no accepted room.
    let mut foreign = room.empty_room();
    assert!(matches!(foreign.handle_pdu(room.pdu("A")).unwrap(), Receipt::NeedEvents(_)));
}

#[test]
fn sc_052_knocks_and_invites_do_not_get_around_bans() {
    for version in [V10, V11, V12] {
        room(
            version,
            "
            X: alice bans erin => accepted
            I: bob invites erin => rejected 4 invite_of_banned
            K: erin knocks after X => rejected 4 knock_join_rule
            J2: alice join_rule knock after X => accepted
            K2: erin knocks => rejected 4 knock_membership
            K3: frank knocks after J2 => accepted
            K4: carol knocks => rejected 4 knock_membership
            I2: bob invites frank after K3 => accepted
            K5: frank knocks => rejected 4 knock_membership",
        );
    }
}

/// Somebody who was banned sends events that build on the time before.
#[test]
fn sc_053_events_around_a_ban_are_soft_failed() {
    for version in RoomVersion::ALL {
        let room = room(
            version,
            "
            X: alice bans bob => accepted
            M: bob says hi after D => soft-failed sender_not_joined
            T: bob sets m.room.topic after M => soft-failed sender_not_joined
            P2: bob power bob=50 carol=50 after T => soft-failed sender_not_joined
            N: alice says hi after X => accepted",
        );
        room.check("now", "topic=- @bob=X power_levels=P");
        assert_eq!(room.extremities(), "N");
    }
}

/// A soft-failed event takes no extremity away, whatever it changes.
#[test]
fn sc_054_soft_failed_events_leave_the_room_as_it_is() {
    for version in RoomVersion::ALL {
        let room = room(
            version,
            "
            X: alice bans bob => accepted
            P2: bob power after D => soft-failed sender_not_joined
            T: bob sets m.room.topic after D => soft-failed sender_not_joined",
        );
        assert_eq!(room.extremities(), "X");
        room.check("now", "power_levels=P topic=- @bob=X");
        let mut room = room;
        let send = room.pdu_of("M: alice says hi after X");
        room.room.handle_pdu(&send).unwrap();
        assert_eq!((room.outcome("M").as_str(), room.extremities().as_str()), ("accepted", "M"));
    }
}

/// Twenty branches at a time, each merged and forked again: the room stays usable.
#[test]
fn sc_064_many_forward_extremities() {
    for version in [V1, V11, V12] {
        let mut lines = String::new();
        for number in 0..120 {
            lines += &format!("S{number}: bob sets org.example key{number} after D => accepted\n");
        }
        lines += "T: bob sets m.room.topic after D => accepted\nM: alice says hi after ";
        lines += &(0..20).map(|number| format!("S{number}")).collect::<Vec<_>>().join(",");
        let room = room(version, &lines);
        assert_eq!(room.room.forward_extremities().len(), 102);
        assert_eq!(room.room.current_state().len(), 6 + 121);
    }
}

/// In room versions 1 and 2 ids are chosen by the sender, so that events can name each other, or themselves.
#[test]
fn sc_066_circles_are_waited_for_and_no_loop() {
    for version in [V1, V2] {
        let mut room = room(version, "");
        let circle = [
            room.pdu_of("X: bob says hi after $Y:b auth C,P,B"),
            room.pdu_of("Y: bob says hi after $X:b auth C,P,B"),
            room.pdu_of("Z: bob says hi after $Z:b auth C,P,B"),
            room.pdu_of("M: bob says hi after D"),
        ];
        let mut into = restore(&room);
        let (judged, waiting) = handle_batch(&room, &mut into, &circle);
        assert_eq!(judged, "M");
        let needs = [("X", "Y"), ("Y", "X"), ("Z", "Z")].map(|(name, needs)| (name.to_owned(), needs.to_owned()));
        assert_eq!(waiting, needs);
        assert_eq!(into.len(), room.room.len() + 1);
    }
}

/// A prev event of another room is one that this room never has; a rejected one is no trouble.
#[test]
fn sc_066_prev_events_of_another_room_are_never_found() {
    let mut room = room(
        V11,
        "R: carol sets m.room.topic => rejected 4 required_power_level\nM: carol says hi after R => accepted",
    );
    let foreign = room.pdu_of(r#"F: bob says hi after D with {"room_id":"!elsewhere:a"}"#);
    assert!(matches!(room.room.handle_pdu(&foreign).unwrap(), Receipt::OtherRoom(_)));
    let on_it = room.pdu_of("N: bob says hi after F auth C,P,B");
    let receipt = room.room.handle_pdu(&on_it).unwrap();
    assert!(matches!(&receipt, Receipt::NeedEvents(needed) if *needed == [room.names.id("F")]), "{receipt:?}");
}

/// In whatever order events come, the states before and after each are the same, and so is what is rejected.
#[test]
fn sc_068_states_do_not_depend_on_the_order_of_arrival() {
    for version in RoomVersion::ALL {
        let room = room(
            version,
            "
            P2: alice power bob=60 invite=10
            T1: bob sets m.room.topic after D
            X: bob bans erin after D
            J2: alice join_rule invite after D
            E: erin joins after D
            R: alice redacts P2 after T1
            U: carol sets m.room.name after E
            M1: bob says hi after X,R,P2
            M2: alice sets m.room.topic after J2,E
            Y: bob unbans erin after M1
            N: alice says hi after M2,U,Y
            I: carol invites fred after N",
        );
        let mut seed: u64 = 1;
        for _ in 0..40 {
            // Any order; the batch puts parents first.
            let mut pdus = room.pdus.clone();
            for last in (1..pdus.len()).rev() {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                pdus.swap(last, usize::try_from(seed >> 33).unwrap() % (last + 1));
            }
            let mut other = room.empty_room();
            other.handle_pdus(&pdus).unwrap();
            for (event, outcome) in room.room.events() {
                let id = &event.event_id;
                assert_eq!(other.state_before(id), room.room.state_before(id), "{version}: {}", room.names.name(id));
                assert_eq!(other.state_after(id), room.room.state_after(id), "{version}: {}", room.names.name(id));
                let is_rejected = other.outcome(id) == Some(Outcome::Rejected);
                assert_eq!(is_rejected, outcome == Outcome::Rejected, "{version}: {}", room.names.name(id));
            }
        }
    }
}

/// Whatever stands in an event, signed by its server as it should be: an answer, and no panic.
#[test]
fn sc_051_sc_218_odd_values_are_answered() {
    let odd = [
        json!(null),
        json!(true),
        json!(-1),
        json!((1_i64 << 53) - 1),
        json!(""),
        json!("@"),
        json!("$"),
        json!("\u{0}"),
        json!("x".repeat(300)),
        json!([]),
        json!({}),
        json!([[["x"]]]),
        json!({"x": {"x": [null]}}),
        json!({"@bob:b": "x"}),
    ];
    for version in [V1, V10, V12] {
        let lines = "
            I: bob invites erin
            R: bob redacts P
            P2: alice power bob=60
            J2: alice join_rule restricted
            E: erin joins via=alice signed_by e,a";
        let room = room(version, lines);
        for pdu in &room.pdus {
            let event: Value = serde_json::from_slice(pdu.json()).unwrap();
            let keys: Vec<String> = event.as_object().unwrap().keys().cloned().collect();
            let content_keys: Vec<String> = event["content"].as_object().unwrap().keys().cloned().collect();
            let paths = keys.iter().map(|key| format!("/{key}"));
            let paths = paths.chain(content_keys.iter().map(|key| format!("/content/{key}")));
            for (path, value) in paths.flat_map(|path| odd.iter().map(move |value| (path.clone(), value))) {
                let mut event = event.clone();
                *event.pointer_mut(&path).unwrap() = value.clone();
                let Some(json) = room.sign(&event, &["a", "b", "c", "e"]) else { continue };
                let Some(pdu) = room.receive(&json) else { continue };
                let mut into = restore(&room);
                let receipt = into.handle_pdu(&pdu).unwrap();
                if matches!(receipt, Receipt::Judged(_)) {
                    into.explain(pdu.event_id()).unwrap();
                }
            }
        }
    }
}
