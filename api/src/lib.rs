//! The front of Ravel: for now the command line, later the HTTP APIs too.
//!
//! [`cli`] has the commands and their options; each command is a module of [`command`]. What they share: [`recorded_room`] reads
//! files of recorded rooms, [`database`] opens a store by its name, [`output`] prints for people or programs.
#![forbid(unsafe_code)]

#[cfg(feature = "backup")]
pub mod backup;
pub mod cli;
pub mod command;
pub mod database;
pub mod output;
pub mod recorded_room;
