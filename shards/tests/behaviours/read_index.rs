//! Section 13: linearizable reads, by rounds of heartbeats and by lease.
//!
//! A round is the leader's own number (`Message::round`); where the original confirms by the caller's context, the
//! tests look at rounds.

use crate::harness::*;

const VOTERS: [u64; 3] = [1, 2, 3];

/// Ten proposals before each request at these nodes; gives read index and context as the asking node got them.
fn reads(net: &mut Network, askers: &[u64]) -> Vec<(u64, String)> {
    let contexts = ["ctx1", "ctx2", "ctx3", "ctx4", "ctx5", "ctx6"];
    let mut answers = Vec::new();
    for (&asker, context) in askers.iter().zip(contexts) {
        for _ in 0..10 {
            net.propose(1, "x");
        }
        net.read(asker, context);
        answers.append(&mut net[asker].reads());
    }
    answers
}

fn expected(count: u64) -> Vec<(u64, String)> {
    (1..=count)
        .map(|read| (10 * read + 1, format!("ctx{read}")))
        .collect()
}

/// Leader 1 of three with its empty entry committed and known to all.
fn leader() -> Node {
    let mut leader = Setup::new(1, &VOTERS).leader();
    leader.sent();
    for peer in [2, 3] {
        leader.answer(msg(AppResp, peer, 1).log(1, 0));
    }
    assert_eq!(leader.commit(), 1);
    leader
}

fn ask(node: &mut Node, context: &'static str) -> Vec<Message> {
    node.answer(msg(ReadIndex, 1, 1).context(context))
}

/// What a follower answers to a heartbeat.
fn answer_to(beat: &Message) -> Message {
    Message {
        round: beat.round,
        ..msg(HeartbeatResp, beat.to.0, 1).term(beat.term.0)
    }
}

#[test]
fn i01_safe_reads() {
    let mut net = Network::of(3);
    net.campaign(1);
    assert_eq!(reads(&mut net, &[1, 2, 3, 1, 2, 3]), expected(6));
}

#[test]
fn i02_lease_reads_need_no_heartbeats() {
    let mut net = Network::with(3, |config| {
        config.check_quorum = true;
        config.read_only = ReadOnlyOption::LeaseBased;
    });
    net.campaign(1);
    net[2].persist();
    net[3].persist();
    // The first read asks for the lease as well.
    net.read(1, "first");
    assert_eq!(net[1].reads(), [(1, "first".into())]);
    net.watch(|message| {
        assert_ne!(message.kind, Heartbeat);
        true
    });
    assert_eq!(reads(&mut net, &[1, 2, 3, 1, 2, 3]), expected(6));
}

#[test]
fn i03_reads_of_one_voter_and_a_learner() {
    let mut net = Network::new([1, 2].map(|id| Setup::of(id, members(&[1], &[2])).node()));
    net.campaign(1);
    assert_eq!(reads(&mut net, &[1, 2, 1, 2]), expected(4));
}

#[test]
fn i04_new_leader_answers_after_its_first_commit() {
    let mut net = Network::new(VOTERS.map(|id| {
        let committed = if id == 1 { 1 } else { 2 };
        Setup::new(id, &VOTERS)
            .log(&[1, 1])
            .commit(committed)
            .node()
    }));
    net.ignore(App);
    net.campaign(1);
    assert_eq!((net[1].at(), net[1].commit()), ((Leader, 2), 1));
    net.read(1, "early");
    assert_eq!(net[1].reads(), []);

    net.heal();
    // The peers answer to heartbeats only after the proposal.
    net[1].ticks(1);
    net.propose(1, "x");
    assert_eq!(net[1].commit(), 4);
    assert_eq!(net[1].reads(), [(4, "early".into())]);
    net.read(1, "late");
    assert_eq!(net[1].reads(), [(4, "late".into())]);
}

#[test]
fn i05_majority_of_heartbeat_responses_frees_a_request() {
    let mut leader = Setup::new(1, &[1, 2, 3, 4, 5]).leader();
    leader.sent();
    for peer in 2..=5 {
        leader.answer(msg(AppResp, peer, 1).log(1, 0));
    }
    let beats = ask(&mut leader, "ctx");
    assert_eq!(
        (receivers(&beats), of_kind(&beats, Heartbeat).len()),
        (vec![2, 3, 4, 5], 4)
    );
    assert!(
        beats[0].round != 0 && beats.iter().all(|beat| beat.round == beats[0].round),
        "{beats:?}"
    );
    leader.answer(msg(HeartbeatResp, 3, 1).term(1));
    leader.answer(answer_to(&beats[0]));
    leader.answer(answer_to(&beats[0]));
    assert_eq!(leader.reads(), [], "two of five");
    leader.answer(answer_to(&beats[2]));
    assert_eq!(leader.reads(), [(1, "ctx".into())]);
    leader.answer(answer_to(&beats[3]));
    assert_eq!(leader.reads(), [], "freed");
}

#[test]
fn i06_repeated_context_never_gets_an_old_answer() {
    let mut leader = leader();
    let old = ask(&mut leader, "same");
    leader.propose_data("x");
    leader.sent();
    leader.answer(msg(AppResp, 2, 1).log(2, 0));
    assert_eq!(leader.commit(), 2);
    let new = ask(&mut leader, "same");
    assert_ne!(old[0].round, new[0].round);
    // Delayed answers confirm what was asked before those heartbeats, and only that.
    leader.answer(answer_to(&old[0]));
    leader.answer(answer_to(&old[1]));
    assert_eq!(leader.reads(), [(1, "same".into())]);
    leader.answer(answer_to(&new[1]));
    assert_eq!(leader.reads(), [(2, "same".into())]);

    // A stale leader's request: the others have elected 2 meanwhile, and committed more.
    let mut net = Network::of(3);
    net.campaign(1);
    net.isolate(1);
    net.campaign(2);
    net.propose(2, "x");
    let beats = ask(&mut net[1], "same");
    // What was answered at the old term, before the election, confirms no new round.
    net[1].deliver(msg(HeartbeatResp, 2, 1).term(1));
    net[1].deliver(msg(HeartbeatResp, 3, 1).term(1));
    net.heal();
    net.send(beats);
    assert_eq!(net[1].reads(), []);
    net.beat(2);
    net.read(1, "same");
    assert_eq!(net[1].reads(), [(3, "same".into())]);
}

#[test]
fn i07_followers_forward_requests() {
    let mut net = Network::of(3);
    net.campaign(1);
    let forwarded = net[2].answer(msg(ReadIndex, 2, 2).context("ctx"));
    assert_eq!(
        forwarded,
        [msg(ReadIndex, 2, 1).context("ctx")],
        "without a term"
    );
    // By then 1 leads no longer.
    net.campaign(3);
    net.send(forwarded);
    assert_eq!(net[2].reads(), [(2, "ctx".into())]);

    let mut alone = Setup::new(1, &VOTERS).node();
    let dropped = alone.step(msg(ReadIndex, 1, 1).context("ctx"));
    assert_eq!(dropped, Err(Error::ReadDropped(DropReason::NoLeader)));
    assert_eq!((alone.sent(), alone.reads()), (vec![], vec![]));
}

#[test]
fn i08_single_voter_answers_at_once() {
    let mut leader = Setup::new(1, &[1]).leader();
    leader.drain();
    leader.propose_data("x");
    leader.drain();
    leader.deliver(msg(ReadIndex, 1, 1).context("ctx"));
    assert_eq!(leader.reads(), [(2, "ctx".into())]);
}

#[test]
fn i09_read_states_come_with_one_ready() {
    let mut node = lone_leader(Setup::new(1, &[1]));
    node.read_index("ctx".into()).expect("leading");
    assert!(node.has_ready());
    let ready = turn(&mut node);
    let [read] = ready.read_states.as_slice() else {
        panic!("{ready:?}")
    };
    assert_eq!((read.index, &read.context[..]), (Index(1), &b"ctx"[..]));
    assert!(!node.has_ready());
    node.propose("x".into()).expect("leading");
    assert_eq!(turn(&mut node).read_states, []);
}

#[test]
fn i10_one_round_confirms_all_earlier_requests() {
    let mut leader = leader();
    let first = ask(&mut leader, "a");
    let second = ask(&mut leader, "b");
    leader.propose_data("x");
    leader.sent();
    leader.answer(msg(AppResp, 2, 1).log(2, 0));
    let third = ask(&mut leader, "c");
    assert!(first[0].round < second[0].round && second[0].round < third[0].round);
    leader.answer(answer_to(&second[0]));
    assert_eq!(leader.reads(), [(1, "a".into()), (1, "b".into())]);
    leader.answer(answer_to(&third[1]));
    assert_eq!(leader.reads(), [(2, "c".into())]);
}

#[test]
fn i11_change_of_term_forgets_requests() {
    let mut leader = leader();
    let beats = ask(&mut leader, "lost");
    leader.deliver(msg(App, 2, 1).term(2));
    leader.sent();
    leader.deliver(msg(Hup, 1, 1));
    leader.drain();
    leader.deliver(msg(VoteResp, 2, 1).term(3));
    assert_eq!(leader.at(), (Leader, 3));
    leader.sent();
    leader.answer(msg(AppResp, 2, 1).term(3).log(2, 0));
    assert_eq!(leader.commit(), 2);
    let mut new = ask(&mut leader, "new");
    new.retain(|message| message.kind == Heartbeat);
    assert_eq!(new.len(), 2);
    leader.answer(answer_to(&beats[0]));
    assert_eq!(leader.reads(), [], "an answer of the old term");
    leader.answer(answer_to(&new[0]));
    assert_eq!(leader.reads(), [(2, "new".into())]);
}
