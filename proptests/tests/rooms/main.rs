//! What must hold for every room: in whatever order its events arrive, wherever they are stored, and whatever comes over the wire.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "helpers of tests are tests as well"
)]

mod aside;
mod delivery;
mod hostile_bytes;
mod plain_reducer;
mod replay;
mod security_cases;
mod state_map;
mod storage;
#[path = "../shared/stored_resolution.rs"]
mod stored_resolution;
