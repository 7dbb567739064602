//! Where a backup is: a folder, or a bucket of an S3-compatible service.

use std::{fmt, io, path::PathBuf, str::FromStr, sync::Arc, time::Duration};

use futures_util::TryStreamExt;
use object_store::{
    ObjectMeta, ObjectStore, ObjectStoreExt, PutPayload, RetryConfig, aws::AmazonS3Builder, local::LocalFileSystem,
    path::Path,
};
use ravel_store::{Bytes, directory::create_private};
use tokio::runtime::{Builder, Runtime};

use super::{BackupError, Damage};

/// A folder, or `s3://BUCKET/PREFIX`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PlaceName {
    /// A folder.
    Folder(PathBuf),
    /// A bucket, and what the names of all objects in it begin with, which may be nothing.
    Bucket {
        /// The bucket's name.
        bucket: String,
        /// Without slashes at its ends.
        prefix: String,
    },
    /// In this process's memory, for tests.
    Memory,
}

/// Not the name of a place.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum InvalidPlace {
    #[error("expected a folder or s3://BUCKET/PREFIX")]
    Empty,
    #[error("the name of a bucket is missing after s3://")]
    NoBucket,
    #[error("expected a folder or s3://BUCKET/PREFIX, not {0}://")]
    UnknownScheme(String),
}

impl FromStr for PlaceName {
    type Err = InvalidPlace;

    fn from_str(name: &str) -> Result<Self, InvalidPlace> {
        match name.split_once("://") {
            None if name.is_empty() => Err(InvalidPlace::Empty),
            None => Ok(Self::Folder(name.into())),
            Some(("s3", rest)) => {
                let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
                if bucket.is_empty() {
                    return Err(InvalidPlace::NoBucket);
                }
                Ok(Self::Bucket { bucket: bucket.to_owned(), prefix: prefix.trim_matches('/').to_owned() })
            }
            Some((scheme, _)) => Err(InvalidPlace::UnknownScheme(scheme.to_owned())),
        }
    }
}

impl fmt::Display for PlaceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Folder(path) => path.display().fmt(f),
            Self::Bucket { bucket, prefix } if prefix.is_empty() => write!(f, "s3://{bucket}"),
            Self::Bucket { bucket, prefix } => write!(f, "s3://{bucket}/{prefix}"),
            Self::Memory => f.write_str("memory"),
        }
    }
}

/// An opened place: objects by name. What is put is there whole or not at all, and durable.
pub struct Place {
    name: PlaceName,
    prefix: Path,
    objects: Arc<dyn ObjectStore>,
    runtime: Runtime,
}

impl Place {
    /// Opens a place to write to it; a folder is made if it is not there.
    ///
    /// # Errors
    ///
    /// When the folder can't be made, or the environment does not say how to reach the bucket.
    pub fn open_or_create(name: &PlaceName) -> Result<Self, BackupError> {
        if let PlaceName::Folder(path) = name {
            create_private(path).map_err(|source| BackupError::Folder { place: name.clone(), source })?;
        }
        Self::open(name)
    }

    /// Opens a place to read from it.
    ///
    /// # Errors
    ///
    /// When the folder is not there, or the environment does not say how to reach the bucket.
    pub fn open(name: &PlaceName) -> Result<Self, BackupError> {
        let fail = |source| BackupError::Place { place: name.clone(), source };
        let (objects, prefix): (Arc<dyn ObjectStore>, &str) = match name {
            PlaceName::Folder(path) => {
                match path.metadata() {
                    Ok(metadata) if metadata.is_dir() => {}
                    Ok(_) => {
                        let source = io::Error::from(io::ErrorKind::NotADirectory);
                        return Err(BackupError::Folder { place: name.clone(), source });
                    }
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {
                        return Err(BackupError::NoBackup(name.clone()));
                    }
                    Err(source) => return Err(BackupError::Folder { place: name.clone(), source }),
                }
                (Arc::new(LocalFileSystem::new_with_prefix(path).map_err(fail)?.with_fsync(true)), "")
            }
            PlaceName::Bucket { bucket, prefix } => {
                // Another library may have chosen one before: it will do.
                let _ = rustls::crypto::ring::default_provider().install_default();
                let retry = RetryConfig { retry_timeout: RETRY_TIMEOUT, ..RetryConfig::default() };
                let bucket = AmazonS3Builder::from_env().with_bucket_name(bucket).with_retry(retry).build();
                (Arc::new(bucket.map_err(fail)?), prefix)
            }
            PlaceName::Memory => (Arc::new(object_store::memory::InMemory::new()), ""),
        };
        let runtime = Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|source| BackupError::Folder { place: name.clone(), source })?;
        Ok(Self { name: name.clone(), prefix: Path::from(prefix), objects, runtime })
    }

    /// Returns the name.
    pub fn name(&self) -> &PlaceName {
        &self.name
    }

    /// Writes an object, over one of this name if there is one.
    pub(super) fn put(&self, name: &str, bytes: Vec<u8>) -> Result<(), BackupError> {
        if let PlaceName::Folder(folder) = &self.name
            && let Some(parent) = folder.join(name).parent()
        {
            create_private(parent).map_err(|source| BackupError::Folder { place: self.name.clone(), source })?;
        }
        let path = self.path(name);
        let put = self.objects.put(&path, PutPayload::from(bytes));
        self.runtime.block_on(put).map(drop).map_err(|source| self.failure(source))
    }

    /// Reads an object of at most `max` bytes; `None` if there is none.
    pub(super) fn find(&self, name: &str, max: usize) -> Result<Option<Bytes>, BackupError> {
        let max = max as u64;
        let path = self.path(name);
        let read = async {
            let object = self.objects.get(&path).await?;
            let found = object.meta.size;
            if found > max { Ok(Err(Damage::TooLarge { max, found })) } else { object.bytes().await.map(Ok) }
        };
        match self.runtime.block_on(read) {
            Ok(Ok(bytes)) => Ok(Some(bytes)),
            Ok(Err(damage)) => Err(BackupError::Damaged { object: name.to_owned(), damage }),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(source) => Err(self.failure(source)),
        }
    }

    /// Reads an object of at most `max` bytes.
    pub(super) fn get(&self, name: &str, max: usize) -> Result<Bytes, BackupError> {
        let missing = || BackupError::Damaged { object: name.to_owned(), damage: Damage::Missing };
        self.find(name, max)?.ok_or_else(missing)
    }

    /// Returns the names of all objects, with what is known of them.
    pub(super) fn list(&self) -> Result<Vec<(String, ObjectMeta)>, BackupError> {
        let prefix = (!self.prefix.as_ref().is_empty()).then_some(&self.prefix);
        let listed: Vec<ObjectMeta> =
            self.runtime.block_on(self.objects.list(prefix).try_collect()).map_err(|source| self.failure(source))?;
        let named = listed.into_iter().filter_map(|meta| {
            let name = meta.location.prefix_match(&self.prefix)?.map(|part| part.as_ref().to_owned());
            Some((name.collect::<Vec<_>>().join("/"), meta))
        });
        Ok(named.collect())
    }

    /// Removes an object; it is no error if there is none.
    pub(super) fn delete(&self, name: &str) -> Result<(), BackupError> {
        match self.runtime.block_on(self.objects.delete(&self.path(name))) {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(source) => Err(self.failure(source)),
        }
    }

    fn path(&self, name: &str) -> Path {
        name.split('/').fold(self.prefix.clone(), Path::join)
    }

    fn failure(&self, source: object_store::Error) -> BackupError {
        BackupError::Place { place: self.name.clone(), source }
    }
}

/// How long a request to a bucket is tried again.
const RETRY_TIMEOUT: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_places() {
        let check = |name: &str, shown: &str| assert_eq!(name.parse::<PlaceName>().unwrap().to_string(), shown);
        check("backups/ravel", "backups/ravel");
        check("s3://bucket", "s3://bucket");
        check("s3://bucket/", "s3://bucket");
        check("s3://bucket/a/b/", "s3://bucket/a/b");
        for name in ["", "s3://", "s3:///prefix", "gs://bucket", "https://host/bucket"] {
            assert!(name.parse::<PlaceName>().is_err(), "{name}");
        }
    }
}
