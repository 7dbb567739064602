//! An explanation in words.

use std::collections::BTreeMap;

use ravel_core::{
    event::{Event, Membership, StateKey, event_type},
    event_auth::PowerLevel,
    id::EventId,
    resolve::{DecidedBy, OrderedEvent, Phase, Rank, Step},
    room::{Check, Explanation, Outcome, RecordedReason, Room},
};

use crate::{command::outcome_name, output::utc};

/// Returns the explanation as lines of text.
///
/// Every event gets a number where it is first mentioned, with its id; later mentions have the number alone.
pub(in crate::command) fn text(room: &Room, explanation: &Explanation) -> Vec<String> {
    let mut teller =
        Teller { room, numbers: BTreeMap::new(), holders: BTreeMap::new(), has_mainline: false, lines: Vec::new() };
    teller.tell(explanation);
    teller.lines
}

struct Teller<'a> {
    room: &'a Room,
    /// The events mentioned so far.
    numbers: BTreeMap<EventId, usize>,
    /// What holds each key for now.
    holders: BTreeMap<&'a StateKey, &'a EventId>,
    has_mainline: bool,
    lines: Vec<String>,
}

impl<'a> Teller<'a> {
    fn line(&mut self, line: impl Into<String>) {
        self.lines.push(line.into());
    }

    fn heading(&mut self, heading: impl Into<String>) {
        self.line("");
        self.line(heading);
    }

    fn tell(&mut self, explanation: &'a Explanation) {
        let event_id = &explanation.event_id;
        let title = self.mention(event_id);
        self.line(title);
        if let Some(event) = self.room.event(event_id) {
            let version = self.room.rules().version;
            let sent = utc(event.origin_server_ts_ms);
            self.line(format!("    sent {sent}, depth {}, in {}", event.depth, self.room.room_id()));
            self.line(format!("    (room version {version}: rule numbers are those of its authorization rules)"));
        }
        self.tell_prev_events(explanation);
        let mut steps = explanation.steps.as_slice();
        while let Some((step, rest)) = steps.split_first() {
            steps = self.tell_step(step, rest);
        }
        if let Some(state) = self.room.state_before(event_id) {
            let (len, fingerprint) = (state.len(), state.fingerprint());
            self.heading(format!("The state before the event has {len} entries; its fingerprint is {fingerprint}."));
        }
        self.tell_verdict(explanation);
    }

    fn tell_prev_events(&mut self, explanation: &'a Explanation) {
        match explanation.prev_events.as_slice() {
            [] => self.heading("It builds on no event, so the state before it is empty."),
            [(prev, _)] => {
                self.heading("It builds on one event, so the state before it is the state after that one:");
                self.list([prev]);
            }
            prev_events if explanation.steps.is_empty() => {
                self.heading(format!(
                    "It builds on {} events. The state is the same after each of them, so there was nothing to resolve:",
                    prev_events.len()
                ));
                self.list(prev_events.iter().map(|(prev, _)| prev));
            }
            prev_events => {
                self.heading(format!(
                    "It builds on {} events. The states after them differ and were resolved:",
                    prev_events.len()
                ));
                for (prev, fingerprint) in prev_events {
                    let prev = self.mention(prev);
                    self.line(format!("  {prev}"));
                    self.line(format!("      state after it: {fingerprint}"));
                }
            }
        }
    }

    /// Tells a step, with those after it that belong to it, and returns the rest.
    fn tell_step(&mut self, step: &'a Step, rest: &'a [Step]) -> &'a [Step] {
        match step {
            Step::Conflict { .. } => return self.tell_conflicts(step, rest),
            Step::Outcome { .. } => return self.tell_outcomes(step, rest),
            Step::AuthDifference { events } => self.list_new(
                events,
                "Taking part too, as they authorize what is in some of the states only (the auth difference):",
            ),
            Step::ConflictedStateSubgraph { events } => self.list_new(
                events,
                "Taking part too, as candidates depend on each other through them (the conflicted state subgraph):",
            ),
            Step::PowerOrder { events } if events.is_empty() => {
                self.heading("None of these events can take power from anybody.");
            }
            Step::PowerOrder { events } => {
                self.heading("First are checked those that can take power from somebody, and what they depend on.");
                self.line(
                    "Order: what is depended on, then the more powerful sender, the earlier, the lesser event id.",
                );
                return self.tell_order(events, rest, Phase::PowerEvents);
            }
            Step::Mainline { events } if events.is_empty() => {
                self.heading(
                    "No power levels are in the state so far by which to order the others (the mainline is empty).",
                );
            }
            Step::Mainline { events } => {
                self.has_mainline = true;
                self.heading("The power levels that hold now, and those that they came from (the mainline):");
                self.list(events);
            }
            Step::MainlineOrder { events } if events.is_empty() => {}
            Step::MainlineOrder { events } => {
                self.heading("Then are checked all others.");
                self.line(
                    "Order: the older the power levels that an event is based on, then the earlier, the lesser event id.",
                );
                return self.tell_order(events, rest, Phase::OtherEvents);
            }
            Step::DepthOrder { key, events } => {
                self.heading(format!("Candidates for {}, in the order in which they are tried:", name_key(key)));
                return self.tell_order(events, rest, Phase::ByDepth);
            }
            // Checks follow an order and were told with it.
            Step::Check { .. } => {}
        }
        rest
    }

    fn tell_conflicts(&mut self, step: &'a Step, mut rest: &'a [Step]) -> &'a [Step] {
        self.heading("Where they differ:");
        let mut step = Some(step);
        while let Some(Step::Conflict { key, candidates, absent_from_some }) = step {
            let absent = if *absent_from_some { " (not there in some of the states)" } else { "" };
            self.line(format!("  {}{absent}", name_key(key)));
            for candidate in candidates {
                let candidate = self.mention(candidate);
                self.line(format!("    {candidate}"));
            }
            step = rest.first().filter(|step| matches!(step, Step::Conflict { .. }));
            if step.is_some() {
                rest = rest.get(1..).unwrap_or_default();
            }
        }
        rest
    }

    fn tell_outcomes(&mut self, step: &'a Step, rest: &'a [Step]) -> &'a [Step] {
        self.heading("Result:");
        for step in std::iter::once(step).chain(rest) {
            let Step::Outcome { key, event_id } = step else { continue };
            match event_id {
                Some(event_id) => {
                    let holder = self.mention(event_id);
                    self.line(format!("  {}: {holder}", name_key(key)));
                }
                None => self.line(format!("  {}: nothing, as no candidate was allowed", name_key(key))),
            }
        }
        &[]
    }

    /// Tells an order with the checks of its events, and returns the steps after these.
    fn tell_order(&mut self, events: &'a [OrderedEvent], rest: &'a [Step], phase: Phase) -> &'a [Step] {
        let is_check = |step: &&Step| matches!(step, Step::Check { phase: of, .. } if *of == phase);
        let (checks, rest) = rest.split_at(rest.iter().take_while(is_check).count());
        for (place, event) in (1..).zip(events) {
            let what = self.mention(&event.event_id);
            self.line(format!("{place:>4}. {what}"));
            let sent = format!("sent {}", utc(event.origin_server_ts_ms));
            let mut rank = match event.rank {
                Rank::MainlinePosition(_) if !self.has_mainline => sent,
                Rank::Depth(_) => name_rank(event.rank),
                _ => format!("{}, {sent}", name_rank(event.rank)),
            };
            if let Some(decided_by) = event.decided_by {
                rank = format!("{rank}; after {} because {}", place - 1, because(decided_by, event.rank));
            }
            self.line(format!("      {rank}"));
            let check =
                checks.iter().find(|step| matches!(step, Step::Check { event_id, .. } if *event_id == event.event_id));
            let fate = match check {
                Some(Step::Check { key, result: Some(Ok(())), .. }) => {
                    match self.holders.insert(key, &event.event_id).and_then(|before| self.numbers.get(before)) {
                        Some(before) => format!("allowed, in place of [{before}]"),
                        None => "allowed".to_owned(),
                    }
                }
                Some(Step::Check { result: Some(Err(refusal)), .. }) => {
                    match refusal.rule_number(self.room.rules().version) {
                        "" => format!("refused: {refusal}"),
                        rule => format!("refused by rule {rule}: {refusal}"),
                    }
                }
                Some(_) => "left out, as it was rejected when it was received".to_owned(),
                None if phase == Phase::ByDepth && place == 1 => "taken to begin with".to_owned(),
                None => "not tried, as it was decided before".to_owned(),
            };
            self.line(format!("      {fate}"));
        }
        rest
    }

    fn tell_verdict(&mut self, explanation: &'a Explanation) {
        let verdict = outcome_name(explanation.outcome);
        let Some(reason) = &explanation.reason else {
            self.line(format!("The event was {verdict}."));
            return;
        };
        const SOFT_FAILED: &str = "It is not shown to clients, but takes part when states are resolved later.";
        let (against, consequence) = match reason.check {
            Check::AuthEvents => {
                ("by the events that it cites as its authority (check 4)", "It never becomes part of the room's state.")
            }
            Check::StateBefore => ("by the state before it (check 5)", "It never becomes part of the room's state."),
            Check::CurrentState => (
                "by the room's current state when it arrived, though not by the state before it (check 6)",
                SOFT_FAILED,
            ),
            Check::PolicyServer => ("by the room's policy server (check 7)", SOFT_FAILED),
        };
        self.line(format!("The event was {verdict} {against}:"));
        self.line(format!("    {}", name_reason(reason)));
        self.line(consequence);
        if reason.check == Check::AuthEvents
            && let Some(event) = self.room.event(&explanation.event_id)
        {
            self.heading("The events that it cites as its authority:");
            for event_id in &event.auth_events {
                let rejected = self.room.outcome(event_id) == Some(Outcome::Rejected);
                let rejected = if rejected { " (rejected)" } else { "" };
                let what = self.mention(event_id);
                self.line(format!("  {what}{rejected}"));
            }
        }
    }

    fn list<'e>(&mut self, events: impl IntoIterator<Item = &'e EventId>) {
        for event_id in events {
            let what = self.mention(event_id);
            self.line(format!("  {what}"));
        }
    }

    /// Lists those events that were not mentioned yet, if any.
    fn list_new(&mut self, events: &[EventId], heading: &str) {
        let new: Vec<&EventId> = events.iter().filter(|event_id| !self.numbers.contains_key(*event_id)).collect();
        if !new.is_empty() {
            self.heading(heading);
            self.list(new);
        }
    }

    /// Says in a few words what an event is: with its id at the first time, and always with its number.
    fn mention(&mut self, event_id: &EventId) -> String {
        let what = self.room.event(event_id).map_or_else(|| "unknown event".to_owned(), |event| describe(&event));
        if let Some(number) = self.numbers.get(event_id) {
            return format!("[{number}] {what}");
        }
        let number = self.numbers.len() + 1;
        self.numbers.insert(event_id.clone(), number);
        format!("[{number}] {what}  {event_id}")
    }
}

fn describe(event: &Event) -> String {
    let sender = event.sender.as_str();
    match (&*event.event_type, event.state_key.as_deref()) {
        (event_type::MEMBER, Some(user)) => match (event.membership(), user == sender) {
            (Some(Membership::Leave), false) => format!("removal of {user} by {sender}"),
            (Some(membership), true) => format!("{} of {user}", name_membership(membership)),
            (Some(membership), false) => format!("{} of {user} by {sender}", name_membership(membership)),
            (None, _) => format!("m.room.member of {user} without a membership, by {sender}"),
        },
        (event_type, Some("")) => format!("{event_type} by {sender}"),
        (event_type, Some(state_key)) => format!("{event_type} {state_key:?} by {sender}"),
        (event_type, None) => format!("{event_type} by {sender} (no state)"),
    }
}

pub(in crate::command) fn name_membership(membership: Membership) -> &'static str {
    match membership {
        Membership::Join => "join",
        Membership::Invite => "invite",
        Membership::Leave => "leave",
        Membership::Ban => "ban",
        Membership::Knock => "knock",
        Membership::Unknown => "unknown membership",
    }
}

fn name_key(key: &StateKey) -> String {
    match (&*key.event_type, &*key.state_key) {
        (event_type::MEMBER, user) => format!("membership of {user}"),
        (event_type, "") => event_type.to_owned(),
        (event_type, state_key) => format!("{event_type} {state_key:?}"),
    }
}

fn name_reason(reason: &RecordedReason) -> String {
    let RecordedReason { code, rule, sentence, .. } = reason;
    if rule.is_empty() { format!("{sentence} ({code})") } else { format!("rule {rule}: {sentence} ({code})") }
}

fn name_rank(rank: Rank) -> String {
    match rank {
        Rank::PowerLevel(PowerLevel::Infinite) => "a creator's power".to_owned(),
        Rank::PowerLevel(level) => format!("power level {level}"),
        Rank::MainlinePosition(Some(0)) => "based on the power levels that hold now".to_owned(),
        Rank::MainlinePosition(Some(1)) => "based on the power levels before those".to_owned(),
        Rank::MainlinePosition(Some(position)) => format!("based on power levels {position} back"),
        Rank::MainlinePosition(None) => "not based on any of these power levels".to_owned(),
        Rank::Depth(depth) => format!("depth {depth}"),
    }
}

fn because(decided_by: DecidedBy, rank: Rank) -> &'static str {
    match (decided_by, rank) {
        (DecidedBy::AuthEdges, _) => "it depends on an event that had to come first",
        (DecidedBy::PowerLevel, _) => "its sender has less power",
        (DecidedBy::MainlinePosition, _) => "it is based on newer power levels",
        (DecidedBy::Depth, _) => "of its depth",
        (DecidedBy::Timestamp, _) => "it is later",
        (DecidedBy::EventId, Rank::Depth(_)) => "of the SHA-1 of its event id",
        (DecidedBy::EventId, _) => "its event id is greater",
    }
}
