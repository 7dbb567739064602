//! Running Ravel.

use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Command, Stdio},
};

use serde_json::Value;

use crate::homeserver::{Program, Running, Setup, log_of};

/// The binary of this build, with a database of a kind.
pub(crate) struct Ravel {
    pub(crate) backend: &'static str,
}

impl Program for Ravel {
    fn prepare(&self, setup: &Setup<'_>) {
        let Setup { folder, server_name, authority } = setup;
        let backend = self.backend;
        let authority = authority.to_str().unwrap();
        // Seeds are no secret here. The port makes those of several servers differ.
        let seed = &encode_seed(server_name);
        std::fs::write(folder.join("signing.key"), format!("ed25519 ravel {seed}\n")).unwrap();
        let configuration = format!(
            r#"
            server_name = "{server_name}"
            [listen]
            http = "127.0.0.1:0"
            https = "127.0.0.1:0"
            tls_certificate = "tls.crt"
            tls_private_key = "tls.key"
            [database]
            backend = "{backend}"
            [registration]
            enabled = true
            cheap_password_hashes = true
            [rate_limits]
            enabled = false
            [federation]
            ca_certificates = ["{authority}"]
            allow_private_addresses = true
            [rooms]
            public_directory_over_federation = true
            aliases_require_membership = false
            "#
        );
        std::fs::write(folder.join("ravel.toml"), configuration).unwrap();
    }

    fn start(&self, folder: &Path, stderr: Stdio) -> Running {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ravel"));
        command.args(["serve", "--json", "--config"]).arg(folder.join("ravel.toml"));
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(stderr).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let ready: Value =
            serde_json::from_str(&line).unwrap_or_else(|_| panic!("Ravel does not start: {}", log_of(folder)));
        let address = |name: &str| ready[name].as_str().unwrap().parse().unwrap();
        Running { child, clients: address("http"), federation: address("https") }
    }
}

/// Returns 32 bytes that begin with a text, in unpadded base64.
pub(crate) fn encode_seed(text: &str) -> String {
    let mut seed = text.as_bytes().to_vec();
    seed.resize(32, b'.');
    ravel_core::signing::encode_base64(&seed)
}
