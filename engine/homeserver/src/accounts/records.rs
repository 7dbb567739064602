//! What accounts are in the log.

use bincode::{Decode, Encode};

use crate::record::Record;

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

/// That a user is erased.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub(super) struct Erased;

impl Record for Erased {
    const VERSION: u8 = 1;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{RecordError, decode, encode};

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
