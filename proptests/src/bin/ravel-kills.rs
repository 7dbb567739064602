//! `ravel-kills`: kills `ravel bench load` over and over, and looks whether all is there that it acknowledged.

use std::{
    io::{self, IsTerminal},
    path::PathBuf,
    process::ExitCode,
};

use clap::Parser;
use ravel_proptests::kills::{self, Options, Target};

/// Kills `ravel bench load` with SIGKILL at random moments, and compares what is stored with what it acknowledged.
#[derive(Debug, Parser)]
#[command(name = "ravel-kills", version, about)]
struct Arguments {
    /// The binary, built with the feature `bench`
    #[arg(long, default_value = "target/release/ravel")]
    binary: PathBuf,
    /// The engine: rocksdb, sled, or built with the feature `postgres` postgres, whose server is killed, too
    #[arg(long)]
    engine: Target,
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
    /// Rather than that, fill a database with so many events in rooms of a thousand, kill the process that writes to it, and measure
    /// five times how long it takes to start again
    #[arg(long, value_name = "EVENTS")]
    measure_start: Option<u64>,
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
    if let Some(events) = arguments.measure_start {
        return measure_start(&options, events);
    }
    let shows = io::stderr().is_terminal();
    let result = kills::run(&options, |summary| {
        if shows || summary.cycles.is_multiple_of(100) {
            eprintln!("{summary}");
        }
    });
    match result {
        Ok(summary) => {
            print(&format!("{}, seed {}: {summary}", options.engine, options.seed));
            ExitCode::SUCCESS
        }
        Err(failure) => {
            let _ = temporary.keep();
            fail(&failure)
        }
    }
}

fn measure_start(options: &Options, events: u64) -> ExitCode {
    let engine = match options.engine {
        Target::Directory(engine) => engine,
        #[cfg(feature = "postgres")]
        Target::Postgres => {
            eprintln!("ravel-kills: starting is measured with a database in a directory");
            return ExitCode::FAILURE;
        }
    };
    let path = options.folder.join(format!("{engine}-start"));
    let database = format!("{engine}:{}", path.display());
    // What is there already is used once more.
    let mut fill = Some(events).filter(|_| !path.exists());
    for run in 1..=5 {
        match kills::measure_start(&options.binary, &database, options.seed, fill.take()) {
            Ok(start) => print(&format!(
                "{engine}, {events} events, run {run}: serving after {} ms, first event acknowledged after {} ms",
                start.serving.as_millis(),
                start.acknowledged.as_millis()
            )),
            Err(problem) => return fail(&problem),
        }
    }
    ExitCode::SUCCESS
}

#[allow(clippy::print_stdout, reason = "it is what this program is for")]
fn print(line: &str) {
    println!("{line}");
}

fn fail(error: &dyn std::error::Error) -> ExitCode {
    eprintln!("ravel-kills: {error}");
    ExitCode::FAILURE
}
