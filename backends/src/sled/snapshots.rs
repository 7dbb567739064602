//! sled's snapshots of its page table, kept until newer ones are durable.
//!
//! When sled has written a snapshot it renames it and removes the one before, and syncs the folder after neither. A loss of power may keep
//! the removal without the new name. Then sled reads its whole log instead, in which segments were used again, and stops at the first
//! hole. So there is a second name for each snapshot in a folder of its own, until a newer one is durable.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use ravel_store::directory::sync_directory;

/// The folder of the second names, below that of sled.
const KEPT: &str = "ravel.kept";

/// Gives a snapshot its name back if there is none.
pub(super) fn restore(data: &Path) -> io::Result<()> {
    let kept = data.join(KEPT);
    if !kept.exists() || !snapshots(data)?.is_empty() {
        return Ok(());
    }
    let Some(name) = snapshots(&kept)?.pop() else { return Ok(()) };
    fs::hard_link(kept.join(&name), data.join(&name))?;
    sync_directory(data)
}

/// Gives the snapshots that are there second names, durably, and takes away those of others.
pub(super) fn keep(data: &Path) -> io::Result<()> {
    let (kept, present) = (data.join(KEPT), snapshots(data)?);
    let Some(_) = present.first() else { return Ok(()) };
    fs::create_dir_all(&kept)?;
    let before = snapshots(&kept)?;
    for name in present.iter().filter(|name| !before.contains(name)) {
        match fs::hard_link(data.join(name), kept.join(name)) {
            // sled has just made another one: the one before stays kept until the store is opened again.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            linked => linked?,
        }
    }
    sync_directory(&kept)?;
    sync_directory(data)?;
    for name in before.iter().filter(|name| !present.contains(name)) {
        fs::remove_file(kept.join(name))?;
    }
    Ok(())
}

/// Returns the names of the finished snapshots in a folder, the newest last: they are numbers of one width.
fn snapshots(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder)? {
        let name = PathBuf::from(entry?.file_name());
        let text = name.to_string_lossy();
        if text.starts_with("snap.") && !text.ends_with(".generating") {
            names.push(name);
        }
    }
    names.sort_unstable();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_is_there_until_a_newer_one_is_durable() {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path();
        let has = |folder: &Path| {
            snapshots(folder).unwrap().iter().map(|name| name.display().to_string()).collect::<Vec<_>>()
        };
        restore(data).unwrap();
        keep(data).unwrap();
        assert!(!data.join(KEPT).exists(), "there is none");
        fs::write(data.join("snap.0000000000000001"), "one").unwrap();
        fs::write(data.join("snap.0000000000000002.generating"), "tw").unwrap();
        keep(data).unwrap();
        // What a loss of power may leave: the removal, and not the new name.
        fs::remove_file(data.join("snap.0000000000000001")).unwrap();
        restore(data).unwrap();
        assert_eq!(fs::read_to_string(data.join("snap.0000000000000001")).unwrap(), "one");
        // A newer one takes its place.
        fs::write(data.join("snap.0000000000000002"), "two").unwrap();
        fs::remove_file(data.join("snap.0000000000000001")).unwrap();
        restore(data).unwrap();
        assert_eq!(has(data), ["snap.0000000000000002"]);
        keep(data).unwrap();
        assert_eq!(has(&data.join(KEPT)), ["snap.0000000000000002"]);
    }
}
