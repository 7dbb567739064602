//! Ids of files.

use std::{fmt, sync::Arc};

use crate::random::{Random, random_text};

/// The id of a file at its server: letters, digits, `_` and `-`.
///
/// Source: client-server API, "Matrix Content (mxc://) URIs": "The media-id segment MUST consist of only alphanumeric (A-Za-z0-9), _ and -
/// characters".
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MediaId(Arc<str>);

/// A text is no id of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a media id has 1 to {MEDIA_ID_BYTES_MAX} letters, digits, _ and -")]
pub struct InvalidMediaId;

/// The longest id that is dealt with.
const MEDIA_ID_BYTES_MAX: usize = 255;

/// Letters of an id that is made here: 24 of them have 142 bits, which nobody guesses.
const MEDIA_ID_CHARS: usize = 24;

impl MediaId {
    /// Parses an id.
    ///
    /// # Errors
    ///
    /// [`InvalidMediaId`]
    pub fn parse(id: &str) -> Result<Self, InvalidMediaId> {
        let is_valid = (1..=MEDIA_ID_BYTES_MAX).contains(&id.len())
            && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'));
        if is_valid { Ok(Self(id.into())) } else { Err(InvalidMediaId) }
    }

    /// Makes an id that no file has.
    pub(super) fn random(random: &dyn Random) -> Self {
        Self(random_text(random, MEDIA_ID_CHARS).into())
    }

    /// Returns the id as it is in URIs.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for MediaId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
