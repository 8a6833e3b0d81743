//! Section 3: leaders that make sure of their quorum, and voters that stick to their leader.

use crate::harness::*;

fn check_quorum(config: &mut Config) {
    config.check_quorum = true;
}

fn three() -> Network {
    Network::with(3, check_quorum)
}

/// Leader 1 of three with an election tick of 5.
fn impatient_leader() -> Node {
    Setup::new(1, &[1, 2, 3])
        .with(check_quorum)
        .with(|config| config.election_ticks = 5)
        .leader()
}

/// Ticks an election timeout without an election.
fn wait(net: &mut Network, id: u64) {
    net[id].set_randomized_election_timeout(11);
    net[id].ticks(10);
}

#[test]
fn q01_leader_that_hears_from_a_quorum_stays() {
    let mut leader = impatient_leader();
    for _ in 0..6 {
        leader.deliver(msg(HeartbeatResp, 2, 1).term(1));
        leader.ticks(1);
    }
    assert_eq!(leader.role(), Leader);
}

#[test]
fn q02_leader_that_hears_nothing_steps_down() {
    let mut leader = impatient_leader();
    leader.ticks(6);
    assert_eq!(leader.at(), (Follower, 1));
}

#[test]
fn q03_activity_is_asked_for_once_per_election_timeout() {
    let mut leader = impatient_leader();
    let active = |leader: &Node| [1, 2, 3].map(|id| leader.progress(id).recent_active);
    leader.deliver(msg(HeartbeatResp, 2, 1).term(1));
    leader.ticks(4);
    assert_eq!(
        active(&leader),
        [true, true, false],
        "not before the timeout"
    );
    leader.ticks(1);
    assert_eq!(
        (leader.role(), active(&leader)),
        (Leader, [true, false, false])
    );
    leader.deliver(msg(HeartbeatResp, 3, 1).term(1));
    leader.ticks(4);
    assert_eq!(
        active(&leader),
        [true, false, true],
        "the next check is a timeout later"
    );
    leader.ticks(1);
    assert_eq!(
        (leader.role(), active(&leader)),
        (Leader, [true, false, false])
    );
}

#[test]
fn q04_votes_are_not_given_while_the_leader_is_heard() {
    let mut net = three();
    net.campaign(1);
    assert_eq!((net[1].at(), net[3].at()), ((Leader, 1), (Follower, 1)));
    net.campaign(3);
    assert_eq!((net[2].at(), net[3].at()), ((Follower, 1), (Candidate, 2)));
    for kind in [Vote, PreVote] {
        assert_eq!(
            net[2].answer(msg(kind, 3, 2).term(2).log(9, 2)),
            [],
            "{kind}"
        );
        assert_eq!(net[2].at(), (Follower, 1));
    }
}

#[test]
fn q05_votes_are_given_again_after_an_election_timeout() {
    let mut net = three();
    net.campaign(1);
    net.campaign(3);
    assert_eq!(net[3].at(), (Candidate, 2));
    wait(&mut net, 2);
    net.campaign(3);
    assert_eq!((net[2].at(), net[3].at()), ((Follower, 3), (Leader, 3)));
}

#[test]
fn q06_votes_are_given_right_after_creation() {
    for elapsed in [0, 5, 10] {
        let mut net = three();
        net[2].set_election_elapsed(elapsed);
        net[3].set_election_elapsed(elapsed);
        net.campaign(1);
        assert_eq!(
            net.at(),
            [(Leader, 1), (Follower, 1), (Follower, 1)],
            "{elapsed} ticks"
        );
    }
}

#[test]
fn q07_silent_leader_is_succeeded() {
    let mut net = three();
    net.campaign(1);
    net[1].ticks(10);
    net.lose(1);
    wait(&mut net, 2);
    net.campaign(3);
    assert_eq!((net[1].role(), net[3].at()), (Follower, (Leader, 2)));
}

#[test]
fn q08_stuck_candidate_frees_itself() {
    let mut net = three();
    net.campaign(1);
    net.isolate(1);
    for behind in [1, 2] {
        net.campaign(3);
        assert_eq!(
            (net[2].at(), net[3].at()),
            ((Follower, 1), (Candidate, 1 + behind))
        );
    }
    net.heal();
    let answers = net[3].answer(msg(Heartbeat, 1, 3).term(1));
    assert_eq!(answers, [msg(AppResp, 3, 1).term(3)]);
    net.send(answers);
    assert_eq!((net[1].at(), net[3].at()), ((Follower, 3), (Candidate, 3)));
    net.campaign(3);
    assert_eq!(net[3].at(), (Leader, 4));
}

#[test]
fn q09_leaders_of_lower_terms_are_told_the_term() {
    for (check_quorum, pre_vote) in [(true, false), (false, true), (true, true), (false, false)] {
        for kind in [Heartbeat, App] {
            let set = |config: &mut Config| {
                (config.check_quorum, config.pre_vote) = (check_quorum, pre_vote)
            };
            let mut node = Setup::new(1, &[1, 2, 3]).with(set).term(3).node();
            let answers = node.answer(msg(kind, 2, 1).term(2));
            let expected = if check_quorum || pre_vote {
                vec![msg(AppResp, 1, 2).term(3)]
            } else {
                vec![]
            };
            assert_eq!(answers, expected, "{kind} {check_quorum} {pre_vote}");
            assert_eq!((node.at(), node.leader()), ((Follower, 3), 0));
        }
    }
}

#[test]
fn q10_node_outside_its_configuration_follows() {
    let setup = |id, voters| Setup::new(id, voters).with(check_quorum);
    let mut net = Network::new([setup(1, &[1, 2]).node(), setup(2, &[1]).node()]);
    assert!(!net[2].promotable());
    net[2].ticks(40);
    assert_eq!((net[2].at(), net[2].sent()), ((Follower, 0), vec![]));
    net.campaign(1);
    assert_eq!(
        (net[1].role(), net[2].role(), net[2].leader()),
        (Leader, Follower, 1)
    );
}

/// Leader 1 at term 2 with log entries that 3 has not, if it was cut off.
fn disrupted(pre_vote: bool) -> Network {
    let mut net = Network::new((1..=3).map(|id| {
        let setup = Setup::new(id, &[1, 2, 3]).with(check_quorum).term(1);
        setup.with(|config| config.pre_vote = pre_vote).node()
    }));
    net.campaign(1);
    if pre_vote {
        net.isolate(3);
        for text in ["a", "b", "c"] {
            net.propose(1, text);
        }
        net.heal();
    }
    net
}

#[test]
fn q11_disruptive_follower() {
    let mut net = disrupted(false);
    let timeout = net[3].randomized_election_timeout();
    net[3].ticks(timeout);
    net.lose(3);
    assert_eq!(net.at(), [(Leader, 2), (Follower, 2), (Candidate, 3)]);
    net.send([msg(Heartbeat, 1, 3).term(2)]);
    assert_eq!(net.at(), [(Follower, 3), (Follower, 2), (Candidate, 3)]);
}

#[test]
fn q12_pre_vote_prevents_disruption() {
    let mut net = disrupted(true);
    net.campaign(3);
    assert_eq!(net.at(), [(Leader, 2), (Follower, 2), (PreCandidate, 2)]);
    net.send([msg(Heartbeat, 1, 3).term(2)]);
    assert_eq!(net[1].at(), (Leader, 2));
    assert!(
        net.at().iter().all(|&(_, term)| term == 2),
        "{:?}",
        net.at()
    );
}

#[test]
fn q13_new_peer_counts_as_active() {
    let mut leader = Setup::new(1, &[1]).with(check_quorum).leader();
    leader.ticks(9);
    leader.apply_change(&change("v2"));
    leader.ticks(1);
    assert_eq!(leader.role(), Leader);
    leader.ticks(10);
    assert_eq!(leader.role(), Follower);
}
