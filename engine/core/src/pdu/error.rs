use crate::{canonical_json::JsonError, id::InvalidId};

/// Why bytes are not an event: it is dropped, as if it had never come.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PduError {
    /// It is not JSON, or not what the room version allows as canonical JSON.
    #[error("not canonical JSON: {0}")]
    Json(#[from] JsonError),
    /// It is larger than [`super::PDU_BYTES_MAX`].
    #[error("event of {bytes} bytes")]
    TooLarge {
        /// Its bytes.
        bytes: usize,
    },
    /// A required field is absent or of another type.
    #[error("{field} is not {expected}")]
    Field {
        /// The field.
        field: &'static str,
        /// What it should be.
        expected: &'static str,
    },
    /// A field is longer than [`super::FIELD_LEN_MAX`].
    #[error("{field} is too long")]
    FieldTooLong {
        /// The field.
        field: &'static str,
    },
    /// A field, or an entry of it, is not a valid identifier.
    #[error("{field}: {source}")]
    Id {
        /// The field.
        field: &'static str,
        /// What is wrong.
        source: InvalidId,
    },
    /// A list has too many entries.
    #[error("{count} entries in {field}")]
    TooManyEntries {
        /// The list.
        field: &'static str,
        /// How many.
        count: usize,
    },
    /// `depth` is negative.
    #[error("depth is negative")]
    NegativeDepth,
    /// Bytes of our own log are not in canonical form.
    #[error("stored event is not in canonical form")]
    NotCanonical,
}

/// Why an event is not known to come from who it says: it is dropped.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// There is no signature of a needed server by a key that is known and counts at the time of the event.
    #[error("no signature of {server} by a known and valid key")]
    Missing {
        /// The server.
        server: Box<str>,
    },
    /// A signature of a needed server by such a key is wrong.
    #[error("invalid signature of {server} with {key_id}")]
    Invalid {
        /// The server.
        server: Box<str>,
        /// The key.
        key_id: Box<str>,
    },
    /// The event without what its content hash does not cover is no event: it can be neither used nor redacted.
    #[error("redacted form: {0}")]
    RedactedForm(#[from] super::PduError),
}
