//! Connections to the server, made anew with growing pauses, and what its errors mean.

use std::{
    io,
    path::PathBuf,
    pin::pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use ravel_store::{Operation, StoreError};
use rustls::{ClientConfig, RootCertStore, crypto::ring};
use tokio::{
    sync::mpsc::UnboundedSender,
    task::AbortHandle,
    time::{Instant, sleep, timeout, timeout_at},
};
use tokio_postgres::{
    AsyncMessage, Client, Config, Notification,
    config::{Host, LoadBalanceHosts, SslMode},
    error::{DbError, SqlState},
};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::PostgresOptions;

/// A database, and how to reach it.
pub(super) struct Server {
    config: Config,
    tls: MakeRustlsConnect,
    /// How long a lost connection is tried to be made again.
    patience: Duration,
    /// How long one answer may take.
    answer_limit: Duration,
    /// The furthest that any connection of this store has seen.
    known: Mutex<Position>,
}

/// How far a server is: its timeline, which is another after each promotion of a standby (0 if it does not tell), then the
/// openings and the commits that it knows of.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Position {
    pub(super) timeline: u32,
    pub(super) epoch: i64,
    pub(super) commits: i64,
}

/// A server lacks what another one had, or it itself earlier.
#[derive(Debug, thiserror::Error)]
#[error("the server is behind ({found:?}) what this store has seen already ({known:?})")]
struct Behind {
    found: Position,
    known: Position,
}

/// Tells whether no server could be had but those that lack what this store has seen.
pub(super) fn is_behind(error: &StoreError) -> bool {
    matches!(error, StoreError::Io { source, .. } if source.is::<Behind>())
}

/// A new connection, set up for our statements.
pub(super) struct Connected {
    pub(super) client: Client,
    pub(super) link: Link,
    /// Whether `synchronous_commit` is known to this server.
    pub(super) relaxes: bool,
}

/// The task that carries a connection.
#[derive(Clone)]
pub(super) struct Link {
    task: AbortHandle,
    warned: Arc<AtomicBool>,
}

impl Link {
    /// Ends the connection without asking the server: whoever waits for an answer is told that it is lost.
    pub(super) fn cut(&self) {
        self.task.abort();
    }

    /// Tells whether the server warned of anything since this was asked last.
    ///
    /// A commit that was to wait for a standby and was made not to is acknowledged all the same, with a warning.
    pub(super) fn was_warned(&self) -> bool {
        self.warned.swap(false, Ordering::Relaxed)
    }

    /// Waits for something on this connection, which is cut if it takes too long: then it ends soon, with an error.
    pub(super) async fn within<T>(&self, limit: Instant, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        match timeout_at(limit, &mut work).await {
            Ok(done) => done,
            Err(_) => {
                self.cut();
                work.await
            }
        }
    }
}

impl Server {
    /// Reads a connection string.
    ///
    /// # Errors
    /// `Io` if it is none, or no TLS can be had.
    pub(super) fn new(url: &str, options: &PostgresOptions) -> Result<Self, StoreError> {
        let mut config: Config = url.parse().map_err(|error| store_error(Operation::Open, error))?;
        if config.get_application_name().is_none() {
            config.application_name("ravel");
        }
        if config.get_connect_timeout().is_none() {
            config.connect_timeout(CONNECT_TIMEOUT);
        }
        if config.get_tcp_user_timeout().is_none() {
            config.tcp_user_timeout(SILENCE_MAX);
        }
        if config.get_keepalives_idle() > SILENCE_MAX {
            config.keepalives_idle(SILENCE_MAX);
        }
        let tls = tls(config.get_ssl_mode() != SslMode::Disable)?;
        Ok(Self {
            config,
            tls,
            patience: options.patience,
            answer_limit: options.answer_limit,
            known: Mutex::default(),
        })
    }

    /// Returns the name of the database, without the password.
    pub(super) fn name(&self) -> PathBuf {
        let host = match self.config.get_hosts().first() {
            Some(Host::Tcp(host)) => host.clone(),
            #[cfg(unix)]
            Some(Host::Unix(path)) => path.display().to_string(),
            None => String::new(),
        };
        let port = self.config.get_ports().first().map(|port| format!(":{port}")).unwrap_or_default();
        let database = self.config.get_dbname().or(self.config.get_user()).unwrap_or_default();
        format!("postgres://{host}{port}/{database}").into()
    }

    /// Makes a connection; goes on trying until `deadline`, with growing pauses, unless the server says why it will not have us.
    ///
    /// What others tell by NOTIFY goes to `notifications`, which is closed when the connection ends.
    ///
    /// # Errors
    /// `Io` with the last reason.
    pub(super) async fn connect(
        &self,
        deadline: Instant,
        operation: Operation,
        notifications: Option<UnboundedSender<Notification>>,
    ) -> Result<Connected, StoreError> {
        let mut pause = PAUSE_MIN;
        let mut config = self.config.clone();
        loop {
            let connected = timeout(CONNECT_TIMEOUT, self.connect_once(&config, notifications.clone())).await;
            let (error, passing) = match connected {
                Ok(Ok((client, link))) => match self.checked(client, link, operation).await {
                    Err(error) if is_behind(&error) && self.config.get_hosts().len() > 1 => {
                        // Else the first of the hosts would be asked for ever.
                        config.load_balance_hosts(LoadBalanceHosts::Random);
                        (error, true)
                    }
                    checked => return checked,
                },
                Ok(Err(error)) => {
                    let passing = is_passing(&error);
                    (store_error(operation, error), passing)
                }
                Err(_) => (StoreError::from_io(operation, io::ErrorKind::TimedOut.into()), true),
            };
            if !passing || Instant::now() + pause >= deadline {
                return Err(error);
            }
            sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    async fn connect_once(
        &self,
        config: &Config,
        notifications: Option<UnboundedSender<Notification>>,
    ) -> Result<(Client, Link), tokio_postgres::Error> {
        let (client, mut connection) = config.connect(self.tls.clone()).await?;
        let warned = Arc::<AtomicBool>::default();
        let warns = Arc::clone(&warned);
        let task = tokio::spawn(async move {
            // Ends with the client, or with an error that each waiting request is told, too.
            while let Some(Ok(message)) = std::future::poll_fn(|context| connection.poll_message(context)).await {
                match (message, &notifications) {
                    // Who does not listen any more has dropped the client.
                    (AsyncMessage::Notification(notification), Some(sender)) => drop(sender.send(notification)),
                    // What is said in another language counts as a warning, too.
                    (AsyncMessage::Notice(notice), _) if !is_mere_notice(&notice) => {
                        warns.store(true, Ordering::Relaxed);
                    }
                    _ => {}
                }
            }
        });
        Ok((client, Link { task: task.abort_handle(), warned }))
    }

    /// Sets the connection up, and looks whether the server keeps what it acknowledges.
    async fn checked(&self, client: Client, link: Link, operation: Operation) -> Result<Connected, StoreError> {
        for setting in SETTINGS {
            match client.batch_execute(setting).await {
                Err(error) if is_lost(&error) => return Err(store_error(operation, error)),
                _ => {}
            }
        }
        let settings = "SELECT name, setting FROM pg_catalog.pg_settings WHERE name IN ('fsync', 'synchronous_commit')";
        let rows = client.query(settings, &[]).await.map_err(|error| store_error(operation, error))?;
        let mut relaxes = false;
        for row in rows {
            let setting: (String, String) = (get(&row, 0, operation)?, get(&row, 1, operation)?);
            match (setting.0.as_str(), setting.1.as_str()) {
                ("fsync", "off") => {
                    let reason = "the server runs with fsync = off, so it would lose what it acknowledges";
                    return Err(StoreError::io(operation, Arc::new(io::Error::other(reason))));
                }
                ("synchronous_commit", value) => {
                    relaxes = true;
                    if value == "off" {
                        let set = client.batch_execute("SET synchronous_commit TO on").await;
                        set.map_err(|error| store_error(operation, error))?;
                    }
                }
                _ => {}
            }
        }
        self.check_position(&client).await.unwrap_or_else(|error| Err(store_error(operation, error)))?;
        Ok(Connected { client, link, relaxes })
    }

    /// Looks whether the server has what this store has seen: an old primary that came back has not.
    async fn check_position(&self, client: &Client) -> Result<Result<(), StoreError>, tokio_postgres::Error> {
        let known = self.known();
        if known == Position::default() {
            return Ok(Ok(()));
        }
        let row = client.query_one("SELECT epoch, commits FROM ravel_store WHERE id = 1", &[]).await?;
        let found = Position { timeline: timeline(client).await?, epoch: row.try_get(0)?, commits: row.try_get(1)? };
        // A standby and other servers than PostgreSQL do not tell the timeline.
        let is_behind = found.epoch < known.epoch
            || found.commits < known.commits
            || (found.timeline != 0 && found.timeline < known.timeline);
        if is_behind {
            return Ok(Err(StoreError::io(Operation::Open, Arc::new(Behind { found, known }))));
        }
        self.saw(found);
        Ok(Ok(()))
    }

    fn known(&self) -> Position {
        *self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Remembers how far a server is, so that none is used that is not.
    pub(super) fn saw(&self, position: Position) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.timeline = known.timeline.max(position.timeline);
        known.epoch = known.epoch.max(position.epoch);
        known.commits = known.commits.max(position.commits);
    }

    /// Returns until when what begins now may wait for connections.
    pub(super) fn deadline(&self) -> Instant {
        Instant::now() + self.patience
    }

    /// Returns until when what is asked now has to be answered.
    pub(super) fn answer_deadline(&self) -> Instant {
        Instant::now() + self.answer_limit
    }
}

/// Waits for something on a connection, for as long as the deadline allows.
///
/// # Errors
/// Those of the future; `Io` after the deadline.
pub(super) async fn until<T>(
    deadline: Instant,
    operation: Operation,
    future: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, StoreError> {
    timeout_at(deadline, future)
        .await
        .unwrap_or_else(|_| Err(StoreError::from_io(operation, io::ErrorKind::TimedOut.into())))
}

/// Returns a column of a row.
///
/// # Errors
/// `Io` if it is of another type.
pub(super) fn get<'a, T: tokio_postgres::types::FromSql<'a>>(
    row: &'a tokio_postgres::Row,
    column: usize,
    operation: Operation,
) -> Result<T, StoreError> {
    row.try_get(column).map_err(|error| store_error(operation, error))
}

/// Tells whether the connection is gone, so that it is open what became of what was asked last; or is of no more use, as its
/// server became a standby.
pub(super) fn is_lost(error: &tokio_postgres::Error) -> bool {
    is_gone(error) || error.code() == Some(&SqlState::READ_ONLY_SQL_TRANSACTION)
}

/// Tells whether the connection is gone.
pub(super) fn is_gone(error: &tokio_postgres::Error) -> bool {
    match error.code() {
        Some(code) => {
            code.code().starts_with("08")
                || [
                    SqlState::ADMIN_SHUTDOWN,
                    SqlState::CRASH_SHUTDOWN,
                    SqlState::IDLE_IN_TRANSACTION_SESSION_TIMEOUT,
                    SqlState::T_R_STATEMENT_COMPLETION_UNKNOWN,
                ]
                .contains(code)
        }
        None => error.is_closed() || has_io_source(error),
    }
}

/// Tells whether the same transaction may succeed if it is tried again; nothing of it was written.
pub(super) fn is_conflict(error: &tokio_postgres::Error) -> bool {
    error
        .code()
        .is_some_and(|code| [SqlState::T_R_SERIALIZATION_FAILURE, SqlState::T_R_DEADLOCK_DETECTED].contains(code))
}

/// Wraps what the server or the connection said.
pub(super) fn store_error(operation: Operation, error: tokio_postgres::Error) -> StoreError {
    let code = error.code().cloned();
    let source: ravel_store::Source = Arc::new(error);
    match code {
        Some(code) if code == SqlState::DISK_FULL => StoreError::Full { operation, source },
        Some(code) if [SqlState::DATA_CORRUPTED, SqlState::INDEX_CORRUPTED].contains(&code) => StoreError::Corrupt {
            keyspace: None,
            key: None,
            expected: "pages of PostgreSQL as it wrote them",
            source: Some(source),
        },
        _ => StoreError::io(operation, source),
    }
}

/// Tells whether a later attempt to connect may succeed.
fn is_passing(error: &tokio_postgres::Error) -> bool {
    match error.code() {
        Some(code) => is_lost(error) || [SqlState::CANNOT_CONNECT_NOW, SqlState::TOO_MANY_CONNECTIONS].contains(code),
        None => error.is_closed() || has_io_source(error),
    }
}

/// Returns the timeline a primary writes to, 0 if it does not tell.
pub(super) async fn timeline(client: &Client) -> Result<u32, tokio_postgres::Error> {
    // The first eight digits of the file of the log.
    match client.query_one("SELECT pg_walfile_name(pg_current_wal_insert_lsn())::text", &[]).await {
        Ok(row) => {
            let file: &str = row.try_get(0)?;
            Ok(file.get(..8).and_then(|timeline| u32::from_str_radix(timeline, 16).ok()).unwrap_or(0))
        }
        Err(error) if error.as_db_error().is_some() && !is_gone(&error) => Ok(0),
        Err(error) => Err(error),
    }
}

fn is_mere_notice(notice: &DbError) -> bool {
    ["NOTICE", "INFO", "LOG", "DEBUG"].contains(&notice.severity())
}

fn has_io_source(error: &tokio_postgres::Error) -> bool {
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        if cause.is::<io::Error>() {
            return true;
        }
        source = cause.source();
    }
    false
}

/// TLS with the certificates this machine trusts; `SSL_CERT_FILE` and `SSL_CERT_DIR` name others.
fn tls(wanted: bool) -> Result<MakeRustlsConnect, StoreError> {
    let mut roots = RootCertStore::empty();
    if wanted {
        // Those that cannot be read are missing; if that matters, the handshake says so.
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    }
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| StoreError::io(Operation::Open, Arc::new(error)))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(MakeRustlsConnect::new(config))
}

/// Names no server has to know. Those that know them find all rows by the primary key, as nothing else is ever better; they plan each
/// look-up for the table as it is now, not as it was when the first plan was made, and compile none of it; and they end a transaction
/// whose client is gone.
const SETTINGS: [&str; 5] = [
    "SET enable_seqscan = off",
    "SET enable_bitmapscan = off",
    "SET jit = off",
    "SET plan_cache_mode = force_custom_plan",
    "SET idle_in_transaction_session_timeout = '20s'",
];

/// How long making one connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A peer that is silent for so long counts as gone.
const SILENCE_MAX: Duration = Duration::from_secs(15);
/// The first pause between two attempts to connect; each is twice as long as the one before.
const PAUSE_MIN: Duration = Duration::from_millis(20);
/// The longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(1);
