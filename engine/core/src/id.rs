//! The identifiers of Matrix, each a type that only parsing can make.
//!
//! Source: appendices, "Identifier grammar".

use std::{borrow::Borrow, fmt, str::FromStr, sync::Arc};

use crate::room_version::RoomVersionRules;

mod server_name;

/// Why a string is not an identifier of the wanted kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a valid {kind}: {why}")]
pub struct InvalidId {
    /// What was wanted, in the specification's words.
    pub kind: &'static str,
    /// What is wrong with it.
    pub why: &'static str,
}

/// The longest identifier, in code points. The limit in bytes depends on the room version and is checked in [`crate::pdu`].
pub const ID_CODE_POINTS_MAX: usize = 255;

macro_rules! identifier {
    ($(#[$doc:meta])* $name:ident, $kind:literal, $check:path) => {
        $(#[$doc])*
        ///
        /// Ordered and hashed by its bytes; cloning shares the string.
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            #[doc = concat!("Parses a ", $kind, ".")]
            ///
            /// # Errors
            ///
            /// [`InvalidId`] says what is wrong. Cost: O(length).
            pub fn parse(id: &str) -> Result<Self, InvalidId> {
                let checked = if id.len() > ID_CODE_POINTS_MAX && id.chars().count() > ID_CODE_POINTS_MAX {
                    Err("longer than 255 code points")
                } else {
                    $check(id)
                };
                match checked {
                    Ok(()) => Ok(Self(Arc::from(id))),
                    Err(why) => Err(InvalidId { kind: $kind, why }),
                }
            }

            /// Makes an identifier of what was parsed as one before.
            #[allow(dead_code, reason = "not every kind of identifier is kept elsewhere")]
            pub(crate) fn of_checked(id: &str) -> Self {
                debug_assert!(Self::parse(id).is_ok(), "{id:?} is not a valid {}", $kind);
                Self(Arc::from(id))
            }

            /// Returns the identifier as on the wire.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;

            fn from_str(id: &str) -> Result<Self, InvalidId> {
                Self::parse(id)
            }
        }

        impl TryFrom<&str> for $name {
            type Error = InvalidId;

            fn try_from(id: &str) -> Result<Self, InvalidId> {
                Self::parse(id)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl From<$name> for Arc<str> {
            fn from(id: $name) -> Self {
                id.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&*self.0, f)
            }
        }
    };
}

identifier! {
    /// An event id: `$opaque`, in room versions 1 and 2 `$opaque:domain`.
    EventId, "event id", check_event_id
}

identifier! {
    /// A room id: `!opaque:domain`, in room version 12 `!opaque`.
    RoomId, "room id", check_room_id
}

identifier! {
    /// A user id: `@localpart:domain`, in the historical grammar: any localpart without `:` and NUL, even an empty one.
    UserId, "user id", check_user_id
}

identifier! {
    /// A server name: host or address, and perhaps a port. Upper case and lower case differ.
    ServerName, "server name", server_name::check
}

identifier! {
    /// A signing key identifier: `algorithm:identifier`.
    KeyId, "key id", check_key_id
}

impl EventId {
    /// Returns the domain of an id of room version 1 or 2, `None` if there is none. It need not be a valid server name.
    pub fn server_name(&self) -> Option<&str> {
        self.0.split_once(':').map(|(_, domain)| domain)
    }
}

impl RoomId {
    /// Returns the domain, `None` if there is none. It need not be a valid server name.
    pub fn server_name(&self) -> Option<&str> {
        self.0.split_once(':').map(|(_, domain)| domain)
    }

    /// Whether the id has the form that the room version demands: a domain up to version 11, a URL-safe hash in version 12.
    ///
    /// Parsing does not ask for this, as events of old rooms have all kinds of ids. Source: appendices, "Room IDs".
    pub fn has_form_of(&self, rules: &RoomVersionRules) -> bool {
        if !rules.room_id_is_create_hash {
            return self.server_name().is_some_and(|domain| server_name::check(domain).is_ok());
        }
        let hash = self.0.get(1..).unwrap_or_default();
        hash.len() == URL_SAFE_HASH_CHARS
            && hash.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
    }
}

impl UserId {
    /// Returns the name of the server that the user belongs to.
    pub fn server_name(&self) -> &str {
        self.split().1
    }

    /// Returns the part between `@` and the first `:`.
    pub fn localpart(&self) -> &str {
        self.split().0
    }

    /// The parts; parsing made sure that both sigil and separator are there.
    fn split(&self) -> (&str, &str) {
        let (localpart, domain) = self.0.split_once(':').unwrap_or_default();
        (localpart.get(1..).unwrap_or_default(), domain)
    }
}

impl KeyId {
    /// Returns the part before the first `:`, such as `ed25519`.
    pub fn algorithm(&self) -> &str {
        self.0.split_once(':').map_or("", |(algorithm, _)| algorithm)
    }
}

/// 32 bytes in unpadded base64.
const URL_SAFE_HASH_CHARS: usize = 43;

fn check_event_id(id: &str) -> Result<(), &'static str> {
    check_opaque(id.strip_prefix('$').ok_or("does not begin with $")?)
}

fn check_room_id(id: &str) -> Result<(), &'static str> {
    check_opaque(id.strip_prefix('!').ok_or("does not begin with !")?)
}

fn check_opaque(rest: &str) -> Result<(), &'static str> {
    if rest.is_empty() {
        return Err("nothing after the sigil");
    }
    if rest.contains('\0') { Err("contains NUL") } else { Ok(()) }
}

/// "servers MUST accept user IDs with localparts consisting of any legal non-surrogate Unicode code points except for `:` and
/// `NUL` (U+0000), including other control characters and the empty string" (appendices, "Historical User IDs").
fn check_user_id(id: &str) -> Result<(), &'static str> {
    let rest = id.strip_prefix('@').ok_or("does not begin with @")?;
    let (localpart, domain) = rest.split_once(':').ok_or("no domain")?;
    if localpart.contains('\0') {
        return Err("contains NUL");
    }
    server_name::check(domain)
}

/// Looser than the grammar in the part after the colon, as it is only ever compared.
fn check_key_id(id: &str) -> Result<(), &'static str> {
    let (algorithm, identifier) = id.split_once(':').ok_or("no colon")?;
    if algorithm.is_empty() || identifier.is_empty() {
        return Err("an empty part");
    }
    if id.contains('\0') { Err("contains NUL") } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::{EventId, KeyId, RoomId, UserId};
    use crate::room_version::RoomVersion;

    #[test]
    fn parts_are_found() {
        let user = UserId::parse("@a:[::1]:8448").unwrap();
        assert_eq!((user.localpart(), user.server_name()), ("a", "[::1]:8448"));
        assert_eq!(EventId::parse("$x:a.b:1").unwrap().server_name(), Some("a.b:1"));
        assert_eq!(EventId::parse("$8yif6p8EqgoSten2BLje9ntKm720NyFLWQv9tn8memc").unwrap().server_name(), None);
        assert_eq!(RoomId::parse("!x:domain").unwrap().server_name(), Some("domain"));
        assert_eq!(KeyId::parse("ed25519:a_b").unwrap().algorithm(), "ed25519");
    }

    #[test]
    fn shown_as_on_the_wire() {
        let id = UserId::parse("@a:domain").unwrap();
        assert_eq!(format!("{id} {id:?}"), "@a:domain \"@a:domain\"");
    }

    #[test]
    fn what_is_no_identifier_is_refused() {
        for id in ["", "$", "x", "!a", "$a\0b"] {
            assert!(EventId::parse(id).is_err(), "{id:?}");
        }
        for id in ["", "!", "$a", "!a\0:b"] {
            assert!(RoomId::parse(id).is_err(), "{id:?}");
        }
        for id in ["", "@", "@a", "@a:", "@a:b:c", "@a\0:b", "a:b", "@a:b_c"] {
            assert!(UserId::parse(id).is_err(), "{id:?}");
        }
        for id in ["", "ed25519", ":1", "ed25519:", "ed25519:\0"] {
            assert!(KeyId::parse(id).is_err(), "{id:?}");
        }
    }

    #[test]
    fn sc_014_lengths_are_bounded_in_code_points() {
        let id = |count: usize, c: &str| format!("${}", c.repeat(count));
        assert!(EventId::parse(&id(254, "a")).is_ok());
        assert!(EventId::parse(&id(255, "a")).is_err());
        assert!(EventId::parse(&id(254, "\u{10000}")).is_ok());
        assert!(EventId::parse(&id(255, "\u{10000}")).is_err());
    }

    #[test]
    fn room_ids_have_the_form_of_their_version() {
        let hash = RoomId::parse("!Nhcu5BS-UMnFX7hBVfVSoXiD7OgH6iRT-xyIuqDnpYQ").unwrap();
        let domain = RoomId::parse("!a:domain").unwrap();
        let v11 = RoomVersion::V11.rules();
        let v12 = RoomVersion::V12.rules();
        assert!(hash.has_form_of(v12) && !hash.has_form_of(v11));
        assert!(domain.has_form_of(v11) && !domain.has_form_of(v12));
    }
}
