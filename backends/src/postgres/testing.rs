//! PostgreSQL servers for tests: clusters of their own in a folder, on a free port, made with the programs that are installed.
//!
//! With the feature `testing`. Debian's packages are found, and so is what is in the path.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "code for tests: a panic is a failed test")]

mod cluster;
mod shared;

pub use self::{
    cluster::{Attended, Cluster, free_port},
    shared::cluster as shared_cluster,
};
