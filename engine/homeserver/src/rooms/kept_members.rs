//! Who of this server is in which room, kept in the log: so that a server that starts need not load every room to know it.
//!
//! What is kept of a room counts as long as the room's current state has the fingerprint that it had then. Of other rooms, those whose
//! state has changed since, it is found out by loading them.

use std::{collections::BTreeMap, sync::Weak, time::Duration};

use bincode::{Decode, Encode};
use ravel_core::{
    event::{Membership, StateKey, event_type},
    id::{EventId, RoomId, ServerName, UserId},
    state::Fingerprint,
};
use ravel_store::{
    Durability,
    log::{EventLog, Fact},
};

use super::{
    LoadedRoom, Rooms, RoomsError,
    members::{LocalMember, LocalMembers, UnsavedRoom, local_members},
};
use crate::{
    fact_kind,
    homeserver::{Homeserver, Parts},
    record::{Record, RecordError, all_facts, decode, encode, key, key_parts},
};

/// How often it is kept. What changed since is found out at the next start, unless the server was stopped in order.
const KEEP_EVERY: Duration = Duration::from_secs(5 * 60);

/// About how many facts are put at once.
const FACTS: usize = 1_000;

/// The membership of a user, with its event.
#[derive(Encode, Decode)]
pub(super) struct KeptMember {
    membership: u8,
    event_id: String,
}

impl Record for KeptMember {
    const VERSION: u8 = 1;
}

/// The state that members were kept for.
#[derive(Encode, Decode)]
struct KeptState {
    fingerprint: [u8; 32],
}

impl Record for KeptState {
    const VERSION: u8 = 1;
}

/// What stands for each membership in a record.
const MEMBERSHIPS: [Membership; 6] =
    [Membership::Join, Membership::Invite, Membership::Leave, Membership::Ban, Membership::Knock, Membership::Unknown];

impl KeptMember {
    pub(super) fn of(member: &LocalMember) -> Self {
        let membership = MEMBERSHIPS.iter().position(|known| *known == member.membership);
        // There are six.
        let membership = membership.and_then(|place| u8::try_from(place).ok()).unwrap_or(u8::MAX);
        Self { membership, event_id: member.event_id.to_string() }
    }

    fn into_member(self) -> Result<LocalMember, RecordError> {
        let membership = MEMBERSHIPS.get(usize::from(self.membership)).copied().ok_or(RecordError::Length)?;
        Ok(LocalMember { membership, event_id: EventId::parse(&self.event_id)? })
    }
}

/// What is kept of a room.
struct Kept {
    state: Fingerprint,
    members: Vec<(UserId, LocalMember)>,
}

impl Rooms {
    /// Keeps who of this server is in which room, as far as it is not kept yet.
    ///
    /// # Errors
    ///
    /// When the log can't be written. It is tried again with the next call.
    pub(crate) async fn keep_members(&self) -> Result<(), RoomsError> {
        let mut unsaved = self.0.members().take_unsaved();
        while !unsaved.is_empty() {
            let (mut facts, mut count) = (Vec::new(), 0);
            for room in &unsaved {
                if facts.len() >= FACTS {
                    break;
                }
                facts.extend(facts_of(room)?);
                count += 1;
            }
            // A room's facts are put all or none.
            if let Err(error) = self.0.log.put_facts(&facts, &[], Durability::Relaxed).await {
                self.0.members().put_back(unsaved);
                return Err(error.into());
            }
            unsaved.drain(..count);
        }
        Ok(())
    }
}

fn facts_of(room: &UnsavedRoom) -> Result<Vec<Fact>, RecordError> {
    let member = |(user, member): &(UserId, Option<LocalMember>)| {
        let value = member.as_ref().map(|member| encode(&KeptMember::of(member))).transpose()?;
        let key = key(&[room.room_id.as_str(), user.localpart()]);
        Ok(Fact { kind: fact_kind::LOCAL_MEMBER, key, value })
    };
    let mut facts = room.members.iter().map(member).collect::<Result<Vec<Fact>, RecordError>>()?;
    let value = Some(encode(&KeptState { fingerprint: room.state.0 })?);
    facts.push(Fact { kind: fact_kind::LOCAL_MEMBERS, key: room.room_id.as_str().to_owned().into(), value });
    Ok(facts)
}

/// Takes note of the users of a server in all rooms of a log. Loads the rooms of which nothing is kept that still counts.
pub(super) async fn load(
    log: &EventLog,
    server_name: &ServerName,
    members: &mut LocalMembers,
) -> Result<(), RoomsError> {
    let mut kept = all(log, server_name).await?;
    for (room_id, _) in log.rooms() {
        let state = log.current_state_fingerprint(&room_id).await?;
        let kept = kept.remove(&room_id);
        match kept {
            Some(kept) if Some(kept.state) == state => members.restore(&room_id, kept.state, kept.members),
            kept => {
                let Some(LoadedRoom { room, .. }) = LoadedRoom::load(log, &room_id).await? else { continue };
                let mut keys = local_members(&room, server_name);
                // Who was a member may be none any more.
                let were = kept.into_iter().flat_map(|kept| kept.members);
                keys.extend(were.map(|(user, _)| StateKey::new(event_type::MEMBER, user.as_str())));
                members.change(&room, &keys, log.len());
            }
        }
    }
    Ok(())
}

async fn all(log: &EventLog, server_name: &ServerName) -> Result<BTreeMap<RoomId, Kept>, RoomsError> {
    let mut kept = BTreeMap::new();
    for fact in all_facts(log, fact_kind::LOCAL_MEMBERS, b"").await? {
        let [room_id] = key_parts(&fact.key)?;
        let room_id = RoomId::parse(room_id).map_err(RecordError::from)?;
        let state = Fingerprint(decode::<KeptState>(&fact.value)?.fingerprint);
        kept.insert(room_id, Kept { state, members: Vec::new() });
    }
    for fact in all_facts(log, fact_kind::LOCAL_MEMBER, b"").await? {
        let [room_id, localpart] = key_parts(&fact.key)?;
        let user = UserId::parse(&format!("@{localpart}:{server_name}")).map_err(RecordError::from)?;
        let room_id = RoomId::parse(room_id).map_err(RecordError::from)?;
        if let Some(kept) = kept.get_mut(&room_id) {
            kept.members.push((user, decode::<KeptMember>(&fact.value)?.into_member()?));
        }
    }
    Ok(kept)
}

impl Homeserver {
    /// Keeps the members of this server's rooms now and then.
    pub(crate) async fn keep_members(parts: Weak<Parts>) {
        loop {
            let Some(server) = Self::upgrade(&parts) else { return };
            if let Err(error) = server.rooms.keep_members().await {
                tracing::error!(error = &error as &dyn std::error::Error, "who is in which room can't be kept");
            }
            let sleep = server.clock.sleep(KEEP_EVERY);
            drop(server);
            sleep.await;
        }
    }
}
