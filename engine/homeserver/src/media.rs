//! Files that users upload, and those of other servers that they look at.
//!
//! A file is in a folder, under the SHA-256 of its content (`files`). What it is, is a fact of the log, which is written when the file
//! is on the disk: a stop in between leaves a file that nothing names.
//!
//! Source: client-server API, "Content repository".

mod description;
mod error;
mod fetching;
mod files;
mod id;
mod multipart;
mod records;
mod scaling;
mod thumbnails;

use std::{path::PathBuf, pin::pin, sync::Arc};

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use ravel_core::id::UserId;
use ravel_store::log::EventLog;
use tokio::{fs::File, sync::Semaphore};

pub use self::{
    description::{Description, FILE_NAME_BYTES_MAX},
    error::MediaError,
    id::{InvalidMediaId, MediaId},
    scaling::ThumbnailMethod,
    thumbnails::WantedThumbnail,
};
use self::{
    fetching::FETCHES_MAX,
    files::{Files, Kept},
    records::{FileRecord, Key},
    thumbnails::SCALED_AT_ONCE_MAX,
};
use crate::{
    clock::Clock,
    federation::{FederationClient, flights::Flights},
    random::Random,
};

/// Where files are kept, and how large they may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MediaConfig {
    /// The folder for them. It is made when there is something to keep.
    pub path: PathBuf,
    /// Bytes of the largest file.
    pub file_bytes_max: u64,
}

impl Default for MediaConfig {
    fn default() -> Self {
        Self { path: "media".into(), file_bytes_max: 50 << 20 }
    }
}

/// A file that is there, to be read from its beginning.
#[derive(Debug)]
pub struct OpenFile {
    /// Its content.
    pub content: File,
    /// How long that is.
    pub bytes: u64,
    /// What it is said to be.
    pub description: Description,
}

/// The files of a server. Cheap to clone.
#[derive(Clone)]
pub struct Media(Arc<Inner>);

struct Inner {
    config: MediaConfig,
    files: Files,
    log: Arc<EventLog>,
    client: FederationClient,
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
    /// Files of other servers that are on their way.
    fetches: Flights<Key, Result<(), MediaError>>,
    fetch_permits: Semaphore,
    /// Thumbnails that are being made.
    thumbnails: Flights<Key, Result<(), MediaError>>,
    scaling_permits: Semaphore,
}

impl Media {
    /// Opens the files that a log tells of. What interrupted uploads have left in the folder is removed.
    pub async fn open(
        config: MediaConfig,
        log: Arc<EventLog>,
        client: FederationClient,
        clock: Arc<dyn Clock>,
        random: Arc<dyn Random>,
    ) -> Self {
        let files = Files::new(&config.path);
        if let Err(error) = files.remove_unfinished().await {
            tracing::warn!(%error, "what interrupted uploads have left can't be removed");
        }
        Self(Arc::new(Inner {
            config,
            files,
            log,
            client,
            clock,
            random,
            fetches: Flights::new(),
            fetch_permits: Semaphore::new(FETCHES_MAX),
            thumbnails: Flights::new(),
            scaling_permits: Semaphore::new(SCALED_AT_ONCE_MAX),
        }))
    }

    /// Returns how many bytes the largest file may have.
    pub fn file_bytes_max(&self) -> u64 {
        self.0.config.file_bytes_max
    }

    /// Keeps a file of a user and returns its id. It is on the disk when this returns; if it is not waited for, nothing is left of it.
    ///
    /// # Errors
    ///
    /// `TooLarge`, `BrokenOff` if the body fails, `FileNameTooLong`, and when folder or log can't be written.
    pub async fn upload<E>(
        &self,
        uploader: &UserId,
        description: Description,
        body: impl Stream<Item = Result<Bytes, E>>,
    ) -> Result<MediaId, MediaError> {
        let description = description.of_user()?;
        let mut file = self.0.files.begin().await?;
        let mut body = pin!(body);
        while let Some(part) = body.next().await {
            let part = part.map_err(|_| MediaError::BrokenOff)?;
            if part.len() as u64 > self.file_bytes_max() - file.bytes() {
                return Err(MediaError::TooLarge { bytes_max: self.file_bytes_max() });
            }
            file.write(&part).await?;
        }
        let media_id = MediaId::random(&*self.0.random);
        let kept = self.0.files.keep(file).await?;
        let record = FileRecord::new(kept, description, Some(uploader), self.0.clock.now_ms());
        self.put_record(&Key::of_file(self.0.client.our_name(), &media_id), &record).await?;
        Ok(media_id)
    }

    /// Opens a file that was uploaded here.
    ///
    /// # Errors
    ///
    /// `NotFound`, and when log or folder can't be read.
    pub async fn local(&self, media_id: &MediaId) -> Result<OpenFile, MediaError> {
        self.kept(&Key::of_file(self.0.client.our_name(), media_id)).await?.ok_or(MediaError::NotFound)
    }

    /// Opens a file or thumbnail that is kept here, `None` if there is no such one.
    async fn kept(&self, key: &Key) -> Result<Option<OpenFile>, MediaError> {
        let Some(record) = self.record(key).await? else { return Ok(None) };
        let Kept { sha256, bytes: expected } = record.content();
        let Some((content, bytes)) = self.0.files.open(&sha256).await? else {
            tracing::error!(?key, "a file is not in the folder of files");
            return Ok(None);
        };
        if bytes != expected {
            tracing::error!(?key, bytes, expected, "a file is damaged");
            return Ok(None);
        }
        Ok(Some(OpenFile { content, bytes, description: record.description() }))
    }
}

#[cfg(test)]
mod tests;
