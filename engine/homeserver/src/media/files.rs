//! Files in a folder, each under the SHA-256 of its content.
//!
//! `ab/cd/…` has the file whose hash begins with `abcd`, in hexadecimal; `unfinished` has those that are being written, under random
//! names. Nothing in a path comes from outside.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use ravel_store::directory::create_private;
use sha2::{Digest, Sha256};
use tempfile::TempPath;
use tokio::{fs::File, io::AsyncWriteExt, task::spawn_blocking};

/// The SHA-256 of a file's content.
pub(super) type ContentHash = [u8; 32];

/// The folder. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Files {
    folder: Arc<Path>,
}

/// A file that is being written. If it is dropped, it is gone.
pub(super) struct NewFile {
    file: File,
    path: TempPath,
    hash: Sha256,
    bytes: u64,
}

/// A file that is on the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Kept {
    pub(super) sha256: ContentHash,
    pub(super) bytes: u64,
}

impl Files {
    pub(super) fn new(folder: &Path) -> Self {
        Self { folder: folder.into() }
    }

    /// Removes files that were being written when the server was stopped. Nothing may be writing meanwhile.
    pub(super) async fn remove_unfinished(&self) -> io::Result<()> {
        let folder = self.unfinished();
        blocking(move || {
            let entries = match fs::read_dir(folder) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
                entries => entries?,
            };
            entries.into_iter().try_for_each(|entry| fs::remove_file(entry?.path()))
        })
        .await
    }

    /// Begins a file.
    pub(super) async fn begin(&self) -> io::Result<NewFile> {
        let folder = self.unfinished();
        let file = blocking(move || {
            make_folder(&folder)?;
            // Nobody else may read or write it.
            tempfile::NamedTempFile::new_in(folder)
        });
        let (file, path) = file.await?.into_parts();
        Ok(NewFile { file: File::from_std(file), path, hash: Sha256::new(), bytes: 0 })
    }

    /// Ends a file: what this returns is on the disk for good. A file with the same content takes no more room.
    pub(super) async fn keep(&self, new: NewFile) -> io::Result<Kept> {
        let NewFile { mut file, path, hash, bytes } = new;
        file.flush().await?;
        let file = file.into_std().await;
        let sha256 = hash.finalize().into();
        let to = self.path_of(&sha256);
        blocking(move || {
            file.sync_all()?;
            to.parent().map_or(Ok(()), make_folder)?;
            path.persist(&to)?;
            // Another may have made the folders a moment ago, and not have synced them yet.
            to.ancestors().skip(1).take(FOLDERS).try_for_each(sync_folder)
        })
        .await?;
        Ok(Kept { sha256, bytes })
    }

    /// Opens a file and returns how long it is; `None` if it is not there.
    pub(super) async fn open(&self, sha256: &ContentHash) -> io::Result<Option<(File, u64)>> {
        let file = match File::open(self.path_of(sha256)).await {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => file?,
        };
        let bytes = file.metadata().await?.len();
        Ok(Some((file, bytes)))
    }

    fn path_of(&self, sha256: &ContentHash) -> PathBuf {
        let name: String = sha256.iter().map(|byte| format!("{byte:02x}")).collect();
        let (first, rest) = name.split_at(2);
        let (second, rest) = rest.split_at(2);
        [&*self.folder, Path::new(first), Path::new(second), Path::new(rest)].iter().collect()
    }

    fn unfinished(&self) -> PathBuf {
        self.folder.join("unfinished")
    }
}

/// How many folders there are above a file, with the one that is configured.
const FOLDERS: usize = 3;

impl NewFile {
    /// Appends to the file.
    pub(super) async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.hash.update(bytes);
        self.bytes += bytes.len() as u64;
        self.file.write_all(bytes).await
    }

    /// Returns how many bytes were written.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }
}

/// Does what waits for the disk where that stops nobody else.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    spawn_blocking(work).await.map_err(io::Error::other)?
}

/// Makes a folder, for nobody but the server, and those above it that are missing.
fn make_folder(folder: &Path) -> io::Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    let above = folder.parent().filter(|above| !above.as_os_str().is_empty()).unwrap_or(Path::new("."));
    make_folder(above)?;
    create_private(folder)?;
    sync_folder(above)
}

fn sync_folder(folder: &Path) -> io::Result<()> {
    fs::File::open(folder)?.sync_all()
}
