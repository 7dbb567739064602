//! As a resident: who may join a restricted room, and who lets it in.
//!
//! Source: server-server API, "Restricted rooms"; client-server API, "Restricted rooms".

use ravel_core::{
    canonical_json::{CanonicalJsonObject, get_array, get_str},
    event::{Content, Event, JoinRule, Membership, NamedLevel, event_type},
    event_auth::sender_power_level,
    id::{RoomId, ServerName, UserId},
    room::Room,
};

use super::ResidentError;
use crate::homeserver::Homeserver;

/// The most conditions of a room that are looked at.
const CONDITIONS_MAX: usize = 100;

impl Homeserver {
    /// Returns the user of this server that lets a user join a restricted room; `None` if nobody has to, since the room is not
    /// restricted or the user is invited to it.
    ///
    /// # Errors
    ///
    /// `NoConditionMet`, `UnableToAuthoriseJoin`, `UnableToGrantJoin`.
    pub(super) async fn authorising_user(
        &self,
        room_id: &RoomId,
        user: &UserId,
    ) -> Result<Option<UserId>, ResidentError> {
        if !self.rooms.look(room_id, |room| needs_authorisation(room, user)).await? {
            return Ok(None);
        }
        let join_rules = self.rooms.state_content(room_id, event_type::JOIN_RULES, "").await?.unwrap_or_default();
        if !self.meets_condition(&join_rules, user).await? {
            return Err(ResidentError::NoConditionMet);
        }
        let who_can = self.rooms.look(room_id, |room| who_can_invite(room, &self.server_name)).await?;
        who_can.map(Some).ok_or(ResidentError::UnableToGrantJoin)
    }

    /// Whether a user is in one of the rooms that let it in.
    ///
    /// # Errors
    ///
    /// `UnableToAuthoriseJoin` if it is in none that this server is in, and there are others.
    async fn meets_condition(&self, join_rules: &CanonicalJsonObject, user: &UserId) -> Result<bool, ResidentError> {
        let conditions = get_array(join_rules, "allow").unwrap_or_default().iter();
        let rooms = conditions.take(CONDITIONS_MAX).filter_map(|condition| {
            let condition = condition.as_object()?;
            let is_membership = get_str(condition, "type") == Some("m.room_membership");
            RoomId::parse(get_str(condition, "room_id").filter(|_| is_membership)?).ok()
        });
        let mut all_known = true;
        for room_id in rooms {
            if !self.rooms.is_resident(&room_id).await? {
                all_known = false;
            } else if self.rooms.membership(&room_id, user).await? == Some(Membership::Join) {
                return Ok(true);
            }
        }
        if all_known { Ok(false) } else { Err(ResidentError::UnableToAuthoriseJoin) }
    }
}

/// Whether a user can join a room only if somebody of the room signs for it.
pub(super) fn needs_authorisation(room: &Room, user: &UserId) -> bool {
    let rules = room.rules();
    let is_restricted = match held(room, event_type::JOIN_RULES, "").map(|event| &event.content) {
        Some(Content::JoinRules(JoinRule::Restricted)) => rules.restricted_join_rule,
        Some(Content::JoinRules(JoinRule::KnockRestricted)) => rules.knock_restricted_join_rule,
        _ => false,
    };
    let membership = held(room, event_type::MEMBER, user.as_str()).and_then(Event::membership);
    is_restricted && !matches!(membership, Some(Membership::Join | Membership::Invite | Membership::Ban))
}

/// Returns a user of a server who has joined a room and may invite others, the first by id of those with the most power.
fn who_can_invite(room: &Room, server: &ServerName) -> Option<UserId> {
    let create = held(room, event_type::CREATE, "")?;
    let levels = held(room, event_type::POWER_LEVELS, "");
    let needed = match levels.map(|event| &event.content) {
        Some(Content::PowerLevels(Ok(levels))) => levels.named(NamedLevel::Invite),
        _ => NamedLevel::Invite.default_level(),
    };
    let state = room.current_state();
    let members = state.iter().filter(|(key, _)| *key.event_type == *event_type::MEMBER);
    let users = members.filter_map(|(key, event_id)| {
        let user = UserId::parse(&key.state_key).ok().filter(|user| user.server_name() == server.as_str())?;
        let has_joined = room.event(&event_id)?.membership() == Some(Membership::Join);
        has_joined.then_some(user)
    });
    let powers = users.map(|user| (sender_power_level(room.rules(), create, levels, user.as_str()), user));
    let able = powers.filter(|(power, _)| *power >= needed);
    able.max_by(|(power, user), (other, other_user)| power.cmp(other).then_with(|| other_user.cmp(user)))
        .map(|(_, user)| user)
}

/// Returns the event that holds a key of the current state.
fn held<'r>(room: &'r Room, event_type: &str, state_key: &str) -> Option<&'r Event> {
    room.state_event(&room.current_state().get(event_type, state_key)?).map(|event| &**event)
}
