//! The process under load.

use std::{
    io::{BufRead, BufReader, Read},
    os::unix::process::ExitStatusExt,
    path::Path,
    process::{Child, ChildStderr, ChildStdout, Command, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, channel},
    thread::{self, JoinHandle},
    time::Duration,
};

use ravel_core::id::EventId;

use super::Problem;

/// How it is started.
pub(super) struct LoadSettings<'a> {
    pub(super) database: &'a str,
    pub(super) rooms: u64,
    pub(super) seed: u64,
    pub(super) batch: u64,
    pub(super) small_buffers: bool,
    pub(super) acknowledge_early: bool,
}

impl LoadSettings<'_> {
    fn command(&self, binary: &Path, room_events: u64) -> Command {
        let mut command = Command::new(binary);
        command.args(["bench", "load", "--database", self.database]);
        for (option, value) in
            [("--rooms", self.rooms), ("--seed", self.seed), ("--batch", self.batch), ("--room-events", room_events)]
        {
            command.arg(option).arg(value.to_string());
        }
        for (option, wanted) in
            [("--small-buffers", self.small_buffers), ("--acknowledge-early", self.acknowledge_early)]
        {
            command.args(wanted.then_some(option));
        }
        command
    }
}

/// Fills a database with rooms of a thousand events.
///
/// # Errors
///
/// When the process fails.
pub(super) fn fill(binary: &Path, settings: &LoadSettings<'_>, events: u64) -> Result<(), Problem> {
    let mut command = settings.command(binary, LONG_ROOM_EVENTS);
    // The last one counts.
    command.args(["--relaxed", "--events", &events.to_string()]);
    let output = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).output()?;
    if output.status.success() {
        return Ok(());
    }
    let stderr = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(Problem::Ended { status: output.status.to_string(), stderr })
}

/// A line that promises.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Acknowledged {
    pub(super) room: u64,
    /// How many events the room has.
    pub(super) count: usize,
    /// The last of them.
    pub(super) event_id: EventId,
}

/// A running process, killed when this is dropped.
pub(super) struct Load {
    child: Child,
    lines: Receiver<String>,
    reader: Option<JoinHandle<()>>,
    stderr: Option<ChildStderr>,
    acknowledged: Vec<Acknowledged>,
    is_serving: bool,
}

/// A room that has so many events is left for a new one: opening it takes a while.
const ROOM_EVENTS: u64 = 300;

const LONG_ROOM_EVENTS: u64 = 1_000;

const SIGKILL: i32 = 9;

impl Load {
    pub(super) fn start(binary: &Path, settings: &LoadSettings<'_>) -> Result<Self, Problem> {
        Self::spawn(settings.command(binary, ROOM_EVENTS))
    }

    /// As [`start`](Self::start), in the rooms that [`fill`] makes.
    pub(super) fn start_in_long_rooms(binary: &Path, settings: &LoadSettings<'_>) -> Result<Self, Problem> {
        Self::spawn(settings.command(binary, LONG_ROOM_EVENTS))
    }

    fn spawn(mut command: Command) -> Result<Self, Problem> {
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        let (sender, lines) = channel();
        let stdout = child.stdout.take().expect("it was asked for");
        let reader = thread::spawn(move || {
            for line in whole_lines(stdout) {
                // The pipe is emptied even if nobody listens.
                let _ = sender.send(line);
            }
        });
        let stderr = child.stderr.take();
        Ok(Self { child, lines, reader: Some(reader), stderr, acknowledged: Vec::new(), is_serving: false })
    }

    pub(super) fn wait_until_serving(&mut self, longest: Duration) -> Result<(), Problem> {
        while !self.is_serving {
            self.next_line(longest)?;
        }
        Ok(())
    }

    pub(super) fn wait_for_acknowledgement(&mut self, longest: Duration) -> Result<(), Problem> {
        while self.acknowledged.is_empty() {
            self.next_line(longest)?;
        }
        Ok(())
    }

    fn next_line(&mut self, longest: Duration) -> Result<(), Problem> {
        match self.lines.recv_timeout(longest) {
            Ok(line) => self.understand(&line),
            Err(RecvTimeoutError::Timeout) => {
                self.child.kill()?;
                Err(Problem::Stuck { waited: longest, stderr: self.stderr() })
            }
            Err(RecvTimeoutError::Disconnected) => {
                let status = self.child.wait()?.to_string();
                Err(Problem::Ended { status, stderr: self.stderr() })
            }
        }
    }

    fn understand(&mut self, line: &str) -> Result<(), Problem> {
        let words: Vec<&str> = line.split(' ').collect();
        match words[..] {
            ["serving", _, _, _] => self.is_serving = true,
            ["acknowledged", room, count, event_id] => {
                let not_understood = || Problem::Line(line.to_owned());
                self.acknowledged.push(Acknowledged {
                    room: room.parse().map_err(|_| not_understood())?,
                    count: count.parse().map_err(|_| not_understood())?,
                    event_id: EventId::parse(event_id).map_err(|_| not_understood())?,
                });
            }
            _ => return Err(Problem::Line(line.to_owned())),
        }
        Ok(())
    }

    /// Waits until the process acknowledges something more, or gives up, as it may when its database was away; then kills it and
    /// returns all that it acknowledged.
    #[cfg(feature = "postgres")]
    pub(super) fn go_on_or_give_up(mut self, longest: Duration) -> Result<Vec<Acknowledged>, Problem> {
        // What was on its way while the server died.
        while let Ok(line) = self.lines.try_recv() {
            self.understand(&line)?;
        }
        let before = self.acknowledged.len();
        while self.acknowledged.len() == before {
            match self.next_line(longest) {
                // That is how it says that its database failed.
                Err(Problem::Ended { status, .. }) if status == "exit status: 3" => {
                    return Ok(std::mem::take(&mut self.acknowledged));
                }
                result => result?,
            }
        }
        self.kill()
    }

    /// Kills the process and returns all that it acknowledged.
    pub(super) fn kill(mut self) -> Result<Vec<Acknowledged>, Problem> {
        self.child.kill()?;
        let status = self.child.wait()?;
        if status.signal() != Some(SIGKILL) {
            return Err(Problem::Ended { status: status.to_string(), stderr: self.stderr() });
        }
        while let Ok(line) = self.lines.recv() {
            self.understand(&line)?;
        }
        Ok(std::mem::take(&mut self.acknowledged))
    }

    /// What it wrote on its standard error; it has ended.
    fn stderr(&mut self) -> String {
        let mut text = String::new();
        if let Some(mut stderr) = self.stderr.take() {
            let _ = stderr.read_to_string(&mut text);
        }
        text.trim().to_owned()
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }
}

/// Returns the lines up to the end; one that the kill cut off is none.
fn whole_lines(stdout: ChildStdout) -> impl Iterator<Item = String> {
    let mut stdout = BufReader::new(stdout);
    std::iter::from_fn(move || {
        let mut line = String::new();
        stdout.read_line(&mut line).ok()?;
        line.strip_suffix('\n').map(str::to_owned)
    })
}
