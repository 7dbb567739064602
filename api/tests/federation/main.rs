//! Ravel among other servers: it runs as a process, and the others are made for the test.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

#[path = "../shared/http.rs"]
mod http;
#[path = "../client/server.rs"]
#[allow(dead_code, reason = "it is shared with the tests of clients")]
mod server;

mod directory;
mod keys;
mod member;
mod outbound;
mod policy;
mod receiving;
mod redactions;
#[allow(dead_code, reason = "other servers can do more than each test asks of them")]
mod remote;
mod requests;
mod rooms;
mod servers;
mod users;
