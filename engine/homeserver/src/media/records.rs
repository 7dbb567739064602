//! What the log tells of files.

use bincode::{Decode, Encode};
use ravel_core::id::{ServerName, UserId};
use ravel_store::{Durability, log::Fact};

use super::{
    Description, Media, MediaError, MediaId,
    files::{ContentHash, Kept},
};
use crate::{
    fact_kind,
    record::{Record, decode, encode, key},
};

/// A file.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub(super) struct FileRecord {
    /// Of the content: under it the file is in the folder.
    pub(super) sha256: ContentHash,
    pub(super) bytes: u64,
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

    pub(super) fn description(self) -> Description {
        Description { content_type: self.content_type, file_name: self.file_name }
    }
}

impl Media {
    pub(super) async fn record(
        &self,
        server: &ServerName,
        media_id: &MediaId,
    ) -> Result<Option<FileRecord>, MediaError> {
        let stored = self.0.log.fact(fact_kind::MEDIA, &key(&[server.as_str(), media_id.as_str()])).await?;
        Ok(stored.map(|stored| decode(&stored.value)).transpose()?)
    }

    /// Writes what a file is, which has to be in the folder already.
    pub(super) async fn put_record(
        &self,
        server: &ServerName,
        media_id: &MediaId,
        record: &FileRecord,
    ) -> Result<(), MediaError> {
        let key = key(&[server.as_str(), media_id.as_str()]);
        let fact = Fact { kind: fact_kind::MEDIA, key, value: Some(encode(record)?) };
        self.0.log.put_facts(&[fact], &[], Durability::Sync).await?;
        Ok(())
    }
}
