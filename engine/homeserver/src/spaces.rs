//! Spaces: rooms whose state names other rooms.
//!
//! Source: client-server API, "Spaces".

mod tree;

use ravel_core::id::{EventId, RoomId};
use ruma::{events::space::child::HierarchySpaceChildEvent, room::RoomType, serde::Raw};
use serde_json::value::to_raw_value;

pub use self::tree::{TREE_ROOMS_MAX, Tree, TreeRequest, TreeRoom};
use crate::rooms::{ClientEvent, Rooms, RoomsError};

/// The most children of a space that are looked at.
pub const CHILDREN_MAX: usize = 1_000;

/// A room that a space names.
#[derive(Clone, Debug)]
pub struct SpaceChild {
    /// The room.
    pub room_id: RoomId,
    /// Whether the space suggests it.
    pub is_suggested: bool,
    /// The event that names it, as a stripped state event with `origin_server_ts`.
    pub event: Raw<HierarchySpaceChildEvent>,
}

const SPACE_CHILD: &str = "m.space.child";

impl Rooms {
    /// Returns the rooms that a space names in its current state, in the order that clients show; none if the room is no space.
    ///
    /// A child without servers that could be asked for it, or with a malformed event, is none. Of more than [`CHILDREN_MAX`] some are
    /// left out.
    ///
    /// Source: client-server API, "`m.space.child` relationship" and "Ordering of children within a space".
    ///
    /// # Errors
    ///
    /// `NoSuchRoom`, and when the log can't be read.
    pub async fn space_children(&self, room_id: &RoomId) -> Result<Vec<SpaceChild>, RoomsError> {
        if self.summary(room_id).await?.room_type != Some(RoomType::Space) {
            return Ok(Vec::new());
        }
        let ids = self.look(room_id, |room| {
            let state = room.current_state();
            let children =
                state.iter().filter(|(key, _)| *key.event_type == *SPACE_CHILD).map(|(_, event_id)| event_id);
            children.take(CHILDREN_MAX).collect::<Vec<EventId>>()
        });
        let events = self.events_by_id(room_id, ids.await?).await?;
        let mut children: Vec<_> = events.iter().filter_map(child).collect();
        children.sort_by(|(a, _), (b, _)| a.cmp(b));
        Ok(children.into_iter().map(|(_, child)| child).collect())
    }
}

/// Returns a child, with what it is sorted by.
fn child(event: &ClientEvent) -> Option<(HierarchySpaceChildEvent, SpaceChild)> {
    let mut fields = event.json.clone();
    fields.retain(|field, _| ["content", "origin_server_ts", "sender", "state_key", "type"].contains(&field.as_str()));
    let raw: Raw<HierarchySpaceChildEvent> = Raw::from_json(to_raw_value(&fields).ok()?);
    let read = raw.deserialize().ok().filter(|read| !read.content.via.is_empty())?;
    let room_id = RoomId::parse(read.state_key.as_str()).ok()?;
    let is_suggested = read.content.suggested;
    Some((read, SpaceChild { room_id, is_suggested, event: raw }))
}
