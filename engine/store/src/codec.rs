//! How a record becomes the bytes of a value: a version, the payload as bincode writes it, a checksum.
//!
//! ```text
//! byte 0          format version of the record's type
//! byte 1..n-4     payload: bincode 2, little-endian, variable-length integers
//! byte n-4..n     CRC32C (Castagnoli), little-endian, over the keyspace's byte and bytes 0..n-4
//! ```
//!
//! This is the only module that knows bincode.

use std::sync::Arc;

use bincode::{
    Decode, Encode,
    config::{Configuration, Limit, LittleEndian, Varint},
    enc::write::SizeWriter,
};

use crate::{BoundedBy, Keyspace, StoreError, VALUE_BYTES_MAX, batch::check};

/// A type whose values are stored, each kind in one keyspace.
///
/// `Encode` and `Decode` are bincode's derives. The order of fields and of variants is the stored format: whoever changes it
/// raises `VERSION`.
pub trait Record: Encode + Decode<()> {
    /// Format version, the first byte of each record.
    const VERSION: u8;
    /// The keyspace the records are stored in.
    const KEYSPACE: Keyspace;
}

/// Returns the bytes of a record.
///
/// # Errors
/// `TooLarge` if a value would be; `Encode` if a hand-written `Encode` refuses.
pub fn encode<R: Record>(record: &R) -> Result<Vec<u8>, StoreError> {
    let refused = |error| StoreError::Encode { keyspace: R::KEYSPACE, source: Arc::new(error) };
    // Counted first, so that the bytes need not move as they grow.
    let mut size = SizeWriter::default();
    bincode::encode_into_writer(record, &mut size, CONFIG).map_err(refused)?;
    let mut bytes = Vec::with_capacity(1 + size.bytes_written + size_of::<u32>());
    bytes.push(R::VERSION);
    bincode::encode_into_std_write(record, &mut bytes, CONFIG).map_err(refused)?;
    let checksum = checksum(R::KEYSPACE, &bytes);
    bytes.extend_from_slice(&checksum.to_le_bytes());
    check(BoundedBy::Value, bytes.len(), VALUE_BYTES_MAX)?;
    Ok(bytes)
}

/// Returns the record of some bytes; `key` is for the error.
///
/// Never allocates more than a small multiple of [`VALUE_BYTES_MAX`], whatever the bytes say.
///
/// # Errors
/// `Corrupt` if the checksum, the payload or its end is not what [`encode`] writes; `RecordVersion` if the checksum is
/// right and the version is not the type's.
pub fn decode<R: Record>(key: &[u8], bytes: &[u8]) -> Result<R, StoreError> {
    let corrupt = |expected| StoreError::corrupt(R::KEYSPACE, key, expected);
    check(BoundedBy::Value, bytes.len(), VALUE_BYTES_MAX)?;
    let (body, stored) = bytes.split_last_chunk().ok_or_else(|| corrupt("a record of five bytes or more"))?;
    let (version, payload) = body.split_first().ok_or_else(|| corrupt("a record of five bytes or more"))?;
    if u32::from_le_bytes(*stored) != checksum(R::KEYSPACE, body) {
        return Err(corrupt("a record with a right checksum"));
    }
    if *version != R::VERSION {
        return Err(StoreError::RecordVersion {
            keyspace: R::KEYSPACE,
            key: crate::ShortKey::new(key),
            found: *version,
            known: R::VERSION,
        });
    }
    match bincode::decode_from_slice(payload, CONFIG) {
        Ok((record, read)) if read == payload.len() => Ok(record),
        Ok(_) => Err(corrupt("a record that ends where its payload does")),
        Err(error) => Err(StoreError::Corrupt {
            keyspace: Some(R::KEYSPACE),
            key: Some(crate::ShortKey::new(key)),
            expected: "a payload of the record's type",
            source: Some(Arc::new(error)),
        }),
    }
}

/// The keyspace is part of the sum, so that a record found in another keyspace is noticed.
fn checksum(keyspace: Keyspace, body: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&[keyspace.byte()]), body)
}

const CONFIG: Configuration<LittleEndian, Varint, Limit<VALUE_BYTES_MAX>> =
    bincode::config::standard().with_limit::<VALUE_BYTES_MAX>();

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Clone, PartialEq, Encode, Decode)]
    struct Sample {
        number: u64,
        text: String,
        list: Vec<u8>,
    }

    impl Record for Sample {
        const VERSION: u8 = 3;
        const KEYSPACE: Keyspace = Keyspace::Meta;
    }

    #[derive(Debug, Encode, Decode)]
    struct Longer(Sample, u8);

    impl Record for Longer {
        const VERSION: u8 = 3;
        const KEYSPACE: Keyspace = Keyspace::Meta;
    }

    #[derive(Debug, Encode, Decode)]
    struct Newer(Sample);

    impl Record for Newer {
        const VERSION: u8 = 4;
        const KEYSPACE: Keyspace = Keyspace::Meta;
    }

    #[derive(Debug, Encode, Decode)]
    struct Elsewhere(Sample);

    impl Record for Elsewhere {
        const VERSION: u8 = 3;
        const KEYSPACE: Keyspace = Keyspace::Rooms;
    }

    fn sample() -> Sample {
        Sample { number: 300, text: "room".into(), list: vec![1, 2, 3] }
    }

    fn expectation(result: Result<impl std::fmt::Debug, StoreError>) -> &'static str {
        match result.unwrap_err() {
            StoreError::Corrupt { expected, .. } => expected,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_bytes_are_as_documented() {
        let bytes = encode(&sample()).unwrap();
        assert_eq!(bytes[..bytes.len() - 4], *b"\x03\xfb\x2c\x01\x04room\x03\x01\x02\x03");
        // CRC32C of 01 and the bytes above: the known answer of the polynomial 0x1EDC6F41, computed by hand once.
        assert_eq!(crc32c::crc32c(b"123456789"), 0xE306_9283);
        assert_eq!(decode::<Sample>(b"k", &bytes).unwrap(), sample());
    }

    #[test]
    fn every_flipped_bit_is_found() {
        let bytes = encode(&sample()).unwrap();
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(expectation(decode::<Sample>(b"k", &flipped)), "a record with a right checksum", "bit {bit}");
        }
    }

    #[test]
    fn every_shortened_record_is_found() {
        let bytes = encode(&sample()).unwrap();
        for len in 0..bytes.len() {
            decode::<Sample>(b"k", &bytes[..len]).unwrap_err();
        }
    }

    #[test]
    fn other_versions_types_and_keyspaces_are_refused() {
        let newer = encode(&Newer(sample())).unwrap();
        let error = decode::<Sample>(b"k", &newer).unwrap_err();
        assert!(matches!(error, StoreError::RecordVersion { found: 4, known: 3, .. }));
        assert_eq!(error.to_string(), "meta at 0x6b is a record of version 4, this program knows version 3");
        let longer = encode(&Longer(sample(), 0)).unwrap();
        assert_eq!(expectation(decode::<Sample>(b"k", &longer)), "a record that ends where its payload does");
        let short = encode(&sample()).unwrap();
        assert_eq!(expectation(decode::<Longer>(b"k", &short)), "a payload of the record's type");
        let elsewhere = encode(&Elsewhere(sample())).unwrap();
        assert_eq!(expectation(decode::<Sample>(b"k", &elsewhere)), "a record with a right checksum");
    }

    /// A length that says more than there is must not be believed.
    #[test]
    fn decoding_is_bounded() {
        let mut bytes = vec![Sample::VERSION, 0, 0, 253];
        bytes.extend_from_slice(&u64::MAX.to_le_bytes());
        let sum = checksum(Sample::KEYSPACE, &bytes);
        bytes.extend_from_slice(&sum.to_le_bytes());
        assert_eq!(expectation(decode::<Sample>(b"k", &bytes)), "a payload of the record's type");
        let large = Sample { list: vec![0; VALUE_BYTES_MAX], ..sample() };
        assert!(matches!(encode(&large), Err(StoreError::TooLarge { what: BoundedBy::Value, .. })));
    }
}
