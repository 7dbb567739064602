//! Rule 5: who may change whose membership.

use super::{AuthState, MemberRule, Refusal, membership, power::Levels, third_party_invite};
use crate::{
    event::{JoinRule, Membership, NamedLevel},
    graph::{EventGraph, EventView, KeyIndex, NameIndex},
    id::UserId,
};

/// Rule 5, without 5.2, which depends on no state.
pub(super) fn check<'g>(
    event: EventView<'g>,
    create: EventView<'g>,
    state: &mut impl AuthState<'g>,
) -> Result<(), Refusal> {
    let graph = event.graph();
    // 5.1. If there is no state_key property, or no membership property in content, reject.
    let (Some(key), Some(target)) = (event.key(), event.state_key()) else { return Err(MemberRule::NoStateKey.into()) };
    let Some(membership) = event.membership() else { return Err(MemberRule::NoMembership.into()) };
    if !event.state_key_is_user() {
        return Err(MemberRule::TargetNotAUser { state_key: graph.name(target).into() }.into());
    }
    let mut change = Change { graph, event, key, target, create, state };
    match membership {
        Membership::Join => change.check_join(),
        Membership::Invite => change.check_invite(),
        Membership::Leave => change.check_leave(),
        Membership::Ban => change.check_ban(),
        Membership::Knock if graph.rules().knock_join_rule => change.check_knock(),
        // 5.8. Otherwise, the membership is unknown. Reject.
        Membership::Knock | Membership::Unknown => Err(MemberRule::UnknownMembership.into()),
    }
}

/// A member event and what it is checked against.
struct Change<'g, 's, S> {
    graph: &'g EventGraph,
    event: EventView<'g>,
    /// The key of the event, which is the target's membership.
    key: KeyIndex,
    target: NameIndex,
    create: EventView<'g>,
    state: &'s mut S,
}

impl<'g, S: AuthState<'g>> Change<'g, '_, S> {
    /// Rule 5.3.
    fn check_join(&mut self) -> Result<(), Refusal> {
        // 5.3.1. If the only previous event is an m.room.create and the state_key is the creator, allow. The sender is not
        // asked about.
        let extra = self.event.member_extra();
        if extra.and_then(|extra| extra.follows_create) == Some(self.create.index())
            && self.create.create().and_then(|create| create.creator) == Some(self.target)
        {
            return Ok(());
        }
        // 5.3.2. If the sender does not match state_key, reject.
        if !self.event.is_of_its_sender() {
            return Err(MemberRule::JoinForAnother { sender: self.sender(), target: self.target_id() }.into());
        }
        // 5.3.3. If the sender is banned, reject.
        let membership = self.sender_membership();
        if membership == Some(Membership::Ban) {
            return Err(MemberRule::JoinWhileBanned { sender: self.sender() }.into());
        }
        let invited_or_joined = matches!(membership, Some(Membership::Invite | Membership::Join));
        match self.join_rule() {
            // 5.3.4. If the join_rule is invite or knock then allow if membership state is invite or join.
            JoinRule::Invite | JoinRule::Knock if invited_or_joined => Ok(()),
            JoinRule::Invite | JoinRule::Knock => Err(MemberRule::JoinNotInvited { sender: self.sender() }.into()),
            // 5.3.5. If the join_rule is restricted or knock_restricted:
            // 5.3.5.1. If membership state is join or invite, allow.
            JoinRule::Restricted | JoinRule::KnockRestricted if invited_or_joined => Ok(()),
            JoinRule::Restricted | JoinRule::KnockRestricted => self.check_authorizing_user(),
            // 5.3.6. If the join_rule is public, allow.
            JoinRule::Public => Ok(()),
            // 5.3.7. Otherwise, reject.
            JoinRule::Other => Err(MemberRule::JoinRuleForbids { sender: self.sender() }.into()),
        }
    }

    /// Rule 5.3.5.2: if `join_authorised_via_users_server` is not a user with sufficient permission to invite other users
    /// or is not a joined member of the room, reject. 5.3.5.3: otherwise, allow.
    fn check_authorizing_user(&mut self) -> Result<(), Refusal> {
        let Some(user) = self.event.member_extra().and_then(|extra| extra.authorizing_user) else {
            return Err(MemberRule::NoAuthorizingUser { sender: self.sender() }.into());
        };
        let graph = self.graph;
        if membership(graph, self.state, user) != Some(Membership::Join) {
            return Err(MemberRule::AuthorizingUserNotJoined { user: graph.name(user).into() }.into());
        }
        let levels = self.levels()?;
        let (user_level, invite_level) = (levels.user(user), levels.named(NamedLevel::Invite));
        if user_level < invite_level {
            let user = graph.name(user).into();
            return Err(MemberRule::AuthorizingUserCannotInvite { user, user_level, invite_level }.into());
        }
        Ok(())
    }

    /// Rule 5.4.
    fn check_invite(&mut self) -> Result<(), Refusal> {
        // 5.4.1. If content has a third_party_invite property.
        if let Some(extra) = self.event.member_extra()
            && let Some((third_party_invite, token_key)) = &extra.third_party_invite
        {
            let target_membership = self.target_membership();
            let invite = token_key.and_then(|key| self.state.event(key));
            let checked =
                third_party_invite::check(self.event, self.target, target_membership, third_party_invite, invite);
            return checked.map_err(|rule| MemberRule::ThirdPartyInvite(rule).into());
        }
        // 5.4.2. If the sender's current membership state is not join, reject.
        if self.sender_membership() != Some(Membership::Join) {
            return Err(MemberRule::InviteSenderNotJoined { sender: self.sender() }.into());
        }
        // 5.4.3. If target user's current membership state is join or ban, reject.
        match self.target_membership() {
            Some(Membership::Join) => return Err(MemberRule::InviteOfJoined { target: self.target_id() }.into()),
            Some(Membership::Ban) => return Err(MemberRule::InviteOfBanned { target: self.target_id() }.into()),
            _ => {}
        }
        // 5.4.4. If the sender's power level is greater than or equal to the invite level, allow. 5.4.5. Otherwise, reject.
        let levels = self.levels()?;
        let (sender_level, invite_level) = (levels.user(self.event.sender()), levels.named(NamedLevel::Invite));
        if sender_level >= invite_level {
            return Ok(());
        }
        Err(MemberRule::InviteLevel { sender: self.sender(), sender_level, invite_level }.into())
    }

    /// Rule 5.5: leaving, refusing an invite, taking back a knock, kicking, unbanning.
    fn check_leave(&mut self) -> Result<(), Refusal> {
        let sender_membership = self.sender_membership();
        // 5.5.1. If the sender matches state_key, allow if and only if that user's current membership state is invite,
        // join, or knock (version 7 and later).
        if self.event.is_of_its_sender() {
            return match sender_membership {
                Some(Membership::Invite | Membership::Join) => Ok(()),
                Some(Membership::Knock) if self.graph.rules().knock_join_rule => Ok(()),
                _ => Err(MemberRule::LeaveOfAbsent { sender: self.sender() }.into()),
            };
        }
        // 5.5.2. If the sender's current membership state is not join, reject.
        if sender_membership != Some(Membership::Join) {
            return Err(MemberRule::KickSenderNotJoined { sender: self.sender() }.into());
        }
        let levels = self.levels()?;
        let sender_level = levels.user(self.event.sender());
        // 5.5.3. If the target user's current membership state is ban, and the sender's power level is less than the ban
        // level, reject.
        let ban_level = levels.named(NamedLevel::Ban);
        if self.target_membership() == Some(Membership::Ban) && sender_level < ban_level {
            return Err(MemberRule::UnbanLevel { sender: self.sender(), sender_level, ban_level }.into());
        }
        // 5.5.4. If the sender's power level is greater than or equal to the kick level, and the target user's power level
        // is less than the sender's power level, allow. Whether the target was ever in the room is not asked.
        // 5.5.5. Otherwise, reject.
        let kick_level = levels.named(NamedLevel::Kick);
        if sender_level < kick_level {
            return Err(MemberRule::KickLevel { sender: self.sender(), sender_level, kick_level }.into());
        }
        let target_level = levels.user(self.target);
        if target_level >= sender_level {
            let target = self.target_id();
            return Err(MemberRule::KickOfEqual { sender: self.sender(), target, sender_level, target_level }.into());
        }
        Ok(())
    }

    /// Rule 5.6.
    fn check_ban(&mut self) -> Result<(), Refusal> {
        // 5.6.1. If the sender's current membership state is not join, reject.
        if self.sender_membership() != Some(Membership::Join) {
            return Err(MemberRule::BanSenderNotJoined { sender: self.sender() }.into());
        }
        // 5.6.2. If the sender's power level is greater than or equal to the ban level, and the target user's power level
        // is less than the sender's power level, allow. 5.6.3. Otherwise, reject.
        let levels = self.levels()?;
        let (sender_level, ban_level) = (levels.user(self.event.sender()), levels.named(NamedLevel::Ban));
        if sender_level < ban_level {
            return Err(MemberRule::BanLevel { sender: self.sender(), sender_level, ban_level }.into());
        }
        let target_level = levels.user(self.target);
        if target_level >= sender_level {
            let target = self.target_id();
            return Err(MemberRule::BanOfEqual { sender: self.sender(), target, sender_level, target_level }.into());
        }
        Ok(())
    }

    /// Rule 5.7, version 7 and later.
    fn check_knock(&mut self) -> Result<(), Refusal> {
        // 5.7.1. If the join_rule is anything other than knock or knock_restricted, reject.
        if !matches!(self.join_rule(), JoinRule::Knock | JoinRule::KnockRestricted) {
            return Err(MemberRule::KnockJoinRule { sender: self.sender() }.into());
        }
        // 5.7.2. If sender does not match state_key, reject.
        if !self.event.is_of_its_sender() {
            return Err(MemberRule::KnockForAnother { sender: self.sender(), target: self.target_id() }.into());
        }
        // 5.7.3. If the sender's current membership is not ban, invite, or join, allow. 5.7.4. Otherwise, reject.
        match self.sender_membership() {
            Some(Membership::Ban | Membership::Invite | Membership::Join) => {
                Err(MemberRule::KnockMembership { sender: self.sender() }.into())
            }
            _ => Ok(()),
        }
    }

    fn sender(&self) -> UserId {
        self.event.sender_id()
    }

    fn target_id(&self) -> UserId {
        self.graph.user_id(self.target)
    }

    fn sender_membership(&mut self) -> Option<Membership> {
        membership(self.graph, self.state, self.event.sender())
    }

    fn target_membership(&mut self) -> Option<Membership> {
        self.state.event(self.key)?.membership()
    }

    fn levels(&mut self) -> Result<Levels<'g>, Refusal> {
        Levels::of_state(self.create, self.state)
    }

    /// Returns the join rule of the room. One that the room version does not know lets nobody in.
    fn join_rule(&mut self) -> JoinRule {
        let rule = match self.state.event(KeyIndex::JOIN_RULES) {
            None => JoinRule::Invite,
            Some(event) => event.join_rule().unwrap_or(JoinRule::Other),
        };
        let rules = self.graph.rules();
        let known = match rule {
            JoinRule::Public | JoinRule::Invite | JoinRule::Other => true,
            JoinRule::Knock => rules.knock_join_rule,
            JoinRule::Restricted => rules.restricted_join_rule,
            JoinRule::KnockRestricted => rules.knock_restricted_join_rule,
        };
        if known { rule } else { JoinRule::Other }
    }
}
