//! Redacted events authorize what comes after in their redacted form.

use super::room;
use crate::{
    room::{Receipt, Room},
    room_version::RoomVersion::{self, V1, V2, V3, V9, V10, V11, V12},
    testing::TestRoom,
};

/// Power levels that let nobody invite below 50: redacted, they lose that before version 11.
const CLOSED: &str = "P2: alice power bob=50 brian=0 invite=50
    E: brian joins
";

#[track_caller]
fn closed_room(version: RoomVersion, lines: &str) -> TestRoom {
    room(version, &format!("{CLOSED}{lines}"))
}

#[test]
fn redacted_power_levels_lose_the_invite_level_before_version_11() {
    for version in RoomVersion::ALL {
        let invite = if version <= V10 { "accepted" } else { "rejected 4 invite_level" };
        closed_room(
            version,
            &format!(
                "
                I1: carol invites erin => rejected 4 invite_level
                R: alice redacts P2 after E => accepted
                I2: carol invites erin => {invite}"
            ),
        );
    }
}

/// Whether a redaction arrived before makes no difference, only whether the event builds on it.
#[test]
fn redactions_count_if_they_are_among_the_ancestors() {
    let lines = "
        R: alice redacts P2 => accepted
        M: bob says hi after E => accepted
        I1: carol invites erin after M => rejected 4 invite_level
        N: bob says hi after M,R => accepted
        I2: carol invites erin after N => accepted
        L: carol leaves after I2 => accepted";
    for version in [V1, V3, V9, V10] {
        closed_room(version, lines);
    }
    // The check against the current state goes by the redactions before the extremities.
    let lines = "
        R: alice redacts P2 => accepted
        M: bob says hi => accepted
        S: alice says hi after R => accepted
        I: carol invites erin after S => accepted
        X: alice bans carol after E => accepted
        J2: carol invites fred after S => soft-failed invite_sender_not_joined";
    closed_room(V10, lines);
}

/// The server applies it by the sender's power, or if the target is of the sender's server; in versions 1 and 2 the rules decide.
#[test]
fn redactions_need_power_or_the_targets_server() {
    for (version, redaction, invite) in [
        (V1, "carol redacts P2 => rejected 4 redaction_other_domain", "rejected 4 invite_level"),
        (V2, "carol redacts P2 => rejected 4 redaction_other_domain", "rejected 4 invite_level"),
        (V1, "bob redacts P2 => accepted", "accepted"),
        (V3, "carol redacts P2 => accepted", "rejected 4 invite_level"),
        (V10, "carol redacts P2 => accepted", "rejected 4 invite_level"),
        (V3, "bob redacts P2 => accepted", "accepted"),
        (V10, "bob redacts P2 => accepted", "accepted"),
    ] {
        closed_room(version, &format!("R: {redaction}\nI: carol invites erin => {invite}"));
    }
    // P3 is by bob, who has no power any more: brian is of his server.
    let by_bob = "
        P3: bob power bob=0 invite=50 users_default=0 => accepted
        R: SENDER redacts P3 => accepted
        I: carol invites erin => INVITE";
    for (sender, invite) in [("brian", "accepted"), ("bob", "accepted"), ("carol", "rejected 4 invite_level")] {
        let lines = by_bob.replace("SENDER", sender).replace("INVITE", invite);
        closed_room(V10, &lines);
        if sender != "carol" {
            closed_room(V1, &lines);
        }
    }
}

/// The redact level is that of the state before the redaction, whatever it is later.
#[test]
fn power_counts_at_the_redaction() {
    let lines = "
        P3: alice power invite=50 redact=70 bob=60 => accepted
        R: bob redacts P3 => accepted
        I: carol invites erin => rejected 4 invite_level
        P4: alice power invite=50 bob=60 after I => accepted
        Q: bob redacts P3 => accepted
        K: carol invites erin => rejected 4 invite_level
        O: bob redacts P4 => accepted
        U: carol invites erin => accepted";
    closed_room(V10, lines);
}

/// The target may arrive after the redaction, on another branch.
#[test]
fn a_redaction_may_come_before_its_target() {
    for version in [V1, V3, V10, V11] {
        let invite = if version == V11 { "rejected 4 invite_level" } else { "accepted" };
        let room = room(
            version,
            &format!(
                "
                P2: alice power bob=50 invite=50
                M: bob says hi after D
                R: bob redacts P2 after M
                N: bob says hi after P2,R
                I: carol invites erin after N => {invite}"
            ),
        );
        let mut other = room.empty_room();
        for name in ["C", "A", "P", "J", "B", "D", "M", "R", "P2", "N", "I"] {
            let receipt = other.handle_pdu(room.pdu(name)).unwrap();
            assert!(matches!(receipt, Receipt::Judged(_)), "{receipt:?}");
            assert_eq!(other.outcome(&room.names.id(name)), room.room.outcome(&room.names.id(name)), "{name}");
        }
        assert_eq!(other.current_state(), room.room.current_state());
    }
}

#[test]
fn redactions_of_what_is_not_there_have_no_effect() {
    for version in RoomVersion::ALL {
        let target = if version <= V2 { "$elsewhere:a" } else { "$elsewhere" };
        let room = room(
            version,
            &format!(
                "
                R1: alice redacts {target} => accepted
                R2: alice redacts {target} after D => accepted
                M: carol says hi after R1,R2 => accepted"
            ),
        );
        assert_eq!(room.extremities(), "M");
    }
}

/// In room versions 1 and 2 ids are chosen by the sender, so that events can name each other or themselves.
#[test]
fn sc_045_redactions_of_each_other_end() {
    for version in [V1, V2] {
        room(
            version,
            "
            R1: bob redacts $R1:b => accepted
            R2: bob redacts $R3:b => accepted
            R3: bob redacts $R2:b => accepted
            M: carol says hi => accepted",
        );
    }
}

/// A moderator who could redact the create event could take the room's version and its closed doors away.
#[test]
fn sc_045_create_events_stay_as_they_are() {
    for version in RoomVersion::ALL {
        let power = if version == V12 { "power amy=50" } else { "power alice=100 amy=50" };
        let text = format!(
            r#"
            C: alice creates with {{"content":{{"m.federate":false}}}}
            A: alice joins
            P: alice {power}
            J: alice join_rule public
            D: amy joins
            X: bob joins => rejected 4 not_federated
            R: amy redacts C after D => accepted
            S: alice redacts C => accepted
            Y: bob joins after S => rejected 4 not_federated
            M: amy says hi after S => accepted"#
        );
        TestRoom::new(version, &text);
    }
}

/// For readers: any event, whatever rules read of it, and wherever the redaction stands.
#[test]
fn accepted_redactions_that_take_effect_redact_for_readers() {
    for version in RoomVersion::ALL {
        let [other_server, by_carol] =
            if version < V3 { ["rejected 4 redaction_other_domain", "bob"] } else { ["accepted", "carol"] };
        let room = closed_room(
            version,
            &format!(
                "
                M1: bob says hi
                M2: bob says hi
                M3: carol says hi
                M4: brian says hi
                R1: carol redacts M1 after M4 => {other_server}
                R2: bob redacts M2 after M4 => accepted
                R3: {by_carol} redacts M3 after M4 => accepted"
            ),
        );
        let redacted = ["M1", "M2", "M3", "M4", "R2"].map(|name| room.room.is_redacted(&room.names.id(name)));
        assert_eq!(redacted, [false, true, true, false, false], "{version:?}");
        let redacts = |redaction, target| room.room.redacts(&room.names.id(redaction), &room.names.id(target));
        assert!(redacts("R2", "M2") && redacts("R3", "M3"), "{version:?}");
        assert!(!redacts("R1", "M1") && !redacts("R2", "M3") && !redacts("M2", "M3"), "{version:?}");
    }
}

/// Many redactions are as cheap as any other events: what is kept of them is shared between the events after them.
#[test]
fn sc_219_many_redactions_are_shared() {
    let text: String =
        (0..400).map(|number| format!("R{number}: carol redacts $unknown{number} => accepted\n")).collect();
    let room = closed_room(V10, &format!("{text}\nR: bob redacts P2\nI: carol invites erin => accepted"));
    let mut other: Room = room.empty_room();
    other.handle_pdus(&room.pdus).unwrap();
    assert_eq!(other.history_fingerprint(), room.room.history_fingerprint());
}

/// The current state is read with the redactions that the forward extremities have among their ancestors; a soft-failed
/// redaction is not among them.
#[test]
fn soft_failed_redactions_do_not_count_in_the_current_state() {
    closed_room(
        V10,
        "
        X: alice bans bob after E
        R: bob redacts P2 after E => soft-failed sender_not_joined
        I: carol invites erin after R => soft-failed invite_level",
    );
}
