//! Bit flips in the files of a PostgreSQL cluster: for each one its server is started, so that everything is read from the files.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use ravel_backends::{
    PostgresOptions, PostgresStore,
    postgres::testing::{Cluster, free_port},
};
use ravel_store::{Store, StoreError};

use super::{BitFlips, ClusterFiles, Wanted, flip_bit};
use crate::{faults::campaign::Speaker, seed::Choices};

/// Makes the cluster, and flips bits in its files, which are put back after each.
pub(super) fn run(flips: &BitFlips, speaker: &mut Speaker<impl io::Write>) -> io::Result<()> {
    let cluster = Cluster::in_folder(&flips.work.join("cluster"), free_port());
    // Small files of the write-ahead log, as all files are kept in memory here.
    let arguments = ["--wal-segsize=1", "--data-checksums"];
    cluster.make(&arguments[..if flips.checksums { 2 } else { 1 }], SETTINGS);
    let server = cluster.attend(START_LIMIT).ok_or_else(|| io::Error::other("the server does not start"))?;
    let url = cluster.new_schema(SCHEMA);
    let next_transaction = || cluster.sql("", NEXT_TRANSACTION).trim().parse::<usize>().map_err(io::Error::other);
    let first = next_transaction()?;
    let wanted = flips.fill(|| Ok(Arc::new(PostgresStore::open(&url, &PostgresOptions::default())?)))?;
    // Those of the store only: making a cluster takes hundreds, and what became of them is noted with their rows.
    let outcomes = first / TRANSACTIONS_PER_BYTE..next_transaction()?.div_ceil(TRANSACTIONS_PER_BYTE);
    let relations = cluster.sql("", RELATIONS);
    if flips.vacuum {
        cluster.sql("", "VACUUM");
    }
    // They are two thirds of the files, and nobody reads them.
    cluster.sql("", "UPDATE pg_database SET datistemplate = false");
    for database in ["template0", "template1"] {
        cluster.sql("", &format!("DROP DATABASE {database}"));
    }
    cluster.stop();
    drop(server);
    let image = Image::read(&cluster)?;
    let files = Files::sort(&image, &relations);
    // Else each error would be taken for a flip that was noticed.
    if read(&cluster, &url, &wanted, true) != Ok(true) {
        return Err(io::Error::other("the cluster can't be read as it was left"));
    }
    for flip in flips.numbers() {
        speaker.fault(flip);
        image.restore(&cluster)?;
        let mut choices = flips.choices(flip);
        let (kind, path) = files.choose(flips.files, &image, &mut choices);
        let mut content = image.0[path].clone();
        let part = if kind == NAMES[OUTCOMES] { outcomes.clone() } else { 0..content.len() };
        let (byte, bit) = flip_bit(&mut content[part.clone()], &mut choices);
        let byte = part.start + byte;
        fs::write(cluster.data_folder().join(path), &content)?;
        let outcome = read(&cluster, &url, &wanted, choices.below(4) == 0);
        speaker.kind(kind, outcome == Ok(false));
        match outcome {
            Ok(true) => {}
            Ok(false) => speaker.noticed(),
            Err(problem) => speaker.failed(flip, &format!("{} byte {byte} bit {bit}: {problem}", path.display())),
        }
    }
    speaker.done();
    Ok(())
}

/// Starts the server and reads everything. Returns whether that was possible.
fn read(cluster: &Cluster, url: &str, wanted: &Wanted, verify: bool) -> Result<bool, String> {
    let Some(mut server) = cluster.attend(START_LIMIT) else { return Ok(false) };
    match open(url) {
        Ok(store) => wanted.compare(&store, verify, || server.is_running()),
        Err(_) => Ok(false),
    }
}

fn open(url: &str) -> Result<Arc<dyn Store>, StoreError> {
    let options = PostgresOptions {
        // A server that ended won't come back; a busy machine may keep it from answering for a while.
        patience: Duration::from_secs(2),
        answer_limit: Duration::from_secs(20),
        ..PostgresOptions::default()
    };
    Ok(Arc::new(PostgresStore::open(url, &options)?))
}

/// All files of a cluster that is stopped, by their paths in its folder.
struct Image(BTreeMap<PathBuf, Vec<u8>>);

impl Image {
    fn read(cluster: &Cluster) -> io::Result<Self> {
        let folder = cluster.data_folder();
        let mut files = BTreeMap::new();
        for path in files_below(&folder)? {
            let content = fs::read(folder.join(&path))?;
            files.insert(path, content);
        }
        Ok(Self(files))
    }

    /// Makes the files of the stopped cluster what they were.
    fn restore(&self, cluster: &Cluster) -> io::Result<()> {
        let folder = cluster.data_folder();
        for path in files_below(&folder)? {
            if !self.0.contains_key(&path) {
                fs::remove_file(folder.join(path))?;
            }
        }
        for (path, content) in &self.0 {
            let place = folder.join(path);
            match fs::read(&place) {
                Ok(found) if found == *content => {}
                Ok(_) => fs::write(&place, content)?,
                Err(_) => {
                    fs::write(&place, content)?;
                    cluster.give(&place);
                }
            }
        }
        Ok(())
    }
}

fn files_below(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let (mut files, mut folders) = (Vec::new(), vec![PathBuf::new()]);
    while let Some(inner) = folders.pop() {
        for entry in fs::read_dir(folder.join(&inner))? {
            let entry = entry?;
            let found = if entry.file_type()?.is_dir() { &mut folders } else { &mut files };
            found.push(inner.join(entry.file_name()));
        }
    }
    Ok(files)
}

/// The files that have something in them, by kind.
struct Files<'a>([(&'static str, Vec<&'a PathBuf>); 7]);

/// Of so many flips, how many are in files of each kind.
const SHARES: [usize; 7] = [10, 1, 3, 2, 1, 2, 1];
const NAMES: [&str; 7] = [
    "tables",
    "maps of free space and visibility",
    "catalog",
    "write-ahead log",
    "control",
    "outcomes of transactions",
    "others",
];
/// The kind of file that has no checksums. All transactions of a campaign are in one file.
const OUTCOMES: usize = 5;
const TRANSACTIONS_PER_BYTE: usize = 4;

impl<'a> Files<'a> {
    /// `relations` are the main files of the store's tables and of what belongs to them, one a line.
    fn sort(image: &'a Image, relations: &str) -> Self {
        let relations: Vec<&Path> = relations.lines().map(Path::new).collect();
        let database = relations[0].parent().expect("it is in the folder of the database");
        let kind = |path: &Path| {
            // A map of a relation has its name and one more word.
            let name = path.to_str().and_then(|path| path.split(['_', '.']).next()).map(Path::new);
            if relations.contains(&path) {
                0
            } else if path.starts_with(database) && name.is_some_and(|name| relations.contains(&name)) {
                1
            } else if path == Path::new("global/pg_control") {
                4
            } else if path.starts_with(database) || path.starts_with("global") {
                2
            } else if path.starts_with("pg_wal") {
                3
            } else if path.starts_with("pg_xact") {
                OUTCOMES
            } else {
                6
            }
        };
        let mut files = Self(NAMES.map(|name| (name, Vec::new())));
        // Of other databases nothing is read.
        let elsewhere = |path: &Path| path.starts_with("base") && !path.starts_with(database);
        for (path, content) in &image.0 {
            if !content.is_empty() && !elsewhere(path) {
                files.0[kind(path)].1.push(path);
            }
        }
        files
    }

    fn choose(&self, among: ClusterFiles, image: &Image, choices: &mut Choices) -> (&'static str, &'a PathBuf) {
        let mut shares = SHARES;
        match among {
            ClusterFiles::All => {}
            ClusterFiles::Checked => shares[OUTCOMES] = 0,
            ClusterFiles::Outcomes => shares = std::array::from_fn(|kind| usize::from(kind == OUTCOMES)),
        }
        let mut at = choices.below(shares.iter().sum());
        let mut kind = 0;
        while at >= shares[kind] {
            at -= shares[kind];
            kind += 1;
        }
        let (name, files) = &self.0[kind];
        if choices.below(2) == 0 {
            return (name, files[choices.below(files.len())]);
        }
        // By their sizes, as most files are small.
        let mut byte = choices.below(files.iter().map(|path| image.0[*path].len()).sum());
        for path in files {
            let len = image.0[*path].len();
            if byte < len {
                return (name, path);
            }
            byte -= len;
        }
        unreachable!("the byte is in one of them")
    }
}

/// No more flips than the one at hand shall be found in what the server does by itself.
const SETTINGS: &str = "shared_buffers = 1MB\nmax_connections = 20\nautovacuum = off\ncheckpoint_timeout = 1h\n\
                        min_wal_size = 2MB\nmax_wal_size = 4MB\nmax_parallel_workers = 0\n";
const SCHEMA: &str = "ravel";
const NEXT_TRANSACTION: &str = "SELECT pg_snapshot_xmax(pg_current_snapshot())";
/// The tables of the schema with their indexes, then what they have of large values, with the indexes of that.
const RELATIONS: &str = "WITH large AS (SELECT reltoastrelid AS oid FROM pg_class
                             WHERE relnamespace = 'ravel'::regnamespace AND reltoastrelid <> 0)
                         SELECT pg_relation_filepath(oid) FROM pg_class
                             WHERE relnamespace = 'ravel'::regnamespace AND relkind IN ('r', 'i')
                         UNION SELECT pg_relation_filepath(oid) FROM large
                         UNION SELECT pg_relation_filepath(indexrelid) FROM pg_index WHERE indrelid IN (SELECT oid FROM large)";
const START_LIMIT: Duration = Duration::from_secs(20);
