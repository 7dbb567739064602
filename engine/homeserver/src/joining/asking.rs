//! As the server that asks: events made of templates, and requests that have an old form.

use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode, Uri};
use ravel_core::{
    canonical_json::{CanonicalJsonObject, CanonicalJsonValue, JsonMode, get_object, get_str, parse_object},
    event::{Membership, event_type},
    id::{EventId, RoomId, ServerName, UserId},
    pdu::{PduError, VerifiedPdu},
    room_version::{EventIdFormat, RoomVersion, RoomVersionRules},
};
use ruma::{OwnedEventId, OwnedRoomId, OwnedUserId, RoomVersionId};
use serde_json::value::RawValue;

use super::{ResidentError, template::membership_text};
use crate::{
    federation::{FederationError, RemoteError, SendOptions},
    homeserver::Homeserver,
    network::RequestLimits,
    rooms::{AUTHORISING_USER, RoomsError},
};

/// Why a user's membership did not change.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum MembershipError {
    #[error("no server is known that is in the room")]
    NoServer,
    /// All servers were asked; this is what one of them answered.
    #[error(transparent)]
    Failed(#[from] JoinFailure),
    #[error(transparent)]
    Condition(#[from] ResidentError),
    #[error(transparent)]
    Rooms(#[from] RoomsError),
}

/// Why a server could not help a user into, or out of, a room.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum JoinFailure {
    #[error(transparent)]
    Federation(#[from] FederationError),
    #[error("the room version {0} is not known")]
    UnknownRoomVersion(Box<str>),
    #[error("the template is another event: {0}")]
    Template(&'static str),
    #[error("the event that was answered is not valid: {0}")]
    Event(#[from] PduError),
    #[error("the answer is not usable: {0}")]
    Answer(Box<str>),
    #[error("by what the server has told, the join is not allowed")]
    NotAccepted,
    #[error(transparent)]
    Rooms(#[from] RoomsError),
}

impl JoinFailure {
    /// Keeps the one of two failures that tells more.
    pub(super) fn keep_weightier(kept: &mut Option<Self>, failure: Self) {
        if kept.as_ref().is_none_or(|kept| kept.weight() < failure.weight()) {
            *kept = Some(failure);
        }
    }

    /// How much it tells.
    fn weight(&self) -> u8 {
        match self {
            Self::Federation(FederationError::Remote(error)) if error.status == StatusCode::FORBIDDEN => 3,
            Self::UnknownRoomVersion(_) | Self::Rooms(_) => 3,
            Self::Federation(FederationError::Remote(error)) if error.status.is_client_error() => 2,
            Self::Template(_) | Self::Event(_) | Self::Answer(_) | Self::NotAccepted => 1,
            Self::Federation(_) => 0,
        }
    }
}

/// What a resident has answered to a request for a template.
pub(super) struct ForeignTemplate {
    /// The version of the room; `None` if the server is so old that it does not tell, which means 1 or 2.
    pub(super) room_version: Option<RoomVersion>,
    event: Box<RawValue>,
}

impl ForeignTemplate {
    pub(super) fn new(room_version: Option<&RoomVersionId>, event: Box<RawValue>) -> Result<Self, JoinFailure> {
        let room_version = match room_version.map(RoomVersionId::as_str) {
            None => None,
            Some(id) => {
                let unknown = || JoinFailure::UnknownRoomVersion(id.into());
                Some(RoomVersion::parse(id).ok_or_else(unknown)?)
            }
        };
        Ok(Self { room_version, event })
    }

    /// The rules by which an event is made of it. Versions 1 and 2 differ in nothing that an event shows.
    pub(super) fn rules(&self) -> &'static RoomVersionRules {
        self.room_version.unwrap_or(RoomVersion::V1).rules()
    }
}

/// A member event by a user of this server about itself.
#[derive(Clone, Copy)]
pub(super) struct OwnMembership<'a> {
    pub(super) room_id: &'a RoomId,
    pub(super) user: &'a UserId,
    pub(super) membership: Membership,
    /// The content beside `membership`.
    pub(super) content: &'a CanonicalJsonObject,
}

impl Homeserver {
    /// Makes an event of a template. All that the user or the server is to say with it is ours; of the template are its place in the
    /// room and who of the resident lets the user in.
    ///
    /// # Errors
    ///
    /// If the template is of another event.
    pub(super) fn made_of(
        &self,
        template: &ForeignTemplate,
        resident: &ServerName,
        own: OwnMembership<'_>,
    ) -> Result<VerifiedPdu, JoinFailure> {
        let OwnMembership { room_id, user, membership, content } = own;
        let rules = template.rules();
        let mode = if rules.strict_canonical_json { JsonMode::Strict } else { JsonMode::ByteExact };
        let given =
            parse_object(template.event.get().as_bytes(), mode).map_err(|_| JoinFailure::Template("no JSON"))?;
        let given_content = get_object(&given, "content").ok_or(JoinFailure::Template("content"))?;
        let text = membership_text(membership).ok_or(JoinFailure::Template("membership"))?;
        let same = |object: &CanonicalJsonObject, field: &'static str, ours: &str| match get_str(object, field) {
            Some(theirs) if theirs == ours => Ok(()),
            _ => Err(JoinFailure::Template(field)),
        };
        same(&given, "type", event_type::MEMBER)?;
        same(&given, "room_id", room_id.as_str())?;
        same(&given, "sender", user.as_str())?;
        same(&given, "state_key", user.as_str())?;
        same(given_content, "membership", text)?;

        let mut content = content.clone();
        content.remove(AUTHORISING_USER);
        content.insert("membership".into(), text.into());
        let authorising = get_str(given_content, AUTHORISING_USER).and_then(|user| UserId::parse(user).ok());
        let authorising = authorising.filter(|user| user.server_name() == resident.as_str());
        if let Some(user) = authorising.filter(|_| membership == Membership::Join && rules.restricted_join_rule) {
            content.insert(AUTHORISING_USER.into(), user.as_str().into());
        }
        let mut event = CanonicalJsonObject::from([
            ("type".into(), event_type::MEMBER.into()),
            ("room_id".into(), room_id.as_str().into()),
            ("sender".into(), user.as_str().into()),
            ("state_key".into(), user.as_str().into()),
            ("content".into(), content.into()),
            ("origin_server_ts".into(), CanonicalJsonValue::Integer(self.clock.now_ms())),
        ]);
        for field in ["prev_events", "auth_events", "depth"] {
            let value = given.get(field).ok_or(JoinFailure::Template(field))?;
            event.insert(field.into(), value.clone());
        }
        if rules.event_id_format == EventIdFormat::Carried {
            event.insert("event_id".into(), self.rooms.new_event_id().into());
        }
        self.rooms.signed(event, rules).map_err(|error| match error {
            RoomsError::Invalid(_) => JoinFailure::Template("not of the form of the room version"),
            error => error.into(),
        })
    }

    /// Sends a request of the second version; to a server that does not know it, the same one of the first. Returns the answer as it
    /// came, and whether it is to the first version.
    pub(super) async fn send_in_either_version(
        &self,
        server: &ServerName,
        request: Request<Bytes>,
        options: SendOptions,
    ) -> Result<(Bytes, bool), FederationError> {
        let old = first_version(&request);
        let error = match self.client.send_raw(server, request, options).await {
            Ok(answer) => return Ok((answer.into_body(), false)),
            Err(error) => error,
        };
        let is_unknown = matches!(&error, FederationError::Remote(remote) if is_of_unknown_path(remote));
        match old.filter(|_| is_unknown) {
            Some(old) => Ok((self.client.send_raw(server, old, options).await?.into_body(), true)),
            None => Err(error),
        }
    }
}

/// Whether a server says that it does not know a path.
pub(super) fn is_of_unknown_path(error: &RemoteError) -> bool {
    let may_be = matches!(error.status.as_u16(), 400 | 404 | 405);
    may_be && matches!(error.errcode.as_deref(), None | Some("M_UNRECOGNIZED"))
}

/// Returns a request with the first version of its path.
fn first_version(request: &Request<Bytes>) -> Option<Request<Bytes>> {
    let path = request.uri().path_and_query()?.as_str().strip_prefix("/_matrix/federation/v2/")?;
    let mut old = Request::new(request.body().clone());
    *old.method_mut() = request.method().clone();
    *old.uri_mut() = Uri::try_from(format!("/_matrix/federation/v1/{path}")).ok()?;
    *old.headers_mut() = request.headers().clone();
    Some(old)
}

/// How a request is sent that a user waits for.
pub(super) fn waited_for() -> SendOptions {
    let limits = RequestLimits { time: ANSWER_TIME_MAX, ..RequestLimits::default() };
    SendOptions { limits, ignore_back_off: true }
}

/// How long a small answer may take.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(30);

/// All room versions, for a resident that wants to know which ones its rooms may be of.
pub(super) fn known_versions() -> Vec<RoomVersionId> {
    RoomVersion::ALL.iter().filter_map(|version| RoomVersionId::try_from(version.as_str()).ok()).collect()
}

/// Returns an event as a body of ruma's.
pub(super) fn raw_json(json: &[u8]) -> Result<Box<RawValue>, FederationError> {
    serde_json::from_slice(json).map_err(|_| FederationError::Request)
}

pub(super) fn ruma_room_id(room_id: &RoomId) -> Result<OwnedRoomId, FederationError> {
    OwnedRoomId::try_from(room_id.as_str()).map_err(|_| FederationError::Request)
}

pub(super) fn ruma_user_id(user: &UserId) -> Result<OwnedUserId, FederationError> {
    OwnedUserId::try_from(user.as_str()).map_err(|_| FederationError::Request)
}

pub(super) fn ruma_event_id(event_id: &EventId) -> Result<OwnedEventId, FederationError> {
    OwnedEventId::try_from(event_id.as_str()).map_err(|_| FederationError::Request)
}
