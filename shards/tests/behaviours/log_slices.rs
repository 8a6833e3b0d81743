//! Section 4, second part: terms, bounds and slices over the border between storage and unstable tail.

use crate::harness::*;
use crate::log::{Log, storage};

#[test]
fn l23_bounds() {
    let log = RaftLog::new(storage(101, &[1; 100]), NO_LIMIT);
    for low in [99, 100] {
        assert_eq!(
            log.check_bounds(Index(low), Index(102)),
            Err(StorageError::Compacted),
            "{low}"
        );
    }
    for index in [101, 151, 200, 201] {
        assert_eq!(
            log.check_bounds(Index(index), Index(index)),
            Ok(()),
            "{index}"
        );
    }
    for low in [201, 202] {
        assert!(panics(|| log.check_bounds(Index(low), Index(202))), "{low}");
    }
}

#[test]
fn l24_term() {
    let mut log = RaftLog::new(storage(101, &[]), NO_LIMIT);
    log.append(entries(101, &(1..100).collect::<Vec<_>>()));
    for (index, expected) in [
        (99, Err(StorageError::Compacted)),
        (100, Ok(Term(1))),
        (150, Ok(Term(50))),
        (199, Ok(Term(99))),
        (200, Err(StorageError::Unavailable)),
    ] {
        assert_eq!(log.term(Index(index)), expected, "{index}");
    }
}

#[test]
fn l25_term_with_an_unstable_snapshot() {
    let mut log = RaftLog::new(storage(101, &[]), NO_LIMIT);
    log.restore(Box::new(snapshot(105, 1, ConfState::default())));
    for (index, expected) in [
        (100, Err(StorageError::Compacted)),
        (101, Err(StorageError::Compacted)),
        (104, Err(StorageError::Compacted)),
        (105, Ok(Term(1))),
        (106, Err(StorageError::Unavailable)),
    ] {
        assert_eq!(log.term(Index(index)), expected, "{index}");
    }
}

/// Compacted at 100; 101 to 149 stable, 150 to 199 unstable, with terms equal to indexes.
fn straddling() -> Log {
    let terms: Vec<u64> = (101..200).collect();
    let mut log = RaftLog::new(storage(101, &terms[..49]), NO_LIMIT);
    log.append(entries(150, &terms[49..]));
    log
}

fn slice(low: u64, high: u64, max_size: u64) -> Vec<(u64, u64)> {
    positions(
        &straddling()
            .slice(Index(low), Index(high), max_size)
            .expect("in memory"),
    )
}

fn range(low: u64, high: u64) -> Vec<(u64, u64)> {
    (low..high).map(|index| (index, index)).collect()
}

#[test]
fn l26_slice_over_the_border() {
    for low in [99, 100] {
        assert_eq!(
            straddling().slice(Index(low), Index(101), NO_LIMIT),
            Err(StorageError::Compacted)
        );
    }
    for (low, high) in [(149, 148), (199, 201), (201, 202)] {
        assert!(
            panics(|| straddling().slice(Index(low), Index(high), NO_LIMIT)),
            "{low} {high}"
        );
    }
    for (low, high) in [
        (101, 102),
        (101, 150),
        (148, 150),
        (149, 151),
        (101, 200),
        (150, 151),
        (150, 200),
        (199, 200),
    ] {
        assert_eq!(slice(low, high, NO_LIMIT), range(low, high), "{low} {high}");
    }
    for index in [101, 149, 150, 151, 200] {
        assert_eq!(slice(index, index, NO_LIMIT), [], "{index}");
    }
}

#[test]
fn l27_slice_with_a_size_limit() {
    let one = entry_size(&entry(150, 150));
    for low in [140, 148, 149, 150, 170] {
        let high = low + 5;
        for (limit, count) in [
            (0, 1),
            (one - 1, 1),
            (one, 1),
            (2 * one - 1, 1),
            (2 * one, 2),
            (3 * one - 1, 2),
            (3 * one, 3),
            (5 * one, 5),
        ] {
            assert_eq!(
                slice(low, high, limit),
                range(low, low + count),
                "{low} {limit}"
            );
        }
    }
}

/// Why a test's scan stops.
#[derive(Debug, PartialEq)]
enum Stop {
    Here,
    Failed(StorageError),
}

impl From<StorageError> for Stop {
    fn from(error: StorageError) -> Self {
        Self::Failed(error)
    }
}

#[test]
fn l28_scan_yields_what_slice_does() {
    let log = straddling();
    let one = entry_size(&entry(150, 150));
    for page_size in [0, 1, 10, 100, one, one + 1] {
        for (low, high) in (101..200)
            .step_by(7)
            .flat_map(|low| (low..=200).step_by(11).map(move |high| (low, high)))
        {
            let mut seen = Vec::new();
            let scanned: Result<(), Stop> = log.scan(Index(low), Index(high), page_size, |page| {
                assert!(
                    page.len() == 1 || entries_size(page) <= page_size,
                    "{} entries",
                    page.len()
                );
                seen.extend(positions(page));
                Ok(())
            });
            assert_eq!(
                (scanned, seen),
                (Ok(()), range(low, high)),
                "[{low},{high}) pages of {page_size}"
            );
        }
    }
    let mut pages = 0;
    let stopped = log.scan(Index(150), Index(200), 0, |_| {
        pages += 1;
        if pages == 2 { Err(Stop::Here) } else { Ok(()) }
    });
    assert_eq!((stopped, pages), (Err(Stop::Here), 2));
    let mut lengths = Vec::new();
    let scanned: Result<(), Stop> = log.scan(Index(146), Index(154), 2 * one, |page| {
        lengths.push(page.len());
        Ok(())
    });
    assert_eq!((scanned, lengths), (Ok(()), vec![2; 4]));
}

#[test]
fn l29_validity_of_a_log_slice() {
    let slice = |leader, terms: &[(u64, u64)]| LogSlice {
        term: Term(leader),
        prev: position(123, 10),
        entries: terms
            .iter()
            .map(|&(index, term)| entry(index, term))
            .collect(),
    };
    for (leader, list, last) in [
        (10, vec![], (123, 10)),
        (11, vec![], (123, 10)),
        (10, vec![(124, 10)], (124, 10)),
        (12, vec![(124, 10), (125, 11), (126, 12)], (126, 12)),
    ] {
        let slice = slice(leader, &list);
        assert_eq!(
            (slice.validate(), slice.last()),
            (Ok(()), position(last.0, last.1)),
            "{slice:?}"
        );
    }
    let gap = |expected, got| ProtocolError::Gap {
        expected: Index(expected),
        got: Index(got),
    };
    let falls = |index, term, previous| ProtocolError::TermRegression {
        index: Index(index),
        term: Term(term),
        previous: Term(previous),
    };
    let above = |index, term, leader| ProtocolError::TermAboveLeader {
        index: Index(index),
        term: Term(term),
        leader: Term(leader),
    };
    for (leader, list, error) in [
        (9, vec![], above(123, 10, 9)),
        (0, vec![], above(123, 10, 0)),
        (10, vec![(123, 10)], gap(124, 123)),
        (10, vec![(125, 10)], gap(124, 125)),
        (10, vec![(124, 10), (126, 10)], gap(125, 126)),
        (10, vec![(124, 9)], falls(124, 9, 10)),
        (12, vec![(124, 12), (125, 11)], falls(125, 11, 12)),
        (10, vec![(124, 11)], above(124, 11, 10)),
    ] {
        assert_eq!(
            slice(leader, &list).validate(),
            Err(error),
            "{leader} {list:?}"
        );
    }
}
