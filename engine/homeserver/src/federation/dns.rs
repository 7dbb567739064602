//! DNS, as far as finding servers needs it.

use std::{net::IpAddr, sync::Arc};

use futures_util::future::BoxFuture;
use hickory_resolver::{
    TokioResolver,
    config::{LookupIpStrategy, ResolverConfig},
    net::{NetError, runtime::TokioRuntimeProvider},
    proto::rr::RData,
};

use crate::network::SharedError;

/// Looks names up.
pub trait Dns: Send + Sync + 'static {
    /// Returns the SRV records of a name, in no particular order; none if there are none.
    ///
    /// # Errors
    ///
    /// [`DnsError`] if it is not known whether there are any.
    fn srv<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Vec<SrvRecord>, DnsError>>;

    /// Returns the addresses of a host, those to try first first; none if there are none.
    ///
    /// # Errors
    ///
    /// [`DnsError`] if it is not known whether there are any.
    fn addresses<'a>(&'a self, host: &'a str) -> BoxFuture<'a, Result<Vec<IpAddr>, DnsError>>;
}

/// Where a service of a domain is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SrvRecord {
    /// Lower ones are tried first.
    pub priority: u16,
    /// How likely it is to be tried first among those of the same priority.
    pub weight: u16,
    /// The port.
    pub port: u16,
    /// The host, without the dot at its end; empty if the record says that there is no such service.
    pub target: Box<str>,
}

/// DNS did not answer.
#[derive(Clone, Debug, thiserror::Error)]
#[error(transparent)]
pub struct DnsError(SharedError);

impl DnsError {
    /// Makes it of what was met.
    pub fn new(source: impl std::error::Error + Send + Sync + 'static) -> Self {
        Self(Arc::new(source))
    }

    /// Returns what was met.
    pub fn into_source(self) -> SharedError {
        self.0
    }
}

/// The resolvers and the hosts file of the operating system's configuration. Keeps answers for their time to live.
#[derive(Clone)]
pub struct HickoryDns {
    resolver: TokioResolver,
}

impl HickoryDns {
    /// Makes it of the operating system's configuration; without one only the hosts file is known.
    ///
    /// # Errors
    ///
    /// [`DnsError`] if the configuration can't be used.
    pub fn of_system() -> Result<Self, DnsError> {
        let mut builder = TokioResolver::builder_tokio().unwrap_or_else(|error| {
            tracing::warn!(%error, "no configuration of DNS can be read: names of other servers are not found");
            let nobody = ResolverConfig::from_parts(None, Vec::new(), Vec::new());
            TokioResolver::builder_with_config(nobody, TokioRuntimeProvider::default())
        });
        let options = builder.options_mut();
        options.ip_strategy = LookupIpStrategy::Ipv6AndIpv4;
        options.max_active_requests = 256;
        // A server that has just been set up should be found before long.
        options.negative_max_ttl = Some(std::time::Duration::from_secs(300));
        Ok(Self { resolver: builder.build().map_err(DnsError::new)? })
    }
}

impl Dns for HickoryDns {
    fn srv<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Vec<SrvRecord>, DnsError>> {
        Box::pin(async move {
            let Some(lookup) = none_if_absent(self.resolver.srv_lookup(fully_qualified(name)).await)? else {
                return Ok(Vec::new());
            };
            let records = lookup.answers().iter().filter_map(|record| match &record.data {
                RData::SRV(srv) => Some(SrvRecord {
                    priority: srv.priority,
                    weight: srv.weight,
                    port: srv.port,
                    target: srv.target.to_ascii().trim_end_matches('.').into(),
                }),
                _ => None,
            });
            Ok(records.collect())
        })
    }

    fn addresses<'a>(&'a self, host: &'a str) -> BoxFuture<'a, Result<Vec<IpAddr>, DnsError>> {
        Box::pin(async move {
            let lookup = none_if_absent(self.resolver.lookup_ip(fully_qualified(host)).await)?;
            Ok(lookup.map(|lookup| lookup.iter().collect()).unwrap_or_default())
        })
    }
}

/// With the dot at its end a name is not tried below the search domains of the machine.
fn fully_qualified(name: &str) -> String {
    format!("{}.", name.trim_end_matches('.'))
}

fn none_if_absent<T>(answer: Result<T, NetError>) -> Result<Option<T>, DnsError> {
    match answer {
        Ok(answer) => Ok(Some(answer)),
        Err(error) if error.is_no_records_found() => Ok(None),
        Err(error) => Err(DnsError::new(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn localhost_is_known_without_servers() {
        let dns = HickoryDns::of_system().unwrap();
        let addresses = dns.addresses("localhost").await.unwrap();
        assert!(
            addresses.iter().any(IpAddr::is_loopback) && addresses.iter().all(IpAddr::is_loopback),
            "{addresses:?}"
        );
    }
}
