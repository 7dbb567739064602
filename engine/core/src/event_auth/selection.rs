//! Which state events authorize an event.

use crate::{
    event::{Content, Event, Membership, StateKey, ThirdPartyInvite, event_type},
    room_version::RoomVersionRules,
};

/// Returns the keys of the state events that authorize an event: those of them that are in the state before it are its
/// `auth_events`.
///
/// Without duplicates, in the order of the text: create (not in room version 12), power levels, the sender's membership,
/// the target's, join rules, third-party invite, the authorizing user's membership; so at most six. Empty for
/// `m.room.create`. In room version 12 the rules need the create event as well, which the room id names.
///
/// Source: server-server API, "Auth events selection".
pub fn auth_types_for_event(rules: &RoomVersionRules, event: &Event) -> Vec<StateKey> {
    auth_keys_for_event(rules, event).map(|(event_type, state_key)| StateKey::new(event_type, state_key)).collect()
}

/// As [`auth_types_for_event`], borrowed from the event.
pub fn auth_keys_for_event<'e>(
    rules: &RoomVersionRules,
    event: &'e Event,
) -> impl Iterator<Item = (&'e str, &'e str)> + use<'e> {
    let member = match &event.content {
        Content::Member(member) if &*event.event_type == event_type::MEMBER => Some(member),
        _ => None,
    };
    let membership = member.and_then(|member| member.membership);
    let sender = event.sender.as_str();
    let target = event.state_key.as_deref().filter(|_| &*event.event_type == event_type::MEMBER);

    let token = member.and_then(|member| match &member.third_party_invite {
        Some(ThirdPartyInvite::Signed(signed)) if membership == Some(Membership::Invite) => Some(&*signed.token),
        _ => None,
    });
    let authorizing_user = member
        .and_then(|member| member.join_authorised_via_users_server.as_deref())
        .filter(|_| rules.restricted_join_rule && membership == Some(Membership::Join));
    let join_rules = matches!(membership, Some(Membership::Join | Membership::Invite | Membership::Knock));

    let selected = [
        (!rules.room_id_is_create_hash).then_some((event_type::CREATE, "")),
        Some((event_type::POWER_LEVELS, "")),
        Some((event_type::MEMBER, sender)),
        target.filter(|target| *target != sender).map(|target| (event_type::MEMBER, target)),
        join_rules.then_some((event_type::JOIN_RULES, "")),
        token.map(|token| (event_type::THIRD_PARTY_INVITE, token)),
        authorizing_user.filter(|user| *user != sender && Some(*user) != target).map(|user| (event_type::MEMBER, user)),
    ];
    let is_create = &*event.event_type == event_type::CREATE;
    selected.into_iter().flatten().filter(move |_| !is_create)
}
