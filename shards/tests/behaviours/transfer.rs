//! Section 12: handing leadership over.

use crate::harness::*;

const VOTERS: [u64; 3] = [1, 2, 3];

/// Three live nodes, of which 1 leads.
fn net() -> Network {
    let mut net = Network::of(3);
    net.campaign(1);
    net
}

/// The same with 3 isolated, so that a transfer to it stays pending.
fn pending() -> Network {
    let mut net = net();
    net.isolate(3);
    net.transfer(1, 3);
    assert_eq!(net[1].lead_transferee(), ReplicaId(3));
    net
}

/// Role of 1, its leader, and the transferee.
fn state(net: &Network) -> (Role, u64, u64) {
    (net[1].role(), net[1].leader(), net[1].lead_transferee().0)
}

#[test]
fn t01_to_an_up_to_date_peer_and_back() {
    for by_follower in [false, true] {
        let mut net = net();
        net.transfer(if by_follower { 2 } else { 1 }, 2);
        assert_eq!(state(&net), (Follower, 2, 0), "{by_follower}");
        net.propose(1, "more");
        net.transfer(if by_follower { 1 } else { 2 }, 1);
        assert_eq!(state(&net), (Leader, 1, 0), "{by_follower}");
    }
}

#[test]
fn t02_in_spite_of_leases() {
    let mut net = Network::with(3, |config| config.check_quorum = true);
    net.campaign(1);
    net.transfer(1, 2);
    assert_eq!(state(&net), (Follower, 2, 0));
    net.propose(1, "more");
    net.transfer(2, 1);
    assert_eq!(state(&net), (Leader, 1, 0));
}

#[test]
fn t03_to_a_peer_that_is_behind() {
    let mut net = net();
    net.isolate(3);
    net.propose(1, "missed");
    net.heal();
    let last = net[1].last();
    assert_eq!(net[1].flow(3).0, last - 1);
    // The append that 3 missed was taken to be received.
    net[1].progress_mut(3).become_probe();
    let sent = net[1].answer(msg(TransferLeader, 3, 1));
    assert_eq!(
        (sent.len(), sent[0].kind, positions(&sent[0].entries)),
        (1, App, vec![(last, 1)])
    );
    let answers = net[3].answer(sent[0].clone());
    let sent = net[1].answer(answers[0].clone());
    assert_eq!(of_kind(&sent, TimeoutNow), [&msg(TimeoutNow, 1, 3).term(1)]);
    net.send(sent);
    assert_eq!(state(&net), (Follower, 3, 0));
}

#[test]
fn t04_to_a_peer_that_needs_a_snapshot() {
    let mut net = net();
    net.isolate(3);
    net.propose(1, "compacted");
    let members = net[1].conf_state();
    let applied = net[1].apply().last().expect("committed").index;
    let storage = net[1].log_mut().storage_mut();
    storage
        .create_snapshot(applied, Some(members), "state".into())
        .expect("there");
    storage.compact(applied).expect("there");

    net.heal();
    // The acknowledgement of the snapshot is held back until it is applied.
    net.watch(move |message| message.kind != AppResp || message.from.0 != 3 || message.reject);
    net.beat(1);
    net.transfer(1, 3);
    assert_eq!(state(&net), (Leader, 1, 3));
    assert_eq!(
        net[3]
            .log()
            .unstable()
            .snapshot()
            .map(|snapshot| snapshot.meta.index),
        Some(applied)
    );
    net.heal();
    net[3].persist();
    net.send([msg(AppResp, 3, 1).term(1).log(applied.0, 0)]);
    assert_eq!(state(&net), (Follower, 3, 0));
}

#[test]
fn t05_to_itself_or_to_nobody() {
    for target in [1, 4] {
        let mut net = net();
        net.transfer(1, target);
        assert_eq!(state(&net), (Leader, 1, 0), "{target}");
        assert_eq!(net.at(), [(Leader, 1), (Follower, 1), (Follower, 1)]);
    }
}

#[test]
fn t06_to_a_dead_peer_is_given_up() {
    let mut net = pending();
    net[1].ticks(9);
    assert_eq!(state(&net), (Leader, 1, 3));
    net[1].ticks(1);
    assert_eq!(state(&net), (Leader, 1, 0));
}

#[test]
fn t07_proposals_are_dropped_meanwhile() {
    let mut net = pending();
    let (last, matched) = (net[1].last(), net[1].flow(2).0);
    let dropped = net[1].step(prop(1, 1, data("x")));
    assert_eq!(
        dropped,
        Err(Error::ProposalDropped(DropReason::Transferring))
    );
    net.propose(2, "forwarded");
    assert_eq!((net[1].last(), net[1].flow(2).0), (last, matched));
}

#[test]
fn t08_other_election_ends_it() {
    let mut net = pending();
    net.campaign(2);
    assert_eq!(state(&net), (Follower, 2, 0));
    assert_eq!(net[1].term(), Term(2));
}

#[test]
fn t09_transferee_that_is_removed_or_demoted() {
    let mut net = pending();
    net[1].apply_change(&change("r3"));
    assert_eq!(state(&net), (Leader, 1, 0), "removed");

    let mut net = pending();
    net[1].apply_change(&transition("l3", ConfChangeTransition::JointExplicit));
    assert_eq!(state(&net), (Leader, 1, 3), "still an outgoing voter");
    net[1].apply_change(&change(""));
    assert_eq!(state(&net), (Leader, 1, 0), "a learner");
}

#[test]
fn t10_second_request() {
    let mut other = pending();
    other.transfer(1, 2);
    assert_eq!(state(&other), (Follower, 2, 0), "for another peer");

    let mut own = pending();
    own.transfer(1, 1);
    assert_eq!(state(&own), (Leader, 1, 0), "for itself");

    let mut same = pending();
    same[1].ticks(5);
    same.transfer(1, 3);
    same[1].ticks(4);
    assert_eq!(state(&same), (Leader, 1, 3));
    same[1].ticks(1);
    assert_eq!(
        state(&same),
        (Leader, 1, 0),
        "for the same peer does not extend the time"
    );
}

#[test]
fn t11_learners_and_followers_without_leader() {
    let mut leader = Setup::of(1, members(&[1], &[2])).leader();
    leader.sent();
    leader.answer(msg(AppResp, 2, 1).log(1, 0));
    assert_eq!(leader.answer(msg(TransferLeader, 2, 1)), []);
    assert_eq!(
        (leader.role(), leader.lead_transferee()),
        (Leader, ReplicaId(0))
    );

    let mut follower = Setup::new(1, &VOTERS).node();
    assert_eq!(follower.answer(msg(TransferLeader, 2, 1)), []);
}

#[test]
fn t12_timeout_now_skips_the_pre_vote() {
    let setup = || {
        Setup::new(1, &VOTERS)
            .with(|config| config.pre_vote = true)
            .term(1)
    };
    let mut node = setup().node();
    let sent = node.answer(msg(TimeoutNow, 2, 1).term(1));
    assert_eq!(node.at(), (Candidate, 2));
    assert_eq!(of_kind(&sent, Vote).len(), 2);

    for role in [Candidate, PreCandidate] {
        let mut node = setup().node();
        if role == Candidate {
            node.become_candidate()
        } else {
            node.become_pre_candidate()
        }
        let before = node.at();
        let term = before.1;
        assert_eq!(
            node.answer(msg(TimeoutNow, 2, 1).term(term)),
            [],
            "{role:?}"
        );
        assert_eq!(node.at(), before);
    }
}
