//! The signature of a room's policy server.
//!
//! Source: server-server API, "Policy Servers"; client-server API, "Policy Servers".

use super::{PduError, VerifiedPdu};
use crate::{
    canonical_json::{CanonicalJsonObject, get_object, get_str, object_to_canonical_bytes},
    event::{Event, event_type},
    id::ServerName,
    signing::{VerifyKey, add_signature, decode_base64_array, verify_event},
};

/// "The Key ID for the `ed25519` key in `m.room.policy` is *always* `ed25519:policy_server`."
pub const POLICY_KEY_ID: &str = "ed25519:policy_server";

/// The server that checks the events of a room, as `m.room.policy` names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyServer {
    /// `via`: its name.
    pub via: ServerName,
    /// `public_keys.ed25519`. `None` if that text is no key: then no signature is valid.
    pub key: Option<VerifyKey>,
}

impl PolicyServer {
    /// Reads the content of `m.room.policy`. `None` if the event is not valid: then the room uses no policy server.
    ///
    /// "Valid means `content` contains at least: A string value for `via`. An object value for `public_keys` containing at least a string
    /// value for `ed25519`." (What is no server's name is no name of a server that has joined.)
    pub fn of_content(content: &CanonicalJsonObject) -> Option<Self> {
        let via = ServerName::parse(get_str(content, "via")?).ok()?;
        let key = get_str(get_object(content, "public_keys")?, "ed25519")?;
        Some(Self { via, key: VerifyKey::from_base64(key).ok() })
    }

    /// Whether a policy server has to sign an event: all but the one that names it.
    pub fn is_to_sign(event: &Event) -> bool {
        !event.is_state(event_type::POLICY, "")
    }

    /// Whether the server has signed an event, by the key that the room's state has. Costs reading the event and one signature check.
    pub fn has_signed(&self, pdu: &VerifiedPdu) -> bool {
        pdu.object().is_ok_and(|object| self.is_signature_valid(pdu, &object))
    }

    /// Returns an event with the signature that the server has answered, beside those that it has; `None` if it is not valid.
    ///
    /// # Errors
    ///
    /// When the event gets too large by it.
    pub fn add_signature(&self, pdu: &VerifiedPdu, signature: &str) -> Result<Option<VerifiedPdu>, PduError> {
        let mut object = pdu.object()?;
        let added = decode_base64_array(signature)
            .is_some_and(|signature| add_signature(&mut object, &self.via, POLICY_KEY_ID, &signature).is_ok());
        if !added || !self.is_signature_valid(pdu, &object) {
            return Ok(None);
        }
        let json = object_to_canonical_bytes(&object);
        VerifiedPdu::restore(&json, &pdu.rules, pdu.authorising_user_signed, pdu.content_hash_matched).map(Some)
    }

    fn is_signature_valid(&self, pdu: &VerifiedPdu, object: &CanonicalJsonObject) -> bool {
        let Some(key) = &self.key else { return false };
        verify_event(object, &pdu.rules, self.via.as_str(), POLICY_KEY_ID, key).is_ok()
    }
}
