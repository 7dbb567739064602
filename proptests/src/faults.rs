//! Faults below the engines: power cuts, failed writes and syncs, full disks, flipped bits.
//!
//! A [`script`] of a seed is what a store goes through. It runs in a process of its own with a [`shim`] between it and the file
//! system, which records every call ([`trace`]) or lets some fail. From a record, [`disk`] makes what a disk may hold after power
//! is lost at any moment, and [`check`] tells whether a store in that state keeps its promises.
//!
//! The program `ravel-faults` runs these by the thousand; `docs/reliability.md` tells of it.

pub mod bit_flips;
pub mod campaign;
pub mod check;
pub mod disk;
pub mod failing_calls;
pub mod power_cuts;
pub mod real_disk;
pub mod run;
pub mod script;
pub mod shim;
pub mod trace;
