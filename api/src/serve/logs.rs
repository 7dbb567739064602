//! The log: text or JSON, to the standard error or a file.

use std::{
    fs::{File, OpenOptions},
    io::{self, IsTerminal, Write},
    panic,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tracing::level_filters::LevelFilter;
use tracing_subscriber::{
    Layer, Registry,
    filter::Targets,
    fmt::{self, MakeWriter, writer::BoxMakeWriter},
    layer::SubscriberExt,
    util::SubscriberInitExt,
};

use super::{
    config::{Level, Log, LogFormat},
    layers::panic_text,
};

/// The crates whose messages are shown at every level. Those of others can show the headers of requests below `info`.
const OWN: [&str; 5] = ["ravel_api", "ravel_homeserver", "ravel_store", "ravel_backends", "ravel_core"];

/// The log can't be written.
#[derive(Debug, thiserror::Error)]
#[error("the log file {} can't be opened: {source}", .path.display())]
pub struct LogError {
    path: PathBuf,
    #[source]
    source: io::Error,
}

/// Sends what this process logs where the configuration says. Returns the file, to be opened again when told so.
pub(super) fn install(config: &Log) -> Result<Option<LogFile>, LogError> {
    let file = config.file.as_deref().map(LogFile::open).transpose()?;
    let is_terminal = file.is_none() && io::stderr().is_terminal();
    let writer = match &file {
        Some(file) => BoxMakeWriter::new(file.clone()),
        None => BoxMakeWriter::new(io::stderr),
    };
    let layer = match config.format {
        LogFormat::Text => fmt::layer().with_ansi(is_terminal).with_writer(writer).boxed(),
        LogFormat::Json => fmt::layer().json().flatten_event(true).with_writer(writer).boxed(),
    };
    // In one process there may be several servers, in tests: the first one's log serves all.
    if Registry::default().with(layer.with_filter(filter(config.level))).try_init().is_ok() {
        let is_told_on_stderr = file.is_none() && config.level != Level::Off;
        let default = panic::take_hook();
        panic::set_hook(Box::new(move |panic| {
            let place = panic.location().map(ToString::to_string);
            tracing::error!(panic = panic_text(panic.payload()), place, "panic");
            if !is_told_on_stderr {
                default(panic);
            }
        }));
    }
    Ok(file)
}

fn filter(level: Level) -> Targets {
    let level = match level {
        Level::Off => LevelFilter::OFF,
        Level::Error => LevelFilter::ERROR,
        Level::Warn => LevelFilter::WARN,
        Level::Info => LevelFilter::INFO,
        Level::Debug => LevelFilter::DEBUG,
        Level::Trace => LevelFilter::TRACE,
    };
    Targets::new().with_default(level.min(LevelFilter::INFO)).with_targets(OWN.map(|target| (target, level)))
}

/// A file that is appended to.
#[derive(Clone)]
pub(super) struct LogFile {
    path: PathBuf,
    file: Arc<Mutex<File>>,
}

impl LogFile {
    fn open(path: &Path) -> Result<Self, LogError> {
        let file = open(path).map_err(|source| LogError { path: path.to_owned(), source })?;
        Ok(Self { path: path.to_owned(), file: Arc::new(Mutex::new(file)) })
    }

    /// Opens the file again by its name, as another program may have moved it away.
    pub(super) fn reopen(&self) -> Result<(), LogError> {
        let file = open(&self.path).map_err(|source| LogError { path: self.path.clone(), source })?;
        *self.file.lock().unwrap_or_else(PoisonError::into_inner) = file;
        Ok(())
    }
}

fn open(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.create(true).append(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o640);
    options.open(path)
}

impl<'a> MakeWriter<'a> for LogFile {
    type Writer = LogFileWriter<'a>;

    fn make_writer(&'a self) -> LogFileWriter<'a> {
        LogFileWriter(self.file.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The file while a message is written.
pub(super) struct LogFileWriter<'a>(MutexGuard<'a, File>);

impl Write for LogFileWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

#[cfg(test)]
mod tests {
    use tracing::Level as TracingLevel;

    use super::*;

    /// HTTP/2's own messages at `trace` have headers in them, and so access tokens.
    #[test]
    fn libraries_do_not_log_requests() {
        let all = filter(Level::Trace);
        assert!(all.would_enable("ravel_api::serve", &TracingLevel::TRACE));
        assert!(all.would_enable("h2::codec", &TracingLevel::INFO));
        assert!(!all.would_enable("h2::codec", &TracingLevel::DEBUG));
        assert!(!filter(Level::Warn).would_enable("h2::codec", &TracingLevel::INFO));
    }
}
