//! Section 11: membership changes.

use crate::harness::*;
use ConfChangeTransition::{Auto, JointExplicit, JointImplicit};
use flotilla_shards::raft::confchange::{Changer, ConfChangeError, format_operations};
use flotilla_shards::raft::tracker::ProgressTracker;

const VOTERS: [u64; 3] = [1, 2, 3];

/// A leader of one at once, with its empty entry committed and applied.
fn lone() -> Node {
    let mut leader = Setup::new(1, &[1]).leader();
    leader.apply();
    leader
}

fn propose(node: &mut Node, change: impl Into<ConfChangeAny>) {
    node.deliver(prop(1, 1, change_entry(change)));
}

fn learners_next(learners_next: &[u64], state: ConfState) -> ConfState {
    ConfState {
        learners_next: ids(learners_next),
        ..state
    }
}

fn auto_leave(auto_leave: bool, state: ConfState) -> ConfState {
    ConfState {
        auto_leave,
        ..state
    }
}

fn learners(learners: &[u64], state: ConfState) -> ConfState {
    ConfState {
        learners: ids(learners),
        ..state
    }
}

#[test]
fn g01_one_change_at_a_time() {
    let mut leader = Setup::new(1, &[1, 2]).leader();
    assert_eq!(leader.pending_conf_index(), Index(0));
    propose(&mut leader, change_v1("v3"));
    assert_eq!((leader.last(), leader.pending_conf_index()), (2, Index(2)));
    propose(&mut leader, change_v1("v4"));
    assert_eq!((leader.last(), leader.pending_conf_index()), (3, Index(2)));
    assert_eq!(leader.entries()[1].kind, EntryKind::ConfChange);
    assert_eq!(leader.entries()[2], entry(3, 1));
}

#[test]
fn g02_new_leader_waits_for_its_whole_log() {
    for (log, pending) in [(&[][..], 0), (&[1], 1)] {
        assert_eq!(
            Setup::new(1, &[1, 2])
                .log(log)
                .leader()
                .pending_conf_index(),
            Index(pending)
        );
    }
}

#[test]
fn g03_simple_changes() {
    let apply =
        |before: ConfState, operation| Setup::of(1, before).node().apply_change(&change(operation));
    assert_eq!(apply(voters(&[1]), "v2"), voters(&[1, 2]));
    assert_eq!(apply(voters(&[1, 2]), "r2"), voters(&[1]));
    assert_eq!(apply(members(&[1], &[2]), "r2"), voters(&[1]));
    // What comes from the log of a group is no invariant of this replica: an error.
    let mut last = Setup::new(1, &[1]).node();
    let refused = last.apply_conf_change(&change("r1"));
    assert_eq!(
        refused,
        Err(Error::ConfChange(ConfChangeError::RemovedAllVoters))
    );
    assert_eq!(last.conf_state(), voters(&[1]));
}

#[test]
fn g04_voters_are_listed_in_order() {
    let node = Setup::new(1, &[3, 2, 1]).node();
    assert_eq!(node.tracker().voter_nodes().as_slice(), ids(&VOTERS));
    assert_eq!(node.conf_state().voters, ids(&VOTERS));
}

/// Membership of a group of one when the change is applied, and when everything has settled.
fn changed(change: impl Into<ConfChangeAny>) -> (ConfState, ConfState) {
    let mut leader = lone();
    propose(&mut leader, change);
    leader.apply();
    let first = leader.conf_state();
    // Other voters agree with everything.
    for _ in 0..3 {
        for peer in [2, 3] {
            let last = leader.last();
            leader.deliver(msg(AppResp, peer, 1).log(last, 0));
        }
        leader.apply();
    }
    (first, leader.conf_state())
}

#[test]
fn g05_one_operation_is_a_simple_change() {
    let same = |state: ConfState| (state.clone(), state);
    assert_eq!(changed(change_v1("v2")), same(voters(&[1, 2])));
    assert_eq!(changed(change("v2")), same(voters(&[1, 2])));
    assert_eq!(changed(change("l2")), same(members(&[1], &[2])));
}

#[test]
fn g06_joint_change_of_a_learner() {
    let joined = |leave| learners(&[2], auto_leave(leave, joint(&[1], &[1])));
    assert_eq!(
        changed(transition("l2", JointImplicit)),
        (joined(true), members(&[1], &[2]))
    );
    assert_eq!(
        changed(transition("l2", JointExplicit)),
        (joined(false), joined(false))
    );

    let mut leader = lone();
    propose(&mut leader, transition("l2", JointExplicit));
    leader.apply();
    propose(&mut leader, change(""));
    leader.apply();
    assert_eq!(leader.conf_state(), members(&[1], &[2]));
}

#[test]
fn g07_joint_change_of_several() {
    let after = members(&[2], &[1, 3]);
    for (how, leave) in [(Auto, true), (JointExplicit, false), (JointImplicit, true)] {
        let joined = learners_next(&[1], learners(&[3], auto_leave(leave, joint(&[2], &[1]))));
        let settled = if leave { after.clone() } else { joined.clone() };
        assert_eq!(
            changed(transition("v2 l1 l3", how)),
            (joined, settled),
            "{how:?}"
        );
    }
    let mut leader = lone();
    propose(&mut leader, transition("v2 l1 l3", JointExplicit));
    leader.apply();
    propose(&mut leader, change(""));
    let last = leader.last();
    leader.deliver(msg(AppResp, 2, 1).log(last, 0));
    leader.apply();
    assert_eq!(leader.conf_state(), after);
}

#[test]
fn g08_leaving_automatically_and_by_hand() {
    let mut leader = lone();
    propose(&mut leader, transition("l2", JointImplicit));
    assert_eq!((leader.last(), leader.pending_conf_index()), (2, Index(2)));
    leader.apply();
    let leave = Entry {
        kind: EntryKind::ConfChangeV2,
        ..entry(3, 1)
    };
    assert_eq!(
        (leader.entries().last(), leader.pending_conf_index()),
        (Some(&leave), Index(3))
    );

    let mut leader = lone();
    propose(&mut leader, transition("l2", JointExplicit));
    leader.apply();
    assert_eq!((leader.last(), leader.pending_conf_index()), (2, Index(2)));
    let by_hand = ConfChangeV2 {
        context: "why".into(),
        ..change("")
    };
    propose(&mut leader, by_hand.clone());
    let data = ConfChangeAny::V2(by_hand).encode().1;
    assert!(!data.is_empty());
    assert_eq!(
        leader.entries()[2],
        Entry {
            kind: EntryKind::ConfChangeV2,
            data,
            ..entry(3, 1)
        }
    );
    leader.apply();
    assert_eq!(leader.conf_state(), members(&[1], &[2]));
}

#[test]
fn g09_deposed_leader_does_not_leave_the_joint_configuration() {
    let mut node = lone();
    propose(&mut node, transition("l2", JointImplicit));
    node.persist();
    assert_eq!((node.pending_conf_index(), node.commit()), (Index(2), 2));
    node.become_follower(Term(2), ReplicaId(0));
    assert_eq!(node.at(), (Follower, 2));
    node.apply();
    assert!(node.conf_state().auto_leave);
    assert_eq!((node.last(), node.pending_conf_index()), (2, Index(0)));

    node.deliver(msg(Hup, 1, 1));
    node.persist();
    assert_eq!(
        (node.at(), node.last()),
        ((Leader, 3), 3),
        "nothing of the own term is applied yet"
    );
    node.apply();
    assert_eq!(
        (node.last(), node.entries()[3].kind),
        (4, EntryKind::ConfChangeV2)
    );
    node.apply();
    assert_eq!(node.conf_state(), members(&[1], &[2]));
}

#[test]
fn g10_adding_a_node_twice_does_no_harm() {
    let mut node = lone_leader(Setup::new(1, &[1]));
    let changes = ["v1", "v1", "v2"].map(change_v1);
    for change in &changes {
        node.propose_conf_change(change.clone()).expect("accepted");
        settle(&mut node);
    }
    let log = node
        .storage()
        .entries(Index(2), Index(5), NO_LIMIT)
        .expect("there");
    let data: Vec<_> = log
        .into_iter()
        .map(|entry| (entry.kind, entry.data))
        .collect();
    assert_eq!(
        data,
        changes.map(|change| ConfChangeAny::V1(change).encode())
    );
    assert_eq!(node.raft.conf_state(), voters(&[1, 2]));
}

#[test]
fn g11_unapplied_change_keeps_from_campaigning() {
    for entry in [change_entry(change_v1("r3")), change_entry(change("r3"))] {
        let mut node = Setup::new(1, &VOTERS).node();
        let entry = Entry {
            index: Index(1),
            term: Term(1),
            ..entry
        };
        node.answer(msg(App, 2, 1).term(1).entries(vec![entry]).commit(1));
        node.ticks(50);
        assert_eq!(node.at(), (Follower, 1), "by timeout");
        node.deliver(msg(TimeoutNow, 2, 1).term(1));
        assert_eq!(
            (node.at(), node.sent()),
            ((Follower, 1), vec![]),
            "by the leader's wish"
        );
        assert_eq!(node.apply().len(), 1);
        node.ticks(20);
        assert_eq!(node.role(), Candidate);
    }
}

#[test]
fn g12_changes_must_fit_the_configuration() {
    let mut leader = lone();
    propose(&mut leader, change(""));
    assert_eq!(leader.entries()[1], entry(2, 1), "leaves what is not joint");
    leader.apply();
    propose(&mut leader, transition("l2", JointExplicit));
    leader.apply();
    propose(&mut leader, change("v3"));
    assert_eq!(leader.entries()[3], entry(4, 1), "changes while joint");
}

#[test]
fn g13_which_changes_leave_the_joint_configuration() {
    let with_context = |change| ConfChangeV2 {
        context: "ctx".into(),
        ..change
    };
    assert!(ConfChangeV2::default().leave_joint());
    assert!(transition("", Auto).leave_joint());
    assert!(with_context(transition("", Auto)).leave_joint());
    for how in [JointImplicit, JointExplicit] {
        assert!(!transition("", how).leave_joint(), "{how:?}");
        assert!(!transition("v1", how).leave_joint(), "{how:?}");
    }
    for operations in ["v1", "r1", "v1 l2"] {
        assert!(
            !with_context(change(operations)).leave_joint(),
            "{operations}"
        );
    }
}

#[test]
fn g14_which_changes_need_joint_consensus() {
    for (how, joint) in [
        (Auto, None),
        (JointImplicit, Some(true)),
        (JointExplicit, Some(false)),
    ] {
        for operations in ["", "v1"] {
            assert_eq!(
                transition(operations, how).enter_joint(),
                joint,
                "{how:?} {operations}"
            );
        }
        assert_eq!(
            transition("v1 r2", how).enter_joint(),
            joint.or(Some(true)),
            "{how:?}"
        );
    }
}

/// Random operations on ids of up to `highest`, without the removal of node 1.
fn random_changes(rng: &mut fastrand::Rng, count: usize, highest: u64) -> Vec<ConfChangeSingle> {
    let kinds = [
        ConfChangeKind::AddNode,
        ConfChangeKind::AddLearnerNode,
        ConfChangeKind::RemoveNode,
        ConfChangeKind::UpdateNode,
    ];
    (0..count)
        .map(|_| ConfChangeSingle {
            kind: kinds[rng.usize(0..4)],
            id: ReplicaId(rng.u64(2..=highest)),
        })
        .collect()
}

/// Applies a step of a [`Changer`] to its tracker.
macro_rules! step {
    ($tracker:ident, $method:ident($($argument:expr),*)) => {{
        let changer = Changer { tracker: &$tracker, last_index: Index(10) };
        ($tracker.config, $tracker.progress) = changer.$method($($argument),*).expect("the change fits");
    }};
}

#[test]
fn g15_joint_and_simple_changes_end_the_same() {
    let mut rng = fastrand::Rng::with_seed(15);
    for case in 0..1000 {
        let (setup, changes) = (rng.usize(0..6), rng.usize(1..9));
        let (setup, changes) = (
            random_changes(&mut rng, setup, 8),
            random_changes(&mut rng, changes, 8),
        );
        let mut before = ProgressTracker::new(10, 0);
        step!(
            before,
            simple(&parse_operations("v1").expect("an operation"))
        );
        for &single in &setup {
            step!(before, simple(&[single]));
        }
        let mut simple = before.clone();
        for &single in &changes {
            step!(simple, simple(&[single]));
        }
        for auto_leave in [false, true] {
            let mut joint = before.clone();
            step!(joint, enter_joint(auto_leave, &changes));
            step!(joint, leave_joint());
            assert_eq!(
                joint,
                simple,
                "case {case}: {} then {}",
                format_operations(&setup),
                format_operations(&changes)
            );
        }
    }
}

fn restored(state: &ConfState) -> ConfState {
    let tracker = ProgressTracker::new(10, 0);
    let changer = Changer {
        tracker: &tracker,
        last_index: Index(10),
    };
    changer
        .restore(state)
        .expect("a valid membership")
        .0
        .conf_state()
}

#[test]
fn g16_memberships_survive_a_restore() {
    let fixed = [
        ConfState::default(),
        voters(&VOTERS),
        members(&VOTERS, &[4, 5, 6]),
        learners_next(&[4], learners(&[5], joint(&VOTERS, &[1, 2, 4, 6]))),
    ];
    let mut rng = fastrand::Rng::with_seed(16);
    let random = (0..1000).map(|_| {
        // Four disjoint groups: voters of both halves or of the incoming one, outgoing ones, learners.
        let mut all: Vec<u64> = (1..=20).collect();
        rng.shuffle(&mut all);
        let mut take = |least: usize| {
            let count = rng.usize(least..5);
            let mut taken = all.split_off(all.len() - count);
            taken.sort_unstable();
            taken
        };
        let (incoming, learners, removed) = (take(1), take(0), take(0));
        if removed.is_empty() {
            return members(&incoming, &learners);
        }
        let kept = incoming.iter().copied().filter(|_| rng.bool());
        let mut outgoing: Vec<u64> = removed.iter().copied().chain(kept).collect();
        outgoing.sort_unstable();
        let next: Vec<u64> = removed.iter().copied().filter(|_| rng.bool()).collect();
        let state = ConfState {
            learners: ids(&learners),
            ..joint(&incoming, &outgoing)
        };
        auto_leave(rng.bool(), learners_next(&next, state))
    });
    let random: Vec<_> = random.collect();
    for state in fixed.iter().chain(&random) {
        assert_eq!(restored(state), *state);
    }
}

#[test]
fn g17_memberships_compare_regardless_of_order() {
    let base = learners_next(&[4, 6], learners(&[5, 7], joint(&VOTERS, &[1, 4, 6])));
    let shuffled = learners_next(&[6, 4], learners(&[7, 5], joint(&[2, 1, 3], &[6, 1, 4])));
    assert!(base.equivalent(&shuffled) && shuffled.equivalent(&base));
    // There is no difference between an absent list and an empty one.
    assert!(voters(&[]).equivalent(&ConfState::default()));
    for other in [
        ConfState {
            voters: ids(&[1, 2]),
            ..base.clone()
        },
        ConfState {
            voters_outgoing: ids(&[1, 4]),
            ..base.clone()
        },
        auto_leave(true, base.clone()),
    ] {
        assert!(
            !base.equivalent(&other) && !other.equivalent(&base),
            "{other}"
        );
    }
}

#[test]
fn g18_leader_sends_at_once_after_a_change() {
    let mut leader = Setup::new(1, &VOTERS).leader();
    leader.sent();
    leader.answer(msg(AppResp, 2, 1).log(1, 0));
    leader.answer(msg(AppResp, 3, 1).log(1, 0));
    leader.apply_change(&change("v4"));
    let sent = leader.sent();
    assert_eq!(
        (receivers(&sent), positions(&sent[0].entries)),
        (vec![4], vec![(1, 1)]),
        "only the new one has news"
    );

    leader.propose_data("x");
    leader.sent();
    leader.answer(msg(AppResp, 2, 1).log(2, 0));
    assert_eq!(leader.commit(), 1, "two of four");
    leader.apply_change(&change("r4"));
    assert_eq!(leader.commit(), 2, "two of three");
    let sent = leader.sent();
    assert_eq!(receivers(&sent), [2, 3]);
    assert!(sent.iter().all(|append| append.commit == Index(2)));
}

#[test]
fn g19_leader_outside_its_configuration() {
    let mut leader = Setup::new(1, &VOTERS).leader();
    leader.sent();
    leader.apply_change(&change("r1"));
    assert_eq!(leader.role(), Leader);
    let last = leader.last();
    let dropped = leader.step(prop(1, 1, data("x")));
    assert_eq!(dropped, Err(Error::ProposalDropped(DropReason::Removed)));
    assert_eq!(leader.last(), last);
    for kind in [AppResp, HeartbeatResp] {
        assert_eq!(
            leader.answer(msg(kind, 9, 1).log(1, 0)),
            [],
            "from a stranger"
        );
    }
    assert_eq!(leader.commit(), 0);
}

#[test]
fn g20_text_of_operations() {
    let text = "v1 l2 r3 u4";
    let operations = parse_operations(text).expect("well-formed");
    let kinds: Vec<_> = operations
        .iter()
        .map(|single| (single.kind, single.id.0))
        .collect();
    assert_eq!(
        kinds,
        [
            (ConfChangeKind::AddNode, 1),
            (ConfChangeKind::AddLearnerNode, 2),
            (ConfChangeKind::RemoveNode, 3),
            (ConfChangeKind::UpdateNode, 4)
        ]
    );
    assert_eq!(format_operations(&operations), text);
}

#[test]
fn g21_node_zero_is_skipped() {
    for operation in ["v0", "l0", "r0"] {
        let mut node = Setup::new(1, &[1, 2]).node();
        assert_eq!(
            node.apply_change(&change(operation)),
            voters(&[1, 2]),
            "{operation}"
        );
    }
    let mut node = Setup::new(1, &[1, 2]).node();
    assert_eq!(
        node.apply_change(&change("v0 l3")),
        auto_leave(true, learners(&[3], joint(&[1, 2], &[1, 2])))
    );
}
