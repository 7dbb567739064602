//! The deterministic core of a Matrix homeserver: what an event means for a room. No clock, no randomness, no input or output.
#![forbid(unsafe_code)]

pub mod canonical_json;
pub mod event;
pub mod event_auth;
pub mod graph;
pub mod id;
pub mod pdu;
pub mod redaction;
pub mod resolve;
pub mod room_version;
pub mod signing;
pub mod state;
