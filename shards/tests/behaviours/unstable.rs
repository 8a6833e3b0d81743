//! Section 5: the tail of the log that is not known to be durable.

use crate::harness::*;

/// Entries of term 1 from `offset` on.
fn tail(offset: u64, count: usize, snapshot: Option<Snapshot>) -> Unstable {
    Unstable::from_parts(
        Index(offset),
        entries(offset, &vec![1; count]),
        snapshot,
        Index(offset),
        false,
    )
}

/// Like [`tail`], with entries below `in_progress` handed out.
fn in_progress(offset: u64, count: usize, in_progress: u64) -> Unstable {
    Unstable::from_parts(
        Index(offset),
        entries(offset, &vec![1; count]),
        None,
        Index(in_progress),
        false,
    )
}

fn snap(index: u64, term: u64) -> Snapshot {
    snapshot(index, term, ConfState::default())
}

/// Offset, in-progress offset and entries.
fn state(unstable: &Unstable) -> (u64, u64, Vec<(u64, u64)>) {
    (
        unstable.offset().0,
        unstable.offset_in_progress().0,
        positions(unstable.entries()),
    )
}

#[test]
fn u01_first_index_is_known_with_a_snapshot_only() {
    assert_eq!(tail(5, 1, None).maybe_first_index(), None);
    assert_eq!(tail(0, 0, None).maybe_first_index(), None);
    assert_eq!(
        tail(5, 1, Some(snap(4, 1))).maybe_first_index(),
        Some(Index(5))
    );
    assert_eq!(
        tail(5, 0, Some(snap(4, 1))).maybe_first_index(),
        Some(Index(5))
    );
}

#[test]
fn u02_last_index() {
    assert_eq!(tail(5, 1, None).maybe_last_index(), Some(Index(5)));
    assert_eq!(
        tail(5, 1, Some(snap(4, 1))).maybe_last_index(),
        Some(Index(5))
    );
    assert_eq!(
        tail(5, 0, Some(snap(4, 1))).maybe_last_index(),
        Some(Index(4))
    );
    assert_eq!(tail(0, 0, None).maybe_last_index(), None);
}

#[test]
fn u03_term() {
    let known = |unstable: Unstable, index| unstable.maybe_term(Index(index)).map(|term| term.0);
    for (snapshot, cases) in [
        (None, [(5, Some(1)), (6, None), (4, None), (3, None)]),
        (
            Some(snap(4, 1)),
            [(5, Some(1)), (6, None), (4, Some(1)), (3, None)],
        ),
    ] {
        for (index, term) in cases {
            assert_eq!(
                known(tail(5, 1, snapshot.clone()), index),
                term,
                "{index} {snapshot:?}"
            );
        }
    }
    assert_eq!(known(tail(5, 0, Some(snap(4, 1))), 4), Some(1));
    assert_eq!(known(tail(5, 0, Some(snap(4, 1))), 5), None);
    assert_eq!(known(tail(0, 0, None), 5), None);
}

#[test]
fn u04_restore_replaces_everything() {
    let mut unstable =
        Unstable::from_parts(Index(5), entries(5, &[1]), Some(snap(4, 1)), Index(6), true);
    unstable.restore(Box::new(snap(6, 2)));
    assert_eq!(state(&unstable), (7, 7, vec![]));
    assert_eq!(
        (unstable.snapshot(), unstable.is_snapshot_in_progress()),
        (Some(&snap(6, 2)), false)
    );
}

#[test]
fn u05_next_entries() {
    for (started, expected) in [(5, entries(5, &[1, 1])), (6, entries(6, &[1])), (7, vec![])] {
        assert_eq!(
            in_progress(5, 2, started).next_entries(),
            expected,
            "{started}"
        );
    }
}

#[test]
fn u06_next_snapshot() {
    let with =
        |snapshot, started| Unstable::from_parts(Index(5), vec![], snapshot, Index(5), started);
    assert_eq!(with(None, false).next_snapshot(), None);
    assert_eq!(
        with(Some(snap(4, 1)), false).next_snapshot(),
        Some(&snap(4, 1))
    );
    assert_eq!(with(Some(snap(4, 1)), true).next_snapshot(), None);
}

#[test]
fn u07_accept_in_progress() {
    for (count, started, expected) in [(0, 5, 5), (1, 5, 6), (2, 5, 7), (2, 6, 7), (2, 7, 7)] {
        let mut unstable = in_progress(5, count, started);
        unstable.accept_in_progress();
        assert_eq!(
            unstable.offset_in_progress(),
            Index(expected),
            "{count} {started}"
        );
        assert!(!unstable.is_snapshot_in_progress());
    }
    for (count, before) in [(0, false), (2, false), (0, true), (2, true)] {
        let parts = (entries(5, &vec![1; count]), Some(snap(4, 1)));
        let mut unstable = Unstable::from_parts(Index(5), parts.0, parts.1, Index(5), before);
        unstable.accept_in_progress();
        assert_eq!(unstable.offset_in_progress(), Index(5 + count as u64));
        assert!(unstable.is_snapshot_in_progress());
    }
}

#[test]
fn u08_stable_entries_are_dropped() {
    for (count, started, offset, in_progress_after) in
        [(1, 5, 6, 6), (1, 6, 6, 6), (2, 5, 6, 6), (2, 7, 6, 7)]
    {
        let mut unstable = in_progress(5, count, started);
        unstable.stable_to(position(5, 1));
        assert_eq!(
            (unstable.offset().0, unstable.offset_in_progress().0),
            (offset, in_progress_after)
        );
        assert_eq!(
            unstable.entries(),
            entries(6, &vec![1; count - 1]),
            "{count} {started}"
        );
    }
}

#[test]
fn u09_outdated_acknowledgements_are_ignored() {
    let over_snapshot = Unstable::from_parts(
        Index(5),
        entries(5, &[1]),
        Some(snap(4, 1)),
        Index(6),
        false,
    );
    let rewritten = Unstable::from_parts(Index(5), entries(5, &[2]), None, Index(6), false);
    for (before, id) in [
        (tail(0, 0, None), position(5, 1)),
        (rewritten, position(5, 1)),
        (in_progress(5, 1, 6), position(4, 1)),
        (over_snapshot, position(4, 1)),
    ] {
        let mut after = before.clone();
        after.stable_to(id);
        assert_eq!(state(&after), state(&before), "{id:?}");
        assert_eq!(after.snapshot(), before.snapshot());
    }
}

#[test]
fn u10_truncate_and_append() {
    for (started, from, term, expected) in [
        (5, 6, 1, (5, 5, vec![(5, 1), (6, 1)])),
        (6, 6, 1, (5, 6, vec![(5, 1), (6, 1)])),
        (5, 5, 2, (5, 5, vec![(5, 2)])),
        (6, 5, 2, (5, 5, vec![(5, 2)])),
        (5, 4, 2, (4, 4, vec![(4, 2)])),
        (6, 4, 2, (4, 4, vec![(4, 2)])),
    ] {
        let mut unstable = in_progress(5, 1, started);
        unstable.truncate_and_append(entries(from, &[term]));
        assert_eq!(state(&unstable), expected, "{started} from {from}");
    }
}

#[test]
fn u11_truncation_within_keeps_what_is_before() {
    for (started, from, terms, after) in [
        (5, 6, vec![2], 5),
        (6, 6, vec![2], 6),
        (7, 6, vec![2], 6),
        (5, 7, vec![2, 2], 5),
        (6, 7, vec![2, 2], 6),
    ] {
        let mut unstable = in_progress(5, 3, started);
        unstable.truncate_and_append(entries(from, &terms));
        let kept = (5..from).map(|index| (index, 1));
        let expected: Vec<_> = kept.chain((from..).zip(terms.iter().copied())).collect();
        assert_eq!(
            state(&unstable),
            (5, after, expected),
            "{started} from {from}"
        );
    }
}

#[test]
fn u12_slices_handed_out_do_not_change() {
    let mut node = Setup::new(1, &[1, 2]).term(2).node();
    node.deliver(
        msg(App, 2, 1)
            .term(2)
            .entries(vec![data_entry(1, 1, "a"), data_entry(2, 1, "b")]),
    );
    let handed_out = node
        .log()
        .slice(Index(1), Index(3), NO_LIMIT)
        .expect("there");
    let before = vec![data_entry(1, 1, "a"), data_entry(2, 1, "b")];
    node.deliver(
        msg(App, 2, 1)
            .term(2)
            .log(1, 1)
            .entries(vec![data_entry(2, 2, "c"), data_entry(3, 2, "d")]),
    );
    assert_eq!(handed_out, before);
    assert_eq!(node.terms(), [1, 2, 2]);
}
