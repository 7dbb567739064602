//! Rooms and vectors with known answers.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "helpers of tests are tests as well")]

mod recorded_rooms;
mod spec_vectors;
#[path = "../shared/stored_resolution.rs"]
mod stored_resolution;

use std::path::{Path, PathBuf};

/// Returns a path in `corpus`.
fn corpus(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(path)
}

/// Returns a path in the folder of shared data, if it is there: `RAVEL_SHARED`, or `shared` beside the workspace.
fn shared(path: &str) -> Option<PathBuf> {
    let beside = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared");
    let path = std::env::var_os("RAVEL_SHARED").map_or_else(beside, PathBuf::from).join(path);
    path.exists().then_some(path)
}
