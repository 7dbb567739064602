//! `ravel bench storage`: the same work on every engine in one run, beside what the bare engine does with the same keys and bytes.

mod disk;
mod plot;
mod raw;
mod report;
mod site;
mod workload;

use std::{
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant},
};

use cpu_time::ProcessTime;
use ravel_backends::Engine;
use ravel_store::{Bytes, Durability, KeyRange, Keyspace, Op, Scan, Store, block_on, log::EventLog};
use tokio::runtime::Runtime;

use self::{
    raw::RawEngine,
    report::{Measured, Quantity, Report, Samples},
    site::Site,
    workload::Workload,
};
use super::room::Author;
use crate::{command::Failure, output::Output};

/// What is done, and where.
#[derive(Debug, clap::Args)]
pub struct StorageOptions {
    /// Recorded rooms, plain or gzip, whose events are stored; without any, those of generated rooms
    #[arg(value_name = "FILE", conflicts_with = "events")]
    files: Vec<PathBuf>,
    /// The engines: memory, rocksdb, sled [default: all of them]
    #[arg(long, value_name = "ENGINE", value_parser = site::engine)]
    engine: Vec<Site>,
    /// Measure PostgreSQL too, in schemas of this database that are made for it and dropped
    #[cfg(feature = "postgres")]
    #[arg(long, value_name = "postgres://USER@HOST/DATABASE", value_parser = site::postgres)]
    database: Option<Site>,
    /// How many events are stored
    #[arg(long, value_name = "N", default_value_t = 16_000, value_parser = clap::value_parser!(u32).range(160..=10_000_000))]
    events: u32,
    /// How many members the room has whose size on disk is measured, and how many state changes follow; 0 leaves it out
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(..=1_000_000))]
    members: u32,
    /// How often everything is measured
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    runs: u32,
    /// Where the databases are made, and removed again; by default the folder for temporary files
    #[arg(long, value_name = "DIR")]
    directory: Option<PathBuf>,
    /// Draw storage.svg in this folder
    #[arg(long, value_name = "DIR")]
    plot: Option<PathBuf>,
    /// Write what --json prints to this file too
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
}

pub(super) const HELP: &str = "\
With --json: {\"events\": N, \"rooms\": N, \"runs\": N, \"batch_bytes_per_event\": N, \"sync_us\": {\"median\", \"p99\"}, \"measured\": [ROW...]}. ROW has engine,
what, unit, ravel and raw (null where the bare engine has nothing to compare) with median, min and max over the runs, ratio (of the
medians: the share of the bare engine's speed for rates, the multiple of its time for times), wanted (the ratio or figure aimed at,
null if none is) and met.

Bare is the engine with the options that Ravel gives it and nothing of Ravel: batches are written with the very keys and values that
Ravel's log makes (recorded before), synced once each; single events by 16 threads, each event with a sync of its own that the engine
may share; look-ups are of four snapshot nodes one after the other, as many as there are between the root of a state of some thousand entries
and an entry; a page is the 50 newest entries of a timeline before a random place, with their events; a rebuild reads the log and writes the
batches of projections that Ravel writes, and judges nothing. CPU time is that of this process: a server's is no part of it.

Judging the events is no part of it: that is the same for all of them.";

/// Events that are stored at a time.
const BATCH_EVENTS: usize = 50;

/// How many look-ups and pages are timed in one run.
const READS: usize = 5_000;

/// Measures and prints.
pub fn run(options: &StorageOptions, output: &mut Output) -> Result<ExitCode, Failure> {
    let unwritable = |path: &Path| {
        let path = path.to_owned();
        move |source| Failure::Unwritable { path, source }
    };
    if let Some(folder) = &options.plot {
        fs::create_dir_all(folder).map_err(unwritable(folder))?;
    }
    let parent = options.directory.clone().unwrap_or_else(std::env::temp_dir);
    fs::create_dir_all(&parent).map_err(unwritable(&parent))?;
    let folder = tempfile::tempdir_in(&parent)?;
    let workload = match options.files.as_slice() {
        [] => Workload::generated(options.events as usize)?,
        files => Workload::recorded(files)?,
    };
    let bench = Bench {
        folder: folder.path(),
        workload: Arc::new(workload),
        runs: options.runs as usize,
        runtime: tokio::runtime::Builder::new_multi_thread().enable_all().build()?,
    };
    let sites = sites(options);
    // What can't be had is better told before the others are measured.
    for site in &sites {
        site.fresh(folder.path())?;
    }
    let mut report = Report::new(&bench.workload, bench.runs, sync_times(folder.path())?);
    report.print_header(output)?;
    for site in sites {
        bench.measure(&site, &mut report, output)?;
        if options.members > 0 && site != Site::Memory {
            for measured in disk::measure(&site, folder.path(), options.members)? {
                report.add(measured, output)?;
            }
        }
    }
    if let Some(folder) = &options.plot {
        let path = plot::draw(folder, &report)?;
        super::print(output, || format!("{} written", path.display()))?;
    }
    let json = report.to_json();
    if let Some(file) = &options.output {
        fs::write(file, format!("{json:#}\n")).map_err(unwritable(file))?;
    }
    if output.is_json() {
        output.value(&json);
    }
    Ok(ExitCode::SUCCESS)
}

fn sites(options: &StorageOptions) -> Vec<Site> {
    let mut sites = options.engine.clone();
    if sites.is_empty() {
        sites = [Site::Memory].into_iter().chain(Engine::ALL.iter().map(|engine| Site::Directory(*engine))).collect();
    }
    #[cfg(feature = "postgres")]
    sites.extend(options.database.clone());
    sites
}

/// Returns how long it takes to append a kilobyte to a file and sync it, in microseconds, sorted.
fn sync_times(folder: &Path) -> Result<Vec<f64>, Failure> {
    let path = folder.join("sync");
    let mut file = File::create(&path)?;
    let mut times = Vec::new();
    for _ in 0..1_000 {
        let began = Instant::now();
        file.write_all(&[7; 1024])?;
        file.sync_data()?;
        times.push(micros(began.elapsed()));
    }
    fs::remove_file(path)?;
    times.sort_by(f64::total_cmp);
    Ok(times)
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

/// Returns the value below which this share of sorted values lies.
fn quantile(sorted: &[f64], share: f64) -> f64 {
    let last = sorted.len().saturating_sub(1);
    sorted.get((last as f64 * share) as usize).copied().unwrap_or_default()
}

struct Bench<'a> {
    folder: &'a Path,
    workload: Arc<Workload>,
    runs: usize,
    /// Rooms are tasks of it.
    runtime: Runtime,
}

impl Bench<'_> {
    fn measure(&self, site: &Site, report: &mut Report, output: &mut Output) -> Result<(), Failure> {
        let mut batches = Measured::new(site, Quantity::Batches);
        let mut singles = Measured::new(site, Quantity::Singles);
        let mut p50 = Measured::new(site, Quantity::SingleMedian);
        let mut p99 = Measured::new(site, Quantity::SingleP99);
        for _ in 0..self.runs {
            let (ravel, raw) = (site.fresh(self.folder)?, site.fresh(self.folder)?);
            batches.ravel.push(self.batches(ravel.open()?)?);
            if let Some(engine) = raw.open_raw()? {
                batches.raw.push(self.raw_batches(&*engine)?);
            }
            drop((ravel, raw));
            let (ravel, raw) = (site.fresh(self.folder)?, site.fresh(self.folder)?);
            self.singles(ravel.open()?)?.add_to(&mut singles.ravel, &mut p50.ravel, &mut p99.ravel);
            if let Some(engine) = raw.open_raw()? {
                self.raw_singles(&*engine)?.add_to(&mut singles.raw, &mut p50.raw, &mut p99.raw);
            }
        }
        p99.wanted_us = Some(3.0 * quantile(&report.sync_us, 0.5));
        for measured in [batches, singles, p50, p99] {
            report.add(measured, output)?;
        }

        // What is read is the same in both, once more written.
        let (ravel, raw) = (site.fresh(self.folder)?, site.fresh(self.folder)?);
        let (store, engine) = (ravel.open()?, raw.open_raw()?);
        self.batches(Arc::clone(&store))?;
        if let Some(engine) = &engine {
            self.raw_batches(&**engine)?;
        }
        let mut look_ups = Measured::new(site, Quantity::LookUps);
        let mut pages = Measured::new(site, Quantity::Pages);
        let mut rebuild = Measured::new(site, Quantity::Rebuild);
        let mut rebuild_cpu = Measured::new(site, Quantity::RebuildPerCore);
        for _ in 0..self.runs {
            look_ups.ravel.push(self.look_ups(|key| {
                block_on(store.get_many(Keyspace::SnapshotNodes, std::slice::from_ref(key)))?;
                Ok(())
            })?);
            pages.ravel.push(self.pages(|range| {
                let page = block_on(store.scan(Scan::new(Keyspace::Timelines, range).backward().items(BATCH_EVENTS)))?;
                let keys: Vec<Bytes> = page.items.iter().map(|(key, _)| workload::log_key(key)).collect();
                block_on(store.get_many(Keyspace::Log, &keys))?;
                Ok(())
            })?);
            if let Some(engine) = &engine {
                look_ups.raw.push(self.look_ups(|key| engine.get(Keyspace::SnapshotNodes, key))?);
                pages.raw.push(self.pages(|range| engine.page(&range, BATCH_EVENTS))?);
                rebuild_cpu.raw.push(self.raw_rebuild(&**engine)?);
            }
            let mut log = block_on(EventLog::open_to_repair(Arc::clone(&store)))?;
            let (began, cpu) = (Instant::now(), ProcessTime::now());
            block_on(log.rebuild(|_, _| {}))?;
            let entries = log.len() as f64;
            rebuild.ravel.push(entries / began.elapsed().as_secs_f64());
            rebuild_cpu.ravel.push(entries / cpu.elapsed().as_secs_f64());
        }
        for measured in [look_ups, pages, rebuild, rebuild_cpu] {
            report.add(measured, output)?;
        }
        Ok(())
    }

    /// Appends all events in durable batches of one room each, rooms in turn; returns events for each second.
    fn batches(&self, store: Arc<dyn Store>) -> Result<f64, Failure> {
        let log = block_on(EventLog::open(store))?;
        let began = Instant::now();
        for (room, events) in self.workload.in_batches() {
            block_on(log.append(&room.room_id, room.rules, events, Durability::Sync))?;
        }
        Ok(self.workload.events() as f64 / began.elapsed().as_secs_f64())
    }

    fn raw_batches(&self, engine: &dyn RawEngine) -> Result<f64, Failure> {
        let mut writer = engine.writer()?;
        let began = Instant::now();
        for ops in &self.workload.batches {
            writer.write(ops)?;
        }
        Ok(self.workload.events() as f64 / began.elapsed().as_secs_f64())
    }

    /// Appends one event at a time, all rooms at once.
    fn singles(&self, store: Arc<dyn Store>) -> Result<Singles, Failure> {
        let log = Arc::new(block_on(EventLog::open(store))?);
        let began = Instant::now();
        let tasks: Vec<_> = (0..self.workload.rooms.len())
            .map(|room| {
                let (log, workload) = (Arc::clone(&log), Arc::clone(&self.workload));
                self.runtime.spawn(async move {
                    let mut times = Vec::new();
                    let Some(room) = workload.rooms.get(room) else { return Ok(times) };
                    for event in workload.singles_of(room) {
                        let began = Instant::now();
                        log.append(&room.room_id, room.rules, std::slice::from_ref(event), Durability::Sync).await?;
                        times.push(micros(began.elapsed()));
                    }
                    Ok::<_, Failure>(times)
                })
            })
            .collect();
        let mut times = Vec::new();
        for task in tasks {
            times.extend(self.runtime.block_on(task).map_err(std::io::Error::other)??);
        }
        Ok(Singles::new(times, began.elapsed()))
    }

    fn raw_singles(&self, engine: &dyn RawEngine) -> Result<Singles, Failure> {
        let mut writers = Vec::new();
        for events in &self.workload.singles {
            writers.push((engine.writer()?, events));
        }
        let began = Instant::now();
        let times: Result<Vec<Vec<f64>>, Failure> = std::thread::scope(|scope| {
            let write = |(mut writer, events): (Box<dyn raw::RawWriter>, &Vec<Vec<Op>>)| {
                let mut times = Vec::new();
                for ops in events {
                    let began = Instant::now();
                    writer.write(ops)?;
                    times.push(micros(began.elapsed()));
                }
                Ok(times)
            };
            let threads: Vec<_> = writers.into_iter().map(|writer| scope.spawn(move || write(writer))).collect();
            let joined = threads.into_iter().map(|thread| match thread.join() {
                Ok(times) => times,
                Err(panic) => std::panic::resume_unwind(panic),
            });
            joined.collect()
        });
        Ok(Singles::new(times?.concat(), began.elapsed()))
    }

    /// Reads the log and writes the projections of a rebuild; returns entries for each second of CPU time.
    fn raw_rebuild(&self, engine: &dyn RawEngine) -> Result<f64, Failure> {
        let mut writer = engine.writer()?;
        let cpu = ProcessTime::now();
        let entries = engine.read_log()?;
        let Some((last, others)) = self.workload.rebuild.split_last() else { return Ok(0.0) };
        for ops in others {
            writer.write_relaxed(ops)?;
        }
        writer.write(last)?;
        Ok(entries as f64 / cpu.elapsed().as_secs_f64())
    }

    fn look_ups(&self, get: impl Fn(&Bytes) -> Result<(), Failure>) -> Result<f64, Failure> {
        let began = Instant::now();
        for path in self.workload.paths(READS) {
            for key in path {
                get(key)?;
            }
        }
        Ok(READS as f64 / began.elapsed().as_secs_f64())
    }

    fn pages(&self, page: impl Fn(KeyRange) -> Result<(), Failure>) -> Result<f64, Failure> {
        let count = READS / 10;
        let began = Instant::now();
        for range in self.workload.timeline_ranges(count) {
            page(range)?;
        }
        Ok(count as f64 / began.elapsed().as_secs_f64())
    }
}

/// What single appends took.
struct Singles {
    per_second: f64,
    median: f64,
    p99: f64,
}

impl Singles {
    fn new(mut times: Vec<f64>, all: Duration) -> Self {
        times.sort_by(f64::total_cmp);
        Self {
            per_second: times.len() as f64 / all.as_secs_f64(),
            median: quantile(&times, 0.5),
            p99: quantile(&times, 0.99),
        }
    }

    fn add_to(&self, rates: &mut Samples, medians: &mut Samples, p99s: &mut Samples) {
        rates.push(self.per_second);
        medians.push(self.median);
        p99s.push(self.p99);
    }
}
