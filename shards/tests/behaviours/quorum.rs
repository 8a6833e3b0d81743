//! Section 18: quorums and text forms.

use crate::harness::*;
use flotilla_shards::raft::quorum::{JointConfig, MajorityConfig, VoteResult};
use flotilla_shards::raft::tracker::Tally;

#[test]
fn k01_picture_of_acknowledged_indexes() {
    let config: MajorityConfig = ids(&[1, 2, 3]).into_iter().collect();
    let none = None;
    for (acked, bars, shown) in [
        (
            [Some(101), Some(102), Some(103)],
            [">   ", "x>  ", "xx> "],
            [101, 102, 103],
        ),
        (
            [Some(100), Some(100), Some(100)],
            [">   ", ">   ", ">   "],
            [100, 100, 100],
        ),
        (
            [Some(100), Some(102), Some(102)],
            [">   ", "x>  ", "x>  "],
            [100, 102, 102],
        ),
        (
            [Some(101), none, Some(103)],
            ["x>  ", "?   ", "xx> "],
            [101, 0, 103],
        ),
    ] {
        let lines = (0..3).map(|at| format!("{} {:>5}    (id={})\n", bars[at], shown[at], at + 1));
        let expected: String = std::iter::once("       idx\n".into())
            .chain(lines)
            .collect();
        let picture = config.describe(|id| acked[id.0 as usize - 1].map(Index));
        assert_eq!(picture, expected, "{acked:?}");
    }
}

/// The greatest index that a majority has acknowledged, found by trying all.
fn naive(voters: &[u64], acked: &[Option<u64>]) -> Index {
    let count = |index| {
        voters
            .iter()
            .filter(|&&id| acked[id as usize].unwrap_or(0) >= index)
            .count()
    };
    let tried = (0..10).rev().find(|&index| 2 * count(index) > voters.len());
    Index(if voters.is_empty() {
        u64::MAX
    } else {
        tried.expect("0 is acknowledged by all")
    })
}

#[test]
fn k02_committed_index_is_what_a_majority_has() {
    let mut rng = fastrand::Rng::with_seed(2);
    for case in 0..50_000 {
        let mut random = || {
            let mut all: Vec<u64> = (0..10).collect();
            rng.shuffle(&mut all);
            all.truncate(rng.usize(0..=10));
            all
        };
        let (incoming, outgoing) = (random(), random());
        let acked: Vec<_> = (0..10)
            .map(|_| (rng.u8(0..4) > 0).then(|| rng.u64(0..10)))
            .collect();
        let lookup = |id: ReplicaId| acked[id.0 as usize].map(Index);
        let half = |voters: &[u64]| ids(voters).into_iter().collect::<MajorityConfig>();
        let (naive_in, naive_out) = (naive(&incoming, &acked), naive(&outgoing, &acked));
        let majority = half(&incoming);
        assert_eq!(
            majority.committed_index(lookup),
            naive_in,
            "case {case}: {incoming:?} {acked:?}"
        );
        let joint = JointConfig {
            incoming: majority,
            outgoing: half(&outgoing),
        };
        assert_eq!(
            joint.committed_index(lookup),
            naive_in.min(naive_out),
            "case {case}"
        );
    }
}

#[test]
fn k03_text_of_entries() {
    let entry = data_entry(2, 1, "hello\0world");
    assert_eq!(entry.to_string(), "1/2 EntryNormal \"hello\\x00world\"");
    let upper = |data: &[u8]| String::from_utf8_lossy(data).to_uppercase();
    assert_eq!(
        data_entry(2, 1, "hello").display(&upper).to_string(),
        "1/2 EntryNormal HELLO"
    );
    assert_eq!(
        data_entry(3, 2, "World").display(&upper).to_string(),
        "2/3 EntryNormal WORLD"
    );
}

#[test]
fn k04_first_vote_counts() {
    for first in [true, false] {
        let mut node = Setup::new(1, &[1, 2, 3]).node();
        let tracker = node.tracker_mut();
        tracker.record_vote(ReplicaId(2), first);
        tracker.record_vote(ReplicaId(2), !first);
        let tally = tracker.tally_votes();
        assert_eq!(
            (tally.granted, tally.rejected),
            (usize::from(first), usize::from(!first))
        );
    }
}

#[test]
fn k05_tally_of_tracked_voters() {
    let tally = |conf_state, votes: &[(u64, bool)]| {
        let mut node = Setup::of(1, conf_state).node();
        let tracker = node.tracker_mut();
        for &(id, granted) in votes {
            tracker.record_vote(ReplicaId(id), granted);
        }
        tracker.tally_votes()
    };
    let expected = |granted, rejected, result| Tally {
        granted,
        rejected,
        result,
    };
    let votes = [(1, true), (2, false), (4, true), (9, true)];
    // 4 is a learner, and 9 a stranger.
    assert_eq!(
        tally(members(&[1, 2, 3], &[4]), &votes),
        expected(1, 1, VoteResult::Pending)
    );
    let majority = [(1, true), (2, true)];
    assert_eq!(
        tally(voters(&[1, 2, 3]), &majority),
        expected(2, 0, VoteResult::Won)
    );
    assert_eq!(
        tally(joint(&[1, 2, 3], &[4, 5]), &majority),
        expected(2, 0, VoteResult::Pending)
    );
    let lost = [(1, true), (2, true), (4, false)];
    assert_eq!(
        tally(joint(&[1, 2, 3], &[4, 5]), &lost),
        expected(2, 1, VoteResult::Lost)
    );
    let won = [(1, true), (2, true), (4, true), (5, true)];
    assert_eq!(
        tally(joint(&[1, 2, 3], &[4, 5]), &won),
        expected(4, 0, VoteResult::Won)
    );
}
