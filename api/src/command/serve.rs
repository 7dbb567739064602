//! `ravel init`, `ravel config`, `ravel serve`.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::ExitCode,
};

use ravel_core::id::ServerName;
use serde_json::json;

use super::Failure;
use crate::{
    output::Output,
    serve::{self, Ended},
};

/// Options of `ravel init`.
#[derive(Debug, clap::Args)]
pub struct InitOptions {
    /// The name of the server, as in @alice:NAME; it can't be changed later
    #[arg(long, value_name = "NAME")]
    server_name: ServerName,
    /// Where to listen for plain HTTP, instead of 127.0.0.1:8008
    #[arg(long, value_name = "ADDRESS:PORT")]
    http: Option<SocketAddr>,
    /// The folder; it is made if it is not there
    #[arg(value_name = "DIR")]
    folder: PathBuf,
}

/// Options of `ravel config`.
#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
pub struct ConfigOptions {
    /// Print a file with every key, its documentation and its default
    #[arg(long)]
    example: bool,
    /// Check a file, together with the environment variables that override it
    #[arg(long, value_name = "FILE")]
    check: Option<PathBuf>,
}

/// Options of `ravel serve`.
#[derive(Debug, clap::Args)]
pub struct ServeOptions {
    /// The configuration file, as `ravel init` makes one
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

/// Makes a folder for a new server.
///
/// # Errors
///
/// [`Failure::Init`]
pub fn init(options: &InitOptions, output: &mut Output) -> Result<ExitCode, Failure> {
    let made = serve::init::init(&options.folder, &options.server_name, options.http)?;
    if output.is_json() {
        output.value(&json!({ "configuration": made.configuration, "signing_key": made.signing_key }));
    } else {
        output.line(format_args!("made {} and {}", made.configuration.display(), made.signing_key.display()));
        output.line(format_args!("start the server with: ravel serve --config {}", quoted(&made.configuration)));
    }
    Ok(ExitCode::SUCCESS)
}

/// Prints an example or checks a file.
///
/// # Errors
///
/// [`Failure::Config`]
pub fn config(options: &ConfigOptions, output: &mut Output) -> Result<ExitCode, Failure> {
    match &options.check {
        Some(file) => {
            let config = serve::config::load(file, std::env::vars_os())?;
            if output.is_json() {
                output.value(&json!({ "server_name": config.server_name.as_str() }));
            } else {
                output.line(format_args!("{} is in order", file.display()));
            }
        }
        None => output.bytes(serve::config::example().as_bytes()),
    }
    Ok(ExitCode::SUCCESS)
}

/// Runs a server until it is told to stop.
///
/// # Errors
///
/// [`Failure::Serve`]
pub fn serve(options: &ServeOptions, output: &mut Output) -> Result<ExitCode, Failure> {
    let ended = serve::run(&options.config, |ready| {
        if output.is_json() {
            let address = |address: Option<SocketAddr>| address.map(|address| address.to_string());
            output.value(&json!({
                "server_name": ready.server_name.as_str(),
                "https": address(ready.https),
                "http": address(ready.http),
                "metrics": address(ready.metrics),
            }));
        } else {
            output.line(format_args!("{} is ready", ready.server_name));
            let addresses = [("https", ready.https), ("http", ready.http)];
            for (scheme, address) in addresses.iter().filter_map(|(scheme, address)| Some((scheme, (*address)?))) {
                output.line(format_args!("{scheme}://{address}"));
            }
        }
        // Whoever started the server may have stopped reading; it goes on.
        let _ = output.flush();
    })?;
    Ok(match ended {
        Ended::Gracefully => ExitCode::SUCCESS,
        Ended::AtOnce(signal) => ExitCode::from(128 + signal),
    })
}

/// Writes a path so that a shell takes it as one word.
fn quoted(path: &Path) -> String {
    let path = path.display().to_string();
    let is_plain = |c: char| c.is_alphanumeric() || "/._-+@%:,=".contains(c);
    if path.chars().all(is_plain) { path } else { format!("'{}'", path.replace('\'', "'\\''")) }
}
