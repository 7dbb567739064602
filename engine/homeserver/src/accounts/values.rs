//! What goes into accounts and comes out of them.

use std::fmt;

use ravel_core::id::UserId;
use ruma::OwnedDeviceId;

use super::Role;

/// An account to be made.
#[derive(Clone)]
pub struct Registration {
    /// The wanted name; one is generated if there is none.
    pub username: Option<String>,
    /// The password; without it nobody can log in by password.
    pub password: Option<String>,
    /// What it may do.
    pub role: Role,
    /// Its first device, with an access token; `None` if it gets none.
    pub device: Option<NewDevice>,
}

/// A device that somebody logs in on.
#[derive(Clone, Debug, Default)]
pub struct NewDevice {
    /// Its id; one is generated if there is none.
    pub device_id: Option<OwnedDeviceId>,
    /// Its display name, if it is not known yet.
    pub display_name: Option<String>,
}

/// Somebody who wants to log in by password.
#[derive(Clone)]
pub struct PasswordLogin {
    /// A user id or a localpart.
    pub user: String,
    /// The password.
    pub password: String,
    /// On what.
    pub device: NewDevice,
}

/// An account that was made.
#[derive(Clone, Debug)]
pub struct Registered {
    /// Whose.
    pub user_id: UserId,
    /// Device and access token, if wanted.
    pub login: Option<Login>,
}

/// A device that got an access token.
#[derive(Clone)]
pub struct Login {
    /// Whose.
    pub user_id: UserId,
    /// Which device.
    pub device_id: OwnedDeviceId,
    /// The token. It is nowhere else.
    pub access_token: String,
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { user_id, device_id, access_token: _ } = self;
        f.debug_struct("Login").field("user_id", user_id).field("device_id", device_id).finish_non_exhaustive()
    }
}

/// Whose an access token is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// The user.
    pub user_id: UserId,
    /// The device.
    pub device_id: OwnedDeviceId,
    /// What the user may do.
    pub role: Role,
}
