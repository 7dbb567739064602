//! The kinds of facts that the log keeps beside events: what each is about, its keys and its values.
//!
//! A kind is never used for anything else, even when nothing is written under it any more. Values begin with a version.

/// Accounts of this server: localpart → how they log in, and whether they may. It stays when an account is deactivated, so that nobody
/// else gets its name.
pub const ACCOUNT: u8 = 1;

/// Devices: localpart, NUL, device id → display name and access token. A localpart has no NUL.
pub const DEVICE: u8 = 2;

/// Access tokens: SHA-256 of the token → whose it is.
pub const ACCESS_TOKEN: u8 = 3;

/// Users of this server whose content is not for those who come later: localpart → nothing.
pub const ERASED_USER: u8 = 4;

/// Profiles of users of this server: localpart, NUL, field → its value in JSON.
pub const PROFILE_FIELD: u8 = 10;

/// Rooms that users of this server forgot: localpart, NUL, room id → the member event by which the user was out of the room, in JSON. It
/// counts as long as that is the user's member event in the current state.
pub const FORGOTTEN_ROOM: u8 = 11;

/// Filters: localpart, NUL, filter id → the filter in JSON.
pub const FILTER: u8 = 12;

/// Account data: localpart, NUL, room id or nothing, NUL, type → content in JSON.
pub const ACCOUNT_DATA: u8 = 13;

/// Receipts: room id, NUL, user id, NUL, receipt type, NUL, thread or nothing → the event up to which was read, and when.
pub const RECEIPT: u8 = 14;

/// Aliases of this server: alias → its room, and who made it.
pub const ALIAS: u8 = 20;

/// The aliases of a room: room id, NUL, alias → nothing. Put and removed together with [`ALIAS`].
pub const ROOM_ALIAS: u8 = 21;

/// Rooms on the list of published rooms: room id → nothing.
pub const PUBLISHED_ROOM: u8 = 22;

/// How far a server was told what it is to be told, of those that lag behind: server name → a place in the log.
pub const TOLD: u8 = 30;

/// How far all other servers were told: nothing → a place in the log.
pub const TOLD_ALL: u8 = 31;

/// Events of other servers that came into a room through this one, until all others were told of them: room id, NUL, event id → nothing.
pub const PASSED_ON: u8 = 32;

/// Messages that wait for a device of this server: localpart, NUL, device id, NUL, a name → the event in JSON. The order is that of the
/// log.
pub const TO_DEVICE: u8 = 33;

/// EDUs that are sent to another server even if this one is stopped before: server name, NUL, a name → the EDU in JSON. The order is that of
/// the log.
pub const OUTGOING_EDU: u8 = 34;

/// What became of clients' requests with transaction ids: localpart, NUL, device id, NUL, a hash of path and transaction id → the id of the
/// event that was sent, in JSON.
pub const TRANSACTION: u8 = 35;

/// Events of other servers that wait for what they build on: room id, NUL, event id → the event, and when it is tried again.
pub const GAP: u8 = 40;

/// Memberships of users of this server in rooms that it is not in: localpart, NUL, room id → the membership, its event, and what tells
/// which room it is, in JSON.
pub const OUTSIDE_MEMBERSHIP: u8 = 50;

/// Members of a room who are users of this server: room id, NUL, localpart → the membership and its event, in the current state that
/// [`LOCAL_MEMBERS`] names.
pub const LOCAL_MEMBER: u8 = 51;

/// The current state for which a room's members who are users of this server were kept: room id → its fingerprint.
pub const LOCAL_MEMBERS: u8 = 52;

/// Files that are kept here: server name, NUL, media id → what the file is, and the SHA-256 of its content, by which it is in the folder of
/// files. It is written after the file.
pub const MEDIA: u8 = 60;

/// Thumbnails of files: server name, NUL, media id, NUL, size → as [`MEDIA`].
pub const THUMBNAIL: u8 = 61;

#[cfg(test)]
mod tests {
    #[test]
    fn no_two_kinds_have_the_same_number() {
        let numbers =
            include_str!("fact_kind.rs").lines().filter_map(|line| line.strip_prefix("pub const ")?.split_once(" = "));
        let mut numbers: Vec<&str> = numbers.map(|(_, number)| number).collect();
        let count = numbers.len();
        numbers.sort_unstable();
        numbers.dedup();
        assert!(count > 10 && numbers.len() == count, "{numbers:?}");
    }
}
