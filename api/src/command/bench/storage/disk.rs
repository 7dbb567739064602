//! What a room of many members takes on disk, all snapshots kept, beside its compressed events.

use std::{io::Write, path::Path};

use ravel_backends::{Engine, RocksDbOptions, RocksDbStore};
use ravel_core::{
    pdu::VerifiedPdu,
    room::{Effect, PersistEvent, Receipt, Room},
    room_version::RoomVersion,
};
use ravel_store::{Durability, Store, block_on, log::EventLog};

use super::{
    Author, Measured, Site,
    report::{Quantity, Samples},
};
use crate::command::Failure;

/// zstd's own default.
const LEVEL: i32 = 3;

const BATCH_EVENTS: usize = 1000;

/// Stores a room with so many members, and as many changes of its state; returns the bytes on disk for each event, beside those of
/// the events' JSON, compressed as one stream and each by itself.
pub(super) fn measure(site: &Site, folder: &Path, members: u32) -> Result<[Measured; 2], Failure> {
    let place = site.fresh(folder)?;
    let mut author = Author::signing(RoomVersion::V11.rules());
    let mut room: Option<Room> = None;
    let mut compressed = zstd::Encoder::new(Vec::new(), LEVEL)?;
    let store = place.open()?;
    let log = block_on(EventLog::open(store.clone()))?;
    let mut pending: Vec<PersistEvent> = Vec::new();
    let (mut events, mut compressed_alone) = (0_u64, 0);
    let mut take = |author: &Author, pdu: VerifiedPdu, is_last: bool| -> Result<(), Failure> {
        compressed.write_all(pdu.json())?;
        compressed.write_all(b"\n")?;
        compressed_alone += zstd::bulk::compress(pdu.json(), LEVEL)?.len();
        events += 1;
        let room = room.get_or_insert_with(|| Room::new(author.room_id.clone(), author.rules));
        if let Receipt::Judged(judged) = room.handle_pdu(&pdu)? {
            pending.extend(judged.effects.into_iter().filter_map(|effect| match effect {
                Effect::Persist(persist) => Some(*persist),
                Effect::Publish(_) => None,
            }));
        }
        if pending.len() >= BATCH_EVENTS || is_last {
            block_on(log.append(room.room_id(), room.rules(), &pending, Durability::Relaxed))?;
            pending.clear();
        }
        Ok(())
    };
    for pdu in author.members(members) {
        take(&author, pdu, false)?;
    }
    for number in 0..members {
        let pdu = author.change(number, members);
        take(&author, pdu, number + 1 == members)?;
    }
    let compressed = compressed.finish()?.len();
    block_on(store.flush())?;
    drop(log);
    let mut size = block_on(store.describe())?.size_on_disk;
    drop(store);
    if let Some((Engine::RocksDb, path)) = place.directory() {
        // As it is after a while of running.
        let store = RocksDbStore::open(&path, &RocksDbOptions::default())?;
        block_on(store.compact())?;
        size = block_on(store.describe())?.size_on_disk;
    }
    let measured = |quantity, compressed: usize| {
        let mut measured = Measured::new(site, quantity);
        measured.ravel = Samples::one(size as f64 / events as f64);
        measured.raw = Samples::one(compressed as f64 / events as f64);
        measured
    };
    Ok([measured(Quantity::Disk, compressed), measured(Quantity::DiskOfEach, compressed_alone)])
}
