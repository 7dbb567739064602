//! Which events are redacted at a point of the DAG, as far as rules can tell the difference.
//!
//! A redacted event authorizes what comes after in its redacted form (before room version 11, redacted power levels lose
//! `invite`), as deployed servers have it. Here a redaction counts for an event if it is among the event's ancestors: so what an
//! event is judged by depends on the DAG alone, not on whether the redaction happened to arrive first.
//!
//! State resolution, in contrast, reads every event as it was received: deployed servers do, and a recorded room in which redacted
//! power levels lost `invite` has other states with the other reading.

use std::{collections::BTreeMap, sync::Arc};

use rpds::RedBlackTreeSetSync;

use crate::{
    event::{Content, Event},
    event_auth::takes_effect,
    graph::{EventGraph, EventIndex, EventView},
    id::EventId,
    pdu::{PduError, VerifiedPdu},
    room::{Outcome, Room},
};

/// The redactions of a room that may change what rules read, by the event that they redact.
#[derive(Debug, Default)]
pub(super) struct Redactions(BTreeMap<EventId, Vec<Redaction>>);

#[derive(Debug)]
struct Redaction {
    index: EventIndex,
    /// The sender had the redact level in the state before, and may redact any event.
    may_redact_any: bool,
}

/// Those among an event and its ancestors. The sets of a room share what they have in common.
#[derive(Clone, Debug, Default)]
pub(super) struct RedactionSet(Arc<RedBlackTreeSetSync<EventIndex>>);

impl Redactions {
    /// Takes note of an event that was not rejected; returns the redactions after it, of those before it.
    ///
    /// A redaction that takes no effect, or that rules can't tell, is left out; one of an event not yet known is kept.
    pub(super) fn add(
        &mut self,
        graph: &EventGraph,
        index: EventIndex,
        may_redact_any: bool,
        before: RedactionSet,
    ) -> RedactionSet {
        self.drop_without_effect(graph, index);
        let Some(target) = graph.event(index).redacts() else { return before };
        let redaction = Redaction { index, may_redact_any };
        let matters = graph.index_of(target).is_none_or(|target| redaction.has_effect(graph, target));
        if !matters {
            return before;
        }
        self.0.entry(target.clone()).or_default().push(redaction);
        RedactionSet(Arc::new(before.0.insert(index)))
    }

    /// Forgets, now that an event is known, the redactions of it that have no effect.
    fn drop_without_effect(&mut self, graph: &EventGraph, target: EventIndex) {
        if self.0.is_empty() {
            return;
        }
        let event_id = graph.event_id(target);
        if let Some(redactions) = self.0.get_mut(&event_id) {
            redactions.retain(|redaction| redaction.has_effect(graph, target));
            if redactions.is_empty() {
                self.0.remove(&event_id);
            }
        }
    }
}

impl Redaction {
    fn has_effect(&self, graph: &EventGraph, target: EventIndex) -> bool {
        graph.redacted_event(target).is_some()
            && takes_effect(self.may_redact_any, graph.event(self.index), graph.event(target))
    }
}

impl RedactionSet {
    /// Whether two sets are the same one in memory.
    pub(super) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Returns the union of sets, which mostly are the same one.
    pub(super) fn union<'a>(mut sets: impl Iterator<Item = &'a Self>) -> Self {
        let Some(first) = sets.next() else { return Self::default() };
        sets.fold(first.clone(), |union, set| {
            if union.is(set) {
                return union;
            }
            let (larger, smaller) = if union.0.size() < set.0.size() { (set, &union) } else { (&union, set) };
            let mut missing = smaller.0.iter().filter(|index| !larger.0.contains(index)).peekable();
            if missing.peek().is_none() {
                return larger.clone();
            }
            Self(Arc::new(missing.fold((*larger.0).clone(), |set, index| set.insert(*index))))
        })
    }
}

impl Room {
    /// Whether an accepted redaction, wherever it stands, takes effect on an event, so that readers get its redacted form. Not
    /// for an event that is not known. O(n) for n events.
    ///
    /// Rules go by something else: by the redactions among the ancestors of what is judged.
    pub fn is_redacted(&self, event_id: &EventId) -> bool {
        if self.graph.index_of(event_id).is_none() {
            return false;
        }
        let mut redactions = self.graph.indices().filter(|index| self.graph.event(*index).redacts() == Some(event_id));
        redactions.any(|index| self.redacts(&self.graph.event_id(index), event_id))
    }

    /// Whether an event is an accepted redaction that takes effect on another one. Not if one of them is not known. O(1).
    pub fn redacts(&self, redaction: &EventId, event_id: &EventId) -> bool {
        let indices = self.graph.index_of(redaction).zip(self.graph.index_of(event_id));
        indices.is_some_and(|(redaction, target)| {
            let position = self.position(redaction);
            let (redaction, target) = (self.graph.event(redaction), self.graph.event(target));
            position.outcome == Outcome::Accepted && takes_effect(position.may_redact_any, redaction, target)
        })
    }
}

/// Returns what rules read of an event once it is redacted, if that differs. Create events are never redacted: a moderator could
/// change the room's version with it.
pub(super) fn redacted_facts(pdu: &VerifiedPdu) -> Result<Option<Event>, PduError> {
    let event = pdu.event();
    let may_differ = match &event.content {
        Content::PowerLevels(_) | Content::ThirdPartyInvite(_) => true,
        Content::Member(member) => {
            member.third_party_invite.is_some() || member.join_authorised_via_users_server.is_some()
        }
        Content::Create(_) | Content::JoinRules(_) | Content::Redaction(_) | Content::Other => false,
    };
    if !may_differ {
        return Ok(None);
    }
    let redacted = pdu.redacted_event()?;
    Ok((redacted.content != event.content).then_some(redacted))
}

/// The events as they stand at some point of the DAG: those that were redacted by then, in their redacted form.
#[derive(Clone, Copy, Debug)]
pub(super) struct EventsView<'a> {
    graph: &'a EventGraph,
    redactions: &'a Redactions,
    /// Those that count.
    set: &'a RedactionSet,
}

impl<'a> EventsView<'a> {
    /// Returns the view in which the redactions of a set count.
    pub(super) fn new(graph: &'a EventGraph, redactions: &'a Redactions, set: &'a RedactionSet) -> Self {
        Self { graph, redactions, set }
    }

    pub(super) fn graph(&self) -> &'a EventGraph {
        self.graph
    }

    /// Returns an event as it stands in this view.
    pub(super) fn event(&self, index: EventIndex) -> EventView<'a> {
        let event = self.graph.event(index);
        let Some(redacted) = self.graph.redacted_event(index) else { return event };
        let mut redactions = self.redactions.0.get(&event.event_id()).into_iter().flatten();
        if redactions.any(|redaction| self.set.0.contains(&redaction.index)) { redacted } else { event }
    }
}
