//! An event of a graph, as the rules read it.

use super::{
    CreateFacts, EventGraph, EventIndex, KeyIndex, LevelFacts, MemberExtra, NameIndex,
    facts::{Content, Extra, Facts, Flags},
};
use crate::{
    event::{InvalidPowerLevels, JoinRule, Membership, ThirdPartyInviteContent},
    id::{EventId, UserId},
};

/// An event of a graph: as it was received, or as it is once redacted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct EventView<'g> {
    graph: &'g EventGraph,
    index: EventIndex,
    facts: &'g Facts,
}

impl<'g> EventView<'g> {
    pub(super) fn new(graph: &'g EventGraph, index: EventIndex, facts: &'g Facts) -> Self {
        Self { graph, index, facts }
    }

    pub(crate) fn graph(self) -> &'g EventGraph {
        self.graph
    }

    pub(crate) fn index(self) -> EventIndex {
        self.index
    }

    pub(crate) fn event_id(self) -> EventId {
        self.graph.event_id(self.index)
    }

    pub(crate) fn sender(self) -> NameIndex {
        self.facts.sender
    }

    pub(crate) fn sender_id(self) -> UserId {
        self.graph.user_id(self.facts.sender)
    }

    pub(crate) fn sender_server(self) -> &'g str {
        self.graph.name(self.facts.sender).split_once(':').map_or("", |(_, server)| server)
    }

    pub(crate) fn event_type(self) -> NameIndex {
        self.facts.event_type
    }

    pub(crate) fn key(self) -> Option<KeyIndex> {
        self.facts.key
    }

    pub(crate) fn state_key(self) -> Option<NameIndex> {
        if self.facts.flags.has(Flags::OWN_STATE_KEY) {
            return Some(self.facts.sender);
        }
        Some(self.graph.keys().state_key(self.facts.key?))
    }

    /// Whether the state key is the sender.
    pub(crate) fn is_of_its_sender(self) -> bool {
        self.facts.flags.has(Flags::OWN_STATE_KEY)
    }

    /// Whether the state key begins with `@` and is not the sender.
    pub(crate) fn is_of_another_user(self) -> bool {
        self.facts.flags.has(Flags::STATE_KEY_OF_ANOTHER_USER)
    }

    /// Whether the state key is a user id.
    pub(crate) fn state_key_is_user(self) -> bool {
        self.facts.flags.has(Flags::STATE_KEY_IS_USER)
    }

    pub(crate) fn membership(self) -> Option<Membership> {
        match self.facts.content {
            Content::Member(membership, _) => membership,
            _ => None,
        }
    }

    pub(crate) fn member_extra(self) -> Option<&'g MemberExtra> {
        match (self.facts.content, self.extra()) {
            (Content::Member(..), Some(Extra::Member(extra))) => Some(extra),
            _ => None,
        }
    }

    pub(crate) fn create(self) -> Option<&'g CreateFacts> {
        match self.extra()? {
            Extra::Create(create) => Some(create),
            _ => None,
        }
    }

    pub(crate) fn join_rule(self) -> Option<JoinRule> {
        match self.facts.content {
            Content::JoinRules(join_rule) => Some(join_rule),
            _ => None,
        }
    }

    /// Returns the content of a power levels event, or why it could not be decoded.
    pub(crate) fn levels(self) -> Option<Result<&'g LevelFacts, &'g InvalidPowerLevels>> {
        match self.extra()? {
            Extra::PowerLevels(levels) => Some(levels.as_ref()),
            _ => None,
        }
    }

    pub(crate) fn third_party_invite(self) -> Option<&'g ThirdPartyInviteContent> {
        match self.extra()? {
            Extra::ThirdPartyInvite(invite) => Some(invite),
            _ => None,
        }
    }

    /// Returns the event that a redaction names.
    pub(crate) fn redacts(self) -> Option<&'g EventId> {
        match self.extra()? {
            Extra::Redaction(redacts) => Some(redacts),
            _ => None,
        }
    }

    fn extra(self) -> Option<&'g Extra> {
        let (Content::Extra(extra) | Content::Member(_, Some(extra))) = self.facts.content else { return None };
        self.graph.extras.get(extra.as_usize())
    }
}
