//! The auth events of drafted events, right or flawed.

use ravel_core::{
    event::{Event, StateKey, event_type},
    event_auth::auth_types_for_event,
};

use super::{Draft, State};
use crate::plan::Flaw;

/// The most auth events that an event may have.
const COUNT_MAX: usize = 10;

/// Whether an event with this flaw is rejected whatever the state.
pub(super) fn is_always_rejected(flaw: Flaw) -> bool {
    matches!(flaw, Flaw::AuthEventSurplus(_) | Flaw::AuthEventTwice(_) | Flaw::CreateMissing | Flaw::Oversized)
}

impl Draft {
    /// Returns what the event should cite in this state, but for the flaw.
    pub(super) fn auth_events(&self, event: &Event, state: &State, flaw: Flaw) -> Vec<usize> {
        let keys = auth_types_for_event(self.rules(), event);
        let mut cited: Vec<usize> = keys.iter().filter_map(|key| state.get(key).copied()).collect();
        let is_create = |place: &usize| self.events[*place].event.is_state(event_type::CREATE, "");
        let others: Vec<usize> = (0..cited.len()).filter(|index| !is_create(&cited[*index])).collect();
        let pick = |number: u8| others.get(usize::from(number).checked_rem(others.len())?).copied();
        match flaw {
            Flaw::AuthEventMissing(number) => {
                if let Some(index) = pick(number) {
                    cited.remove(index);
                }
            }
            Flaw::AuthEventsMissing => cited.retain(is_create),
            Flaw::AuthEventOld(number) => {
                if let Some(index) = pick(number) {
                    cited[index] = self.another_of_key(cited[index], number);
                }
            }
            Flaw::AuthEventTwice(number) => {
                if let Some(index) = pick(number) {
                    cited.push(self.another_of_key(cited[index], number));
                }
            }
            Flaw::AuthEventSurplus(number) => cited.extend(self.surplus(&cited, number)),
            Flaw::CreateMissing => cited.retain(|place| !is_create(place)),
            Flaw::None | Flaw::Depth(_) | Flaw::ContentHash | Flaw::Oversized => {}
        }
        cited.truncate(COUNT_MAX);
        cited
    }

    fn key_of(&self, place: usize) -> Option<StateKey> {
        self.events[place].event.state_key()
    }

    /// Returns one of the events that have the same key, perhaps the same event.
    pub(super) fn another_of_key(&self, place: usize, number: u8) -> usize {
        let same: Vec<usize> =
            (0..self.events.len()).filter(|other| self.key_of(*other) == self.key_of(place)).collect();
        same[usize::from(number / 4) % same.len()]
    }

    fn surplus(&self, cited: &[usize], number: u8) -> Option<usize> {
        let candidate = usize::from(number) % self.events.len();
        let key = self.key_of(candidate)?;
        let is_new = cited.iter().all(|place| self.key_of(*place).as_ref() != Some(&key));
        is_new.then_some(candidate)
    }
}
