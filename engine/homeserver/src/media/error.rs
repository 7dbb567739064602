//! Why a file is not kept or not to be had.

use std::{io, sync::Arc};

use ravel_store::log::LogError;

use super::FILE_NAME_BYTES_MAX;
use crate::{federation::FederationError, record::RecordError};

/// Why a file is not kept or not to be had.
#[derive(Clone, Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum MediaError {
    #[error("there is no such file")]
    NotFound,
    #[error("the file is larger than {bytes_max} bytes")]
    TooLarge { bytes_max: u64 },
    #[error("the name of the file is longer than {FILE_NAME_BYTES_MAX} bytes")]
    FileNameTooLong,
    #[error("the file broke off")]
    BrokenOff,
    #[error("the file is not uploaded yet")]
    NotYetUploaded,
    #[error("of such a file no thumbnail can be made")]
    NoThumbnail,
    #[error("the image is too large for a thumbnail")]
    ImageTooLarge,
    #[error("the other server's file is too large")]
    RemoteTooLarge,
    #[error("the other server's answer has no file: {0}")]
    Answer(&'static str),
    #[error(transparent)]
    Federation(#[from] FederationError),
    #[error("the folder of files can't be read or written")]
    Io(#[source] Arc<io::Error>),
    #[error(transparent)]
    Log(Arc<LogError>),
    #[error(transparent)]
    Record(Arc<RecordError>),
}

impl From<io::Error> for MediaError {
    fn from(error: io::Error) -> Self {
        Self::Io(error.into())
    }
}

impl From<LogError> for MediaError {
    fn from(error: LogError) -> Self {
        Self::Log(error.into())
    }
}

impl From<RecordError> for MediaError {
    fn from(error: RecordError) -> Self {
        Self::Record(error.into())
    }
}
