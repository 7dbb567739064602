//! What facts are in the log: a version, and a record as bincode writes it, or JSON.

use bincode::{
    Decode, Encode,
    config::{Configuration, Limit, LittleEndian, Varint},
};
use bytes::Bytes;
use ravel_store::log::{EventLog, FACT_VALUE_BYTES_MAX, LogError, StoredFact};
use serde_json::Value;

/// A value of a fact. The order of fields and of variants is the stored format: whoever changes it raises `VERSION`.
pub(crate) trait Record: Encode + Decode<()> {
    const VERSION: u8;
}

/// Why a record can't be read or written.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum RecordError {
    #[error("a record can't be written")]
    Encode(#[source] bincode::error::EncodeError),
    #[error("a record is of version {found}, this program knows {known}")]
    Version { found: u8, known: u8 },
    #[error("a record is damaged")]
    Decode(#[source] bincode::error::DecodeError),
    #[error("a record does not end where it should")]
    Length,
    #[error("a record has an id that is not valid")]
    Id(#[from] ravel_core::id::InvalidId),
    #[error("a record is no JSON")]
    Json(#[from] serde_json::Error),
    #[error("a record is nested deeper than {JSON_DEPTH_MAX} levels")]
    Depth,
}

const CONFIG: Configuration<LittleEndian, Varint, Limit<FACT_VALUE_BYTES_MAX>> =
    bincode::config::standard().with_limit::<FACT_VALUE_BYTES_MAX>();

/// The version of values in JSON.
const JSON_VERSION: u8 = 1;

/// How deep values in JSON may be nested: what is deeper is not read.
const JSON_DEPTH_MAX: usize = 127;

/// How deep JSON of others may be nested that is kept in a record, or sent: what is around it takes the rest.
pub(crate) const PART_DEPTH_MAX: usize = 100;

/// Writes a record.
pub(crate) fn encode<R: Record>(record: &R) -> Result<Bytes, RecordError> {
    let mut bytes = vec![R::VERSION];
    bincode::encode_into_std_write(record, &mut bytes, CONFIG).map_err(RecordError::Encode)?;
    Ok(bytes.into())
}

/// Reads what [`encode`] wrote.
pub(crate) fn decode<R: Record>(bytes: &[u8]) -> Result<R, RecordError> {
    let payload = of_version(bytes, R::VERSION)?;
    let (record, read) = bincode::decode_from_slice(payload, CONFIG).map_err(RecordError::Decode)?;
    if read == payload.len() { Ok(record) } else { Err(RecordError::Length) }
}

/// Writes a value in JSON, which has to be one that can be read.
pub(crate) fn encode_json(value: &Value) -> Result<Bytes, RecordError> {
    if !is_within(value, JSON_DEPTH_MAX) {
        return Err(RecordError::Depth);
    }
    let mut bytes = vec![JSON_VERSION];
    serde_json::to_writer(&mut bytes, value)?;
    Ok(bytes.into())
}

/// Reads what [`encode_json`] wrote.
pub(crate) fn decode_json(bytes: &[u8]) -> Result<Value, RecordError> {
    Ok(serde_json::from_slice(of_version(bytes, JSON_VERSION)?)?)
}

/// Whether JSON is nested no deeper than so many levels.
pub(crate) fn is_within(value: &Value, levels: usize) -> bool {
    match (value, levels.checked_sub(1)) {
        (Value::Array(values), Some(levels)) => values.iter().all(|value| is_within(value, levels)),
        (Value::Object(fields), Some(levels)) => fields.values().all(|value| is_within(value, levels)),
        (Value::Array(_) | Value::Object(_), None) => false,
        (Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_), _) => true,
    }
}

/// Writes a key of parts that have no NUL, which is between them.
pub(crate) fn key(parts: &[&str]) -> Bytes {
    parts.join("\0").into()
}

/// Reads what [`key`] wrote, or what comes after the first bytes of it.
pub(crate) fn key_parts<const COUNT: usize>(bytes: &[u8]) -> Result<[&str; COUNT], RecordError> {
    let text = std::str::from_utf8(bytes).map_err(|_| RecordError::Length)?;
    let parts: Vec<&str> = text.split('\0').collect();
    parts.try_into().map_err(|_| RecordError::Length)
}

/// Returns all facts of a kind whose keys begin with `prefix`, sorted by key. The caller knows that there are not too many.
pub(crate) async fn all_facts(log: &EventLog, kind: u8, prefix: &[u8]) -> Result<Vec<StoredFact>, LogError> {
    let mut facts: Vec<StoredFact> = Vec::new();
    loop {
        let after = facts.last().map(|fact| fact.key.clone());
        let page = log.facts(kind, prefix, after.as_deref(), FACTS_PAGE).await?;
        if page.is_empty() {
            return Ok(facts);
        }
        facts.extend(page);
    }
}

/// How many facts are read at once.
const FACTS_PAGE: usize = 1_000;

fn of_version(bytes: &[u8], known: u8) -> Result<&[u8], RecordError> {
    let (found, payload) = bytes.split_first().ok_or(RecordError::Length)?;
    if *found == known { Ok(payload) } else { Err(RecordError::Version { found: *found, known }) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// What can be written can be read.
    #[test]
    fn deep_json_is_not_written() {
        let nested = |depth| {
            (0..depth)
                .fold(json!(1), |inside, level| if level % 2 == 0 { json!([inside]) } else { json!({ "a": inside }) })
        };
        let deepest = nested(JSON_DEPTH_MAX);
        assert_eq!(decode_json(&encode_json(&deepest).unwrap()).unwrap(), deepest);
        assert!(matches!(encode_json(&nested(JSON_DEPTH_MAX + 1)), Err(RecordError::Depth)));
        let too_deep = [b"\x01", nested(JSON_DEPTH_MAX + 1).to_string().as_bytes()].concat();
        assert!(matches!(decode_json(&too_deep), Err(RecordError::Json(_))));
    }

    #[test]
    fn json_and_keys_are_read_as_they_were_written() {
        let value = json!({ "a": [1, null] });
        let bytes = encode_json(&value).unwrap();
        assert_eq!(&bytes[..], b"\x01{\"a\":[1,null]}");
        assert_eq!(decode_json(&bytes).unwrap(), value);
        assert!(matches!(decode_json(b"\x02{}"), Err(RecordError::Version { found: 2, known: 1 })));
        assert!(matches!(decode_json(b""), Err(RecordError::Length)));
        assert!(matches!(decode_json(b"\x01{"), Err(RecordError::Json(_))));
        assert_eq!(key_parts::<3>(&key(&["a", "", "b"])).unwrap(), ["a", "", "b"]);
        assert!(key_parts::<2>(&key(&["a", "", "b"])).is_err() && key_parts::<1>(b"\xff").is_err());
    }
}
