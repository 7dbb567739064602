//! As the server that asks: the way into a room that this server is not in.

use std::{
    collections::HashSet,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use ravel_core::{
    canonical_json::CanonicalJsonObject,
    event::{Membership, event_type},
    id::{EventId, RoomId, ServerName, UserId},
    pdu::VerifiedPdu,
    room::{Arrival, Effect, Outcome, PersistEvent, Receipt, Room},
    room_version::RoomVersionRules,
};
use ruma::api::federation::membership::{create_join_event, prepare_join_event};

use super::{
    JoinFailure, MembershipError, ResidentError,
    answer::{Answer, Checked, Checking},
    asking::{
        ForeignTemplate, OwnMembership, known_versions, raw_json, ruma_event_id, ruma_room_id, ruma_user_id, waited_for,
    },
    under_way::{JoinStage, Noted},
};
use crate::{
    clock::within,
    federation::{SendOptions, keys::Effort, written},
    homeserver::Homeserver,
    network::RequestLimits,
    parallel::in_background,
    rooms::{AUTHORISING_USER, Incoming, MembershipChange, Outside, Received, RoomsError},
};

/// How long the answer to a join may be.
pub const JOIN_ANSWER_BYTES_MAX: usize = 1 << 30;

/// How long the answer to a join may take.
pub const JOIN_TIME_MAX: Duration = Duration::from_secs(10 * 60);
const JOIN_MS_MAX: i64 = 10 * 60 * 1000;

/// How long servers are asked for their keys at least, however long the answer took.
const KEYS_TIME_MIN: Duration = Duration::from_secs(60);

/// How long what others send into a room waits for a join that is under way.
const OTHERS_WAIT_MAX: Duration = Duration::from_secs(30);

/// How many servers are asked for one join.
const SERVERS_MAX: usize = 10;

/// A join by the help of one server.
struct Attempt<'a> {
    server: &'a ServerName,
    own: OwnMembership<'a>,
    noted: Noted<'a>,
    /// When it is to be over but for what can be done here, in milliseconds since 1970.
    until_ms: i64,
}

impl Attempt<'_> {
    /// Returns how long servers may be asked for their keys.
    fn time_for_keys(&self, now_ms: i64) -> Duration {
        let left_ms = u64::try_from(self.until_ms.saturating_sub(now_ms)).unwrap_or_default();
        Duration::from_millis(left_ms).clamp(KEYS_TIME_MIN, JOIN_TIME_MAX)
    }
}

impl Homeserver {
    /// Lets a user of this server join a room: here, if this server is in the room, or by the help of a server that is.
    ///
    /// `via` are servers that may be in the room; `content` is that of the member event beside `membership`. Users who want to join
    /// the same room at the same time share the way into it. Goes on to its end if nobody waits for it. A join that failed, or was
    /// ended by a kill, can be tried again: what was stored is not asked for again.
    ///
    /// Source: server-server API, "Joining Rooms".
    ///
    /// # Errors
    ///
    /// [`MembershipError`]
    pub async fn join(
        &self,
        user: &UserId,
        room_id: &RoomId,
        via: &[ServerName],
        content: CanonicalJsonObject,
    ) -> Result<(), MembershipError> {
        let (server, user, room_id, via) = (self.clone(), user.clone(), room_id.clone(), via.to_vec());
        let joining = tokio::spawn(async move {
            server.join_here_or_elsewhere(&user, &room_id, &via, &content).await?;
            if let Err(error) = server.follow_upgrade(&user, &room_id).await {
                tracing::error!(%room_id, %error, "a room does not get what the room had that it replaces");
            }
            Ok(())
        });
        joining.await.map_err(|_| RoomsError::Panicked)?
    }

    async fn join_here_or_elsewhere(
        &self,
        user: &UserId,
        room_id: &RoomId,
        via: &[ServerName],
        content: &CanonicalJsonObject,
    ) -> Result<(), MembershipError> {
        if self.rooms.is_resident(room_id).await?
            && let Some(joined) = self.join_here(user, room_id, content).await
        {
            return joined;
        }
        let turn = self.joining.turns.of(room_id.clone());
        let _turn = turn.lock().await;
        if self.rooms.is_resident(room_id).await?
            && let Some(joined) = self.join_here(user, room_id, content).await
        {
            return joined;
        }
        let own = OwnMembership { room_id, user, membership: Membership::Join, content };
        self.join_elsewhere(own, via).await
    }

    /// Waits while this server comes into a room that it is not in, but not for ever.
    pub(crate) async fn wait_for_join(&self, room_id: &RoomId) {
        // Another server can have to help a user into a room that this one is in: that concerns nobody else.
        if !self.rooms.is_resident(room_id).await.unwrap_or(false) {
            within(&*self.clock, OTHERS_WAIT_MAX, self.joining.finished(room_id)).await;
        }
    }

    /// Joins a room that this server is in; `None` if another server has to help, since nobody here can let the user in.
    async fn join_here(
        &self,
        user: &UserId,
        room_id: &RoomId,
        content: &CanonicalJsonObject,
    ) -> Option<Result<(), MembershipError>> {
        match self.rooms.membership(room_id, user).await {
            Ok(Some(Membership::Join)) => return Some(Ok(())),
            Ok(_) => {}
            Err(error) => return Some(Err(error.into())),
        }
        let mut content = content.clone();
        content.remove(AUTHORISING_USER);
        match self.authorising_user(room_id, user).await {
            Ok(None) => {}
            Ok(Some(user)) => drop(content.insert(AUTHORISING_USER.into(), user.as_str().into())),
            Err(ResidentError::UnableToAuthoriseJoin | ResidentError::UnableToGrantJoin) => return None,
            Err(error) => return Some(Err(error.into())),
        }
        let change = MembershipChange { target: user.clone(), membership: Membership::Join, content };
        let changed = self.rooms.change_membership(room_id, user, change).await;
        Some(changed.map(drop).map_err(MembershipError::from))
    }

    /// Joins by the help of other servers, one after the other until one could help.
    async fn join_elsewhere(&self, own: OwnMembership<'_>, via: &[ServerName]) -> Result<(), MembershipError> {
        // Whether guests may come in is not known before the room is.
        if self.rooms.is_guest(own.user).await? {
            return Err(RoomsError::GuestsForbidden.into());
        }
        let mut failed: Option<JoinFailure> = None;
        let invited = self.rooms.outside(own.room_id, own.user).await?;
        let via: Vec<ServerName> = via.iter().cloned().chain(invited.iter().flat_map(Outside::servers)).collect();
        for server in &self.candidates(own.room_id, &via).await? {
            let until_ms = self.clock.now_ms().saturating_add(JOIN_MS_MAX);
            let attempt = Attempt { server, own, noted: self.joining.begin(own.room_id, server), until_ms };
            match self.join_by(&attempt).await {
                Ok(()) => {
                    tracing::info!(room_id = %own.room_id, user = %own.user, %server, "joined a room");
                    return Ok(self.rooms.end_outside(own.room_id).await?);
                }
                Err(failure) => {
                    tracing::info!(room_id = %own.room_id, %server, %failure, "a room could not be joined by this server");
                    JoinFailure::keep_weightier(&mut failed, failure);
                }
            }
        }
        Err(failed.map_or(MembershipError::NoServer, MembershipError::Failed))
    }

    /// Returns servers that may be in a room, the most promising first.
    pub(super) async fn candidates(&self, room_id: &RoomId, via: &[ServerName]) -> Result<Vec<ServerName>, RoomsError> {
        // Of a room that is here, and nobody of ours may let the user in: the others there.
        let there = self.rooms.servers_in(room_id).await?;
        let of_id = room_id.server_name().and_then(|server| ServerName::parse(server).ok());
        let mut servers: Vec<ServerName> = Vec::new();
        for server in via.iter().cloned().chain(of_id).chain(there) {
            if server != self.server_name && !servers.contains(&server) && servers.len() < SERVERS_MAX {
                servers.push(server);
            }
        }
        Ok(servers)
    }

    async fn join_by(&self, attempt: &Attempt<'_>) -> Result<(), JoinFailure> {
        let Attempt { server, own, noted, .. } = attempt;
        let mut request = prepare_join_event::v1::Request::new(ruma_room_id(own.room_id)?, ruma_user_id(own.user)?);
        request.ver = known_versions();
        let template = self.client.send(server, request, waited_for()).await?;
        let template = ForeignTemplate::new(template.room_version.as_ref(), template.event)?;
        let join = self.made_of(&template, server, *own)?;

        noted.stage(JoinStage::WaitingForState);
        let event_id = ruma_event_id(join.event_id())?;
        let pdu = raw_json(join.json())?;
        let request = create_join_event::v2::Request::new(ruma_room_id(own.room_id)?, event_id, pdu);
        let limits = RequestLimits { time: JOIN_TIME_MAX, answer_bytes: JOIN_ANSWER_BYTES_MAX };
        let options = SendOptions { limits, ignore_back_off: true };
        let (body, is_v1) = self.send_in_either_version(server, written(request)?, options).await?;
        let answer = in_background(move || Answer::read(body, is_v1)).await.ok_or(RoomsError::Panicked)??;
        noted.join.events.store(answer.len(), Ordering::Relaxed);
        let version = answer.room_version()?;
        // Who does not tell the version says that it is one of the first two.
        let told = template.room_version.unwrap_or(template.rules().version);
        let is_one_of_the_first = template.room_version.is_none() && version.as_str() == "2";
        if version != told && !is_one_of_the_first {
            return Err(JoinFailure::Answer("its room version is another one than that of the template".into()));
        }
        self.take_answer(answer, version.rules(), join, attempt).await
    }

    /// Checks what a server tells about a room, and takes the room over with the join.
    async fn take_answer(
        &self,
        answer: Answer,
        rules: &'static RoomVersionRules,
        join: VerifiedPdu,
        attempt: &Attempt<'_>,
    ) -> Result<(), JoinFailure> {
        let Attempt { own, noted, .. } = attempt;
        noted.stage(JoinStage::FetchingKeys);
        let (answer, (wanted, signatures)) = in_background(move || {
            let wanted = answer.wanted_keys(rules);
            (answer, wanted)
        })
        .await
        .ok_or(RoomsError::Panicked)?;
        // Members of a server that was not asked would be missing here for ever.
        let time = attempt.time_for_keys(self.clock.now_ms());
        let effort = Effort { insistent: true, time, signatures };
        let keys = self.keys.keys_with(&wanted, &effort).await.map_err(RoomsError::from)?;

        noted.stage(JoinStage::CheckingEvents);
        let known = self.known_events(own.room_id).await?;
        let is_here = known.is_some();
        let known = known.unwrap_or_default();
        let checking = Checking { rules, keys, now_ms: self.clock.now_ms(), known, done: Arc::clone(&noted.join.done) };
        let (mut checked, known) =
            in_background(move || (answer.check(&checking), checking.known)).await.ok_or(RoomsError::Panicked)?;
        if checked.dropped > 0 {
            tracing::info!(room_id = %own.room_id, dropped = checked.dropped, "events of a room that is joined were dropped");
        }
        // What was signed by the resident too, for a room that asks for that.
        let join = match checked.join.take() {
            Some(signed) if signed.event_id() == join.event_id() && signed.content_hash_matched() => signed,
            _ => join,
        };

        noted.stage(JoinStage::Storing);
        if is_here {
            return self.enter_known(own.room_id, checked, &known, join).await;
        }
        let room_id = own.room_id.clone();
        let judged = in_background(move || judged(Room::new(room_id, rules), checked, &join)).await;
        let (room, events) = judged.ok_or(RoomsError::Panicked)??;
        if self.rooms.take_over(room, events).await? { Ok(()) } else { Err(JoinFailure::NotAccepted) }
    }

    /// Returns the events of a room; `None` if it is not here.
    async fn known_events(&self, room_id: &RoomId) -> Result<Option<HashSet<EventId>>, RoomsError> {
        let ids = |room: &Room| room.events().map(|(event, _)| event.event_id.clone()).collect();
        match self.rooms.look(room_id, ids).await {
            Err(RoomsError::NoSuchRoom) => Ok(None),
            ids => ids.map(Some),
        }
    }

    /// Comes back into a room that is here, or whose join did not come to its end.
    async fn enter_known(
        &self,
        room_id: &RoomId,
        checked: Checked,
        known: &HashSet<EventId>,
        join: VerifiedPdu,
    ) -> Result<(), JoinFailure> {
        let Checked { state, events, .. } = checked;
        let ids: Vec<EventId> = events.iter().map(|pdu| pdu.event_id().clone()).collect();
        let received = self.rooms.receive(room_id, events.into_iter().map(Incoming::outlier).collect()).await?;
        let taken = ids.into_iter().zip(received);
        let taken = taken.filter(|(_, received)| matches!(received, Received::Judged(_) | Received::Known(_)));
        let mut here: HashSet<EventId> = taken.map(|(event_id, _)| event_id).collect();
        here.extend(known.iter().cloned());
        let state = state.into_iter().filter(|event_id| here.contains(event_id)).collect();
        // A room that this server is in goes on; one that it comes back to begins anew.
        let is_resident = self.rooms.is_resident(room_id).await?;
        let arrival = if is_resident { Arrival::New } else { Arrival::Entry };
        let entry = Incoming { pdu: join, arrival: Some(arrival), given_state: Some(state) };
        match self.rooms.receive(room_id, vec![entry]).await?.as_slice() {
            [Received::Judged(Outcome::Accepted) | Received::Known(Outcome::Accepted)] => Ok(()),
            _ => Err(JoinFailure::NotAccepted),
        }
    }
}

/// Lets a new room judge what a server told about it, and the join; returns what is to be stored of it.
fn judged(mut room: Room, checked: Checked, join: &VerifiedPdu) -> Result<(Room, Vec<PersistEvent>), JoinFailure> {
    let version = room.rules().version;
    let mut persist = Vec::with_capacity(checked.events.len() + 1);
    let mut keep = |receipt: Receipt| match receipt {
        Receipt::Judged(judged) => {
            let outcome = judged.verdict.record(version).0;
            persist.extend(judged.effects.into_iter().filter_map(|effect| match effect {
                Effect::Persist(event) => Some(*event),
                Effect::Publish(_) => None,
            }));
            Some(outcome)
        }
        _ => None,
    };
    for pdu in &checked.events {
        keep(room.handle_outlier(pdu).map_err(RoomsError::from)?);
    }
    let state: Vec<EventId> = checked.state.into_iter().filter(|event_id| room.has(event_id)).collect();
    let entered = keep(room.handle(join, Arrival::Entry, Some(&state)).map_err(RoomsError::from)?);
    let has_create = room.current_state().get(event_type::CREATE, "").is_some();
    if entered == Some(Outcome::Accepted) && has_create { Ok((room, persist)) } else { Err(JoinFailure::NotAccepted) }
}

#[cfg(test)]
mod tests;
