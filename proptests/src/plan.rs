//! What happens in a random room, as small numbers that proptest draws and shrinks.
//!
//! A number means something only in the room as it is when its step comes ("the third event from the end"), so every plan makes a
//! room, and a plan with a step less makes another one.

use std::ops::Range;

use proptest::{collection::vec, prelude::*, sample::select};
use ravel_core::room_version::RoomVersion;

/// A random room.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The version.
    pub version: RoomVersion,
    /// How wild it is.
    pub style: Style,
    /// What is there at the beginning.
    pub preset: Preset,
    /// What happens then.
    pub steps: Vec<Step>,
}

impl Plan {
    /// Returns a room that is written down by hand, with a full preset.
    pub fn written(version: RoomVersion, members: u8, steps: &[Step]) -> Self {
        Self { version, style: Style::Orderly, preset: Preset::full(members), steps: steps.to_vec() }
    }
}

/// How a room begins: after the create event and the creator's join.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub struct Preset {
    pub federates: bool,
    /// From version 12 on: the second user is a creator too.
    pub additional_creator: bool,
    pub power_levels: bool,
    pub join_rules: bool,
    /// The invite level is 50. Redacted power levels lose that before version 11, and then anybody may invite.
    pub invites_need_power: bool,
    /// How many other users join, if the room is public.
    pub members: u8,
    /// How many more state events the creator sends: from 64 entries on, a state is a tree with branches.
    pub more_state: u8,
}

impl Preset {
    /// All is there, and nothing unusual.
    pub fn full(members: u8) -> Self {
        Self {
            federates: true,
            additional_creator: false,
            power_levels: true,
            join_rules: true,
            invites_need_power: false,
            members,
            more_state: 0,
        }
    }
}

/// One event.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    /// Who does it.
    pub actor: u8,
    /// To whom.
    pub target: u8,
    /// What is done.
    pub action: Action,
    /// Which of the many ways to do it.
    pub value: u8,
    /// The prev events.
    pub parents: Parents,
    /// The time.
    pub clock: Clock,
    /// What is wrong with it.
    pub flaw: Flaw,
    /// Sends the event even if the rules refuse it; else a message takes its place.
    pub insists: bool,
}

impl Step {
    /// Returns a step that is written down by hand: it is taken whatever the rules say. Its target is the second user.
    pub fn new(actor: u8, action: Action, parents: Parents) -> Self {
        Self { actor, target: 1, action, value: 0, parents, clock: Clock::Later, flaw: Flaw::None, insists: true }
    }
}

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Action {
    Message,
    Topic,
    /// A state event of another type and some state key.
    OtherState,
    Join,
    /// A join with `join_authorised_via_users_server`.
    JoinVia,
    Leave,
    Kick,
    Ban,
    Invite,
    Knock,
    PowerLevels,
    JoinRules,
    Redact,
    ThirdPartyToken,
    ThirdPartyInvite,
    Aliases,
    /// A member event that makes no sense.
    OddMember,
    SecondCreate,
}

/// Which events are the prev events.
#[derive(Clone, Copy, Debug)]
pub enum Parents {
    /// The newest event.
    Newest,
    /// One of the events without children.
    Tip(u8),
    /// All events without children, at most five.
    AllTips,
    /// An event some way back: a fork.
    Back(u8),
    /// Two events some way back.
    TwoBack(u8, u8),
}

/// `origin_server_ts`, compared with the event before.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub enum Clock {
    Later,
    Same,
    Earlier(u8),
    /// 1970, or the largest integer; for this event alone.
    Extreme {
        largest: bool,
    },
}

/// What is wrong with an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flaw {
    /// Nothing.
    None,
    /// One of the auth events, not the create event, is missing.
    AuthEventMissing(u8),
    /// All auth events but the create event are missing.
    AuthEventsMissing,
    /// One of the auth events is an older one of the same key.
    AuthEventOld(u8),
    /// There is an auth event too many, of a key of which there is none yet.
    AuthEventSurplus(u8),
    /// There are two auth events of one key.
    AuthEventTwice(u8),
    /// The create event is not among the auth events.
    CreateMissing,
    /// `depth` is something else.
    Depth(u8),
    /// The content was changed after it was hashed.
    ContentHash,
    /// A field is longer than 255 bytes, though not than 255 code points.
    Oversized,
}

/// How wild a room is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// Everybody follows the rules, on several branches.
    Orderly,
    /// Everything that the receipt path lets through to the rules.
    Hostile,
    /// State events only, for resolution alone: states may hold what the rules refuse, but every event cites a create event and
    /// no key twice, as the rules about auth events demand.
    States,
}

/// Plans rooms of these versions.
pub fn plans(versions: &'static [RoomVersion], style: Style, steps: Range<usize>) -> impl Strategy<Value = Plan> {
    (select(versions), preset(style), vec(step(style), steps)).prop_map(move |(version, preset, steps)| Plan {
        version,
        style,
        preset,
        steps,
    })
}

fn preset(style: Style) -> BoxedStrategy<Preset> {
    let often = || prop::bool::weighted(0.9);
    let preset = (often(), any::<bool>(), often(), often(), any::<bool>(), 0..6u8);
    let preset =
        preset.prop_map(|(federates, additional_creator, power_levels, join_rules, invites_need_power, members)| {
            let more_state = 0;
            Preset { federates, additional_creator, power_levels, join_rules, invites_need_power, members, more_state }
        });
    let full = (any::<bool>(), 2..6u8)
        .prop_map(|(invites_need_power, members)| Preset { invites_need_power, ..Preset::full(members) });
    if style == Style::Orderly { full.boxed() } else { prop_oneof![2 => full, 1 => preset].boxed() }
}

fn step(style: Style) -> impl Strategy<Value = Step> {
    let insists = match style {
        Style::Orderly => 0.0,
        Style::Hostile => 0.3,
        Style::States => 0.2,
    };
    let insists = if insists > 0.0 { prop::bool::weighted(insists).boxed() } else { Just(false).boxed() };
    (any::<u8>(), any::<u8>(), action(style), any::<u8>(), parents(), clock(style), flaw(style), insists).prop_map(
        |(actor, target, action, value, parents, clock, flaw, insists)| Step {
            actor,
            target,
            action,
            value,
            parents,
            clock,
            flaw,
            insists,
        },
    )
}

fn action(style: Style) -> BoxedStrategy<Action> {
    let state = prop_oneof![
        4 => Just(Action::Topic),
        2 => Just(Action::OtherState),
        3 => Just(Action::Join),
        1 => Just(Action::JoinVia),
        2 => Just(Action::Leave),
        2 => Just(Action::Kick),
        3 => Just(Action::Ban),
        2 => Just(Action::Invite),
        1 => Just(Action::Knock),
        6 => Just(Action::PowerLevels),
        3 => Just(Action::JoinRules),
        2 => Just(Action::ThirdPartyToken),
        2 => Just(Action::ThirdPartyInvite),
        1 => Just(Action::Aliases),
    ];
    match style {
        Style::States => state.boxed(),
        Style::Orderly => prop_oneof![
            12 => state,
            3 => Just(Action::Message),
            1 => Just(Action::Redact),
        ]
        .boxed(),
        Style::Hostile => prop_oneof![
            24 => state,
            3 => Just(Action::Message),
            4 => Just(Action::Redact),
            3 => Just(Action::Invite),
            1 => Just(Action::OddMember),
            1 => Just(Action::SecondCreate),
        ]
        .boxed(),
    }
}

fn parents() -> impl Strategy<Value = Parents> {
    prop_oneof![
        4 => Just(Parents::Newest),
        3 => any::<u8>().prop_map(Parents::Tip),
        2 => Just(Parents::AllTips),
        3 => (0..12u8).prop_map(Parents::Back),
        1 => (0..12u8, 0..12u8).prop_map(|(first, second)| Parents::TwoBack(first, second)),
    ]
}

fn clock(style: Style) -> BoxedStrategy<Clock> {
    let clock = prop_oneof![4 => Just(Clock::Later), 3 => Just(Clock::Same), 1 => (1..6u8).prop_map(Clock::Earlier)];
    // No key is valid for an event of the far future, so such an event gets into no room from version 5 on.
    let extreme = any::<bool>().prop_map(|largest| Clock::Extreme { largest });
    if style == Style::States { prop_oneof![15 => clock, 1 => extreme].boxed() } else { clock.boxed() }
}

fn flaw(style: Style) -> BoxedStrategy<Flaw> {
    let accepted = || {
        prop_oneof![
            2 => any::<u8>().prop_map(Flaw::AuthEventMissing),
            1 => Just(Flaw::AuthEventsMissing),
            4 => any::<u8>().prop_map(Flaw::AuthEventOld),
            1 => any::<u8>().prop_map(Flaw::Depth),
        ]
    };
    let surplus = any::<u8>().prop_map(Flaw::AuthEventSurplus);
    match style {
        Style::Orderly => Just(Flaw::None).boxed(),
        Style::States => prop_oneof![7 => Just(Flaw::None), 2 => accepted(), 1 => surplus].boxed(),
        Style::Hostile => {
            let dropped_or_rejected = prop_oneof![
                1 => surplus,
                1 => any::<u8>().prop_map(Flaw::AuthEventTwice),
                1 => Just(Flaw::CreateMissing),
                2 => Just(Flaw::ContentHash),
                1 => Just(Flaw::Oversized),
            ];
            prop_oneof![16 => Just(Flaw::None), 3 => accepted(), 1 => dropped_or_rejected].boxed()
        }
    }
}

/// States of a room to be resolved.
#[derive(Clone, Debug)]
pub struct StatesPlan {
    /// The room.
    pub room: Plan,
    /// The events that the states come after.
    pub after: Vec<u8>,
    /// What is changed in the states then.
    pub changes: Vec<StateChange>,
}

/// A key of a state that loses its event, or gets another.
#[derive(Clone, Copy, Debug)]
pub struct StateChange {
    /// Which state.
    pub state: u8,
    /// Which key.
    pub key: u8,
    /// Which of the events with this key; `None` for none.
    pub event: Option<u8>,
}

/// Plans states of rooms of these versions.
pub fn states_plans(versions: &'static [RoomVersion], steps: Range<usize>) -> impl Strategy<Value = StatesPlan> {
    let change = (any::<u8>(), any::<u8>(), prop::option::of(any::<u8>()));
    let change = change.prop_map(|(state, key, event)| StateChange { state, key, event });
    let changes = prop_oneof![3 => Just(vec![]), 1 => vec(change, 1..4)];
    (plans(versions, Style::States, steps), vec(0..16u8, 2..5), changes).prop_map(|(room, after, changes)| StatesPlan {
        room,
        after,
        changes,
    })
}
