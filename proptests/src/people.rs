//! The servers and users of random rooms, with keys made of fixed seeds.

use ravel_core::{
    id::{KeyId, ServerName, UserId},
    signing::{KeyRing, PublishedKey, SigningKey},
};

/// The servers.
pub const SERVERS: [&str; 3] = ["ash.example", "birch.example", "cedar.example"];

/// The users, two of each server. The first creates the rooms.
pub const USERS: [&str; 6] = [
    "@alice:ash.example",
    "@bob:birch.example",
    "@carol:cedar.example",
    "@dave:ash.example",
    "@erin:birch.example",
    "@frank:cedar.example",
];

/// The time of day when the events arrive, in milliseconds since 1970; all of them are older.
pub const NOW_MS: i64 = 1_700_000_000_000;

/// Returns a user by a number of any size.
pub fn user(number: u8) -> &'static str {
    USERS[usize::from(number) % USERS.len()]
}

/// Returns the server of a user.
pub fn server_of(user: &str) -> ServerName {
    ServerName::parse(UserId::parse(user).unwrap().server_name()).unwrap()
}

/// Returns the signing key of a server, or of any other name. It is made of the name alone.
pub fn signing_key(name: &str) -> SigningKey {
    let mut seed = [7; 32];
    for (byte, letter) in seed.iter_mut().zip(name.bytes()) {
        *byte = letter;
    }
    SigningKey::from_seed(KeyId::parse("ed25519:1").unwrap(), &seed)
}

/// Returns the published keys of all servers.
pub fn key_ring() -> KeyRing {
    let mut ring = KeyRing::new();
    for server in SERVERS {
        let key = signing_key(server);
        let published =
            PublishedKey { key: key.verify_key(), valid_until_ts_ms: NOW_MS + 1_000_000, expired_ts_ms: None };
        ring.insert(ServerName::parse(server).unwrap(), key.key_id().clone(), published);
    }
    ring
}
