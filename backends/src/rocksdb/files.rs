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

/// Cuts off the end of the manifest if a part of it never reached the disk, and returns whether it did.
///
/// What was written to the manifest and not synced may have made the file longer, with zeros where its data is not. Nothing that is
/// synced has a sector of zeros, and no flipped bit makes one; so what is cut off was never synced, and nothing depends on it.
pub(super) fn cut_torn_manifest(data: &Path) -> io::Result<bool> {
    let Ok(named) = fs::read_to_string(data.join("CURRENT")) else { return Ok(false) };
    let path = data.join(named.trim_end());
    let Ok(manifest) = fs::read(&path) else { return Ok(false) };
    let Some(end) = sound_end(&manifest) else { return Ok(false) };
    let file = OpenOptions::new().write(true).open(&path)?;
    file.set_len(end as u64)?;
    file.sync_all()?;
    Ok(true)
}

/// Whether the pieces of records in the manifest have the checksums that they say, up to an unfinished end.
///
/// RocksDB reads some manifests with a flipped bit for ever.
pub(super) fn is_manifest_sound(data: &Path) -> io::Result<bool> {
    let Ok(named) = fs::read_to_string(data.join("CURRENT")) else { return Ok(true) };
    let Ok(manifest) = fs::read(data.join(named.trim_end())) else { return Ok(true) };
    let mut at = 0;
    while let Some(left) = manifest.get(at..).filter(|left| !left.is_empty()) {
        let left_in_block = BLOCK - at % BLOCK;
        if left_in_block < HEAD {
            at += left_in_block;
            continue;
        }
        let Some([c0, c1, c2, c3, low, high, ..]) = left.first_chunk::<HEAD>().copied() else { return Ok(true) };
        let end = HEAD + usize::from(u16::from_le_bytes([low, high]));
        // An end that was not written, or of which the rest of a sector was not; RocksDB finds out what else it may be.
        let Some(checked) = left.get(HEAD - 1..end).filter(|checked| *checked != [0]) else { return Ok(true) };
        let unmasked = u32::from_le_bytes([c0, c1, c2, c3]).wrapping_sub(0xA282_EAD8).rotate_left(15);
        if crc32c::crc32c(checked) != unmasked {
            return Ok(false);
        }
        at += end;
    }
    Ok(true)
}

/// Files of records are in blocks of this size.
const BLOCK: usize = 32 * 1024;
/// Before each piece of a record: checksum, length, type.
const HEAD: usize = 7;

/// Returns where the record begins that the first sector of zeros is in, if there is one.
///
/// The file is in blocks of 32 KiB; a record is whole or in pieces, none of which crosses blocks: a checksum (4 bytes), a length (2, little-
/// endian), a type (whole, first, middle, last), the data.
fn sound_end(manifest: &[u8]) -> Option<usize> {
    const WHOLE: u8 = 1;
    const FIRST: u8 = 2;
    let is_zeros = |sector: &[u8]| sector.iter().all(|byte| *byte == 0);
    let zeros_at = manifest.chunks(SECTOR).position(is_zeros)? * SECTOR;
    let (mut at, mut record) = (0, 0);
    while at < zeros_at {
        let left_in_block = BLOCK - at % BLOCK;
        if left_in_block < HEAD {
            at += left_in_block;
            continue;
        }
        let head = manifest.get(at..at + HEAD)?;
        let [_, _, _, _, low, high, kind] = *head else { return None };
        if matches!(kind, WHOLE | FIRST) {
            record = at;
        }
        let end = at + HEAD + usize::from(u16::from_le_bytes([low, high]));
        if end > zeros_at {
            return Some(record);
        }
        at = end;
    }
    Some(at)
}

/// The smallest piece that a disk writes as a whole.
const SECTOR: usize = 512;
