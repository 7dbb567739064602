//! Why something about accounts is not done.

use ravel_store::log::LogError;

use super::{DEVICE_ID_BYTES_MAX, DEVICES_MAX, DISPLAY_NAME_BYTES_MAX, PASSWORD_BYTES_MAX, PasswordError, RecordError};

/// Why something about accounts can't be done at all.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum AccountError {
    #[error(transparent)]
    Log(#[from] LogError),
    #[error(transparent)]
    Record(#[from] RecordError),
    #[error(transparent)]
    Password(#[from] PasswordError),
    #[error("others change this account all the time")]
    Contended,
    #[error("a task has ended early")]
    Task,
}

/// Why a device can't be logged in on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)]
pub enum DeviceError {
    #[error("the device id is empty or longer than {DEVICE_ID_BYTES_MAX} bytes")]
    InvalidId,
    #[error("the display name is longer than {DISPLAY_NAME_BYTES_MAX} bytes")]
    DisplayNameTooLong,
    #[error("the account has {DEVICES_MAX} devices: log out of some first")]
    TooMany,
}

/// Why an account is not made.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum RegisterError {
    #[error("the name is taken")]
    InUse,
    #[error("a name has one or more of a-z, 0-9 and ._=-/+")]
    InvalidUsername,
    #[error("the name is too long")]
    UsernameTooLong,
    #[error("the name is reserved for an application service")]
    Exclusive,
    #[error("the password is empty or longer than {PASSWORD_BYTES_MAX} bytes")]
    UnusablePassword,
    #[error(transparent)]
    Device(#[from] DeviceError),
    #[error(transparent)]
    Account(#[from] AccountError),
}

/// Why somebody is not logged in.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum LoginError {
    /// There is no such user here, or the password is wrong: which of them is not told.
    #[error("wrong user or password")]
    Refused,
    #[error("the account was deactivated")]
    Deactivated,
    #[error(transparent)]
    Device(#[from] DeviceError),
    #[error(transparent)]
    Account(#[from] AccountError),
}

macro_rules! account_error {
    ($error:ty: $($source:ty),+) => { $(
        impl From<$source> for $error {
            fn from(error: $source) -> Self {
                Self::Account(error.into())
            }
        }
    )+ };
}

account_error!(RegisterError: LogError, RecordError, PasswordError);
account_error!(LoginError: LogError, RecordError, PasswordError);
