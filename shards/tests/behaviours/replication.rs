//! Section 7: appends, acknowledgements, rejections, heartbeats.

use crate::delayed::Delayed;
use crate::harness::*;

const VOTERS: [u64; 3] = [1, 2, 3];

/// Leader 1 at term 1, elected, with its empty entry sent to both peers and stable, but not acknowledged.
fn elected() -> Node {
    let mut node = Setup::new(1, &VOTERS).node();
    node.answer(msg(Hup, 1, 1));
    let sent = node.answer(msg(VoteResp, 2, 1).term(1));
    assert_eq!(of_kind(&sent, App).len(), 2);
    node.persist();
    node
}

/// The same with the empty entry committed and known as such to both peers.
fn established() -> Node {
    let mut node = elected();
    for peer in [2, 3] {
        node.answer(msg(AppResp, peer, 1).term(1).log(1, 0));
    }
    assert_eq!((node.apply().len(), node.commit()), (1, 1));
    node
}

/// A follower of 2 with log [1,2].
fn follower(term: u64) -> Node {
    let mut node = Setup::new(1, &VOTERS).log(&[1, 2]).term(term).node();
    node.become_follower(Term(term), ReplicaId(2));
    node
}

#[test]
fn r01_proposal_is_appended_and_sent() {
    let mut leader = established();
    leader.propose_data("x");
    let appended = vec![data_entry(2, 1, "x")];
    assert_eq!((leader.last(), leader.commit()), (2, 1));
    assert_eq!(leader.log().next_unstable(), appended);
    let append = |to| {
        msg(App, 1, to)
            .term(1)
            .log(1, 1)
            .commit(1)
            .entries(appended.clone())
    };
    assert_eq!(leader.sent(), [append(2), append(3)]);
}

#[test]
fn r02_acknowledged_entries_are_committed() {
    let mut leader = established();
    leader.propose_data("x");
    leader.persist();
    leader.sent();
    let mut sent = leader.answer(msg(AppResp, 2, 1).term(1).log(2, 0));
    sent.extend(leader.answer(msg(AppResp, 3, 1).term(1).log(2, 0)));
    assert_eq!(
        (leader.commit(), leader.apply()),
        (2, vec![data_entry(2, 1, "x")])
    );
    assert_eq!(
        sent,
        [2, 3].map(|to| msg(App, 1, to).term(1).log(2, 1).commit(2))
    );
}

#[test]
fn r03_replication_over_a_live_network() {
    let mut net = Network::of(3);
    net.campaign(1);
    net.propose(1, "one");
    let log = vec![entry(1, 1), data_entry(2, 1, "one")];
    for id in VOTERS {
        assert_eq!((net[id].commit(), net[id].apply()), (2, log.clone()));
    }
    net.campaign(2);
    net.propose(2, "two");
    for id in VOTERS {
        assert_eq!(
            (net[id].commit(), net[id].apply()),
            (4, vec![entry(3, 2), data_entry(4, 2, "two")])
        );
    }
}

#[test]
fn r04_follower_applies_what_is_committed() {
    let (a, b) = (data_entry(1, 1, "a"), data_entry(1, 1, "b"));
    let at_two = |entry: &Entry| Entry {
        index: Index(2),
        ..entry.clone()
    };
    for (entries, commit) in [
        (vec![a.clone()], 1),
        (vec![a.clone(), at_two(&b)], 2),
        (vec![b.clone(), at_two(&a)], 2),
        (vec![a.clone(), at_two(&b)], 1),
    ] {
        let mut node = Setup::new(1, &VOTERS).term(1).node();
        node.deliver(
            msg(App, 2, 1)
                .term(1)
                .entries(entries.clone())
                .commit(commit),
        );
        assert_eq!(node.commit(), commit);
        assert_eq!(node.apply(), entries[..commit as usize]);
    }
}

#[test]
fn r05_follower_checks_the_previous_entry() {
    let accepted = |index| msg(AppResp, 1, 2).term(3).log(index, 0);
    for (term, index, answer) in [
        (0, 0, accepted(1)),
        (1, 1, accepted(1)),
        (2, 2, accepted(2)),
        (1, 2, msg(AppResp, 1, 2).term(3).log(2, 0).hint(1, 1)),
        (3, 3, msg(AppResp, 1, 2).term(3).log(3, 0).hint(2, 2)),
    ] {
        let mut node = follower(3);
        node.log_mut().commit_to(Index(1));
        assert_eq!(
            node.answer(msg(App, 2, 1).term(3).log(index, term)),
            [answer],
            "{index}/{term}"
        );
    }
}

#[test]
fn r06_follower_replaces_conflicting_entries() {
    type Case<'a> = ((u64, u64), &'a [u64], &'a [u64], &'a [u64]);
    let cases: [Case<'_>; 4] = [
        ((2, 2), &[3], &[1, 2, 3], &[3]),
        ((1, 1), &[3, 4], &[1, 3, 4], &[3, 4]),
        ((0, 0), &[1], &[1, 2], &[]),
        ((0, 0), &[3], &[3], &[3]),
    ];
    for ((index, term), new, log, unstable) in cases {
        let mut node = follower(4);
        node.deliver(
            msg(App, 2, 1)
                .term(4)
                .log(index, term)
                .entries(entries(index + 1, new)),
        );
        assert_eq!(node.terms(), log, "{index}/{term} {new:?}");
        assert_eq!(
            terms(node.log().next_unstable()),
            unstable,
            "{index}/{term} {new:?}"
        );
    }
}

/// Last index, commit index and rejection after an append to the log [1,2] at term 3.
fn after_append(prev: (u64, u64), terms: &[u64], commit: u64) -> (u64, u64, bool) {
    let mut node = follower(3);
    let append = msg(App, 2, 1)
        .term(3)
        .log(prev.0, prev.1)
        .entries(entries(prev.0 + 1, terms))
        .commit(commit);
    let answers = node.answer(append);
    assert_eq!(answers.len(), 1);
    (node.last(), node.commit(), answers[0].reject)
}

#[test]
fn r07_handling_of_appends() {
    assert_eq!(after_append((2, 3), &[], 3), (2, 0, true));
    assert_eq!(after_append((3, 3), &[], 3), (2, 0, true));
    assert_eq!(after_append((1, 1), &[], 1), (2, 1, false));
    assert_eq!(after_append((0, 0), &[2], 1), (1, 1, false));
    assert_eq!(after_append((2, 2), &[2, 2], 3), (4, 3, false));
    assert_eq!(after_append((2, 2), &[2], 4), (3, 3, false));
    assert_eq!(after_append((1, 1), &[2], 4), (2, 2, false));
}

#[test]
fn r08_follower_commits_only_what_the_message_vouches_for() {
    assert_eq!(after_append((1, 1), &[], 3), (2, 1, false));
    assert_eq!(after_append((1, 1), &[2], 3), (2, 2, false));
    for commit in [3, 4] {
        assert_eq!(after_append((2, 2), &[], commit), (2, 2, false));
    }
}

#[test]
fn r09_append_below_the_commit_index_is_answered_with_it() {
    let mut node = Setup::new(1, &VOTERS).log(&[1, 2, 2]).commit(2).node();
    let answers = node.answer(
        msg(App, 2, 1)
            .term(3)
            .log(1, 1)
            .entries(entries(2, &[2, 3]))
            .commit(3),
    );
    assert_eq!(answers, [msg(AppResp, 1, 2).term(3).log(2, 0)]);
    assert_eq!((node.terms(), node.commit()), (vec![1, 2, 2], 2));
}

#[test]
fn r10_leader_brings_follower_logs_to_equality() {
    let leader_log = [1, 1, 1, 4, 4, 5, 5, 6, 6, 6];
    let followers: [&[u64]; 6] = [
        &[1, 1, 1, 4, 4, 5, 5, 6, 6],
        &[1, 1, 1, 4],
        &[1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 6],
        &[1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 7, 7],
        &[1, 1, 1, 4, 4, 4, 4],
        &[1, 1, 1, 2, 2, 2, 3, 3, 3, 3, 3],
    ];
    for log in followers {
        let leader = Setup::new(1, &VOTERS)
            .log(&leader_log)
            .term(8)
            .commit(10)
            .node();
        let follower = Setup::new(2, &VOTERS).log(log).term(7).node();
        let mut net = Network::new([leader, follower]);
        net.campaign(1);
        // The follower may have the longer log; then the dead third node's vote decides.
        net.send([msg(VoteResp, 3, 1).term(9)]);
        assert_eq!(net[1].at(), (Leader, 9), "{log:?}");
        net.propose(1, "x");
        assert_eq!(net[1].terms(), [1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 9, 9]);
        assert_eq!(net[2].entries(), net[1].entries(), "{log:?}");
    }
}

#[test]
fn r11_heartbeat_raises_the_commit_index() {
    for (commit, expected) in [(3, 3), (1, 2)] {
        let mut node = Setup::new(1, &[1, 2]).log(&[1, 2, 3]).commit(2).node();
        let beat = Message {
            round: 7,
            ..msg(Heartbeat, 2, 1).term(3).commit(commit).context("ctx")
        };
        let answer = Message {
            round: 7,
            ..msg(HeartbeatResp, 1, 2).term(3).context("ctx")
        };
        assert_eq!(node.answer(beat), [answer]);
        assert_eq!(node.commit(), expected);
    }
}

#[test]
fn r12_heartbeat_response_of_a_peer_behind_brings_an_append() {
    let mut leader = Setup::new(1, &[1, 2]).log(&[1, 2, 3]).leader();
    leader.sent();
    for _ in 0..2 {
        let sent = leader.answer(msg(HeartbeatResp, 2, 1));
        assert_eq!((sent.len(), sent[0].kind), (1, App));
    }
    let last = leader.last();
    leader.answer(msg(AppResp, 2, 1).log(last, 0));
    assert_eq!(leader.answer(msg(HeartbeatResp, 2, 1)), []);
}

#[test]
fn r13_heartbeats_carry_no_more_commit_than_the_peer_has() {
    let mut leader = Setup::of(1, ConfState::default())
        .over(snapshot(1000, 1, voters(&VOTERS)))
        .leader();
    for _ in 0..10 {
        leader.propose_data("x");
    }
    leader.sent();
    let last = leader.last();
    leader.log_mut().commit_to(Index(last));
    for (peer, matched) in [(2, 5), (3, last)] {
        let progress = leader.progress_mut(peer);
        (progress.match_index, progress.next) = (Index(matched), Index(matched + 1));
    }
    let beats = leader.answer(msg(Beat, 1, 1));
    assert_eq!(
        beats,
        [(2, 5), (3, last)].map(|(to, commit)| msg(Heartbeat, 1, to).term(2).commit(commit))
    );

    let mut fresh = Setup::new(1, &VOTERS).leader();
    fresh.sent();
    assert_eq!(
        fresh.answer(msg(Beat, 1, 1)),
        [2, 3].map(|to| msg(Heartbeat, 1, to).term(1))
    );
}

#[test]
fn r14_leader_handles_acknowledgements() {
    for (index, reject, flow, commit, appends) in [
        (3, true, (0, 3), 0, vec![]),
        (2, true, (0, 2), 0, vec![(2, 1)]),
        (2, false, (2, 4), 2, vec![(2, 2), (3, 2)]),
        (0, false, (0, 4), 0, vec![(2, 0)]),
    ] {
        let mut leader = Setup::new(1, &VOTERS).log(&[1, 1]).term(0).leader();
        leader.sent();
        assert_eq!((leader.at(), leader.flow(2)), ((Leader, 1), (0, 3)));
        let answer = Message {
            reject,
            reject_hint: Index(index),
            ..msg(AppResp, 2, 1).log(index, 0)
        };
        let sent = leader.answer(answer);
        assert_eq!(
            (leader.flow(2), leader.commit()),
            (flow, commit),
            "{index} {reject}"
        );
        let found: Vec<_> = of_kind(&sent, App)
            .iter()
            .map(|append| (append.to.0, append.index.0))
            .collect();
        assert_eq!(
            (found, sent.len()),
            (appends.clone(), appends.len()),
            "{index} {reject}"
        );
        assert!(sent.iter().all(|append| append.commit == Index(commit)));
    }
}

#[test]
fn r15_appends_out_of_order() {
    let mut leader = Setup::new(1, &[1, 2]).leader();
    leader.progress_mut(2).become_replicate();
    leader.propose_data("a");
    let earlier = leader.sent().remove(0);
    leader.propose_data("b");
    let later = leader.sent().remove(0);
    assert_eq!((earlier.index, later.index), (Index(0), Index(2)));

    let mut follower = Setup::new(2, &[1, 2]).node();
    let rejection = follower.answer(later).remove(0);
    assert_eq!(rejection, msg(AppResp, 2, 1).term(1).log(2, 0).rejected());
    let accepted = follower.answer(earlier).remove(0);
    assert_eq!(accepted, msg(AppResp, 2, 1).term(1).log(2, 0));

    leader.answer(accepted);
    assert_eq!(leader.progress(2).match_index, Index(2));
    leader.deliver(msg(Unreachable, 2, 1));
    let resent = leader.answer(rejection);
    assert_eq!(
        (resent.len(), resent[0].kind, resent[0].index),
        (1, App, Index(2))
    );
    assert_eq!(positions(&resent[0].entries), [(3, 1)]);
}

#[test]
fn r16_acknowledgement_ends_waiting() {
    let mut leader = elected();
    leader.answer(msg(AppResp, 2, 1).log(1, 0));
    assert_eq!(leader.commit(), 1);
    leader.propose_data("x");
    let sent = leader.sent();
    assert_eq!(
        (receivers(&sent), positions(&sent[0].entries)),
        (vec![2], vec![(2, 1)])
    );
    let sent = leader.answer(msg(AppResp, 3, 1).log(1, 0));
    assert_eq!(
        (receivers(&sent), positions(&sent[0].entries)),
        (vec![3], vec![(2, 1)])
    );
}

/// Hint (index, term) of a follower's rejection, and index and term of the leader's next probe.
fn rejection(leader_log: &[u64], follower_log: &[u64], compacted: u64) -> ((u64, u64), (u64, u64)) {
    let term = leader_log
        .iter()
        .chain(follower_log)
        .copied()
        .max()
        .expect("not empty");
    let mut leader = Setup::new(1, &VOTERS).log(leader_log).term(term).leader();
    let mut follower = Setup::new(2, &VOTERS).log(follower_log).term(term).node();
    if compacted > 0 {
        // Not what happens: the commit index stays behind.
        follower
            .log_mut()
            .storage_mut()
            .compact(Index(compacted))
            .expect("there");
    }
    let probe = leader.answer(msg(HeartbeatResp, 2, 1));
    assert_eq!((probe.len(), probe[0].kind), (1, App));
    let rejection = follower.answer(probe[0].clone()).remove(0);
    assert!(rejection.reject, "{rejection:?}");
    let hint = (rejection.reject_hint.0, rejection.log_term.0);
    let next = leader.answer(rejection);
    assert_eq!((next.len(), next[0].kind), (1, App));
    (hint, (next[0].index.0, next[0].log_term.0))
}

#[test]
fn r17_follower_skips_what_the_leader_cannot_have() {
    let follower = [1, 2, 2, 3, 3, 3, 3, 3, 3, 3, 3];
    assert_eq!(
        rejection(&[1, 2, 2, 4, 4, 4, 4], &follower, 0),
        ((7, 3), (3, 2))
    );
}

#[test]
fn r18_leader_finds_the_end_of_a_common_term() {
    let follower = [1, 2, 2, 3, 3, 3, 3, 3, 3, 3, 3];
    assert_eq!(
        rejection(&[1, 2, 2, 3, 4, 4, 4, 5], &follower, 0),
        ((8, 3), (4, 3))
    );
}

#[test]
fn r19_follower_with_higher_terms_hints_below_them() {
    assert_eq!(rejection(&[1, 1, 1, 1], &[1, 2, 2, 4], 0), ((1, 1), (1, 1)));
    assert_eq!(
        rejection(&[1, 1, 1, 1, 1, 1], &[1, 2, 2, 4], 0),
        ((1, 1), (1, 1))
    );
    assert_eq!(
        rejection(&[1, 1, 1, 1], &[1, 2, 2, 4, 4, 4], 0),
        ((1, 1), (1, 1))
    );
}

#[test]
fn r20_one_probe_per_term() {
    assert_eq!(
        rejection(&[1, 1, 1, 4, 5], &[1, 1, 1, 4], 0),
        ((4, 4), (4, 4))
    );
    assert_eq!(
        rejection(&[2, 5, 5, 5, 5, 5, 5, 5, 5], &[2, 4, 4, 4, 4, 4], 0),
        ((6, 4), (1, 2))
    );
    assert_eq!(
        rejection(&[2, 2, 2, 2, 2], &[2, 4, 4, 4, 4, 4, 4, 4], 0),
        ((1, 2), (1, 2))
    );
}

#[test]
fn r21_compacted_follower_hints_without_a_term() {
    assert_eq!(rejection(&[1, 1, 3], &[1, 1, 3, 3, 3], 5), ((3, 0), (2, 1)));
}

#[test]
fn r22_follower_forwards_proposals() {
    for dead in [&[][..], &[3]] {
        let mut net = Network::partly(3, dead, |_| {});
        net.campaign(1);
        net.propose(2, "x");
        for id in net.ids() {
            assert_eq!(
                (net[id].terms(), net[id].term(), net[id].commit()),
                (vec![1, 1], Term(1), 2)
            );
        }
    }
}

#[test]
fn r23_proposals_need_a_live_majority() {
    for (size, dead, works) in [
        (3, &[][..], true),
        (3, &[3], true),
        (5, &[4, 5], true),
        (3, &[2, 3], false),
        (4, &[3, 4], false),
    ] {
        let mut net = Network::partly(size, dead, |_| {});
        net.campaign(1);
        net.propose(1, "x");
        let log = if works { vec![1, 1] } else { vec![] };
        assert!(
            net.logs().iter().all(|found| *found == log),
            "{size} nodes, {dead:?} dead: {:?}",
            net.logs()
        );
        assert_eq!(net[1].at(), (if works { Leader } else { Candidate }, 1));
    }
}

#[test]
fn r24_proposals_that_nobody_can_take() {
    let no_leader = Err(Error::ProposalDropped(DropReason::NoLeader));
    let mut candidate = Setup::new(1, &VOTERS).node();
    assert_eq!(
        candidate.step(prop(1, 1, data("x"))),
        no_leader,
        "a follower without leader"
    );
    candidate.become_candidate();
    assert_eq!(candidate.step(prop(1, 1, data("x"))), no_leader);
    assert_eq!(candidate.last(), 0);
    let mut leader = Setup::new(1, &VOTERS).leader();
    assert_eq!(
        leader.step(msg(Prop, 1, 1)),
        Err(Error::Protocol(ProtocolError::EmptyProposal))
    );
    assert_eq!(leader.last(), 1);
}

#[test]
fn r25_cluster_converges_in_spite_of_delays_stops_and_pauses() {
    let mut quiet = Delayed::new(1);
    quiet.propose(100);
    quiet.converge();
    assert_eq!(quiet.agreed(), 100);

    let mut restarted = Delayed::new(2);
    restarted.propose(30);
    let stopped = [3, 5].map(|id| (id, restarted.nodes.remove(&id).expect("live")));
    restarted.propose(40);
    for (id, node) in stopped {
        let storage = node.storage().clone();
        restarted.nodes.insert(
            id,
            Setup {
                storage,
                ..Setup::new(id, &[])
            }
            .raw(),
        );
    }
    restarted.propose(30);
    restarted.converge();
    // A leader may have been stopped with proposals that nobody else had.
    assert!(restarted.agreed() > 60, "{}", restarted.agreed());

    let mut paused = Delayed::new(3);
    paused.propose(30);
    paused.paused = vec![1, 4];
    paused.propose(40);
    paused.paused.clear();
    paused.propose(30);
    paused.converge();
    assert!(paused.agreed() > 60, "{}", paused.agreed());
}
