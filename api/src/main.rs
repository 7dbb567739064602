//! The binary `ravel`.

use std::process::ExitCode;

/// Small allocations that come and go are most of what a replay does beside hashing. It takes the place of C's `malloc` too, for RocksDB.
#[cfg(not(feature = "bench"))]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The allocator of `ravel bench` counts, and asks `malloc`.
#[cfg(feature = "bench")]
use mimalloc as _;

fn main() -> ExitCode {
    ravel_api::cli::run()
}
