//! Which events a server may see.

use std::{collections::BTreeMap, sync::Arc};

use ravel_core::{
    event::{Membership, event_type},
    id::{EventId, RoomId, ServerName, UserId},
    room::Room,
    state::State,
};

use super::{AnsweringError, Homeserver, pdus::Chosen};
use crate::rooms::Visibility;

/// How many memberships are looked at for one answer. A server of which more have to be looked at has many users, and some are mostly
/// in the room.
const MEMBERSHIPS_MAX: usize = 100_000;

/// What may show an event to a server whose users only see what happened while they were there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Presence {
    joined: bool,
    invited: bool,
}

impl Homeserver {
    /// Has those of the events redacted that a server in the room may not see: those that none of its users could see.
    ///
    /// The state after an event counts, as it does for clients, and for memberships also the one before. An outlier is of a state or
    /// an auth chain, which is for all servers in the room.
    ///
    /// Source: client-server API, "Room History Visibility"; server-server API, "Backfilling and retrieving missing events".
    pub(super) async fn hide_from(
        &self,
        origin: &ServerName,
        room_id: &RoomId,
        chosen: &mut [Chosen],
    ) -> Result<(), AnsweringError> {
        let said_by = self
            .rooms
            .read(room_id, |loaded| {
                let room = &loaded.room;
                let said_by = |chosen: &Chosen| said_by(room, &chosen.event_id);
                chosen.iter().map(said_by).collect::<Vec<_>>()
            })
            .await?;
        self.hide_erased(room_id, chosen).await?;
        let mut known: BTreeMap<EventId, Visibility> = BTreeMap::new();
        let mut restricted = Vec::new();
        for (place, said_by) in said_by.into_iter().enumerate() {
            let visibility = match said_by {
                SaidBy::Nobody => Visibility::default(),
                SaidBy::StateNotKnown => Visibility::Joined,
                SaidBy::Event(event_id) => match known.get(&event_id) {
                    Some(visibility) => *visibility,
                    None => {
                        let visibility = self.rooms.visibility_of(room_id, &event_id).await?;
                        known.insert(event_id, visibility);
                        visibility
                    }
                },
            };
            if matches!(visibility, Visibility::Invited | Visibility::Joined) {
                restricted.push((place, visibility));
            }
        }
        if restricted.is_empty() {
            return Ok(());
        }
        let ids: Vec<EventId> = restricted
            .iter()
            .filter_map(|(place, _)| chosen.get(*place).map(|chosen| chosen.event_id.clone()))
            .collect();
        let presences = self.rooms.read(room_id, |loaded| presences(&loaded.room, origin, &ids)).await?;
        for ((place, visibility), presence) in restricted.into_iter().zip(presences) {
            let may_see = presence.joined || (visibility == Visibility::Invited && presence.invited);
            if let Some(chosen) = chosen.get_mut(place) {
                chosen.redacted |= !may_see;
            }
        }
        Ok(())
    }
}

impl Homeserver {
    /// Has the events redacted that were sent by users of ours who wanted to be erased. Servers that had them have them still.
    async fn hide_erased(&self, room_id: &RoomId, chosen: &mut [Chosen]) -> Result<(), AnsweringError> {
        let sender = |room: &Room, event_id: &EventId| room.event(event_id).map(|event| event.sender.clone());
        let senders = self.rooms.look(room_id, |room| {
            let senders = chosen.iter().map(|chosen| sender(room, &chosen.event_id));
            senders.collect::<Vec<Option<UserId>>>()
        });
        let senders = senders.await?;
        let mut erased: BTreeMap<&UserId, bool> = BTreeMap::new();
        for (chosen, sender) in chosen.iter_mut().zip(&senders) {
            let Some(sender) = sender else { continue };
            let is_erased = match erased.get(sender) {
                Some(is_erased) => *is_erased,
                None => self.accounts.is_erased(sender).await?,
            };
            erased.insert(sender, is_erased);
            chosen.redacted |= is_erased;
        }
        Ok(())
    }
}

/// What says who may read an event.
enum SaidBy {
    /// This event of the state.
    Event(EventId),
    /// The state has no such event, or the event is of a state whose place is not known.
    Nobody,
    StateNotKnown,
}

fn said_by(room: &Room, event_id: &EventId) -> SaidBy {
    if room.is_outlier(event_id) {
        return if room.state_event(event_id).is_some() { SaidBy::Nobody } else { SaidBy::StateNotKnown };
    }
    match room.state_after(event_id).map(|state| state.get(event_type::HISTORY_VISIBILITY, "")) {
        Some(Some(event_id)) => SaidBy::Event(event_id),
        Some(None) => SaidBy::Nobody,
        None => SaidBy::StateNotKnown,
    }
}

/// Returns for each event whether users of a server were there. Costs what the current state holds, and for each event with other
/// states than the one before it a look-up for each of the server's users, until one is found that was there.
fn presences(room: &Room, server: &ServerName, events: &[EventId]) -> Vec<Presence> {
    let members = room.current_state().iter().filter(|(key, _)| *key.event_type == *event_type::MEMBER);
    let users: Vec<Arc<str>> = members.map(|(key, _)| key.state_key).filter(|user| is_of(user, server)).collect();
    let mut looks_left = MEMBERSHIPS_MAX;
    let mut of_last: Option<([State<'_>; 2], Presence)> = None;
    let mut presences = Vec::with_capacity(events.len());
    for event_id in events {
        let states = room.state_before(event_id).zip(room.state_after(event_id));
        let Some((before, after)) = states else {
            presences.push(Presence::default());
            continue;
        };
        let is_same = |known: &State<'_>, state: State<'_>| known.map().is_same(state.map());
        let same = of_last.filter(|([of_before, of_after], _)| is_same(of_before, before) && is_same(of_after, after));
        let presence = match same {
            Some((_, presence)) => presence,
            None => presence_in(room, [before, after], &users, &mut looks_left),
        };
        of_last = Some(([before, after], presence));
        presences.push(presence);
    }
    presences
}

fn is_of(user: &str, server: &ServerName) -> bool {
    user.split_once(':').is_some_and(|(_, of)| of == server.as_str())
}

fn presence_in(room: &Room, states: [State<'_>; 2], users: &[Arc<str>], looks_left: &mut usize) -> Presence {
    let mut presence = Presence::default();
    for user in users.iter().take(*looks_left) {
        *looks_left = looks_left.saturating_sub(1);
        for state in states {
            let member = state.get(event_type::MEMBER, user);
            match member.and_then(|event_id| room.event(&event_id)?.membership()) {
                Some(Membership::Join) => return Presence { joined: true, ..presence },
                Some(Membership::Invite) => presence.invited = true,
                _ => {}
            }
        }
    }
    presence
}
