//! Section 10: sending, installing and refusing snapshots.

use crate::harness::*;
use std::cell::Cell;

const VOTERS: [u64; 3] = [1, 2, 3];

/// Leader 1 of two at once, its log over a snapshot at 11/11, its empty entry, at 12, stable.
fn leader() -> Node {
    let mut leader = Setup::of(1, ConfState::default())
        .over(snapshot(11, 11, voters(&[1, 2])))
        .leader();
    leader.sent();
    leader
}

/// The same with the snapshot on its way to 2, which is new.
fn sending() -> Node {
    let mut leader = leader();
    let progress = leader.progress_mut(2);
    progress.next = Index(1);
    progress.become_snapshot(Index(11));
    leader
}

fn restore(node: &mut Node, snapshot: Snapshot) -> bool {
    node.restore(Box::new(snapshot)).expect("a sound snapshot")
}

#[test]
fn n01_peer_behind_the_log_gets_a_snapshot() {
    let mut leader = leader();
    let sent = leader.answer(msg(AppResp, 2, 1).log(11, 0).rejected());
    assert_eq!(
        sent,
        [msg(Snap, 1, 2)
            .term(12)
            .snapshot(snapshot(11, 11, voters(&[1, 2])))]
    );
    assert_eq!(leader.progress(2).pending_snapshot, Index(11));
    assert_eq!(leader.progress(2).state, ProgressState::Snapshot);
}

#[test]
fn n02_no_snapshot_to_an_inactive_peer() {
    for (recent_active, sent) in [(false, 0), (true, 1)] {
        let mut leader = leader();
        let progress = leader.progress_mut(2);
        (progress.next, progress.recent_active) = (Index(11), recent_active);
        leader.propose_data("x");
        assert_eq!(leader.sent().len(), sent);
    }
}

#[test]
fn n03_nothing_is_replicated_behind_a_pending_snapshot() {
    let mut leader = sending();
    leader.propose_data("x");
    assert_eq!(leader.sent(), []);
    assert_eq!(leader.progress(2).pending_snapshot, Index(11));
}

#[test]
fn n04_reports_on_snapshots() {
    for (failed, next) in [(true, 1), (false, 12)] {
        let report = Message {
            reject: failed,
            ..msg(SnapStatus, 2, 1)
        };
        let mut leader = sending();
        leader.deliver(report.clone());
        let progress = leader.progress(2);
        assert_eq!(
            (progress.state, progress.pending_snapshot),
            (ProgressState::Probe, Index(0))
        );
        assert_eq!((leader.flow(2), progress.is_paused()), ((0, next), true));

        for state in [ProgressState::Probe, ProgressState::Replicate] {
            let progress = leader.progress_mut(2);
            (progress.state, progress.msg_app_flow_paused) = (state, false);
            let before = progress.clone();
            leader.deliver(report.clone());
            assert_eq!(*leader.progress(2), before);
        }
    }
}

#[test]
fn n05_acknowledgement_ends_a_pending_snapshot() {
    let mut leader = sending();
    leader.deliver(msg(AppResp, 2, 1).log(11, 0));
    let progress = leader.progress(2);
    assert_eq!(
        (progress.state, progress.pending_snapshot),
        (ProgressState::Replicate, Index(0))
    );
    // The empty entry is on its way.
    assert_eq!((progress.next, progress.inflights.count()), (Index(13), 1));
}

#[test]
fn n06_acknowledgement_below_the_snapshot_may_end_it() {
    let mut leader = sending();
    leader.propose_data("x");
    leader.sent();
    leader.progress_mut(2).become_snapshot(Index(13));
    leader.answer(msg(AppResp, 2, 1).log(10, 0));
    let progress = leader.progress(2);
    assert_eq!(
        (progress.state, progress.pending_snapshot),
        (ProgressState::Snapshot, Index(13))
    );
    // The log goes on from here.
    let sent = leader.answer(msg(AppResp, 2, 1).log(11, 0));
    let progress = leader.progress(2);
    assert_eq!(
        (progress.state, progress.pending_snapshot),
        (ProgressState::Replicate, Index(0))
    );
    assert_eq!(positions(&sent[0].entries), [(12, 12), (13, 12)]);
}

#[test]
fn n07_restore() {
    let mut node = Setup::new(1, &[1, 2]).node();
    assert!(restore(&mut node, snapshot(11, 11, voters(&VOTERS))));
    assert_eq!(
        (node.last(), node.log().term(Index(11))),
        (11, Ok(Term(11)))
    );
    assert_eq!(node.conf_state(), voters(&VOTERS));
    assert!(!restore(&mut node, snapshot(11, 11, voters(&VOTERS))));
    node.ticks(50);
    assert_eq!(node.role(), Follower);
}

#[test]
fn n08_restore_with_learners() {
    // Own id, membership before, membership of the snapshot, whether a learner afterwards.
    for (id, before, after, learner) in [
        (3, members(&[1, 2], &[3]), members(&[1, 2], &[3]), true),
        (3, voters(&VOTERS), members(&[1, 2], &[3]), true),
        (3, members(&[1, 2], &[3]), voters(&VOTERS), false),
    ] {
        let mut node = Setup::of(id, before).node();
        assert!(restore(&mut node, snapshot(11, 11, after.clone())));
        assert_eq!((node.conf_state(), node.is_learner()), (after, learner));
        let marks = VOTERS.map(|id| node.progress(id).is_learner);
        assert_eq!(marks, [false, false, learner]);
    }
}

#[test]
fn n09_restore_as_an_outgoing_voter() {
    let mut node = Setup::new(1, &[1, 2]).node();
    assert!(restore(
        &mut node,
        snapshot(11, 11, joint(&[2, 3, 4], &[1, 2, 3]))
    ));
    assert_eq!(
        (node.last(), node.log().term(Index(11))),
        (11, Ok(Term(11)))
    );
    assert_eq!(node.tracker().voter_nodes().as_slice(), ids(&[1, 2, 3, 4]));
    assert!(!restore(
        &mut node,
        snapshot(11, 11, joint(&[2, 3, 4], &[1, 2, 3]))
    ));
    node.ticks(50);
    assert_eq!(node.role(), Follower);
}

#[test]
fn n10_snapshots_that_are_not_needed() {
    let mut node = Setup::new(1, &[1, 2]).log(&[1, 1, 1]).commit(1).node();
    for (index, commit) in [(0, 1), (1, 1), (2, 2)] {
        assert!(
            !restore(&mut node, snapshot(index, 1, voters(&[1, 2]))),
            "{index}"
        );
        assert_eq!(
            (node.commit(), node.terms()),
            (commit, vec![1, 1, 1]),
            "{index}"
        );
    }
}

#[test]
fn n11_snapshot_without_the_node_is_refused() {
    let mut node = Setup::new(1, &[1, 2]).log(&[1, 1]).commit(1).node();
    assert!(!restore(&mut node, snapshot(11, 11, voters(&[2, 3]))));
    let answers = node.answer(
        msg(Snap, 2, 1)
            .term(11)
            .snapshot(snapshot(11, 11, voters(&[2, 3]))),
    );
    assert_eq!(answers, [msg(AppResp, 1, 2).term(11).log(1, 0)]);
    assert_eq!(
        (node.terms(), node.conf_state()),
        (vec![1, 1], voters(&[1, 2]))
    );
}

#[test]
fn n12_snapshot_tells_who_leads() {
    let mut node = Setup::new(2, &[1, 2]).node();
    node.deliver(
        msg(Snap, 1, 2)
            .term(2)
            .snapshot(snapshot(11, 1, voters(&[1, 2]))),
    );
    assert_eq!((node.leader(), node.at()), (1, (Follower, 2)));
}

#[test]
fn n13_peer_far_behind_catches_up() {
    let mut net = Network::of(3);
    net.campaign(1);
    net.isolate(3);
    for _ in 0..=100 {
        net.propose(1, "x");
    }
    let members = net[1].conf_state();
    let applied = net[1].apply().last().expect("committed").index;
    assert_eq!(applied, Index(102));
    let storage = net[1].log_mut().storage_mut();
    storage
        .create_snapshot(applied, Some(members), "state".into())
        .expect("there");
    storage.compact(applied).expect("there");

    net.heal();
    net.beat(1);
    assert!(net[1].progress(3).recent_active);
    net.propose(1, "y");
    net.propose(1, "z");
    assert_eq!(
        net[3]
            .log()
            .unstable()
            .snapshot()
            .map(|snapshot| snapshot.meta.index),
        Some(applied)
    );
    assert_eq!((net[3].commit(), net[1].commit()), (104, 104));
}

/// A storage that may still be making its snapshot.
struct Slow {
    inner: MemoryStorage,
    made: Cell<bool>,
}

impl Storage for Slow {
    fn initial_state(&self) -> Result<(HardState, ConfState), StorageError> {
        self.inner.initial_state()
    }

    fn entries(&self, low: Index, high: Index, max_size: u64) -> Result<Vec<Entry>, StorageError> {
        self.inner.entries(low, high, max_size)
    }

    fn term(&self, index: Index) -> Result<Term, StorageError> {
        self.inner.term(index)
    }

    fn first_index(&self) -> Index {
        self.inner.first_index()
    }

    fn last_index(&self) -> Index {
        self.inner.last_index()
    }

    fn snapshot(&self) -> Result<Snapshot, StorageError> {
        if self.made.get() {
            self.inner.snapshot()
        } else {
            Err(StorageError::SnapshotTemporarilyUnavailable)
        }
    }
}

#[test]
fn n14_snapshot_that_is_being_made_is_waited_for() {
    let Setup { config, storage } =
        Setup::of(1, ConfState::default()).over(snapshot(11, 11, voters(&[1, 2])));
    let storage = Slow {
        inner: storage,
        made: Cell::new(false),
    };
    let mut leader = Raft::new(&config, storage).expect("a sound setup");
    leader.become_candidate();
    leader.become_leader();
    leader
        .step(msg(AppResp, 2, 1).log(11, 0).rejected())
        .expect("nothing fails");
    assert_eq!(leader.take_messages(), []);
    leader.log().storage().made.set(true);
    leader
        .step(msg(HeartbeatResp, 2, 1))
        .expect("nothing fails");
    let sent = leader.take_messages();
    assert_eq!((sent.len(), sent[0].kind), (1, Snap));
}

#[test]
fn n15_installed_snapshot_is_acknowledged_when_stable() {
    let mut node = Setup::new(2, &[1, 2]).node();
    node.deliver(
        msg(Snap, 1, 2)
            .term(2)
            .snapshot(snapshot(11, 1, voters(&[1, 2]))),
    );
    assert_eq!(node.messages(), []);
    assert_eq!(
        node.messages_after_append(),
        [msg(AppResp, 2, 1).term(2).log(11, 0)]
    );
}
