//! Names of accounts.

use ravel_core::id::{ServerName, UserId};

use super::RegisterError;
use crate::random::{Random, random_text};

/// "the length of a user ID, including the `@` sigil and the domain, MUST NOT exceed 255 bytes" (appendices, "User Identifiers").
const USER_ID_BYTES_MAX: usize = 255;

/// Returns the localpart for a wanted name, which differs in case at most.
///
/// Source: appendices, "User Identifiers": `user_id_char = DIGIT / %x61-7A / "-" / "." / "=" / "_" / "/" / "+"`.
pub(super) fn of_username(username: &str, server_name: &ServerName) -> Result<String, RegisterError> {
    let localpart = username.to_ascii_lowercase();
    let is_right = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-.=_/+".contains(&byte);
    if localpart.is_empty() || !localpart.bytes().all(is_right) {
        return Err(RegisterError::InvalidUsername);
    }
    let bytes = localpart.len() + server_name.as_str().len() + "@:".len();
    if bytes > USER_ID_BYTES_MAX { Err(RegisterError::UsernameTooLong) } else { Ok(localpart) }
}

/// Returns the localpart that somebody who logs in means: what they entered is a user id or a localpart, and in any case. `None` if it
/// is no user of this server's.
pub(super) fn of_login(user: &str, server_name: &ServerName) -> Option<String> {
    let localpart = match user.strip_prefix('@') {
        Some(_) => {
            let user_id = UserId::parse(user).ok()?;
            if user_id.server_name() != server_name.as_str() {
                return None;
            }
            user_id.localpart().to_owned()
        }
        None => user.to_owned(),
    };
    of_username(&localpart, server_name).ok()
}

/// Returns a localpart that nobody has chosen.
pub(super) fn generated(random: &dyn Random) -> String {
    random_text(random, 16).to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server() -> ServerName {
        ServerName::parse("a.b:1").unwrap()
    }

    #[test]
    fn names_are_checked() {
        let long = "x".repeat(248);
        let too_long = "x".repeat(249);
        for (username, expected) in [
            ("alice", Some("alice")),
            ("Alice", Some("alice")),
            ("a-b.c=d_e/f+0", Some("a-b.c=d_e/f+0")),
            ("7", Some("7")),
            ("", None),
            (" ", None),
            ("a:b", None),
            ("@a", None),
            ("ä", None),
            ("a\n", None),
            ("a\0", None),
            ("İ", None),
            (&long[..], Some(&long[..])),
            (&too_long, None),
        ] {
            assert_eq!(of_username(username, &server()).ok().as_deref(), expected, "{username:?}");
        }
        assert!(UserId::parse(&format!("@{long}:a.b:1")).is_ok());
    }

    #[test]
    fn logins_name_users() {
        for (user, expected) in [
            ("alice", Some("alice")),
            ("ALICE", Some("alice")),
            ("@alice:a.b:1", Some("alice")),
            ("@Alice:a.b:1", Some("alice")),
            ("@alice:a.b", None),
            ("@alice:A.B:1", None),
            ("@alice", None),
            ("@:a.b:1", None),
            ("", None),
            ("alice:a.b:1", None),
        ] {
            assert_eq!(of_login(user, &server()).as_deref(), expected, "{user}");
        }
    }
}
