//! The command line as its users see it: the real binary on recorded rooms, and on files and databases that are broken.
//!
//! The rooms are those of `proptests/corpus`, recorded from deployed servers; every broken one is made of them here.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

#[cfg(feature = "backup")]
mod backups;
#[cfg(feature = "bench")]
mod bench;
mod commands;
mod configuration;
mod databases;
mod files;
#[path = "../shared/http.rs"]
mod http;
mod live;
#[cfg(feature = "postgres")]
mod postgres;
mod serve;
mod server;
mod several;
mod space;
mod support;
mod verdicts;
mod writer;
