//! Backups of logs in memory to places in memory and in folders.

mod purges;

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::Arc,
};

use age::secrecy::ExposeSecret;
use ravel_store::{KeyRange, Keyspace, MemoryStore, Scan, Store, StoreExt, block_on};

use super::*;
use crate::{
    command::replay::{Options as ReplayOptions, replay_room},
    recorded_room::RecordedRoom,
};
use ravel_store::log::EventLog;

const FED: &str = "fed-16-v12";
const FORGED: &str = "forged-20-v12";

fn recorded(name: &str) -> RecordedRoom {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../proptests/corpus");
    RecordedRoom::read(&corpus.join(format!("{name}.jsonl.gz"))).unwrap()
}

fn store() -> Arc<dyn Store> {
    Arc::new(MemoryStore::new())
}

fn open(store: &Arc<dyn Store>) -> EventLog {
    block_on(EventLog::open(store.clone())).unwrap()
}

/// Takes a room into a log; its first `events` events only.
fn add(store: &Arc<dyn Store>, name: &str, events: usize) {
    let mut room = recorded(name);
    room.events.truncate(events);
    replay_room(&room, &open(store), &ReplayOptions::default(), |_| {}).unwrap();
}

fn contents(store: &Arc<dyn Store>) -> Vec<(Keyspace, ravel_store::Bytes, ravel_store::Bytes)> {
    let all = Keyspace::ALL.iter().flat_map(|keyspace| {
        let items = block_on(store.scan_all(Scan::new(*keyspace, KeyRange::all()))).unwrap();
        items.into_iter().map(|(key, value)| (*keyspace, key, value))
    });
    all.collect()
}

fn memory() -> Place {
    Place::open_or_create(&PlaceName::Memory).unwrap()
}

/// Many segments for small rooms.
fn small() -> Options {
    Options { segment_entries_max: 7, ..Options::default() }
}

fn back_up(store: &Arc<dyn Store>, place: &Place, options: &Options) -> Made {
    make(&open(store), place, options, |_| {}).unwrap()
}

#[track_caller]
fn check_restored(place: &Place, identities: &Identities, expected: &Arc<dyn Store>) {
    let target = store();
    let restored = restore_into(place, identities, &target).unwrap();
    assert!(restored.problems.is_empty(), "{:?}", restored.problems);
    assert!(contents(&target) == contents(expected));
}

fn restore_into(place: &Place, identities: &Identities, target: &Arc<dyn Store>) -> Result<Restored, BackupError> {
    let log = block_on(EventLog::open_to_restore(target.clone())).unwrap();
    Backup::open(place, identities)?.restore(log, |_, _| {})
}

fn names(place: &Place) -> Vec<String> {
    let mut names: Vec<String> = place.list().unwrap().into_iter().map(|(name, _)| name).collect();
    names.sort();
    names
}

#[test]
fn a_restored_log_is_the_same_byte_for_byte() {
    let (source, place) = (store(), memory());
    add(&source, FED, 200);
    add(&source, FORGED, 200);
    let made = back_up(&source, &place, &small());
    assert_eq!((made.manifest.position, made.manifest.segments.len(), made.segments_added), (280, 40, 40));
    check_restored(&place, &Identities::default(), &source);
    let none = Identities::default();
    let backup = Backup::open(&place, &none).unwrap();
    assert!(backup.verify(|_, _| {}).unwrap().is_empty());
}

#[test]
fn an_empty_log_has_a_backup_too() {
    let (source, place) = (store(), memory());
    assert_eq!(back_up(&source, &place, &small()).manifest.position, 0);
    check_restored(&place, &Identities::default(), &source);
    add(&source, FED, 30);
    assert_eq!(back_up(&source, &place, &small()).segments_added, 5);
    check_restored(&place, &Identities::default(), &source);
}

#[test]
fn a_second_run_adds_what_is_new() {
    let (source, place) = (store(), memory());
    add(&source, FED, 50);
    back_up(&source, &place, &small());
    let before = names(&place);
    let again = back_up(&source, &place, &small());
    assert_eq!((again.segments_added, names(&place)), (0, before.clone()));
    add(&source, FED, 96);
    add(&source, FORGED, 5);
    let made = back_up(&source, &place, &small());
    assert_eq!((made.position_before, made.manifest.position, made.segments_added), (51, 103, 8));
    let segments = |names: Vec<String>| names.into_iter().filter(|name| name.contains("/log-")).collect::<Vec<_>>();
    assert!(segments(names(&place)).starts_with(&segments(before)));
    check_restored(&place, &Identities::default(), &source);
}

/// Whatever is appended while a backup is made, it has what was there when it began, and the fingerprints of that.
#[test]
fn others_may_append_meanwhile() {
    let (source, then, place) = (store(), store(), memory());
    add(&source, FORGED, 100);
    add(&then, FORGED, 100);
    let log = open(&source);
    let mut more = (101..=182).chain(std::iter::repeat(182));
    let made = make(&log, &place, &small(), |_| add(&source, FORGED, more.next().unwrap())).unwrap();
    assert!(open(&source).len() > made.manifest.position);
    assert_eq!(made.manifest.position, 101);
    check_restored(&place, &Identities::default(), &then);
    back_up(&source, &place, &small());
    check_restored(&place, &Identities::default(), &source);
}

/// Runs that end after each possible segment, and the next one that takes up what they left.
#[test]
fn an_interrupted_backup_is_taken_up() {
    let source = store();
    add(&source, FED, 200);
    for after in 1..14 {
        let place = memory();
        let mut calls = 0;
        let stop = |_| {
            calls += 1;
            assert!(calls <= after, "killed");
        };
        let options = Options { segment_entries_max: 2, ..Options::default() };
        let log = open(&source);
        // Three segments at each call, so that some are noted and some are not.
        let killed = catch_unwind(AssertUnwindSafe(|| make(&log, &place, &options, stop)));
        assert!(killed.is_err());
        assert!(matches!(Backup::open(&place, &Identities::default()), Err(BackupError::NoBackup(_))));
        back_up(&source, &place, &options);
        check_restored(&place, &Identities::default(), &source);
    }
}

#[test]
fn a_long_run_that_was_interrupted_does_not_begin_again() {
    let (source, place) = (store(), memory());
    add(&source, FED, 200);
    let options = Options { segment_entries_max: 1, ..Options::default() };
    let mut segments = 0;
    let stop = |_| {
        segments += 1;
        assert!(segments <= 50, "killed");
    };
    let log = open(&source);
    assert!(catch_unwind(AssertUnwindSafe(|| make(&log, &place, &options, stop))).is_err());
    // 97 entries, and 48 segments were noted.
    assert_eq!(back_up(&source, &place, &options).segments_added, 97 - 48);
    assert!(!names(&place).iter().any(|name| name.contains("unfinished")));
    check_restored(&place, &Identities::default(), &source);
}

/// A run that is killed while the backup is begun anew leaves the old one whole.
#[test]
fn beginning_anew_replaces_the_backup_in_the_end() {
    let (source, place) = (store(), memory());
    add(&source, FED, 50);
    back_up(&source, &place, &small());
    let old = names(&place);
    let mut calls = 0;
    let stop = |_| {
        calls += 1;
        assert!(calls < 5, "killed");
    };
    let full = Options { full: true, ..small() };
    let log = open(&source);
    assert!(catch_unwind(AssertUnwindSafe(|| make(&log, &place, &full, stop))).is_err());
    assert!(names(&place).len() > old.len());
    check_restored(&place, &Identities::default(), &source);
    let made = back_up(&source, &place, &full);
    assert_eq!((made.manifest.series, made.position_before, made.manifest.position), (2, 0, 51));
    assert!(names(&place).iter().all(|name| name == "latest" || name.starts_with("series-2/")), "{:?}", names(&place));
    check_restored(&place, &Identities::default(), &source);
}

#[test]
fn sc_233_an_interrupted_restore_goes_on_and_nobody_takes_it_for_whole() {
    let (source, place) = (store(), memory());
    add(&source, FED, 200);
    add(&source, FORGED, 200);
    back_up(&source, &place, &small());
    let (target, none) = (store(), Identities::default());
    for entries in (20..280).step_by(37) {
        let log = block_on(EventLog::open_to_restore(target.clone())).unwrap();
        let killed = catch_unwind(AssertUnwindSafe(|| {
            let backup = Backup::open(&place, &none);
            backup.and_then(|backup| backup.restore(log, |done, _| assert!(done < entries, "killed")).map(drop))
        }));
        assert!(killed.is_err());
        assert!(matches!(block_on(EventLog::open(target.clone())), Err(LogError::Restoring)));
    }
    let restored = restore_into(&place, &Identities::default(), &target).unwrap();
    assert!(restored.entries_before > 200);
    assert!(contents(&target) == contents(&source));
    // Once more is nothing more, nor after something else was written; and a later backup adds to it.
    restore_into(&place, &Identities::default(), &target).unwrap();
    let gone_on = store();
    restore_into(&place, &none, &gone_on).unwrap();
    add(&gone_on, "fed-01-v2", 30);
    let before = contents(&gone_on);
    assert!(matches!(restore_into(&place, &none, &gone_on), Err(BackupError::OtherTarget { .. })));
    assert!(contents(&gone_on) == before);
    add(&source, "fed-01-v2", 60);
    back_up(&source, &place, &small());
    restore_into(&place, &Identities::default(), &target).unwrap();
    assert!(contents(&target) == contents(&source));
}

#[test]
fn another_database_is_refused_on_both_ends() {
    let (source, other, place) = (store(), store(), memory());
    add(&source, FED, 60);
    add(&other, FORGED, 180);
    back_up(&source, &place, &small());
    let refused = make(&open(&other), &place, &small(), |_| {}).unwrap_err();
    assert!(matches!(refused, BackupError::OtherLog { entries: 61, len: 181, .. }), "{refused}");
    // One that ends earlier, too: it may be the same one, but of long ago.
    let earlier = store();
    add(&earlier, FED, 50);
    let refused = make(&open(&earlier), &place, &small(), |_| {}).unwrap_err();
    assert!(matches!(refused, BackupError::OtherLog { entries: 61, len: 51, .. }), "{refused}");
    for target in [&other, &{
        let target = store();
        add(&target, FORGED, 3);
        target
    }] {
        let before = contents(target);
        let refused = restore_into(&place, &Identities::default(), target).unwrap_err();
        assert!(matches!(refused, BackupError::OtherTarget { entries: 61, .. }), "{refused}");
        assert!(contents(target) == before);
    }
    check_restored(&place, &Identities::default(), &source);
}

/// What a purge does: an entry in the middle is another one now.
#[test]
fn a_backup_does_not_keep_what_the_log_has_no_more() {
    let (source, place) = (store(), memory());
    add(&source, FED, 60);
    back_up(&source, &place, &small());
    add(&source, FED, 90);
    let mut batch = ravel_store::Batch::new();
    batch.put(Keyspace::Log, ravel_store::Bytes::copy_from_slice(&20_u64.to_be_bytes()), &b"purged"[..]);
    assert!(block_on(source.commit(batch)).unwrap().is_written());
    let refused = make(&open(&source), &place, &small(), |_| {}).unwrap_err();
    assert!(matches!(refused, BackupError::OtherLog { entries: 61, len: 91, .. }), "{refused}");
}

fn identity(folder: &tempfile::TempDir, name: &str) -> (String, Identities) {
    let identity = age::x25519::Identity::generate();
    let path = folder.path().join(name);
    std::fs::write(&path, format!("# made for a test\n{}\n", identity.to_string().expose_secret())).unwrap();
    (identity.to_public().to_string(), Identities::read(&path).unwrap())
}

#[test]
fn an_encrypted_backup_opens_with_each_of_its_identities_only() {
    let folder = tempfile::tempdir().unwrap();
    let [(one, one_opens), (two, two_opens), (_, other)] = ["one", "two", "other"].map(|name| identity(&folder, name));
    let (source, place) = (store(), memory());
    add(&source, FED, 200);
    let recipients = Recipients::parse(&[one, two]).unwrap();
    let options = Options { recipients, ..small() };
    back_up(&source, &place, &options);
    check_restored(&place, &one_opens, &source);
    check_restored(&place, &two_opens, &source);
    let target = store();
    assert!(matches!(restore_into(&place, &other, &target), Err(BackupError::WrongIdentity { .. })));
    assert!(matches!(restore_into(&place, &Identities::default(), &target), Err(BackupError::IdentityMissing(_))));
    assert!(contents(&target).is_empty());
    // Neither ids nor content can be read in it.
    let room_id = recorded(FED).room_id;
    for name in names(&place) {
        let bytes = place.get(&name, usize::MAX).unwrap();
        for text in [room_id.as_str(), "m.room", "localhost"] {
            assert!(!bytes.windows(text.len()).any(|window| window == text.as_bytes()), "{text} in {name}");
        }
    }
    // No run adds to it in the clear.
    add(&source, FORGED, 20);
    assert!(matches!(make(&open(&source), &place, &small(), |_| {}), Err(BackupError::RecipientMissing(_))));
    back_up(&source, &place, &options);
    check_restored(&place, &two_opens, &source);
    let plain = memory();
    back_up(&source, &plain, &small());
    assert!(matches!(make(&open(&source), &plain, &options, |_| {}), Err(BackupError::NotEncrypted(_))));
    Recipients::parse(&["age1nonsense".to_owned()]).err().unwrap();
}

/// Every kind of damage to every object, in the clear and encrypted: an error, and never a log that opens.
#[test]
fn damage_of_any_object_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let (key, opens) = identity(&folder, "key");
    for recipients in [Recipients::default(), Recipients::parse(&[key]).unwrap()] {
        let (source, place) = (store(), memory());
        add(&source, FED, 200);
        let options = Options { recipients, segment_entries_max: 40, ..Options::default() };
        back_up(&source, &place, &options);
        for name in names(&place) {
            let whole = place.get(&name, usize::MAX).unwrap().to_vec();
            let mut damaged: Vec<Vec<u8>> = Vec::new();
            for place in (0..whole.len()).step_by(whole.len() / 40 + 1) {
                let mut flipped = whole.clone();
                flipped[place] ^= 1 << (place % 8);
                damaged.push(flipped);
            }
            damaged.extend([0, 1, whole.len() / 2, whole.len() - 1].map(|len| whole[..len].to_vec()));
            damaged.push([&whole[..], b"x"].concat());
            for bytes in damaged {
                place.put(&name, bytes).unwrap();
                check_refused(&place, &opens, &name);
            }
            place.delete(&name).unwrap();
            check_refused(&place, &opens, &name);
            place.put(&name, whole).unwrap();
        }
        check_restored(&place, &opens, &source);
    }
}

fn check_refused(place: &Place, identities: &Identities, name: &str) {
    let verified = Backup::open(place, identities).and_then(|backup| backup.verify(|_, _| {}));
    assert!(!matches!(&verified, Ok(problems) if problems.is_empty()), "{name}");
    let target = store();
    restore_into(place, identities, &target).unwrap_err();
    let opened = block_on(EventLog::open(target));
    assert!(!matches!(&opened, Ok(log) if !log.is_empty()), "{name}");
}

/// Entries with right hashes, but of rooms that came out otherwise: what was wrong when the backup was made.
#[test]
fn other_fingerprints_than_those_of_the_backup_are_found() {
    let (source, place) = (store(), memory());
    add(&source, FED, 200);
    let mut manifest = back_up(&source, &place, &small()).manifest;
    let room = manifest.rooms.get_mut(&0).unwrap();
    room.current_state = room.history.clone();
    manifest.publish(&place).unwrap();
    let target = store();
    let problems = restore_into(&place, &Identities::default(), &target).unwrap().problems;
    assert!(problems[0].to_string().ends_with("is not the room that was backed up: its current state differs"));
    assert!(matches!(block_on(EventLog::open(target)), Err(LogError::Restoring)));
}

#[test]
fn a_newer_format_or_layout_is_refused() {
    let (source, place) = (store(), memory());
    add(&source, FED, 20);
    let manifest = back_up(&source, &place, &small()).manifest;
    Manifest { format: FORMAT + 1, ..manifest.clone() }.publish(&place).unwrap();
    let newer = Backup::open(&place, &Identities::default()).err().unwrap();
    assert!(matches!(newer, BackupError::NewerFormat { found: 2, .. }), "{newer}");
    assert!(matches!(make(&open(&source), &place, &small(), |_| {}), Err(BackupError::NewerFormat { .. })));
    Manifest { layout: 99, ..manifest }.publish(&place).unwrap();
    let newer = Backup::open(&place, &Identities::default()).err().unwrap();
    assert!(matches!(newer, BackupError::NewerLayout { found: 99, .. }), "{newer}");
}

/// What a manifest says of sizes is not believed beyond the bounds.
#[test]
fn sizes_in_a_manifest_are_bounded() {
    let (source, place) = (store(), memory());
    add(&source, FED, 20);
    let manifest = back_up(&source, &place, &small()).manifest;
    for change in [
        |segment: &mut manifest::StoredSegment| segment.object.plain_bytes = u64::MAX,
        |segment: &mut manifest::StoredSegment| segment.object.stored_bytes = u64::MAX,
        |segment: &mut manifest::StoredSegment| segment.last = u64::MAX,
        |segment: &mut manifest::StoredSegment| segment.first = 1,
        |segment: &mut manifest::StoredSegment| segment.chain = "x".to_owned(),
    ] {
        let mut changed = manifest.clone();
        change(&mut changed.segments[0]);
        changed.publish(&place).unwrap();
        check_refused(&place, &Identities::default(), "latest");
    }
}

#[test]
fn a_folder_with_something_else_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let name = PlaceName::Folder(folder.path().to_owned());
    std::fs::write(folder.path().join("cat.jpg"), "a cat").unwrap();
    let (source, place) = (store(), Place::open_or_create(&name).unwrap());
    add(&source, FED, 20);
    let refused = make(&open(&source), &place, &small(), |_| {}).unwrap_err();
    assert!(matches!(&refused, BackupError::Foreign { object, .. } if object == "cat.jpg"), "{refused}");
    assert_eq!(names(&place), ["cat.jpg"]);
    std::fs::remove_file(folder.path().join("cat.jpg")).unwrap();
    back_up(&source, &place, &small());
    check_restored(&place, &Identities::default(), &source);
}
