//! Resolutions that are known to go wrong, or to have gone wrong elsewhere, with the outcome written down. Ravel, ruma and the
//! plain reading must agree on it. The numbers are those of the list of security cases.

use std::time::{Duration, Instant};

use ravel_core::room_version::RoomVersion::{self, V2, V9, V10, V11, V12};
use ravel_proptests::plain;

use crate::written::{ALICE, BOB, CREATOR, JOIN_RULES, LEVELS, Line, MEMBER, Written};

const CAROL: &str = "@carol:cedar.example";
const TOPIC: &str = "m.room.topic";
const JOIN: &str = r#"{"membership":"join"}"#;

/// A room as it is written down before it has conflicts: creator, power levels (3), join rules (4), and the others.
struct Begun {
    room: Written,
    /// Where version 12 has no create event among the auth events.
    create: &'static [usize],
}

impl Begun {
    fn new(version: RoomVersion) -> Self {
        let create: &[usize] = if version == V12 { &[] } else { &[0] };
        Self { room: Written::created(version, CREATOR), create }
    }

    fn add(&mut self, line: Line<'_>, auth_events: &[usize]) -> usize {
        self.room.add(line, &[self.create, auth_events].concat())
    }

    /// Resolves by Ravel, after it was compared with ruma and the plain reading.
    fn resolve(&self, states: &[&[usize]]) -> plain::State {
        let states: Vec<plain::State> = states.iter().map(|places| self.room.state(places)).collect();
        let (ravel, ruma) = self.room.resolve(&states);
        assert_eq!(ravel, ruma.unwrap());
        assert_eq!(ravel, self.room.resolve_plainly(&states));
        ravel
    }
}

/// Power levels that version 12 takes too: they do not name the creator there.
fn levels(version: RoomVersion, users: &[(&str, i64)]) -> String {
    let users = users.iter().filter(|(user, _)| version != V12 || *user != ALICE);
    let users: Vec<String> = users.map(|(user, level)| format!("\"{user}\":{level}")).collect();
    let named = r#""ban":50,"events_default":0,"invite":0,"kick":50,"redact":50,"state_default":50,"users_default":0"#;
    format!(r#"{{{named},"users":{{{}}}}}"#, users.join(","))
}

/// Problem A of MSC4297: what some states lack is put to the test of rules that came later.
#[test]
fn sc_060_a_member_whom_one_state_lacks_is_lost_before_version_12() {
    for version in [V2, V9, V10, V11, V12] {
        let mut begun = Begun::new(version);
        let power = begun.add((ALICE, LEVELS, "", &levels(version, &[(ALICE, 100)])), &[1]);
        let public = begun.add((ALICE, JOIN_RULES, "", r#"{"join_rule":"public"}"#), &[1, power]);
        // Carol's join makes both states know the join rules that Bob joined by, so these are not tried again.
        let carol = begun.add((CAROL, MEMBER, CAROL, JOIN), &[public, power]);
        let bob = begun.add((BOB, MEMBER, BOB, JOIN), &[public, power]);
        let invite_only = begun.add((ALICE, JOIN_RULES, "", r#"{"join_rule":"invite"}"#), &[1, power]);
        let resolved = begun.resolve(&[&[0, 1, power, invite_only, carol, bob], &[0, 1, power, invite_only, carol]]);
        let survives = resolved.values().any(|id| *id == begun.room.event(bob).event_id);
        assert_eq!(survives, version == V12, "version {version}");
        assert!(resolved.values().any(|id| *id == begun.room.event(invite_only).event_id));
    }
}

/// Problem B of MSC4297: what lies between two conflicted events is known to both states, so it is not in the auth difference.
#[test]
fn sc_061_power_levels_between_conflicted_ones_count_from_version_12_on() {
    for version in [V2, V9, V10, V11, V12] {
        let mut begun = Begun::new(version);
        let first = begun.add((ALICE, LEVELS, "", &levels(version, &[(ALICE, 100)])), &[1]);
        let public = begun.add((ALICE, JOIN_RULES, "", r#"{"join_rule":"public"}"#), &[1, first]);
        let bob = begun.add((BOB, MEMBER, BOB, JOIN), &[public, first]);
        // Alice promotes Bob; Carol joins, and her join makes both states know of that; Bob promotes Carol.
        let second = begun.add((ALICE, LEVELS, "", &levels(version, &[(ALICE, 100), (BOB, 75)])), &[1, first]);
        let carol = begun.add((CAROL, MEMBER, CAROL, JOIN), &[public, second]);
        let third = levels(version, &[(ALICE, 100), (BOB, 75), (CAROL, 50)]);
        let third = begun.add((BOB, LEVELS, "", &third), &[bob, second]);
        let shared = [0, 1, public, bob, carol];
        let resolved = begun.resolve(&[&[&shared[..], &[first]].concat(), &[&shared[..], &[third]].concat()]);
        let winner = if version == V12 { third } else { first };
        assert!(resolved.values().any(|id| *id == begun.room.event(winner).event_id), "version {version}");
    }
}

#[test]
fn sc_067_timestamps_out_of_this_world_are_compared_as_numbers() {
    for version in [V2, V9, V10, V11, V12] {
        for (early, late) in [(0, 1), (0, (1 << 53) - 1), (1_600_000_000_000, (1 << 53) - 1)] {
            let mut begun = Begun::new(version);
            let power = begun.add((ALICE, LEVELS, "", &levels(version, &[(ALICE, 100)])), &[1]);
            begun.room.set_time(late);
            let left = begun.add((ALICE, TOPIC, "", r#"{"topic":"late"}"#), &[1, power]);
            begun.room.set_time(early);
            let right = begun.add((ALICE, TOPIC, "", r#"{"topic":"early"}"#), &[1, power]);
            let resolved = begun.resolve(&[&[0, 1, power, left], &[0, 1, power, right]]);
            assert!(resolved.values().any(|id| *id == begun.room.event(left).event_id), "version {version}");
        }
    }
}

/// The mainline of ten thousand power levels, of which every third was rejected, decides between two topics.
#[test]
fn sc_069_a_mainline_of_ten_thousand_events_through_rejected_ones_ends() {
    for version in [V10, V12] {
        let mut begun = Begun::new(version);
        let mut power = begun.add((ALICE, LEVELS, "", &levels(version, &[(ALICE, 100)])), &[1]);
        let mut chain = vec![power];
        for number in 1..10_000 {
            power = begun.add((ALICE, LEVELS, "", &levels(version, &[(ALICE, 100), (BOB, number % 90)])), &[1, power]);
            begun.room.events[power].2 = number % 3 == 0 && number < 9_999;
            chain.push(power);
        }
        // The later topic is based on older power levels: so it is checked first, and the other one wins.
        let left = begun.add((ALICE, TOPIC, "", r#"{"topic":"left"}"#), &[1, chain[9_000]]);
        let right = begun.add((ALICE, TOPIC, "", r#"{"topic":"right"}"#), &[1, chain[2]]);
        // In version 12 only conflicted power levels make a mainline.
        let states = [(power, left), (chain[9_998], right)].map(|(levels, topic)| [0, 1, levels, topic]);
        let states = states.map(|places| begun.room.state(&places));
        let began = Instant::now();
        let ravel = begun.room.resolve_by_ravel(&states);
        // Milliseconds; what takes seconds here walks the chain again and again.
        assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
        assert!(ravel.values().any(|id| *id == begun.room.event(left).event_id), "version {version}");
    }
}
