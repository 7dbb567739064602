//! Spaces as other servers see them.

use std::sync::Arc;

use ravel_core::{
    event::{Membership, event_type},
    id::{RoomId, ServerName, UserId},
    room::Room,
};
use ruma::{
    events::space::child::HierarchySpaceChildEvent,
    room::{JoinRuleSummary, RoomSummary},
    serde::Raw,
};

use super::{AnsweringError, Homeserver};

/// The most children that are told of: each may be a room that has to be loaded.
pub const CHILDREN_MAX: usize = 100;

/// A space and its children.
#[derive(Clone, Debug)]
pub struct Hierarchy {
    /// What it is.
    pub room: Arc<RoomSummary>,
    /// The events that name its children.
    pub children_state: Vec<Raw<HierarchySpaceChildEvent>>,
    /// Those children that the asking server could join or read.
    pub children: Vec<Arc<RoomSummary>>,
    /// Those that it could not.
    pub inaccessible_children: Vec<RoomId>,
}

impl Homeserver {
    /// Returns a space, or a room without children, and what of its children a server could join or read. Children that are not here
    /// are left out, as are those after the first [`CHILDREN_MAX`].
    ///
    /// Source: server-server API, "GET /_matrix/federation/v1/hierarchy/{roomId}".
    ///
    /// # Errors
    ///
    /// `NoSuchRoom` also if the server could neither join nor read it.
    pub async fn answer_hierarchy(
        &self,
        origin: &ServerName,
        room_id: &RoomId,
        suggested_only: bool,
    ) -> Result<Hierarchy, AnsweringError> {
        let Some(room) = self.summary_for(origin, room_id).await?.and_then(Result::ok) else {
            return Err(AnsweringError::NoSuchRoom);
        };
        let mut hierarchy =
            Hierarchy { room, children_state: Vec::new(), children: Vec::new(), inaccessible_children: Vec::new() };
        let children = self.rooms.space_children(room_id).await?;
        for child in children.into_iter().filter(|child| child.is_suggested || !suggested_only).take(CHILDREN_MAX) {
            hierarchy.children_state.push(child.event);
            match self.summary_for(origin, &child.room_id).await? {
                Some(Ok(summary)) => hierarchy.children.push(summary),
                Some(Err(Inaccessible)) => hierarchy.inaccessible_children.push(child.room_id),
                None => {}
            }
        }
        Ok(hierarchy)
    }

    /// Returns the summary of a room for a server; `None` if nobody of ours is in it.
    async fn summary_for(
        &self,
        origin: &ServerName,
        room_id: &RoomId,
    ) -> Result<Option<Result<Arc<RoomSummary>, Inaccessible>>, AnsweringError> {
        if !self.rooms.is_resident(room_id).await? {
            return Ok(None);
        }
        let summary = self.rooms.summary(room_id).await?;
        let is_accessible = self.is_accessible(origin, room_id, &summary).await?;
        Ok(Some(if is_accessible { Ok(summary) } else { Err(Inaccessible) }))
    }

    /// Whether some user of a server could join a room or read it.
    async fn is_accessible(
        &self,
        origin: &ServerName,
        room_id: &RoomId,
        summary: &RoomSummary,
    ) -> Result<bool, AnsweringError> {
        if !self.rooms.acl_allows(room_id, origin).await? {
            return Ok(false);
        }
        if self.rooms.has_server(room_id, origin).await? {
            return Ok(true);
        }
        if !self.rooms.federates(room_id).await? {
            return Ok(false);
        }
        if summary.world_readable || self.rooms.look(room_id, |room| is_invited(room, origin)).await? {
            return Ok(true);
        }
        let allowed = match &summary.join_rule {
            JoinRuleSummary::Public | JoinRuleSummary::Knock | JoinRuleSummary::KnockRestricted(_) => return Ok(true),
            JoinRuleSummary::Restricted(restricted) => &restricted.allowed_room_ids,
            _ => return Ok(false),
        };
        for room_id in allowed {
            let Ok(room_id) = RoomId::parse(room_id.as_str()) else { continue };
            if self.rooms.is_resident(&room_id).await? && self.rooms.has_server(&room_id, origin).await? {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// The server could neither join the room nor read it.
struct Inaccessible;

/// Whether a user of a server is invited. O(n) for n entries of the state.
fn is_invited(room: &Room, server: &ServerName) -> bool {
    let state = room.current_state();
    let mut members = state.iter().filter(|(key, _)| *key.event_type == *event_type::MEMBER);
    members.any(|(key, event_id)| {
        let is_of_server = UserId::parse(&key.state_key).is_ok_and(|user| user.server_name() == server.as_str());
        is_of_server && room.event(&event_id).and_then(|event| event.membership()) == Some(Membership::Invite)
    })
}
