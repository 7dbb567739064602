//! Backups before, during and after purges.

use ravel_core::id::EventId;

use super::*;

/// The places of events of [`FED`] before which history is purged: before the first of them, only content goes that no state has.
fn event_at(store: &Arc<dyn Store>, place: usize) -> EventId {
    let room = block_on(open(store).load_room(&recorded(FED).room_id)).unwrap().unwrap();
    let (event, _) = room.events().nth(place).unwrap();
    event.event_id.clone()
}

fn len_of_room(store: &Arc<dyn Store>) -> usize {
    block_on(open(store).load_room(&recorded(FED).room_id)).unwrap().unwrap().len()
}

fn purge_in(log: &EventLog, event_id: &EventId) -> u64 {
    let purged = block_on(log.purge_history(&recorded(FED).room_id, event_id, |_, _| {})).unwrap().unwrap();
    assert!(purged.states > 0);
    purged.events
}

fn purge(store: &Arc<dyn Store>, place: usize) -> u64 {
    let event_id = event_at(store, place);
    purge_in(&open(store), &event_id)
}

/// Checks that a backup is whole, and that what is restored from it is the same, byte for byte and by its fingerprints.
#[track_caller]
fn check(place: &Place, expected: &Arc<dyn Store>) {
    let none = Identities::default();
    assert!(Backup::open(place, &none).unwrap().verify(|_, _| {}).unwrap().is_empty());
    check_restored(place, &none, expected);
    let target = store();
    restore_into(place, &none, &target).unwrap();
    let log = open(&target);
    assert!(block_on(log.verify(|_, _| {})).unwrap().findings.is_empty());
    let fingerprint = |log: &EventLog| block_on(log.fingerprint(|| {})).unwrap();
    assert_eq!(fingerprint(&log), fingerprint(&open(expected)));
}

fn full() -> Options {
    Options { full: true, ..small() }
}

fn check_refused_as_other(source: &Arc<dyn Store>, place: &Place) {
    let before = names(place);
    let refused = make(&open(source), place, &small(), |_| {}).unwrap_err();
    assert!(matches!(refused, BackupError::OtherLog { .. }), "{refused}");
    assert_eq!(names(place), before);
}

#[test]
fn a_backup_of_purged_history_is_continued() {
    for purged_before in [3, 20, 59] {
        let (source, place) = (store(), memory());
        add(&source, FED, 60);
        purge(&source, purged_before);
        back_up(&source, &place, &small());
        check(&place, &source);
        add(&source, FORGED, 60);
        add(&source, FED, 96);
        let made = back_up(&source, &place, &small());
        assert!(made.position_before > 0 && made.segments_added > 0);
        check(&place, &source);
        // What was purged is nowhere in it.
        let place_of_last = len_of_room(&source) - 1;
        assert!(purge(&source, place_of_last) > 0);
        check_refused_as_other(&source, &place);
        let made = back_up(&source, &place, &full());
        assert_eq!((made.manifest.series, made.position_before), (2, 0));
        check(&place, &source);
    }
}

#[test]
fn after_a_purge_a_backup_is_begun_anew_and_then_continued() {
    let (source, before, place) = (store(), store(), memory());
    for store in [&source, &before] {
        add(store, FED, 80);
    }
    back_up(&source, &place, &small());
    assert!(purge(&source, 50) > 0);
    add(&source, FORGED, 20);
    check_refused_as_other(&source, &place);
    // The old one is what it was.
    check(&place, &before);
    // A database that was restored from it does not take the new one over: it has what was purged.
    let restored = store();
    restore_into(&place, &Identities::default(), &restored).unwrap();
    back_up(&source, &place, &full());
    check(&place, &source);
    let refused = restore_into(&place, &Identities::default(), &restored).unwrap_err();
    assert!(matches!(refused, BackupError::OtherTarget { .. }), "{refused}");
    assert!(contents(&restored) == contents(&before));
    add(&source, FED, 96);
    let made = back_up(&source, &place, &small());
    assert!(made.position_before > 0);
    check(&place, &source);
}

/// A purge of states only: all events that were received before are in the state, so no entry is replaced, and the backup goes on.
#[test]
fn a_purge_that_replaces_no_entry_is_in_the_next_run() {
    let (source, place) = (store(), memory());
    add(&source, FED, 60);
    add(&source, FORGED, 60);
    back_up(&source, &place, &small());
    assert_eq!(purge(&source, 2), 0);
    let made = back_up(&source, &place, &small());
    assert_eq!((made.position_before, made.manifest.position, made.segments_added), (122, 123, 1));
    check(&place, &source);
    add(&source, FED, 96);
    back_up(&source, &place, &small());
    check(&place, &source);
    // A database that was restored before the purge takes it over.
    let (source, place, target) = (store(), memory(), store());
    add(&source, FED, 60);
    back_up(&source, &place, &small());
    restore_into(&place, &Identities::default(), &target).unwrap();
    purge(&source, 2);
    back_up(&source, &place, &small());
    assert!(restore_into(&place, &Identities::default(), &target).unwrap().problems.is_empty());
    assert!(contents(&target) == contents(&source));
}

#[test]
fn a_whole_room_that_was_purged_is_not_in_the_next_backup() {
    let (source, place) = (store(), memory());
    add(&source, FED, 60);
    add(&source, FORGED, 60);
    back_up(&source, &place, &small());
    block_on(open(&source).purge_room(&recorded(FED).room_id, |_, _| {})).unwrap().unwrap();
    check_refused_as_other(&source, &place);
    back_up(&source, &place, &full());
    check(&place, &source);
    add(&source, FED, 70);
    back_up(&source, &place, &small());
    check(&place, &source);
}

/// Whenever something is purged while a run is under way, by this process or another, the run makes no backup: some entries would be as
/// they were, and some as the purge left them. What was there before stays as it was.
#[test]
fn a_run_that_meets_a_purge_changes_nothing() {
    let check = |by_another: bool, purged_before: Option<usize>, at_call: usize, options: &Options, earlier: usize| {
        let (source, before, place) = (store(), store(), memory());
        for store in [&source, &before] {
            add(store, FED, earlier);
        }
        if earlier > 0 {
            back_up(&source, &place, &small());
        }
        add(&source, FED, 60);
        add(&source, FORGED, 10);
        let (log, other) = (open(&source), open(&source));
        let event_id = purged_before.map(|place| event_at(&source, place));
        let mut calls = 0;
        let purge_once = |_| {
            calls += 1;
            let log = if by_another { &other } else { &log };
            match &event_id {
                _ if calls != at_call => {}
                Some(event_id) => assert!(purge_in(log, event_id) < 60),
                None => drop(block_on(log.purge_room(&recorded(FED).room_id, |_, _| {})).unwrap().unwrap()),
            }
        };
        let refused = make(&log, &place, options, purge_once).unwrap_err();
        assert!(matches!(refused, BackupError::PurgedMeanwhile), "{refused}");
        match earlier {
            0 => assert!(matches!(Backup::open(&place, &Identities::default()), Err(BackupError::NoBackup(_)))),
            _ => self::check(&place, &before),
        }
        // Run again, it goes well; with --full if there is an earlier one.
        let again = if earlier == 0 { small() } else { full() };
        back_up(&source, &place, &again);
        self::check(&place, &source);
    };
    for by_another in [false, true] {
        for purged_before in [Some(2), Some(40), None] {
            for at_call in [1, 2, 5, 9, 11] {
                check(by_another, purged_before, at_call, &small(), 0);
            }
            for options in [small(), full()] {
                check(by_another, purged_before, 2, &options, 30);
            }
        }
    }
}

/// A purge that is decided and not carried out yet.
#[test]
fn an_interrupted_purge_is_in_the_backup() {
    let (source, place) = (store(), memory());
    add(&source, FED, 90);
    let event_id = event_at(&source, 60);
    let log = open(&source);
    let killed = catch_unwind(AssertUnwindSafe(|| {
        block_on(log.purge_history(&recorded(FED).room_id, &event_id, |_, _| panic!("killed")))
    }));
    assert!(killed.is_err());
    let log = open(&source);
    assert_eq!(log.rooms_being_purged().len(), 1);
    back_up(&source, &place, &small());
    check(&place, &source);
    add(&source, FED, 96);
    back_up(&source, &place, &small());
    check(&place, &source);
}
