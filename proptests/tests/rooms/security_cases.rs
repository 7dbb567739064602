//! Flaws that other servers had, as far as the room reducer meets them. The numbers are those of the list of security cases.

use ravel_core::{
    canonical_json::{CanonicalJsonObject, CanonicalJsonValue, object_to_canonical_bytes},
    id::EventId,
    pdu::{ParsedPdu, VerifiedPdu},
    room::{Effect, Outcome, Receipt},
    room_version::RoomVersion,
    signing::hash_and_sign_event,
};
use ravel_proptests::{
    draft::Draft,
    people::{NOW_MS, USERS, key_ring, server_of, signing_key},
    plan::{
        Action::{Ban, Invite, Message, PowerLevels, Redact, ThirdPartyInvite, ThirdPartyToken, Topic},
        Flaw,
        Parents::{self, AllTips, Back, Newest, TwoBack},
        Plan, Step,
    },
};

use crate::replay::{delivered, empty_room};

/// A room with all users joined, of whom the second and third have level 50, and the steps.
fn room(version: RoomVersion, steps: &[Step]) -> (Draft, Vec<VerifiedPdu>) {
    let draft = Draft::of(&Plan::written(version, 5, steps));
    let pdus = draft.verified();
    (draft, pdus)
}

#[test]
fn sc_032_a_rejected_event_stays_rejected_and_out_of_every_state() {
    for version in RoomVersion::ALL {
        // The last user has no power to set a topic, and does it on two branches.
        let steps = [
            Step::new(5, Topic, Newest),
            Step::new(0, Message, Newest),
            Step { value: 1, ..Step::new(5, Topic, Back(2)) },
            Step::new(0, Message, AllTips),
        ];
        let (draft, pdus) = room(version, &steps);
        let mut room = delivered(&draft, &pdus);
        let [first, .., second, merge] = &pdus[pdus.len() - 4..] else { panic!() };
        for topic in [first, second] {
            assert_eq!(room.outcome(topic.event_id()), Some(Outcome::Rejected));
            assert_eq!(room.state_after(topic.event_id()), room.state_before(topic.event_id()));
            assert!(matches!(room.handle_pdu(topic).unwrap(), Receipt::AlreadyKnown(Outcome::Rejected)));
        }
        assert_eq!(room.outcome(merge.event_id()), Some(Outcome::Accepted));
        assert_eq!(room.state_before(merge.event_id()).unwrap().get("m.room.topic", ""), None);
        assert_eq!(room.current_state().get("m.room.topic", ""), None);
    }
}

/// A room with the invite level 50, in which all but the last user have joined, and the steps; then the fifth user, who has no
/// power, invites the last one. Returns the room, with the events in the order that `order` gives of the steps.
fn invited(version: RoomVersion, steps: &[Step], invites_after: Parents, order: &[usize]) -> Outcome {
    let invite = Step { target: 5, ..Step::new(4, Invite, invites_after) };
    let mut plan = Plan::written(version, 4, &[steps, &[invite]].concat());
    plan.preset.invites_need_power = true;
    let draft = Draft::of(&plan);
    let pdus = draft.verified();
    let (begun, rest) = pdus.split_at(pdus.len() - steps.len() - 1);
    let mut room = delivered(&draft, begun);
    for place in order {
        assert!(matches!(room.handle_pdu(&rest[*place]).unwrap(), Receipt::Judged(_)));
    }
    room.outcome(rest[steps.len()].event_id()).unwrap()
}

/// Redacted power levels lose the invite level before version 11: so whether the invite is accepted tells whether they count as
/// redacted.
#[test]
fn sc_045_only_who_may_redact_does() {
    for version in RoomVersion::ALL {
        let loses_level = if version < RoomVersion::V11 { Outcome::Accepted } else { Outcome::Rejected };
        let redacts = |actor| Step::new(actor, Redact, Newest);
        let outcome = |actor| invited(version, &[redacts(actor)], Newest, &[0, 1]);
        assert_eq!(outcome(0), loses_level, "the sender, version {version}");
        assert_eq!(outcome(1), loses_level, "who has the redact level, version {version}");
        assert_eq!(outcome(3), loses_level, "another user of the sender's server, version {version}");
        assert_eq!(outcome(4), Outcome::Rejected, "anybody else, version {version}");

        // Only what comes after a redaction is judged by it, whenever it arrives.
        let beside = |order: &[usize]| invited(version, &[Step::new(0, Message, Newest), redacts(1)], Back(1), order);
        assert_eq!([beside(&[0, 1, 2]), beside(&[0, 2, 1])], [Outcome::Rejected; 2], "version {version}");

        // The redaction may be here before what it redacts.
        let steps = [
            Step { target: 3, value: 16, ..Step::new(0, PowerLevels, Newest) },
            Step { target: 0, value: 1, ..Step::new(1, Redact, Back(1)) },
            Step::new(0, Message, AllTips),
        ];
        let outcomes = [[0, 1, 2, 3], [1, 0, 2, 3]].map(|order| invited(version, &steps, Newest, &order));
        assert_eq!(outcomes, [loses_level; 2], "version {version}");
    }
}

#[test]
fn sc_053_who_is_banned_goes_on_in_vain_from_before_the_ban() {
    for version in RoomVersion::ALL {
        let steps = [
            Step { target: 1, ..Step::new(0, Ban, Newest) },
            Step::new(1, Message, Back(1)),
            Step::new(1, Topic, Back(2)),
        ];
        let (draft, pdus) = room(version, &steps);
        let [before @ .., message, topic] = &pdus[..] else { panic!() };
        let mut room = delivered(&draft, before);
        let (extremities, state) = (room.forward_extremities(), room.current_state().to_map());
        for pdu in [message, topic] {
            let Receipt::Judged(judged) = room.handle_pdu(pdu).unwrap() else { panic!() };
            assert_eq!(room.outcome(pdu.event_id()), Some(Outcome::SoftFailed));
            assert!(judged.effects.iter().all(|effect| !matches!(effect, Effect::Publish(_))), "not shown to clients");
            assert_eq!(
                (room.forward_extremities(), room.current_state().to_map()),
                (extremities.clone(), state.clone())
            );
        }
    }
}

/// A redacted third-party invite has no keys any more. Redactions on two branches both count where these meet.
#[test]
fn sc_045_redactions_of_two_branches_come_together() {
    for version in RoomVersion::ALL {
        let steps = [
            Step::new(0, ThirdPartyToken, Newest),
            Step::new(0, Redact, Newest),
            // The newest event that authorizes others: the token.
            Step { target: 0, value: 1, ..Step::new(0, Redact, Back(1)) },
            Step::new(0, Message, AllTips),
            Step { target: 5, ..Step::new(4, Invite, Newest) },
            Step { target: 5, ..Step::new(0, ThirdPartyInvite, Back(1)) },
            // Beside the redactions, the token is good.
            Step { target: 5, ..Step::new(0, ThirdPartyInvite, Back(5)) },
        ];
        let mut plan = Plan::written(version, 4, &steps);
        plan.preset.invites_need_power = true;
        let draft = Draft::of(&plan);
        let pdus = draft.verified();
        let room = delivered(&draft, &pdus);
        let [.., invite, by_token, beside] = &pdus[..] else { panic!() };
        let rejected = [invite, by_token, beside].map(|pdu| room.outcome(pdu.event_id()) == Some(Outcome::Rejected));
        assert_eq!(rejected, [version >= RoomVersion::V11, true, false], "version {version}");
    }
}

/// The state before the message is resolved so that the ban is lost: it came before its sender lost the power to ban, and does not
/// hold against that. What counts is that the message's sender is banned now.
#[test]
fn sc_053_who_is_banned_builds_on_the_present_and_the_past() {
    for version in RoomVersion::ALL {
        let steps = [
            Step { target: 4, ..Step::new(2, Ban, Newest) },
            Step { target: 2, ..Step::new(0, PowerLevels, Newest) },
            // Cites the sender's join, not the ban.
            Step { flaw: Flaw::AuthEventOld(1), ..Step::new(4, Message, TwoBack(0, 2)) },
        ];
        let (draft, pdus) = room(version, &steps);
        let room = delivered(&draft, &pdus);
        let message = pdus.last().unwrap();
        let before = room.state_before(message.event_id()).unwrap().get("m.room.member", USERS[4]);
        assert_ne!(before, room.current_state().get("m.room.member", USERS[4]), "version {version}");
        assert_eq!(room.outcome(message.event_id()), Some(Outcome::SoftFailed), "version {version}");
    }
}

#[test]
fn sc_054_a_soft_failed_event_leaves_the_extremities_as_they_are() {
    for version in RoomVersion::ALL {
        // The second user is banned, and changes power levels on another branch, on which that user's messages follow.
        let steps = [
            Step { target: 1, ..Step::new(0, Ban, Newest) },
            Step { target: 3, value: 16, ..Step::new(1, PowerLevels, Back(1)) },
            Step::new(1, Message, Newest),
            Step::new(0, Message, Newest),
        ];
        let (draft, pdus) = room(version, &steps);
        let [before @ .., levels, message, last] = &pdus[..] else { panic!() };
        let mut room = delivered(&draft, before);
        let ban = room.forward_extremities();
        for pdu in [levels, message] {
            room.handle_pdu(pdu).unwrap();
            assert_eq!(room.outcome(pdu.event_id()), Some(Outcome::SoftFailed), "version {version}");
            assert_eq!(room.forward_extremities(), ban);
        }
        // Somebody who is still there builds on what was soft-failed: that is taken, beside the ban.
        room.handle_pdu(last).unwrap();
        assert_eq!(room.outcome(last.event_id()), Some(Outcome::Accepted));
        let mut both = [ban, vec![last.event_id().clone()]].concat();
        both.sort();
        assert_eq!(room.forward_extremities(), both);
    }
}

/// Signs an event of version 1 or 2 with other parents.
fn with_parents(draft: &Draft, mut event: CanonicalJsonObject, parents: &[&EventId]) -> VerifiedPdu {
    let reference = |id: &&EventId| {
        CanonicalJsonValue::Array(vec![id.to_string().into(), CanonicalJsonValue::Object(CanonicalJsonObject::new())])
    };
    event.insert("prev_events".into(), CanonicalJsonValue::Array(parents.iter().map(reference).collect()));
    let server = server_of(USERS[0]);
    let event = hash_and_sign_event(event, draft.rules(), &server, &signing_key(server.as_str())).unwrap();
    let parsed = ParsedPdu::parse(&object_to_canonical_bytes(&event), draft.rules()).unwrap();
    parsed.verify(&key_ring(), NOW_MS).unwrap()
}

#[test]
fn sc_066_events_that_cite_themselves_or_each_other_wait_forever() {
    for version in [RoomVersion::V1, RoomVersion::V2] {
        let (draft, pdus) = room(version, &[0, 1, 2].map(|_| Step::new(0, Message, Newest)));
        let mut room = delivered(&draft, &pdus[..pdus.len() - 3]);
        let [first, second, third] = &draft.signed()[pdus.len() - 3..] else { panic!() };
        let ids: Vec<&EventId> = pdus[pdus.len() - 3..].iter().map(VerifiedPdu::event_id).collect();
        let to_itself = with_parents(&draft, first.clone(), &[ids[0]]);
        let there = with_parents(&draft, second.clone(), &[ids[2]]);
        let back = with_parents(&draft, third.clone(), &[ids[1]]);
        let Receipt::NeedEvents(missing) = room.handle_pdu(&to_itself).unwrap() else { panic!() };
        assert_eq!(missing, [ids[0].clone()]);
        let length = room.len();
        let receipts = room.handle_pdus(&[there, to_itself, back]).unwrap();
        assert!(receipts.len() == 3 && receipts.iter().all(|(_, receipt)| matches!(receipt, Receipt::NeedEvents(_))));
        assert_eq!(room.len(), length);
    }
}

#[test]
fn sc_066_a_parent_in_another_room_is_never_there() {
    for version in RoomVersion::ALL {
        let (draft, pdus) = room(version, &[Step::new(0, Message, Newest)]);
        let other = Draft::in_room(&Plan::written(version, 5, &[]), "!other:ash.example");
        let mut other_room = empty_room(&other);
        for pdu in &pdus {
            assert!(matches!(other_room.handle_pdu(pdu).unwrap(), Receipt::OtherRoom(id) if id == draft.room_id));
        }
        assert!(other_room.is_empty());
    }
}
