//! Measuring state resolution: generated rooms, and the same rooms for ruma-state-res.

pub mod rooms;
pub mod ruma;
