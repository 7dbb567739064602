//! What is sent beside events.

use bytes::Bytes;
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};

/// An ephemeral data unit.
///
/// Source: server-server API, "EDUs".
#[derive(Clone, Debug)]
pub struct Edu {
    edu_type: String,
    content: Box<RawValue>,
    /// What it is about, if only the newest of its type that is about the same is of any use.
    about: Option<String>,
    /// The key of the fact that keeps it until it is delivered, if one does.
    kept: Option<Bytes>,
}

impl Edu {
    /// Makes an EDU of a type. `about`: it takes the place of an earlier one of its type that is about the same and was not sent yet.
    ///
    /// # Errors
    ///
    /// When the content can't be written as JSON.
    pub fn new(edu_type: &str, content: &impl Serialize, about: Option<String>) -> Result<Self, serde_json::Error> {
        Ok(Self { edu_type: edu_type.to_owned(), content: to_raw_value(content)?, about, kept: None })
    }

    /// Says that a fact keeps it.
    pub(crate) fn kept_by(self, key: Bytes) -> Self {
        Self { kept: Some(key), ..self }
    }

    pub(super) fn kept(&self) -> Option<&Bytes> {
        self.kept.as_ref()
    }

    /// Whether it takes the place of another one.
    pub(super) fn replaces(&self, other: &Self) -> bool {
        self.about.is_some() && self.about == other.about && self.edu_type == other.edu_type
    }

    pub(super) fn edu_type(&self) -> &str {
        &self.edu_type
    }

    pub(super) fn content(&self) -> &RawValue {
        &self.content
    }
}
