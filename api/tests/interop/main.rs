//! Ravel and a real Synapse in the same rooms, and three Ravels in the same rooms: the real binaries, over HTTPS on loopback.
//!
//! Each test is a scenario with servers of its own. What it compares is what their clients are told.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

mod certificates;
mod homeserver;
#[path = "../shared/http.rs"]
mod http;
mod link;
mod ravel;
mod synapse;
mod user;
mod world;

// What is tested.
mod aliases;
mod joining;
mod members;
mod moderation;
mod outages;
mod splits;

/// The room versions that both servers make.
const VERSIONS: [&str; 12] = ["1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12"];

macro_rules! scenarios {
    ($($module:ident::$name:ident,)+) => {
        mod with_synapse {
            $(#[test]
            fn $name() {
                crate::$module::$name(&crate::world::World::with_synapse());
            })+
        }

        mod of_ravels {
            $(#[test]
            fn $name() {
                crate::$module::$name(&crate::world::World::of_ravels());
            })+
        }
    };
}

scenarios! {
    joining::rooms_of_every_version_are_joined_from_either_side,
    joining::history_from_before_a_join_is_found,
    joining::restricted_rooms_let_in_who_is_in_another_room,
    members::invites_are_accepted_and_rejected,
    members::an_invite_is_withdrawn,
    members::knocks_are_accepted_refused_and_withdrawn,
    members::who_is_banned_stays_out,
    moderation::power_is_given_and_used_on_the_other_server,
    moderation::redactions_reach_both_servers,
    aliases::rooms_are_found_by_alias_and_in_the_directory,
    outages::a_server_that_was_stopped_gets_what_it_missed,
    outages::a_ravel_that_was_killed_gets_what_it_missed,
    outages::a_ravel_that_is_killed_at_work_loses_nothing,
    splits::both_sides_of_a_cut_link_come_to_the_same_state,
}
