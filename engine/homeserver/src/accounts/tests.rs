//! Accounts on a store in memory.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use std::{
    sync::atomic::{AtomicI64, Ordering},
    time::Duration,
};

use futures_util::future::{BoxFuture, join_all};
use ravel_store::{KeyRange, Keyspace, MemoryStore, Scan, Store};

use super::*;
use crate::random::OsRandom;

#[derive(Default)]
struct TestClock(AtomicI64);

impl Clock for TestClock {
    fn now_ms(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }

    fn sleep(&self, _: Duration) -> BoxFuture<'static, ()> {
        Box::pin(std::future::ready(()))
    }
}

async fn accounts_of(store: &Arc<MemoryStore>) -> Accounts {
    accounts_with(store, Arc::new(TestClock::default())).await
}

async fn accounts_with(store: &Arc<MemoryStore>, clock: Arc<TestClock>) -> Accounts {
    let log = Arc::new(EventLog::open(store.clone()).await.unwrap());
    let config = AccountsConfig { server_name: ServerName::parse("a.b").unwrap(), cheap_password_hashes: true };
    Accounts::with_reserved(log, clock, Arc::new(OsRandom), config, |localpart| localpart.starts_with("_bridge"))
}

async fn new() -> Accounts {
    accounts_of(&Arc::new(MemoryStore::new())).await
}

fn registration(username: &str) -> Registration {
    Registration {
        username: Some(username.to_owned()),
        password: Some("secret".to_owned()),
        role: Role::User,
        device: Some(NewDevice::default()),
    }
}

async fn register(accounts: &Accounts, username: &str) -> Login {
    accounts.register(registration(username)).await.unwrap().login.unwrap()
}

fn login(user: &str, password: &str, device: Option<&str>) -> PasswordLogin {
    let device = NewDevice { device_id: device.map(Into::into), display_name: Some("new".to_owned()) };
    PasswordLogin { user: user.to_owned(), password: password.to_owned(), device }
}

/// Returns the user of a token, and its device.
async fn who(accounts: &Accounts, token: &str) -> Option<(String, String)> {
    let session = accounts.authenticate(token).await.unwrap()?;
    Some((session.user_id.to_string(), session.device_id.to_string()))
}

#[tokio::test]
async fn accounts_are_made_and_used() {
    let store = Arc::new(MemoryStore::new());
    let accounts = accounts_of(&store).await;
    let alice = register(&accounts, "Alice").await;
    assert_eq!(alice.user_id.as_str(), "@alice:a.b");
    let expected = Some(("@alice:a.b".to_owned(), alice.device_id.to_string()));
    assert_eq!(who(&accounts, &alice.access_token).await, expected);
    assert_eq!(who(&accounts, &alice.access_token).await, expected, "remembered");
    for token in ["", "x", &alice.access_token[1..]] {
        assert_eq!(who(&accounts, token).await, None);
    }
    // Of the log, too, when it is opened again.
    let again = accounts_of(&store).await;
    assert_eq!(who(&again, &alice.access_token).await, expected);
    assert!(matches!(again.register(registration("alice")).await, Err(RegisterError::InUse)));
    again.log_in(&login("alice", "secret", None)).await.unwrap();
}

#[tokio::test]
async fn names_that_can_not_be_had() {
    let accounts = new().await;
    register(&accounts, "alice").await;
    macro_rules! refused {
        ($username:expr, $error:pat) => {
            let username = $username;
            assert!(matches!(accounts.check_username(username).await, Err($error)), "{username}");
            assert!(matches!(accounts.register(registration(username)).await, Err($error)), "{username}");
        };
    }
    refused!("alice", RegisterError::InUse);
    refused!("ALICE", RegisterError::InUse);
    refused!("a b", RegisterError::InvalidUsername);
    refused!("", RegisterError::InvalidUsername);
    refused!(&"a".repeat(256), RegisterError::UsernameTooLong);
    refused!("_bridge_x", RegisterError::Exclusive);
    accounts.check_username("bob").await.unwrap();
}

#[tokio::test]
async fn devices_and_passwords_are_bounded() {
    let accounts = new().await;
    for password in ["", &"x".repeat(1025)] {
        let registration = Registration { password: Some(password.to_owned()), ..registration("a") };
        assert!(matches!(accounts.register(registration).await, Err(RegisterError::UnusablePassword)));
    }
    let long_name = NewDevice { display_name: Some("x".repeat(513)), ..NewDevice::default() };
    let id = |id: &str| NewDevice { device_id: Some(id.into()), ..NewDevice::default() };
    for (device, error) in [
        (long_name, DeviceError::DisplayNameTooLong),
        (id(""), DeviceError::InvalidId),
        (id(&"x".repeat(256)), DeviceError::InvalidId),
    ] {
        let registration = Registration { device: Some(device), ..registration("a") };
        let refused = accounts.register(registration).await.unwrap_err();
        assert!(matches!(refused, RegisterError::Device(found) if found == error), "{refused}");
    }
    let largest = Registration { device: Some(id(&"\0".repeat(255))), ..registration(&"a".repeat(250)) };
    accounts.register(largest).await.unwrap();
}

#[tokio::test]
async fn generated_names_differ() {
    let accounts = new().await;
    let mut names = Vec::new();
    for _ in 0..5 {
        let guest =
            Registration { username: None, password: None, role: Role::Guest, device: Some(NewDevice::default()) };
        let login = accounts.register(guest).await.unwrap().login.unwrap();
        let session = accounts.authenticate(&login.access_token).await.unwrap().unwrap();
        assert_eq!(session.role, Role::Guest);
        // Nobody can log in by password.
        let refused = accounts.log_in(&self::login(login.user_id.as_str(), "", None)).await;
        assert!(matches!(refused, Err(LoginError::Refused)));
        names.push(login.user_id);
    }
    names.sort();
    names.dedup();
    assert_eq!(names.len(), 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn sc_155_one_of_many_registrations_succeeds() {
    let store = Arc::new(MemoryStore::new());
    let accounts = accounts_of(&store).await;
    for round in 0..10 {
        let names = ["name", "NAME", "Name", "naMe"].map(|name| format!("{name}{round}"));
        let racing = join_all(names.iter().map(|name| accounts.register(registration(name)))).await;
        let (made, refused): (Vec<_>, Vec<_>) = racing.into_iter().partition(Result::is_ok);
        assert_eq!((made.len(), refused.len()), (1, 3));
        assert!(refused.iter().all(|refused| matches!(refused, Err(RegisterError::InUse))));
        let made = made[0].as_ref().unwrap().login.as_ref().unwrap();
        assert!(who(&accounts, &made.access_token).await.is_some());
        assert_eq!(accounts.devices(&made.user_id).await.unwrap().len(), 1);
    }
}

#[tokio::test]
async fn logins_are_checked() {
    let accounts = new().await;
    register(&accounts, "alice").await;
    for user in ["alice", "ALICE", "@alice:a.b"] {
        let made = accounts.log_in(&login(user, "secret", None)).await.unwrap();
        assert_eq!(who(&accounts, &made.access_token).await.unwrap().0, "@alice:a.b");
    }
    for (user, password) in [
        ("alice", "Secret"),
        ("alice", ""),
        ("bob", "secret"),
        ("@alice:b.a", "secret"),
        ("alice:a.b", "secret"),
        ("", "secret"),
        ("*)(uid=*", "secret"),
        ("alice", &"x".repeat(100_000)),
    ] {
        let refused = accounts.log_in(&login(user, password, None)).await;
        assert!(matches!(refused, Err(LoginError::Refused)), "{user}");
    }
}

#[tokio::test]
async fn a_device_has_one_token() {
    let accounts = new().await;
    register(&accounts, "alice").await;
    let first = accounts.log_in(&login("alice", "secret", Some("PHONE"))).await.unwrap();
    assert!(who(&accounts, &first.access_token).await.is_some());
    let mut again = login("alice", "secret", Some("PHONE"));
    again.device.display_name = Some("another name".to_owned());
    let second = accounts.log_in(&again).await.unwrap();
    assert_eq!(who(&accounts, &first.access_token).await, None);
    assert_eq!(who(&accounts, &second.access_token).await.unwrap().1, "PHONE");
    let devices = accounts.devices(&second.user_id).await.unwrap();
    assert_eq!(devices.len(), 2);
    let phone = devices.iter().find(|device| device.device_id == Some("PHONE".into())).unwrap();
    assert_eq!(phone.display_name.as_deref(), Some("new"), "the first name stays");
}

#[tokio::test(flavor = "multi_thread")]
async fn racing_logins_on_one_device_leave_one_token() {
    let accounts = new().await;
    let alice = register(&accounts, "alice").await;
    let wanted = login("alice", "secret", Some("PHONE"));
    let racing = join_all((0..6).map(|_| accounts.log_in(&wanted))).await;
    let mut valid = 0;
    for made in racing {
        valid += u32::from(who(&accounts, &made.unwrap().access_token).await.is_some());
    }
    assert_eq!(valid, 1);
    assert!(who(&accounts, &alice.access_token).await.is_some());
}

#[tokio::test]
async fn tokens_end_with_logout() {
    let store = Arc::new(MemoryStore::new());
    let accounts = accounts_of(&store).await;
    let first = register(&accounts, "alice").await;
    let second = accounts.log_in(&login("alice", "secret", None)).await.unwrap();
    let third = accounts.log_in(&login("alice", "secret", None)).await.unwrap();
    // Whose name begins alike.
    let other = register(&accounts, "alice2").await;
    for login in [&first, &second, &third, &other] {
        assert!(who(&accounts, &login.access_token).await.is_some());
    }
    let session = accounts.authenticate(&first.access_token).await.unwrap().unwrap();
    accounts.log_out(&session).await.unwrap();
    accounts.log_out(&session).await.unwrap();
    assert_eq!(who(&accounts, &first.access_token).await, None);
    assert!(who(&accounts, &second.access_token).await.is_some());
    accounts.log_out_all(&session.user_id).await.unwrap();
    let again = accounts_of(&store).await;
    for accounts in [&accounts, &again] {
        assert_eq!(who(accounts, &second.access_token).await, None);
        assert_eq!(who(accounts, &third.access_token).await, None);
        assert!(who(accounts, &other.access_token).await.is_some());
    }
    assert!(accounts.devices(&first.user_id).await.unwrap().is_empty());
}

#[tokio::test]
async fn sc_151_a_deactivated_account_is_refused() {
    let accounts = new().await;
    let alice = register(&accounts, "alice").await;
    let second = accounts.log_in(&login("alice", "secret", None)).await.unwrap();
    assert!(who(&accounts, &second.access_token).await.is_some());
    assert!(accounts.deactivate(&alice.user_id, false).await.unwrap());
    for token in [&alice.access_token, &second.access_token] {
        assert_eq!(who(&accounts, token).await, None);
    }
    for password in ["secret", "wrong"] {
        let refused = accounts.log_in(&login("alice", password, None)).await;
        assert!(matches!(refused, Err(LoginError::Deactivated)));
    }
    assert!(matches!(accounts.register(registration("alice")).await, Err(RegisterError::InUse)));
    assert!(!accounts.deactivate(&UserId::parse("@bob:a.b").unwrap(), true).await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn sc_151_nobody_logs_in_while_the_account_is_deactivated() {
    for _ in 0..20 {
        let accounts = new().await;
        let alice = register(&accounts, "alice").await;
        let wanted = login("alice", "secret", None);
        let (deactivated, logged_in) = tokio::join!(
            accounts.deactivate(&alice.user_id, false),
            join_all((0..3).map(|_| accounts.log_in(&wanted)))
        );
        assert!(deactivated.unwrap());
        for login in logged_in.into_iter().flatten() {
            assert_eq!(who(&accounts, &login.access_token).await, None);
        }
        assert!(accounts.devices(&alice.user_id).await.unwrap().is_empty());
    }
}

#[tokio::test]
async fn sc_150_sc_158_neither_tokens_nor_passwords_are_stored() {
    let store = Arc::new(MemoryStore::new());
    let accounts = accounts_of(&store).await;
    let registration = Registration { password: Some("pass-to-find".to_owned()), ..registration("alice") };
    let made = accounts.register(registration).await.unwrap().login.unwrap();
    let _ = accounts.log_in(&login("alice", "wrong-to-find", None)).await;
    let mut seen = 0;
    for keyspace in Keyspace::ALL {
        for (key, value) in store.scan(Scan::new(*keyspace, KeyRange::all())).await.unwrap().items {
            let text = format!("{} {}", String::from_utf8_lossy(&key), String::from_utf8_lossy(&value));
            assert!(!text.contains("-to-find") && !text.contains(&made.access_token), "{text}");
            seen += 1;
        }
    }
    assert!(seen >= 6, "three facts, each with its entry in the log");
}

#[tokio::test]
async fn sc_153_interactive_sessions_are_used_once() {
    let clock = Arc::new(TestClock::default());
    let accounts = accounts_with(&Arc::new(MemoryStore::new()), clock.clone()).await;
    let sessions = accounts.interactive();
    let name = sessions.begin(Purpose::Register);
    assert!(sessions.resume("another", Purpose::Register).is_none());
    let attempt = sessions.resume(&name, Purpose::Register).unwrap();
    assert!(sessions.resume(&name, Purpose::Register).is_none(), "another request has it");
    drop(attempt);
    sessions.resume(&name, Purpose::Register).unwrap().finish();
    assert!(sessions.resume(&name, Purpose::Register).is_none());
    let late = sessions.begin(Purpose::Register);
    clock.0.store(1_800_000, Ordering::Relaxed);
    assert!(sessions.resume(&late, Purpose::Register).is_none());
}

#[test]
fn sc_167_a_signature_is_good_once() {
    let clock = Arc::new(TestClock::default());
    let secret = SharedSecret::new("reg_secret".to_owned(), clock.clone(), Arc::new(OsRandom));
    let sign = |nonce: &str, username: &str, password: &str, role: &str| {
        use hmac::{Hmac, KeyInit, Mac};
        let mut mac = Hmac::<sha1::Sha1>::new_from_slice(b"reg_secret").unwrap();
        mac.update([nonce, username, password, role].join("\0").as_bytes());
        mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect::<String>()
    };
    let check = |nonce: &str, is_admin: bool, mac: &str| {
        secret.check(&SignedRegistration { nonce, username: "alice", password: "pass", is_admin }, mac)
    };
    let nonce = secret.nonce();
    let mac = sign(&nonce, "alice", "pass", "admin");
    assert_eq!(check(&nonce, true, &mac), Ok(()));
    assert_eq!(check(&nonce, true, &mac), Err(SharedSecretError::UnknownNonce), "a replay");
    assert_eq!(check("x", true, &sign("x", "alice", "pass", "admin")), Err(SharedSecretError::UnknownNonce));
    for wrong in ["", "zz", "abc", &"0".repeat(40), "é"] {
        assert_eq!(check(&secret.nonce(), true, wrong), Err(SharedSecretError::WrongMac), "{wrong}");
    }
    let nonce = secret.nonce();
    assert_eq!(check(&nonce, true, &sign(&nonce, "alice", "pass", "notadmin")), Err(SharedSecretError::WrongMac));
    // The mac of name "alice\0pass" and password "x" is the one of name "alice" and password "pass\0x".
    let nonce = secret.nonce();
    let ambiguous = SignedRegistration { nonce: &nonce, username: "alice", password: "pass\0x", is_admin: false };
    let mac = sign(&nonce, "alice\0pass", "x", "notadmin");
    assert_eq!(secret.check(&ambiguous, &mac), Err(SharedSecretError::WrongMac));
    let nonce = secret.nonce();
    clock.0.store(60_000, Ordering::Relaxed);
    let mac = sign(&nonce, "alice", "pass", "notadmin");
    assert_eq!(check(&nonce, false, &mac), Err(SharedSecretError::UnknownNonce), "too late");
}

#[tokio::test]
async fn a_guest_becomes_a_user_once() {
    let accounts = new().await;
    let guest = Registration { username: None, password: None, role: Role::Guest, device: Some(NewDevice::default()) };
    let guest = accounts.register(guest).await.unwrap().login.unwrap();
    let role = async || accounts.authenticate(&guest.access_token).await.unwrap().unwrap().role;
    assert_eq!(role().await, Role::Guest);
    let empty = accounts.promote_guest(&guest.user_id, "").await;
    assert!(matches!(empty, Err(RegisterError::UnusablePassword)));
    accounts.promote_guest(&guest.user_id, "secret").await.unwrap();
    assert_eq!(role().await, Role::User, "what was remembered is forgotten");
    let device = guest.device_id.as_str();
    accounts.log_in(&login(guest.user_id.as_str(), "secret", Some(device))).await.unwrap();
    for user in [guest.user_id, register(&accounts, "alice").await.user_id] {
        let again = accounts.promote_guest(&user, "other").await;
        assert!(matches!(again, Err(RegisterError::InUse)), "{again:?}");
    }
}
