//! What was measured, as text and JSON.

use serde_json::{Value, json};

use super::{super::print, Site, quantile, workload::Workload};
use crate::{command::Failure, output::Output};

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Quantity {
    Batches,
    Singles,
    SingleMedian,
    SingleP99,
    LookUps,
    Pages,
    Rebuild,
    RebuildPerCore,
    Disk,
    DiskOfEach,
}

/// What is aimed at.
#[derive(Clone, Copy, Debug)]
enum Wanted {
    /// At least this share of the bare engine's.
    Share(f64),
    /// At least so much.
    Figure(f64),
    /// At most so many times the other.
    Times(f64),
    /// Under so many microseconds, which are three times a sync.
    Below,
    None,
}

impl Quantity {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Batches => "durable batches of 50",
            Self::Singles => "single durable, rooms at once",
            Self::SingleMedian => "  of them half within",
            Self::SingleP99 => "  of them 99 % within",
            Self::LookUps => "look-ups of four nodes",
            Self::Pages => "timeline pages of 50",
            Self::Rebuild => "rebuild",
            Self::RebuildPerCore => "rebuild, by CPU time",
            Self::Disk => "disk, beside zstd of all JSON",
            Self::DiskOfEach => "disk, beside zstd of each event",
        }
    }

    pub(super) fn unit(self) -> &'static str {
        match self {
            Self::Batches | Self::Singles => "events/s",
            Self::SingleMedian | Self::SingleP99 => "us",
            Self::LookUps => "look-ups/s",
            Self::Pages => "pages/s",
            Self::Rebuild => "entries/s",
            Self::RebuildPerCore => "entries/s/core",
            Self::Disk | Self::DiskOfEach => "bytes/event",
        }
    }

    fn wanted(self) -> Wanted {
        match self {
            Self::Batches => Wanted::Share(0.6),
            Self::Singles => Wanted::Share(0.7),
            Self::SingleP99 => Wanted::Below,
            Self::RebuildPerCore => Wanted::Figure(50_000.0),
            Self::Disk => Wanted::Times(2.5),
            Self::SingleMedian | Self::LookUps | Self::Pages | Self::Rebuild | Self::DiskOfEach => Wanted::None,
        }
    }
}

/// The figures of several runs.
#[derive(Clone, Debug, Default)]
pub(super) struct Samples(Vec<f64>);

impl Samples {
    pub(super) fn one(sample: f64) -> Self {
        Self(vec![sample])
    }

    pub(super) fn push(&mut self, sample: f64) {
        self.0.push(sample);
        self.0.sort_by(f64::total_cmp);
    }

    pub(super) fn median(&self) -> Option<f64> {
        let middle = self.0.len() / 2;
        let upper = self.0.get(middle)?;
        // Of an even count, the mean of the two in the middle.
        let lower = if self.0.len().is_multiple_of(2) { self.0.get(middle.checked_sub(1)?)? } else { upper };
        Some(f64::midpoint(*lower, *upper))
    }

    pub(super) fn min(&self) -> Option<f64> {
        self.0.first().copied()
    }

    pub(super) fn max(&self) -> Option<f64> {
        self.0.last().copied()
    }

    fn to_json(&self) -> Value {
        let Some(median) = self.median() else { return Value::Null };
        json!({ "median": rounded(median), "min": self.min().map(rounded), "max": self.max().map(rounded) })
    }

    fn text(&self) -> String {
        match (self.median(), self.min(), self.max()) {
            (Some(median), Some(min), Some(max)) if self.0.len() > 1 => {
                format!("{} ({} to {})", short(median), short(min), short(max))
            }
            (Some(median), ..) => short(median),
            _ => "-".to_owned(),
        }
    }
}

/// A figure of an engine, beside the bare engine's.
#[derive(Clone, Debug)]
pub(super) struct Measured {
    engine: String,
    pub(super) quantity: Quantity,
    pub(super) ravel: Samples,
    pub(super) raw: Samples,
    /// For times that have to stay below one.
    pub(super) wanted_us: Option<f64>,
}

impl Measured {
    pub(super) fn new(site: &Site, quantity: Quantity) -> Self {
        let (ravel, raw) = (Samples::default(), Samples::default());
        Self { engine: site.to_string(), quantity, ravel, raw, wanted_us: None }
    }

    pub(super) fn engine(&self) -> &str {
        &self.engine
    }

    fn ratio(&self) -> Option<f64> {
        Some(self.ravel.median()? / self.raw.median()?)
    }

    /// Returns what is wanted, as text, and whether it is met.
    fn wanted(&self) -> Option<(String, bool)> {
        let median = self.ravel.median()?;
        match self.quantity.wanted() {
            Wanted::Share(share) => Some((format!(">= {share}"), self.ratio()? >= share)),
            Wanted::Times(times) => Some((format!("<= {times}"), self.ratio()? <= times)),
            Wanted::Figure(figure) => Some((format!(">= {}", short(figure)), median >= figure)),
            Wanted::Below => {
                self.raw.median().and(self.wanted_us).map(|us| (format!("< {} us", short(us)), median < us))
            }
            Wanted::None => None,
        }
    }

    fn line(&self) -> String {
        let ratio = self.ratio().map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.2}"));
        let wanted = self
            .wanted()
            .map_or_else(String::new, |(wanted, met)| format!("{wanted}{}", if met { "" } else { "  MISSED" }));
        format!(
            "{:9} {:30} {:15} {:>32} {:>32} {ratio:>6}  {wanted}",
            self.engine,
            self.quantity.name(),
            self.quantity.unit(),
            self.ravel.text(),
            self.raw.text()
        )
        .trim_end()
        .to_owned()
    }

    fn to_json(&self) -> Value {
        let wanted = self.wanted();
        json!({
            "engine": self.engine,
            "what": self.quantity.name().trim(),
            "unit": self.quantity.unit(),
            "ravel": self.ravel.to_json(),
            "raw": self.raw.to_json(),
            "ratio": self.ratio().map(|ratio| (ratio * 1000.0).round() / 1000.0),
            "wanted": wanted.as_ref().map(|(wanted, _)| wanted.as_str()),
            "met": wanted.as_ref().map(|(_, met)| met),
        })
    }
}

/// All that was measured.
pub(super) struct Report {
    events: usize,
    rooms: usize,
    bytes_per_event: usize,
    runs: usize,
    /// Sorted.
    pub(super) sync_us: Vec<f64>,
    pub(super) measured: Vec<Measured>,
}

impl Report {
    pub(super) fn new(workload: &Workload, runs: usize, sync_us: Vec<f64>) -> Self {
        let events = workload.events();
        let bytes_per_event = workload.bytes().checked_div(events).unwrap_or(0);
        Self { events, rooms: workload.rooms.len(), bytes_per_event, runs, sync_us, measured: Vec::new() }
    }

    pub(super) fn print_header(&self, output: &mut Output) -> Result<(), Failure> {
        print(output, || {
            format!(
                "{} judged events of {} rooms, {} bytes of keys and values for each; {} runs: the median, in brackets the fastest \
                 and slowest.\nBare is the engine alone, with the same keys and bytes. A kilobyte appended to a file and synced: half within \
                 {:.0} us, 99 % within {:.0} us.\n\n{:9} {:30} {:15} {:>32} {:>32} {:>6}  wanted",
                self.events,
                self.rooms,
                self.bytes_per_event,
                self.runs,
                quantile(&self.sync_us, 0.5),
                quantile(&self.sync_us, 0.99),
                "engine",
                "what",
                "unit",
                "Ravel",
                "bare",
                "ratio"
            )
        })
    }

    /// Prints a figure at once, and keeps it.
    pub(super) fn add(&mut self, measured: Measured, output: &mut Output) -> Result<(), Failure> {
        print(output, || measured.line())?;
        self.measured.push(measured);
        Ok(())
    }

    pub(super) fn to_json(&self) -> Value {
        json!({
            "events": self.events,
            "rooms": self.rooms,
            "runs": self.runs,
            "batch_bytes_per_event": self.bytes_per_event,
            "sync_us": {
                "median": rounded(quantile(&self.sync_us, 0.5)),
                "p99": rounded(quantile(&self.sync_us, 0.99)),
            },
            "measured": self.measured.iter().map(Measured::to_json).collect::<Vec<_>>(),
        })
    }
}

fn rounded(figure: f64) -> f64 {
    (figure * 10.0).round() / 10.0
}

fn short(figure: f64) -> String {
    super::super::plot::thousands(figure)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_an_even_count_is_between_the_two_in_the_middle() {
        let check = |samples: &[f64], expected| {
            let mut all = Samples::default();
            samples.iter().for_each(|sample| all.push(*sample));
            assert_eq!(all.median(), expected, "{samples:?}");
        };
        check(&[], None);
        check(&[3.0], Some(3.0));
        check(&[9.0, 1.0], Some(5.0));
        check(&[9.0, 1.0, 2.0], Some(2.0));
    }

    #[test]
    fn what_is_aimed_at_is_compared_with_what_was_measured() {
        let check = |quantity, ravel, raw: Option<f64>, expected: Option<(&str, bool)>| {
            let mut measured = Measured::new(&Site::Memory, quantity);
            measured.ravel.push(ravel);
            raw.into_iter().for_each(|raw| measured.raw.push(raw));
            measured.wanted_us = Some(300.0);
            let wanted = measured.wanted();
            assert_eq!(wanted.as_ref().map(|(text, met)| (text.as_str(), *met)), expected, "{measured:?}");
        };
        check(Quantity::Batches, 61.0, Some(100.0), Some((">= 0.6", true)));
        check(Quantity::Batches, 59.0, Some(100.0), Some((">= 0.6", false)));
        check(Quantity::Batches, 59.0, None, None);
        check(Quantity::SingleP99, 299.0, Some(1.0), Some(("< 300 us", true)));
        check(Quantity::SingleP99, 301.0, Some(1.0), Some(("< 300 us", false)));
        check(Quantity::Disk, 251.0, Some(100.0), Some(("<= 2.5", false)));
        check(Quantity::RebuildPerCore, 50_000.0, None, Some((">= 50,000", true)));
        check(Quantity::Pages, 1.0, Some(100.0), None);
    }
}
