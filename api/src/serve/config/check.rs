//! What a configuration has to fulfil beyond its types.

use std::path::{Path, PathBuf};

use super::{Backend, Config, Secret};

/// Secrets from other programs' examples, and the first that come to mind.
const KNOWN_SECRETS: [&str; 8] = [
    "changeme",
    "change_me",
    "password",
    "secret",
    "shared_secret",
    "registration_shared_secret",
    "12345678",
    "a long random text",
];

const SECRET_CHARS_MIN: usize = 8;

/// Tells each thing that is wrong: the key, and what.
pub(super) fn check(config: &Config, problem: &mut dyn FnMut(&str, String)) {
    listen(config, problem);
    limits(config, problem);
    database(config, problem);
    registration(config, problem);
    federation(config, problem);
    together(config, problem);
}

fn listen(config: &Config, problem: &mut dyn FnMut(&str, String)) {
    let listen = &config.listen;
    if listen.https.is_none() && listen.http.is_none() {
        problem("listen", "the server would listen nowhere: set listen.http or listen.https".to_owned());
    }
    for (key, path) in
        [("listen.tls_certificate", &listen.tls_certificate), ("listen.tls_private_key", &listen.tls_private_key)]
    {
        match (listen.https, path) {
            (Some(_), None) => problem(key, "it is missing, and listen.https needs it".to_owned()),
            (None, Some(_)) => problem(key, "it is of no use without listen.https".to_owned()),
            _ => {}
        }
    }
    let addresses = [
        ("listen.https", listen.https),
        ("listen.http", listen.http),
        ("metrics.listen", config.metrics.listen.filter(|_| config.metrics.enabled)),
    ];
    for (index, (key, address)) in addresses.iter().enumerate() {
        let earlier = addresses.iter().take(index).find(|(_, earlier)| earlier.is_some() && earlier == address);
        // Port 0 is any free port.
        if let Some((other, _)) = earlier.filter(|_| address.is_some_and(|address| address.port() != 0)) {
            problem(key, format!("it is the same address as {other}"));
        }
    }
}

fn limits(config: &Config, problem: &mut dyn FnMut(&str, String)) {
    const DAY_SECONDS: u64 = 86_400;
    const GIB: u64 = 1 << 30;
    let limits = &config.limits;
    for (key, value, min, max) in [
        ("limits.connections_max", u64::from(limits.connections_max), 1, 1_000_000),
        // Less than what a request with a long path and a long token needs. HTTP/1 can't be told less than 8 KiB.
        ("limits.header_bytes_max", u64::from(limits.header_bytes_max), 8192, 1 << 20),
        ("limits.body_bytes_max", u64::from(limits.body_bytes_max), 65_536, GIB),
        ("limits.federation_body_bytes_max", u64::from(limits.federation_body_bytes_max), 1 << 20, GIB),
        ("limits.header_seconds_max", u64::from(limits.header_seconds_max), 1, DAY_SECONDS),
        ("limits.body_seconds_max", u64::from(limits.body_seconds_max), 1, DAY_SECONDS),
        ("limits.idle_seconds_max", u64::from(limits.idle_seconds_max), 1, DAY_SECONDS),
        ("limits.http2_streams_max", u64::from(limits.http2_streams_max), 1, 10_000),
        ("limits.stop_seconds_max", u64::from(limits.stop_seconds_max), 0, DAY_SECONDS),
        ("federation.retry_seconds_min", u64::from(config.federation.retry_seconds_min), 1, DAY_SECONDS),
        ("federation.retry_seconds_max", u64::from(config.federation.retry_seconds_max), 1, DAY_SECONDS),
        ("media.max_upload_size", config.media.max_upload_size, 1, 64 * GIB),
        ("email.smtp_port", u64::from(config.email.smtp_port), 1, 65_535),
    ] {
        if !(min..=max).contains(&value) {
            problem(key, format!("{value} is not between {min} and {max}"));
        }
    }
}

fn database(config: &Config, problem: &mut dyn FnMut(&str, String)) {
    let database = &config.database;
    match (database.backend, &database.url) {
        (Backend::Postgres, _) if !cfg!(feature = "postgres") => {
            problem("database.backend", "this build has no PostgreSQL: build it with `--features postgres`".to_owned());
        }
        (Backend::Postgres, None) => {
            problem("database.url", "it is missing, and the backend postgres needs it".to_owned());
        }
        (Backend::Postgres, Some(url)) => {
            if !["postgres://", "postgresql://"].iter().any(|scheme| url.expose().starts_with(scheme)) {
                problem("database.url", "it does not begin with postgres://".to_owned());
            }
        }
        (_, Some(_)) => problem("database.url", "it is for the backend postgres only".to_owned()),
        (_, None) => {}
    }
    if database.path.as_os_str().is_empty() {
        problem("database.path", "it is empty".to_owned());
    }
}

fn registration(config: &Config, problem: &mut dyn FnMut(&str, String)) {
    if let Some(secret) = config.registration.shared_secret.as_ref().map(Secret::expose) {
        if secret.chars().count() < SECRET_CHARS_MIN {
            problem("registration.shared_secret", format!("it is shorter than {SECRET_CHARS_MIN} characters"));
        } else if KNOWN_SECRETS.contains(&secret.to_lowercase().as_str()) {
            problem("registration.shared_secret", "everybody can guess it".to_owned());
        }
    }
}

fn federation(config: &Config, problem: &mut dyn FnMut(&str, String)) {
    for key in &config.federation.denied_verify_keys {
        // A weak key can't be used anyway, but it may be named.
        if ravel_core::signing::decode_base64(key).is_none_or(|key| key.len() != 32) {
            problem("federation.denied_verify_keys", format!("{key:?} is not the base64 of 32 bytes"));
        }
    }
    let federation = &config.federation;
    for (key, names) in [
        ("federation.allowed_servers", &federation.allowed_servers),
        ("federation.denied_servers", &federation.denied_servers),
    ] {
        for name in names.iter().filter(|name| !is_of_server_names(name)) {
            problem(key, format!("{name:?} is no server name without port, with `*` and `?`"));
        }
    }
    let (min, max) = (config.federation.retry_seconds_min, config.federation.retry_seconds_max);
    if max < min {
        problem("federation.retry_seconds_max", format!("{max} is less than federation.retry_seconds_min"));
    }
}

/// Whether a pattern may match the host of a server's name.
fn is_of_server_names(pattern: &str) -> bool {
    let is_of_name = |byte: u8| byte.is_ascii_alphanumeric() || b".-*?".contains(&byte);
    match pattern.strip_prefix('[') {
        Some(address) => address.bytes().all(|byte| is_of_name(byte) || b":]".contains(&byte)),
        None => !pattern.is_empty() && pattern.bytes().all(is_of_name),
    }
}

/// What makes sense only together.
fn together(config: &Config, problem: &mut dyn FnMut(&str, String)) {
    let (recaptcha, email, cas) = (&config.recaptcha, &config.email, &config.cas);
    let groups: [&[(&str, bool)]; 3] = [
        &[
            ("recaptcha.verify_url", recaptcha.verify_url.is_some()),
            ("recaptcha.public_key", recaptcha.public_key.is_some()),
            ("recaptcha.private_key", recaptcha.private_key.is_some()),
        ],
        &[("email.smtp_host", email.smtp_host.is_some()), ("email.from", email.from.is_some())],
        &[("cas.server_url", cas.server_url.is_some()), ("cas.service_url", cas.service_url.is_some())],
    ];
    for group in groups {
        let Some((there, _)) = group.iter().find(|(_, is_there)| *is_there) else { continue };
        for (key, _) in group.iter().filter(|(_, is_there)| !is_there) {
            problem(key, format!("it is missing, and {there} is of no use without it"));
        }
    }
}

/// Makes paths that are relative start from a folder.
pub(super) fn resolve_paths(config: &mut Config, folder: &Path) {
    let resolve = |path: &mut PathBuf| *path = folder.join(&*path);
    resolve(&mut config.signing_key);
    resolve(&mut config.database.path);
    resolve(&mut config.media.path);
    let listen = &mut config.listen;
    let files = [&mut listen.tls_certificate, &mut listen.tls_private_key, &mut config.log.file];
    files.into_iter().flatten().for_each(resolve);
    config.federation.ca_certificates.iter_mut().chain(&mut config.application_services.files).for_each(resolve);
}
