//! `ravel init`: a folder with what a server needs to start.

use std::{
    fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use ravel_core::id::ServerName;
use ravel_homeserver::random::OsRandom;

use super::{config, signing_key};

/// Name of the configuration file.
pub const CONFIGURATION: &str = "ravel.toml";

/// Name of the file with the signing key.
const SIGNING_KEY: &str = "signing.key";

/// Where a new server listens: on this machine only, where a reverse proxy finds it.
const HTTP: &str = "127.0.0.1:8008";

/// Why no folder was made.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum InitError {
    #[error("{} has a {name} already; nothing was changed", .folder.display())]
    AlreadyThere { folder: PathBuf, name: &'static str },
    #[error("{} is not a folder", .0.display())]
    NotAFolder(PathBuf),
    #[error("{} can't be made: {source}", .path.display())]
    Io {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// What was made.
#[derive(Debug)]
pub struct Initialized {
    /// The configuration file.
    pub configuration: PathBuf,
    /// The file with the signing key.
    pub signing_key: PathBuf,
}

/// Makes a folder with a configuration file and a signing key. A folder that is there is used; what is in it stays.
///
/// # Errors
///
/// When there is a configuration or a key already, or the disk refuses. Nothing new is left then.
pub fn init(folder: &Path, server_name: &ServerName, http: Option<SocketAddr>) -> Result<Initialized, InitError> {
    let mut made = Made::default();
    made.folder(folder)?;
    let http = http.map_or_else(|| HTTP.to_owned(), |address| address.to_string());
    let text = config::with_values(&[
        ("server_name", server_name.as_str().into()),
        ("signing_key", SIGNING_KEY.into()),
        ("listen.http", http.into()),
    ]);
    // Both are looked for first: a key without its configuration says that something went wrong here before.
    for name in [CONFIGURATION, SIGNING_KEY] {
        if folder.join(name).symlink_metadata().is_ok() {
            return Err(InitError::AlreadyThere { folder: folder.to_owned(), name });
        }
    }
    let key = made.file(folder, SIGNING_KEY, &signing_key::new_line(&OsRandom))?;
    let configuration = made.file(folder, CONFIGURATION, &text)?;
    // The names of the files reach the disk with the folder.
    let synced = fs::File::open(folder).and_then(|folder| folder.sync_all());
    synced.map_err(|source| InitError::Io { path: folder.to_owned(), source })?;
    made.keep();
    Ok(Initialized { configuration, signing_key: key })
}

/// What was made so far; removed again unless it is kept.
#[derive(Default)]
struct Made {
    folders: Vec<PathBuf>,
    files: Vec<PathBuf>,
}

impl Made {
    /// Makes a folder and those around it.
    fn folder(&mut self, folder: &Path) -> Result<(), InitError> {
        let missing: Vec<&Path> =
            folder.ancestors().take_while(|path| !path.as_os_str().is_empty() && !path.exists()).collect();
        for path in missing.into_iter().rev() {
            fs::create_dir(path).map_err(|source| InitError::Io { path: path.to_owned(), source })?;
            self.folders.push(path.to_owned());
        }
        if folder.as_os_str().is_empty() || folder.is_dir() {
            Ok(())
        } else {
            Err(InitError::NotAFolder(folder.to_owned()))
        }
    }

    /// Writes a file that is not there.
    fn file(&mut self, folder: &Path, name: &'static str, text: &str) -> Result<PathBuf, InitError> {
        let path = folder.join(name);
        match signing_key::write_secret(&path, text) {
            Ok(()) => {
                self.files.push(path.clone());
                Ok(path)
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                Err(InitError::AlreadyThere { folder: folder.to_owned(), name })
            }
            Err(source) => {
                // It may have been made, and the disk was full.
                self.files.push(path.clone());
                Err(InitError::Io { path, source })
            }
        }
    }

    fn keep(mut self) {
        self.folders.clear();
        self.files.clear();
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        for file in &self.files {
            let _ = fs::remove_file(file);
        }
        for folder in self.folders.iter().rev() {
            let _ = fs::remove_dir(folder);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_left_of_what_fails() {
        let place = tempfile::tempdir().unwrap();
        let name = ServerName::parse("a").unwrap();
        // A file where a folder should be.
        fs::write(place.path().join("file"), "").unwrap();
        assert!(init(&place.path().join("file/deep"), &name, None).is_err());
        assert!(matches!(init(&place.path().join("file"), &name, None), Err(InitError::NotAFolder(_))));
        // A name that can't be made after others were.
        let long = "x".repeat(300);
        assert!(init(&place.path().join("new").join(long), &name, None).is_err());
        assert!(!place.path().join("new").exists());
        // A key is never overwritten, and a configuration does not come to lie beside it.
        let folder = place.path().join("with-key");
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join(SIGNING_KEY), "precious").unwrap();
        assert!(matches!(init(&folder, &name, None), Err(InitError::AlreadyThere { name: SIGNING_KEY, .. })));
        assert_eq!(fs::read_to_string(folder.join(SIGNING_KEY)).unwrap(), "precious");
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1);
    }
}
