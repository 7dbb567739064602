//! Profiles of this server's users: display names, avatars, and what else they tell about themselves.
//!
//! Source: client-server API, "Profiles".

use std::sync::Arc;

use bytes::Bytes;
use ravel_core::{
    canonical_json::{CanonicalJsonObject, CanonicalJsonValue},
    id::{ServerName, UserId},
};
use ravel_store::{
    Durability,
    log::{EventLog, Fact, LogError},
};
use ruma::{OwnedUserId, api::federation::query::get_profile_information};
use serde_json::{Map, Value};

use crate::{
    accounts::AccountError,
    fact_kind,
    federation::{FederationError, SendOptions},
    homeserver::Homeserver,
    network::RequestLimits,
    record::{RecordError, all_facts, decode_json, encode_json, key, key_parts},
    rooms::{Rooms, RoomsError},
};

/// The fields that go into member events.
const IN_ROOMS: [&str; 2] = ["displayname", "avatar_url"];

/// "the maximum total profile size is 64 KiB" of canonical JSON (client-server API, "Profiles").
pub const PROFILE_BYTES_MAX: usize = 65_536;

/// "Each field [...] The length of its name must not exceed 255 bytes".
pub const FIELD_NAME_BYTES_MAX: usize = 255;

/// The longest display name or avatar, in bytes: they go into events.
pub const IN_ROOMS_BYTES_MAX: usize = 1_024;

/// Why something about a profile is not done.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum ProfileError {
    #[error("the name of the field is empty or longer than {FIELD_NAME_BYTES_MAX} bytes")]
    FieldName,
    #[error("the value of the field is longer than {IN_ROOMS_BYTES_MAX} bytes or no text")]
    FieldValue,
    #[error("the profile would be larger than {PROFILE_BYTES_MAX} bytes")]
    TooLarge,
    #[error(transparent)]
    Account(#[from] AccountError),
    #[error(transparent)]
    Federation(#[from] FederationError),
    #[error(transparent)]
    Log(#[from] LogError),
    #[error(transparent)]
    Record(#[from] RecordError),
    #[error(transparent)]
    Rooms(#[from] RoomsError),
}

/// The profiles of a server's users. Cheap to clone.
#[derive(Clone)]
pub struct Profiles {
    log: Arc<EventLog>,
    rooms: Rooms,
}

impl Profiles {
    /// Opens the profiles that a log has.
    pub fn new(log: Arc<EventLog>, rooms: Rooms) -> Self {
        Self { log, rooms }
    }

    /// Returns what a user of this server tells about itself, by field; nothing if it tells nothing, or if there is no such user.
    ///
    /// # Errors
    ///
    /// When the log can't be read.
    pub async fn get(&self, user: &UserId) -> Result<Map<String, Value>, ProfileError> {
        let facts = all_facts(&self.log, fact_kind::PROFILE_FIELD, &prefix(user)).await?.into_iter().map(|fact| {
            let [_, field] = key_parts(&fact.key)?;
            Ok((field.to_owned(), decode_json(&fact.value)?))
        });
        Ok(facts.collect::<Result<_, RecordError>>()?)
    }

    /// Sets a field of a user's profile, or removes it. A new name or avatar is told to the rooms that the user has joined before this
    /// returns.
    ///
    /// # Errors
    ///
    /// [`ProfileError`] says what can't be. A room that can't be written to is an error too; the field is set then.
    pub async fn set(&self, user: &UserId, field: &str, value: Option<Value>) -> Result<(), ProfileError> {
        if field.is_empty() || field.len() > FIELD_NAME_BYTES_MAX || field.contains('\0') {
            return Err(ProfileError::FieldName);
        }
        let is_in_rooms = IN_ROOMS.contains(&field);
        // An empty name is none: clients have no other way to remove it where removing is not known.
        let value = value.filter(|value| !(is_in_rooms && value.as_str() == Some("")));
        let is_short = |value: &Value| value.as_str().is_some_and(|text| text.len() <= IN_ROOMS_BYTES_MAX);
        if is_in_rooms && !value.as_ref().is_none_or(is_short) {
            return Err(ProfileError::FieldValue);
        }
        let mut profile = self.get(user).await?;
        let before = match &value {
            Some(value) => profile.insert(field.to_owned(), value.clone()),
            None => profile.remove(field),
        };
        if before == value {
            return Ok(());
        }
        if value.is_some() && serde_json::to_vec(&profile).map_err(RecordError::from)?.len() > PROFILE_BYTES_MAX {
            return Err(ProfileError::TooLarge);
        }
        let stored = value.as_ref().map(encode_json).transpose()?;
        let fact = Fact { kind: fact_kind::PROFILE_FIELD, key: key(&[user.localpart(), field]), value: stored };
        self.log.put_facts(&[fact], &[], Durability::Sync).await?;
        if is_in_rooms {
            // To its end, even if nobody waits for it any more.
            let (rooms, user, content) = (self.rooms.clone(), user.clone(), in_rooms(&profile));
            let told = tokio::spawn(async move { rooms.update_profile(&user, &content).await });
            told.await.map_err(|_| RoomsError::Panicked)??;
        }
        Ok(())
    }

    /// Returns what a member event of a user says beside its membership: name and avatar, of a user of this server who has some.
    ///
    /// # Errors
    ///
    /// When the log can't be read.
    pub async fn member_content(&self, user: &UserId) -> Result<CanonicalJsonObject, ProfileError> {
        // Other servers' users are looked up nowhere: their keys are in no fact, unless somebody here has the same localpart.
        if user.server_name() != self.rooms.server_name().as_str() {
            return Ok(CanonicalJsonObject::new());
        }
        Ok(in_rooms(&self.get(user).await?))
    }
}

impl Homeserver {
    /// Returns what a user tells about itself: what is known here, or what its server answers. `None` if there is no such user.
    ///
    /// # Errors
    ///
    /// `Federation` if the other server does not answer, or tells too much.
    pub async fn profile_of(&self, user: &UserId) -> Result<Option<Map<String, Value>>, ProfileError> {
        if user.server_name() == self.server_name.as_str() {
            let is_known = self.accounts.is_known(user).await?;
            return Ok(if is_known { Some(self.profiles.get(user).await?) } else { None });
        }
        let (Ok(server), Ok(user_id)) = (ServerName::parse(user.server_name()), OwnedUserId::try_from(user.as_str()))
        else {
            return Ok(None);
        };
        let limits = RequestLimits { answer_bytes: ANSWER_BYTES_MAX, ..RequestLimits::default() };
        let options = SendOptions { limits, ignore_back_off: true };
        let answer = self.client.send(&server, get_profile_information::v1::Request::new(user_id), options).await;
        let profile = match answer {
            Err(FederationError::Remote(error)) if error.status == http::StatusCode::NOT_FOUND => return Ok(None),
            answer => answer?,
        };
        let fields = profile.iter().map(|(field, value)| (field.clone(), value.clone()));
        Ok(Some(fields.collect()))
    }
}

/// The longest answer about a profile: 64 KiB of canonical JSON may be written with more.
const ANSWER_BYTES_MAX: usize = 4 * PROFILE_BYTES_MAX;

fn in_rooms(profile: &Map<String, Value>) -> CanonicalJsonObject {
    let text = |field: &str| Some((field.into(), CanonicalJsonValue::from(profile.get(field)?.as_str()?)));
    IN_ROOMS.into_iter().filter_map(text).collect()
}

fn prefix(user: &UserId) -> Bytes {
    key(&[user.localpart(), ""])
}
