//! Smaller images of files, made when they are asked for, and kept.
//!
//! Source: client-server API, "Thumbnails".

use std::time::Duration;

use futures_util::FutureExt;
use ravel_core::id::ServerName;

use super::{
    Description, Media, MediaError, MediaId, OpenFile, ThumbnailMethod,
    records::{FileRecord, Key},
    scaling::{ScaleError, Scaled, ThumbnailSize, scale},
};
use crate::parallel::in_background;

/// What somebody wants to see of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WantedThumbnail {
    /// How wide it is to be at least.
    pub width: u32,
    /// How high it is to be at least.
    pub height: u32,
    /// How it is made smaller.
    pub method: ThumbnailMethod,
}

/// How many images are made smaller at once: each takes a core and a few hundred megabytes.
pub(super) const SCALED_AT_ONCE_MAX: usize = 2;

impl Media {
    /// Opens a thumbnail of a file, of whichever server that is: it is made of the file, which is fetched if it is not here. It is an image
    /// with one picture, in PNG or JPEG, and not larger than the file's.
    ///
    /// # Errors
    ///
    /// As [`get`](Self::get); `NoThumbnail` if the file is no image, and `ImageTooLarge`, or `RemoteTooLarge` of another server.
    pub async fn thumbnail(
        &self,
        server: &ServerName,
        media_id: &MediaId,
        wanted: WantedThumbnail,
        wait: Duration,
    ) -> Result<OpenFile, MediaError> {
        drop(self.get(server, media_id, wait).await?);
        let is_ours = *server == *self.0.client.our_name();
        self.thumbnail_of_kept(server, media_id, wanted).await.map_err(|error| match error {
            MediaError::ImageTooLarge if !is_ours => MediaError::RemoteTooLarge,
            error => error,
        })
    }

    /// Opens a thumbnail of a file that was uploaded here.
    ///
    /// # Errors
    ///
    /// As [`local`](Self::local); `NoThumbnail` and `ImageTooLarge`.
    pub async fn local_thumbnail(&self, media_id: &MediaId, wanted: WantedThumbnail) -> Result<OpenFile, MediaError> {
        self.thumbnail_of_kept(self.0.client.our_name(), media_id, wanted).await
    }

    async fn thumbnail_of_kept(
        &self,
        server: &ServerName,
        media_id: &MediaId,
        wanted: WantedThumbnail,
    ) -> Result<OpenFile, MediaError> {
        let size = ThumbnailSize::for_wanted(wanted.width, wanted.height, wanted.method);
        let (original, key) = (Key::of_file(server, media_id), Key::of_thumbnail(server, media_id, size));
        if let Some(thumbnail) = self.kept(&key).await? {
            return Ok(thumbnail);
        }
        let make = || self.clone().make_thumbnail(original, key.clone(), size).boxed();
        self.0.thumbnails.run(&key, make).await?;
        self.kept(&key).await?.ok_or(MediaError::NotFound)
    }

    async fn make_thumbnail(self, original: Key, key: Key, size: Option<ThumbnailSize>) -> Result<(), MediaError> {
        let _permit = self.0.scaling_permits.acquire().await;
        let file = self.kept(&original).await?.ok_or(MediaError::NotFound)?;
        let content = file.content.into_std().await;
        // A decoder that panics has met no image that it could read.
        let scaled = in_background(move || scale(content, size)).await.unwrap_or(Err(ScaleError::NoImage));
        let scaled = scaled.map_err(|error| match error {
            ScaleError::NoImage => MediaError::NoThumbnail,
            ScaleError::TooLarge => MediaError::ImageTooLarge,
        })?;
        let (kept, content_type) = match scaled {
            Scaled::Image { content, content_type } => {
                let mut file = self.0.files.begin().await?;
                file.write(&content).await?;
                (self.0.files.keep(file).await?, content_type)
            }
            Scaled::Unchanged { content_type } => {
                (self.record(&original).await?.ok_or(MediaError::NotFound)?.content(), content_type)
            }
        };
        let extension = content_type.rsplit('/').next().unwrap_or_default();
        let file_name = Some(format!("thumbnail.{extension}"));
        let description = Description { content_type: Some(content_type.to_owned()), file_name };
        self.put_record(&key, &FileRecord::new(kept, description, None, self.0.clock.now_ms())).await
    }
}
