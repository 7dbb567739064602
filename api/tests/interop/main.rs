//! Ravel and a real Synapse in the same rooms: the real binaries, over HTTPS on loopback.
//!
//! Each test has servers of its own. What a test compares is what clients of both servers are told.
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
