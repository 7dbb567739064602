//! The configuration of a server: a TOML file, and environment variables that override it.
//!
//! Every key is declared once, with its documentation, its default and an example. The structs, the list of known keys and the commented
//! file of `ravel config --example` are all made of that one declaration.

mod check;
mod example;
mod file;
mod load;
mod values;

use std::{net::SocketAddr, path::PathBuf};

use ravel_core::{id::ServerName, room_version::RoomVersion};
use serde::{Deserialize, Serialize};

use self::values::Setting;
pub use self::{
    example::{example, with_values},
    load::{ConfigError, Place, Problem, load, load_text},
    values::{Backend, BaseUrl, Level, LogFormat, Secret, Written},
};

/// What is said about one key.
struct Key {
    name: &'static str,
    doc: &'static [&'static str],
    /// Its default in TOML; `None` if it has none.
    default: Option<toml::Value>,
    /// A value in TOML, of keys without default.
    example: Option<&'static str>,
    /// Whether its value is a string, so that an environment variable is taken as it is.
    is_text: bool,
}

/// What is said about one section.
struct Section {
    name: &'static str,
    doc: &'static [&'static str],
    keys: Vec<Key>,
}

/// A struct of settings.
trait Settings {
    const DOC: &'static [&'static str];

    fn keys() -> Vec<Key>;
}

macro_rules! settings {
    ($(
        $(#[doc = $doc:literal])+
        $section:ident {
            $( $(#[doc = $key_doc:literal])+ $key:ident: $kind:ty = $default:expr $(, like $example:literal)?; )*
        }
    )+) => { $(
        $(#[doc = $doc])+
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
        #[serde(default, deny_unknown_fields)]
        pub struct $section {
            $( $(#[doc = $key_doc])+ pub $key: $kind, )*
        }

        impl Default for $section {
            fn default() -> Self {
                Self { $($key: $default),* }
            }
        }

        impl Settings for $section {
            const DOC: &'static [&'static str] = &[$($doc),+];

            fn keys() -> Vec<Key> {
                let default = Self::default();
                vec![$( Key {
                    name: stringify!($key),
                    doc: &[$($key_doc),+],
                    default: toml::Value::try_from(&default.$key).ok(),
                    example: None $(.or(Some($example)))?,
                    is_text: <$kind as Setting>::IS_TEXT,
                } ),*]
            }
        }
    )+ };
}

/// The configuration of a server.
///
/// Invariant of those that [`load`] returns: what `check` demands. Paths are absolute, or relative to the working directory.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "each section says what it is; the other keys are described in TOP")]
pub struct Config {
    pub server_name: Written<ServerName>,
    #[serde(default)]
    pub public_base_url: Option<Written<BaseUrl>>,
    #[serde(default = "default_signing_key")]
    pub signing_key: PathBuf,
    #[serde(default)]
    pub listen: Listen,
    #[serde(default)]
    pub limits: Limits,
    #[serde(default)]
    pub database: Database,
    #[serde(default)]
    pub media: Media,
    #[serde(default)]
    pub log: Log,
    #[serde(default)]
    pub metrics: Metrics,
    #[serde(default)]
    pub registration: Registration,
    #[serde(default)]
    pub rate_limits: RateLimits,
    #[serde(default)]
    pub federation: Federation,
    #[serde(default)]
    pub outbound: Outbound,
    #[serde(default)]
    pub rooms: Rooms,
    #[serde(default)]
    pub url_previews: UrlPreviews,
    #[serde(default)]
    pub application_services: ApplicationServices,
    #[serde(default)]
    pub recaptcha: Recaptcha,
    #[serde(default)]
    pub email: Email,
    #[serde(default)]
    pub cas: Cas,
}

fn default_signing_key() -> PathBuf {
    "signing.key".into()
}

/// Returns the keys outside of sections.
fn top() -> Vec<Key> {
    vec![
        Key {
            name: "server_name",
            doc: &[
                " The name of the server: what follows the colon in the ids of its users. A host name, as in",
                " @alice:example.org, or an address, perhaps with a port. It can't be changed later.",
            ],
            default: None,
            example: Some("\"example.org\""),
            is_text: true,
        },
        Key {
            name: "public_base_url",
            doc: &[
                " Where clients and other servers reach this server, if that differs from the server's name. It is told at",
                " /.well-known/matrix/client and /.well-known/matrix/server.",
            ],
            default: None,
            example: Some("\"https://matrix.example.org\""),
            is_text: true,
        },
        Key {
            name: "signing_key",
            doc: &[
                " The file with the key that signs events and requests: one line, `ed25519 VERSION SEED`, the seed in unpadded",
                " base64. `ravel init` makes one. Keep it secret and don't lose it.",
            ],
            default: toml::Value::try_from(default_signing_key()).ok(),
            example: None,
            is_text: true,
        },
    ]
}

/// Returns the sections in the order of the file.
fn sections() -> Vec<Section> {
    fn section<S: Settings>(name: &'static str) -> Section {
        Section { name, doc: S::DOC, keys: S::keys() }
    }
    vec![
        section::<Listen>("listen"),
        section::<Limits>("limits"),
        section::<Database>("database"),
        section::<Media>("media"),
        section::<Log>("log"),
        section::<Metrics>("metrics"),
        section::<Registration>("registration"),
        section::<RateLimits>("rate_limits"),
        section::<Federation>("federation"),
        section::<Outbound>("outbound"),
        section::<Rooms>("rooms"),
        section::<UrlPreviews>("url_previews"),
        section::<ApplicationServices>("application_services"),
        section::<Recaptcha>("recaptcha"),
        section::<Email>("email"),
        section::<Cas>("cas"),
    ]
}

settings! {
    /// Where the server listens: for HTTPS, for HTTP behind a reverse proxy, or both. At least one of them is needed.
    Listen {
        /// Address and port for HTTPS, for clients and other servers. Other servers come to port 8448 of the server's name unless
        /// they are told another place.
        https: Option<SocketAddr> = None, like "\"0.0.0.0:8448\"";
        /// Address and port for plain HTTP, for a reverse proxy on the same machine.
        http: Option<SocketAddr> = None, like "\"127.0.0.1:8008\"";
        /// File in PEM with the certificate for HTTPS, followed by those that lead to its authority. Read again on SIGHUP.
        tls_certificate: Option<PathBuf> = None, like "\"tls.crt\"";
        /// File in PEM with the certificate's private key.
        tls_private_key: Option<PathBuf> = None, like "\"tls.key\"";
    }

    /// What one client can take of the server.
    Limits {
        /// Connections at the same time; more wait to be accepted. The limit of open files has to allow for them.
        connections_max: u32 = 4096;
        /// Bytes of a request's line and headers.
        header_bytes_max: u32 = 32_768;
        /// Bytes of a request's body, where the specification does not ask for more. (Media have `media.max_upload_size`.)
        body_bytes_max: u32 = 1_048_576;
        /// Bytes of the body of a transaction or of another request with many events from another server.
        federation_body_bytes_max: u32 = 16_777_216;
        /// Seconds until a request's headers have to be there, and for the TLS handshake.
        header_seconds_max: u32 = 15;
        /// Seconds until a request's body has to be there.
        body_seconds_max: u32 = 120;
        /// Seconds after which a connection without a request is closed, and one whose peer takes no bytes of an answer.
        idle_seconds_max: u32 = 90;
        /// Requests at the same time on one HTTP/2 connection.
        http2_streams_max: u32 = 100;
        /// Seconds that running requests have to finish when the server is told to stop.
        stop_seconds_max: u32 = 15;
    }

    /// Where rooms and users are kept.
    Database {
        /// `rocksdb`, `sled`, `memory` (for tests: all is gone when the server stops), or in builds with the feature `postgres`
        /// `postgres`.
        backend: Backend = Backend::RocksDb;
        /// The folder of the database, for `rocksdb` and `sled`. It is made if it is not there.
        path: PathBuf = "database".into();
        /// The connection string, for `postgres`.
        url: Option<Secret> = None, like "\"postgres://ravel@localhost/ravel\"";
    }

    /// Files that users upload, and those of other servers.
    Media {
        /// The folder for them.
        path: PathBuf = "media".into();
        /// Bytes of the largest file.
        max_upload_size: u64 = 52_428_800;
    }

    /// What is logged, and where to.
    Log {
        /// `off`, `error`, `warn`, `info`, `debug` or `trace`.
        level: Level = Level::Info;
        /// `text` for people or `json` for programs.
        format: LogFormat = LogFormat::Text;
        /// A file; without one it is the standard error. Opened again on SIGHUP.
        file: Option<PathBuf> = None, like "\"ravel.log\"";
    }

    /// Metrics for Prometheus at /_ravel/metrics.
    Metrics {
        /// Whether there are any.
        enabled: bool = true;
        /// An address and port of their own. Without it they are at the plain HTTP port, where only requests from this machine that no
        /// proxy has forwarded get them. They are never at the HTTPS port.
        listen: Option<SocketAddr> = None, like "\"127.0.0.1:9090\"";
    }

    /// Who can make an account.
    Registration {
        /// Whether everybody can.
        enabled: bool = false;
        /// Whether there are guests, who need no account.
        guests: bool = false;
        /// Whoever knows this can make accounts, also of administrators. At least 8 characters.
        shared_secret: Option<Secret> = None, like "\"a long random text\"";
        /// Hashes passwords as cheaply as possible. For tests only.
        cheap_password_hashes: bool = false;
    }

    /// Limits on how often clients may ask.
    RateLimits {
        /// Whether there are any.
        enabled: bool = true;
    }

    /// Other servers.
    Federation {
        /// Whether there are any for this one. Without, it answers none and asks none.
        enabled: bool = true;
        /// Servers that there is something to do with, without ports: `*` is for any characters and `?` for one, as in rooms' access control
        /// lists.
        allowed_servers: Vec<String> = vec!["*".into()];
        /// Servers that there is nothing to do with, in the same form. They are asked nothing, told nothing and answered nothing. What their
        /// users send into rooms comes from the other servers there.
        denied_servers: Vec<String> = Vec::new();
        /// Files in PEM with certificates of authorities that are trusted besides the system's.
        ca_certificates: Vec<PathBuf> = Vec::new();
        /// Whether servers have to prove who they are. Leave it on.
        verify_certificates: bool = true;
        /// Whether servers at private and loopback addresses are talked to. Leave it off on the public network.
        allow_private_addresses: bool = false;
        /// Servers that are asked for the keys of servers that do not answer, in this order; `matrix.org` knows many. They could make such
        /// keys up.
        notaries: Vec<Written<ServerName>> = Vec::new();
        /// Public keys in base64 that nothing is accepted from, as their private halves are known to the world.
        denied_verify_keys: Vec<String> = vec!["l/O9hxMVKB6Lg+3Hqf0FQQZhVESQcMzbPN1Cz2nM3og".into()];
        /// Seconds for which a server is left alone that does not answer. Doubled each time, and over as soon as it shows a sign of life.
        retry_seconds_min: u32 = 5;
        /// The most seconds for which a server is left alone.
        retry_seconds_max: u32 = 3600;
    }

    /// Requests that are not federation: to push gateways, application services, identity servers, and previewed pages.
    Outbound {
        /// Whether those servers have to prove who they are. Leave it on.
        verify_certificates: bool = true;
        /// Whether private and loopback addresses are talked to. Leave it off on the public network.
        allow_private_addresses: bool = false;
    }

    /// Rooms that are made here, and the directory.
    Rooms {
        /// The version of rooms whose creator names none, `1` to `12`.
        default_version: Written<RoomVersion> = Written(RoomVersion::V12);
        /// Whether everybody can see the list of public rooms, not only users.
        public_directory_without_auth: bool = false;
        /// Whether other servers can see it.
        public_directory_over_federation: bool = false;
        /// Whether only members can make aliases of a room.
        aliases_require_membership: bool = true;
        /// Whether users can put rooms on the list of public rooms.
        allow_publishing: bool = true;
    }

    /// Previews of pages that messages link to.
    UrlPreviews {
        /// Whether there are any.
        enabled: bool = false;
    }

    /// Bridges and bots.
    ApplicationServices {
        /// Files with their registrations, in YAML.
        files: Vec<PathBuf> = Vec::new();
    }

    /// A captcha for registration.
    Recaptcha {
        /// Where answers are checked.
        verify_url: Option<Written<BaseUrl>> = None, like "\"https://www.google.com/recaptcha/api/siteverify\"";
        /// The key for browsers.
        public_key: Option<String> = None, like "\"6Le...\"";
        /// The key for the check.
        private_key: Option<Secret> = None, like "\"6Le...\"";
    }

    /// Mail to confirm addresses.
    Email {
        /// The server that takes it.
        smtp_host: Option<String> = None, like "\"localhost\"";
        /// Its port.
        smtp_port: u16 = 25;
        /// The sender.
        from: Option<String> = None, like "\"ravel@example.org\"";
    }

    /// Login with a Central Authentication Service.
    Cas {
        /// The service.
        server_url: Option<Written<BaseUrl>> = None, like "\"https://cas.example.org\"";
        /// What it knows this server by.
        service_url: Option<Written<BaseUrl>> = None, like "\"https://matrix.example.org\"";
    }
}

impl Config {
    /// Returns the configuration of a server about which nothing is known but its name: it listens nowhere.
    pub fn of(server_name: ServerName) -> Self {
        Self {
            server_name: Written(server_name),
            public_base_url: None,
            signing_key: default_signing_key(),
            listen: Listen::default(),
            limits: Limits::default(),
            database: Database::default(),
            media: Media::default(),
            log: Log::default(),
            metrics: Metrics::default(),
            registration: Registration::default(),
            rate_limits: RateLimits::default(),
            federation: Federation::default(),
            outbound: Outbound::default(),
            rooms: Rooms::default(),
            url_previews: UrlPreviews::default(),
            application_services: ApplicationServices::default(),
            recaptcha: Recaptcha::default(),
            email: Email::default(),
            cas: Cas::default(),
        }
    }
}
