//! `ravel copy`: a database into another engine, while it is written to; following it; the switch.

use std::{
    collections::BTreeMap,
    process::ExitCode,
    time::{Duration, Instant},
};

#[cfg(unix)]
use ravel_backends::live::RemoteFailure;
use ravel_core::id::RoomId;
use ravel_store::{
    Keyspace, StoreError, block_on,
    log::{Compared, CopyError, EventLog, LogCopy, LogError, Standing},
};
use serde_json::json;

use super::{Failure, count, disagreement};
use crate::{
    database::{DatabaseName, OpenError, Reading},
    output::Output,
};

/// What to do beside copying.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Go on following the source.
    pub follow: bool,
    /// Make the copy the database, and the source take no more events.
    pub switch: bool,
}

/// Copies a database, proves the copy by the rooms' fingerprints, and follows or switches if that is asked for.
///
/// The exit code is 1 if the copy is not equal; then nothing is switched.
pub fn run(from: &DatabaseName, to: &DatabaseName, options: Options, output: &mut Output) -> Result<ExitCode, Failure> {
    let (from, to) = (from.absolute(), to.absolute());
    if from.is_same_as(&to) {
        return Err(Failure::CopyToItself);
    }
    let reading = from.open_reading()?;
    if options.switch && was_switched(&reading, &to)? {
        tell_switched(&from, &to, output);
        return Ok(ExitCode::SUCCESS);
    }
    to.check_before_taking_over(|target| block_on(LogCopy::check(reading.store(), target)))?;
    let target = to.open_or_create()?;
    let copy = Copy {
        inner: block_on(LogCopy::begin(reading.store(), target, &from.to_string()))?,
        from: &from,
        to: &to,
        copied: 0,
        output,
    };
    copy.run(&reading, options)
}

/// Whether an earlier command did all of it: the source was moved to the target, and that is on its own.
fn was_switched(reading: &Reading, to: &DatabaseName) -> Result<bool, Failure> {
    let source = block_on(EventLog::open(reading.store()))?;
    if source.standing() != (Standing::Moved { to: to.to_string() }) {
        return Ok(false);
    }
    let target = match to.open_to_read() {
        Ok(target) => target,
        Err(OpenError::Missing { .. }) => return Ok(false),
        Err(error) => return Err(error.into()),
    };
    let target = block_on(EventLog::open(target))?;
    Ok(target.standing() == Standing::Own && target.len() >= source.len())
}

struct Copy<'a> {
    inner: LogCopy,
    from: &'a DatabaseName,
    to: &'a DatabaseName,
    /// Entries copied by this command.
    copied: u64,
    output: &'a mut Output,
}

impl Copy<'_> {
    fn run(mut self, reading: &Reading, options: Options) -> Result<ExitCode, Failure> {
        if self.inner.position() > 0 {
            self.tell(format_args!("going on after {}", count(self.inner.position(), "entry")));
        }
        self.catch_up()?;
        if !self.is_equal()? {
            return Ok(self.tell_unequal());
        }
        if options.follow {
            return self.follow(reading);
        }
        if options.switch {
            self.catch_up()?;
            if !self.complete(reading)? {
                return Ok(self.tell_unequal());
            }
        }
        self.finish(options)
    }

    /// Seals the source, copies what it has left, and compares that. A server that hears that its database was moved ends: then the source
    /// is opened without it.
    fn complete(&mut self, reading: &Reading) -> Result<bool, Failure> {
        let mut reopened: Option<Reading> = None;
        let mut told = false;
        loop {
            match self.seal_and_copy(reopened.as_ref().unwrap_or(reading), &mut told) {
                Err(failure) if is_gone(&failure) => {}
                completed => return completed,
            }
            let ended = Instant::now();
            let again = loop {
                match self.from.open_reading() {
                    Ok(again) => break again,
                    Err(error) if ended.elapsed() > ENDING_WAIT => return Err(error.into()),
                    Err(_) => std::thread::sleep(LOOK_PAUSE / 20),
                }
            };
            block_on(self.inner.reopen_source(again.store()))?;
            reopened = Some(again);
        }
    }

    fn seal_and_copy(&mut self, reading: &Reading, told: &mut bool) -> Result<bool, Failure> {
        let entries = self.from.seal(reading, &self.to.to_string())?;
        if !std::mem::replace(told, true) {
            let from = self.from;
            self.tell(format_args!("{from} takes no more events, it has {}", count(entries, "entry")));
        }
        self.catch_up()?;
        self.is_equal()
    }

    /// Copies until there is nothing left at some moment, with the keys of servers.
    fn catch_up(&mut self) -> Result<(), Failure> {
        let began_at = self.inner.position();
        let progress = self.output.progress(0, "copying", "entries");
        let copied = self.copy_all(|copy, told| {
            let (position, len) = (copy.inner.position(), block_on(copy.inner.source_len())?);
            progress.set_length(len.saturating_sub(began_at));
            progress.set_position(position.saturating_sub(began_at));
            if progress.is_hidden() && !copy.output.is_json() {
                copy.tell_now_and_then("copying", told)?;
            }
            Ok(position >= len)
        });
        progress.finish_and_clear();
        copied?;
        Ok(block_on(self.inner.copy_server_keys())?)
    }

    /// Copies page by page until `is_done`, which is asked before each.
    fn copy_all(
        &mut self,
        mut is_done: impl FnMut(&mut Self, &mut Told) -> Result<bool, Failure>,
    ) -> Result<(), Failure> {
        let mut told = Told { at: Instant::now(), position: self.inner.position() };
        while !is_done(self, &mut told)? {
            self.copied += block_on(self.inner.step())?;
        }
        Ok(())
    }

    /// Compares what was not compared yet. That may copy more, where the source purges something.
    fn is_equal(&mut self) -> Result<bool, Failure> {
        let (began, began_at) = (Instant::now(), self.inner.position());
        let progress = self.output.progress(0, "comparing", "rooms");
        let is_equal = loop {
            let compared = block_on(self.inner.compare(|done, total| {
                progress.set_length(total);
                progress.set_position(done);
            }));
            match compared {
                // Whoever has the source open is about it, or nobody is.
                Err(CopyError::Source(LogError::PurgeUnderWay { .. })) if began.elapsed() < PURGE_WAIT => {
                    std::thread::sleep(LOOK_PAUSE);
                }
                compared => break compared.map(|rooms| rooms.values().all(Compared::is_equal)),
            }
        };
        progress.finish_and_clear();
        self.copied += self.inner.position().saturating_sub(began_at);
        Ok(is_equal?)
    }

    fn follow(mut self, reading: &Reading) -> Result<ExitCode, Failure> {
        let mut watch = reading.store().watch(Keyspace::Log, b"");
        self.tell_position("following", 0.0)?;
        self.copy_all(|copy, told| {
            if copy.inner.position() > told.position && told.at.elapsed() >= TELL_PAUSE {
                block_on(copy.inner.copy_server_keys())?;
            }
            copy.tell_now_and_then("following", told)?;
            while copy.inner.position() >= block_on(copy.inner.source_len())? {
                // A watch may miss what other machines write on engines that can't tell: so it is looked now and then.
                if let Some(Err(_)) = watch.changed_within(LOOK_PAUSE) {
                    // Reading says what is wrong; if nothing is, looking now and then has to do.
                    std::thread::sleep(LOOK_PAUSE);
                }
            }
            Ok(false)
        })?;
        Ok(ExitCode::SUCCESS)
    }

    fn tell_now_and_then(&mut self, what: &str, told: &mut Told) -> Result<(), Failure> {
        let (position, elapsed) = (self.inner.position(), told.at.elapsed());
        if position > told.position && elapsed >= TELL_PAUSE {
            self.tell_position(what, position.saturating_sub(told.position) as f64 / elapsed.as_secs_f64())?;
            *told = Told { at: Instant::now(), position };
        }
        Ok(())
    }

    /// Tells whoever watches, at once, how far the copy is.
    fn tell_position(&mut self, what: &str, entries_per_second: f64) -> Result<(), Failure> {
        let (position, len) = (self.inner.position(), block_on(self.inner.source_len())?);
        let lag = len.saturating_sub(position);
        if self.output.is_json() {
            self.output.value(
                &json!({ "entries": position, "lag": lag, "entries_per_second": entries_per_second.round() as u64 }),
            );
        } else {
            let entries = count(position, "entry");
            self.output.line(format_args!("{what}: {entries} copied, {lag} behind, {entries_per_second:.0}/s"));
        }
        Ok(self.output.flush()?)
    }

    fn tell(&mut self, text: impl std::fmt::Display) {
        if !self.output.is_json() {
            self.output.line(text);
        }
    }

    fn tell_unequal(&mut self) -> ExitCode {
        self.tell_rooms(false, false);
        disagreement()
    }

    fn finish(mut self, options: Options) -> Result<ExitCode, Failure> {
        self.tell_rooms(true, options.switch);
        let Self { inner, from, to, output, .. } = self;
        block_on(inner.finish())?;
        if options.switch && !output.is_json() {
            tell_switched(from, to, output);
        }
        Ok(ExitCode::SUCCESS)
    }

    fn tell_rooms(&mut self, equal: bool, switched: bool) {
        let rooms: &BTreeMap<RoomId, Compared> = self.inner.compared();
        let entries = self.inner.position();
        let current = |room: &Compared| {
            let fingerprints = room.copy.as_ref().or(room.source.as_ref());
            fingerprints.map(|fingerprints| fingerprints.current_state.to_string()).unwrap_or_default()
        };
        if self.output.is_json() {
            let rooms: BTreeMap<&str, String> = rooms.iter().map(|(id, room)| (id.as_str(), current(room))).collect();
            self.output.value(&json!({
                "entries": entries,
                "copied": self.copied,
                "equal": equal,
                "switched": switched,
                "current_state_fingerprints": rooms,
            }));
            return;
        }
        for (room_id, room) in rooms {
            let equal = if room.is_equal() { "equal" } else { "DIFFERENT" };
            self.output.line(format_args!("{}  {equal}  {room_id}", current(room)));
        }
        let result = if equal { "every room's fingerprints are equal" } else { "the copy is NOT equal" };
        self.output.line(format_args!("{}, {} copied now: {result}", count(entries, "entry"), self.copied));
    }
}

/// When it was last told how far the copy is, and how far it was.
struct Told {
    at: Instant,
    position: u64,
}

/// Whether the source can't be read as the process that had it open has ended.
fn is_gone(failure: &Failure) -> bool {
    #[cfg(unix)]
    if let Failure::Copy(CopyError::Source(LogError::Store(StoreError::Io { source, .. })))
    | Failure::Log(LogError::Store(StoreError::Io { source, .. })) = failure
    {
        return matches!(source.downcast_ref(), Some(RemoteFailure::Gone { .. }));
    }
    false
}

fn tell_switched(from: &DatabaseName, to: &DatabaseName, output: &mut Output) {
    if output.is_json() {
        output.value(&json!({ "switched": true }));
    } else {
        output.line(format_args!("{from} was moved to {to}: go on there"));
    }
}

/// How often it is looked whether there is something new, if nobody tells.
const LOOK_PAUSE: Duration = Duration::from_secs(1);
/// How long a purge of the source may take until rooms can be compared; one that was interrupted is not waited for longer.
const PURGE_WAIT: Duration = Duration::from_secs(60);
/// How long a process may take to end that was told that its database was moved.
const ENDING_WAIT: Duration = Duration::from_secs(30);
/// How often it is told how far the copy is.
const TELL_PAUSE: Duration = Duration::from_secs(10);
