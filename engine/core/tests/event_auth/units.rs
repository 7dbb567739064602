//! The smaller public functions.

use ravel_core::{
    event::{Event, event_type},
    event_auth::{
        PowerLevel, StateLookup, auth_types_for_event, check_state_dependent, check_state_independent,
        sender_power_level,
    },
    id::EventId,
    room_version::RoomVersion::{self, V12},
};

use crate::scenario::{check, event_of, state_of};

#[test]
fn auth_events_are_selected_by_the_kind_of_event() {
    // Without the create event, which comes first in versions 1 to 11. "8-" marks what is selected from version 8 on.
    let cases = [
        ("@b:x sends m.room.message", "m.room.power_levels m.room.member@b:x"),
        ("@b:x sets m.room.member.like @c:x", "m.room.power_levels m.room.member@b:x"),
        ("@b:x redacts $e:a", "m.room.power_levels m.room.member@b:x"),
        ("@b:x sets m.room.third_party_invite t", "m.room.power_levels m.room.member@b:x"),
        ("@b:x power @c:x=1", "m.room.power_levels m.room.member@b:x"),
        ("@b:x join", "m.room.power_levels m.room.member@b:x m.room.join_rules"),
        ("@b:x join @c:x", "m.room.power_levels m.room.member@b:x m.room.member@c:x m.room.join_rules"),
        ("@b:x join via=@u:a", "m.room.power_levels m.room.member@b:x m.room.join_rules 8-m.room.member@u:a"),
        ("@b:x join via=@b:x", "m.room.power_levels m.room.member@b:x m.room.join_rules"),
        ("@b:x join @c:x via=@c:x", "m.room.power_levels m.room.member@b:x m.room.member@c:x m.room.join_rules"),
        ("@b:x leave via=@u:a", "m.room.power_levels m.room.member@b:x"),
        ("@b:x leave @c:x", "m.room.power_levels m.room.member@b:x m.room.member@c:x"),
        ("@b:x ban @c:x", "m.room.power_levels m.room.member@b:x m.room.member@c:x"),
        ("@b:x knock", "m.room.power_levels m.room.member@b:x m.room.join_rules"),
        ("@b:x absent", "m.room.power_levels m.room.member@b:x"),
        ("@b:x join no-state-key", "m.room.power_levels m.room.member@b:x m.room.join_rules"),
        ("@b:x invite @c:x", "m.room.power_levels m.room.member@b:x m.room.member@c:x m.room.join_rules"),
        (
            "@b:x invite @c:x 3pid=@c:x,t,1",
            "m.room.power_levels m.room.member@b:x m.room.member@c:x m.room.join_rules m.room.third_party_invitet",
        ),
        (
            "@b:x invite @c:x 3pid=no-signed",
            "m.room.power_levels m.room.member@b:x m.room.member@c:x m.room.join_rules",
        ),
        ("@b:x leave 3pid=@b:x,t,1", "m.room.power_levels m.room.member@b:x"),
    ];
    for version in RoomVersion::ALL {
        for (event, expected) in cases {
            let create = (version < RoomVersion::V12).then_some("m.room.create");
            let since_8 = |key| match str::strip_prefix(key, "8-") {
                Some(key) => (version >= RoomVersion::V8).then_some(key),
                None => Some(key),
            };
            let expected: Vec<_> = create.into_iter().chain(expected.split(' ').filter_map(since_8)).collect();
            let found: Vec<_> = auth_types_for_event(version.rules(), &event_of(version, event).event)
                .into_iter()
                .map(|key| format!("{}{}", key.event_type, key.state_key))
                .collect();
            assert_eq!(found, expected, "version {version}: {event}");
        }
        assert_eq!(auth_types_for_event(version.rules(), &event_of(version, "@b:x creates").event), []);
    }
}

#[test]
fn levels_come_from_power_levels_or_from_being_the_creator() {
    use PowerLevel::{Finite, Infinite};
    let level = |version: RoomVersion, state: &str, user: &str| {
        let state = state_of(version, state);
        let create = state.get(event_type::CREATE, "").unwrap();
        sender_power_level(version.rules(), create, state.get(event_type::POWER_LEVELS, ""), user)
    };
    for version in RoomVersion::ALL {
        let is_12 = version == RoomVersion::V12;
        let creator = |level| if is_12 { Infinite } else { Finite(level) };
        assert_eq!(level(version, "", "@creator:a"), creator(100));
        assert_eq!(level(version, "", "@b:x"), Finite(0));
        assert_eq!(level(version, "power", "@creator:a"), creator(0));
        assert_eq!(level(version, "power users_default=7 @b:x=-3", "@b:x"), Finite(-3));
        assert_eq!(level(version, "power users_default=7 @b:x=-3", "@c:x"), Finite(7));
        assert_eq!(level(version, "power invalid=ban", "@b:x"), Finite(i64::MIN));
        assert_eq!(level(version, "power invalid=ban", "@creator:a"), creator(i64::MIN));
        let named_creator = if version <= RoomVersion::V10 { Finite(100) } else { Finite(0) };
        assert_eq!(level(version, "create creator=@z:a", "@z:a"), named_creator);
        assert_eq!(level(version, "create creators=@d:b", "@d:b"), if is_12 { Infinite } else { Finite(0) });
    }
    assert!(Infinite > Finite(i64::MAX));
    assert!(Infinite > i64::MAX);
    assert!(i64::MAX < Infinite);
    assert!(Finite(1) > Finite(0) && Finite(1) >= 1 && Finite(0) < 1);
}

#[test]
fn an_oversized_field_is_refused_before_anything_else() {
    for version in RoomVersion::ALL {
        for event in ["@creator:a sends m.room.message oversized", "@creator:a creates prev=create oversized"] {
            let refusal = check(version, "", event).unwrap_err();
            assert_eq!((refusal.code(), refusal.rule_number(version)), ("oversized_field", ""));
        }
    }
}

#[test]
fn power_levels_under_another_state_key_are_compared_with_those_of_the_room() {
    for version in RoomVersion::ALL {
        let state = state_of(version, "@m:a join; power @m:a=50 ban=100");
        let mut event = event_of(version, "@m:a power @m:a=50 ban=50").event;
        event.state_key = Some("other".into());
        let refusal = check_state_dependent(version.rules(), &event, &state).unwrap_err();
        assert_eq!(refusal.code(), "power_levels_named_current");
    }
}

#[test]
fn in_version_12_the_create_event_must_be_that_of_the_room() {
    let rules = RoomVersion::V12.rules();
    let event = event_of(RoomVersion::V12, "@b:x sends m.room.message").event;
    let check = |create: Option<&EventId>| {
        check_state_independent(rules, &event, None, create, &[]).map_err(|refusal| refusal.rule_number(V12))
    };
    let state = state_of(V12, "");
    let create = state.get(event_type::CREATE, "").unwrap();
    assert_eq!(check(Some(&create.event_id)), Ok(()));
    assert_eq!(check(Some(&EventId::parse("$other").unwrap())), Err("2"));
    assert_eq!(check(None), Err("2"));
}

#[test]
fn a_state_without_create_event_refuses_everything() {
    struct Empty;
    impl StateLookup for Empty {
        fn state_event(&self, _: &str, _: &str) -> Option<&Event> {
            None
        }
    }
    for version in RoomVersion::ALL {
        let event = event_of(version, "@b:x join").event;
        let refusal = check_state_dependent(version.rules(), &event, &Empty).unwrap_err();
        assert_eq!(refusal.code(), "state_without_create");
        assert_eq!(refusal.rule_number(version), if version == RoomVersion::V12 { "2" } else { "2.4" });
    }
}

#[test]
fn refusals_read_as_sentences_with_users_and_levels() {
    let said = |state, event| check(RoomVersion::V12, state, event).unwrap_err().to_string();
    let power = "@m:a join; @n:a join; power @m:a=50 @n:a=50";
    assert_eq!(said(power, "@m:a sets m.room.topic cites=m.room.name"), {
        "the auth event $another-m.room.name, a \"m.room.name\", does not authorize this kind of event"
    });
    assert_eq!(said("join_rule public; @b:x ban", "@b:x join"), "@b:x is banned from the room and cannot join");
    assert_eq!(
        said(power, "@m:a leave @n:a"),
        "@m:a (level 50) has no more power than @n:a (level 50) and cannot kick"
    );
    assert_eq!(
        said(power, "@m:a ban @creator:a"),
        "@m:a (level 50) has no more power than @creator:a (level infinite) and cannot ban"
    );
    assert_eq!(
        said(power, "@m:a power @m:a=50 @n:a=50 ban=51"),
        "ban cannot become 51, more than the sender's power level 50"
    );
    assert_eq!(
        said("@b:x join", "@b:x sets m.room.topic"),
        "@b:x has power level 0, sending \"m.room.topic\" needs 50"
    );
    assert_eq!(said("", "@creator:a power invalid=ban"), "the power levels are not valid: ban is not an integer");
}

#[test]
fn a_third_party_invite_with_countless_keys_and_signatures_is_refused_in_bounded_time() {
    let seeds: Vec<_> = (0..200).map(|seed| seed.to_string()).collect();
    let state = format!("token t @i:a keys={}", seeds.join(","));
    // A signature that is good, but behind 200 forged ones for each of the keys before its own.
    let forged = "forged,".repeat(200);
    let event = format!("@i:a invite @b:x 3pid=@b:x,t,{forged}199");
    let refusal = check(RoomVersion::V12, &state, &event).unwrap_err();
    assert_eq!(refusal.code(), "third_party_invite_no_matching_signature");
    let event = format!("@i:a invite @b:x 3pid=@b:x,t,{forged}0");
    assert_eq!(check(RoomVersion::V12, &state, &event), Ok(()));
}
