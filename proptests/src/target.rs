//! The engines to test, by the names that they have on command lines.

use std::{fmt, str::FromStr};

use ravel_backends::{Engine, UnknownEngine};

/// An engine to test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// An engine in the process, with a directory.
    Directory(Engine),
    /// A PostgreSQL server, which is made for this.
    #[cfg(feature = "postgres")]
    Postgres,
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Directory(engine) => engine.fmt(f),
            #[cfg(feature = "postgres")]
            Self::Postgres => f.write_str("postgres"),
        }
    }
}

impl FromStr for Target {
    type Err = UnknownEngine;

    fn from_str(name: &str) -> Result<Self, UnknownEngine> {
        match name {
            #[cfg(feature = "postgres")]
            "postgres" => Ok(Self::Postgres),
            name => name.parse().map(Self::Directory),
        }
    }
}
