//! Ravel compared with the libraries of the ruma project, and with the plain reading of the specification.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "helpers of tests are tests as well")]

mod differences;
mod generated_rooms;
mod resolution;
mod signing;
mod state_resets;
mod written;
