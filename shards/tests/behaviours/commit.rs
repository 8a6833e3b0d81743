//! Section 8: what may be committed, and how the commit index gets around.

use crate::harness::*;

const VOTERS: [u64; 3] = [1, 2, 3];

fn acknowledge(node: &mut Node, peer: u64, index: u64) -> Vec<Message> {
    node.answer(msg(AppResp, peer, 1).log(index, 0))
}

#[test]
fn c01_entry_is_committed_once_a_majority_has_it() {
    let cases: [(u64, &[u64], bool); 9] = [
        (1, &[], true),
        (3, &[], false),
        (3, &[2], true),
        (3, &[2, 3], true),
        (5, &[], false),
        (5, &[2], false),
        (5, &[2, 3], true),
        (5, &[2, 3, 4], true),
        (5, &[2, 3, 4, 5], true),
    ];
    for (size, peers, committed) in cases {
        let voters: Vec<u64> = (1..=size).collect();
        let mut leader = Setup::new(1, &voters).leader();
        leader.sent();
        for &peer in &voters[1..] {
            acknowledge(&mut leader, peer, 1);
        }
        leader.propose_data("x");
        leader.sent();
        for &peer in peers {
            acknowledge(&mut leader, peer, 2);
        }
        assert_eq!(
            leader.commit(),
            if committed { 2 } else { 1 },
            "{size} {peers:?}"
        );
    }
}

#[test]
fn c02_committing_an_entry_commits_all_before_it() {
    for log in [&[][..], &[2], &[1, 2], &[1]] {
        let mut leader = Setup::new(1, &VOTERS).log(log).term(2).leader();
        leader.propose_data("x");
        let last = leader.last();
        acknowledge(&mut leader, 2, last);
        let expected: Vec<u64> = log.iter().copied().chain([3, 3]).collect();
        assert_eq!(terms(&leader.apply()), expected);
    }
}

#[test]
fn c03_only_entries_of_the_own_term_are_committed_by_counting() {
    for (index, commit) in [(1, 0), (2, 0), (3, 3)] {
        let mut leader = Setup::new(1, &[1, 2]).log(&[1, 2]).leader();
        leader.propose_data("x");
        leader.sent();
        acknowledge(&mut leader, 2, index);
        assert_eq!(leader.commit(), commit, "{index}");
    }
}

/// Commit index of a replica at `term` with this log, given how far each voter is.
fn commit(matches: &[u64], log: &[u64], term: u64) -> u64 {
    let voters: Vec<u64> = (1..).take(matches.len()).collect();
    let mut node = Setup::new(1, &voters).log(log).term(term).node();
    for (&id, &matched) in voters.iter().zip(matches) {
        let progress = node.progress_mut(id);
        (progress.match_index, progress.next) = (Index(matched), Index(matched + 1));
    }
    node.maybe_commit().expect("in memory");
    node.commit()
}

#[test]
fn c04_commit_of_a_single_voter() {
    assert_eq!(commit(&[1], &[1], 1), 1);
    assert_eq!(commit(&[1], &[1], 2), 0);
    assert_eq!(commit(&[2], &[1, 2], 2), 2);
    assert_eq!(commit(&[1], &[2], 2), 1);
}

#[test]
fn c05_commit_of_an_odd_number_of_voters() {
    assert_eq!(commit(&[2, 1, 1], &[1, 2], 1), 1);
    assert_eq!(commit(&[2, 1, 1], &[1, 1], 2), 0);
    assert_eq!(commit(&[2, 1, 2], &[1, 2], 2), 2);
    assert_eq!(commit(&[2, 1, 2], &[1, 1], 2), 0);
}

#[test]
fn c06_commit_of_an_even_number_of_voters() {
    assert_eq!(commit(&[2, 1, 1, 1], &[1, 2], 1), 1);
    assert_eq!(commit(&[2, 1, 1, 1], &[1, 1], 2), 0);
    assert_eq!(commit(&[2, 1, 1, 2], &[1, 2], 1), 1);
    assert_eq!(commit(&[2, 1, 1, 2], &[1, 1], 2), 0);
    assert_eq!(commit(&[2, 1, 2, 2], &[1, 2], 2), 2);
    assert_eq!(commit(&[2, 1, 2, 2], &[1, 1], 2), 0);
}

#[test]
fn c07_single_voter_commits_alone() {
    let mut net = Network::of(1);
    net.campaign(1);
    net.propose(1, "a");
    net.propose(1, "b");
    assert_eq!(net[1].commit(), 3);
}

/// Leader 1 of five reached only 2, which has two uncommitted proposals of it. All are connected again.
fn half_replicated() -> Network {
    let mut net = Network::of(5);
    net.campaign(1);
    for unreachable in [3, 4, 5] {
        net.cut(1, unreachable);
    }
    net.propose(1, "a");
    net.propose(1, "b");
    assert_eq!((net[1].commit(), net[2].last()), (1, 3));
    net.heal();
    net
}

#[test]
fn c08_old_entries_wait_for_one_of_the_new_term() {
    let mut net = half_replicated();
    net.ignore(App);
    net.campaign(2);
    assert_eq!((net[2].at(), net[2].commit()), ((Leader, 2), 1));
    net.heal();
    net.beat(2);
    net.propose(2, "c");
    assert_eq!(net[2].commit(), 5);
}

#[test]
fn c09_empty_entry_of_a_new_leader_commits_old_ones() {
    let mut net = half_replicated();
    net.campaign(2);
    assert_eq!((net[2].at(), net[2].commit()), ((Leader, 2), 4));
}

#[test]
fn c10_leader_counts_itself_when_its_entry_is_stable() {
    let mut alone = Setup::new(1, &[1]).leader();
    assert_eq!(alone.commit(), 0);
    alone.drain();
    assert_eq!(alone.commit(), 1);

    let mut leader = Setup::new(1, &VOTERS).leader();
    leader.deliver(msg(AppResp, 2, 1).log(1, 0));
    assert_eq!(leader.commit(), 0, "one of three");
    leader.drain();
    assert_eq!(leader.commit(), 1);
}

#[test]
fn c11_removal_of_a_voter_can_commit() {
    let mut leader = Setup::new(1, &[1, 2]).leader();
    leader.deliver(prop(1, 1, change_entry(change_v1("r2"))));
    assert_eq!(leader.apply(), []);
    let removal = leader.last();
    leader.propose_data("hello");
    leader.persist();
    acknowledge(&mut leader, 2, removal);
    let applied = leader.apply();
    assert_eq!((applied.len(), applied[1].kind), (2, EntryKind::ConfChange));
    // Only the removal could commit this.
    assert_eq!(leader.apply(), [data_entry(removal + 1, 1, "hello")]);
}

#[test]
fn c12_leader_that_removed_itself_does_not_count_itself() {
    let mut leader = Setup::new(1, &VOTERS).leader();
    leader.deliver(prop(1, 1, change_entry(change_v1("r1"))));
    leader.propose_data("later");
    leader.persist();
    acknowledge(&mut leader, 2, 2);
    assert_eq!(leader.apply().len(), 2);
    assert_eq!(
        (leader.role(), leader.conf_state()),
        (Leader, voters(&[2, 3]))
    );
    acknowledge(&mut leader, 2, 3);
    assert_eq!(leader.commit(), 2, "one of two");
    acknowledge(&mut leader, 3, 3);
    assert_eq!(leader.commit(), 3);
}

#[test]
fn c13_commit_index_gets_to_the_peers() {
    let mut leader = Setup::new(1, &VOTERS).leader();
    leader.sent();
    for peer in [2, 3] {
        acknowledge(&mut leader, peer, 1);
    }
    for text in ["x", "in flight"] {
        leader.propose_data(text);
    }
    leader.sent();
    let commits = |sent: &[Message]| {
        sent.iter()
            .map(|m| (m.kind, m.to.0, m.commit.0))
            .collect::<Vec<_>>()
    };
    let told = acknowledge(&mut leader, 2, 2);
    assert_eq!(commits(&told), [(App, 2, 2), (App, 3, 2)]);
    assert_eq!(acknowledge(&mut leader, 3, 2), [], "it has been told");

    // A paused peer is told when it shows up again, by an acknowledgement or a heartbeat's answer.
    for answer in [msg(AppResp, 3, 1).log(4, 0), msg(HeartbeatResp, 3, 1)] {
        leader.progress_mut(3).msg_app_flow_paused = true;
        leader.propose_data("y");
        leader.sent();
        let last = leader.last();
        assert_eq!(
            commits(&acknowledge(&mut leader, 2, last)),
            [(App, 2, last)]
        );
        let told = leader.answer(answer);
        assert_eq!(commits(&told), [(App, 3, last)]);
    }
}
