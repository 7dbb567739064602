//! Flaws that homeservers had, each with the number of its security case.

use ravel_core::{
    event::event_type,
    event_auth::{can_redact_any_event, redaction_takes_effect},
    room_version::RoomVersion::{self, V1, V2, V3, V6, V7, V8, V9, V10, V11, V12},
};

use crate::scenario::{check, check_by_auth_events, event_of, state_of};

/// Checks that the event is refused with the code in each of the versions.
#[track_caller]
fn refused(versions: impl IntoIterator<Item = RoomVersion>, code: &str, state: &str, event: &str) {
    for version in versions {
        let found = check(version, state, event).map_err(|refusal| refusal.code());
        assert_eq!(found, Err(code), "version {version}: {event}");
    }
}

#[track_caller]
fn allowed(versions: impl IntoIterator<Item = RoomVersion>, state: &str, event: &str) {
    for version in versions {
        assert_eq!(check(version, state, event), Ok(()), "version {version}: {event}");
    }
}

fn versions(first: RoomVersion, last: RoomVersion) -> impl Iterator<Item = RoomVersion> {
    RoomVersion::ALL.into_iter().filter(move |version| (first..=last).contains(version))
}

#[test]
fn sc_030_auth_events_of_another_room_are_refused() {
    let power = "@b:x join; power @b:x=100";
    allowed(RoomVersion::ALL, power, "@b:x sets m.room.topic");
    refused(RoomVersion::ALL, "auth_events_other_room", power, "@b:x sets m.room.topic foreign=m.room.power_levels");
    refused(RoomVersion::ALL, "auth_events_other_room", power, "@b:x sets m.room.topic foreign=m.room.member");
}

#[test]
fn sc_031_rejected_auth_events_are_refused() {
    let join = "@b:x join";
    refused(RoomVersion::ALL, "auth_events_rejected", join, "@b:x sends m.room.message rejected=m.room.member");
    refused(RoomVersion::ALL, "auth_events_rejected", "join_rule public", "@b:x join rejected=m.room.join_rules");
    refused(versions(V1, V11), "auth_events_rejected", join, "@b:x sends m.room.message rejected=m.room.create");
}

#[test]
fn sc_033_duplicate_or_superfluous_auth_events_are_refused() {
    let power = "power @b:x=100; @b:x join";
    for twice in ["m.room.power_levels", "m.room.power_levels cites=m.room.topic"] {
        let event = format!("@b:x sends m.room.message cites={twice}");
        refused(RoomVersion::ALL, "auth_events_duplicate", power, &event);
    }
    for superfluous in ["m.room.name", "m.room.join_rules", "m.room.third_party_invite"] {
        let event = format!("@b:x sends m.room.message cites={superfluous}");
        refused(RoomVersion::ALL, "auth_events_unexpected", power, &event);
    }
    refused([V12], "auth_events_unexpected", power, "@b:x sends m.room.message cites=m.room.create");
    // The target's membership is no authority for a message, the join rules are none for a leave.
    refused(RoomVersion::ALL, "auth_events_unexpected", "@b:x join", "@b:x leave cites=m.room.join_rules");
}

#[test]
fn sc_035_power_levels_mean_what_they_say() {
    let message = "@b:x sends m.room.message";
    refused(RoomVersion::ALL, "required_power_level", "@b:x join; power events_default=50", message);
    refused(RoomVersion::ALL, "required_power_level", "@b:x join; power @b:x=-1", message);
    refused(
        RoomVersion::ALL,
        "required_power_level",
        "@b:x join; power @b:x=9223372036854775806 events_default=9223372036854775807",
        message,
    );
    allowed(RoomVersion::ALL, "@b:x join; power events_default=-9223372036854775808 users_default=-1", message);
    for invalid in ["ban", "kick", "events", "notification", "users", "user", "user_id", "users_default"] {
        let event = format!("@creator:a power invalid={invalid}");
        refused(RoomVersion::ALL, "power_levels_invalid", "", &event);
        // Such power levels are in no state; if they were, nobody would have a level.
        let state = format!("@b:x join; power invalid={invalid}");
        refused(RoomVersion::ALL, "undecoded_power_levels", &state, message);
        refused(RoomVersion::ALL, "undecoded_power_levels", &state, "@b:x leave @creator:a");
    }
}

#[test]
fn sc_036_leaving_out_the_power_levels_gives_no_power() {
    // Without power levels among its auth events, the event may look allowed; the state before it decides.
    let state = "@b:x join; power events_default=50 users_default=0";
    let event = "@b:x sends m.room.message omits=m.room.power_levels";
    for version in RoomVersion::ALL {
        assert_eq!(check_by_auth_events(version, state, event), Ok(()));
        assert_eq!(check(version, state, event).map_err(|refusal| refusal.code()), Err("required_power_level"));
    }
    // And without power levels in the room nobody but the creator may set state.
    refused(RoomVersion::ALL, "required_power_level", "@b:x join", "@b:x sets m.room.topic");
    refused(RoomVersion::ALL, "required_power_level", "@b:x join", "@b:x power @b:x=100");
    refused(RoomVersion::ALL, "kick_level", "@b:x join", "@b:x leave @creator:a");
    refused(RoomVersion::ALL, "ban_level", "@b:x join", "@b:x ban @creator:a");
}

#[test]
fn sc_037_a_restricted_join_needs_the_signature_and_the_power_of_a_member() {
    let restricted = "join_rule restricted; @u:a join; @left:a leave; power @u:a=50 @creator:a=50 invite=50";
    let unsigned = "member_not_signed_by_authorizing_server";
    allowed(versions(V8, V12), restricted, "@b:x join via=@u:a signed");
    refused(versions(V8, V12), unsigned, restricted, "@b:x join via=@u:a");
    refused(versions(V8, V12), unsigned, restricted, "@b:x join via=@u:a unsigned");
    refused(versions(V8, V12), "join_authorizing_user_not_joined", restricted, "@b:x join via=@left:a signed");
    refused(versions(V8, V12), "join_authorizing_user_not_joined", restricted, "@b:x join via=nobody signed");
    let powerless = "join_rule restricted; @u:a join; power @u:a=49 invite=50";
    refused(versions(V8, V12), "join_authorizing_user_cannot_invite", powerless, "@b:x join via=@u:a signed");
    refused(
        versions(V8, V12),
        "join_while_banned",
        "join_rule restricted; @b:x ban",
        "@b:x join via=@creator:a signed",
    );
    // Before version 8 the key means nothing, and restricted is a join rule that lets nobody in.
    refused(versions(V1, V7), "join_rule_forbids", restricted, "@b:x join via=@u:a signed");
    allowed(versions(V1, V7), "join_rule public", "@b:x join via=@u:a");
    refused(versions(V8, V9), "join_rule_forbids", "join_rule knock_restricted", "@b:x join via=@creator:a signed");
}

#[test]
fn sc_039_members_may_keep_the_authorizing_user_if_its_server_signs() {
    let member = "join_rule restricted; @b:x join; @u:a leave";
    allowed(versions(V8, V12), member, "@b:x join");
    allowed(versions(V8, V12), member, "@b:x join via=@u:a signed");
    refused(versions(V8, V12), "member_not_signed_by_authorizing_server", member, "@b:x join via=@u:a");
    refused(versions(V8, V12), "member_not_signed_by_authorizing_server", member, "@b:x join via=@u:a unsigned");
    allowed(versions(V1, V7), "join_rule public; @b:x join", "@b:x join via=@u:a");
}

#[test]
fn sc_040_equal_power_is_not_more_power() {
    let moderators = "@m:a join; @n:a join; power @m:a=50 @n:a=50 ban=50";
    refused(RoomVersion::ALL, "kick_of_equal", moderators, "@m:a leave @n:a");
    refused(RoomVersion::ALL, "ban_of_equal", moderators, "@m:a ban @n:a");
    refused(RoomVersion::ALL, "ban_of_equal", moderators, "@m:a ban @m:a");
    refused(RoomVersion::ALL, "power_levels_user_current", moderators, "@m:a power @m:a=50 ban=50");
    let unban = "@b:x ban; @m:a join; power @m:a=100 ban=101";
    refused(RoomVersion::ALL, "unban_level", unban, "@m:a leave @b:x");
    refused(RoomVersion::ALL, "leave_of_absent", "@m:a ban; power @m:a=100", "@m:a leave");
    // The rules do not ask whether the target of a kick was ever in the room; that is for the client-server API.
    allowed(RoomVersion::ALL, "@m:a join; power @m:a=50", "@m:a leave @never:x");
}

#[test]
fn sc_041_creators_outrank_every_level() {
    refused([V12], "power_levels_lists_creator", "", "@creator:a power @creator:a=100");
    refused([V12], "power_levels_lists_creator", "create creators=@d:b", "@creator:a power @d:b=100");
    let highest = "create creators=@d:b; @d:b join; @b:x join; power @b:x=9223372036854775807";
    refused([V12], "power_levels_lists_creator", highest, "@b:x power @b:x=9223372036854775807 @creator:a=0");
    for creator in ["@creator:a", "@d:b"] {
        refused([V12], "kick_of_equal", highest, &format!("@b:x leave {creator}"));
        refused([V12], "ban_of_equal", highest, &format!("@b:x ban {creator}"));
        allowed([V12], highest, &format!("{creator} ban @b:x"));
        allowed([V12], highest, &format!("{creator} power ban=9223372036854775807"));
    }
    // Creators have no more power than each other.
    refused([V12], "kick_of_equal", highest, "@d:b leave @creator:a");
    refused([V12], "ban_of_equal", highest, "@creator:a ban @d:b");
    refused([V12], "create_invalid_additional_creators", "", "@creator:a creates bad-creators");
    // The text has nothing against a user named twice.
    allowed([V12], "", "@creator:a creates creators=@d:b,@d:b");
    // Before version 12 creators have no power but what the power levels give.
    refused(versions(V1, V11), "required_power_level", "power", "@creator:a sets m.room.topic");
    allowed(versions(V1, V11), "", "@creator:a power @creator:a=100");
    refused(versions(V1, V11), "required_power_level", "create creators=@d:a; @d:a join", "@d:a sets m.room.topic");
}

#[test]
fn sc_042_a_room_has_one_create_event() {
    refused(RoomVersion::ALL, "create_has_prev_events", "", "@creator:a creates prev=create second");
    refused(RoomVersion::ALL, "create_second", "", "@creator:a creates second");
    refused([V12], "create_carries_room_id", "", "@creator:a creates with-room-id");
    refused(versions(V1, V11), "create_other_domain", "", "@b:x creates room=!room:a");
}

#[test]
fn sc_044_a_room_that_is_not_federated_is_for_one_domain() {
    let closed = "create federate=no; join_rule public; @b:x join; power @b:x=100";
    for event in ["@b:x join", "@b:x leave", "@b:x sends m.room.message", "@b:x power", "@b:x sets m.room.aliases x"] {
        refused(RoomVersion::ALL, "not_federated", closed, event);
    }
    // Another port is another server.
    refused(RoomVersion::ALL, "not_federated", closed, "@b:a:8448 join");
    allowed(RoomVersion::ALL, closed, "@b:a join");
}

/// Whether the redaction, sent by that line in that state, takes effect on the event of the other line.
fn takes_effect(version: RoomVersion, state: &str, redaction: &str, event: &str) -> bool {
    let state = state_of(version, state);
    let (create, power_levels) = (state.get(event_type::CREATE, "").unwrap(), state.get(event_type::POWER_LEVELS, ""));
    let (redaction, event) = (event_of(version, redaction).event, event_of(version, event).event);
    let may_redact_any = can_redact_any_event(version.rules(), create, power_levels, redaction.sender.as_str());
    redaction_takes_effect(version.rules(), may_redact_any, &redaction, &event)
}

#[test]
fn sc_045_redactions_need_the_same_domain_or_the_redact_level() {
    let target = "@t:y sends m.room.message id=$e:y";
    let power = "@b:x join; power @b:x=50";
    for version in RoomVersion::ALL {
        assert!(!takes_effect(version, "@b:x join", "@b:x redacts $e:y", target), "unrelated server, {version}");
        assert!(!takes_effect(version, "power @b:x=49", "@b:x redacts $e:y", target), "too little power, {version}");
        assert!(takes_effect(version, power, "@b:x redacts $e:y", target), "redact level, {version}");
        assert!(takes_effect(version, "", "@u:y redacts $e:y", target), "same domain, {version}");
        assert!(!takes_effect(version, power, "@b:x redacts $other:y", target), "another event, {version}");
        assert!(!takes_effect(version, power, "@b:x redacts", target), "no event, {version}");
        let create = "@creator:a creates id=$e:a";
        assert!(!takes_effect(version, "power @creator:a=100", "@creator:a redacts $e:a", create), "create, {version}");
        assert!(!takes_effect(version, "power @creator:a=100", "@creator:a redacts $e:z room=!r", create));
    }
    // A redaction of another room: the same id, another room id.
    for version in RoomVersion::ALL {
        let state = state_of(version, power);
        let (redaction, mut event) = (event_of(version, "@b:x redacts $e:y").event, event_of(version, target).event);
        let create = state.get(event_type::CREATE, "").unwrap();
        let power_levels = state.get(event_type::POWER_LEVELS, "");
        event.room_id = ravel_core::id::RoomId::parse("!other:y").unwrap();
        assert!(!redaction_takes_effect(version.rules(), true, &redaction, &event));
        assert!(can_redact_any_event(version.rules(), create, power_levels, "@b:x"));
        assert!(!can_redact_any_event(version.rules(), create, power_levels, "@c:x"));
        assert_eq!(can_redact_any_event(version.rules(), create, power_levels, "@creator:a"), version == V12);
    }
    // In versions 1 and 2 it is the ids that count, and the rule refuses what would have no effect.
    refused([V1, V2], "redaction_other_domain", "@b:x join", "@b:x redacts $e:y");
    assert!(takes_effect(V1, "", "@b:x redacts $e:y id=$r:y", target));
    assert!(!takes_effect(V1, "", "@u:y redacts $e:y id=$r:x", target));
    // Later, redactions are accepted whether or not they will have an effect.
    allowed([V3, V6, V10, V11, V12], "@b:x join", "@b:x redacts $e:y");
}

#[test]
fn sc_048_third_party_invites_are_bound_to_token_user_sender_and_key() {
    let token = "token t @i:a keys=1,2; @i:a join";
    allowed(RoomVersion::ALL, token, "@i:a invite @b:x 3pid=@b:x,t,2");
    for (code, event) in [
        ("third_party_invite_other_user", "@i:a invite @b:x 3pid=@c:x,t,1"),
        ("third_party_invite_unknown_token", "@i:a invite @b:x 3pid=@b:x,u,1"),
        ("third_party_invite_other_sender", "@j:a invite @b:x 3pid=@b:x,t,1"),
        ("third_party_invite_no_matching_signature", "@i:a invite @b:x 3pid=@b:x,t,3"),
        ("third_party_invite_no_matching_signature", "@i:a invite @b:x 3pid=@b:x,t,forged"),
        ("third_party_invite_no_signed", "@i:a invite @b:x 3pid=no-signed"),
        ("third_party_invite_incomplete", "@i:a invite @b:x 3pid=incomplete"),
    ] {
        refused(RoomVersion::ALL, code, token, event);
    }
    let banned = format!("{token}; @b:x ban");
    refused(RoomVersion::ALL, "third_party_invite_target_banned", &banned, "@i:a invite @b:x 3pid=@b:x,t,1");
}

#[test]
fn sc_049_state_keys_of_other_users_are_refused() {
    let power = "@b:x join; power @b:x=100";
    for state_key in ["@c:x", "@creator:a", "@", "@b:x_", "@b:xx"] {
        let event = format!("@b:x sets org.example.status {state_key}");
        refused(RoomVersion::ALL, "state_key_of_another_user", power, &event);
    }
    allowed(RoomVersion::ALL, power, "@b:x sets org.example.status @b:x");
    allowed(RoomVersion::ALL, power, "@b:x sets org.example.status c@c:x");
}

#[test]
fn sc_050_memberships_that_are_none_are_refused() {
    refused(RoomVersion::ALL, "unknown_membership", "", "@creator:a unknown");
    refused(RoomVersion::ALL, "member_no_membership", "", "@creator:a absent");
    refused(RoomVersion::ALL, "member_no_state_key", "join_rule public", "@b:x join no-state-key");
    refused(RoomVersion::ALL, "member_target_not_a_user", "", "@creator:a invite nobody");
    refused(versions(V1, V6), "unknown_membership", "join_rule public", "@b:x knock");
}

#[test]
fn sc_052_knocks_and_invites_do_not_get_around_memberships() {
    for membership in ["invite", "join", "ban"] {
        let state = format!("join_rule knock; @b:x {membership}");
        refused(versions(V7, V12), "knock_membership", &state, "@b:x knock");
    }
    refused(versions(V7, V12), "knock_join_rule", "join_rule public", "@b:x knock");
    refused(RoomVersion::ALL, "invite_of_banned", "@b:x ban", "@creator:a invite @b:x");
}
