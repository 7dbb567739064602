//! The binary `ravel`.

use std::process::ExitCode;

fn main() -> ExitCode {
    ravel_api::cli::run()
}
