//! What the operating system tells the process.

use std::io;

/// A signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Signal {
    /// Stop; its number.
    Stop(u8),
    /// Read certificates again.
    Reload,
}

const SIGHUP: u8 = 1;
const SIGINT: u8 = 2;
const SIGTERM: u8 = 15;

/// The signals of this process from now on.
#[cfg(unix)]
pub(super) struct Signals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
    hang_up: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl Signals {
    pub(super) fn new() -> io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        let kind = |number: u8| signal(SignalKind::from_raw(number.into()));
        Ok(Self { interrupt: kind(SIGINT)?, terminate: kind(SIGTERM)?, hang_up: kind(SIGHUP)? })
    }

    /// Waits for the next one.
    pub(super) async fn next(&mut self) -> Signal {
        tokio::select! {
            _ = self.interrupt.recv() => Signal::Stop(SIGINT),
            _ = self.terminate.recv() => Signal::Stop(SIGTERM),
            _ = self.hang_up.recv() => Signal::Reload,
        }
    }
}

/// Ctrl-C, which is all there is elsewhere.
#[cfg(not(unix))]
pub(super) struct Signals;

#[cfg(not(unix))]
impl Signals {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self)
    }

    pub(super) async fn next(&mut self) -> Signal {
        let _ = tokio::signal::ctrl_c().await;
        Signal::Stop(SIGINT)
    }
}

impl Signals {
    /// Waits until the process is told to stop; returns the signal's number.
    pub(super) async fn stop(&mut self) -> u8 {
        loop {
            if let Signal::Stop(number) = self.next().await {
                return number;
            }
        }
    }
}
