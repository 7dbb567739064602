//! The messages: how they lie on the wire, and how errors travel.
//!
//! Each side first sends six bytes of greeting; then the client asks and the server answers, one after the other. A message is its
//! length (4 bytes, little-endian) and what bincode makes of it. Nothing is believed that is over a bound.

use std::{
    io::{self, Read, Write},
    sync::Arc,
};

use bincode::{
    BorrowDecode, Encode,
    config::{Configuration, Limit, LittleEndian, Varint},
};
use ravel_store::{
    BoundedBy, Keyspace, Operation, PAGE_BYTES_MAX, ShortKey, StoreError, VALUE_BYTES_MAX, log::LogError,
};

use super::client::RemoteFailure;

/// What both sides begin with; the last byte is the version of the messages.
pub(super) const GREETING: [u8; 6] = *b"ravel\x01";

/// What the server adds to its greeting.
pub(super) const WELCOME: u8 = 0;
/// As [`WELCOME`], but there are too many connections, and this one ends.
pub(super) const BUSY: u8 = 1;

/// Length of the longest message, in bytes: a page with its last item, or the keys of a look-up, and what is around them.
pub(super) const MESSAGE_BYTES_MAX: usize = PAGE_BYTES_MAX + VALUE_BYTES_MAX + 3 * 1024 * 1024;
/// Size at which the values of a look-up are continued in another message.
pub(super) const VALUES_BYTES: usize = PAGE_BYTES_MAX;

/// What a client asks.
#[derive(Debug, PartialEq, Encode, BorrowDecode)]
pub(super) enum Request<'a> {
    /// Answered by [`Response::Values`], several of them if they are many.
    GetMany { keyspace: u8, keys: Vec<&'a [u8]> },
    /// Answered by [`Response::Page`].
    Scan { keyspace: u8, start: &'a [u8], end: Option<&'a [u8]>, backward: bool, items: u64, bytes: u64 },
    /// Answered by [`Response::Description`].
    Describe,
    /// Answered by [`Response::Watching`], and then by bytes: [`TOUCHED`] for one or more commits that touch the prefix. The
    /// connection is good for nothing else afterwards.
    Watch { keyspace: u8, prefix: &'a [u8] },
    /// Answered by [`Response::Sealed`].
    Seal { to: &'a str },
}

/// What the server answers.
#[derive(Debug, PartialEq, Encode, BorrowDecode)]
pub(super) enum Response<'a> {
    Values { values: Vec<Option<&'a [u8]>>, more: bool },
    Page { items: Vec<(&'a [u8], &'a [u8])>, next: Option<&'a [u8]> },
    Description { engine: &'a str, layout: Option<u32>, size_on_disk: u64 },
    Watching,
    Sealed { entries: u64 },
    Failed(WireError),
}

/// Tells of a touch of what is watched.
pub(super) const TOUCHED: u8 = 1;

/// An error of the store, as far as it can travel.
#[derive(Debug, PartialEq, Encode, BorrowDecode)]
pub(super) enum WireError {
    Corrupt { place: Place, message: String },
    Io { operation: u8, place: Place, message: String },
    Full { operation: u8, message: String },
    TooLarge { what: u8, size: u64, max: u64 },
    Halted,
    Overtaken { epoch: u64 },
    Closed,
    ReadOnly,
    Moved { to: String },
    Other { message: String },
}

/// Keyspace and key that an error is about: the key's start and its length.
#[derive(Debug, Default, PartialEq, Encode, BorrowDecode)]
pub(super) struct Place {
    keyspace: Option<u8>,
    key: Option<(Vec<u8>, u64)>,
}

impl Place {
    fn of(keyspace: Option<Keyspace>, key: Option<&ShortKey>) -> Self {
        Self {
            keyspace: keyspace.map(Keyspace::byte),
            key: key.map(|key| (key.start().to_owned(), key.len_bytes() as u64)),
        }
    }

    fn into_parts(self) -> (Option<Keyspace>, Option<ShortKey>) {
        let key = self.key.map(|(start, len)| ShortKey::from_parts(&start, usize::try_from(len).unwrap_or(usize::MAX)));
        (self.keyspace.and_then(Keyspace::from_byte), key)
    }
}

impl From<&StoreError> for WireError {
    fn from(error: &StoreError) -> Self {
        match error {
            StoreError::Corrupt { keyspace, key, expected, source } => {
                let message = source.as_ref().map_or_else(|| (*expected).to_owned(), |s| format!("{expected} ({s})"));
                Self::Corrupt { place: Place::of(*keyspace, key.as_ref()), message }
            }
            StoreError::Io { operation, keyspace, key, source } => Self::Io {
                operation: operation_to_byte(*operation),
                place: Place::of(*keyspace, key.as_ref()),
                message: source.to_string(),
            },
            StoreError::Full { operation, source } => {
                Self::Full { operation: operation_to_byte(*operation), message: source.to_string() }
            }
            StoreError::TooLarge { what, size, max } => {
                Self::TooLarge { what: bound_to_byte(*what), size: *size as u64, max: *max as u64 }
            }
            StoreError::Halted => Self::Halted,
            StoreError::Overtaken { epoch } => Self::Overtaken { epoch: *epoch },
            StoreError::Closed => Self::Closed,
            StoreError::ReadOnly => Self::ReadOnly,
            other => Self::Other { message: with_causes(other) },
        }
    }
}

impl From<&LogError> for WireError {
    fn from(error: &LogError) -> Self {
        match error {
            LogError::Store(error) => error.into(),
            LogError::Moved { to } => Self::Moved { to: to.clone() },
            other => Self::Other { message: with_causes(other) },
        }
    }
}

impl From<WireError> for StoreError {
    fn from(error: WireError) -> Self {
        let source = |message| Arc::new(RemoteFailure::Said(message));
        match error {
            WireError::Corrupt { place, message } => {
                let (keyspace, key) = place.into_parts();
                let expected = "what the process that has the database open expects";
                Self::Corrupt { keyspace, key, expected, source: Some(source(message)) }
            }
            WireError::Io { operation, place, message } => {
                let (keyspace, key) = place.into_parts();
                Self::Io { operation: operation_from_byte(operation), keyspace, key, source: source(message) }
            }
            WireError::Full { operation, message } => {
                Self::Full { operation: operation_from_byte(operation), source: source(message) }
            }
            WireError::TooLarge { what, size, max } => {
                let number = |number| usize::try_from(number).unwrap_or(usize::MAX);
                Self::TooLarge { what: bound_from_byte(what), size: number(size), max: number(max) }
            }
            WireError::Halted => Self::Halted,
            WireError::Overtaken { epoch } => Self::Overtaken { epoch },
            WireError::Closed => Self::Closed,
            WireError::ReadOnly => Self::ReadOnly,
            WireError::Moved { to } => Self::io(Operation::Commit, Arc::new(RemoteFailure::Moved { to })),
            WireError::Other { message } => Self::io(Operation::Get, source(message)),
        }
    }
}

/// Returns an error's message with those of its causes.
pub(super) fn with_causes(error: &dyn std::error::Error) -> String {
    let mut message = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        message = format!("{message}: {error}");
        cause = error.source();
    }
    message
}

/// Returns a message as it lies on the wire.
pub(super) fn encode<T: Encode>(message: &T) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; LENGTH_BYTES];
    bincode::encode_into_std_write(message, &mut bytes, CONFIG).map_err(io::Error::other)?;
    let len = bytes.len().saturating_sub(LENGTH_BYTES);
    let prefix = u32::try_from(len).ok().filter(|_| len <= MESSAGE_BYTES_MAX).ok_or_else(too_long)?;
    for (byte, value) in bytes.iter_mut().zip(prefix.to_le_bytes()) {
        *byte = value;
    }
    Ok(bytes)
}

/// Sends a message.
pub(super) fn send<T: Encode>(stream: &mut impl Write, message: &T) -> io::Result<()> {
    stream.write_all(&encode(message)?)
}

/// Returns the bytes of the next message, `None` if the other side has ended the connection.
pub(super) fn receive(stream: &mut impl Read) -> io::Result<Option<Vec<u8>>> {
    let mut prefix = [0; LENGTH_BYTES];
    let mut read = 0;
    while let Some(rest) = prefix.get_mut(read..).filter(|rest| !rest.is_empty()) {
        match stream.read(rest) {
            Ok(0) if read == 0 => return Ok(None),
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => read += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    let len = u32::from_le_bytes(prefix) as usize;
    if len > MESSAGE_BYTES_MAX {
        return Err(too_long());
    }
    // Grows as bytes arrive: a length alone makes nobody allocate it.
    let mut message = Vec::new();
    stream.take(len as u64).read_to_end(&mut message)?;
    if message.len() == len { Ok(Some(message)) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

/// Returns the message that some bytes are, all of them.
pub(super) fn decode<'a, T: BorrowDecode<'a, ()>>(bytes: &'a [u8]) -> io::Result<T> {
    match bincode::borrow_decode_from_slice(bytes, CONFIG) {
        Ok((message, read)) if read == bytes.len() => Ok(message),
        Ok(_) => Err(io::Error::new(io::ErrorKind::InvalidData, "a message is longer than what is in it")),
        Err(error) => Err(io::Error::new(io::ErrorKind::InvalidData, error)),
    }
}

fn too_long() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "a message is over the bound")
}

fn operation_to_byte(operation: Operation) -> u8 {
    OPERATIONS.iter().zip(0..).find(|(known, _)| **known == operation).map_or(0, |(_, byte)| byte)
}

fn operation_from_byte(byte: u8) -> Operation {
    OPERATIONS.get(usize::from(byte)).copied().unwrap_or(Operation::Get)
}

fn bound_to_byte(bound: BoundedBy) -> u8 {
    BOUNDS.iter().zip(0..).find(|(known, _)| **known == bound).map_or(0, |(_, byte)| byte)
}

fn bound_from_byte(byte: u8) -> BoundedBy {
    BOUNDS.get(usize::from(byte)).copied().unwrap_or(BoundedBy::Key)
}

const LENGTH_BYTES: usize = 4;
const OPERATIONS: [Operation; 6] =
    [Operation::Open, Operation::Commit, Operation::Flush, Operation::Get, Operation::Scan, Operation::Describe];
const BOUNDS: [BoundedBy; 4] = [BoundedBy::Key, BoundedBy::Value, BoundedBy::Batch, BoundedBy::Keys];

/// The limit is on what decoding allocates: lists of slices take up to 32 bytes an item beside the message itself.
const CONFIG: Configuration<LittleEndian, Varint, Limit<DECODED_BYTES_MAX>> =
    bincode::config::standard().with_limit::<DECODED_BYTES_MAX>();
const DECODED_BYTES_MAX: usize = 2 * MESSAGE_BYTES_MAX;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_read_back() {
        let scan = Request::Scan { keyspace: 3, start: b"a", end: Some(b"b"), backward: true, items: 7, bytes: 8 };
        let sent = encode(&scan).unwrap();
        let received = receive(&mut &sent[..]).unwrap().unwrap();
        assert_eq!(decode::<Request<'_>>(&received).unwrap(), scan);
        assert_eq!(receive(&mut &b""[..]).unwrap(), None);
        for len in 1..sent.len() {
            assert_eq!(receive(&mut &sent[..len]).unwrap_err().kind(), io::ErrorKind::UnexpectedEof, "{len}");
        }
    }

    #[test]
    fn what_is_over_a_bound_is_refused() {
        let mut long = u32::try_from(MESSAGE_BYTES_MAX + 1).unwrap().to_le_bytes().to_vec();
        long.extend([0; 16]);
        assert_eq!(receive(&mut &long[..]).unwrap_err().kind(), io::ErrorKind::InvalidData);
        // A list that says it has 2^64 - 1 keys, and one of a length that is not there.
        for claim in [&[253, 255, 255, 255, 255, 255, 255, 255, 255][..], &[252, 0, 0, 0, 1]] {
            let message = [&[0, 3][..], claim].concat();
            assert_eq!(decode::<Request<'_>>(&message).unwrap_err().kind(), io::ErrorKind::InvalidData);
        }
        let trailing = [encode(&Request::Describe).unwrap(), vec![0]].concat();
        assert_eq!(decode::<Request<'_>>(&trailing[LENGTH_BYTES..]).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn errors_keep_their_kind_and_place() {
        let check = |error: StoreError, message: &str| {
            let wire = WireError::from(&error);
            let bytes = encode(&Response::Failed(wire)).unwrap();
            let Response::Failed(wire) = decode(&bytes[LENGTH_BYTES..]).unwrap() else { panic!() };
            let arrived = StoreError::from(wire);
            assert_eq!(std::mem::discriminant(&arrived), std::mem::discriminant(&error));
            assert_eq!(with_causes(&arrived), message);
        };
        check(
            StoreError::corrupt(Keyspace::Log, &[7; 30], "a checksum"),
            &format!(
                "corrupt log at 0x{}... (30 bytes): expected what the process that has the database open expects: a checksum",
                "07".repeat(24)
            ),
        );
        let io = StoreError::from_io(Operation::Scan, io::Error::other("worn out")).at(Keyspace::Meta, Some(b"k"));
        check(io, "cannot scan meta at 0x6b: worn out");
        check(
            StoreError::from_io(Operation::Commit, io::ErrorKind::StorageFull.into()),
            "no space left to commit to: no storage space",
        );
        check(
            StoreError::TooLarge { what: BoundedBy::Keys, size: 9, max: 8 },
            "a count of keys of 9 is over the bound of 8",
        );
        check(StoreError::Halted, &StoreError::Halted.to_string());
        check(StoreError::Closed, "the store was closed");
    }
}
