//! Section 1: campaigns, votes and roles without pre-votes. Runs that hold with pre-votes as well are public to the
//! crate, for `prevote`.

use crate::harness::*;

const VOTERS: [u64; 3] = [1, 2, 3];

fn node(id: u64) -> Node {
    Setup::new(id, &VOTERS).node()
}

/// A replica in each role, follower, candidate and leader, all at term 1; with pre-votes also a pre-candidate.
pub(crate) fn in_every_role(pre_vote: bool) -> Vec<Node> {
    let setup = || {
        Setup::new(1, &VOTERS)
            .with(|config| config.pre_vote = pre_vote)
            .term(1)
    };
    let mut roles = vec![setup().node()];
    if pre_vote {
        let mut node = setup().node();
        node.become_pre_candidate();
        roles.push(node);
    }
    let mut candidate = setup().term(0).node();
    candidate.become_candidate();
    roles.push(candidate);
    roles.push(setup().term(0).leader());
    roles
}

#[test]
fn e01_new_node_is_follower() {
    assert_eq!(node(1).at(), (Follower, 0));
}

#[test]
fn e02_append_of_a_higher_term_makes_every_role_a_follower() {
    for mut node in in_every_role(false) {
        let was = node.role();
        node.deliver(msg(App, 2, 1).term(2));
        assert_eq!((node.at(), node.leader()), ((Follower, 2), 2), "{was:?}");
    }
}

#[test]
fn e03_append_of_a_lower_term_is_not_looked_at() {
    let mut node = Setup::new(1, &VOTERS).term(2).node();
    node.ticks(3);
    // At the role it would be appended, committed, and end the wait for a leader.
    let answers = node.answer(msg(App, 2, 1).term(1).entries(entries(1, &[1])).commit(1));
    assert_eq!(answers, []);
    assert_eq!(
        (node.at(), node.leader(), node.last(), node.commit()),
        ((Follower, 2), 0, 0, 0)
    );
    assert_eq!(node.election_elapsed(), 3);
}

#[test]
fn e04_timeout_starts_an_election() {
    for candidate in [false, true] {
        let mut node = Setup::new(1, &VOTERS).term(u64::from(!candidate)).node();
        if candidate {
            node.become_candidate();
        }
        node.ticks(2 * 10 - 1);
        let mut sent = node.sent();
        sent.sort_by_key(|message| message.to);
        assert_eq!(node.at(), (Candidate, 2));
        assert_eq!((node.voted(), node.granted()), (1, 1));
        assert_eq!(sent, [msg(Vote, 1, 2).term(2), msg(Vote, 1, 3).term(2)]);
    }
}

/// Campaigns of node 1 in a group, with these answers of others.
fn round(size: u64, answers: &[(u64, bool)]) -> (Role, u64) {
    let voters: Vec<u64> = (1..=size).collect();
    let mut node = Setup::new(1, &voters).node();
    node.deliver(msg(Hup, 1, 1));
    node.drain();
    for &(from, granted) in answers {
        node.deliver(Message {
            reject: !granted,
            ..msg(VoteResp, from, 1).term(1)
        });
    }
    node.at()
}

#[test]
fn e05_majority_of_votes_wins_the_round() {
    let cases: [(u64, &[u64]); 6] = [
        (1, &[]),
        (3, &[2, 3]),
        (3, &[2]),
        (5, &[2, 3, 4, 5]),
        (5, &[2, 3, 4]),
        (5, &[2, 3]),
    ];
    for (size, yes) in cases {
        let answers: Vec<_> = yes.iter().map(|&id| (id, true)).collect();
        assert_eq!(round(size, &answers), (Leader, 1), "{size} {yes:?}");
    }
}

#[test]
fn e06_majority_of_rejections_loses_the_round() {
    let no = |from| (from, false);
    for (size, answers) in [
        (3, vec![no(2), no(3)]),
        (5, vec![no(2), no(3), no(4), no(5)]),
        (5, vec![(2, true), no(3), no(4), no(5)]),
    ] {
        assert_eq!(round(size, &answers), (Follower, 1), "{size} {answers:?}");
    }
}

#[test]
fn e07_round_without_majority_stays_open() {
    let cases: [(u64, &[(u64, bool)]); 4] = [
        (3, &[]),
        (5, &[(2, true)]),
        (5, &[(2, false), (3, false)]),
        (5, &[]),
    ];
    for (size, answers) in cases {
        assert_eq!(round(size, answers), (Candidate, 1), "{size} {answers:?}");
    }
}

#[test]
fn e08_one_vote_per_term_and_it_waits_for_stable_storage() {
    for (voted, candidate, rejected) in [
        (0, 2, false),
        (0, 3, false),
        (2, 2, false),
        (3, 3, false),
        (2, 3, true),
        (3, 2, true),
    ] {
        let mut node = Setup::new(1, &VOTERS).term(1).vote(voted).node();
        node.deliver(msg(Vote, candidate, 1).term(1));
        assert_eq!(node.messages(), [], "sent before it is stable");
        let expected = Message {
            reject: rejected,
            ..msg(VoteResp, 1, candidate).term(1)
        };
        let answers: Vec<_> = node
            .messages_after_append()
            .iter()
            .cloned()
            .map(bare)
            .collect();
        assert_eq!(answers, [expected], "{voted} {candidate}");
    }
}

#[test]
fn e09_candidate_follows_a_leader_of_its_term_or_later() {
    for term in [1, 2] {
        let mut node = node(1);
        node.become_candidate();
        node.deliver(msg(App, 2, 1).term(term));
        assert_eq!((node.at(), node.leader()), ((Follower, term), 2));
    }
}

/// A follower, or a candidate, whose timeout was drawn just now.
fn redraw(node: &mut Node, role: Role) {
    match role {
        Candidate => node.become_candidate(),
        _ => {
            let next = node.term().next();
            node.become_follower(next, ReplicaId(2));
        }
    }
}

#[test]
fn e10_timeouts_are_drawn_from_one_to_two_election_ticks() {
    for role in [Follower, Candidate] {
        let mut node = node(1);
        let mut seen = [false; 32];
        for _ in 0..500 {
            redraw(&mut node, role);
            let mut ticks = 0;
            while node.sent().is_empty() {
                node.ticks(1);
                ticks += 1;
            }
            seen[ticks] = true;
        }
        let drawn: Vec<_> = (0..seen.len()).filter(|&ticks| seen[ticks]).collect();
        assert_eq!(drawn, (10..20).collect::<Vec<_>>(), "{role:?}");
    }
}

#[test]
fn e11_chance_of_a_timeout_grows_with_elapsed_ticks() {
    let mut node = node(1);
    for (elapsed, tenths) in [(5, 0), (10, 1), (13, 4), (15, 6), (18, 9), (20, 10)] {
        let mut passed = 0;
        for _ in 0..10_000 {
            redraw(&mut node, Follower);
            node.set_election_elapsed(elapsed);
            passed += u32::from(node.past_election_timeout());
        }
        assert_eq!((passed + 500) / 1000, tenths, "{elapsed} ticks: {passed}");
    }
}

#[test]
fn e12_timeouts_of_several_nodes_rarely_collide() {
    for role in [Follower, Candidate] {
        let mut nodes: Vec<_> = (1..=5)
            .map(|id| Setup::new(id, &[1, 2, 3, 4, 5]).node())
            .collect();
        let mut collisions = 0;
        for _ in 0..1000 {
            nodes.iter_mut().for_each(|node| redraw(node, role));
            let mut timed_out = 0;
            while timed_out == 0 {
                for node in &mut nodes {
                    node.ticks(1);
                    timed_out += u32::from(!node.sent().is_empty());
                }
            }
            collisions += u32::from(timed_out > 1);
        }
        assert!(collisions <= 300, "{role:?}: {collisions} of 1000 rounds");
    }
}

#[test]
fn e13_vote_requests_name_the_end_of_the_log() {
    for (terms, term) in [(vec![1], 2), (vec![1, 2], 3)] {
        let (index, log_term) = (terms.len() as u64, term - 1);
        let mut node = node(1);
        node.answer(msg(App, 2, 1).term(log_term).entries(entries(1, &terms)));
        node.ticks(19);
        let request = |to| msg(Vote, 1, to).term(term).log(index, log_term);
        assert_eq!(node.sent(), [request(2), request(3)]);
    }
}

/// Whether a voter with `own` log grants a vote of term 3 to a candidate whose log ends at `index` with `term`.
fn grants(own: &[u64], (term, index): (u64, u64)) -> bool {
    let mut node = Setup::new(1, &[1, 2]).log(own).node();
    let answers = node.answer(msg(Vote, 2, 1).term(3).log(index, term));
    assert_eq!(answers.len(), 1);
    assert_eq!((answers[0].kind, answers[0].term), (VoteResp, Term(3)));
    !answers[0].reject
}

#[test]
fn e14_vote_goes_to_logs_at_least_as_up_to_date() {
    for last in [(1, 1), (1, 2), (2, 1), (2, 2)] {
        assert!(grants(&[1], last), "{last:?}");
    }
    assert!(grants(&[1, 1], (2, 1)));
}

#[test]
fn e15_vote_is_refused_to_outdated_logs() {
    assert!(!grants(&[1, 1], (1, 1)));
    assert!(!grants(&[2], (1, 1)));
    assert!(!grants(&[2], (1, 2)));
    assert!(!grants(&[2, 2], (1, 1)));
}

/// Asks a node with log [2,2] for a vote of an equal term, and says whether it was granted.
fn grants_at_equal_term(node: &mut Node, kind: MessageKind, index: u64, log_term: u64) -> bool {
    let term = node.term().0;
    let answers = node.answer(msg(kind, 2, 1).term(term).log(index, log_term));
    assert_eq!(answers.len(), 1, "{answers:?}");
    !answers[0].reject
}

#[test]
fn e16_vote_depends_on_the_last_entry_for_votes_and_pre_votes() {
    for kind in [Vote, PreVote] {
        for (index, log_term) in (0..4).flat_map(|index| (0..4).map(move |term| (index, term))) {
            let mut node = Setup::new(1, &[1, 2])
                .log(&[2, 2])
                .term(log_term.max(2))
                .node();
            let expected = log_term == 3 || (log_term == 2 && index >= 2);
            let granted = grants_at_equal_term(&mut node, kind, index, log_term);
            assert_eq!(granted, expected, "{kind} {index}/{log_term}");
        }
    }
}

#[test]
fn e17_vote_given_before_binds_in_every_role() {
    for kind in [Vote, PreVote] {
        for (vote, granted) in [(2, true), (1, false)] {
            let mut node = Setup::new(1, &[1, 2]).log(&[2, 2]).vote(vote).node();
            assert_eq!(
                grants_at_equal_term(&mut node, kind, 3, 2),
                granted,
                "{kind} vote {vote}"
            );
        }
        for role in [Leader, PreCandidate, Candidate] {
            let mut node = Setup::new(1, &[1, 2]).log(&[2, 2]).node();
            // Which gives the own vote.
            node.become_candidate();
            match role {
                Leader => node.become_leader(),
                PreCandidate => node.become_pre_candidate(),
                _ => {}
            }
            assert_eq!((node.at(), node.voted()), ((role, 3), 1));
            assert!(
                !grants_at_equal_term(&mut node, kind, 3, 3),
                "{kind} {role:?}"
            );
        }
    }
}

/// Five live groups, three of which can elect, and one with longer logs at the peers.
pub(crate) fn elections(pre_vote: bool, open: (Role, u64)) {
    let set = |config: &mut Config| config.pre_vote = pre_vote;
    let groups: [(u64, &[u64], _); 5] = [
        (3, &[], (Leader, 1)),
        (3, &[2], (Leader, 1)),
        (5, &[2, 3], (Leader, 1)),
        (3, &[2, 3], open),
        (4, &[2, 3], open),
    ];
    for (size, dead, expected) in groups {
        let mut net = Network::partly(size, dead, set);
        net.campaign(1);
        assert_eq!(net[1].at(), expected, "{size} nodes, {dead:?} dead");
    }
    let logs: [&[u64]; 5] = [&[], &[1], &[1], &[1, 1], &[]];
    let mut net = Network::new(
        (1..)
            .zip(logs)
            .map(|(id, log)| Setup::new(id, &[1, 2, 3, 4, 5]).with(set).log(log).node()),
    );
    net.campaign(1);
    assert_eq!(net[1].at(), (Follower, 1));
}

#[test]
fn e18_live_majority_decides_an_election() {
    elections(false, (Candidate, 1));
}

/// Every node campaigns in turn.
pub(crate) fn leader_cycle(pre_vote: bool) {
    let mut net = Network::with(3, |config| config.pre_vote = pre_vote);
    for campaigner in VOTERS {
        net.campaign(campaigner);
        for id in VOTERS {
            let expected = if id == campaigner { Leader } else { Follower };
            assert_eq!(
                net[id].role(),
                expected,
                "node {id} after a campaign of {campaigner}"
            );
        }
    }
}

#[test]
fn e19_every_node_can_be_elected_in_turn() {
    leader_cycle(false);
}

/// A leader with an older uncommitted entry wins at a higher term than that of a newer uncommitted one.
pub(crate) fn newer_entries_overwritten(pre_vote: bool) {
    let setup = |id| {
        Setup::new(id, &[1, 2, 3, 4, 5]).with(|config: &mut Config| config.pre_vote = pre_vote)
    };
    let logs: [&[u64]; 3] = [&[1], &[1], &[2]];
    let with_log = (1..).zip(logs).map(|(id, log)| setup(id).log(log).node());
    let voted = [4, 5].map(|id| setup(id).term(2).vote(3).node());
    let mut net = Network::new(with_log.chain(voted));

    net.campaign(1);
    assert_eq!(net[1].at(), (Follower, 2));
    net.campaign(1);
    assert_eq!(net[1].at(), (Leader, 3));
    assert_eq!(net.logs(), vec![vec![1, 3]; 5]);
}

#[test]
fn e20_leader_overwrites_newer_log_entries() {
    newer_entries_overwritten(false);
}

#[test]
fn e21_vote_of_a_higher_term_is_granted_in_every_role() {
    for mut node in in_every_role(false) {
        let was = node.role();
        let answers = node.answer(msg(Vote, 2, 1).term(2).log(42, 2));
        assert_eq!(
            answers.last(),
            Some(&msg(VoteResp, 1, 2).term(2)),
            "{was:?}"
        );
        assert_eq!((node.at(), node.voted()), ((Follower, 2), 2), "{was:?}");
    }
}

#[test]
fn e22_duelling_candidates() {
    let mut net = Network::of(3);
    net.cut(1, 3);
    net.campaign(1);
    net.campaign(3);
    assert_eq!((net[1].at(), net[3].at()), ((Leader, 1), (Candidate, 1)));
    net.heal();
    net.campaign(3);
    assert_eq!(net.at(), [(Follower, 2); 3]);
    assert_eq!(net.lasts(), [1, 1, 0]);
}

#[test]
fn e23_candidate_concedes_to_the_leader_of_its_term() {
    let mut net = Network::of(3);
    net.isolate(1);
    net.campaign(1);
    net.campaign(3);
    net.heal();
    net.beat(3);
    net.propose(3, "agreed");
    net.beat(3);
    assert_eq!(net[1].at(), (Follower, 1));
    let log = vec![entry(1, 1), data_entry(2, 1, "agreed")];
    for id in VOTERS {
        assert_eq!((net[id].entries(), net[id].commit()), (log.clone(), 2));
    }
}

/// One voter alone.
pub(crate) fn single_voter(pre_vote: bool) {
    let mut net = Network::with(1, |config| config.pre_vote = pre_vote);
    net.campaign(1);
    assert_eq!(net[1].at(), (Leader, 1));
}

#[test]
fn e24_single_voter_elects_itself() {
    single_voter(false);
}

#[test]
fn e25_leader_ignores_appends_of_old_leaders() {
    let mut net = Network::of(3);
    for id in [1, 2, 1] {
        net.campaign(id);
    }
    assert_eq!(net[1].at(), (Leader, 3));
    net.send([msg(App, 2, 1).term(2).log(2, 2).entries(entries(3, &[2]))]);
    net.propose(1, "new");
    assert_eq!(net.logs(), vec![vec![1, 2, 3, 3]; 3]);
    assert_eq!(net.commits(), [4; 3]);
}
