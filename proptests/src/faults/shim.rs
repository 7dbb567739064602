//! The library between a program and the file system, and what it is told.

use std::{
    fs::{self, File, OpenOptions},
    hash::{DefaultHasher, Hash, Hasher},
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

const SOURCE: &str = include_str!("shim.c");

/// Returns the library, which is compiled when it is needed first.
///
/// # Errors
///
/// When there is no C compiler, or the folder of temporary files can't be written to.
pub fn library() -> io::Result<PathBuf> {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    if let Some(library) = LIBRARY.get() {
        return Ok(library.clone());
    }
    let mut hasher = DefaultHasher::new();
    SOURCE.hash(&mut hasher);
    // Beside the program, so in `target`: who can write there can change the program too.
    let program = std::env::current_exe()?;
    let folder = program.parent().unwrap_or(Path::new("."));
    let library = folder.join(format!("ravel-faults-shim-{:016x}.so", hasher.finish()));
    if !library.exists() {
        let own = format!("{}-{}", library.display(), std::process::id());
        let (source, object) = (format!("{own}.c"), format!("{own}.so"));
        fs::write(&source, SOURCE)?;
        let compiled = Command::new("cc").args(["-shared", "-fPIC", "-O2", "-o", &object, &source]).output()?;
        fs::remove_file(&source)?;
        if !compiled.status.success() {
            return Err(io::Error::other(String::from_utf8_lossy(&compiled.stderr).into_owned()));
        }
        // Others may compile it at the same time.
        fs::rename(&object, &library)?;
    }
    Ok(LIBRARY.get_or_init(|| library).clone())
}

/// Puts the library between a command and the file system below `root`; a record of all calls is appended to `trace`.
///
/// # Errors
///
/// Those of [`library`].
pub fn attach(command: &mut Command, root: &Path, trace: Option<&Path>, control: Option<&Path>) -> io::Result<()> {
    command.env("LD_PRELOAD", library()?).env("RAVEL_FAULTS_ROOT", root);
    if let Some(trace) = trace {
        command.env("RAVEL_FAULTS_TRACE", trace);
    }
    if let Some(control) = control {
        command.env("RAVEL_FAULTS_CONTROL", control);
    }
    Ok(())
}

/// The numbers that tell the library what has to fail, in a file that both have mapped or open.
#[derive(Debug)]
pub struct Control(File);

/// One of the numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Number {
    /// Which write fails, counted from 1; 0 for none.
    WriteFailsAt,
    /// Which sync fails, counted from 1; 0 for none.
    SyncFailsAt,
    /// The error of the operating system that they fail with.
    Error,
    /// 1: the later ones fail as well.
    KeepsFailing,
    /// 1: there is room for `Budget` bytes only.
    BudgetSet,
    /// How many bytes files may still grow.
    Budget,
    /// How many writes there were.
    Writes,
    /// How many syncs there were.
    Syncs,
    /// How many calls were made to fail.
    Failures,
}

impl Control {
    /// Makes the file; nothing fails yet.
    ///
    /// # Errors
    ///
    /// Those of the operating system.
    pub fn create(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path)?;
        file.set_len(8 * 9)?;
        Ok(Self(file))
    }

    /// Opens a file that was made.
    ///
    /// # Errors
    ///
    /// Those of the operating system.
    pub fn open(path: &Path) -> io::Result<Self> {
        Ok(Self(OpenOptions::new().read(true).write(true).open(path)?))
    }

    /// Changes a number.
    pub fn set(&self, number: Number, value: i64) {
        self.0.write_all_at(&value.to_ne_bytes(), 8 * number as u64).unwrap();
    }

    /// Reads a number.
    pub fn get(&self, number: Number) -> i64 {
        let mut value = [0; 8];
        self.0.read_exact_at(&mut value, 8 * number as u64).unwrap();
        i64::from_ne_bytes(value)
    }
}
