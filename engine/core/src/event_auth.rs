//! The authorization rules of every room version: which events a room accepts, and which rule refused the others.
//!
//! A PDU is checked in two parts. [`check_state_independent`] looks at the event and the events it cites and is done once.
//! The other part looks at a room state and is done against three of them: the cited auth events, the state before the event and
//! the current state; state resolution does it again and again. It is written for events of a [graph](crate::graph), which
//! compares numbers where the rules compare names, and allocates nothing but a refusal; [`check_state_dependent`] puts decoded
//! events into a small graph first. Both parts are pure and read no JSON.
//!
//! Source: "Authorisation rules" of each room version and "Checks performed on receipt of a PDU", Matrix v1.19. Comments
//! number the rules as in the list of room version 12; [`Refusal::rule_number`] gives the number in each version's own list.
//!
//! # Where the text leaves room
//!
//! Deployed servers decide there, Synapse first, because two servers that disagree split the room:
//!
//! - A room without `m.room.join_rules` has the join rule `invite`.
//! - A room without `m.room.power_levels` has the default levels (`state_default` 50, `events_default` 0), its creator has
//!   100 and all others 0 (schema of `m.room.power_levels`); from version 12 on creators have infinite power anyway.
//! - Rule 10.6 compares what the two events give: a level that is absent has no value to be too high, even where the default
//!   would be. Synapse reads it so; other implementations put the default in.
//!
//! The text decides where Synapse differs:
//!
//! - Rule 5.2 concerns every membership. Synapse asks for the second signature on joins only.
//! - Rule 4 looks at the sender alone. Synapse also refuses members whose `state_key` is of another domain in a room that
//!   is not federated.
//! - Rule 10 compares with the power levels of the room (state key `""`) whatever the state key of the new event. Synapse
//!   compares with the event of the same state key, which is never among the auth events unless it is `""`.
//! - Rule 5.4.1.7 tries every signature with every key (up to a bound that no real invite meets). Synapse gives a key up at
//!   the first signature that is not by it.
//! - Rule 11 of versions 1 and 2 refuses a redaction that names no event, unless its sender has the redact level. Synapse
//!   accepts it.
//!
//! Refusals that are in no list:
//!
//! - [`MemberRule::TargetNotAUser`]: a member event whose `state_key` is not a user id has no target user. Synapse refuses
//!   those without a colon, ruma-state-res all of them.
//! - [`CreateRule::SecondCreate`]: a second create event without parents would pass rule 1 and reset the room.
//! - [`CreateRule::OtherRoomVersion`]: a create event that is checked by the rules of another version than it names.
//! - [`CreateRule::NoCreator`] also where `creator` is there but not a string, which names nobody.
//! - [`Refusal::OversizedField`], as deployed servers do.

mod decoded;
mod member;
mod power;
mod power_levels;
mod refusal;
mod rule_number;
mod selection;
mod third_party_invite;

pub(crate) use self::power::{Levels, can_redact_any, takes_effect};
pub use self::{
    decoded::{StateLookup, can_redact_any_event, check_state_dependent, redaction_takes_effect, sender_power_level},
    power::PowerLevel,
    refusal::{
        AliasesRule, AuthEventsRule, CreateRule, MemberRule, PowerLevelsRule, RedactionRule, Refusal,
        ThirdPartyInviteRule,
    },
    selection::{auth_keys_for_event, auth_types_for_event},
};

use self::power::have_same_server;
use crate::{
    event::{Content, Event, Membership, NamedLevel, StateKey, event_type},
    graph::{EventGraph, EventView, KeyIndex, NameIndex},
    id::{EventId, RoomId},
    room_version::RoomVersionRules,
};

/// A state of events of a graph, as far as the rules ask for it: the keys that [`auth_types_for_event`] selects, and the create
/// event.
pub(crate) trait AuthState<'g> {
    /// Returns the event of the state that holds a key.
    fn event(&mut self, key: KeyIndex) -> Option<EventView<'g>>;
}

/// An event that is named in `auth_events`, and what became of it here.
#[derive(Clone, Copy, Debug)]
pub struct CitedAuthEvent<'a> {
    /// The type.
    pub event_type: &'a str,
    /// The state key, for state events.
    pub state_key: Option<&'a str>,
    /// The room.
    pub room_id: &'a RoomId,
    /// Whether it was rejected by the checks on its receipt.
    pub rejected: bool,
}

impl<'a> CitedAuthEvent<'a> {
    /// Returns what the rules about auth events look at.
    pub fn new(event: &'a Event, rejected: bool) -> Self {
        let state_key = event.state_key.as_deref();
        Self { event_type: &event.event_type, state_key, room_id: &event.room_id, rejected }
    }

    fn is_state(&self, event_type: &str, state_key: &str) -> bool {
        self.state_key == Some(state_key) && self.event_type == event_type
    }
}

/// Checks what does not depend on a room state: rules 1 to 3 and 5.2.
///
/// - `create` is the id of the accepted create event of the room, or `None` if this server has none.
/// - `auth_events` are the events named in `event.auth_events`, all of them and in the same order.
/// - `authorizing_user_signed` says whether the server of `join_authorised_via_users_server` has validly signed the event;
///   `None` if that was not looked at. Only `Some(true)` satisfies rule 5.2.
///
/// # Errors
///
/// The first rule that refuses the event. Cost: O(A²) comparisons for A auth events (at most 10).
pub fn check_state_independent(
    rules: &RoomVersionRules,
    event: &Event,
    authorizing_user_signed: Option<bool>,
    create: Option<&EventId>,
    auth_events: &[CitedAuthEvent<'_>],
) -> Result<(), Refusal> {
    debug_assert_eq!(event.auth_events.len(), auth_events.len(), "the cited events are those of the event");
    // "Size limits": versions 1 to 10 keep such an event, rejected, because servers that counted code points accepted it.
    if event.oversized_field {
        return Err(Refusal::OversizedField);
    }
    // 1. If type is m.room.create. 1.5. Otherwise, allow.
    if &*event.event_type == event_type::CREATE {
        return Ok(check_create(rules, event, create)?);
    }
    // 2. If the event's room_id is not an event ID for an accepted m.room.create event, reject.
    if rules.room_id_is_create_hash && !create.is_some_and(|create| is_create_of_room(create, &event.room_id)) {
        return Err(Refusal::RoomWithoutCreate { room_id: event.room_id.clone() });
    }
    check_auth_events(rules, event, auth_events)?;
    // 5.2. If content has a join_authorised_via_users_server key:
    // 5.2.1. If the event is not validly signed by the homeserver of that user, reject.
    if rules.restricted_join_rule
        && let Content::Member(member) = &event.content
        && let Some(user) = &member.join_authorised_via_users_server
        && authorizing_user_signed != Some(true)
    {
        return Err(MemberRule::NotSignedByAuthorizingServer { user: user.clone() }.into());
    }
    Ok(())
}

/// Checks an event against a room state: rules 4 to 11, where comments number them.
///
/// # Errors
///
/// The first rule that refuses the event. Cost: a few look-ups; for `m.room.power_levels` linear in both events, for an
/// invite with `third_party_invite` up to 1,024 signature checks.
pub(crate) fn check_in_state<'g>(event: EventView<'g>, state: &mut impl AuthState<'g>) -> Result<(), Refusal> {
    let graph = event.graph();
    if event.event_type() == NameIndex::CREATE {
        return Ok(());
    }
    let Some(create) = state.event(KeyIndex::CREATE) else {
        return Err(Refusal::StateWithoutCreate);
    };

    // 4. If m.federate is false, and the sender domain does not match the sender domain of the create event, reject.
    let federate = create.create().is_some_and(|content| content.federate);
    if !federate && event.sender_server() != create.sender_server() {
        return Err(Refusal::NotFederated { sender: event.sender_id(), creator: create.sender_id() });
    }
    // Rule 4 of versions 1 to 5.
    if graph.rules().special_case_aliases_auth && event.event_type() == NameIndex::ALIASES {
        return Ok(check_aliases(event)?);
    }
    // 5. If type is m.room.member.
    if event.event_type() == NameIndex::MEMBER {
        return member::check(event, create, state);
    }
    // 6. If the sender's current membership state is not join, reject.
    if membership(graph, state, event.sender()) != Some(Membership::Join) {
        return Err(Refusal::SenderNotJoined { sender: event.sender_id() });
    }
    let levels = Levels::of_state(create, state)?;
    let sender_level = levels.user(event.sender());
    // 7. If type is m.room.third_party_invite, allow if and only if the sender's power level is at least the invite level.
    if event.event_type() == NameIndex::THIRD_PARTY_INVITE {
        let invite_level = levels.named(NamedLevel::Invite);
        if sender_level < invite_level {
            return Err(Refusal::ThirdPartyInviteLevel { sender: event.sender_id(), sender_level, invite_level });
        }
        return Ok(());
    }
    // 8. If the event type's required power level is greater than the sender's power level, reject.
    let required_level = levels.required(event.event_type(), event.key().is_some());
    if required_level > sender_level {
        return Err(Refusal::RequiredPowerLevel {
            sender: event.sender_id(),
            event_type: graph.name(event.event_type()).into(),
            sender_level,
            required_level,
        });
    }
    // 9. If the event has a state_key that starts with an @ and does not match the sender, reject.
    if event.is_of_another_user() {
        let state_key = event.state_key().map_or("", |state_key| graph.name(state_key));
        return Err(Refusal::StateKeyOfAnotherUser { sender: event.sender_id(), state_key: state_key.into() });
    }
    // 10. If type is m.room.power_levels.
    if event.event_type() == NameIndex::POWER_LEVELS {
        return power_levels::check(event, create, &levels);
    }
    // Rule 11 of versions 1 and 2.
    if graph.rules().redaction_auth_rule && event.event_type() == NameIndex::REDACTION {
        return Ok(check_redaction(event, &levels)?);
    }
    // 11. Otherwise, allow.
    Ok(())
}

/// Returns the membership that the state gives a user.
fn membership<'g>(graph: &EventGraph, state: &mut impl AuthState<'g>, user: NameIndex) -> Option<Membership> {
    state.event(graph.keys().member(user)?)?.membership()
}

/// Rule 1.
fn check_create(rules: &RoomVersionRules, event: &Event, accepted: Option<&EventId>) -> Result<(), CreateRule> {
    // 1.1. If it has any prev_events, reject.
    if !event.prev_events.is_empty() {
        return Err(CreateRule::HasPrevEvents);
    }
    // 1.2. From version 12 on: if it has a room_id, reject. Before: if the domain of the room_id does not match the domain
    // of the sender, reject.
    if rules.room_id_is_create_hash {
        if event.carries_room_id {
            return Err(CreateRule::CarriesRoomId);
        }
    } else if event.room_id.server_name() != Some(event.sender.server_name()) {
        return Err(CreateRule::OtherDomain { room_id: event.room_id.clone(), sender: event.sender.clone() });
    }
    // 1.3. If content.room_version is present and is not a recognised version, reject. The rules that are applied come
    // from this very field, so any other version in it is confusion.
    let Content::Create(content) = &event.content else { return Err(CreateRule::UnknownRoomVersion) };
    match content.room_version {
        None => return Err(CreateRule::UnknownRoomVersion),
        Some(version) if version != rules.version => {
            return Err(CreateRule::OtherRoomVersion { content: version, applied: rules.version });
        }
        Some(_) => {}
    }
    // 1.4. Versions 1 to 10: if content has no creator property, reject.
    if !rules.implicit_room_creator && content.creator.is_none() {
        return Err(CreateRule::NoCreator);
    }
    // 1.4. From version 12 on: if additional_creators is present and not an array of valid user IDs, reject.
    if rules.creators_have_infinite_power && content.additional_creators.is_none() {
        return Err(CreateRule::InvalidAdditionalCreators);
    }
    match accepted {
        Some(accepted) if *accepted != event.event_id => {
            Err(CreateRule::SecondCreate { room_id: event.room_id.clone(), accepted: accepted.clone() })
        }
        _ => Ok(()),
    }
}

/// Whether a room id is the id of the create event, with `!` for `$`.
fn is_create_of_room(create: &EventId, room_id: &RoomId) -> bool {
    let Some(room) = room_id.as_str().strip_prefix('!') else { return false };
    create.as_str().strip_prefix('$') == Some(room)
}

/// Rule 3, in the order of its parts.
fn check_auth_events(
    rules: &RoomVersionRules,
    event: &Event,
    auth_events: &[CitedAuthEvent<'_>],
) -> Result<(), AuthEventsRule> {
    // 3.1. If there are duplicate entries for a given type and state_key pair, reject.
    for (number, later) in auth_events.iter().enumerate() {
        let Some(state_key) = later.state_key else { continue };
        if auth_events.iter().take(number).any(|earlier| earlier.is_state(later.event_type, state_key)) {
            return Err(AuthEventsRule::Duplicate { key: StateKey::new(later.event_type, state_key) });
        }
    }
    let mut entries = event.auth_events.iter().zip(auth_events);
    // 3.2. If there are entries that the auth events selection does not select, reject.
    for (event_id, cited) in entries.clone() {
        let selected = |(event_type, state_key)| cited.is_state(event_type, state_key);
        if !auth_keys_for_event(rules, event).any(selected) {
            let event_type = cited.event_type.into();
            return Err(AuthEventsRule::Unexpected { event_id: event_id.clone(), event_type });
        }
    }
    // 3.3. If there are entries which were themselves rejected, reject.
    if let Some((event_id, _)) = entries.clone().find(|(_, cited)| cited.rejected) {
        return Err(AuthEventsRule::Rejected { event_id: event_id.clone() });
    }
    // 2.4 before version 12. If there is no m.room.create event among the entries, reject.
    if !rules.room_id_is_create_hash && !auth_events.iter().any(|cited| cited.is_state(event_type::CREATE, "")) {
        return Err(AuthEventsRule::NoCreate);
    }
    // 3.5. If any entry has a room_id which does not match that of the event, reject.
    if let Some((event_id, cited)) = entries.find(|(_, cited)| *cited.room_id != event.room_id) {
        return Err(AuthEventsRule::OtherRoom { event_id: event_id.clone(), room_id: cited.room_id.clone() });
    }
    Ok(())
}

/// Rule 4 of versions 1 to 5.
fn check_aliases(event: EventView<'_>) -> Result<(), AliasesRule> {
    // 4.1. If event has no state_key, reject.
    let Some(state_key) = event.state_key() else { return Err(AliasesRule::NoStateKey) };
    // 4.2. If sender's domain doesn't match state_key, reject.
    let state_key = event.graph().name(state_key);
    if event.sender_server() != state_key {
        return Err(AliasesRule::OtherDomain { sender: event.sender_id(), state_key: state_key.into() });
    }
    // 4.3. Otherwise, allow.
    Ok(())
}

/// Rule 11 of versions 1 and 2.
fn check_redaction(event: EventView<'_>, levels: &Levels<'_>) -> Result<(), RedactionRule> {
    // 11.1. If the sender's power level is greater than or equal to the redact level, allow.
    let sender_level = levels.user(event.sender());
    let redact_level = levels.named(NamedLevel::Redact);
    if sender_level >= redact_level {
        return Ok(());
    }
    // 11.2. If the domain of the event_id of the event being redacted is that of the m.room.redaction, allow.
    let Some(redacts) = event.redacts() else { return Err(RedactionRule::NoRedactedEvent) };
    if have_same_server(&event.event_id(), redacts) {
        return Ok(());
    }
    // 11.3. Otherwise, reject.
    let (sender, redacts) = (event.sender_id(), redacts.clone());
    Err(RedactionRule::OtherDomain { sender, redacts, sender_level, redact_level })
}
