//! Running `ravel serve`, and asking it.

use std::{
    io::{BufRead, BufReader},
    net::{SocketAddr, TcpStream},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned, crypto::ring, pki_types::CertificateDer};
use serde_json::Value;

pub(crate) use crate::http::Answer;
use crate::http::exchange;
use crate::support::{Place, command, ravel};

/// How long a server may take to start or to end.
const PATIENCE: Duration = Duration::from_secs(60);

/// A server of a test, in a process of its own.
pub(crate) struct Server {
    pub(crate) child: Child,
    pub(crate) place: Place,
    pub(crate) http: Option<SocketAddr>,
    pub(crate) https: Option<SocketAddr>,
    pub(crate) metrics: Option<SocketAddr>,
}

impl Server {
    /// Starts one as `ravel init` makes it, at a free port, with environment variables.
    pub(crate) fn initialized(variables: &[(&str, &str)]) -> Self {
        let place = Place::new();
        let folder = place.path("server");
        ravel(&["init", "--server-name", "example.org", "--http", "127.0.0.1:0", folder.to_str().unwrap()]).ok();
        Self::start(place, "server/ravel.toml", variables)
    }

    /// Starts one with the configuration file of a place.
    pub(crate) fn start(place: Place, configuration: &str, variables: &[(&str, &str)]) -> Self {
        let path = place.path(configuration);
        let mut command = command(&["serve", "--json", "--config", path.to_str().unwrap()]);
        let log = std::fs::File::create(place.path("stderr")).unwrap();
        command.envs(variables.iter().copied()).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log);
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let mut server = Self { child, place, http: None, https: None, metrics: None };
        let ready: Value =
            serde_json::from_str(&line).unwrap_or_else(|_| panic!("it does not start: {}", server.stderr()));
        let address = |name: &str| ready[name].as_str().map(|address| address.parse().unwrap());
        (server.http, server.https, server.metrics) = (address("http"), address("https"), address("metrics"));
        server
    }

    pub(crate) fn stderr(&self) -> String {
        std::fs::read_to_string(self.place.path("stderr")).unwrap()
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, name: &str) {
        let sent = Command::new("kill").args(["-s", name, &self.child.id().to_string()]).status().unwrap();
        assert!(sent.success());
    }

    /// Waits for the end and returns the exit code.
    pub(crate) fn ended(&mut self) -> i32 {
        let began = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code().unwrap_or(-1);
            }
            assert!(began.elapsed() < PATIENCE, "it does not end: {}", self.stderr());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Sends a request over plain HTTP.
    pub(crate) fn ask(&self, method: &str, path: &str) -> Answer {
        self.ask_with(method, path, "", b"")
    }

    /// Sends a request with more headers, each ending with CR LF, and a body.
    pub(crate) fn ask_with(&self, method: &str, path: &str, headers: &str, body: &[u8]) -> Answer {
        exchange(TcpStream::connect(self.http.unwrap()).unwrap(), method, path, headers, body)
    }

    /// Sends a request over HTTPS.
    pub(crate) fn ask_tls(&self, certificate: &CertificateDer<'static>, method: &str, path: &str) -> Answer {
        let name = "localhost".try_into().unwrap();
        let connection = ClientConnection::new(client_config(certificate, &[b"http/1.1"]), name).unwrap();
        let stream = StreamOwned::new(connection, TcpStream::connect(self.https.unwrap()).unwrap());
        exchange(stream, method, path, "", b"")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Returns the configuration of a client that trusts one certificate.
pub(crate) fn client_config(certificate: &CertificateDer<'static>, protocols: &[&[u8]]) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(certificate.clone()).unwrap();
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    Arc::new(config)
}
