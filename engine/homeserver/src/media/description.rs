//! What a file is said to be.

use super::MediaError;

/// The longest name of a file, in bytes.
pub const FILE_NAME_BYTES_MAX: usize = 1_024;

/// The longest content type, in bytes.
const CONTENT_TYPE_BYTES_MAX: usize = 255;

/// What a file is said to be by whoever uploaded it. Nothing of it is to be believed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Description {
    /// Its content type, in letters that a header can have.
    pub content_type: Option<String>,
    /// Its name.
    pub file_name: Option<String>,
}

impl Description {
    /// Checks what a user of this server says. A content type that can't be in a header is none.
    ///
    /// # Errors
    ///
    /// `FileNameTooLong`
    pub(super) fn of_user(self) -> Result<Self, MediaError> {
        let is_too_long = self.file_name.as_ref().is_some_and(|name| name.len() > FILE_NAME_BYTES_MAX);
        if is_too_long { Err(MediaError::FileNameTooLong) } else { Ok(self.usable()) }
    }

    /// Leaves out what can't be used.
    pub(super) fn usable(self) -> Self {
        let is_type = |text: &String| {
            text.len() <= CONTENT_TYPE_BYTES_MAX && text.bytes().all(|byte| matches!(byte, b' '..=b'~'))
        };
        let content_type = self.content_type.map(|text| text.trim().to_owned());
        Self {
            content_type: content_type.filter(|text| !text.is_empty() && is_type(text)),
            file_name: self.file_name.filter(|name| !name.is_empty() && name.len() <= FILE_NAME_BYTES_MAX),
        }
    }
}
