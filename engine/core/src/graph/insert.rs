//! How events come into a graph.

use std::sync::Arc;

use super::{
    EventGraph, EventIndex, KeyIndex, LevelFacts, NameIndex, PowerChain,
    facts::{Content, CreateFacts, Extra, ExtraIndex, Facts, Flags, MemberExtra},
};
use crate::{
    event::{self, Event, MemberContent, Membership, ThirdPartyInvite},
    id::{EventId, UserId},
    room_version::StateResolution,
};

/// An event can't be numbered before what it cites.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GraphError {
    /// A cited event is not there.
    #[error("{event_id} cites {missing}, which is not known")]
    UnknownAuthEvent {
        /// The event.
        event_id: EventId,
        /// What it cites.
        missing: EventId,
    },
    /// The event is there already.
    #[error("{0} is already known")]
    Duplicate(EventId),
    /// 2^32 events or strings, or a string of more than 64 KiB.
    #[error("there is no room left for the event")]
    Full,
}

/// An event of a store can't be one of the room: it builds on what comes after it, or there is no room for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the stored event {0:?} does not fit into its room")]
pub struct UnusableEvent(pub EventIndex);

/// An event of a room that is in a store, with what follows from its place in the room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredEvent {
    /// The event. Its own lists of events are not looked at.
    pub event: Arc<Event>,
    /// Its auth events, in its order.
    pub auth_events: Vec<EventIndex>,
    /// The power levels among them.
    pub power_levels: Option<EventIndex>,
    /// Its place among the power levels, if it is some.
    pub power_chain: Option<PowerChain>,
    /// Its only prev event, if that is a create event.
    pub follows_create: Option<EventIndex>,
    /// Whether it was rejected.
    pub rejected: bool,
    /// How many snapshot nodes the room had before it.
    pub nodes_before: u32,
}

impl StoredEvent {
    /// Whether all that it names has smaller numbers, so that no chain leads in a circle.
    fn comes_after_what_it_cites(&self, index: EventIndex) -> bool {
        let chain_is_sound = self.power_chain.is_none_or(|chain| match chain.parent {
            Some(parent) => self.power_levels == Some(parent) && chain.jump < index && chain.depth > 1,
            None => chain.jump == index && chain.depth == 1,
        });
        chain_is_sound
            && self.auth_events.iter().all(|cited| *cited < index)
            && self.power_levels.is_none_or(|power_levels| self.auth_events.contains(&power_levels))
            && self.follows_create.is_none_or(|create| create < index)
    }
}

impl EventGraph {
    /// Adds an event after all that it cites. `redacted` is the event as it is once redacted, if that changes what rules read.
    /// The first create event that was not rejected is the room's.
    ///
    /// # Errors
    ///
    /// When an auth event is unknown, the event is there already, or there is no room left. No event is added then.
    pub fn insert(
        &mut self,
        event: &Event,
        redacted: Option<&Event>,
        rejected: bool,
    ) -> Result<EventIndex, GraphError> {
        if self.index_of(&event.event_id).is_some() {
            return Err(GraphError::Duplicate(event.event_id.clone()));
        }
        let auth_events = event.auth_events.iter().map(|id| {
            self.index_of(id)
                .ok_or_else(|| GraphError::UnknownAuthEvent { event_id: event.event_id.clone(), missing: id.clone() })
        });
        let auth_events: Vec<EventIndex> = auth_events.collect::<Result<_, _>>()?;
        let index = self.insert_citing(event, &auth_events).ok_or(GraphError::Full)?;
        self.judge(index, redacted, rejected)?;
        Ok(index)
    }

    /// Adds an event that counts as rejected until it is [judged](Self::judge), as citing these events, whatever it says itself.
    /// `None` if there is no room left.
    pub(crate) fn insert_citing(&mut self, event: &Event, auth_events: &[EventIndex]) -> Option<EventIndex> {
        let follows_create = match &*event.prev_events {
            [only] => self.index_of(only).filter(|only| self.key(*only) == Some(KeyIndex::CREATE)),
            _ => None,
        };
        let power_levels = self.cited_power_levels(auth_events);
        let index = self.push(event, auth_events, power_levels, follows_create)?;
        if self.key(index) == Some(KeyIndex::POWER_LEVELS) {
            let chain = PowerChain::below(index, power_levels, &self.power_chains);
            self.power_chains.insert(index, chain);
        }
        Some(index)
    }

    /// Returns the power levels among the auth events of an event.
    pub(super) fn cited_power_levels(&self, auth_events: &[EventIndex]) -> Option<EventIndex> {
        auth_events.iter().copied().find(|index| self.key(*index) == Some(KeyIndex::POWER_LEVELS))
    }

    /// Returns what a store has to keep of an event, so that [`StoredStates`](crate::resolve::StoredStates) can resolve. `event` is the
    /// event with this number; `nodes_before` says how many snapshot nodes the room had before it, or less.
    pub fn stored_event(&self, index: EventIndex, event: Arc<Event>, nodes_before: u32) -> StoredEvent {
        let view = self.event(index);
        StoredEvent {
            event,
            auth_events: self.auth_events(index).to_vec(),
            power_levels: self.power_levels(index),
            power_chain: self.power_chains.get(&index).copied(),
            follows_create: view.member_extra().and_then(|extra| extra.follows_create),
            rejected: self.is_rejected(index),
            nodes_before,
        }
    }

    /// Adds an event of a room that is in a store; one that is there already stays as it is.
    ///
    /// # Errors
    ///
    /// When it can't be an event of the room.
    pub(crate) fn insert_stored(&mut self, index: EventIndex, stored: &StoredEvent) -> Result<(), UnusableEvent> {
        if self.sparse.as_ref().is_none_or(|sparse| sparse.has_event(index)) {
            return Ok(());
        }
        let inserted = if stored.comes_after_what_it_cites(index) { self.insert_checked(index, stored) } else { None };
        inserted.ok_or(UnusableEvent(index))
    }

    fn insert_checked(&mut self, index: EventIndex, stored: &StoredEvent) -> Option<()> {
        let StoredEvent { event, auth_events, power_levels, power_chain, follows_create, rejected, nodes_before } =
            stored;
        // The members that rules may ask for by name, though their events are not here yet.
        let authorizing_user = match &event.content {
            event::Content::Member(member) => member.join_authorised_via_users_server.as_deref(),
            _ => None,
        };
        for user in [event.sender.as_str()].into_iter().chain(authorizing_user) {
            let name = self.intern_name(user)?;
            self.keys.intern(NameIndex::MEMBER, name)?;
        }
        let place = self.push(event, auth_events, *power_levels, *follows_create)?.as_usize();
        if let Some(facts) = self.facts.get_mut(place) {
            facts.flags.set(Flags::REJECTED, *rejected);
        }
        self.power_chains.extend(power_chain.map(|chain| (index, chain)));
        if let Some(sparse) = &mut self.sparse {
            sparse.add_event(index, place, *nodes_before);
        }
        Some(())
    }

    fn push(
        &mut self,
        event: &Event,
        auth_events: &[EventIndex],
        power_levels: Option<EventIndex>,
        follows_create: Option<EventIndex>,
    ) -> Option<EventIndex> {
        let mut facts = self.facts_citing(event, auth_events, follows_create)?;
        facts.power_levels = power_levels;
        facts.flags.set(Flags::REJECTED, true);
        let index = self.ids.push(&event.event_id)?;
        self.facts.push(facts);
        if self.rules.state_resolution == StateResolution::V1 {
            self.depths.push(event.depth);
        }
        Some(index)
    }

    /// Says of an event whether it was rejected, and what it is once redacted if that changes what the rules read.
    ///
    /// # Errors
    ///
    /// When there is no room left for the redacted event.
    pub(crate) fn judge(
        &mut self,
        index: EventIndex,
        redacted: Option<&Event>,
        rejected: bool,
    ) -> Result<(), GraphError> {
        let redacted = match redacted {
            Some(redacted) => {
                let follows_create = self.event(index).member_extra().and_then(|extra| extra.follows_create);
                Some(self.facts_of(redacted, follows_create).ok_or(GraphError::Full)?)
            }
            None => None,
        };
        let Some(facts) = self.facts.get_mut(index.as_usize()) else { return Ok(()) };
        facts.flags.set(Flags::REJECTED, rejected);
        facts.flags.set(Flags::DIFFERS_REDACTED, redacted.is_some());
        if facts.key == Some(KeyIndex::CREATE) && !rejected && self.create.is_none() {
            self.create = Some(index);
        }
        if let Some(redacted) = redacted {
            let mut facts = *facts;
            facts.content = redacted.content;
            self.redacted.insert(index, facts);
        }
        Ok(())
    }

    /// Returns the number of a string, giving it the next one if it has none; `None` if there is no room for it.
    pub(crate) fn intern_name(&mut self, text: &str) -> Option<NameIndex> {
        self.keys.names_mut().intern(text)
    }

    /// Returns the facts of an event, but for the power levels that it cites.
    pub(super) fn facts_citing(
        &mut self,
        event: &Event,
        auth_events: &[EventIndex],
        follows_create: Option<EventIndex>,
    ) -> Option<Facts> {
        let mut facts = self.facts_of(event, follows_create)?;
        let edges = self.auth_edges.store(auth_events)?;
        facts.auth_start = edges.start;
        facts.auth_len = u16::try_from(edges.len).ok()?;
        Some(facts)
    }

    /// Returns the facts of an event, without edges.
    fn facts_of(&mut self, event: &Event, follows_create: Option<EventIndex>) -> Option<Facts> {
        let names = self.keys.names_mut();
        let sender = names.intern(event.sender.as_str())?;
        let event_type = names.intern(&event.event_type)?;
        let mut flags = Flags::default();
        let mut key = None;
        if let Some(text) = &event.state_key {
            let state_key = names.intern(text)?;
            flags.set(Flags::OWN_STATE_KEY, state_key == sender);
            flags.set(Flags::STATE_KEY_OF_ANOTHER_USER, text.starts_with('@') && state_key != sender);
            let is_user = event_type == NameIndex::MEMBER && (state_key == sender || UserId::parse(text).is_ok());
            flags.set(Flags::STATE_KEY_IS_USER, is_user);
            key = Some(self.keys.intern(event_type, state_key)?);
        }
        flags.set(Flags::POWER_EVENT, key.is_some_and(|key| is_power_event(event, key)));
        let content = self.content_of(event, sender, follows_create)?;
        let origin_server_ts_ms = event.origin_server_ts_ms;
        Some(Facts { origin_server_ts_ms, sender, event_type, key, flags, content, ..Facts::ABSENT })
    }

    fn content_of(&mut self, event: &Event, sender: NameIndex, follows_create: Option<EventIndex>) -> Option<Content> {
        let extra = match &event.content {
            event::Content::Create(content) => {
                let names = self.keys.names_mut();
                let creator = match &content.creator {
                    _ if self.rules.implicit_room_creator => Some(sender),
                    Some(creator) => Some(names.intern(creator)?),
                    None => None,
                };
                let additional = content.additional_creators.as_deref().unwrap_or_default().iter();
                let additional = additional.map(|creator| names.intern(creator.as_str()));
                let creators: Option<Box<[_]>> = std::iter::once(Some(sender)).chain(additional).collect();
                let with_power = self.rules.creators_have_infinite_power;
                Extra::Create(CreateFacts {
                    federate: content.federate,
                    creator,
                    creators_with_infinite_power: creators.filter(|_| with_power).unwrap_or_default(),
                })
            }
            event::Content::Member(member) => {
                let extra = match self.member_extra_of(member, follows_create)? {
                    Some(extra) => Some(self.push_extra(Extra::Member(extra))?),
                    None => None,
                };
                return Some(Content::Member(member.membership, extra));
            }
            event::Content::JoinRules(join_rule) => return Some(Content::JoinRules(*join_rule)),
            event::Content::PowerLevels(levels) => Extra::PowerLevels(match levels {
                Ok(levels) => Ok(LevelFacts::of(levels, |name| self.keys.names_mut().intern(name))?),
                Err(invalid) => Err(invalid.clone()),
            }),
            event::Content::ThirdPartyInvite(invite) => Extra::ThirdPartyInvite(invite.clone()),
            event::Content::Redaction(Some(redacts)) => Extra::Redaction(redacts.clone()),
            event::Content::Redaction(None) | event::Content::Other => return Some(Content::Other),
        };
        Some(Content::Extra(self.push_extra(extra)?))
    }

    /// Returns what few member events have: `Some(None)` if this one has nothing of it, `None` if there is no room left.
    fn member_extra_of(
        &mut self,
        member: &MemberContent,
        follows_create: Option<EventIndex>,
    ) -> Option<Option<MemberExtra>> {
        let names = self.keys.names_mut();
        let authorizing_user = match &member.join_authorised_via_users_server {
            Some(user) => Some(names.intern(user)?),
            None => None,
        };
        let third_party_invite = match &member.third_party_invite {
            Some(ThirdPartyInvite::Signed(signed)) => {
                let token = names.intern(&signed.token)?;
                let key = self.keys.intern(NameIndex::THIRD_PARTY_INVITE, token)?;
                Some((ThirdPartyInvite::Signed(signed.clone()), Some(key)))
            }
            Some(other) => Some((other.clone(), None)),
            None => None,
        };
        let nothing = follows_create.is_none() && authorizing_user.is_none() && third_party_invite.is_none();
        Some((!nothing).then_some(MemberExtra { follows_create, authorizing_user, third_party_invite }))
    }

    fn push_extra(&mut self, extra: Extra) -> Option<ExtraIndex> {
        let index = ExtraIndex::from_usize(self.extras.len())?;
        self.extras.push(extra);
        Some(index)
    }
}

/// Deployed servers count power levels and join rules only with the empty state key, and the create event too; so does this.
fn is_power_event(event: &Event, key: KeyIndex) -> bool {
    let removes = matches!(event.membership(), Some(Membership::Leave | Membership::Ban));
    match key {
        KeyIndex::POWER_LEVELS | KeyIndex::JOIN_RULES | KeyIndex::CREATE => true,
        _ => {
            removes
                && &*event.event_type == event::event_type::MEMBER
                && event.state_key.as_deref() != Some(event.sender.as_str())
        }
    }
}
