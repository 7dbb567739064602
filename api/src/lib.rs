//! The front of Ravel: the command line and the HTTP server.
//!
//! [`cli`] has the commands and their options; each command is a module of [`command`]. What they share: [`recorded_room`] reads
//! files of recorded rooms, [`database`] opens a store by its name, [`output`] prints for people or programs.
//! [`serve`] is the server: configuration, listeners, and what all routes share.
#![forbid(unsafe_code)]

#[cfg(feature = "backup")]
pub mod backup;
pub mod cli;
pub mod client;
pub mod command;
pub mod database;
pub mod federation;
pub mod output;
pub mod recorded_room;
pub mod serve;
