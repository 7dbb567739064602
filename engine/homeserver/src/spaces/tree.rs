//! A space, its children, theirs and so on, as a user sees them.

use std::{collections::BTreeSet, sync::Arc};

use ravel_core::{
    event::Membership,
    id::{RoomId, UserId},
};
use ruma::{
    events::space::child::HierarchySpaceChildEvent,
    room::{JoinRuleSummary, RoomSummary},
    serde::Raw,
};

use crate::rooms::{Rooms, RoomsError};

/// What part of a space is asked for.
#[derive(Clone, Copy, Debug, Default)]
pub struct TreeRequest {
    /// How many rooms come before it.
    pub from: usize,
    /// The most rooms.
    pub limit: usize,
    /// How deep below the space; without, as deep as it goes.
    pub depth_max: Option<usize>,
    /// Only children that their spaces suggest.
    pub suggested_only: bool,
}

/// A room of a space.
#[derive(Clone, Debug)]
pub struct TreeRoom {
    /// What it is.
    pub summary: Arc<RoomSummary>,
    /// The events that name its children.
    pub children_state: Vec<Raw<HierarchySpaceChildEvent>>,
}

/// A part of a space.
#[derive(Clone, Debug, Default)]
pub struct Tree {
    /// The space and rooms below it, each before its children.
    pub rooms: Vec<TreeRoom>,
    /// How many rooms come before the next part; `None` if there is none.
    pub next: Option<usize>,
}

/// The most rooms of one part.
pub const TREE_ROOMS_MAX: usize = 100;

/// The most rooms of a space that are looked at.
const LOOKED_AT_MAX: usize = 5_000;

impl Rooms {
    /// Returns a part of a space: the rooms that this server is in and the user could enter or read, depth first, each once.
    ///
    /// Costs a look at all the rooms before the part, too.
    ///
    /// Source: client-server API, "GET /_matrix/client/v1/rooms/{roomId}/hierarchy".
    ///
    /// # Errors
    ///
    /// `NotInRoom` if the user may not see the space itself, or nobody here is in it.
    pub async fn space_tree(&self, user: &UserId, root: &RoomId, request: TreeRequest) -> Result<Tree, RoomsError> {
        let limit = request.limit.clamp(1, TREE_ROOMS_MAX);
        let (mut seen, mut looked_at, mut passed) = (BTreeSet::new(), 0_usize, 0_usize);
        let mut tree = Tree::default();
        // What is still to be looked at, the next one last, with its depth.
        let mut left = vec![(root.clone(), 0_usize)];
        while let Some((room_id, depth)) = left.pop() {
            if !seen.insert(room_id.clone()) || looked_at >= LOOKED_AT_MAX {
                continue;
            }
            looked_at = looked_at.saturating_add(1);
            let Some(summary) = self.summary_for_user(user, &room_id).await? else {
                if room_id == *root {
                    return Err(RoomsError::NotInRoom);
                }
                continue;
            };
            if tree.rooms.len() >= limit {
                tree.next = Some(passed);
                return Ok(tree);
            }
            let children = self.space_children(&room_id).await?.into_iter();
            let children: Vec<_> = children.filter(|child| child.is_suggested || !request.suggested_only).collect();
            if request.depth_max.is_none_or(|depth_max| depth < depth_max) {
                left.extend(children.iter().rev().map(|child| (child.room_id.clone(), depth.saturating_add(1))));
            }
            if passed >= request.from {
                let children_state = children.into_iter().map(|child| child.event).collect();
                tree.rooms.push(TreeRoom { summary, children_state });
            }
            passed = passed.saturating_add(1);
        }
        Ok(tree)
    }

    /// Returns the summary of a room, if the user is in it or invited, could enter or read it.
    async fn summary_for_user(&self, user: &UserId, room_id: &RoomId) -> Result<Option<Arc<RoomSummary>>, RoomsError> {
        if !self.is_known(room_id) || !self.is_resident(room_id).await? {
            return Ok(None);
        }
        let summary = self.summary(room_id).await?;
        let is_there = matches!(self.membership(room_id, user).await?, Some(Membership::Join | Membership::Invite));
        let allowed = match &summary.join_rule {
            _ if is_there || summary.world_readable => return Ok(Some(summary)),
            JoinRuleSummary::Public | JoinRuleSummary::Knock | JoinRuleSummary::KnockRestricted(_) => {
                return Ok(Some(summary));
            }
            JoinRuleSummary::Restricted(restricted) => &restricted.allowed_room_ids,
            _ => return Ok(None),
        };
        let joined = self.joined_rooms(user);
        let is_allowed = joined.iter().any(|room| allowed.iter().any(|allowed| allowed.as_str() == room.as_str()));
        Ok(Some(summary).filter(|_| is_allowed))
    }
}

#[cfg(test)]
mod tests {
    use ravel_core::room_version::RoomVersion;
    use ravel_store::MemoryStore;

    use super::*;
    use crate::rooms::{
        Preset, SendEvent,
        tests::{member, object, open, user, wanted},
    };

    async fn room(rooms: &Rooms, is_space: bool, preset: Preset) -> RoomId {
        let mut wanted = wanted(RoomVersion::V11, preset);
        if is_space {
            wanted.creation_content = object(r#"{"type":"m.space"}"#);
        }
        rooms.create(&user("alice"), wanted).await.unwrap()
    }

    async fn add(rooms: &Rooms, space: &RoomId, child: &RoomId, order: &str, suggested: bool) {
        let content = object(&format!(r#"{{"order":"{order}","suggested":{suggested},"via":["a"]}}"#));
        let (event_type, state_key) = ("m.space.child".to_owned(), Some(child.to_string()));
        rooms.send(space, &user("alice"), SendEvent { event_type, state_key, content, redacts: None }).await.unwrap();
    }

    #[tokio::test]
    async fn sc_107_a_space_shows_the_rooms_that_a_user_could_enter() {
        let rooms = open(&MemoryStore::new()).await;
        let (root, below) =
            (room(&rooms, true, Preset::PublicChat).await, room(&rooms, true, Preset::PublicChat).await);
        let (open, hidden) =
            (room(&rooms, false, Preset::PublicChat).await, room(&rooms, false, Preset::PrivateChat).await);
        let restricted = room(&rooms, false, Preset::PrivateChat).await;
        let rule =
            format!(r#"{{"join_rule":"restricted","allow":[{{"type":"m.room_membership","room_id":"{below}"}}]}}"#);
        crate::rooms::tests::set(&rooms, &restricted, "alice", "m.room.join_rules", &rule).await.unwrap();
        add(&rooms, &root, &below, "a", true).await;
        add(&rooms, &root, &hidden, "b", false).await;
        add(&rooms, &root, &RoomId::parse("!else:where").unwrap(), "c", false).await;
        add(&rooms, &below, &root, "a", false).await;
        add(&rooms, &below, &open, "b", false).await;
        add(&rooms, &below, &restricted, "c", false).await;
        let tree = async |name: &str, request: TreeRequest| {
            let tree = rooms.space_tree(&user(name), &root, request).await.unwrap();
            let ids = tree.rooms.iter().map(|room| RoomId::parse(room.summary.room_id.as_str()).unwrap());
            (ids.collect::<Vec<_>>(), tree.next)
        };
        let all = TreeRequest { limit: 50, ..TreeRequest::default() };
        let of_alice = vec![root.clone(), below.clone(), open.clone(), restricted.clone(), hidden.clone()];
        assert_eq!(tree("alice", all).await, (of_alice, None));
        assert_eq!(tree("bob", all).await, (vec![root.clone(), below.clone(), open.clone()], None));
        let suggested = TreeRequest { suggested_only: true, ..all };
        assert_eq!(tree("alice", suggested).await.0, [root.clone(), below.clone()]);
        assert_eq!(tree("alice", TreeRequest { depth_max: Some(0), ..all }).await.0, std::slice::from_ref(&root));
        let depth_one = TreeRequest { depth_max: Some(1), ..all };
        assert_eq!(tree("alice", depth_one).await.0, [root.clone(), below.clone(), hidden.clone()]);
        // In parts.
        let (first, next) = tree("alice", TreeRequest { limit: 2, ..all }).await;
        assert_eq!((first, next), (vec![root.clone(), below.clone()], Some(2)));
        let (second, next) = tree("alice", TreeRequest { limit: 3, from: 2, ..all }).await;
        assert_eq!((second, next), (vec![open, restricted.clone(), hidden.clone()], None));
        // Who is in the space that is named may enter the room.
        member(&rooms, &below, "bob", "bob", Membership::Join).await.unwrap();
        assert!(tree("bob", all).await.0.contains(&restricted));
        let refused = rooms.space_tree(&user("bob"), &hidden, all).await;
        assert!(matches!(refused, Err(RoomsError::NotInRoom)));
        let children = rooms.space_tree(&user("alice"), &root, all).await.unwrap().rooms[0].children_state.len();
        assert_eq!(children, 3);
    }
}
