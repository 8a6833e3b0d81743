//! Section 1, second part: changes of role, and what each role does not do. What holds with pre-votes as well is public
//! to the crate, for `prevote`.

use crate::election::in_every_role;
use crate::harness::*;

const VOTERS: [u64; 3] = [1, 2, 3];

fn node(id: u64) -> Node {
    Setup::new(id, &VOTERS).node()
}

#[test]
fn e26_role_changes() {
    let in_role = |role| {
        let mut node = Setup::new(1, &VOTERS).term(1).node();
        match role {
            Follower => {}
            PreCandidate => node.become_pre_candidate(),
            _ => {
                node = Setup::new(1, &VOTERS).node();
                node.become_candidate();
                if role == Leader {
                    node.become_leader();
                }
            }
        }
        assert_eq!(node.at(), (role, 1));
        node
    };
    let all = [Follower, PreCandidate, Candidate, Leader];
    for (from, to) in all.into_iter().flat_map(|from| all.map(|to| (from, to))) {
        let mut node = in_role(from);
        let panicked = panics(|| match to {
            Follower => node.become_follower(Term(5), ReplicaId(3)),
            PreCandidate => node.become_pre_candidate(),
            Candidate => node.become_candidate(),
            Leader => node.become_leader(),
        });
        let forbidden = matches!(
            (from, to),
            (Follower, Leader) | (Leader, Candidate | PreCandidate)
        );
        assert_eq!(panicked, forbidden, "{from:?} to {to:?}");
        if !panicked {
            let (term, lead) = match to {
                Follower => (5, 3),
                Candidate => (2, 0),
                PreCandidate => (1, 0),
                Leader => (1, 1),
            };
            assert_eq!(
                (node.at(), node.leader()),
                ((to, term), lead),
                "{from:?} to {to:?}"
            );
        }
    }
}

#[test]
fn e27_every_role_steps_down_for_a_higher_term() {
    for (kind, lead) in [(Vote, 0), (App, 2)] {
        for mut node in in_every_role(true) {
            let (was, length) = (node.role(), u64::from(node.role() == Leader));
            node.deliver(msg(kind, 2, 1).term(3).log(0, 0));
            assert_eq!(
                (node.at(), node.leader()),
                ((Follower, 3), lead),
                "{was:?} {kind}"
            );
            assert_eq!(node.last(), length, "{was:?} {kind}");
        }
    }
}

#[test]
fn e28_candidate_that_was_cut_off_follows_the_leader() {
    for (kind, timeouts, at) in [
        (Heartbeat, 1, 2),
        (App, 1, 2),
        (Heartbeat, 2, 3),
        (App, 2, 3),
    ] {
        let mut net = Network::of(3);
        net.campaign(1);
        net.isolate(3);
        net.campaign(2);
        net.campaign(1);
        assert_eq!((net[1].at(), net[2].at()), ((Leader, 3), (Follower, 3)));
        for _ in 0..timeouts {
            let timeout = net[3].randomized_election_timeout();
            net[3].ticks(timeout);
            net.lose(3);
        }
        assert_eq!(net[3].at(), (Candidate, at));
        net.heal();
        net.send([msg(kind, 1, 3).term(3)]);
        assert_eq!(
            (net[3].at(), net[3].leader()),
            ((Follower, 3), 1),
            "{kind} at term {at}"
        );
    }
}

/// A campaign whose own vote becomes stable only after another leader was heard.
pub(crate) fn late_own_vote_after_defeat(pre_vote: bool) {
    let mut node = Setup::new(1, &VOTERS)
        .with(|config| config.pre_vote = pre_vote)
        .term(1)
        .node();
    node.deliver(msg(Hup, 1, 1));
    assert_eq!(node.role(), if pre_vote { PreCandidate } else { Candidate });
    let own = node.take_messages_after_append();
    assert_eq!(receivers(&own), [1]);
    let term = node.term().0;
    node.deliver(msg(Heartbeat, 2, 1).term(term));
    assert_eq!(node.at(), (Follower, term));
    node.release(own);
    assert_eq!((node.at(), node.granted()), ((Follower, term), 0));
}

#[test]
fn e29_late_own_vote_of_a_defeated_candidate_is_ignored() {
    late_own_vote_after_defeat(false);
}

#[test]
fn e30_late_own_acknowledgement_of_a_deposed_leader_is_ignored() {
    let mut node = Setup::new(1, &VOTERS).leader();
    let own = node.take_messages_after_append();
    assert_eq!(
        (own.len(), own[0].kind, own[0].to),
        (1, AppResp, ReplicaId(1))
    );
    node.deliver(msg(App, 2, 1).term(2));
    // Its answer to the new leader is of no interest here.
    node.sent();
    let before = (node.at(), node.commit(), node.flow(1));
    node.release(own);
    assert_eq!((node.at(), node.commit(), node.flow(1)), before);
    assert_eq!(node.sent(), []);
    assert_eq!(node.role(), Follower);
}

/// A leader asked to campaign.
pub(crate) fn campaign_of_a_leader(pre_vote: bool) {
    let mut net = Network::with(1, |config| config.pre_vote = pre_vote);
    net.campaign(1);
    net.campaign(1);
    assert_eq!((net[1].at(), net[1].last()), ((Leader, 1), 1));
}

#[test]
fn e31_leader_does_not_campaign() {
    campaign_of_a_leader(false);
}

#[test]
fn e32_only_voters_are_promotable() {
    let cases: [(&[u64], bool); 4] = [
        (&[1], true),
        (&[1, 2, 3], true),
        (&[], false),
        (&[2, 3], false),
    ];
    for (voters, promotable) in cases {
        assert_eq!(
            Setup::new(1, voters).node().promotable(),
            promotable,
            "{voters:?}"
        );
    }
}

#[test]
fn e33_node_outside_its_configuration_never_leads() {
    let mut node = Setup::new(1, &[2, 3, 4]).node();
    node.deliver(msg(TimeoutNow, 2, 1).term(1));
    node.deliver(msg(VoteResp, 2, 1).term(1));
    node.deliver(msg(VoteResp, 3, 1).term(1));
    assert_eq!(node.at(), (Follower, 1));
}

#[test]
fn e34_only_leaders_send_heartbeats() {
    for mut node in in_every_role(false) {
        node.sent();
        let sent = node.answer(msg(Beat, 1, 1));
        let expected: &[u64] = if node.role() == Leader { &[2, 3] } else { &[] };
        assert_eq!(receivers(&sent), expected, "{:?}", node.role());
        assert_eq!(of_kind(&sent, Heartbeat).len(), expected.len());
    }
}

#[test]
fn e35_unapplied_snapshot_keeps_from_campaigning() {
    let mut node = node(1);
    assert!(
        node.restore(Box::new(snapshot(11, 11, voters(&VOTERS))))
            .expect("a sound snapshot")
    );
    node.ticks(100);
    assert_eq!((node.at(), node.sent()), ((Follower, 0), vec![]));
    node.persist();
    node.ticks(19);
    assert_eq!(node.role(), Candidate);
}
