//! Faults below the engines, by the thousand: `docs/reliability.md` tells what for.
#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, reason = "a program for the command line")]

use std::{
    env,
    error::Error,
    io,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    time::{Duration, Instant},
};

use clap::{Args, Parser, Subcommand};
use ravel_backends::Engine;
use ravel_proptests::faults::{
    bit_flips::{BitFlips, ClusterFiles},
    campaign::{Campaign, Failure, Report, Speaker},
    disk::Promises,
    failing_calls::{FailingCalls, Kind, run_faulty},
    power_cuts::PowerCuts,
    real_disk::RealDisk,
    run,
    script::Size,
};
use ravel_proptests::target::Target;

#[derive(Parser)]
#[command(about = "Lets power fail, disks fill up and bits flip below a store, and checks what it promised")]
struct Cli {
    #[command(subcommand)]
    command: What,
}

#[derive(Subcommand)]
enum What {
    /// Power is lost at any moment: what was not synced survives or not, by sectors and in any order.
    PowerCuts(PowerCutsArgs),
    /// Power is lost below ext4 on a loop device: a copy of the device is mounted; needs to be root.
    RealDisk(RealDiskArgs),
    /// One bit of one file of a store is changed.
    BitFlips(BitFlipsArgs),
    /// Writes or syncs fail, or there is no room for a while.
    FailingCalls(FailingCallsArgs),
    /// Runs a script; the other commands start this.
    #[command(hide = true)]
    RunScript(RunArgs),
    /// Runs a script and what comes after its first error; the other commands start this.
    #[command(hide = true)]
    RunFaulty(RunArgs),
}

#[derive(Args, Clone)]
struct Many {
    /// The engine: rocksdb or sled; for bit flips, in a build with the feature `postgres`, also postgres.
    #[arg(long)]
    engine: Target,
    /// The seed of the first case; each case has the next one.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How many faults in all.
    #[arg(long, default_value_t = 1_000)]
    count: u64,
    /// How many cases run at the same time.
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// A folder to work in, in memory if possible.
    #[arg(long)]
    work: Option<PathBuf>,
    /// Where cases that failed are kept.
    #[arg(long, default_value = "target/ravel-faults")]
    keep: PathBuf,
    /// Ends after so many failures.
    #[arg(long, default_value_t = 20)]
    failures_max: usize,
    /// Runs the case of the seed in this process; the program starts itself so.
    #[arg(long, hide = true)]
    one: bool,
}

#[derive(Args, Clone)]
struct PowerCutsArgs {
    #[command(flatten)]
    many: Many,
    /// How many cuts there are for each recorded script.
    #[arg(long, default_value_t = 250)]
    cuts_per_script: u64,
    /// Short scripts.
    #[arg(long)]
    small: bool,
    /// What the file system promises: posix, posix-and-garbage, journal; or a lie: no-data-sync, nothing.
    #[arg(long, default_value = "posix", value_parser = promises)]
    promises: Promises,
    /// Holds weaker commits to the promise of the others, which fails.
    #[arg(long)]
    relaxed_counts_as_durable: bool,
    /// Checks this cut only.
    #[arg(long)]
    cut: Option<u64>,
    /// The record of an earlier run.
    #[arg(long)]
    trace: Option<PathBuf>,
}

#[derive(Args, Clone)]
struct RealDiskArgs {
    #[command(flatten)]
    many: Many,
    /// How many cuts there are for each script, at most: a script ends some time.
    #[arg(long, default_value_t = 20)]
    cuts_per_script: u64,
    /// Short scripts.
    #[arg(long)]
    small: bool,
}

#[derive(Args, Clone)]
struct BitFlipsArgs {
    #[command(flatten)]
    many: Many,
    /// How many flips there are for each store.
    #[arg(long, default_value_t = 250)]
    flips_per_store: u64,
    /// Short scripts.
    #[arg(long)]
    small: bool,
    /// Which files of a PostgreSQL cluster: all, checked (not those of the outcomes of transactions), outcomes (only those).
    #[arg(long, default_value = "all", value_parser = cluster_files)]
    files: ClusterFiles,
    /// Let PostgreSQL's VACUUM go over the tables before.
    #[arg(long)]
    vacuum: bool,
    /// Have PostgreSQL's pages without checksums, which gives wrong answers.
    #[arg(long)]
    no_checksums: bool,
    /// Checks this flip only.
    #[arg(long)]
    flip: Option<u64>,
}

#[derive(Args, Clone)]
struct FailingCallsArgs {
    #[command(flatten)]
    many: Many,
    /// What fails: writes, syncs or full-disk.
    #[arg(long, value_parser = kind)]
    kind: Kind,
    /// How many faults there are for each script.
    #[arg(long, default_value_t = 50)]
    faults_per_script: u64,
    /// Short scripts.
    #[arg(long)]
    small: bool,
    /// Checks this fault only.
    #[arg(long)]
    fault: Option<u64>,
}

#[derive(Args)]
struct RunArgs {
    #[arg(long)]
    engine: Engine,
    #[arg(long)]
    seed: u64,
    #[arg(long)]
    work: PathBuf,
    #[arg(long)]
    small: bool,
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        What::PowerCuts(args) => power_cuts(&args),
        What::RealDisk(args) => real_disk(&args),
        What::BitFlips(args) => bit_flips(&args),
        What::FailingCalls(args) => failing_calls(&args),
        What::RunFaulty(args) => {
            run_faulty(args.engine, &args.work, args.seed, size(args.small)).map(|()| true).map_err(Into::into)
        }
        What::RunScript(args) => {
            run::run(args.engine, &args.work, args.seed, size(args.small)).map(|()| true).map_err(Into::into)
        }
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("ravel-faults: {}", ravel_proptests::faults::check::full(&*error));
            ExitCode::from(2)
        }
    }
}

type Outcome = Result<bool, Box<dyn Error>>;

fn power_cuts(args: &PowerCutsArgs) -> Outcome {
    let program = env::current_exe()?;
    let many = &args.many;
    let engine = many.engine()?;
    if many.one || args.cut.is_some() {
        let cuts = PowerCuts {
            engine,
            seed: many.seed,
            size: size(args.small),
            cuts: args.cut.map_or(many.count, |cut| cut + 1),
            only: args.cut,
            promises: args.promises,
            relaxed_counts_as_durable: args.relaxed_counts_as_durable,
            work: many.work(),
            program,
            trace: args.trace.clone(),
        };
        let mut speaker = Speaker::new(io::stdout().lock());
        cuts.run(&mut speaker)?;
        return Ok(many.one || speaker.failed == 0);
    }
    let began = Instant::now();
    let report = many.campaign(args.cuts_per_script).run(|seed, count, work| {
        let mut command = many.one_case("power-cuts", &program, seed, count, work);
        command.args(["--promises", promises_name(args.promises)]);
        command.args(args.small.then_some("--small"));
        command.args(args.relaxed_counts_as_durable.then_some("--relaxed-counts-as-durable"));
        command
    })?;
    let trace = many.keep.join("SEED").join("trace");
    let more = format!(" --trace {}{}", trace.display(), if args.small { " --small" } else { "" });
    many.show_failures("power-cuts", "--cut", &more, &report);
    Ok(many.summary("power cuts", &report, began.elapsed()))
}

fn real_disk(args: &RealDiskArgs) -> Outcome {
    let many = &args.many;
    let engine = many.engine()?;
    let program = env::current_exe()?;
    if many.one {
        let disk =
            RealDisk { engine, seed: many.seed, size: size(args.small), cuts: many.count, work: many.work(), program };
        disk.run(&mut Speaker::new(io::stdout().lock()))?;
        return Ok(true);
    }
    if let Err(reason) = RealDisk::try_out(&many.work()) {
        println!("power cuts on ext4: {}: NOT TESTED: {reason}", many.engine);
        return Ok(true);
    }
    let began = Instant::now();
    let report = many.campaign(args.cuts_per_script).run(|seed, count, work| {
        let mut command = many.one_case("real-disk", &program, seed, count, work);
        command.args(args.small.then_some("--small"));
        command
    })?;
    for Failure { seed, fault, problem } in &report.failures {
        let kept = many.keep.join(seed.to_string());
        println!("FAILED {} seed {seed} cut {fault}: {problem}; the copies are in {}", many.engine, kept.display());
    }
    Ok(many.summary("power cuts on ext4", &report, began.elapsed()))
}

fn bit_flips(args: &BitFlipsArgs) -> Outcome {
    let many = &args.many;
    if many.one || args.flip.is_some() {
        let flips = BitFlips {
            engine: many.engine,
            seed: many.seed,
            size: size(args.small),
            flips: args.flip.map_or(many.count, |flip| flip + 1),
            only: args.flip,
            files: args.files,
            vacuum: args.vacuum,
            checksums: !args.no_checksums,
            work: many.work(),
        };
        let mut speaker = Speaker::new(io::stdout().lock());
        flips.run(&mut speaker)?;
        return Ok(many.one || speaker.failed == 0);
    }
    let program = env::current_exe()?;
    let began = Instant::now();
    let report = many.campaign(args.flips_per_store).run(|seed, count, work| {
        let mut command = many.one_case("bit-flips", &program, seed, count, work);
        command.args(args.small.then_some("--small")).args(args.vacuum.then_some("--vacuum"));
        command.args(args.no_checksums.then_some("--no-checksums"));
        command.args(["--files", cluster_files_name(args.files)]);
        command
    })?;
    let mut more = if args.small { " --small".to_owned() } else { String::new() };
    if args.vacuum {
        more += " --vacuum";
    }
    if args.no_checksums {
        more += " --no-checksums";
    }
    if args.files != ClusterFiles::All {
        more += &format!(" --files {}", cluster_files_name(args.files));
    }
    many.show_failures("bit-flips", "--flip", &more, &report);
    Ok(many.summary("bit flips", &report, began.elapsed()))
}

fn failing_calls(args: &FailingCallsArgs) -> Outcome {
    let many = &args.many;
    let engine = many.engine()?;
    let program = env::current_exe()?;
    if many.one || args.fault.is_some() {
        let calls = FailingCalls {
            engine,
            seed: many.seed,
            size: size(args.small),
            faults: args.fault.map_or(many.count, |fault| fault + 1),
            only: args.fault,
            kind: args.kind,
            work: many.work(),
            program,
        };
        let mut speaker = Speaker::new(io::stdout().lock());
        calls.run(&mut speaker)?;
        return Ok(many.one || speaker.failed == 0);
    }
    let began = Instant::now();
    let name = kind_name(args.kind);
    let report = many.campaign(args.faults_per_script).run(|seed, count, work| {
        let mut command = many.one_case("failing-calls", &program, seed, count, work);
        command.args(["--kind", name]).args(args.small.then_some("--small"));
        command
    })?;
    let small = if args.small { " --small" } else { "" };
    many.show_failures("failing-calls", "--fault", &format!(" --kind {name}{small}"), &report);
    Ok(many.summary(&format!("failing calls ({name})"), &report, began.elapsed()))
}

impl Many {
    fn engine(&self) -> Result<Engine, String> {
        match self.engine {
            Target::Directory(engine) => Ok(engine),
            #[allow(unreachable_patterns, reason = "without the feature `postgres`")]
            other => Err(format!("{other} keeps its files itself: there are only bit flips for it")),
        }
    }

    fn show_failures(&self, command: &str, option: &str, more: &str, report: &Report) {
        for Failure { seed, fault, problem } in &report.failures {
            println!("FAILED {} seed {seed} fault {fault}: {problem}", self.engine);
            let more = more.replace("SEED", &seed.to_string());
            println!("  again: ravel-faults {command} --engine {}{more} --seed {seed} {option} {fault}", self.engine);
        }
    }

    fn work(&self) -> PathBuf {
        let memory = Path::new("/dev/shm");
        let default = || if memory.is_dir() { memory.to_owned() } else { env::temp_dir() };
        self.work.clone().unwrap_or_else(default)
    }

    fn campaign(&self, faults_per_case: u64) -> Campaign {
        Campaign {
            seed: self.seed,
            count: self.count,
            faults_per_case,
            threads: self.threads,
            work: self.work(),
            keep: self.keep.clone(),
            time_limit: Duration::from_secs(60),
            failures_max: self.failures_max,
        }
    }

    fn one_case(&self, name: &str, program: &Path, seed: u64, count: u64, work: &Path) -> Command {
        let mut command = Command::new(program);
        command.arg(name).arg("--one").args(["--engine", &self.engine.to_string()]);
        command.args(["--seed", &seed.to_string(), "--count", &count.to_string()]).arg("--work").arg(work);
        command
    }

    /// Prints the line that goes into the documentation; returns whether nothing failed.
    fn summary(&self, what: &str, report: &Report, took: Duration) -> bool {
        println!(
            "{what}: {}, seed {}: {} checked, {} of them had lost something that was not promised or gave an error; {} FAILED; \
             {:.0} s, {:.1} ms each",
            self.engine,
            self.seed,
            report.faults,
            report.noticed,
            report.failures.len(),
            took.as_secs_f64(),
            report.checking.as_secs_f64() * 1000.0 / report.faults.max(1) as f64,
        );
        for (kind, (faults, noticed)) in &report.kinds {
            println!("  {kind}: {faults}, {noticed} of them gave an error");
        }
        report.failures.is_empty()
    }
}

fn size(small: bool) -> Size {
    if small { Size::Small } else { Size::Full }
}

const PROMISES: [(&str, Promises); 5] = [
    ("posix", Promises::Posix),
    ("posix-and-garbage", Promises::PosixAndGarbage),
    ("journal", Promises::Journal),
    ("no-data-sync", Promises::NoDataSync),
    ("nothing", Promises::Nothing),
];

fn promises(name: &str) -> Result<Promises, String> {
    let found = PROMISES.iter().find(|(known, _)| *known == name);
    found.map(|(_, promises)| *promises).ok_or_else(|| format!("no such promises: {name}"))
}

fn promises_name(promises: Promises) -> &'static str {
    PROMISES.iter().find(|(_, known)| *known == promises).map_or("posix", |(name, _)| *name)
}

const KINDS: [(&str, Kind); 3] = [("writes", Kind::Writes), ("syncs", Kind::Syncs), ("full-disk", Kind::FullDisk)];

fn kind(name: &str) -> Result<Kind, String> {
    let found = KINDS.iter().find(|(known, _)| *known == name);
    found.map(|(_, kind)| *kind).ok_or_else(|| format!("no such kind of fault: {name}"))
}

fn kind_name(kind: Kind) -> &'static str {
    KINDS.iter().find(|(_, known)| *known == kind).map_or("writes", |(name, _)| *name)
}

const CLUSTER_FILES: [(&str, ClusterFiles); 3] =
    [("all", ClusterFiles::All), ("checked", ClusterFiles::Checked), ("outcomes", ClusterFiles::Outcomes)];

fn cluster_files(name: &str) -> Result<ClusterFiles, String> {
    let found = CLUSTER_FILES.iter().find(|(known, _)| *known == name);
    found.map(|(_, files)| *files).ok_or_else(|| format!("no such files: {name}"))
}

fn cluster_files_name(files: ClusterFiles) -> &'static str {
    CLUSTER_FILES.iter().find(|(_, known)| *known == files).map_or("all", |(name, _)| *name)
}
