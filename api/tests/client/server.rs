//! Running `ravel serve`, and asking it as a client does.

use std::{
    fs::File,
    io::{BufRead, BufReader},
    net::{SocketAddr, TcpStream},
    process::{Child, Command, Stdio},
};

use serde_json::Value;

use crate::http::exchange;

/// A server of a test, in a process of its own.
pub(crate) struct Server {
    child: Child,
    folder: tempfile::TempDir,
    address: SocketAddr,
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) json: Value,
    error: (u16, String),
}

impl Answer {
    /// Returns what was answered, which has to be a success.
    #[track_caller]
    pub(crate) fn ok(self) -> Value {
        assert_eq!(self.status, 200, "{self:?}");
        self.json
    }

    /// Checks that it is an error.
    #[track_caller]
    pub(crate) fn fails(self, status: u16, errcode: &str) {
        assert_eq!(self.error, (status, errcode.to_owned()), "{self:?}");
        assert!(self.json["error"].is_string());
    }
}

impl Server {
    /// Starts one in which everybody can register, with more variables.
    pub(crate) fn open(variables: &[(&str, &str)]) -> Self {
        let variables = [&[("RAVEL_REGISTRATION__ENABLED", "true")], variables].concat();
        Self::start(tempfile::tempdir().unwrap(), &variables)
    }

    /// Starts one with environment variables.
    pub(crate) fn start(folder: tempfile::TempDir, variables: &[(&str, &str)]) -> Self {
        let server = folder.path().join("server");
        if !server.exists() {
            let mut init = ravel();
            init.args(["init", "--server-name", "example.org", "--http", "127.0.0.1:0"]).arg(&server);
            assert!(init.stdout(Stdio::null()).status().unwrap().success());
        }
        let mut command = ravel();
        command.args(["serve", "--json", "--config"]).arg(server.join("ravel.toml"));
        command.env("RAVEL_REGISTRATION__CHEAP_PASSWORD_HASHES", "true").envs(variables.iter().copied());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(File::create(folder.path().join("log")).unwrap());
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let log = || std::fs::read_to_string(folder.path().join("log")).unwrap();
        let ready: Value = serde_json::from_str(&line).unwrap_or_else(|_| panic!("it does not start: {}", log()));
        let address = ready["http"].as_str().unwrap().parse().unwrap();
        Self { child, folder, address }
    }

    /// Kills it and starts it again.
    pub(crate) fn restarted(mut self, variables: &[(&str, &str)]) -> Self {
        self.end();
        let folder = std::mem::replace(&mut self.folder, tempfile::tempdir().unwrap());
        Self::start(folder, variables)
    }

    pub(crate) fn get(&self, path: &str, token: Option<&str>) -> Answer {
        self.ask("GET", path, token, b"")
    }

    pub(crate) fn post(&self, path: &str, token: Option<&str>, body: &Value) -> Answer {
        self.ask("POST", path, token, body.to_string().as_bytes())
    }

    /// Sends a request for a path below `/_matrix/client/`, or for another one if it begins with a slash.
    pub(crate) fn ask(&self, method: &str, path: &str, token: Option<&str>, body: &[u8]) -> Answer {
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/_matrix/client/{path}") };
        let authorization = token.map(|token| format!("Authorization: Bearer {token}\r\n")).unwrap_or_default();
        self.ask_with(method, &path, &authorization, body)
    }

    /// Sends a request with more headers, each ending with CR LF.
    pub(crate) fn ask_with(&self, method: &str, path: &str, headers: &str, body: &[u8]) -> Answer {
        let headers = format!("{headers}Content-Length: {}\r\n", body.len());
        let answer = exchange(TcpStream::connect(self.address).unwrap(), method, path, &headers, body);
        Answer { status: answer.status, json: answer.json(), error: answer.error() }
    }

    /// Returns all that it has written.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap()
    }

    fn end(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end();
    }
}

fn ravel() -> Command {
    Command::new(env!("CARGO_BIN_EXE_ravel"))
}
