//! Talking to other servers: finding them, connecting, signing requests, and the keys that all trust rests on.
//!
//! The way of a request:
//!
//! 1. [`FederationClient`] signs it ([`x_matrix`]), unless the [`ServerFilter`] denies its destination or that did not answer lately.
//! 2. [`HttpsNetwork`] asks [`discovery`] which name the server has delegated to, and its pool for a connection with that name.
//! 3. If there is none, the connector finds where the name is served, connects to an address that the [`AddressFilter`] lets
//!    through, and checks the certificate.
//!
//! A request that came in is checked with a key from the [`KeyStore`], as are events. The [`ServerFilter`] decides on its sender, too.

mod address_filter;
mod back_off;
mod client;
mod connector;
pub mod discovery;
mod dns;
pub(crate) mod flights;
mod https;
pub mod keys;
mod redirects;
mod server_filter;
pub(crate) mod timed_cache;
mod tls;
pub mod x_matrix;

pub(crate) use self::server_filter::is_allowed;
pub use self::{
    address_filter::AddressFilter,
    back_off::Pauses,
    client::{FederationClient, FederationError, OnAlive, RemoteError, SendOptions, written},
    dns::{Dns, DnsError, HickoryDns, SrvRecord},
    https::{HttpsNetwork, HttpsNetworkConfig},
    keys::KeyStore,
    redirects::{HttpsGet, get_following},
    server_filter::ServerFilter,
    tls::{TlsConfig, TlsConfigError},
};
