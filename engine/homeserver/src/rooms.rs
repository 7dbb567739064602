//! The rooms of a server: each is written to by one task at a time, and events are acknowledged once they are durable.
//!
//! A room is loaded when it is first needed. Whoever writes holds its lock in a task of its own, so that a client that goes away does
//! not leave an event judged and not stored; if storing fails, the room is dropped and loaded again, as the log is the truth.

mod acl;
mod aside;
mod audience;
mod context;
mod create;
mod drafts;
mod entering;
mod error;
mod facts;
mod guests;
mod indexes;
mod kept_members;
mod members;
mod messages;
mod open_rooms;
mod order;
mod outgoing;
mod outside;
mod pdus;
mod policy;
mod profile;
mod progress;
mod read;
mod receive;
mod send;
mod servers;
mod summary;
mod sync;
mod times;
mod transactions;

use std::{
    collections::BTreeSet,
    ops::Range,
    sync::{Arc, Mutex, PoisonError},
};

use ravel_core::{
    canonical_json::{CanonicalJsonObject, get_object, get_str, object_to_canonical_bytes},
    event::{Content, Event, event_type},
    event_auth::can_redact_any_event,
    id::{EventId, RoomId, ServerName, UserId},
    pdu::VerifiedPdu,
    room::{Effect, Outcome, PersistEvent, Receipt, Room},
    room_version::RoomVersionRules,
    signing::{SigningKey, hash_and_sign_event},
};
use ravel_store::{
    Durability,
    log::{EventLog, Fact, LogError},
};
use tokio::sync::{mpsc, watch};

pub(crate) use self::outside::{Outside, OutsideMembership};
use self::{
    acl::CurrentAcl,
    audience::{is_of, server_of_member},
    indexes::Indexes,
    members::LocalMembers,
    open_rooms::{OpenRoom, OpenRooms},
    policy::PolicyServers,
    progress::Progress,
    servers::JoinedServers,
    summary::CachedSummary,
    transactions::Transactions,
};
pub use self::{
    context::Context,
    create::{CreateRoom, Preset},
    error::RoomsError,
    messages::{MESSAGES_MAX, Messages, Page},
    order::{TimelinePosition, TimelineToken},
    policy::PolicyError,
    read::{ClientEvent, Visibility},
    receive::{Incoming, Received},
    send::{MembershipChange, SendEvent},
    sync::{JoinedRoom, LeftRoom, MemberCounts, Sync, SyncFilter, SyncToken},
    transactions::Transaction,
};
use crate::{clock::Clock, federation::FederationClient, random::Random};

/// The rooms of a server.
#[derive(Clone)]
pub struct Rooms(Arc<Inner>);

struct Inner {
    server_name: ServerName,
    key: SigningKey,
    log: Arc<EventLog>,
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
    open: OpenRooms,
    members: Mutex<LocalMembers>,
    progress: Progress,
    transactions: Transactions,
    policy_servers: PolicyServers,
    outbox: mpsc::Sender<ToSend>,
}

/// An event that other servers are to be told of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ToSend {
    /// The room.
    pub room_id: RoomId,
    /// The event.
    pub event_id: EventId,
    /// Where in the log it is: somewhere in this range.
    pub within: Range<u64>,
    /// Who is to get it: the servers that are in the room before or after it, and that of the user whose membership it is.
    pub destinations: BTreeSet<ServerName>,
}

/// A room in memory.
pub(crate) struct LoadedRoom {
    pub(crate) room: Room,
    indexes: Indexes,
    servers: JoinedServers,
    acl: CurrentAcl,
    summary: CachedSummary,
}

impl LoadedRoom {
    /// Returns a room that is new here, with all of it in memory.
    fn new(room: Room) -> Self {
        let indexes = Indexes::of(&room);
        Self::with_indexes(room, indexes)
    }

    fn with_indexes(room: Room, indexes: Indexes) -> Self {
        let servers = JoinedServers::of(&room);
        Self { room, indexes, servers, acl: CurrentAcl::default(), summary: CachedSummary::default() }
    }

    /// Loads a room, with its newest messages.
    async fn load(log: &EventLog, room_id: &RoomId) -> Result<Option<Self>, LogError> {
        let mut indexes = Indexes::default();
        let mut watch = |room: &mut Room, event: &Event| {
            indexes.add(room, event);
            indexes.tidy(room)
        };
        let room = log.load_room_watched(room_id, &mut watch).await?;
        // What was asked for by the way is of no interest.
        Ok(room.map(|room| {
            room.graph().missed(std::mem::take);
            Self::with_indexes(room, indexes)
        }))
    }

    /// Whether readers get an event in its redacted form.
    pub(crate) fn is_redacted(&self, event_id: &EventId) -> bool {
        self.indexes.redaction_of(&self.room, event_id).is_some()
    }
}

/// Returns the event that a redaction names.
fn target(event: &Event) -> Option<EventId> {
    match &event.content {
        Content::Redaction(target) => target.clone(),
        _ => None,
    }
}

impl Rooms {
    /// Opens the rooms of a log, and finds out which users of this server are in them.
    ///
    /// Loads the rooms whose state has changed since their members were kept; of the others it costs a few look-ups each. Reads what became of clients'
    /// newest [transactions](Self::send_once). Policy servers
    /// are asked by `client`. What other servers are to be told of goes to `outbox`; rooms wait while that is full.
    ///
    /// # Errors
    ///
    /// When the log can't be read.
    pub async fn open(
        server_name: ServerName,
        key: SigningKey,
        log: Arc<EventLog>,
        clock: Arc<dyn Clock>,
        random: Arc<dyn Random>,
        client: FederationClient,
        outbox: mpsc::Sender<ToSend>,
    ) -> Result<Self, RoomsError> {
        let forgotten = facts::forgotten(&log, &server_name).await?;
        let mut members = LocalMembers::new(server_name.clone(), forgotten, log.len());
        kept_members::load(&log, &server_name, &mut members).await?;
        for (user, room_id, membership, sequence) in outside::all(&log, &server_name).await? {
            members.set_outside(&user, &room_id, Some((membership, sequence)), log.len());
        }
        let (open, members, transactions) =
            (OpenRooms::default(), Mutex::new(members), Transactions::load(&log).await?);
        let progress = Progress::new(log.len());
        let policy_servers = PolicyServers::new(client, clock.clone());
        Ok(Self(Arc::new(Inner {
            server_name,
            key,
            log,
            clock,
            random,
            open,
            members,
            progress,
            transactions,
            policy_servers,
            outbox,
        })))
    }

    /// Returns the name of the server.
    pub fn server_name(&self) -> &ServerName {
        &self.0.server_name
    }

    /// Returns the log that has the rooms.
    #[cfg(test)]
    pub(crate) fn log(&self) -> &Arc<EventLog> {
        &self.0.log
    }

    /// Returns the place in the log before which all is known: where a sync that begins now goes on from.
    pub fn position(&self) -> u64 {
        self.0.progress.position()
    }

    /// Returns what tells when that place moves on. Of events before it, [`ToSend`] is in the outbox.
    pub(crate) fn positions(&self) -> watch::Receiver<u64> {
        self.0.progress.subscribe()
    }

    /// Looks at a room.
    ///
    /// # Errors
    ///
    /// `NoSuchRoom`, and when the log can't be read.
    pub(crate) async fn look<T>(&self, room_id: &RoomId, look: impl Fn(&Room) -> T) -> Result<T, RoomsError> {
        self.read(room_id, |loaded| look(&loaded.room)).await
    }

    /// Looks at a room, and at what is known of it beside. Others can't write to it meanwhile.
    ///
    /// Looks again if what was asked for had been put aside, once that is back.
    ///
    /// # Errors
    ///
    /// `NoSuchRoom`, and when the log can't be read.
    pub(crate) async fn read<T>(&self, room_id: &RoomId, look: impl Fn(&LoadedRoom) -> T) -> Result<T, RoomsError> {
        let open = self.0.open.place(room_id);
        if let Some(loaded) = &*open.room.read().await {
            let looked = look(loaded);
            if loaded.room.graph().missed(|missed| missed.is_empty()) {
                return Ok(looked);
            }
            // It is not known who missed it. Others may have, at the same time.
        }
        let mut slot = open.room.write().await;
        self.0.loaded(room_id, &open, &mut slot).await?;
        self.0.look_again(&mut slot, look).await
    }

    /// Changes a room: judges the events that `change` makes of it, and stores them before it returns. It may ask for the events `about`,
    /// and for those of the current state.
    ///
    /// Goes on to its end if the caller does not wait for it.
    async fn write<T: Send + 'static>(
        &self,
        room_id: RoomId,
        about: Vec<EventId>,
        change: impl FnOnce(&mut Writing<'_>) -> Result<T, RoomsError> + Send + 'static,
    ) -> Result<T, RoomsError> {
        let inner = Arc::clone(&self.0);
        let written = tokio::spawn(async move {
            let open = inner.open.place(&room_id);
            let mut slot = open.room.write().await;
            let guest_access = guests::guest_access(inner.loaded(&room_id, &open, &mut slot).await?);
            let unknown = inner.bring(&mut slot, about).await?;
            let changed = inner.change(&mut slot, unknown, change).await;
            let may_close = slot.as_ref().is_some_and(|loaded| guests::guest_access(loaded) != guest_access);
            // Whoever has to sign what follows is not to be waited for.
            drop(slot);
            if may_close {
                Rooms(inner).close_to_guests(room_id).await;
            }
            changed
        });
        written.await.map_err(|_| RoomsError::Panicked)?
    }

    /// Makes a room that is not there yet, by its first events: all of them, or there is no room.
    async fn begin<T: Send + 'static>(
        &self,
        room: Room,
        change: impl FnOnce(&mut Writing<'_>) -> Result<T, RoomsError> + Send + 'static,
    ) -> Result<T, RoomsError> {
        let inner = Arc::clone(&self.0);
        let written = tokio::spawn(async move {
            let room_id = room.room_id().clone();
            let open = inner.open.place(&room_id);
            let mut slot = open.room.write().await;
            *slot = Some(LoadedRoom::new(room));
            let all_or_none = |writing: &mut Writing<'_>| change(writing).inspect_err(|_| writing.events.clear());
            let made = inner.change(&mut slot, BTreeSet::new(), all_or_none).await;
            if made.is_err() {
                *slot = None;
                inner.open.forget(&room_id, &open);
            }
            made
        });
        written.await.map_err(|_| RoomsError::Panicked)?
    }
}

impl Inner {
    /// Signs an event that was made here.
    fn sign(&self, event: CanonicalJsonObject, rules: &RoomVersionRules) -> Result<VerifiedPdu, RoomsError> {
        let authorising_user = get_object(&event, "content").and_then(|it| get_str(it, AUTHORISING_USER));
        let authorising_user = authorising_user.and_then(|user| UserId::parse(user).ok());
        let is_ours = authorising_user.map(|user| user.server_name() == self.server_name.as_str());
        self.signed_as(event, rules, is_ours.filter(|_| rules.restricted_join_rule))
    }

    /// Signs an event that was made here; `authorising_user_signed` says whether our signature is that of the server of
    /// `join_authorised_via_users_server`.
    fn signed_as(
        &self,
        event: CanonicalJsonObject,
        rules: &RoomVersionRules,
        authorising_user_signed: Option<bool>,
    ) -> Result<VerifiedPdu, RoomsError> {
        let is_member = get_str(&event, "type") == Some(event_type::MEMBER);
        let authorising_user_signed = authorising_user_signed.filter(|_| is_member);
        let signed = hash_and_sign_event(event, rules, &self.server_name, &self.key)?;
        Ok(VerifiedPdu::restore(&object_to_canonical_bytes(&signed), rules, authorising_user_signed, true)?)
    }

    fn members(&self) -> std::sync::MutexGuard<'_, LocalMembers> {
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn loaded<'s>(
        &self,
        room_id: &RoomId,
        place: &Arc<OpenRoom>,
        slot: &'s mut Option<LoadedRoom>,
    ) -> Result<&'s mut LoadedRoom, RoomsError> {
        if slot.is_none() {
            *slot = LoadedRoom::load(&self.log, room_id).await?;
            self.open.note_events(slot.as_ref().map_or(0, |loaded| loaded.room.in_memory()));
        }
        if slot.is_none() {
            // Nobody is to fill the memory by asking for rooms that are not there.
            self.open.forget(room_id, place);
        }
        slot.as_mut().ok_or(RoomsError::NoSuchRoom)
    }

    /// Runs a change on the room in `slot`, and stores what came of it. The events of `unknown` are not in the room before.
    async fn change<T>(
        &self,
        slot: &mut Option<LoadedRoom>,
        unknown: BTreeSet<EventId>,
        change: impl FnOnce(&mut Writing<'_>) -> Result<T, RoomsError>,
    ) -> Result<T, RoomsError> {
        let Some(loaded) = slot.as_mut() else { return Err(RoomsError::NoSuchRoom) };
        let before = loaded.room.current_state().map().clone();
        let mut writing =
            Writing { inner: self, room: &mut loaded.room, events: Vec::new(), facts: Vec::new(), to_send: Vec::new() };
        let changed = change(&mut writing);
        let Writing { events, facts, to_send, .. } = writing;
        self.check_missed(slot, &unknown, &events).await?;
        let Some(loaded) = slot.as_mut() else { return Err(RoomsError::NoSuchRoom) };
        let room = &loaded.room;
        let _under_way = self.progress.begin(|| self.log.len());
        let length = self.log.len();
        // What was judged before something else failed is in the room already.
        let stored = match events.is_empty() {
            true => Ok(()),
            false => self.store(room, &events, &facts, &to_send).await,
        };
        let is_broken = stored.is_err() || matches!(changed, Err(RoomsError::Room(_)));
        if is_broken {
            *slot = None;
            stored?;
            return changed;
        }
        if !events.is_empty() {
            self.open.note_events(events.len());
            let changed_keys = room.changed_keys(&before);
            self.members().change(room, &changed_keys, self.log.len());
            let mut destinations: BTreeSet<ServerName> = BTreeSet::new();
            if !to_send.is_empty() {
                destinations.extend(loaded.servers.names());
            }
            loaded.servers.change(room, &before, &changed_keys);
            for event in &events {
                loaded.indexes.add(room, &event.event);
            }
            if !to_send.is_empty() {
                destinations.extend(loaded.servers.names());
                self.tell(room.room_id(), to_send, &destinations, length..self.log.len()).await;
            }
            // Nothing was missed that the room has.
            loaded.room.graph().missed(std::mem::take);
            if loaded.indexes.tidy(&mut loaded.room).is_err() {
                // What was stored is there when it is loaded again.
                *slot = None;
            }
        }
        changed
    }
}

impl Inner {
    async fn store(
        &self,
        room: &Room,
        events: &[PersistEvent],
        facts: &[Fact],
        to_send: &[VerifiedPdu],
    ) -> Result<(), LogError> {
        self.note_passed_on(room.room_id(), to_send).await?;
        self.log.append_with_facts(room.room_id(), room.rules(), events, facts, Durability::Sync).await
    }

    /// Has events sent to these servers, and to those of the users whose memberships they are. If the server stops before that, what
    /// was not sent is found when it starts again.
    async fn tell(
        &self,
        room_id: &RoomId,
        to_send: Vec<VerifiedPdu>,
        destinations: &BTreeSet<ServerName>,
        within: Range<u64>,
    ) {
        for pdu in to_send {
            let mut destinations = destinations.clone();
            let event = pdu.event();
            destinations.extend(server_of_member(event));
            // Who made an event has it, whoever brought it here. Invites of third-party ids are made by others than their senders.
            let is_made_elsewhere = is_third_party_invite(event);
            destinations.retain(|server| *server != self.server_name && (is_made_elsewhere || !is_of(server, event)));
            if !destinations.is_empty() {
                let (room_id, event_id, within) = (room_id.clone(), event.event_id.clone(), within.clone());
                // Nobody takes it any more when the server stops.
                let _ = self.outbox.send(ToSend { room_id, event_id, within, destinations }).await;
            }
        }
    }
}

/// A room that is being changed.
struct Writing<'r> {
    inner: &'r Inner,
    room: &'r mut Room,
    /// What is to be stored.
    events: Vec<PersistEvent>,
    /// What is so because of that, stored with it.
    facts: Vec<Fact>,
    /// What other servers are to be told of, once it is stored.
    to_send: Vec<VerifiedPdu>,
}

impl Writing<'_> {
    /// Signs an event that was made here, and makes it part of the room.
    ///
    /// # Errors
    ///
    /// `Refused` if the room's state does not allow it; nothing changes then.
    fn take(&mut self, event: CanonicalJsonObject) -> Result<VerifiedPdu, RoomsError> {
        let pdu = self.inner.sign(event, self.room.rules())?;
        self.room.check(&pdu)?;
        check_redaction(self.room, pdu.event())?;
        self.take_signed(&pdu)?;
        Ok(pdu)
    }

    /// Makes an event that was signed elsewhere, and comes into the room through this server, part of the room.
    ///
    /// # Errors
    ///
    /// `Refused` if the room's state does not allow it; nothing changes then.
    fn take_foreign(&mut self, pdu: &VerifiedPdu) -> Result<(), RoomsError> {
        self.room.check(pdu)?;
        self.take_signed(pdu)
    }

    /// Makes an event that was signed here part of the room.
    fn take_signed(&mut self, pdu: &VerifiedPdu) -> Result<(), RoomsError> {
        let version = self.room.rules().version;
        match self.room.handle_pdu(pdu)? {
            Receipt::Judged(judged) => {
                let outcome = judged.verdict.record(version).0;
                self.events.extend(judged.effects.into_iter().filter_map(|effect| match effect {
                    Effect::Persist(event) => Some(*event),
                    Effect::Publish(_) => None,
                }));
                if outcome != Outcome::Accepted {
                    return Err(RoomsError::NotAccepted);
                }
                self.to_send.push(pdu.clone());
                Ok(())
            }
            Receipt::AlreadyKnown(_) => Ok(()),
            // It builds on what the room has.
            Receipt::NeedEvents(_) | Receipt::NeedState(_) | Receipt::OtherRoom(_) => Err(RoomsError::NotAccepted),
        }
    }
}

/// What the rules leave to the sender's server: they let any user of a server redact the events of all others there.
fn check_redaction(room: &Room, redaction: &Event) -> Result<(), RoomsError> {
    let Some(target) = target(redaction) else { return Ok(()) };
    let state = room.current_state();
    let event = room.event(&target).ok_or(RoomsError::NoSuchEvent)?;
    let held = |event_type: &str| room.state_event(&state.get(event_type, "")?).map(|event| &**event);
    let create = held(event_type::CREATE).ok_or(RoomsError::NoSuchRoom)?;
    let power_levels = held(event_type::POWER_LEVELS);
    let sender = &redaction.sender;
    let may = event.sender == *sender || can_redact_any_event(room.rules(), create, power_levels, sender.as_str());
    if may { Ok(()) } else { Err(RoomsError::MayNotRedact) }
}

fn is_third_party_invite(event: &Event) -> bool {
    matches!(&event.content, Content::Member(member) if member.third_party_invite.is_some())
}

/// The field of a join that names who lets the user in.
pub(crate) const AUTHORISING_USER: &str = "join_authorised_via_users_server";

#[cfg(test)]
pub(crate) mod tests;
