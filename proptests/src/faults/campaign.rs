//! Many cases, each in a process of its own, so that one that ends or hangs is a failure of that case only.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

/// What came of the cases, or of one of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// How many faults were checked.
    pub faults: u64,
    /// How many of them left a mark that was allowed: lost commits nobody was promised, errors that were noticed.
    pub noticed: u64,
    /// What failed.
    pub failures: Vec<Failure>,
    /// For each kind of fault, where there are kinds: how many were checked, and how many of them left a mark.
    pub kinds: BTreeMap<String, (u64, u64)>,
    /// How long the checks took, over all threads.
    pub checking: Duration,
}

/// A fault that did harm.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The seed of the case.
    pub seed: u64,
    /// Which of its faults.
    pub fault: u64,
    /// What happened.
    pub problem: String,
}

/// How many cases, and how.
#[derive(Clone, Debug)]
pub struct Campaign {
    /// The seed of the first case; the others follow.
    pub seed: u64,
    /// How many faults in all.
    pub count: u64,
    /// How many faults a case has.
    pub faults_per_case: u64,
    /// How many run at the same time.
    pub threads: usize,
    /// The folder to work in; each case gets one in it.
    pub work: PathBuf,
    /// Where the folder of a case that failed is moved to, to run it again.
    pub keep: PathBuf,
    /// The longest time that one fault may take.
    pub time_limit: Duration,
    /// The campaign ends after so many failures.
    pub failures_max: usize,
}

impl Campaign {
    /// Runs all cases. `command` makes the process of a case: of its seed, the number of faults and the folder to work in. The process
    /// prints what a [`Speaker`] prints.
    ///
    /// # Errors
    ///
    /// When the machinery fails.
    pub fn run(&self, command: impl Fn(u64, u64, &Path) -> Command + Sync) -> io::Result<Report> {
        let total = Mutex::new(Report::default());
        let (next, over) = (AtomicU64::new(0), AtomicBool::new(false));
        let cases = self.count.div_ceil(self.faults_per_case);
        thread::scope(|scope| {
            let workers: Vec<_> = (0..self.threads.max(1))
                .map(|_| {
                    scope.spawn(|| {
                        while !over.load(Ordering::Relaxed) {
                            let case = next.fetch_add(1, Ordering::Relaxed);
                            if case >= cases {
                                break;
                            }
                            let seed = self.seed.wrapping_add(case);
                            let faults = self.faults_per_case.min(self.count - case * self.faults_per_case);
                            let report = self
                                .case(seed, faults, &command)
                                .inspect_err(|_| over.store(true, Ordering::Relaxed))?;
                            let mut total = total.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                            total.add(report);
                            if total.failures.len() >= self.failures_max {
                                over.store(true, Ordering::Relaxed);
                            }
                        }
                        Ok(())
                    })
                })
                .collect();
            workers.into_iter().try_for_each(|worker| worker.join().expect("a worker does not panic"))
        })
        .map(|()| total.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner))
    }

    fn case(&self, seed: u64, faults: u64, command: impl Fn(u64, u64, &Path) -> Command) -> io::Result<Report> {
        let work = self.work.join(format!("ravel-faults-{}-{seed}", std::process::id()));
        fs::create_dir_all(&work)?;
        let report = self.watch(seed, command(seed, faults, &work))?;
        if report.failures.is_empty() {
            fs::remove_dir_all(&work)?;
        } else {
            fs::create_dir_all(&self.keep)?;
            let kept = self.keep.join(seed.to_string());
            if kept.exists() {
                fs::remove_dir_all(&kept)?;
            }
            // It may be on another file system.
            Command::new("cp").arg("-r").arg(&work).arg(&kept).status()?;
            fs::remove_dir_all(&work)?;
        }
        Ok(report)
    }

    fn watch(&self, seed: u64, mut command: Command) -> io::Result<Report> {
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        let (out, err) = (child.stdout.take(), child.stderr.take());
        let (sender, lines) = mpsc::channel();
        let reader = thread::spawn(move || {
            for line in out.into_iter().flat_map(|out| BufReader::new(out).lines()).map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        let complaints = thread::spawn(move || {
            let mut last = String::new();
            for line in err.into_iter().flat_map(|err| BufReader::new(err).lines()).map_while(Result::ok) {
                last = line;
            }
            last
        });
        let mut report = Report::default();
        let (mut fault, mut done) = (None, false);
        let mut hung = false;
        loop {
            match lines.recv_timeout(self.time_limit) {
                Ok(line) => match line.split_once(' ') {
                    Some(("fault", number)) => {
                        fault = number.parse().ok();
                        report.faults += 1;
                    }
                    Some(("failed", rest)) => {
                        let (number, problem) = rest.split_once(' ').unwrap_or((rest, ""));
                        let fault = number.parse().unwrap_or_default();
                        report.failures.push(Failure { seed, fault, problem: problem.to_owned() });
                    }
                    Some(("kind", rest)) => {
                        let (kind, noticed) = rest.rsplit_once(' ').unwrap_or((rest, ""));
                        let counts = report.kinds.entry(kind.to_owned()).or_default();
                        *counts = (counts.0 + 1, counts.1 + u64::from(noticed == "true"));
                    }
                    Some(("done", numbers)) => {
                        let (noticed, micros) = numbers.split_once(' ').unwrap_or_default();
                        report.noticed = noticed.parse().unwrap_or_default();
                        report.checking = Duration::from_micros(micros.parse().unwrap_or_default());
                        done = true;
                    }
                    _ => {}
                },
                Err(mpsc::RecvTimeoutError::Disconnected) => break,
                Err(mpsc::RecvTimeoutError::Timeout) => {
                    hung = true;
                    child.kill()?;
                    break;
                }
            }
        }
        let status = child.wait()?;
        let _ = reader.join();
        let complaint = complaints.join().unwrap_or_default();
        if hung {
            let problem = format!("nothing happened for {} s", self.time_limit.as_secs());
            report.failures.push(Failure { seed, fault: fault.unwrap_or_default(), problem });
        } else if !done {
            let Some(fault) = fault else {
                return Err(io::Error::other(format!("seed {seed}: {status}: {complaint}")));
            };
            let problem = format!("the process ended ({status}): {complaint}");
            report.failures.push(Failure { seed, fault, problem });
        }
        Ok(report)
    }
}

impl Report {
    fn add(&mut self, other: Self) {
        self.faults += other.faults;
        self.noticed += other.noticed;
        self.failures.extend(other.failures);
        for (kind, (faults, noticed)) in other.kinds {
            let counts = self.kinds.entry(kind).or_default();
            *counts = (counts.0 + faults, counts.1 + noticed);
        }
        self.checking += other.checking;
    }
}

/// The report of one case, on its way to the campaign's process.
#[derive(Debug)]
pub struct Speaker<W> {
    out: W,
    noticed: u64,
    began: Instant,
    /// How many faults failed.
    pub failed: u64,
}

impl<W: io::Write> Speaker<W> {
    /// Begins.
    pub fn new(out: W) -> Self {
        Self { out, noticed: 0, began: Instant::now(), failed: 0 }
    }

    /// Tells that a fault is about to be checked.
    pub fn fault(&mut self, fault: u64) {
        self.say(format_args!("fault {fault}"));
    }

    /// Tells that it did harm.
    pub fn failed(&mut self, fault: u64, problem: &str) {
        self.failed += 1;
        self.say(format_args!("failed {fault} {}", problem.replace('\n', " ")));
    }

    /// Counts one that left a mark.
    pub fn noticed(&mut self) {
        self.noticed += 1;
    }

    /// Tells of what kind a fault was, and whether it left a mark.
    pub fn kind(&mut self, kind: &str, noticed: bool) {
        self.say(format_args!("kind {kind} {noticed}"));
    }

    /// Tells that all were checked.
    pub fn done(&mut self) {
        let (noticed, micros) = (self.noticed, self.began.elapsed().as_micros());
        self.say(format_args!("done {noticed} {micros}"));
    }

    fn say(&mut self, line: std::fmt::Arguments<'_>) {
        // Who doesn't listen any more has ended this process.
        let _ = writeln!(self.out, "{line}").and_then(|()| self.out.flush());
    }
}
