//! The rooms that the benches run on.
//!
//! A bench names its room by kind, number and room version, as the files of recorded rooms are named. The rooms are those of
//! `proptests/corpus`, or of the folder that the environment variable `RAVEL_CORPUS` names. The generated rooms are those of
//! `ravel_proptests::rooms`, which `ravel bench resolve` measures too.
#![forbid(unsafe_code)]

use std::{env, path::PathBuf};

use ravel_api::recorded_room::{RecordedRoom, UnreadableFile};
use ravel_core::{
    pdu::VerifiedPdu,
    room::{Effect, PersistEvent, Receipt, Room},
};

/// The rooms: a small orderly one, one with a hostile server and many rejected events, and one of the newest version.
pub const ROOMS: [&str; 3] = ["fed-03-v4", "forged-17-v6", "forged-20-v12"];

/// Reads a recorded room by its name.
///
/// # Errors
///
/// When the file can't be read.
pub fn recorded_room(name: &str) -> Result<RecordedRoom, UnreadableFile> {
    let folder = env::var_os("RAVEL_CORPUS")
        .map_or_else(|| PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../proptests/corpus")), PathBuf::from);
    RecordedRoom::read(&folder.join(format!("{name}.jsonl.gz")))
}

/// Returns the events of a room, verified.
///
/// # Panics
///
/// If one does not pass, which none of a recorded room does.
pub fn verified(room: &RecordedRoom) -> Vec<VerifiedPdu> {
    let pdus: Vec<VerifiedPdu> = room.verified().collect();
    assert_eq!(pdus.len(), room.events.len(), "events of {} do not pass the checks on receipt", room.path.display());
    pdus
}

/// Judges events in their order; returns the room and all that is to be stored.
pub fn judged(recorded: &RecordedRoom, pdus: &[VerifiedPdu]) -> (Room, Vec<PersistEvent>) {
    let mut room = Room::new(recorded.room_id.clone(), recorded.room_version.rules());
    let mut events = Vec::new();
    for pdu in pdus {
        if let Ok(Receipt::Judged(judged)) = room.handle_pdu(pdu) {
            events.extend(judged.effects.into_iter().filter_map(|effect| match effect {
                Effect::Persist(event) => Some(*event),
                Effect::Publish(_) => None,
            }));
        }
    }
    (room, events)
}
