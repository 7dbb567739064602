//! What loss of power may leave of RocksDB's own files, which RocksDB does not open with by itself.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    path::Path,
};

use ravel_store::directory::sync_directory;

/// Tells whether files of the write-ahead log can be linked: RocksDB refuses that if there are none in a folder that it made earlier,
/// which is what a crash may leave while it opens, and then all is in other files.
pub(super) fn links_logs(path: &Path) -> bool {
    let is_log = |entry: fs::DirEntry| entry.path().extension().is_some_and(|extension| extension == "log");
    let has_log = fs::read_dir(path).is_ok_and(|mut entries| entries.any(|entry| entry.is_ok_and(is_log)));
    has_log || !path.join("CURRENT").exists()
}

/// Lets `CURRENT` name the manifest before the one that it names, if that isn't there.
///
/// RocksDB makes a new manifest and has `CURRENT` name it, before it syncs the folder. POSIX lets a loss of power keep the second change
/// of the folder without the first. Nothing was written that needs the new manifest until both were durable. If it was the first one,
/// and nothing was acknowledged yet, `CURRENT` is removed: then the engine was still being made.
pub(super) fn name_existing_manifest(data: &Path, is_anything_acknowledged: bool) -> io::Result<()> {
    let current = data.join("CURRENT");
    let named = match fs::read_to_string(&current) {
        Ok(named) => named,
        // RocksDB says what is wrong, if anything is.
        Err(_) => return Ok(()),
    };
    let number = |name: &str| name.trim_end().strip_prefix("MANIFEST-")?.parse::<u64>().ok();
    let Some(lost) = number(&named).filter(|_| !data.join(named.trim_end()).exists()) else { return Ok(()) };
    let names = fs::read_dir(data)?.map(|entry| entry.map(|entry| entry.file_name().to_string_lossy().into_owned()));
    let names = names.collect::<io::Result<Vec<_>>>()?;
    let before = names.iter().filter_map(|name| Some((number(name).filter(|number| *number < lost)?, name))).max();
    let has_tables = names.iter().any(|name| name.ends_with(".sst"));
    if before.is_none() && !has_tables && !is_anything_acknowledged {
        fs::remove_file(&current)?;
        sync_directory(data)?;
    }
    if let Some((_, name)) = before {
        let new = data.join("CURRENT.ravel");
        let mut file = File::create(&new)?;
        file.write_all(format!("{name}\n").as_bytes())?;
        file.sync_all()?;
        fs::rename(&new, &current)?;
        sync_directory(data)?;
    }
    Ok(())
}

/// Cuts off the end of the manifest if a part of it never reached the disk. Returns whether what there is is as RocksDB wrote it:
/// it reads some manifests with a flipped bit for ever.
///
/// What was written to the manifest and not synced may have made the file longer, with zeros where its data is not. Nothing that is
/// synced has them in such places, and no flipped bit makes them; so what is cut off was never synced, and nothing depends on it.
pub(super) fn mend_manifest(data: &Path) -> io::Result<bool> {
    // RocksDB says what is wrong, if anything is.
    let Ok(named) = fs::read_to_string(data.join("CURRENT")) else { return Ok(true) };
    let path = data.join(named.trim_end());
    let Ok(manifest) = fs::read(&path) else { return Ok(true) };
    match condition(&manifest) {
        Condition::Sound => Ok(true),
        Condition::Torn { sound_end } => {
            let file = OpenOptions::new().write(true).open(&path)?;
            file.set_len(sound_end as u64)?;
            file.sync_all()?;
            Ok(true)
        }
        Condition::Damaged => Ok(false),
    }
}

/// How a manifest is.
enum Condition {
    /// Each record has its checksum, up to an unfinished end, which RocksDB drops.
    Sound,
    /// The record that begins here was never written whole.
    Torn { sound_end: usize },
    /// Something else is wrong.
    Damaged,
}

/// The file is in blocks of 32 KiB; a record is whole or in pieces, none of which crosses blocks: a checksum (4 bytes, masked CRC32C of type
/// and data), a length (2, little-endian), a type (whole, first, middle, last), the data.
fn condition(manifest: &[u8]) -> Condition {
    const BLOCK: usize = 32 * 1024;
    const MIDDLE: u8 = 3;
    const LAST: u8 = 4;
    let (mut at, mut record) = (0, 0);
    while let Some(left) = manifest.get(at..).filter(|left| !left.is_empty()) {
        let left_in_block = BLOCK - at % BLOCK;
        if left_in_block < HEAD {
            at += left_in_block;
            continue;
        }
        let Some(&[.., low, high, kind]) = left.first_chunk::<HEAD>() else { break };
        if !matches!(kind, MIDDLE | LAST) {
            record = at;
        }
        if let Some(len) = sound_piece(left) {
            at += len;
            continue;
        }
        let len = HEAD + usize::from(u16::from_le_bytes([low, high]));
        return match left.get(..len) {
            _ if was_never_written(manifest, at, at + len) => Condition::Torn { sound_end: record },
            Some(_) => Condition::Damaged,
            None => Condition::Sound,
        };
    }
    Condition::Sound
}

/// What comes before the data of a piece: a checksum, a length, a type.
const HEAD: usize = 7;

/// Returns the length of the piece that some bytes begin with, if it has its checksum.
fn sound_piece(bytes: &[u8]) -> Option<usize> {
    let [c0, c1, c2, c3, low, high, _] = *bytes.first_chunk::<HEAD>()?;
    let len = HEAD + usize::from(u16::from_le_bytes([low, high]));
    let unmasked = u32::from_le_bytes([c0, c1, c2, c3]).wrapping_sub(0xA282_EAD8).rotate_left(15);
    (crc32c::crc32c(bytes.get(HEAD - 1..len)?) == unmasked).then_some(len)
}

/// Whether a piece that is expected at a place of the file reaches into a sector of zeros, or begins with zeros up to the next sector.
fn was_never_written(manifest: &[u8], at: usize, end: usize) -> bool {
    let border = (at + 1).next_multiple_of(SECTOR);
    let beginning = manifest.get(at..border.min(end)).unwrap_or_default();
    let sectors =
        manifest.get(border..).unwrap_or_default().chunks(SECTOR).take(end.saturating_sub(border).div_ceil(SECTOR));
    let zeros = [beginning].into_iter().chain(sectors).filter(|part| part.iter().all(|byte| *byte == 0));
    let longest = zeros.map(<[u8]>::len).max().unwrap_or(0);
    // A few bytes may be zero by chance, and something else may have changed.
    longest >= BY_CHANCE_MAX || (longest > 0 && !is_one_bit_off(manifest.get(at..).unwrap_or_default(), end - at))
}

/// So many zeros in a place are not by chance.
const BY_CHANCE_MAX: usize = 8;

/// Whether some bytes begin with a piece of about this length that has its checksum but for one changed bit. Costs the square of the
/// length; what is too long for that counts as if it was so.
fn is_one_bit_off(bytes: &[u8], len: usize) -> bool {
    const LEN_MAX: usize = 4096;
    if len > LEN_MAX {
        return true;
    }
    let mut bytes = bytes.to_vec();
    (0..len.min(bytes.len()) * 8).any(|bit| {
        let flip = |bytes: &mut [u8]| bytes.iter_mut().skip(bit / 8).take(1).for_each(|byte| *byte ^= 1 << (bit % 8));
        flip(&mut bytes);
        let is_sound = sound_piece(&bytes).is_some();
        flip(&mut bytes);
        is_sound
    })
}

/// The smallest piece that a disk writes as a whole.
const SECTOR: usize = 512;
