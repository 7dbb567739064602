//! The deterministic core of a Matrix homeserver: what an event means for a room. No clock, no randomness, no input or output.
//!
//! The way of a PDU:
//!
//! 1. Bytes to [`ParsedPdu`]: canonical JSON, sizes, the format of the room version, the event id.
//! 2. [`ParsedPdu::verify`] to [`VerifiedPdu`]: signatures by keys from a [`signing::KeySource`]; the content hash, without which
//!    the event goes on redacted.
//! 3. [`Room::handle_pdu`] to [`Receipt`]: the state before the event, resolved where the branches differ; the authorization rules
//!    against the event's own auth events, that state and the current one. [`Receipt::NeedEvents`] names what has to come first.
//! 4. [`room::Judged`]: the [`Verdict`], the states before and after, and the [effects](room::Effect) for the caller to carry out:
//!    persist, then publish.
//! 5. [`Room::explain`]: how the state before the event was resolved and which rule decided, at any later time.
//!
//! `examples/embed.rs` walks it from end to end. The modules, each using only those above it:
//!
//! - [`canonical_json`]: reading and writing the one form that is hashed and signed.
//! - [`room_version`]: what differs between the room versions, as data.
//! - [`id`]: identifiers that were checked once.
//! - [`event`]: the facts of an event that rules read.
//! - [`redaction`]: what a redaction leaves of an event.
//! - [`signing`]: hashes, keys and signatures.
//! - [`pdu`]: from the bytes of a server to such facts.
//! - [`event_auth`]: the authorization rules, each refusal by its name.
//! - [`graph`]: the events of a room by dense numbers, with their auth edges.
//! - [`state`]: room states as persistent maps with fingerprints.
//! - [`resolve`]: state resolution, with a recorder of its steps.
//! - [`room`]: the reducer that puts it all together.
#![forbid(unsafe_code)]

pub mod canonical_json;
pub mod event;
pub mod event_auth;
pub mod graph;
pub mod id;
pub mod pdu;
pub mod redaction;
pub mod resolve;
pub mod room;
pub mod room_version;
pub mod signing;
pub mod state;
#[cfg(test)]
mod testing;
mod work;

pub use self::{
    id::{EventId, RoomId, UserId},
    pdu::{ParsedPdu, VerifiedPdu},
    room::{Receipt, Room, Verdict},
    room_version::RoomVersion,
    state::{State, StateMap},
};
