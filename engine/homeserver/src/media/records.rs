//! What the log tells of files.

use bincode::{Decode, Encode};
use bytes::Bytes;
use ravel_core::id::{ServerName, UserId};
use ravel_store::{Durability, log::Fact};

use super::{
    Description, Media, MediaError, MediaId,
    files::{ContentHash, Kept},
    scaling::ThumbnailSize,
};
use crate::{
    fact_kind,
    record::{Record, decode, encode, key},
};

/// A file.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub(super) struct FileRecord {
    /// Of the content: under it the file is in the folder.
    sha256: ContentHash,
    bytes: u64,
    content_type: Option<String>,
    file_name: Option<String>,
    /// Of files that were uploaded here: by whom.
    uploader: Option<String>,
    /// When it was uploaded or fetched.
    at_ms: i64,
}

impl Record for FileRecord {
    const VERSION: u8 = 1;
}

impl FileRecord {
    pub(super) fn new(kept: Kept, description: Description, uploader: Option<&UserId>, at_ms: i64) -> Self {
        let Kept { sha256, bytes } = kept;
        let Description { content_type, file_name } = description;
        Self { sha256, bytes, content_type, file_name, uploader: uploader.map(ToString::to_string), at_ms }
    }

    /// Returns which file in the folder it is.
    pub(super) fn content(&self) -> Kept {
        Kept { sha256: self.sha256, bytes: self.bytes }
    }

    pub(super) fn description(self) -> Description {
        Description { content_type: self.content_type, file_name: self.file_name }
    }
}

/// What a record is about.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    kind: u8,
    key: Bytes,
}

impl Key {
    /// Of a file.
    pub(super) fn of_file(server: &ServerName, media_id: &MediaId) -> Self {
        Self { kind: fact_kind::MEDIA, key: key(&[server.as_str(), media_id.as_str()]) }
    }

    /// Of a thumbnail of a file; without a size, it is as large as the file's image.
    pub(super) fn of_thumbnail(server: &ServerName, media_id: &MediaId, size: Option<ThumbnailSize>) -> Self {
        let name = size.map_or_else(|| "whole".to_owned(), |size| size.to_string());
        Self { kind: fact_kind::THUMBNAIL, key: key(&[server.as_str(), media_id.as_str(), &name]) }
    }
}

impl Media {
    pub(super) async fn record(&self, key: &Key) -> Result<Option<FileRecord>, MediaError> {
        let stored = self.0.log.fact(key.kind, &key.key).await?;
        Ok(stored.map(|stored| decode(&stored.value)).transpose()?)
    }

    /// Writes what a file is, which has to be in the folder already.
    pub(super) async fn put_record(&self, key: &Key, record: &FileRecord) -> Result<(), MediaError> {
        let fact = Fact { kind: key.kind, key: key.key.clone(), value: Some(encode(record)?) };
        self.0.log.put_facts(&[fact], &[], Durability::Sync).await?;
        Ok(())
    }
}
