//! `ravel serve`: a homeserver's front to the network.
//!
//! [`config`] says what there can be configured, [`init`] makes a first configuration. [`run`] starts a server: it reads what it needs,
//! opens the database, binds its addresses, and only then accepts connections (`listener`), which `routes` answers. What all routes
//! share is in `layers`; handlers use [`typed`] for ruma's requests and responses and [`error`] for everything else.

pub mod config;
pub mod error;
pub(crate) mod files;
pub mod init;
pub mod signing_key;
pub mod typed;

mod connection;
mod health;
mod layers;
mod listener;
mod logs;
mod metrics;
mod network;
mod routes;
mod signals;
mod tls;
mod well_known;

#[cfg(test)]
mod tests;

use std::{io, net::SocketAddr, path::Path, sync::Arc, time::Duration};

use ravel_core::{id::ServerName, signing::SigningKey};
use ravel_homeserver::{
    accounts::Accounts,
    clock::{Clock, SystemClock},
    homeserver::{Homeserver, HomeserverConfig},
    media::MediaConfig,
    network::Network,
    random::OsRandom,
    rooms::{Rooms, ToSend},
};
use ravel_store::{Store, log::EventLog};
use tokio::sync::{mpsc, watch};

use self::{
    config::{Backend, Config, ConfigError},
    listener::{Listeners, Stopped},
    logs::LogError,
    signals::Signals,
    signing_key::SigningKeyError,
    tls::{Tls, TlsError},
};
use crate::database::{DatabaseName, OpenError};

/// Why a server can't be started.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum ServeError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Log(#[from] LogError),
    #[error(transparent)]
    SigningKey(#[from] SigningKeyError),
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error(transparent)]
    Database(#[from] OpenError),
    #[error("the database can't be used: {0}")]
    EventLog(#[source] ravel_store::log::LogError),
    #[error("other servers can't be reached: {0}")]
    Network(#[from] network::NetworkConfigError),
    #[error("the rooms can't be loaded: {0}")]
    Rooms(#[source] ravel_homeserver::rooms::RoomsError),
    #[error("{key} = \"{address}\" can't be used: {source}")]
    Bind {
        key: &'static str,
        address: SocketAddr,
        #[source]
        source: io::Error,
    },
    #[error("the runtime can't be started: {0}")]
    Runtime(#[source] io::Error),
    #[error("the metrics can't be set up: {0}")]
    Metrics(#[from] metrics_exporter_prometheus::BuildError),
}

/// What every handler has at hand. Cheap to clone.
#[derive(Clone)]
pub struct App(Arc<Shared>);

impl std::ops::Deref for App {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.0
    }
}

/// What handlers share.
pub struct Shared {
    /// The configuration.
    pub config: Config,
    /// The database.
    pub store: Arc<dyn Store>,
    /// The server's own key.
    pub signing_key: SigningKey,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Users, devices, access tokens.
    pub accounts: Accounts,
    /// Rooms.
    pub rooms: Rooms,
    /// All of the server that is not HTTP.
    pub homeserver: Homeserver,
    /// Turns true when the server is told to stop: whoever waits for something answers then with what there is.
    stopping: watch::Receiver<bool>,
    metrics: Option<metrics_exporter_prometheus::PrometheusHandle>,
}

impl Shared {
    async fn open(
        config: Config,
        store: Arc<dyn Store>,
        signing_key: SigningKey,
        stopping: watch::Receiver<bool>,
        metrics: Option<metrics_exporter_prometheus::PrometheusHandle>,
    ) -> Result<(Self, mpsc::Receiver<ToSend>), ServeError> {
        let network = network::open(&config.federation, Arc::new(SystemClock), Arc::new(OsRandom))?;
        Self::open_on(network, config, store, signing_key, stopping, metrics).await
    }

    /// As [`open`](Self::open), with another way to other servers.
    async fn open_on(
        network: Arc<dyn Network>,
        config: Config,
        store: Arc<dyn Store>,
        signing_key: SigningKey,
        stopping: watch::Receiver<bool>,
        metrics: Option<metrics_exporter_prometheus::PrometheusHandle>,
    ) -> Result<(Self, mpsc::Receiver<ToSend>), ServeError> {
        let (clock, random): (Arc<dyn Clock>, _) = (Arc::new(SystemClock), Arc::new(OsRandom));
        let log = Arc::new(EventLog::open(store.clone()).await.map_err(ServeError::EventLog)?);
        let homeserver_config = HomeserverConfig {
            server_name: config.server_name.0.clone(),
            signing_key: signing_key.clone(),
            cheap_password_hashes: config.registration.cheap_password_hashes,
            keys: network::key_store_config(&config.federation),
            pauses: network::pauses(&config.federation),
            servers: network::servers(&config.federation),
            media: MediaConfig { path: config.media.path.clone(), file_bytes_max: config.media.max_upload_size },
        };
        let homeserver = Homeserver::open(homeserver_config, log, clock.clone(), random, network).await;
        let (homeserver, to_send) = homeserver.map_err(ServeError::Rooms)?;
        let (accounts, rooms) = (homeserver.accounts.clone(), homeserver.rooms.clone());
        let shared = Self { config, store, signing_key, clock, accounts, rooms, homeserver, stopping, metrics };
        Ok((shared, to_send))
    }

    /// Opens a server of a test on a network of the test; returns its routes too.
    #[cfg(test)]
    pub(crate) async fn open_for_test(
        network: Arc<dyn Network>,
        config: Config,
        store: Arc<dyn Store>,
        signing_key: SigningKey,
    ) -> (App, axum::Router) {
        let stopping = watch::channel(false).1;
        let (shared, to_send) = Self::open_on(network, config, store, signing_key, stopping, None).await.unwrap();
        let app = App(Arc::new(shared));
        app.homeserver.start(to_send);
        let routes = routes::public(&app);
        (app, routes)
    }

    /// Returns the server's name.
    pub fn server_name(&self) -> &ServerName {
        &self.config.server_name
    }

    /// Whether the server was told to stop.
    pub fn is_stopping(&self) -> bool {
        *self.stopping.borrow()
    }

    /// Returns when the server is told to stop: long polls end then.
    pub async fn stopping(&self) {
        let mut stopping = self.stopping.clone();
        // The sender lives as long as the server.
        let _ = stopping.wait_for(|stopping| *stopping).await;
    }
}

/// How a server ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// As it was told to.
    Gracefully,
    /// At once, by the second signal, which has this number.
    AtOnce(u8),
}

/// What is told when a server accepts connections.
#[derive(Debug)]
pub struct Ready<'a> {
    /// The server's name.
    pub server_name: &'a ServerName,
    /// The address for HTTPS, with the port that was chosen.
    pub https: Option<SocketAddr>,
    /// The address for HTTP.
    pub http: Option<SocketAddr>,
    /// The address for metrics alone.
    pub metrics: Option<SocketAddr>,
}

/// How long tasks that nobody waits for may take to end.
const RUNTIME_STOP: Duration = Duration::from_secs(2);

/// Runs a server until it is told to stop by SIGINT or SIGTERM. `ready` is called when it accepts connections.
///
/// # Errors
///
/// [`ServeError`], all before any connection is accepted.
pub fn run(configuration: &Path, ready: impl FnOnce(&Ready<'_>)) -> Result<Ended, ServeError> {
    let config = config::load(configuration, std::env::vars_os())?;
    let log_file = logs::install(&config.log)?;
    let signing_key = signing_key::read(&config.signing_key)?;
    let tls = Tls::from_config(&config.listen)?;
    let metrics = if config.metrics.enabled { Some(metrics::install()?) } else { None };
    warn_of_dangers(&config);
    // It starts threads of its own and may take its time: before anything else runs.
    let store = database_name(&config).open_or_create()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(ServeError::Runtime)?;
    let (stop, stopping) = watch::channel(false);
    let app = Shared::open(config, store, signing_key, stopping, metrics);
    let (app, to_send) = runtime.block_on(app)?;
    let app = App(Arc::new(app));
    let ended = runtime.block_on(async {
        app.homeserver.start(to_send);
        let mut signals = Signals::new().map_err(ServeError::Runtime)?;
        let listeners = Listeners::bind(&app.config, tls.clone()).await?;
        let addresses = listeners.ready(app.server_name());
        tracing::info!(
            server_name = app.server_name().as_str(),
            https = addresses.https.map(tracing::field::display),
            http = addresses.http.map(tracing::field::display),
            metrics = addresses.metrics.map(tracing::field::display),
            "ready"
        );
        ready(&addresses);
        let upkeep = app.metrics.clone().map(|handle| {
            tokio::spawn(async move {
                loop {
                    tokio::time::sleep(metrics::UPKEEP).await;
                    handle.run_upkeep();
                }
            })
        });
        let serving = tokio::spawn(listeners.serve(app.clone()));
        while signals.next().await == signals::Signal::Reload {
            reload(tls.as_ref(), log_file.as_ref());
        }
        tracing::info!("stopping: running requests are finished");
        let _ = stop.send(true);
        let ended = tokio::select! {
            stopped = serving => {
                match stopped {
                    Ok(Stopped::Finished) => tracing::info!("stopped"),
                    Ok(Stopped::Aborted { connections }) => {
                        tracing::warn!(connections, "stopped: some connections had not finished in time");
                    }
                    Err(error) => tracing::error!(%error, "stopped: the listener had failed"),
                }
                app.homeserver.stop().await;
                Ended::Gracefully
            }
            signal = signals.stop() => {
                tracing::warn!("stopped at once, by a second signal");
                Ended::AtOnce(signal)
            }
        };
        if let Some(upkeep) = upkeep {
            upkeep.abort();
        }
        Ok(ended)
    });
    if matches!(ended, Ok(Ended::AtOnce(_))) {
        runtime.shutdown_background();
        // Closing the database may take a while, and what was acknowledged is on the disk.
        std::mem::forget(app);
    } else {
        runtime.shutdown_timeout(RUNTIME_STOP);
    }
    ended
}

/// Reads again what can be changed without a new start.
fn reload(tls: Option<&Tls>, log_file: Option<&logs::LogFile>) {
    if let Some(log_file) = log_file
        && let Err(error) = log_file.reopen()
    {
        tracing::error!(%error, "the log goes on into the file that was open");
    }
    match tls.map(Tls::reload) {
        Some(Ok(())) => tracing::info!("the TLS certificate was read again"),
        Some(Err(error)) => tracing::error!(%error, "the TLS certificate in use stays"),
        None => {}
    }
}

/// Returns the name of the configured database.
pub fn database_name(config: &Config) -> DatabaseName {
    let database = &config.database;
    match database.backend {
        Backend::RocksDb => DatabaseName::Directory(ravel_backends::Engine::RocksDb, database.path.clone()),
        Backend::Sled => DatabaseName::Directory(ravel_backends::Engine::Sled, database.path.clone()),
        Backend::Memory => DatabaseName::Memory,
        #[cfg(feature = "postgres")]
        Backend::Postgres => {
            // The configuration's check has made sure that there is one.
            let url = database.url.as_ref().map_or("", config::Secret::expose);
            DatabaseName::Postgres(url.to_owned())
        }
        // The configuration's check refuses it in such a build.
        #[cfg(not(feature = "postgres"))]
        Backend::Postgres => DatabaseName::Memory,
    }
}

fn warn_of_dangers(config: &Config) {
    if !config.federation.verify_certificates {
        tracing::warn!("federation.verify_certificates is off: anybody on the way can speak for other servers");
    }
    if config.database.backend == Backend::Memory {
        tracing::warn!("database.backend is memory: all is gone when the server stops");
    }
    if config.registration.cheap_password_hashes {
        tracing::warn!("registration.cheap_password_hashes is on: whoever gets the database gets the passwords");
    }
}
