//! The way to other servers, as it is configured.

use std::sync::Arc;

use ravel_core::signing::{VerifyKey, decode_base64};
use ravel_homeserver::{
    clock::Clock,
    federation::{
        AddressFilter, DnsError, HickoryDns, HttpsNetwork, HttpsNetworkConfig, Pauses, ServerFilter, TlsConfig,
        TlsConfigError, keys::KeyStoreConfig,
    },
    network::{Network, NoNetwork},
    random::Random,
};

use super::config::Federation;

/// Why other servers can't be reached.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum NetworkConfigError {
    #[error(transparent)]
    Tls(#[from] TlsConfigError),
    #[error("DNS can't be used: {0}")]
    Dns(#[from] DnsError),
}

/// Makes the network that `[federation]` describes.
pub(super) fn open(
    config: &Federation,
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
) -> Result<Arc<dyn Network>, NetworkConfigError> {
    if !config.enabled {
        return Ok(Arc::new(NoNetwork));
    }
    let tls = TlsConfig {
        ca_files: config.ca_certificates.clone(),
        verify_certificates: config.verify_certificates,
        ..TlsConfig::default()
    };
    let addresses = AddressFilter { allow_private_addresses: config.allow_private_addresses };
    let dns = Arc::new(HickoryDns::of_system()?);
    Ok(Arc::new(HttpsNetwork::new(
        &HttpsNetworkConfig { addresses, tls, servers: servers(config) },
        dns,
        clock,
        random,
    )?))
}

/// Returns whose keys are believed. The configuration's check has made sure that the denied ones are keys.
pub(super) fn key_store_config(config: &Federation) -> KeyStoreConfig {
    let key = |text: &String| VerifyKey::from_bytes(&decode_base64(text)?.try_into().ok()?).ok();
    let notaries = config.notaries.iter().map(|notary| notary.0.clone()).collect();
    KeyStoreConfig { notaries, denied_keys: config.denied_verify_keys.iter().filter_map(key).collect() }
}

/// Returns which servers there is something to do with.
pub(super) fn servers(config: &Federation) -> ServerFilter {
    ServerFilter::new(config.allowed_servers.clone(), config.denied_servers.clone())
}

/// Returns how long servers are left alone that do not answer.
pub(super) fn pauses(config: &Federation) -> Pauses {
    let ms = |seconds| i64::from(seconds) * 1000;
    Pauses { min_ms: ms(config.retry_seconds_min), max_ms: ms(config.retry_seconds_max) }
}

#[cfg(test)]
mod tests {
    use ravel_core::id::ServerName;

    use super::key_store_config;
    use crate::serve::config::{Config, Written};

    #[test]
    fn whose_keys_are_believed_is_what_is_configured() {
        let [own, notary] = ["a.org", "notary.org"].map(|name| ServerName::parse(name).unwrap());
        let mut federation = Config::of(own).federation;
        let unchanged = key_store_config(&federation);
        assert_eq!((unchanged.notaries.len(), unchanged.denied_keys.len()), (0, 1));
        federation.notaries = vec![Written(notary.clone())];
        assert_eq!(key_store_config(&federation).notaries, [notary]);
    }
}
