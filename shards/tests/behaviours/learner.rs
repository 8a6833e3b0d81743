//! Section 14: replicas that receive the log and do not vote.

use crate::harness::*;

/// Voter 1 and learner 2.
fn pair() -> Network {
    Network::new([1, 2].map(|id| Setup::of(id, members(&[1], &[2])).node()))
}

#[test]
fn a01_learner_never_campaigns() {
    let mut learner = Setup::of(2, members(&[1], &[2])).node();
    learner.ticks(100);
    learner.deliver(msg(Hup, 2, 2));
    learner.deliver(msg(TimeoutNow, 1, 2));
    assert_eq!((learner.at(), learner.sent()), ((Follower, 0), vec![]));
}

#[test]
fn a02_promoted_learner_can_win() {
    let mut net = pair();
    net[1].ticks(19);
    net.flush(1);
    assert_eq!(net.at(), [(Leader, 1), (Follower, 1)]);
    net.beat(1);
    for id in [1, 2] {
        net[id].apply_change(&change("v2"));
        assert!(!net[id].is_learner());
    }
    net[2].ticks(19);
    net.flush(2);
    assert_eq!(net.at(), [(Follower, 2), (Leader, 2)]);
}

#[test]
fn a03_learner_grants_votes() {
    let mut learner = Setup::of(2, members(&[1], &[2])).node();
    let answers = learner.answer(msg(Vote, 1, 2).term(2).log(11, 1));
    assert_eq!(answers, [msg(VoteResp, 2, 1).term(2)]);
}

#[test]
fn a04_learner_receives_entries_without_counting() {
    let mut net = pair();
    net.campaign(1);
    net.propose(1, "x");
    assert_eq!(net.commits(), [2, 2]);
    assert_eq!(net[2].entries(), net[1].entries());
    assert_eq!(net[1].flow(2).0, 2);

    net.isolate(2);
    net.propose(1, "y");
    assert_eq!(net.commits(), [3, 2], "one voter commits alone");
    let mut three = Setup::of(1, members(&[1, 2], &[3])).leader();
    three.sent();
    three.answer(msg(AppResp, 3, 1).log(1, 0));
    assert_eq!(three.commit(), 0, "one of two voters");
}

#[test]
fn a05_learner_receives_a_snapshot() {
    let snapshot = snapshot(11, 11, members(&[1], &[2]));
    let leader = Setup::of(1, ConfState::default()).over(snapshot).node();
    let learner = Setup::of(2, members(&[1], &[2])).node();
    let mut net = Network::new([leader, learner]);
    net.campaign(1);
    net.beat(1);
    assert_eq!(
        net[2]
            .log()
            .unstable()
            .snapshot()
            .map(|snapshot| snapshot.meta.index),
        Some(Index(11))
    );
    net[2].persist();
    net.beat(1);
    assert_eq!(net.commits(), [12, 12]);
}

#[test]
fn a06_marks_follow_the_configuration() {
    let mut node = Setup::new(1, &[1]).node();
    let marks = |node: &Node| {
        (
            node.is_learner(),
            node.progress(1).is_learner,
            node.progress(2).is_learner,
        )
    };
    for (operation, expected) in [
        ("l2", (false, false, true)),
        ("v2", (false, false, false)),
        ("l1", (true, true, false)),
        ("v1", (false, false, false)),
    ] {
        node.apply_change(&change(operation));
        assert_eq!(marks(&node), expected, "{operation}");
    }
}

#[test]
fn a07_learner_is_not_counted() {
    let setup =
        || Setup::of(1, members(&[1, 2, 3], &[4])).with(|config| config.check_quorum = true);
    let mut leader = setup().leader();
    for _ in 0..10 {
        leader.deliver(msg(HeartbeatResp, 4, 1));
        leader.ticks(1);
    }
    assert_eq!(
        leader.role(),
        Follower,
        "the learner's activity is no quorum"
    );

    let mut candidate = setup().node();
    candidate.deliver(msg(Hup, 1, 1));
    assert!(!receivers(&candidate.sent()).contains(&4));
    candidate.deliver(msg(VoteResp, 4, 1).term(1));
    assert_eq!((candidate.role(), candidate.granted()), (Candidate, 1));
}

#[test]
fn a08_learner_forgets_its_leader() {
    let mut learner = Setup::of(2, members(&[1, 3], &[2])).node();
    learner.deliver(msg(Heartbeat, 1, 2).term(1));
    learner.ticks(3);
    assert_eq!(learner.leader(), 1);
    learner.deliver(msg(ForgetLeader, 2, 2));
    assert_eq!(
        (learner.leader(), learner.at(), learner.election_elapsed()),
        (0, (Follower, 1), 3)
    );
}
