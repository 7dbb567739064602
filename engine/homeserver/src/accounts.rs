//! Users of this server: accounts, their devices, access tokens.
//!
//! All of it is in the log, as facts ([`fact_kind`]). Whatever depends on what was read is put under the condition that it is still so:
//! of two registrations of one name one succeeds, and nobody logs in with a password that was changed meanwhile.

mod change;
mod error;
mod interactive;
mod localpart;
mod password;
mod records;
mod shared_secret;
mod tokens;
mod values;

use std::sync::Arc;

use bytes::Bytes;
use ravel_core::id::{ServerName, UserId};
use ravel_store::{
    Durability,
    log::{EventLog, Fact, LogError, StoredFact},
};
use ruma::OwnedDeviceId;

use self::{
    change::Change,
    password::Passwords,
    records::{AccountRecord, DeviceRecord, Erased, TokenRecord},
    tokens::{Remembered, TokenHash},
};
pub use self::{
    error::{AccountError, DeviceError, LoginError, RegisterError},
    interactive::{InteractiveAttempt, InteractiveSessions, Purpose},
    password::{PASSWORD_BYTES_MAX, PasswordError},
    records::Role,
    shared_secret::{SharedSecret, SharedSecretError, SignedRegistration},
    values::{Login, NewDevice, PasswordLogin, Registered, Registration, Session},
};
pub use crate::record::RecordError;
use crate::{
    clock::Clock,
    fact_kind,
    random::{Random, random_text},
    record::{all_facts, decode, encode},
    to_device::facts_of_device,
};

/// The most devices of an account.
pub const DEVICES_MAX: usize = 1_000;

/// The longest device id, in bytes.
pub const DEVICE_ID_BYTES_MAX: usize = 255;

/// The longest display name of a device, in bytes.
pub const DISPLAY_NAME_BYTES_MAX: usize = 512;

/// How many sessions are kept in memory.
const REMEMBERED_MAX: usize = 65_536;

/// How often something is tried again because others changed what it depends on.
const TRIES_MAX: usize = 16;

/// What there is to decide about accounts.
#[derive(Clone, Debug)]
pub struct AccountsConfig {
    /// The server's name.
    pub server_name: ServerName,
    /// Whether passwords are hashed as cheaply as possible, for tests of whole servers.
    pub cheap_password_hashes: bool,
}

/// The accounts of a server. Cheap to clone.
#[derive(Clone)]
pub struct Accounts(Arc<Inner>);

struct Inner {
    log: Arc<EventLog>,
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
    server_name: ServerName,
    passwords: Passwords,
    remembered: Remembered,
    interactive: InteractiveSessions,
    is_reserved: Box<dyn Fn(&str) -> bool + Send + Sync>,
}

impl Accounts {
    /// Opens the accounts that a log has.
    pub fn new(log: Arc<EventLog>, clock: Arc<dyn Clock>, random: Arc<dyn Random>, config: AccountsConfig) -> Self {
        Self::with_reserved(log, clock, random, config, |_| false)
    }

    /// As [`new`](Self::new); localparts for which `is_reserved` says so are nobody's to register.
    pub fn with_reserved(
        log: Arc<EventLog>,
        clock: Arc<dyn Clock>,
        random: Arc<dyn Random>,
        config: AccountsConfig,
        is_reserved: impl Fn(&str) -> bool + Send + Sync + 'static,
    ) -> Self {
        let interactive = InteractiveSessions::new(clock.clone(), random.clone());
        Self(Arc::new(Inner {
            log,
            clock,
            random,
            server_name: config.server_name,
            passwords: Passwords::new(config.cheap_password_hashes),
            remembered: Remembered::new(REMEMBERED_MAX),
            interactive,
            is_reserved: Box::new(is_reserved),
        }))
    }

    /// Returns the sessions of user-interactive authentication.
    pub fn interactive(&self) -> &InteractiveSessions {
        &self.0.interactive
    }

    /// Checks that a name could be registered now.
    ///
    /// # Errors
    ///
    /// [`RegisterError`] says why not.
    pub async fn check_username(&self, username: &str) -> Result<(), RegisterError> {
        self.available(username).await.map(drop)
    }

    /// Makes an account.
    ///
    /// # Errors
    ///
    /// [`RegisterError`]; then there is none, except perhaps after an error of the log.
    pub async fn register(&self, registration: Registration) -> Result<Registered, RegisterError> {
        if let Some(device) = &registration.device {
            check_device(device)?;
        }
        let chosen = match &registration.username {
            Some(username) => Some(self.available(username).await?),
            None => None,
        };
        let password_hash = match &registration.password {
            Some(password) if password.is_empty() || password.len() > PASSWORD_BYTES_MAX => {
                return Err(RegisterError::UnusablePassword);
            }
            Some(password) => Some(self.0.passwords.hash(password, &*self.0.random).await?),
            None => None,
        };
        let created_ms = self.0.clock.now_ms();
        let account = AccountRecord { created_ms, role: registration.role, password_hash, is_deactivated: false };
        let account = encode(&account)?;
        for _ in 0..TRIES_MAX {
            let localpart = chosen.clone().unwrap_or_else(|| localpart::generated(&*self.0.random));
            let user_id = self.user_id(&localpart)?;
            let account_key = Bytes::from(localpart.clone());
            let mut change = Change::default();
            change.put(fact_kind::ACCOUNT, account_key, None, Some(account.clone()));
            let login = match &registration.device {
                Some(device) => Some(self.log_in_on(&mut change, &localpart, device, None)?),
                None => None,
            };
            if self.apply(change).await? {
                return Ok(Registered { user_id, login });
            }
            if chosen.is_some() {
                return Err(RegisterError::InUse);
            }
        }
        Err(AccountError::Contended.into())
    }

    /// Makes a guest a user, who logs in by this password from now on; devices stay as they are.
    ///
    /// Source: client-server API, "Guest Access".
    ///
    /// # Errors
    ///
    /// [`RegisterError`]; `InUse` if it is no guest (any more).
    pub async fn promote_guest(&self, guest: &UserId, password: &str) -> Result<(), RegisterError> {
        if password.is_empty() || password.len() > PASSWORD_BYTES_MAX {
            return Err(RegisterError::UnusablePassword);
        }
        let password_hash = Some(self.0.passwords.hash(password, &*self.0.random).await?);
        let key = Bytes::copy_from_slice(guest.localpart().as_bytes());
        let stored = self.0.log.fact(fact_kind::ACCOUNT, &key).await?.ok_or(RegisterError::InUse)?;
        let account: AccountRecord = decode(&stored.value)?;
        if account.role != Role::Guest || account.is_deactivated {
            return Err(RegisterError::InUse);
        }
        let account = AccountRecord { role: Role::User, password_hash, ..account };
        let mut change = Change::default();
        change.put(fact_kind::ACCOUNT, key, Some(stored.value), Some(encode(&account)?));
        // What is remembered of its sessions says that they are a guest's.
        for device in self.devices_of(guest.localpart()).await? {
            let record: DeviceRecord = decode(&device.value)?;
            change.ended.push(TokenHash(record.token_hash));
        }
        if self.apply(change).await? { Ok(()) } else { Err(AccountError::Contended.into()) }
    }

    /// Gives somebody who knows the password an access token for a device. If the device has one already, that ends.
    ///
    /// # Errors
    ///
    /// [`LoginError`]. Whether there is such an account can't be seen from the time it takes.
    pub async fn log_in(&self, login: &PasswordLogin) -> Result<Login, LoginError> {
        check_device(&login.device)?;
        let localpart = localpart::of_login(&login.user, &self.0.server_name);
        let mut checked: Option<Bytes> = None;
        for _ in 0..TRIES_MAX {
            let stored = match &localpart {
                Some(localpart) => self.0.log.fact(fact_kind::ACCOUNT, localpart.as_bytes()).await?,
                None => None,
            };
            let account = match &stored {
                Some(stored) => Some(decode::<AccountRecord>(&stored.value)?),
                None => None,
            };
            let kept = account.as_ref().and_then(|account| account.password_hash.as_deref());
            if checked.is_none() || checked != stored.as_ref().map(|stored| stored.value.clone()) {
                let is_short = login.password.len() <= PASSWORD_BYTES_MAX;
                let is_right = is_short && self.0.passwords.is_right(&login.password, kept).await?;
                if account.as_ref().is_some_and(|account| account.is_deactivated) {
                    return Err(LoginError::Deactivated);
                }
                if !is_right {
                    return Err(LoginError::Refused);
                }
            }
            let (Some(localpart), Some(stored)) = (&localpart, stored) else { return Err(LoginError::Refused) };
            checked = Some(stored.value.clone());
            let known = match &login.device.device_id {
                Some(device_id) => self.0.log.fact(fact_kind::DEVICE, &device_key(localpart, device_id)).await?,
                None => None,
            };
            if known.is_none() && self.devices_of(localpart).await?.len() >= DEVICES_MAX {
                return Err(DeviceError::TooMany.into());
            }
            let mut change = Change::default();
            change.only_if(fact_kind::ACCOUNT, stored);
            let made = self.log_in_on(&mut change, localpart, &login.device, known)?;
            if self.apply(change).await? {
                return Ok(made);
            }
        }
        Err(AccountError::Contended.into())
    }

    /// Returns whose an access token is; `None` if it is nobody's.
    ///
    /// Costs no access to the store for tokens that were used lately.
    ///
    /// # Errors
    ///
    /// [`AccountError`], when the store fails.
    pub async fn authenticate(&self, access_token: &str) -> Result<Option<Session>, AccountError> {
        let token_hash = TokenHash::of(access_token);
        let now_ms = self.0.clock.now_ms();
        let began = match self.0.remembered.get(token_hash, now_ms) {
            Ok(session) => return Ok(Some(session)),
            Err(began) => began,
        };
        let Some(stored) = self.0.log.fact(fact_kind::ACCESS_TOKEN, &token_hash.0).await? else { return Ok(None) };
        let token: TokenRecord = decode(&stored.value)?;
        let Some(account) = self.account(&token.localpart).await? else { return Ok(None) };
        if account.is_deactivated {
            return Ok(None);
        }
        let user_id = self.user_id(&token.localpart)?;
        let session = Session { user_id, device_id: token.device_id.into(), role: account.role };
        self.0.remembered.insert(began, token_hash, session.clone(), now_ms);
        Ok(Some(session))
    }

    /// Ends a device: its access token is not valid when this returns. Nothing happens if there is no such device.
    ///
    /// # Errors
    ///
    /// [`AccountError`]
    pub async fn log_out(&self, session: &Session) -> Result<(), AccountError> {
        let key = device_key(session.user_id.localpart(), &session.device_id);
        for _ in 0..TRIES_MAX {
            let Some(device) = self.0.log.fact(fact_kind::DEVICE, &key).await? else { return Ok(()) };
            let mut change = Change::default();
            change.remove_device(device)?;
            if self.apply(change).await? {
                return Ok(());
            }
        }
        Err(AccountError::Contended)
    }

    /// Ends all devices of a user that there are when this is called.
    ///
    /// # Errors
    ///
    /// [`AccountError`]
    pub async fn log_out_all(&self, user_id: &UserId) -> Result<(), AccountError> {
        for _ in 0..TRIES_MAX {
            let mut change = Change::default();
            for device in self.devices_of(user_id.localpart()).await? {
                change.remove_device(device)?;
            }
            if self.apply(change).await? {
                return Ok(());
            }
        }
        Err(AccountError::Contended)
    }

    /// Whether a password is that of an account that may be logged in to.
    ///
    /// # Errors
    ///
    /// [`AccountError`]
    pub async fn is_password(&self, user_id: &UserId, password: &str) -> Result<bool, AccountError> {
        let account = self.account(user_id.localpart()).await?;
        let kept = account.as_ref().and_then(|account| account.password_hash.as_deref());
        Ok(password.len() <= PASSWORD_BYTES_MAX && self.0.passwords.is_right(password, kept).await?)
    }

    /// Ends an account for good, and all its devices. Its name stays taken. Returns whether there is such an account.
    ///
    /// With `erase`, what the user has sent is not for those who come later (see [`is_erased`](Self::is_erased)).
    ///
    /// # Errors
    ///
    /// [`AccountError`]
    pub async fn deactivate(&self, user_id: &UserId, erase: bool) -> Result<bool, AccountError> {
        for _ in 0..TRIES_MAX {
            let key = Bytes::copy_from_slice(user_id.localpart().as_bytes());
            let Some(stored) = self.0.log.fact(fact_kind::ACCOUNT, &key).await? else { return Ok(false) };
            let account: AccountRecord = decode(&stored.value)?;
            let account = AccountRecord { password_hash: None, is_deactivated: true, ..account };
            let mut change = Change::default();
            if erase {
                let value = Some(encode(&Erased)?);
                change.facts.push(Fact { kind: fact_kind::ERASED_USER, key: key.clone(), value });
            }
            change.put(fact_kind::ACCOUNT, key, Some(stored.value), Some(encode(&account)?));
            for device in self.devices_of(user_id.localpart()).await? {
                change.remove_device(device)?;
            }
            // Devices that logged in since they were looked up go in another round; from the first one on nobody can log in.
            if self.apply(change).await? && self.devices_of(user_id.localpart()).await?.is_empty() {
                return Ok(true);
            }
        }
        Err(AccountError::Contended)
    }

    /// Whether a user of this server wanted to be erased: what it has sent is served redacted, but for those who could see it before.
    ///
    /// Source: client-server API, "POST /_matrix/client/v3/account/deactivate".
    ///
    /// # Errors
    ///
    /// [`AccountError`], when the store fails.
    pub async fn is_erased(&self, user_id: &UserId) -> Result<bool, AccountError> {
        let is_ours = user_id.server_name() == self.0.server_name.as_str();
        Ok(is_ours && self.0.log.fact(fact_kind::ERASED_USER, user_id.localpart().as_bytes()).await?.is_some())
    }

    /// Whether a user has, or had, an account here.
    ///
    /// # Errors
    ///
    /// [`AccountError`], when the store fails.
    pub async fn is_known(&self, user_id: &UserId) -> Result<bool, AccountError> {
        let is_ours = user_id.server_name() == self.0.server_name.as_str();
        Ok(is_ours && self.account(user_id.localpart()).await?.is_some())
    }

    /// Returns the devices of a user with their display names, by id.
    ///
    /// # Errors
    ///
    /// [`AccountError`], when the store fails.
    pub async fn devices(&self, user_id: &UserId) -> Result<Vec<NewDevice>, AccountError> {
        let devices = self.devices_of(user_id.localpart()).await?.into_iter().map(|device| {
            let record: DeviceRecord = decode(&device.value)?;
            let device_id = Some(device_id_of(&device.key));
            Ok(NewDevice { device_id, display_name: record.display_name })
        });
        devices.collect()
    }

    async fn available(&self, username: &str) -> Result<String, RegisterError> {
        let localpart = localpart::of_username(username, &self.0.server_name)?;
        if (self.0.is_reserved)(&localpart) {
            return Err(RegisterError::Exclusive);
        }
        match self.0.log.fact(fact_kind::ACCOUNT, localpart.as_bytes()).await? {
            Some(_) => Err(RegisterError::InUse),
            None => Ok(localpart),
        }
    }

    async fn account(&self, localpart: &str) -> Result<Option<AccountRecord>, AccountError> {
        let stored = self.0.log.fact(fact_kind::ACCOUNT, localpart.as_bytes()).await?;
        Ok(stored.map(|stored| decode(&stored.value)).transpose()?)
    }

    async fn devices_of(&self, localpart: &str) -> Result<Vec<StoredFact>, LogError> {
        all_facts(&self.0.log, fact_kind::DEVICE, &device_key(localpart, "")).await
    }

    /// Adds a device with a new token, in place of what is known of it.
    fn log_in_on(
        &self,
        change: &mut Change,
        localpart: &str,
        device: &NewDevice,
        known: Option<StoredFact>,
    ) -> Result<Login, RecordError> {
        let random = &*self.0.random;
        let device_id = device.device_id.clone();
        let device_id = device_id.unwrap_or_else(|| random_text(random, 10).to_ascii_uppercase().into());
        let access_token = tokens::generate(random);
        let token_hash = TokenHash::of(&access_token);
        let created_ms = self.0.clock.now_ms();
        let token = TokenRecord { created_ms, localpart: localpart.to_owned(), device_id: device_id.to_string() };
        let mut record =
            DeviceRecord { created_ms, display_name: device.display_name.clone(), token_hash: token_hash.0 };
        if let Some(known) = &known {
            let before: DeviceRecord = decode(&known.value)?;
            change.remove_token(TokenHash(before.token_hash));
            record = DeviceRecord { token_hash: token_hash.0, ..before };
        }
        let before = known.map(|known| known.value);
        change.put(fact_kind::DEVICE, device_key(localpart, &device_id), before, Some(encode(&record)?));
        let token_key = Bytes::copy_from_slice(&token_hash.0);
        change.put(fact_kind::ACCESS_TOKEN, token_key, None, Some(encode(&token)?));
        Ok(Login { user_id: self.user_id(localpart)?, device_id, access_token })
    }

    /// Puts a change into the log; returns whether what it depends on was still so.
    async fn apply(&self, change: Change) -> Result<bool, AccountError> {
        if change.facts.is_empty() {
            return Ok(true);
        }
        let inner = self.0.clone();
        // In a task of its own: a request that is given up must not end it between the log and the memory.
        let applied = tokio::spawn(async move {
            let mut facts = change.facts;
            // What waits for a device, and what it has sent, is of no use to another one that gets its name later.
            for device in change.removed {
                for kind in [fact_kind::TO_DEVICE, fact_kind::TRANSACTION] {
                    let of_device = facts_of_device(&inner.log, kind, &device).await?.into_iter();
                    facts.extend(of_device.map(|it| Fact { kind, key: it.key, value: None }));
                }
            }
            let put = inner.log.put_facts(&facts, &change.conditions, Durability::Sync).await;
            inner.remembered.forget(&change.ended);
            put.map(|put| put.is_some())
        });
        Ok(applied.await.map_err(|_| AccountError::Task)??)
    }

    fn user_id(&self, localpart: &str) -> Result<UserId, RecordError> {
        Ok(UserId::parse(&format!("@{localpart}:{}", self.0.server_name))?)
    }
}

fn device_key(localpart: &str, device_id: impl AsRef<str>) -> Bytes {
    [localpart, device_id.as_ref()].join("\0").into()
}

fn device_id_of(key: &[u8]) -> OwnedDeviceId {
    let text = String::from_utf8_lossy(key);
    text.split_once('\0').map_or("", |(_, device_id)| device_id).into()
}

fn check_device(device: &NewDevice) -> Result<(), DeviceError> {
    let is_right = |id: &OwnedDeviceId| !id.as_str().is_empty() && id.as_str().len() <= DEVICE_ID_BYTES_MAX;
    if !device.device_id.as_ref().is_none_or(is_right) {
        return Err(DeviceError::InvalidId);
    }
    let is_short = |name: &String| name.len() <= DISPLAY_NAME_BYTES_MAX;
    if device.display_name.as_ref().is_none_or(is_short) { Ok(()) } else { Err(DeviceError::DisplayNameTooLong) }
}

/// Returns what the account that a fact is of may do.
pub(crate) fn role_of(account: &StoredFact) -> Result<Role, RecordError> {
    Ok(decode::<AccountRecord>(&account.value)?.role)
}

#[cfg(test)]
mod tests;
