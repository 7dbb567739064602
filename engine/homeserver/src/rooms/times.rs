//! Finding events by their time.

use ravel_core::{
    event::Event,
    id::EventId,
    room::{Outcome, Room},
};

/// When the accepted events of a room were made that have a place in its DAG, as far as it tells which to look at: sixteen bytes for 64
/// events.
#[derive(Debug, Default)]
pub(super) struct Times(Vec<Span>);

/// How many events are in a span, by their numbers.
const SPAN: usize = 64;

/// The earliest and the latest time of some events, in milliseconds; the other way round if there are none.
#[derive(Clone, Copy, Debug)]
struct Span {
    first_ms: i64,
    last_ms: i64,
}

impl Span {
    const EMPTY: Self = Self { first_ms: i64::MAX, last_ms: i64::MIN };

    /// Returns how near to a time one of its events may be, on one side of it; `None` if none is there.
    fn distance(self, ts_ms: i64, backward: bool) -> Option<u64> {
        let is_there = if backward { self.first_ms <= ts_ms } else { self.last_ms >= ts_ms };
        let nearest_ms = if backward { self.last_ms.min(ts_ms) } else { self.first_ms.max(ts_ms) };
        (is_there && self.first_ms <= self.last_ms).then(|| nearest_ms.abs_diff(ts_ms))
    }
}

impl Times {
    /// Takes note of an event that came into the room, or got its place there.
    pub(super) fn add(&mut self, room: &Room, event: &Event) {
        let Some(number) = room.number_of(&event.event_id).filter(|_| !room.is_outlier(&event.event_id)) else {
            return;
        };
        let span = number / SPAN;
        if self.0.len() <= span {
            self.0.resize(span.saturating_add(1), Span::EMPTY);
        }
        if let Some(span) = self.0.get_mut(span) {
            span.first_ms = span.first_ms.min(event.origin_server_ts_ms);
            span.last_ms = span.last_ms.max(event.origin_server_ts_ms);
        }
    }

    /// Returns the accepted event that is nearest to a time, at it or after it (or, backward, before it), with its own time; of several
    /// with the same time the first that came.
    ///
    /// Looks at the spans, and at the events of those that may have a nearer one than what was found.
    pub(super) fn nearest(&self, room: &Room, ts_ms: i64, backward: bool) -> Option<(EventId, i64)> {
        let spans = self.0.iter().enumerate();
        let mut spans: Vec<(u64, usize)> =
            spans.filter_map(|(number, span)| Some((span.distance(ts_ms, backward)?, number))).collect();
        spans.sort_unstable();
        let mut nearest: Option<((u64, usize), EventId, i64)> = None;
        for (distance, span) in spans {
            if nearest.as_ref().is_some_and(|((found, _), ..)| *found < distance) {
                break;
            }
            let first = span.saturating_mul(SPAN);
            for number in first..first.saturating_add(SPAN).min(room.len()) {
                let id = room.event_id_at(number)?;
                let ms = room.event(&id)?.origin_server_ts_ms;
                let is_on_side = if backward { ms <= ts_ms } else { ms >= ts_ms };
                let is_placed = room.outcome(&id) == Some(Outcome::Accepted) && !room.is_outlier(&id);
                let key = (ms.abs_diff(ts_ms), number);
                if is_on_side && is_placed && nearest.as_ref().is_none_or(|(found, ..)| key < *found) {
                    nearest = Some((key, id, ms));
                }
            }
        }
        nearest.map(|(_, id, ms)| (id, ms))
    }
}
