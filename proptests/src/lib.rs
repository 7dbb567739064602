//! Random rooms of every version, and a second opinion about them: what the property tests of this crate are made of.
//!
//! A [`Plan`](plan::Plan) is a list of small numbers that proptest draws and shrinks; [`Draft`](draft::Draft) makes events of it,
//! hashed, and signed on demand, so that they go through all of the receipt path. [`plain`] reads the text of the specification
//! on state resolution without any of the shortcuts that the product takes. [`rooms`] makes rooms of any size that have a given
//! shape, for measuring too, [`growing`] such as never end; with the feature `ruma`, `ruma` hands rooms to ruma-state-res, with
//! the feature `kills`, `kills` kills the binary under load, and with `faults`, `faults` cuts the power below the storage engines. [`seed`] runs a property on many cases and tells the seed of the one that
//! fails.
#![forbid(unsafe_code)]
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "code for tests: its inputs are its own, and a panic is a failed test"
)]

pub mod draft;
#[cfg(feature = "faults")]
pub mod faults;
pub mod growing;
#[cfg(feature = "kills")]
pub mod kills;
pub mod people;
pub mod plain;
pub mod plan;
pub mod random_json;
pub mod rooms;
#[cfg(feature = "ruma")]
pub mod ruma;
pub mod seed;
#[cfg(any(feature = "faults", feature = "kills"))]
pub mod target;
