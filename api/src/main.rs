//! The binary `ravel`.

use std::process::ExitCode;

/// Small allocations that come and go are most of what a replay does beside hashing. (`ravel bench` has an allocator that counts.)
#[cfg(not(feature = "bench"))]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    ravel_api::cli::run()
}
