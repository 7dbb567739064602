//! The kinds of values that settings have.

use std::{fmt, net::SocketAddr, ops::Deref, path::PathBuf};

use http::{Uri, uri::Scheme};
use ravel_core::{id::ServerName, room_version::RoomVersion};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A kind of value that a setting has.
pub(super) trait Setting {
    /// Whether it is a string in TOML.
    const IS_TEXT: bool;
}

macro_rules! kinds {
    ($is_text:literal: $($kind:ty),+) => { $( impl Setting for $kind { const IS_TEXT: bool = $is_text; } )+ };
}

kinds!(false: bool, u16, u32, u64);
kinds!(true: String, PathBuf, SocketAddr, Secret, Backend, Level, LogFormat);

impl<T: Text> Setting for Written<T> {
    const IS_TEXT: bool = true;
}

impl<T: Setting> Setting for Option<T> {
    const IS_TEXT: bool = T::IS_TEXT;
}

impl<T: Setting> Setting for Vec<T> {
    const IS_TEXT: bool = false;
}

/// Something that is written as a string with a form of its own.
pub trait Text: Sized {
    /// Reads it.
    ///
    /// # Errors
    ///
    /// What is wrong with it.
    fn read(text: &str) -> Result<Self, InvalidText>;

    /// Writes it.
    fn write(&self) -> String;
}

/// What is wrong with a string.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)]
pub enum InvalidText {
    #[error("{0}")]
    Id(#[from] ravel_core::id::InvalidId),
    #[error("not a room version that is known here; they are \"1\" to \"12\"")]
    RoomVersion,
    #[error("not an address that begins with https:// or http:// and has no query")]
    Url,
}

/// A value that is written as a string.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written<T>(pub T);

impl<T> Deref for Written<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<'de, T: Text> Deserialize<'de> for Written<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        T::read(&text).map(Self).map_err(|why| de::Error::custom(format_args!("{text:?} is {why}")))
    }
}

impl<T: Text> Serialize for Written<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0.write())
    }
}

impl Text for ServerName {
    fn read(text: &str) -> Result<Self, InvalidText> {
        Ok(Self::parse(text)?)
    }

    fn write(&self) -> String {
        self.to_string()
    }
}

impl Text for RoomVersion {
    fn read(text: &str) -> Result<Self, InvalidText> {
        Self::parse(text).ok_or(InvalidText::RoomVersion)
    }

    fn write(&self) -> String {
        self.to_string()
    }
}

/// An address of HTTP or HTTPS to which paths are added.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BaseUrl {
    /// Invariant: has scheme and authority and does not end with a slash.
    text: String,
    /// Host, and port if it is not the scheme's.
    host: String,
    port: u16,
}

impl BaseUrl {
    /// Returns the address without a slash at its end.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Returns host and port, which is always there, as a server name that needs no further discovery.
    pub fn host_and_port(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }
}

impl Text for BaseUrl {
    fn read(text: &str) -> Result<Self, InvalidText> {
        let uri: Uri = text.parse().map_err(|_| InvalidText::Url)?;
        let scheme = uri.scheme().ok_or(InvalidText::Url)?;
        let port = if *scheme == Scheme::HTTPS { 443 } else { 80 };
        let authority = uri.authority().ok_or(InvalidText::Url)?;
        let is_web = *scheme == Scheme::HTTPS || *scheme == Scheme::HTTP;
        if !is_web || uri.query().is_some() || authority.host().is_empty() || authority.as_str().contains('@') {
            return Err(InvalidText::Url);
        }
        let port = authority.port_u16().unwrap_or(port);
        Ok(Self { text: text.trim_end_matches('/').to_owned(), host: authority.host().to_owned(), port })
    }

    fn write(&self) -> String {
        self.text.clone()
    }
}

/// A text that is never shown, neither in messages nor in logs.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Returns the text.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str("<secret>")
    }
}

/// A storage engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum Backend {
    RocksDb,
    Sled,
    Memory,
    Postgres,
}

/// How much is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum Level {
    Off,
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

/// How it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum LogFormat {
    Text,
    Json,
}
