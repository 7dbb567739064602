//! Finding where a server is, by its name.
//!
//! Source: server-server API, "Resolving server names". The steps of that section come in two halves. The first
//! ([`Discovery::delegated_name`]) finds a name: the one that `.well-known` delegates to, or the server's own. That name goes into
//! the `Host` header, and the certificate is checked against it (without its port), whatever comes later. The second
//! ([`Discovery::targets`]) finds where that name is: what SRV says never changes the name.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::FutureExt;
use http::Uri;
use ravel_core::id::ServerName;

use self::well_known::{CACHE_MS_MAX, WELL_KNOWN_BYTES_MAX, cache_ms, failure_cache_ms};
use super::{Dns, HttpsGet, ServerFilter, flights::Flights, get_following, timed_cache::TimedCache};
use crate::{
    clock::Clock,
    network::{NetworkError, RequestLimits},
    random::Random,
};

mod steps;
mod well_known;

pub(crate) use self::steps::DEFAULT_PORT;
pub use self::steps::{Host, Target, split};

/// Finds servers, and remembers what it found. Cloning shares the memory.
#[derive(Clone)]
pub struct Discovery {
    shared: Arc<Shared>,
}

/// Where and under which name a server is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// What goes into the `Host` header; the certificate must be for it, without the port.
    pub name: ServerName,
    /// Where to connect to, the first first; never empty.
    pub targets: Vec<Target>,
}

impl Discovery {
    /// Makes a memory without anything in it. `servers` are those that others may delegate to.
    pub fn new(
        dns: Arc<dyn Dns>,
        well_known: Arc<dyn HttpsGet>,
        clock: Arc<dyn Clock>,
        random: Arc<dyn Random>,
        servers: ServerFilter,
    ) -> Self {
        let memory = Mutex::new(Memory {
            delegations: TimedCache::new(NAMES_MAX),
            failures: TimedCache::new(NAMES_MAX),
            nowhere: TimedCache::new(NAMES_MAX),
        });
        Self { shared: Arc::new(Shared { dns, well_known, clock, random, servers, memory, flights: Flights::new() }) }
    }

    /// Finds a server: [`delegated_name`](Self::delegated_name), then [`targets`](Self::targets).
    ///
    /// # Errors
    ///
    /// As of [`targets`](Self::targets).
    pub async fn route(&self, server: &ServerName) -> Result<Route, NetworkError> {
        let name = self.delegated_name(server).await;
        let targets = self.targets(&name).await?;
        Ok(Route { name, targets })
    }

    /// Returns the name that a server has delegated to, itself if it has not (steps 1 to 3).
    ///
    /// Failures are no errors: without a valid answer there is no delegation, nor to a name that is denied. A valid answer that can't be renewed goes on for
    /// 48 hours from when it was given.
    pub async fn delegated_name(&self, server: &ServerName) -> ServerName {
        let Some(host) = steps::well_known_host(server) else { return server.clone() };
        if let Some(known) = self.shared.known_delegation(server) {
            return known.unwrap_or_else(|| server.clone());
        }
        let shared = self.shared.clone();
        let key = server.clone();
        let fetch = || async move { shared.fetch_delegation(&key, &host).await }.boxed();
        self.shared.flights.run(server, fetch).await.unwrap_or_else(|| server.clone())
    }

    /// Returns where a server name, or the name that a server has delegated to, is (steps 1, 2, 3.1 to 3.5, and 4 to 6), the place
    /// to try first first; never empty. Hosts are not looked up yet.
    ///
    /// # Errors
    ///
    /// [`NetworkError::NoSuchServer`] if SRV says that the service is not offered, [`NetworkError::Dns`]
    pub async fn targets(&self, name: &ServerName) -> Result<Vec<Target>, NetworkError> {
        let (host, srv_names) = match steps::place(name) {
            steps::Placed::At(target) => return Ok(vec![target]),
            steps::Placed::BySrv { host, names } => (host, names),
        };
        let shared = &self.shared;
        if shared.memory().nowhere.get(name, shared.clock.now_ms()).is_some() {
            return Err(NetworkError::NoSuchServer { host });
        }
        for srv_name in srv_names {
            let records = shared
                .dns
                .srv(&srv_name)
                .await
                .map_err(|error| NetworkError::Dns { host: host.clone(), source: error.into_source() })?;
            if records.is_empty() {
                continue;
            }
            let targets = steps::targets_of(records, &*shared.random);
            if targets.is_empty() {
                self.forget_for_a_while(name);
                return Err(NetworkError::NoSuchServer { host });
            }
            return Ok(targets);
        }
        Ok(vec![Target { host: Host::Name(host), port: DEFAULT_PORT }])
    }

    /// Notes that no host of a name has an address: for a while it is not looked for again.
    pub(crate) fn forget_for_a_while(&self, name: &ServerName) {
        let end_ms = self.shared.clock.now_ms().saturating_add(NOWHERE_CACHE_MS);
        self.shared.memory().nowhere.insert(name.clone(), (), end_ms);
    }
}

/// How many names are remembered, of each kind.
const NAMES_MAX: usize = 20_000;

/// How long a name without addresses is not looked for again.
const NOWHERE_CACHE_MS: i64 = 60_000;

/// How long one hop of asking `.well-known` may take, and all of it.
const WELL_KNOWN_TIME: [Duration; 2] = [Duration::from_secs(10), Duration::from_secs(20)];

struct Shared {
    dns: Arc<dyn Dns>,
    well_known: Arc<dyn HttpsGet>,
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
    servers: ServerFilter,
    memory: Mutex<Memory>,
    flights: Flights<ServerName, Option<ServerName>>,
}

struct Memory {
    /// Valid answers, for as long as they may be used at all.
    delegations: TimedCache<ServerName, Delegation>,
    /// How often in a row there was no valid answer, and until when not to ask again. Kept for longer than that.
    failures: TimedCache<ServerName, Failure>,
    /// Names that have no address.
    nowhere: TimedCache<ServerName, ()>,
}

struct Delegation {
    name: ServerName,
    /// Until then it is not asked again.
    fresh_until_ms: i64,
}

struct Failure {
    count: u32,
    until_ms: i64,
}

impl Shared {
    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the delegation or that there is none, `None` if it is time to ask.
    fn known_delegation(&self, server: &ServerName) -> Option<Option<ServerName>> {
        let now_ms = self.clock.now_ms();
        let memory = self.memory();
        let delegation = memory.delegations.get(server, now_ms);
        let failed = memory.failures.get(server, now_ms).is_some_and(|failure| failure.until_ms > now_ms);
        match delegation {
            Some(delegation) if failed || delegation.fresh_until_ms > now_ms => Some(Some(delegation.name.clone())),
            Some(_) => None,
            None => failed.then_some(None),
        }
    }

    async fn fetch_delegation(&self, server: &ServerName, host: &str) -> Option<ServerName> {
        let answer = self.fetch_well_known(host).await;
        let now_ms = self.clock.now_ms();
        let mut memory = self.memory();
        let (may_pass, failure) = match &answer {
            Ok(answer) => match well_known::delegated_name(answer) {
                Ok(name) if !self.servers.allows_delegation_to(&name) => (false, format!("{name} is denied")),
                Ok(name) => {
                    let fresh_until_ms = now_ms.saturating_add(cache_ms(answer.headers(), now_ms));
                    let delegation = Delegation { name: name.clone(), fresh_until_ms };
                    memory.delegations.insert(server.clone(), delegation, now_ms.saturating_add(CACHE_MS_MAX));
                    memory.failures.remove(server);
                    return Some(name);
                }
                Err(error) => (answer.status().is_server_error(), error.to_string()),
            },
            Err(error) => (true, error.to_string()),
        };
        tracing::debug!(server = %server, failure, "no valid .well-known");
        let count = memory.failures.get(server, now_ms).map_or(0, |failure| failure.count).saturating_add(1);
        // The server has said that it does not delegate: nothing to come back to soon.
        let cache_ms = if may_pass { failure_cache_ms(count) } else { failure_cache_ms(u32::MAX) };
        let until_ms = now_ms.saturating_add(cache_ms);
        let end_ms = until_ms.saturating_add(cache_ms);
        memory.failures.insert(server.clone(), Failure { count, until_ms }, end_ms);
        if may_pass {
            return memory.delegations.get(server, now_ms).map(|delegation| delegation.name.clone());
        }
        memory.delegations.remove(server);
        None
    }

    async fn fetch_well_known(&self, host: &str) -> Result<http::Response<bytes::Bytes>, NetworkError> {
        let uri = format!("https://{host}/.well-known/matrix/server");
        let uri = uri.parse::<Uri>().map_err(|_| NetworkError::InvalidRequest)?;
        let [hop_time, time] = WELL_KNOWN_TIME;
        let limits = RequestLimits { time: hop_time, answer_bytes: WELL_KNOWN_BYTES_MAX };
        let fetch = get_following(&*self.well_known, uri, limits);
        let timeout = self.clock.sleep(time);
        futures_util::pin_mut!(fetch);
        match futures_util::future::select(fetch, timeout).await {
            futures_util::future::Either::Left((answer, _)) => answer,
            futures_util::future::Either::Right(_) => Err(NetworkError::Timeout),
        }
    }
}

#[cfg(test)]
mod tests;
