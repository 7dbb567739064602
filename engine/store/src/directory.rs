//! The directory of a store on disk: whose it is, of which layout, and that only one process has it.
//!
//! ```text
//! ravel.toml    the marker: engine and layout version
//! ravel.lock    empty; locked while the store is open
//! ravel.sock    a socket at which the process that has it open answers others (backends on disk)
//! ravel.synced  how far commits were acknowledged (backends on disk)
//! data/         the engine's own files
//! ```

use std::{
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io::{self, Read, Write},
    path::{Path, PathBuf},
};

use crate::{ForeignReason, Operation, StoreError};

/// Name of the marker file.
pub const MARKER: &str = "ravel.toml";
/// Newest layout version this program knows, and the one it writes: keyspaces, key prefixes, the envelope of records.
pub const LAYOUT: u32 = 1;

/// A directory that is ours and locked for as long as this lives.
#[derive(Debug)]
pub struct StoreDirectory {
    path: PathBuf,
    layout: u32,
    _lock: File,
}

impl StoreDirectory {
    /// Opens the directory of an engine, or creates it if it is missing or empty.
    ///
    /// The marker is on disk before this returns, so before the engine writes its first byte.
    ///
    /// # Errors
    /// `Foreign` or `NewerFormat`, and then nothing was touched; `Locked`; `Io`, `Full`.
    pub fn open(path: &Path, engine: &'static str) -> Result<Self, StoreError> {
        match fs::metadata(path) {
            Ok(found) if found.is_dir() => {}
            Ok(_) => return Err(foreign(path, ForeignReason::NotADirectory)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => create_directory(path).map_err(open_error)?,
            Err(error) => return Err(open_error(error)),
        }
        // Before the lock file is made, so that what is not ours stays as it is.
        inspect(path, engine)?;
        let lock = lock(path)?;
        // Again, as another process may have been faster before we had the lock.
        let layout = match inspect(path, engine)? {
            Some(layout) => layout,
            None => {
                write_marker(path, engine).map_err(open_error)?;
                LAYOUT
            }
        };
        let data = path.join(DATA);
        if !data.exists() {
            create_private(&data).and_then(|()| sync_directory(path)).map_err(open_error)?;
        }
        Ok(Self { path: path.to_owned(), layout, _lock: lock })
    }

    /// Returns the directory itself, which holds what is no engine's; names in it begin with `ravel.`.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the folder for the engine's own files.
    pub fn data(&self) -> PathBuf {
        self.path.join(DATA)
    }

    /// Returns the directory's layout version.
    pub fn layout(&self) -> u32 {
        self.layout
    }

    /// Returns the sum of the sizes of the engine's files, in bytes; files that vanish meanwhile count nothing.
    ///
    /// # Errors
    /// `Io` if a folder cannot be read.
    pub fn size_on_disk(&self) -> Result<u64, StoreError> {
        let mut size = 0u64;
        let mut folders = vec![self.data()];
        while let Some(folder) = folders.pop() {
            let entries = match fs::read_dir(&folder) {
                Ok(entries) => entries,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(StoreError::from_io(Operation::Describe, error)),
            };
            for entry in entries.flatten() {
                match entry.metadata() {
                    Ok(found) if found.is_dir() => folders.push(entry.path()),
                    Ok(found) => size = size.saturating_add(found.len()),
                    Err(_) => {}
                }
            }
        }
        Ok(size)
    }
}

/// Returns the name of the engine a directory belongs to, `None` if it is missing, empty or only half created.
///
/// # Errors
/// `Foreign` if it is not ours; `NewerFormat`; `Io`.
pub fn engine_of(path: &Path) -> Result<Option<String>, StoreError> {
    match read_marker(path) {
        Ok(marker) => {
            let (engine, layout) =
                parse_marker(&marker).ok_or_else(|| foreign(path, ForeignReason::UnreadableMarker))?;
            check_layout(path, layout)?;
            Ok(Some(engine.to_owned()))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => match is_unused(path) {
            Ok(true) => Ok(None),
            Ok(false) => Err(foreign(path, ForeignReason::NoMarker)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(open_error(error)),
        },
        Err(error) => Err(open_error(error)),
    }
}

/// Returns the marker's text for an engine and a layout version; public so that tests can write one.
pub fn marker_text(engine: &str, layout: u32) -> String {
    format!(
        "# A store of Ravel. Leave this file as it is: without it the store is not opened.\nengine = \"{engine}\"\nlayout = {layout}\n"
    )
}

/// Makes the entries of a folder durable: files created in it, renamed or removed.
///
/// # Errors
/// Those of the operating system.
pub fn sync_directory(path: &Path) -> io::Result<()> {
    // Other systems than Unix cannot open a folder to sync it; there the entries are the file system's own duty.
    if cfg!(unix) { File::open(path)?.sync_all() } else { Ok(()) }
}

/// Returns the layout of a directory of this engine, `None` if it holds nothing, or only what an interrupted creation leaves.
fn inspect(path: &Path, engine: &'static str) -> Result<Option<u32>, StoreError> {
    let marker = match read_marker(path) {
        Ok(marker) => marker,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return if is_unused(path).map_err(open_error)? {
                Ok(None)
            } else {
                Err(foreign(path, ForeignReason::NoMarker))
            };
        }
        Err(error) => return Err(open_error(error)),
    };
    let (found, layout) = parse_marker(&marker).ok_or_else(|| foreign(path, ForeignReason::UnreadableMarker))?;
    if found != engine {
        return Err(foreign(path, ForeignReason::OtherEngine { found: found.to_owned(), expected: engine }));
    }
    check_layout(path, layout)?;
    Ok(Some(layout))
}

fn check_layout(path: &Path, found: u32) -> Result<(), StoreError> {
    if found > LAYOUT { Err(StoreError::NewerFormat { path: path.to_owned(), found, known: LAYOUT }) } else { Ok(()) }
}

fn is_unused(path: &Path) -> io::Result<bool> {
    for entry in fs::read_dir(path)? {
        let name = entry?.file_name();
        if name != LOCK && name != MARKER_NEW {
            return Ok(false);
        }
    }
    Ok(true)
}

fn read_marker(path: &Path) -> io::Result<Vec<u8>> {
    let mut marker = Vec::new();
    File::open(path.join(MARKER))?.take(MARKER_BYTES_MAX).read_to_end(&mut marker)?;
    Ok(marker)
}

/// Reads the few lines of TOML that `marker_text` writes; keys it does not know belong to newer layouts and are skipped.
fn parse_marker(marker: &[u8]) -> Option<(&str, u32)> {
    let (mut engine, mut layout) = (None, None);
    for line in std::str::from_utf8(marker).ok()?.lines() {
        if line.trim().is_empty() || line.starts_with('#') {
            continue;
        }
        let (key, value) = line.split_once('=')?;
        match key.trim() {
            "engine" => engine = value.trim().strip_prefix('"')?.strip_suffix('"'),
            "layout" => layout = value.trim().parse().ok().filter(|layout| *layout > 0),
            _ => {}
        }
    }
    Some((engine?, layout?))
}

/// Makes a directory, and those above it that are missing, which only its owner can look into: there are private messages in it, and
/// hashes of passwords. One that is there stays as it is.
///
/// # Errors
///
/// When it can't be made.
pub fn create_private(path: &Path) -> io::Result<()> {
    let mut builder = DirBuilder::new();
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.recursive(true).create(path)
}

fn create_directory(path: &Path) -> io::Result<()> {
    create_private(path)?;
    // A relative path of one part has the empty path as its parent.
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => sync_directory(parent),
        Some(_) => sync_directory(Path::new(".")),
        None => Ok(()),
    }
}

fn write_marker(path: &Path, engine: &str) -> io::Result<()> {
    let new = path.join(MARKER_NEW);
    let mut file = File::create(&new)?;
    file.write_all(marker_text(engine, LAYOUT).as_bytes())?;
    file.sync_all()?;
    fs::rename(&new, path.join(MARKER))?;
    sync_directory(path)
}

fn lock(path: &Path) -> Result<File, StoreError> {
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(path.join(LOCK)).map_err(open_error)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(StoreError::Locked { path: path.to_owned() }),
        Err(TryLockError::Error(error)) => Err(open_error(error)),
    }
}

fn foreign(path: &Path, reason: ForeignReason) -> StoreError {
    StoreError::Foreign { path: path.to_owned(), reason }
}

fn open_error(error: io::Error) -> StoreError {
    StoreError::from_io(Operation::Open, error)
}

const MARKER_NEW: &str = "ravel.toml.new";
const LOCK: &str = "ravel.lock";
const DATA: &str = "data";
/// A marker is a few lines; what is longer is not one.
const MARKER_BYTES_MAX: u64 = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    fn open(path: &Path) -> Result<StoreDirectory, StoreError> {
        StoreDirectory::open(path, "mine")
    }

    fn listing(path: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_missing_an_empty_and_a_half_created_directory_are_created() {
        let temporary = tempfile::tempdir().unwrap();
        let half = temporary.path().join("half");
        fs::create_dir(&half).unwrap();
        fs::write(half.join(LOCK), "").unwrap();
        fs::write(half.join(MARKER_NEW), "engi").unwrap();
        for path in [temporary.path().join("a/b"), half] {
            assert_eq!(engine_of(&path).unwrap(), None);
            drop(open(&path).unwrap());
            assert_eq!(listing(&path), [DATA, LOCK, MARKER]);
            assert_eq!(engine_of(&path).unwrap().as_deref(), Some("mine"));
            assert_eq!(open(&path).unwrap().layout(), LAYOUT);
        }
    }

    #[cfg(unix)]
    #[test]
    fn sc_239_what_is_stored_is_for_its_owner_alone() {
        use std::os::unix::fs::PermissionsExt;
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        let temporary = tempfile::tempdir().unwrap();
        let [new, there] = ["new", "there"].map(|name| temporary.path().join(name));
        fs::create_dir(&there).unwrap();
        fs::set_permissions(&there, fs::Permissions::from_mode(0o755)).unwrap();
        drop((open(&new).unwrap(), open(&there).unwrap()));
        assert_eq!((mode(&new), mode(&there), mode(&there.join(DATA))), (0o700, 0o755, 0o700));
    }

    #[test]
    fn sc_232_what_is_not_ours_is_refused_and_left_alone() {
        let check = |name: &str, text: &str, expected: fn(&StoreError) -> bool| {
            let temporary = tempfile::tempdir().unwrap();
            fs::write(temporary.path().join(name), text).unwrap();
            let error = open(temporary.path()).unwrap_err();
            assert!(expected(&error), "{name} {text:?}: {error}");
            assert_eq!(listing(temporary.path()), [name]);
            assert_eq!(fs::read_to_string(temporary.path().join(name)).unwrap(), text);
        };
        check("photo.jpg", "", |error| matches!(error, StoreError::Foreign { reason: ForeignReason::NoMarker, .. }));
        for text in
            ["", "engine = \"mine\"", "layout = 1", "engine = mine\nlayout = 1", "engine = \"mine\"\nlayout = x"]
        {
            check(MARKER, text, |error| {
                matches!(error, StoreError::Foreign { reason: ForeignReason::UnreadableMarker, .. })
            });
        }
        check(MARKER, &marker_text("other", 1), |error| {
            matches!(error, StoreError::Foreign { reason: ForeignReason::OtherEngine { .. }, .. })
        });
        check(
            MARKER,
            &marker_text("mine", LAYOUT + 1),
            |error| matches!(error, StoreError::NewerFormat { found, known: LAYOUT, .. } if *found == LAYOUT + 1),
        );
    }

    #[test]
    fn a_file_is_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let error = open(file.path()).unwrap_err();
        assert!(matches!(error, StoreError::Foreign { reason: ForeignReason::NotADirectory, .. }));
    }

    #[test]
    fn sc_238_the_second_to_open_is_told_so() {
        let temporary = tempfile::tempdir().unwrap();
        let first = open(temporary.path()).unwrap();
        assert!(matches!(open(temporary.path()), Err(StoreError::Locked { .. })));
        drop(first);
        open(temporary.path()).unwrap();
    }
}
