//! What accounts are in the log: a version, and the record as bincode writes it.

use bincode::{
    Decode, Encode,
    config::{Configuration, Limit, LittleEndian, Varint},
};
use bytes::Bytes;
use ravel_store::log::FACT_VALUE_BYTES_MAX;

/// A value of a fact. The order of fields and of variants is the stored format: whoever changes it raises `VERSION`.
pub(super) trait Record: Encode + Decode<()> {
    const VERSION: u8;
}

/// Why a record can't be read or written.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum RecordError {
    #[error("a record of an account can't be written")]
    Encode(#[source] bincode::error::EncodeError),
    #[error("a record of an account is of version {found}, this program knows {known}")]
    Version { found: u8, known: u8 },
    #[error("a record of an account is damaged")]
    Decode(#[source] bincode::error::DecodeError),
    #[error("a record of an account does not end where it should")]
    Length,
    #[error("a record has an id that is not valid")]
    Id(#[from] ravel_core::id::InvalidId),
}

/// What an account may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Role {
    /// What users may.
    User,
    /// What users may, and to run the server.
    Admin,
    /// Little: see client-server API, "Guest Access".
    Guest,
}

#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub(super) struct AccountRecord {
    pub(super) created_ms: i64,
    pub(super) role: Role,
    /// In the form of the Password Hashing Competition. Without it nobody can log in by password.
    pub(super) password_hash: Option<String>,
    pub(super) is_deactivated: bool,
}

impl Record for AccountRecord {
    const VERSION: u8 = 1;
}

#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub(super) struct DeviceRecord {
    pub(super) created_ms: i64,
    pub(super) display_name: Option<String>,
    pub(super) token_hash: [u8; 32],
}

impl Record for DeviceRecord {
    const VERSION: u8 = 1;
}

#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub(super) struct TokenRecord {
    pub(super) created_ms: i64,
    pub(super) localpart: String,
    pub(super) device_id: String,
}

impl Record for TokenRecord {
    const VERSION: u8 = 1;
}

const CONFIG: Configuration<LittleEndian, Varint, Limit<FACT_VALUE_BYTES_MAX>> =
    bincode::config::standard().with_limit::<FACT_VALUE_BYTES_MAX>();

pub(super) fn encode<R: Record>(record: &R) -> Result<Bytes, RecordError> {
    let mut bytes = vec![R::VERSION];
    bincode::encode_into_std_write(record, &mut bytes, CONFIG).map_err(RecordError::Encode)?;
    Ok(bytes.into())
}

pub(super) fn decode<R: Record>(bytes: &[u8]) -> Result<R, RecordError> {
    let (found, payload) = bytes.split_first().ok_or(RecordError::Length)?;
    if *found != R::VERSION {
        return Err(RecordError::Version { found: *found, known: R::VERSION });
    }
    let (record, read) = bincode::decode_from_slice(payload, CONFIG).map_err(RecordError::Decode)?;
    if read == payload.len() { Ok(record) } else { Err(RecordError::Length) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bytes_stay_as_they_are() {
        let account = AccountRecord {
            created_ms: 1,
            role: Role::Guest,
            password_hash: Some("$x".to_owned()),
            is_deactivated: true,
        };
        let bytes = encode(&account).unwrap();
        assert_eq!(&bytes[..], b"\x01\x02\x02\x01\x02$x\x01");
        assert_eq!(decode::<AccountRecord>(&bytes).unwrap(), account);
        let device = DeviceRecord { created_ms: -1, display_name: None, token_hash: [7; 32] };
        let bytes = encode(&device).unwrap();
        assert_eq!(bytes[..], [&b"\x01\x01\x00"[..], &[7; 32]].concat());
        let token = TokenRecord { created_ms: 0, localpart: "a".to_owned(), device_id: "B".to_owned() };
        assert_eq!(&encode(&token).unwrap()[..], b"\x01\x00\x01a\x01B");
    }

    #[test]
    fn damage_is_found() {
        let bytes = encode(&TokenRecord { created_ms: 0, localpart: "a".into(), device_id: "B".into() }).unwrap();
        for length in 0..bytes.len() {
            assert!(decode::<TokenRecord>(&bytes[..length]).is_err());
        }
        assert!(matches!(decode::<TokenRecord>(&[&bytes[..], b"x"].concat()), Err(RecordError::Length)));
        assert!(matches!(decode::<TokenRecord>(b"\x02"), Err(RecordError::Version { found: 2, known: 1 })));
        // A length that says more than there is must not be believed.
        assert!(decode::<TokenRecord>(b"\x01\x00\xfd\xff\xff\xff\xff\xff\xff\xff\x7f").is_err());
    }
}
