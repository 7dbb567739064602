//! `ravel-kills`: kills `ravel bench load` over and over, and looks whether all is there that it acknowledged.

use std::{
    io::{self, IsTerminal},
    path::PathBuf,
    process::ExitCode,
};

use clap::Parser;
use ravel_backends::Engine;
use ravel_proptests::kills::{self, Options};

/// Kills `ravel bench load` with SIGKILL at random moments, and compares what is stored with what it acknowledged.
#[derive(Debug, Parser)]
#[command(name = "ravel-kills", version, about)]
struct Arguments {
    /// The binary, built with the feature `bench`
    #[arg(long, default_value = "target/release/ravel")]
    binary: PathBuf,
    /// The engine: rocksdb or sled
    #[arg(long)]
    engine: Engine,
    /// Decides all that chance decides here
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How often to kill
    #[arg(long, default_value_t = 2000)]
    cycles: u64,
    /// The first cycle, to run one database of a long run again
    #[arg(long, default_value_t = 0)]
    first_cycle: u64,
    /// After how many cycles an empty database is begun
    #[arg(long, default_value_t = 50)]
    cycles_of_a_database: u64,
    /// After how many cycles all that is stored is compared with a replay
    #[arg(long, default_value_t = 25)]
    verify_every: u64,
    /// Where the databases are; by default a temporary folder
    #[arg(long)]
    folder: Option<PathBuf>,
    /// Let the binary acknowledge what is not stored yet, which must be found
    #[arg(long)]
    acknowledge_early: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let temporary = match tempfile::tempdir() {
        Ok(folder) => folder,
        Err(error) => return fail(&error),
    };
    let folder = arguments.folder.clone().unwrap_or_else(|| temporary.path().to_owned());
    let options = Options {
        seed: arguments.seed,
        first_cycle: arguments.first_cycle,
        cycles: arguments.cycles,
        cycles_of_a_database: arguments.cycles_of_a_database,
        verify_every: arguments.verify_every,
        acknowledge_early: arguments.acknowledge_early,
        ..Options::new(arguments.binary, arguments.engine, folder)
    };
    let shows = io::stderr().is_terminal();
    let result = kills::run(&options, |summary| {
        if shows || summary.cycles.is_multiple_of(100) {
            eprintln!("{summary}");
        }
    });
    match result {
        Ok(summary) => {
            #[allow(clippy::print_stdout, reason = "it is what this program is for")]
            {
                println!("{}, seed {}: {summary}", options.engine, options.seed);
            }
            ExitCode::SUCCESS
        }
        Err(failure) => {
            let _ = temporary.keep();
            fail(&failure)
        }
    }
}

fn fail(error: &dyn std::error::Error) -> ExitCode {
    eprintln!("ravel-kills: {error}");
    ExitCode::FAILURE
}
