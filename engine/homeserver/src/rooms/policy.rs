//! The policy servers of rooms: what they have to sign, and asking them for it.
//!
//! They are asked before an event is judged, while others can look at the room and write to it. An event that comes from another server
//! counts as unsigned when its room's policy server says no, does not answer in time or signs by another key than that in the room's
//! state. One that comes into the room by this server is not taken then.
//!
//! Source: server-server API, "Policy Servers"; check 7 of "Checks performed on receipt of a PDU".

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures_util::{FutureExt, StreamExt, stream};
use http::StatusCode;
use ravel_core::{
    event::{Event, event_type},
    id::{EventId, RoomId, ServerName},
    pdu::{PduError, PolicyServer, VerifiedPdu},
    room::{Arrival, Room},
    signing::encode_base64,
};
use ruma::api::federation::policy::sign_event::v1 as sign_event;

use super::{Incoming, Rooms, RoomsError, audience::server_of_member};
use crate::{
    clock::Clock,
    federation::{FederationClient, FederationError, RemoteError, SendOptions, timed_cache::TimedCache},
    network::{NetworkError, RequestLimits},
    parallel,
};

/// Why an event does not get the signature of its room's policy server.
#[derive(Clone, Debug, thiserror::Error)]
pub enum PolicyError {
    /// It has answered that it does not sign the event.
    #[error("the room's policy server does not sign it: {0}")]
    Refused(RemoteError),
    /// It has answered something else than a signature by the key that the room's state has.
    #[error("the room's policy server has not signed it by the key that the room names")]
    Unsigned,
    /// It can't be asked now, or has answered that it can't tell now.
    #[error("the room's policy server can't be asked: {0}")]
    Away(FederationError),
    /// With the signature it is no valid event.
    #[error("with the signature of the room's policy server it would be no valid event: {0}")]
    Invalid(#[from] PduError),
}

/// What is known of policy servers, and how they are asked.
pub(super) struct PolicyServers {
    client: FederationClient,
    clock: Arc<dyn Clock>,
    /// Events that lack others come here again and again.
    answers: Mutex<TimedCache<Asked, Answer>>,
}

/// The name of a policy server, its key, and the event that it was asked about.
type Asked = (ServerName, String, EventId);

/// A signature, or why there is none.
type Answer = Result<String, PolicyError>;

/// How many answers are remembered, and for how long.
const ANSWERS_MAX: usize = 10_000;
const ANSWER_KEPT_MS: i64 = 10 * 60 * 1000;

/// How long an answer may be, and how long a server may take for it.
const LIMITS: RequestLimits = RequestLimits { time: Duration::from_secs(10), answer_bytes: 64 << 10 };

/// How long events wait for their room's policy server, however many they are.
const WAIT_MAX: Duration = Duration::from_secs(20);

/// About how many of these events it is asked at the same time.
const AT_ONCE: usize = 8;

/// How many events are worth a task of their own when their signatures are checked.
const PART_MIN: usize = 16;

impl PolicyServers {
    pub(super) fn new(client: FederationClient, clock: Arc<dyn Clock>) -> Self {
        Self { client, clock, answers: Mutex::new(TimedCache::new(ANSWERS_MAX)) }
    }

    /// Returns an event with the signature that a policy server gives. `is_waited_for` says whether it is asked even if it did not answer
    /// lately.
    async fn signed(
        &self,
        server: &PolicyServer,
        pdu: &VerifiedPdu,
        is_waited_for: bool,
    ) -> Result<VerifiedPdu, PolicyError> {
        // By what is no key it can't sign.
        let key = server.key.ok_or(PolicyError::Unsigned)?;
        let asked = (server.via.clone(), encode_base64(key.as_bytes()), pdu.event_id().clone());
        let known = self.answers().get(&asked, self.clock.now_ms()).cloned();
        let answer = match known {
            Some(answer) => answer,
            None => {
                let answer = self.ask(&server.via, pdu, is_waited_for).await;
                if !matches!(answer, Err(PolicyError::Away(_))) {
                    let end_ms = self.clock.now_ms().saturating_add(ANSWER_KEPT_MS);
                    self.answers().insert(asked, answer.clone(), end_ms);
                }
                answer
            }
        };
        server.add_signature(pdu, &answer?)?.ok_or(PolicyError::Unsigned)
    }

    /// Source: server-server API, "POST /_matrix/policy/v1/sign".
    async fn ask(&self, via: &ServerName, pdu: &VerifiedPdu, is_waited_for: bool) -> Answer {
        let unwritable = || PolicyError::Away(FederationError::Request);
        let name = ruma::ServerName::parse(via.as_str()).map_err(|_| unwritable())?;
        let request = sign_event::Request::new(serde_json::from_slice(pdu.json()).map_err(|_| unwritable())?);
        let options = SendOptions { limits: LIMITS, ignore_back_off: is_waited_for };
        match self.client.send(via, request, options).await {
            Ok(answer) => Ok(answer.ed25519_signature(&name).ok_or(PolicyError::Unsigned)?.to_owned()),
            Err(FederationError::Remote(error)) if is_final(error.status) => Err(PolicyError::Refused(error)),
            // This server is no policy server, and one that is denied is not asked: neither will ever sign.
            Err(FederationError::Answer { .. } | FederationError::OurselvesAsked | FederationError::Denied) => {
                Err(PolicyError::Unsigned)
            }
            Err(error) => Err(PolicyError::Away(error)),
        }
    }

    fn answers(&self) -> std::sync::MutexGuard<'_, TimedCache<Asked, Answer>> {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_final(status: StatusCode) -> bool {
    status.is_client_error() && status != StatusCode::TOO_MANY_REQUESTS
}

fn too_slow() -> PolicyError {
    PolicyError::Away(NetworkError::Timeout.into())
}

/// Whether an event, once it is accepted, can change which policy server its room uses; `named` is the one that the room names.
pub(super) fn changes_policy_server(event: &Event, named: Option<&PolicyServer>) -> bool {
    !PolicyServer::is_to_sign(event) || named.is_some_and(|named| server_of_member(event).as_ref() == Some(&named.via))
}

impl Rooms {
    /// Returns the policy server that a room names, be it that none of its users has joined.
    pub(super) async fn named_policy_server(&self, room_id: &RoomId) -> Result<Option<PolicyServer>, RoomsError> {
        if !self.look(room_id, |room| room.current_state().get(event_type::POLICY, "").is_some()).await? {
            return Ok(None);
        }
        let content = self.state_content(room_id, event_type::POLICY, "").await?.unwrap_or_default();
        Ok(PolicyServer::of_content(&content))
    }

    /// Returns the policy server that a room uses.
    ///
    /// Source: server-server API, "Determining if a Policy Server is enabled in a room".
    pub(super) async fn policy_server(&self, room_id: &RoomId) -> Result<Option<PolicyServer>, RoomsError> {
        let Some(named) = self.named_policy_server(room_id).await? else { return Ok(None) };
        Ok(self.has_server(room_id, &named.via).await?.then_some(named))
    }

    /// Returns an event that is to come into a room by this server with the signature of the room's policy server, if one is needed.
    ///
    /// Source: server-server API, "Asking for a Policy Server signature on an event".
    ///
    /// # Errors
    ///
    /// `Policy`
    pub(super) async fn signed_by_policy_server(
        &self,
        room_id: &RoomId,
        pdu: VerifiedPdu,
    ) -> Result<VerifiedPdu, RoomsError> {
        if !PolicyServer::is_to_sign(pdu.event()) {
            return Ok(pdu);
        }
        match self.policy_server(room_id).await? {
            Some(server) if !server.has_signed(&pdu) => tokio::select! {
                signed = self.0.policy_servers.signed(&server, &pdu, true) => Ok(signed?),
                () = self.0.clock.sleep(WAIT_MAX) => Err(too_slow().into()),
            },
            _ => Ok(pdu),
        }
    }

    /// Checks that a room's policy server has signed events of other servers, and asks it for what is missing; those that it does not sign
    /// are marked as [unsigned](Arrival::Unsigned). Events without place in the DAG, and those that are here, are left as they are.
    ///
    /// Source: server-server API, "Validating Policy Server signatures".
    ///
    /// # Errors
    ///
    /// `Policy` if it can't be asked about history now: that can be had later.
    pub(super) async fn check_by_policy_server(
        &self,
        room_id: &RoomId,
        server: &PolicyServer,
        events: &mut [Incoming],
    ) -> Result<(), RoomsError> {
        let is_checked = |room: &Room| events.iter().map(|incoming| is_checked(room, incoming)).collect();
        let is_checked: Vec<bool> = self.look(room_id, is_checked).await?;
        let checked: Vec<&mut Incoming> = events
            .iter_mut()
            .zip(is_checked)
            .filter_map(|(incoming, is_checked)| is_checked.then_some(incoming))
            .collect();
        let pdus = checked.iter().map(|incoming| incoming.pdu.clone()).collect();
        let signer = server.clone();
        let has_signed = parallel::for_each(pdus, PART_MIN, move |pdu| signer.has_signed(&pdu)).await;
        let has_signed = has_signed.ok_or(RoomsError::Panicked)?;
        let unsigned: Vec<&mut Incoming> = checked
            .into_iter()
            .zip(has_signed)
            .filter_map(|(incoming, has_signed)| (!has_signed).then_some(incoming))
            .collect();

        let policy_servers = &self.0.policy_servers;
        let questions = unsigned.iter().enumerate().map(|(number, incoming)| {
            let pdu = incoming.pdu.clone();
            async move { (number, policy_servers.signed(server, &pdu, false).await) }.boxed()
        });
        let questions: Vec<_> = questions.collect();
        let answers = stream::iter(questions).buffer_unordered(AT_ONCE).take_until(self.0.clock.sleep(WAIT_MAX));
        let mut answers: BTreeMap<usize, Result<VerifiedPdu, PolicyError>> = answers.collect().await;
        for (number, incoming) in unsigned.into_iter().enumerate() {
            match answers.remove(&number).unwrap_or_else(|| Err(too_slow())) {
                Ok(signed) => incoming.pdu = signed,
                Err(error @ PolicyError::Away(_)) if incoming.arrival == Some(Arrival::History) => {
                    return Err(error.into());
                }
                Err(error) => {
                    tracing::info!(%room_id, event_id = %incoming.pdu.event_id(), %error, "an event is not recommended");
                    incoming.arrival = Some(Arrival::Unsigned);
                }
            }
        }
        Ok(())
    }
}

/// Whether the policy server of its room has to have signed an event that comes.
fn is_checked(room: &Room, incoming: &Incoming) -> bool {
    let event = incoming.pdu.event();
    let has_place = room.has_place(&event.event_id);
    let is_new_here = matches!(incoming.arrival, Some(Arrival::New | Arrival::History)) && !has_place;
    is_new_here && PolicyServer::is_to_sign(event)
}

#[cfg(test)]
mod tests;
