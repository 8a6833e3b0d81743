//! Section 9: what a leader knows of its peers, and how much it sends them.

use crate::harness::*;
use ProgressState::{Probe, Replicate};

fn progress(state: ProgressState, match_index: u64, next: u64) -> Progress {
    Progress {
        state,
        match_index: Index(match_index),
        ..Progress::new(Index(next), Inflights::new(256, 0))
    }
}

fn flow(progress: &Progress) -> (u64, u64) {
    (progress.match_index.0, progress.next.0)
}

/// Leader 1 of two at once, with its empty entry stable; 2 is probed.
fn leader() -> Node {
    let mut leader = Setup::new(1, &[1, 2]).leader();
    leader.drain();
    leader
}

/// The same with 2 replicated to.
fn replicating() -> Node {
    let mut leader = leader();
    leader.progress_mut(2).become_replicate();
    leader
}

/// What a proposal sends.
fn propose(leader: &mut Node) -> Vec<Message> {
    leader.propose_data("x");
    leader.sent()
}

#[test]
fn f01_text_form() {
    let mut progress = Progress {
        pending_snapshot: Index(123),
        msg_app_flow_paused: true,
        is_learner: true,
        inflights: Inflights::new(1, 0),
        ..progress(ProgressState::Snapshot, 1, 2)
    };
    progress.inflights.add(Index(123), 1);
    let expected =
        "StateSnapshot match=1 next=2 learner paused pendingSnap=123 inactive inflight=1[full]";
    assert_eq!(progress.to_string(), expected);
}

#[test]
fn f02_paused() {
    for (state, flag, paused) in [
        (Probe, false, false),
        (Probe, true, true),
        (Replicate, false, false),
        (Replicate, true, true),
        (ProgressState::Snapshot, false, true),
        (ProgressState::Snapshot, true, true),
    ] {
        let progress = Progress {
            msg_app_flow_paused: flag,
            ..progress(state, 0, 1)
        };
        assert_eq!(progress.is_paused(), paused, "{state:?} {flag}");
    }
}

#[test]
fn f03_news_end_a_pause() {
    let mut progress = Progress {
        msg_app_flow_paused: true,
        ..progress(Probe, 0, 2)
    };
    assert!(!progress.maybe_decr_to(Index(5), Index(5)), "a late one");
    assert!(progress.is_paused());
    assert!(progress.maybe_decr_to(Index(1), Index(1)));
    assert!(!progress.is_paused());
    progress.msg_app_flow_paused = true;
    assert!(!progress.maybe_update(Index(0)));
    assert!(progress.is_paused());
    assert!(progress.maybe_update(Index(2)));
    assert!(!progress.is_paused());
}

#[test]
fn f04_to_probe() {
    for (state, pending, next) in [
        (Replicate, 0, 2),
        (ProgressState::Snapshot, 10, 11),
        (ProgressState::Snapshot, 0, 2),
    ] {
        let mut progress = Progress {
            pending_snapshot: Index(pending),
            ..progress(state, 1, 5)
        };
        progress.become_probe();
        assert_eq!(
            (progress.state, flow(&progress)),
            (Probe, (1, next)),
            "{state:?} {pending}"
        );
    }
}

#[test]
fn f05_to_replicate_and_to_snapshot() {
    let mut progress = progress(Probe, 1, 5);
    progress.become_replicate();
    assert_eq!((progress.state, flow(&progress)), (Replicate, (1, 2)));
    progress.become_snapshot(Index(10));
    assert_eq!(
        (progress.state, flow(&progress)),
        (ProgressState::Snapshot, (1, 11))
    );
    assert_eq!(progress.pending_snapshot, Index(10));
}

#[test]
fn f06_acknowledgements_raise_match_and_next() {
    for (index, news, expected) in [
        (2, false, (3, 5)),
        (3, false, (3, 5)),
        (4, true, (4, 5)),
        (5, true, (5, 6)),
    ] {
        let mut progress = progress(Probe, 3, 5);
        assert_eq!(
            (progress.maybe_update(Index(index)), flow(&progress)),
            (news, expected),
            "{index}"
        );
    }
}

#[test]
fn f07_rejections_while_replicating() {
    for (rejected, genuine, next) in [(5, false, 10), (4, false, 10), (9, true, 6)] {
        let mut progress = progress(Replicate, 5, 10);
        let found = progress.maybe_decr_to(Index(rejected), Index(rejected));
        assert_eq!((found, flow(&progress)), (genuine, (5, next)), "{rejected}");
    }
}

#[test]
fn f08_rejections_while_probing() {
    for (next, rejected, hint, expected) in [
        (0, 0, 0, None),
        (10, 5, 5, None),
        (10, 9, 9, Some(9)),
        (2, 1, 1, Some(1)),
        (1, 0, 0, Some(1)),
        (10, 9, 2, Some(3)),
        (10, 9, 0, Some(1)),
    ] {
        // Next is 1 at least, so the first of these cases is one of a rejection beyond what was sent.
        let (next, rejected) = if next == 0 { (1, 1) } else { (next, rejected) };
        let mut progress = progress(Probe, 0, next);
        let found = progress.maybe_decr_to(Index(rejected), Index(hint));
        assert_eq!(found, expected.is_some(), "{next} {rejected} {hint}");
        assert_eq!(flow(&progress), (0, expected.unwrap_or(next)));
    }
}

#[test]
fn f09_leader_acknowledges_to_itself() {
    let mut leader = Setup::new(1, &[1, 2]).leader();
    leader.progress_mut(2).become_replicate();
    for _ in 0..5 {
        leader.propose_data("x");
    }
    assert_eq!(
        (leader.flow(1).0, leader.log().next_unstable().len()),
        (0, 6)
    );
    leader.drain();
    assert_eq!(leader.flow(1), (6, 7));
}

#[test]
fn f10_what_ends_a_peers_pause() {
    let mut leader = leader();
    leader.progress_mut(2).msg_app_flow_paused = true;
    leader.deliver(msg(Beat, 1, 1));
    assert!(leader.progress(2).msg_app_flow_paused);
    leader.progress_mut(2).become_replicate();
    assert!(!leader.progress(2).msg_app_flow_paused);
    leader.progress_mut(2).msg_app_flow_paused = true;
    leader.deliver(msg(HeartbeatResp, 2, 1));
    assert!(!leader.progress(2).msg_app_flow_paused);
}

#[test]
fn f11_one_append_to_a_probed_peer() {
    let mut leader = leader();
    for _ in 0..3 {
        leader.propose_data("x");
    }
    let sent = leader.sent();
    assert_eq!((sent.len(), sent[0].kind), (1, App));
}

#[test]
fn f12_probed_peer_gets_one_append_per_heartbeat_response() {
    let mut leader = leader();
    for round in 0..2 {
        // The first one is caused by a proposal, the second by the answer to a heartbeat.
        let sent = if round == 0 {
            propose(&mut leader)
        } else {
            leader.answer(msg(HeartbeatResp, 2, 1))
        };
        assert_eq!(
            (sent.len(), sent[0].kind, sent[0].index),
            (1, App, Index(0))
        );
        assert!(leader.progress(2).is_paused());
        for _ in 0..10 {
            assert_eq!(propose(&mut leader), []);
        }
        for _ in 0..3 {
            leader.ticks(1);
            let sent = leader.sent();
            assert_eq!((sent.len(), sent[0].kind), (1, Heartbeat));
            assert!(leader.progress(2).is_paused());
        }
    }
}

#[test]
fn f13_appends_by_state() {
    let mut leader = replicating();
    for _ in 0..10 {
        let sent = propose(&mut leader);
        assert_eq!((sent.len(), sent[0].kind), (1, App));
    }
    leader.progress_mut(2).become_snapshot(Index(10));
    for _ in 0..10 {
        assert_eq!(propose(&mut leader), []);
    }
}

#[test]
fn f14_next_runs_ahead_while_replicating() {
    for (state, next) in [(Replicate, 6), (Probe, 2)] {
        let mut leader = Setup::new(1, &[1, 2]).log(&[1, 2, 3]).leader();
        let progress = leader.progress_mut(2);
        (progress.state, progress.match_index, progress.next) = (state, Index(1), Index(2));
        leader.propose_data("x");
        assert_eq!(leader.flow(2), (1, next), "{state:?}");
    }
}

#[test]
fn f15_unreachable_peer_is_probed() {
    let mut leader = Setup::new(1, &[1, 2]).log(&[1, 2, 3]).leader();
    leader.replicate_to(2);
    let progress = leader.progress_mut(2);
    (progress.match_index, progress.next) = (Index(3), Index(6));
    leader.deliver(msg(Unreachable, 2, 1));
    assert_eq!((leader.progress(2).state, leader.flow(2)), (Probe, (3, 4)));

    leader.progress_mut(2).next = Index(5);
    leader.deliver(msg(Unreachable, 2, 1));
    assert_eq!((leader.progress(2).state, leader.flow(2)), (Probe, (3, 5)));
    leader.progress_mut(2).become_snapshot(Index(9));
    leader.deliver(msg(Unreachable, 2, 1));
    assert_eq!(
        (leader.progress(2).state, leader.flow(2)),
        (ProgressState::Snapshot, (3, 10))
    );
}

/// A leader that has sent the whole window to 2, up to entry 257.
fn window_full() -> Node {
    let mut leader = replicating();
    for sent in 0..256 {
        assert!(!leader.progress(2).inflights.full(), "{sent} sent");
        assert_eq!(propose(&mut leader).len(), 1);
    }
    assert!(leader.progress(2).inflights.full());
    leader
}

#[test]
fn f16_full_window_pauses() {
    let mut leader = window_full();
    assert!(leader.progress(2).is_paused());
    for _ in 0..10 {
        assert_eq!(propose(&mut leader), []);
    }
}

#[test]
fn f17_acknowledgements_move_the_window() {
    let mut leader = window_full();
    // The first message held the empty entry as well.
    for index in 2..256 {
        leader.answer(msg(AppResp, 2, 1).log(index, 0));
        let sent = propose(&mut leader);
        assert_eq!((sent.len(), sent[0].entries.len()), (1, 1), "after {index}");
        assert!(leader.progress(2).inflights.full());
        for older in [0, 1, index / 2, index - 1] {
            leader.answer(msg(AppResp, 2, 1).log(older, 0));
            assert!(leader.progress(2).inflights.full(), "{older} after {index}");
        }
    }
}

#[test]
fn f18_full_window_is_tested_by_empty_appends() {
    let mut leader = window_full();
    for _ in 0..5 {
        let sent = leader.answer(msg(HeartbeatResp, 2, 1));
        assert_eq!(
            (sent.len(), sent[0].kind, sent[0].entries.len()),
            (1, App, 0)
        );
        assert!(leader.progress(2).is_paused());
        for _ in 0..10 {
            assert_eq!(propose(&mut leader), []);
        }
    }
}

/// A window of 3 messages and 9,000 bytes, messages of 2,048 bytes; the peer is probed, and 22 entries are proposed.
/// Also gives what was sent.
fn windowed_in_bytes() -> (Node, Vec<Message>) {
    let setup = Setup::new(1, &[1, 2]).with(|config| {
        config.max_inflight_msgs = 3;
        config.max_inflight_bytes = 9000;
        config.max_size_per_msg = 2048;
    });
    let mut leader = setup.leader();
    leader.sent();
    for proposal in 0..22 {
        let size = if (10..16).contains(&proposal) {
            5000
        } else {
            1000
        };
        leader.deliver(prop(1, 1, blob(size)));
    }
    let sent = leader.sent();
    (leader, sent)
}

#[test]
fn f19_probe_with_byte_limits() {
    let (_, sent) = windowed_in_bytes();
    assert_eq!(
        (sent.len(), positions(&sent[0].entries)),
        (1, vec![(1, 1), (2, 1)])
    );
}

#[test]
fn f20_window_in_bytes_overshoots_by_one_message_at_most() {
    let (mut leader, mut sent) = windowed_in_bytes();
    let rounds: [&[usize]; 6] = [&[2, 2, 2], &[2, 1, 1], &[1, 1], &[1, 1], &[1, 2, 2], &[2]];
    for expected in rounds {
        let last = sent
            .last()
            .and_then(|append| append.entries.last())
            .expect("entries")
            .index;
        // Empty appends carry the commit index only.
        sent = leader.answer(msg(AppResp, 2, 1).log(last.0, 0));
        sent.retain(|append| !append.entries.is_empty());
        let counts: Vec<_> = sent.iter().map(|append| append.entries.len()).collect();
        assert_eq!(counts, expected, "after {last}");
    }
}

/// Count and bytes in flight.
fn in_flight(inflights: &Inflights) -> (usize, u64) {
    (inflights.count(), inflights.bytes())
}

/// Adds messages with these indexes, of 100 bytes and the index.
fn add(inflights: &mut Inflights, indexes: std::ops::Range<u64>) {
    indexes.for_each(|index| inflights.add(Index(index), 100 + index));
}

#[test]
fn f21_window_keeps_order_and_bytes() {
    let mut inflights = Inflights::new(10, 0);
    add(&mut inflights, 0..5);
    assert_eq!(in_flight(&inflights), (5, 510));
    add(&mut inflights, 5..10);
    assert_eq!(in_flight(&inflights), (10, 1045));

    for (to, left) in [(0, 9), (4, 5), (8, 1)] {
        inflights.free_le(Index(to));
        let bytes = (to + 1..10).map(|index| 100 + index).sum();
        assert_eq!(in_flight(&inflights), (left, bytes), "freed to {to}");
    }
    add(&mut inflights, 10..15);
    for (to, left) in [(12, 2), (14, 0)] {
        inflights.free_le(Index(to));
        assert_eq!(inflights.count(), left, "freed to {to}");
    }
    assert_eq!(inflights.bytes(), 0);
    // The same after the window has moved on.
    add(&mut inflights, 0..5);
    add(&mut inflights, 5..10);
    assert_eq!(in_flight(&inflights), (10, 1045));
}

#[test]
fn f22_full_window() {
    // Size, bytes, when it is full, up to where it is freed then, and when it is full again.
    type Case = (usize, u64, u64, Option<(u64, u64)>);
    let cases: [Case; 6] = [
        (0, 0, 0, None),
        (1, 0, 1, None),
        (15, 0, 15, Some((6, 22))),
        (8, 400, 4, Some((2, 7))),
        (8, 406, 4, Some((3, 8))),
        (15, 408, 5, Some((1, 6))),
    ];
    for (size, bytes, full_at, again) in cases {
        let mut inflights = Inflights::new(size, bytes);
        let mut next = 0;
        let mut fill = |inflights: &mut Inflights, full_at: u64| {
            while !inflights.full() {
                inflights.add(Index(next), 100 + next);
                next += 1;
            }
            assert_eq!(next, full_at, "size {size}, {bytes} bytes");
            assert!(panics(|| inflights.clone().add(Index(100), 1024)));
        };
        fill(&mut inflights, full_at);
        if let Some((freed, full_at)) = again {
            inflights.free_le(Index(freed));
            fill(&mut inflights, full_at);
        }
    }
}

#[test]
fn f23_reset_forgets_everything() {
    let mut inflights = Inflights::new(10, 1000);
    for _ in 0..100 {
        inflights.reset();
        assert_eq!(in_flight(&inflights), (0, 0));
        add(&mut inflights, 0..5);
        assert_eq!(in_flight(&inflights), (5, 510));
    }
    inflights.free_le(Index(0));
    inflights.reset();
    assert!(!inflights.full());
    assert_eq!(in_flight(&inflights), (0, 0));
}

#[test]
fn f24_caught_up_peer_returns_to_replication() {
    let mut leader = replicating();
    propose(&mut leader);
    leader.answer(msg(AppResp, 2, 1).log(2, 0));
    leader.deliver(msg(Unreachable, 2, 1));
    assert_eq!((leader.progress(2).state, leader.flow(2)), (Probe, (2, 3)));
    let sent = leader.answer(msg(HeartbeatResp, 2, 1));
    assert_eq!(
        (
            sent.len(),
            sent[0].kind,
            sent[0].index,
            sent[0].entries.len()
        ),
        (1, App, Index(2), 0)
    );
    leader.answer(msg(AppResp, 2, 1).log(2, 0));
    assert_eq!(
        (leader.progress(2).state, leader.flow(2)),
        (Replicate, (2, 3))
    );
}
