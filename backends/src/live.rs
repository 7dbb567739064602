//! Reading a database that another process has open.
//!
//! The engines on disk let one process into a directory. So the process that has it answers others over a Unix socket in that
//! directory, `ravel.sock`: [`serve`] wraps a store so that it does, and [`RemoteStore`] is the other end, a store for reading.
//! Besides reading, one thing can be asked for: to [seal](RemoteStore::seal) the log, as its database moves elsewhere.
//!
//! The socket has the mode 0600: whoever may use it could read the files, too. `docs/data-layout.md` draws the messages.

mod client;
mod protocol;
mod server;
#[cfg(test)]
mod tests;

use std::{
    fs::File,
    os::fd::AsRawFd,
    path::{Path, PathBuf},
};

pub use self::{
    client::{RemoteFailure, RemoteStore},
    server::{ServeError, ServedStore, serve},
};

/// Name of the socket in the directory of a store.
pub const SOCKET: &str = "ravel.sock";

/// Longest path of a socket, in bytes, that every Unix takes; the last of 104 is a zero.
const SOCKET_PATH_BYTES_MAX: usize = 103;

/// A path for a socket in a directory, short enough for the system. Where it is not, Linux can name the open directory.
struct SocketPath {
    path: PathBuf,
    /// Open for as long as the path names it.
    _directory: Option<File>,
}

impl SocketPath {
    /// Returns `None` if there is no short enough path.
    fn new(directory: &Path, name: &str) -> std::io::Result<Option<Self>> {
        let path = directory.join(name);
        if fits(&path) {
            return Ok(Some(Self { path, _directory: None }));
        }
        let directory = File::open(directory)?;
        let folder = PathBuf::from(format!("/proc/self/fd/{}", directory.as_raw_fd()));
        let path = folder.join(name);
        Ok((fits(&path) && folder.is_dir()).then_some(Self { path, _directory: Some(directory) }))
    }
}

fn fits(path: &Path) -> bool {
    path.as_os_str().len() <= SOCKET_PATH_BYTES_MAX
}
