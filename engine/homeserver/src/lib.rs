//! A Matrix homeserver on Ravel's engine: rooms, users, delivery and federation, on tokio.
//!
//! The core decides and this crate carries out: it feeds events to rooms, stores what they say, and talks to other servers. Time,
//! randomness and the network come in by narrow traits, so that several servers can run in one process.

pub mod account_data;
pub mod accounts;
pub mod answering;
pub mod clock;
pub mod directory;
pub mod edus;
pub mod ephemeral;
pub mod fact_kind;
pub mod federation;
pub mod filters;
pub mod homeserver;
pub mod joining;
pub mod media;
pub mod network;
pub mod open_id;
mod parallel;
pub mod profiles;
pub mod random;
pub mod receiving;
mod record;
pub mod rooms;
pub mod sending;
pub mod spaces;
pub mod sync;
pub mod to_device;
mod turns;
pub mod upgrade;

#[cfg(test)]
mod testing;
