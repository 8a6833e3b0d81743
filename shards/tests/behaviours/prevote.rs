//! Section 2: elections with pre-votes.

use crate::election;
use crate::harness::*;
use crate::roles;

/// Three voters at term 1, configured alike.
fn at_term_one(configure: impl Fn(&mut Config)) -> Network {
    Network::new((1..=3).map(|id| Setup::new(id, &[1, 2, 3]).with(&configure).term(1).node()))
}

fn pre_vote(config: &mut Config) {
    config.pre_vote = true;
}

#[test]
fn p01_elections_have_the_same_winners() {
    election::elections(true, (PreCandidate, 0));
}

#[test]
fn p02_basic_elections_hold() {
    election::leader_cycle(true);
    election::newer_entries_overwritten(true);
    election::single_voter(true);
    roles::campaign_of_a_leader(true);
}

#[test]
fn p03_pre_vote_is_granted_in_every_role_and_changes_nothing() {
    for mut node in election::in_every_role(true) {
        node.sent();
        let before = (node.at(), node.voted());
        let answers = node.answer(msg(PreVote, 2, 1).term(2).log(42, 2));
        assert_eq!(answers, [msg(PreVoteResp, 1, 2).term(2)], "{before:?}");
        assert_eq!((node.at(), node.voted()), before);
    }
}

#[test]
fn p04_own_term_rises_only_after_a_majority_answered() {
    let mut node = Setup::new(1, &[1, 2, 3]).with(pre_vote).log(&[1, 4]).node();
    let asked = node.answer(msg(Hup, 1, 1));
    assert_eq!(
        asked,
        [2, 3].map(|to| msg(PreVote, 1, to).term(5).log(2, 4))
    );
    assert_eq!((node.at(), node.voted()), ((PreCandidate, 4), 0));
    let campaign = node.answer(msg(PreVoteResp, 3, 1).term(5));
    assert_eq!(
        campaign,
        [2, 3].map(|to| msg(Vote, 1, to).term(5).log(2, 4))
    );
    assert_eq!((node.at(), node.voted()), ((Candidate, 5), 1));
}

#[test]
fn p05_terms_of_pre_vote_answers() {
    let mut voter = Setup::new(2, &[1, 2, 3]).with(pre_vote).log(&[1, 4]).node();
    let granted = voter.answer(msg(PreVote, 1, 2).term(6).log(2, 4));
    assert_eq!(
        granted,
        [msg(PreVoteResp, 2, 1).term(6)],
        "the term that was asked for"
    );
    let refused = voter.answer(msg(PreVote, 1, 2).term(6).log(1, 1));
    let refused: Vec<_> = refused.into_iter().map(bare).collect();
    assert_eq!(
        refused,
        [msg(PreVoteResp, 2, 1).term(4).rejected()],
        "the own term"
    );

    let mut asker = Setup::new(1, &[1, 2, 3, 4, 5])
        .with(pre_vote)
        .log(&[1, 4])
        .node();
    asker.answer(msg(Hup, 1, 1));
    asker.deliver(msg(PreVoteResp, 2, 1).term(5));
    assert_eq!(
        asker.at(),
        (PreCandidate, 4),
        "a granted one is from no later term"
    );
    asker.deliver(msg(PreVoteResp, 3, 1).term(7).rejected());
    assert_eq!(asker.at(), (Follower, 7), "a rejection is");
}

#[test]
fn p06_duelling_pre_candidates() {
    let mut net = Network::with(3, pre_vote);
    net.cut(1, 3);
    net.campaign(1);
    net.campaign(3);
    assert_eq!((net[1].role(), net[3].role()), (Leader, Follower));
    net.heal();
    net.campaign(3);
    assert_eq!(net[1].at(), (Leader, 1));
    assert_eq!(
        net.at().iter().map(|&(_, term)| term).collect::<Vec<_>>(),
        [1; 3]
    );
    assert_eq!(net.lasts(), [1, 1, 0]);
}

#[test]
fn p07_late_own_pre_vote_of_a_candidate_is_ignored() {
    let mut node = Setup::new(1, &[1, 2, 3]).with(pre_vote).node();
    node.deliver(msg(Hup, 1, 1));
    let own_pre_vote = node.take_messages_after_append();
    node.deliver(msg(PreVoteResp, 2, 1).term(1));
    node.deliver(msg(PreVoteResp, 3, 1).term(1));
    assert_eq!(node.at(), (Candidate, 1));
    let own_vote = node.take_messages_after_append();
    node.release(own_pre_vote);
    assert_eq!((node.role(), node.granted()), (Candidate, 0));
    node.deliver(msg(VoteResp, 2, 1).term(1));
    assert_eq!((node.role(), node.granted()), (Candidate, 1));
    node.release(own_vote);
    assert_eq!(node.at(), (Leader, 1));
}

#[test]
fn p08_late_own_pre_vote_after_defeat_is_ignored() {
    roles::late_own_vote_after_defeat(true);
}

#[test]
fn p09_node_of_a_lower_term_can_complete_an_election() {
    let mut net = at_term_one(pre_vote);
    net.cut(1, 3);
    net.cut(2, 3);
    net.campaign(1);
    assert_eq!((net[1].role(), net[2].role()), (Leader, Follower));
    net.campaign(3);
    net.campaign(2);
    assert_eq!(net.at(), [(Follower, 3), (Leader, 3), (PreCandidate, 1)]);
    net.heal();
    net.cut(2, 1);
    net.cut(2, 3);
    net.campaign(3);
    net.campaign(1);
    let leaders = [1, 3]
        .iter()
        .filter(|&&id| net[id].role() == Leader)
        .count();
    assert_eq!(leaders, 1, "{:?}", net.at());
}

#[test]
fn p10_split_vote() {
    let mut net = at_term_one(pre_vote);
    net.campaign(1);
    assert_eq!(net.at(), [(Leader, 2), (Follower, 2), (Follower, 2)]);
    net.isolate(1);
    net.send([msg(Hup, 2, 2), msg(Hup, 3, 3)]);
    assert_eq!((net[2].at(), net[3].at()), ((Candidate, 3), (Candidate, 3)));
    net.campaign(2);
    assert_eq!((net[2].at(), net[3].at()), ((Leader, 4), (Follower, 4)));
}

#[test]
fn p11_pre_vote_of_a_lower_term_is_rejected_with_the_own_term() {
    let mut node = Setup::new(1, &[1, 2, 3]).with(pre_vote).term(5).node();
    let answers = node.answer(msg(PreVote, 2, 1).term(3).log(9, 3));
    assert_eq!(answers, [msg(PreVoteResp, 1, 2).term(5).rejected()]);
    assert_eq!(node.at(), (Follower, 5));
}

/// Node 3 ran without pre-votes and was cut off: it is a candidate at term 4 with the shorter log, while 1 leads at
/// term 2. Then pre-votes are switched on for it as well, and the network is healed.
fn rolling_switch_on() -> Network {
    let mut net = Network::new((1..=3).map(|id| {
        let setup = Setup::new(id, &[1, 2, 3]).term(1);
        setup.with(|config| config.pre_vote = id != 3).node()
    }));
    net.campaign(1);
    net.isolate(3);
    net.propose(1, "some data");
    net.campaign(3);
    net.campaign(3);
    assert_eq!(net.at(), [(Leader, 2), (Follower, 2), (Candidate, 4)]);
    net[3].set_pre_vote(true);
    net.heal();
    net
}

#[test]
fn p12_rolling_switch_on_can_elect_without_the_old_leader() {
    let mut net = rolling_switch_on();
    net.isolate(1);
    net.campaign(3);
    net.campaign(2);
    assert_eq!((net[2].role(), net[3].role()), (Follower, PreCandidate));
    net.campaign(3);
    net.campaign(2);
    assert!(
        net[2].role() == Leader || net[3].role() == Follower,
        "{:?}",
        net.at()
    );
}

#[test]
fn p13_rolling_switch_on_frees_a_stuck_pre_candidate() {
    let mut net = rolling_switch_on();
    for _ in 0..2 {
        net.campaign(3);
        let roles: Vec<_> = net.at().into_iter().map(|(role, _)| role).collect();
        assert_eq!(roles, [Leader, Follower, PreCandidate]);
    }
    net.send([msg(Heartbeat, 1, 3).term(2)]);
    assert_eq!(net[1].role(), Follower);
    assert_eq!(net[1].term(), net[3].term());
}

#[test]
fn p14_pre_vote_with_check_quorum_does_not_deadlock() {
    // One after the other without a tick between them, or with their messages crossing.
    for crossing in [false, true] {
        let mut net = at_term_one(|config| {
            config.pre_vote = true;
            config.check_quorum = true;
        });
        net.campaign(1);
        net.isolate(1);
        assert_eq!(net.at(), [(Leader, 2), (Follower, 2), (Follower, 2)]);
        if crossing {
            net.send([msg(Hup, 3, 3), msg(Hup, 2, 2)]);
            // The vote was split.
            net.campaign(2);
        } else {
            net.campaign(3);
            net.campaign(2);
        }
        assert!(
            net[2].role() == Leader || net[3].role() == Follower,
            "{:?}",
            net.at()
        );
    }
}
