//! Compression and encryption of what is stored, and the way back within bounds.

use std::{
    fs::File,
    io::{self, BufReader, Read, Write},
    path::{Path, PathBuf},
    str::FromStr,
};

use age::{DecryptError, Decryptor, Encryptor, IdentityFile, x25519};
use ravel_store::Bytes;

use super::{BackupError, Damage, Place};

/// Not a recipient.
#[derive(Debug, thiserror::Error)]
#[error("expected the public key of an age identity: age1 and 58 letters and digits")]
pub struct InvalidRecipient;

/// Whom a backup is encrypted to; nobody: it is not encrypted.
#[derive(Clone, Default)]
pub struct Recipients(Vec<x25519::Recipient>);

impl Recipients {
    /// Parses public keys as `age-keygen` prints them.
    ///
    /// # Errors
    ///
    /// When one is none.
    pub fn parse(keys: &[String]) -> Result<Self, InvalidRecipient> {
        let parsed = keys.iter().map(|key| x25519::Recipient::from_str(key).map_err(|_| InvalidRecipient));
        Ok(Self(parsed.collect::<Result<_, _>>()?))
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Compresses, and encrypts if there are recipients.
    pub(super) fn seal(&self, plain: &[u8]) -> Result<Vec<u8>, BackupError> {
        let compressed = zstd::bulk::compress(plain, COMPRESSION_LEVEL).map_err(BackupError::Seal)?;
        if self.is_empty() {
            return Ok(compressed);
        }
        let recipients = self.0.iter().map(|recipient| recipient as &dyn age::Recipient);
        let encryptor = Encryptor::with_recipients(recipients)
            .map_err(|error| BackupError::Seal(io::Error::other(error.to_string())))?;
        let mut sealed = Vec::with_capacity(compressed.len() + 512);
        let mut writer = encryptor.wrap_output(&mut sealed).map_err(BackupError::Seal)?;
        writer.write_all(&compressed).map_err(BackupError::Seal)?;
        writer.finish().map_err(BackupError::Seal)?;
        Ok(sealed)
    }
}

/// Who opens what is encrypted.
#[derive(Default)]
pub struct Identities {
    path: PathBuf,
    identities: Vec<Box<dyn age::Identity>>,
}

impl Identities {
    /// Reads a file as `age-keygen` writes it.
    ///
    /// # Errors
    ///
    /// When it can't be read or has no identities.
    pub fn read(path: &Path) -> Result<Self, BackupError> {
        let fail = |source| BackupError::IdentityFile { path: path.to_owned(), source };
        let file = File::open(path).map_err(fail)?;
        let file = BufReader::new(file.take(IDENTITY_FILE_BYTES_MAX));
        let identities = IdentityFile::from_buffer(file).map_err(fail)?;
        let identities = identities.into_identities().map_err(|error| fail(io::Error::other(error.to_string())))?;
        if identities.is_empty() {
            return Err(fail(io::Error::other("it has none")));
        }
        Ok(Self { path: path.to_owned(), identities })
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.identities.is_empty()
    }

    /// Decrypts if `encrypted`, and decompresses to at most `plain_bytes`.
    pub(super) fn unseal(
        &self,
        place: &Place,
        object: &str,
        stored: &Bytes,
        encrypted: bool,
        plain_bytes: usize,
    ) -> Result<Bytes, BackupError> {
        let damaged = |damage| BackupError::Damaged { object: object.to_owned(), damage };
        let compressed = if encrypted {
            if self.is_empty() {
                return Err(BackupError::IdentityMissing(place.name().clone()));
            }
            let encryption = |error: String| damaged(Damage::Encryption(error));
            let decryptor = Decryptor::new_buffered(&stored[..]).map_err(|error| encryption(error.to_string()))?;
            let identities = self.identities.iter().map(|identity| &**identity);
            let mut reader = match decryptor.decrypt(identities) {
                Ok(reader) => reader,
                Err(DecryptError::NoMatchingKeys) => {
                    return Err(BackupError::WrongIdentity { place: place.name().clone(), path: self.path.clone() });
                }
                Err(error) => return Err(encryption(error.to_string())),
            };
            // Never more than what was encrypted.
            let mut compressed = Vec::with_capacity(stored.len());
            reader.read_to_end(&mut compressed).map_err(|error| encryption(error.to_string()))?;
            Bytes::from(compressed)
        } else {
            stored.clone()
        };
        let plain =
            zstd::bulk::decompress(&compressed, plain_bytes).map_err(|error| damaged(Damage::Compression(error)))?;
        Ok(plain.into())
    }
}

const COMPRESSION_LEVEL: i32 = 3;

const IDENTITY_FILE_BYTES_MAX: u64 = 1 << 20;
