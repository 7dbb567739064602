//! Which servers may take part in a room.

use std::sync::{Arc, Mutex, PoisonError};

use ravel_core::{
    canonical_json::{CanonicalJsonObject, CanonicalJsonValue, JsonMode, get_array, get_object, parse_object},
    id::{EventId, RoomId, ServerName},
};
use ruma::events::room::server_acl::RoomServerAclEventContent;

use super::{Rooms, RoomsError};
use crate::federation::is_allowed;

const SERVER_ACL: &str = "m.room.server_acl";

/// What the newest `m.room.server_acl` that was asked for says, with that event.
#[derive(Debug, Default)]
pub(super) struct CurrentAcl(Mutex<Option<(EventId, Arc<RoomServerAclEventContent>)>>);

impl CurrentAcl {
    fn get(&self, event_id: &EventId) -> Option<Arc<RoomServerAclEventContent>> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.as_ref().filter(|(known, _)| known == event_id).map(|(_, acl)| Arc::clone(acl))
    }

    fn set(&self, event_id: EventId, acl: Arc<RoomServerAclEventContent>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some((event_id, acl));
    }
}

impl Rooms {
    /// Whether the room's access control list lets a server take part. Our own always may: it is for others to shut us out.
    ///
    /// Source: client-server API, "Server Access Control Lists (ACLs) for rooms".
    ///
    /// # Errors
    ///
    /// `NoSuchRoom`, and when the log can't be read.
    pub async fn acl_allows(&self, room_id: &RoomId, server: &ServerName) -> Result<bool, RoomsError> {
        if *server == self.0.server_name {
            return Ok(true);
        }
        let (event_id, known) = self
            .read(room_id, |loaded| {
                let event_id = loaded.room.current_state().get(SERVER_ACL, "");
                let known = event_id.as_ref().and_then(|event_id| loaded.acl.get(event_id));
                (event_id, known)
            })
            .await?;
        let Some(event_id) = event_id else { return Ok(true) };
        let acl = match known {
            Some(acl) => acl,
            None => {
                let logged = self.0.log.logged_event(room_id, &event_id).await?;
                let event = logged.and_then(|logged| parse_object(&logged.json?, JsonMode::ByteExact).ok());
                let content = event.as_ref().and_then(|event| get_object(event, "content"));
                let acl = Arc::new(acl_of(content.unwrap_or(&CanonicalJsonObject::new())));
                self.read(room_id, |loaded| loaded.acl.set(event_id.clone(), Arc::clone(&acl))).await?;
                acl
            }
        };
        Ok(is_allowed(&acl, server))
    }
}

/// What is not as the specification says counts as if it was not there: a list that names nobody lets nobody in.
fn acl_of(content: &CanonicalJsonObject) -> RoomServerAclEventContent {
    let names = |field| {
        let names = get_array(content, field).unwrap_or_default().iter();
        names.filter_map(|name| name.as_str().map(str::to_owned)).collect::<Vec<_>>()
    };
    let allow_ip_literals = !matches!(content.get("allow_ip_literals"), Some(CanonicalJsonValue::Bool(false)));
    RoomServerAclEventContent::new(allow_ip_literals, names("allow"), names("deny"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allows(acl: &str, server: &str) -> bool {
        let content = parse_object(acl.as_bytes(), JsonMode::ByteExact).unwrap();
        acl_of(&content).is_allowed(&ruma::ServerName::parse(server).unwrap())
    }

    #[test]
    fn sc_141_sc_143_lists_are_read_as_the_specification_says() {
        for (acl, allowed, denied) in [
            (
                r#"{"allow":["*"],"deny":["evil.com"]}"#,
                &["good.com", "a.evil.com"][..],
                &["EVIL.com", "evil.com:8448"][..],
            ),
            (r#"{"allow":["*"],"deny":["*.evil.com"]}"#, &["evil.com"], &["a.evil.com", "a.b.EVIL.com"]),
            (r#"{"allow":["?.good.com"]}"#, &["a.good.com"], &["ab.good.com", "good.com"]),
            (
                r#"{"allow":["*"],"allow_ip_literals":false}"#,
                &["a.com"],
                &["1.2.3.4", "1.2.3.4:80", "[::1]", "[::1]:80"],
            ),
            (r#"{"allow":["*"],"allow_ip_literals":"no"}"#, &["1.2.3.4"], &[]),
            (r#"{"allow":["a.com",7,null],"deny":"a.com"}"#, &["a.com"], &["b.com"]),
            ("{}", &[], &["a.com"]),
        ] {
            for server in allowed {
                assert!(allows(acl, server), "{acl} {server}");
            }
            for server in denied {
                assert!(!allows(acl, server), "{acl} {server}");
            }
        }
    }

    #[test]
    fn sc_142_a_pattern_takes_no_long_time() {
        let acl = format!(r#"{{"allow":["{}b"]}}"#, "*a".repeat(30_000));
        assert!(!allows(&acl, &"a".repeat(200)));
    }
}
