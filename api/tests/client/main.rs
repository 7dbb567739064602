//! The client-server API as clients see it: the real binary, over HTTP.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

mod accounts;
mod directory;
mod disclosure;
mod ephemeral;
#[path = "../shared/http.rs"]
mod http;
mod old;
mod rooms;
mod server;
mod to_device;
mod users;
