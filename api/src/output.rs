//! Printing: text for people, JSON for programs, progress for whoever watches.

use std::{
    borrow::Cow,
    fmt,
    io::{self, BufWriter, IsTerminal, Write},
    time::Duration,
};

use indicatif::{HumanDuration, ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};

use crate::command::Failure;

/// Where a command's output goes.
pub struct Output {
    json: bool,
    out: Box<dyn Write>,
    /// The first error of writing. A pipe that was closed ends the output quietly.
    broken: Option<io::Error>,
}

impl Output {
    /// Returns the output of this process.
    pub fn of_process(json: bool) -> Self {
        let out = io::stdout();
        // Whoever watches sees each line at once, and whole lines between the pictures of a progress bar.
        let out: Box<dyn Write> = if out.is_terminal() { Box::new(out) } else { Box::new(BufWriter::new(out)) };
        Self { json, out, broken: None }
    }

    /// Whether JSON is wanted.
    pub fn is_json(&self) -> bool {
        self.json
    }

    /// Prints a line of text. Control characters in it are shown, not sent: ids and types come from anywhere.
    pub fn line(&mut self, line: impl fmt::Display) {
        self.bytes(format!("{}\n", harmless(&line.to_string())).as_bytes());
    }

    /// Prints a value on a line of its own.
    pub fn value(&mut self, value: &serde_json::Value) {
        // Escapes mean the same in JSON: outside of strings it has no such characters.
        self.line(value);
    }

    /// Prints bytes as they are.
    pub fn bytes(&mut self, bytes: &[u8]) {
        if self.broken.is_none()
            && let Err(error) = self.out.write_all(bytes)
        {
            self.broken = Some(error);
        }
    }

    /// Tells why the command failed, with its causes, on the standard error.
    pub fn fail(&mut self, failure: &Failure) {
        let mut message = failure.to_string();
        let mut cause = std::error::Error::source(failure);
        while let Some(error) = cause {
            let text = error.to_string();
            // Many errors repeat their cause in their own words.
            if !message.contains(&text) {
                message = format!("{message}: {text}");
            }
            cause = error.source();
        }
        let message =
            if self.json { serde_json::json!({ "error": message }).to_string() } else { format!("ravel: {message}") };
        let _ = writeln!(io::stderr(), "{}", harmless(&message));
    }

    /// Shows what was printed to whoever reads along.
    ///
    /// # Errors
    ///
    /// When it can't be written, also because the reader has gone away.
    pub fn flush(&mut self) -> io::Result<()> {
        match self.broken.take() {
            Some(error) => Err(error),
            None => self.out.flush(),
        }
    }

    /// Writes what is left.
    ///
    /// # Errors
    ///
    /// When something could not be written. A reader that has gone away, such as `head`, is no error.
    pub fn finish(&mut self) -> io::Result<()> {
        let flushed = self.out.flush();
        match self.broken.take().map_or(flushed, Err) {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error),
            _ => Ok(()),
        }
    }

    /// Returns a progress bar with rate and remaining time; hidden unless a person watches. `what` is being done, to `unit`.
    pub fn progress(&self, total: u64, what: impl Into<Cow<'static, str>>, unit: &str) -> ProgressBar {
        if self.json || !io::stderr().is_terminal() {
            return ProgressBar::hidden();
        }
        let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
        let template = format!("{{msg:24!}} {{wide_bar}} {{human_pos}}/{{human_len}} {unit}{{rate}}{{remaining}}");
        if let Ok(style) = ProgressStyle::with_template(&template) {
            // Nothing is known of either before the first one is done.
            let style = style.with_key("rate", |state: &ProgressState, text: &mut dyn fmt::Write| {
                let _ = if state.pos() == 0 { Ok(()) } else { write!(text, ", {:.0}/s", state.per_sec()) };
            });
            bar.set_style(style.with_key("remaining", |state: &ProgressState, text: &mut dyn fmt::Write| {
                let _ = if state.pos() == 0 { Ok(()) } else { write!(text, ", {} left", HumanDuration(state.eta())) };
            }));
        }
        bar.set_message(what);
        bar.enable_steady_tick(Duration::from_millis(200));
        bar
    }
}

/// Replaces what could give a terminal orders, or turn the order of letters around, by its escape in JSON.
fn harmless(text: &str) -> Cow<'_, str> {
    let harmful = |c: char| {
        (c.is_control() && c != '\n')
            || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    if !text.contains(harmful) {
        return text.into();
    }
    let mut shown = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if harmful(c) {
            let _ = fmt::Write::write_fmt(&mut shown, format_args!("\\u{:04x}", u32::from(c)));
        } else {
            shown.push(c);
        }
    }
    shown.into()
}

/// Writes a time in milliseconds since 1970 as date and time of day.
///
/// The days are counted from a 1 March, so that a leap day is the last of its year.
pub fn utc(time_ms: i64) -> String {
    const DAY_MS: i64 = 86_400_000;
    const DAYS_OF_400_YEARS: i64 = 146_097;
    let (days, of_day) = (time_ms.div_euclid(DAY_MS), time_ms.rem_euclid(DAY_MS));
    // 719,468 days lie between 1 March of the year 0 and 1 January 1970.
    let days = days + 719_468;
    let (era, day_of_era) = (days.div_euclid(DAYS_OF_400_YEARS), days.rem_euclid(DAYS_OF_400_YEARS));
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    // Five months from March on have 153 days.
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = (month_from_march + 2) % 12 + 1;
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let (hour, minute) = (of_day / 3_600_000, of_day / 60_000 % 60);
    let (second, milli) = (of_day / 1000 % 60, of_day % 1000);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}.{milli:03} UTC")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_dates() {
        let check = |time_ms, expected| assert_eq!(utc(time_ms), expected, "{time_ms}");
        check(0, "1970-01-01 00:00:00.000 UTC");
        check(-1, "1969-12-31 23:59:59.999 UTC");
        check(951_782_400_000, "2000-02-29 00:00:00.000 UTC");
        check(1_078_012_800_000, "2004-02-29 00:00:00.000 UTC");
        check(4_107_542_399_999, "2100-02-28 23:59:59.999 UTC");
        check(4_107_542_400_000, "2100-03-01 00:00:00.000 UTC");
        check(1_735_689_599_999, "2024-12-31 23:59:59.999 UTC");
        // Whatever a server wrote is shown, and nothing overflows.
        check(i64::MAX, "292278994-08-17 07:12:55.807 UTC");
        utc(i64::MIN);
    }

    #[test]
    fn nothing_from_events_reaches_the_terminal_as_an_order() {
        let check = |text, expected| assert_eq!(harmless(text), expected);
        check("$plain ünïcode\nsecond line", "$plain ünïcode\nsecond line");
        check("a\u{1b}[2Jb\u{9b}c\r", "a\\u001b[2Jb\\u009bc\\u000d");
        check("\u{202e}gpj.exe", "\\u202egpj.exe");
    }

    #[test]
    fn json_keeps_its_meaning() {
        let value = serde_json::json!({ "key": "a\u{1b}\u{9b}\u{202e}\n" });
        let shown = harmless(&value.to_string()).into_owned();
        assert!(shown.is_ascii());
        assert_eq!(serde_json::from_str::<serde_json::Value>(&shown).unwrap(), value);
    }
}
