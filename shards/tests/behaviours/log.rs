//! Section 4: the log over storage and unstable tail.

use crate::harness::*;

pub(crate) type Log = RaftLog<MemoryStorage>;

/// A storage with entries of these terms from `first` on.
pub(crate) fn storage(first: u64, terms: &[u64]) -> MemoryStorage {
    let mut storage = MemoryStorage::new();
    if first > 1 {
        storage
            .apply_snapshot(snapshot(first - 1, 1, ConfState::default()))
            .expect("the storage is new");
    }
    storage.append(&entries(first, terms)).expect("no gap");
    storage
}

/// A log whose entries, from 1 on, are all stable.
fn stable(terms: &[u64]) -> Log {
    RaftLog::new(storage(1, terms), NO_LIMIT)
}

/// A log whose entries, from 1 on, are all unstable.
fn unstable(terms: &[u64]) -> Log {
    let mut log = RaftLog::new(MemoryStorage::new(), NO_LIMIT);
    log.append(entries(1, terms));
    log
}

fn all(log: &Log) -> Vec<u64> {
    terms(
        &log.entries(log.first_index(), NO_LIMIT)
            .expect("the whole log is there"),
    )
}

#[test]
fn l01_conflict_search() {
    let log = unstable(&[1, 2, 3]);
    let cases: [(u64, &[u64], u64); 11] = [
        (1, &[], 0),
        (1, &[1, 2, 3], 0),
        (2, &[2, 3], 0),
        (3, &[3], 0),
        (1, &[1, 2, 3, 4, 4], 4),
        (2, &[2, 3, 4, 5], 4),
        (3, &[3, 4, 4], 4),
        (4, &[4, 4], 4),
        (1, &[4, 4], 1),
        (2, &[1, 4, 4], 2),
        (3, &[1, 2, 4, 4], 3),
    ];
    for (first, terms, expected) in cases {
        let conflict = log
            .find_conflict(&entries(first, terms))
            .expect("in memory");
        assert_eq!(
            conflict.map_or(0, |index| index.0),
            expected,
            "{terms:?} from {first}"
        );
    }
}

fn conflicts_by_term(log: &Log, cases: &[(u64, u64, u64)]) {
    for &(index, term, expected) in cases {
        let (found, found_term) = log
            .find_conflict_by_term(Index(index), Term(term))
            .expect("in memory");
        assert_eq!(found.0, expected, "{index} {term}");
        assert_eq!(
            found_term,
            log.term(found).unwrap_or_default(),
            "{index} {term}"
        );
    }
}

#[test]
fn l02_conflict_by_term() {
    let cases = [
        (100, 2, 100),
        (5, 6, 5),
        (5, 5, 5),
        (5, 4, 2),
        (5, 2, 2),
        (5, 1, 0),
        (1, 2, 1),
        (1, 1, 0),
        (0, 0, 0),
    ];
    conflicts_by_term(&unstable(&[2, 2, 5, 5, 5]), &cases);
    conflicts_by_term(&stable(&[2, 2, 5, 5, 5]), &cases);
}

#[test]
fn l03_conflict_by_term_in_a_compacted_log() {
    let mut storage = MemoryStorage::new();
    storage
        .apply_snapshot(snapshot(10, 3, ConfState::default()))
        .expect("the storage is new");
    let mut log = RaftLog::new(storage, NO_LIMIT);
    log.append(entries(11, &[3, 3, 4, 4, 4]));
    let cases = [
        (30, 3, 30),
        (14, 9, 14),
        (14, 4, 14),
        (14, 3, 12),
        (14, 2, 9),
        (11, 5, 11),
        (10, 5, 10),
        (10, 3, 10),
        (10, 2, 9),
        (9, 2, 9),
        (4, 2, 4),
        (0, 0, 0),
    ];
    conflicts_by_term(&log, &cases);
}

#[test]
fn l04_up_to_date_means_last_term_then_last_index() {
    let log = unstable(&[1, 2, 3]);
    for (index, term, expected) in [
        (2, 4, true),
        (3, 4, true),
        (4, 4, true),
        (2, 2, false),
        (3, 2, false),
        (4, 2, false),
        (2, 3, false),
        (3, 3, true),
        (4, 3, true),
    ] {
        assert_eq!(
            log.is_up_to_date(position(index, term)),
            Ok(expected),
            "{index} {term}"
        );
    }
}

#[test]
fn l05_append_replaces_from_its_first_index_on() {
    type Case<'a> = (u64, &'a [u64], u64, &'a [u64], u64);
    let cases: [Case<'_>; 4] = [
        (1, &[], 2, &[1, 2], 3),
        (3, &[2], 3, &[1, 2, 2], 3),
        (1, &[2], 1, &[2], 1),
        (2, &[3, 3], 3, &[1, 3, 3], 2),
    ];
    for (first, terms, last, whole, offset) in cases {
        let mut log = stable(&[1, 2]);
        assert_eq!(
            log.append(entries(first, terms)),
            Index(last),
            "{terms:?} from {first}"
        );
        assert_eq!(
            (all(&log), log.unstable().offset()),
            (whole.to_vec(), Index(offset)),
            "{terms:?} from {first}"
        );
    }
}

#[test]
fn l06_append_never_replaces_what_is_committed() {
    for (first, forbidden) in [(1, true), (2, true), (3, false)] {
        let mut log = unstable(&[1, 2, 3]);
        log.commit_to(Index(2));
        assert_eq!(
            panics(|| log.append(entries(first, &[4]))),
            forbidden,
            "from {first}"
        );
    }
}

/// Appends behind `prev` to the log [1,2,3] of which 1 is committed. Gives the last new index and the commit index.
fn maybe_append(prev: (u64, u64), terms: &[u64], commit: u64) -> (Option<u64>, u64, Vec<u64>) {
    let mut log = unstable(&[1, 2, 3]);
    log.commit_to(Index(1));
    let slice = LogSlice {
        term: Term(9),
        prev: position(prev.0, prev.1),
        entries: entries(prev.0 + 1, terms),
    };
    let last = log
        .maybe_append(slice, Index(commit))
        .expect("no conflict with what is committed");
    (last.map(|last| last.0), log.committed().0, all(&log))
}

#[test]
fn l07_append_is_refused_where_the_previous_entry_differs() {
    for prev in [(3, 2), (4, 3)] {
        assert_eq!(
            maybe_append(prev, &[4], 3),
            (None, 1, vec![1, 2, 3]),
            "{prev:?}"
        );
    }
}

#[test]
fn l08_commit_reaches_at_most_what_the_message_vouches_for() {
    for (commit, committed) in [(3, 3), (4, 3), (2, 2), (0, 1)] {
        assert_eq!(
            maybe_append((3, 3), &[], commit),
            (Some(3), committed, vec![1, 2, 3]),
            "{commit}"
        );
    }
    assert_eq!(maybe_append((0, 0), &[], 3), (Some(0), 1, vec![1, 2, 3]));
}

#[test]
fn l09_new_entries_may_be_committed_at_once() {
    for (commit, committed) in [(3, 3), (4, 4), (5, 4)] {
        assert_eq!(
            maybe_append((3, 3), &[4], commit),
            (Some(4), committed, vec![1, 2, 3, 4]),
            "{commit}"
        );
    }
    assert_eq!(
        maybe_append((3, 3), &[4, 4], 5),
        (Some(5), 5, vec![1, 2, 3, 4, 4])
    );
}

#[test]
fn l10_conflicting_tail_is_replaced() {
    assert_eq!(maybe_append((2, 2), &[4], 3), (Some(3), 3, vec![1, 2, 4]));
    assert_eq!(maybe_append((1, 1), &[4], 3), (Some(2), 2, vec![1, 4]));
    assert_eq!(
        maybe_append((1, 1), &[4, 4], 3),
        (Some(3), 3, vec![1, 4, 4])
    );
}

#[test]
fn l11_conflict_with_a_committed_entry_is_an_error() {
    let mut log = unstable(&[1, 2, 3]);
    log.commit_to(Index(1));
    let slice = LogSlice {
        term: Term(4),
        prev: EntryId::default(),
        entries: entries(1, &[4]),
    };
    let conflict = ProtocolError::CommittedConflict {
        index: Index(1),
        term: Term(4),
        committed: Index(1),
    };
    assert_eq!(
        log.maybe_append(slice, Index(1)),
        Err(Error::Protocol(conflict))
    );
    assert_eq!((all(&log), log.committed()), (vec![1, 2, 3], Index(1)));
}

#[test]
fn l12_log_stays_whole_over_a_compaction() {
    let terms: Vec<u64> = (1..=1000).collect();
    let mut log = RaftLog::new(storage(1, &terms[..750]), NO_LIMIT);
    log.append(entries(751, &terms[750..]));
    assert_eq!(log.maybe_commit(position(1000, 1000)), Ok(true));
    log.applied_to(Index(1000), 0);
    log.storage_mut().compact(Index(500)).expect("there");

    assert_eq!(log.last_index(), Index(1000));
    for index in 500..=1000 {
        assert_eq!(log.term(Index(index)), Ok(Term(index)));
        assert_eq!(log.match_term(position(index, index)), Ok(true));
    }
    assert_eq!(log.next_unstable(), entries(751, &terms[750..]));
    assert_eq!(log.append(entries(1001, &[1001])), Index(1001));
    assert_eq!(
        log.entries(Index(1001), NO_LIMIT),
        Ok(entries(1001, &[1001]))
    );
}

/// Snapshot 3/1, entries 4, 5, 6 of term 1, of which 4 is stable, and 5 is committed; application pauses at `limit`.
fn to_be_applied(limit: u64) -> Log {
    let mut log = RaftLog::new(storage(4, &[1]), limit);
    log.append(entries(5, &[1, 1]));
    assert_eq!(log.maybe_commit(position(5, 1)), Ok(true));
    log
}

#[test]
fn l13_next_committed_entries() {
    for (applied, applying, with_unstable, without) in [
        (3, 3, vec![4, 5], vec![4]),
        (3, 4, vec![5], vec![]),
        (3, 5, vec![], vec![]),
        (4, 4, vec![5], vec![]),
        (4, 5, vec![], vec![]),
        (5, 5, vec![], vec![]),
    ] {
        for (allow_unstable, expected) in [(true, with_unstable), (false, without)] {
            let mut log = to_be_applied(NO_LIMIT);
            log.accept_applying(Index(applying), 0, true);
            // Ends the pause that came up because there was more.
            log.applied_to(Index(applied), 0);
            let next = log.next_committed(allow_unstable).expect("in memory");
            let indexes: Vec<_> = next.iter().map(|entry| entry.index.0).collect();
            assert_eq!(indexes, expected, "{applied} {applying} {allow_unstable}");
            assert_eq!(log.has_next_committed(allow_unstable), !expected.is_empty());
        }
    }
}

#[test]
fn l14_nothing_is_applied_while_paused_or_before_a_snapshot() {
    for allow_unstable in [true, false] {
        let mut paused = to_be_applied(100);
        paused.accept_applying(Index(3), 100, allow_unstable);
        let mut restoring = to_be_applied(100);
        restoring.restore(Box::new(snapshot(6, 1, ConfState::default())));
        for log in [paused, restoring] {
            assert_eq!(log.next_committed(allow_unstable), Ok(vec![]));
            assert!(!log.has_next_committed(allow_unstable));
        }
    }
}

#[test]
fn l15_application_pauses_at_the_size_limit_or_when_cut_short() {
    let unstable_allowed = [(3, [true; 3]), (4, [true; 3]), (5, [false, true, true])];
    let not_allowed = [
        (3, [true; 3]),
        (4, [false, true, true]),
        (5, [false, true, true]),
    ];
    for (allow_unstable, cases) in [(true, unstable_allowed), (false, not_allowed)] {
        for (index, paused) in cases {
            for (size, paused) in [99, 100, 101].into_iter().zip(paused) {
                let mut log = to_be_applied(100);
                log.accept_applying(Index(index), size, allow_unstable);
                assert_eq!(
                    log.is_applying_paused(),
                    paused,
                    "{index} {size} {allow_unstable}"
                );
            }
        }
    }
}

#[test]
fn l16_acknowledged_application_frees_its_size() {
    for index in [4, 5] {
        for (size, left, paused) in [
            (4, 101, true),
            (5, 100, true),
            (6, 99, false),
            (105, 0, false),
            (106, 0, false),
        ] {
            let mut log = to_be_applied(100);
            log.accept_applying(Index(5), 105, true);
            log.applied_to(Index(index), size);
            assert_eq!((log.applied(), log.applying()), (Index(index), Index(5)));
            assert_eq!(
                (log.applying_size(), log.is_applying_paused()),
                (left, paused),
                "{index} {size}"
            );
        }
    }
}

#[test]
fn l17_next_unstable_entries() {
    for (mut log, expected) in [
        (stable(&[1, 2]), vec![]),
        (unstable(&[1, 2]), entries(1, &[1, 2])),
    ] {
        assert_eq!(log.next_unstable(), expected);
        log.stable_to(position(2, 2));
        assert_eq!(
            (log.next_unstable().len(), log.unstable().offset()),
            (0, Index(3))
        );
    }
}

#[test]
fn l18_commit_rises_up_to_the_last_entry() {
    for (commit, expected) in [(3, Some(3)), (1, Some(2)), (4, None)] {
        let mut log = unstable(&[1, 2, 3]);
        log.commit_to(Index(2));
        let panicked = panics(|| log.commit_to(Index(commit)));
        assert_eq!(
            (!panicked).then_some(log.committed().0),
            expected,
            "{commit}"
        );
    }
}

#[test]
fn l19_stable_entries_leave_the_unstable_log() {
    for (index, term, offset) in [(1, 1, 2), (2, 2, 3), (2, 1, 1), (3, 1, 1)] {
        let mut log = unstable(&[1, 2]);
        log.stable_to(position(index, term));
        assert_eq!(log.unstable().offset(), Index(offset), "{index} {term}");
    }
}

#[test]
fn l20_stable_entries_over_a_snapshot() {
    for (index, term) in [4, 5, 6]
        .into_iter()
        .flat_map(|index| [2, 3].map(|term| (index, term)))
    {
        for (terms, offset) in [
            (vec![], 6),
            (vec![2], if (index, term) == (6, 2) { 7 } else { 6 }),
        ] {
            let mut storage = MemoryStorage::new();
            storage
                .apply_snapshot(snapshot(5, 2, ConfState::default()))
                .expect("the storage is new");
            let mut log = RaftLog::new(storage, NO_LIMIT);
            log.append(entries(6, &terms));
            log.stable_to(position(index, term));
            assert_eq!(
                log.unstable().offset(),
                Index(offset),
                "{index} {term} {terms:?}"
            );
        }
    }
}

#[test]
fn l21_compaction() {
    let mut log = stable(&[1; 1000]);
    log.commit_to(Index(1000));
    log.applied_to(Index(1000), 0);
    for (index, left) in [(300, 700), (500, 500), (800, 200), (900, 100)] {
        log.storage_mut().compact(Index(index)).expect("there");
        assert_eq!(all(&log).len(), left, "at {index}");
    }
    assert_eq!(
        log.storage_mut().compact(Index(1001)),
        Err(StorageError::Unavailable)
    );
    let mut log = stable(&[1; 1000]);
    log.storage_mut().compact(Index(300)).expect("there");
    assert_eq!(
        log.storage_mut().compact(Index(299)),
        Err(StorageError::Compacted)
    );
    assert_eq!(all(&log).len(), 700);
}

#[test]
fn l22_log_over_a_snapshot() {
    let mut storage = MemoryStorage::new();
    storage
        .apply_snapshot(snapshot(1000, 1000, ConfState::default()))
        .expect("the storage is new");
    let log = RaftLog::new(storage, NO_LIMIT);
    assert_eq!(all(&log), [0; 0]);
    assert_eq!(
        (log.first_index(), log.last_index(), log.committed()),
        (Index(1001), Index(1000), Index(1000))
    );
    assert_eq!(
        (log.unstable().offset(), log.term(Index(1000))),
        (Index(1001), Ok(Term(1000)))
    );
}
