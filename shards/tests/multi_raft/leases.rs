//! Leases counted from sending, and promises that outlive restarts.

use crate::network::{Network, config, leases, members, vote};
use bytes::Bytes;
use flotilla_shards::raft::confchange::{ConfChangeV2, parse_operations};
use flotilla_shards::raft::{
    Config, MemoryStorage, Message, MessageKind, RawNode, ReplicaId, Role, Term,
};

/// A group whose leader has a lease, as it was asked to read.
fn leased(n: u64, config: impl Fn(u64) -> Config) -> Network {
    let mut network = Network::led(n, config);
    assert_eq!(network.read(1), 1);
    network.seen.clear();
    network
}

/// Replica 1 asks itself to read; nothing else happens.
fn ask(network: &mut Network) {
    let asked = network.node(1).read_index(Bytes::from_static(b"ctx"));
    asked.expect("leading");
}

/// The lease is used, and the next heartbeat brings a round to all others.
fn send_round(network: &mut Network) {
    ask(network);
    network.work();
    network.node(1).tick();
    network.work();
    network.deliver();
}

/// The answers of replica 2 to the rounds that it was sent.
fn answers_of_2(network: &mut Network) -> Vec<Message> {
    network.work();
    let mail = std::mem::take(&mut network.mail);
    let answers = mail.into_iter().filter(|message| {
        message.from == ReplicaId(2)
            && message.kind == MessageKind::HeartbeatResp
            && message.round != 0
    });
    let answers: Vec<Message> = answers.collect();
    assert!(!answers.is_empty());
    answers
}

#[test]
fn who_is_not_read_asks_for_no_lease() {
    let mut network = Network::led(3, leases);
    for _ in 0..5 {
        network.tick();
    }
    assert!(network.count(MessageKind::Heartbeat) > 0);
    assert!(network.seen.iter().all(|message| message.round == 0));
    assert_eq!(network.node(1).lease_remaining_ticks(), 0);
}

#[test]
fn a_lease_starts_with_the_first_read_and_ends_with_its_ticks() {
    let mut network = leased(3, leases);
    // Ten ticks of promise, of which the first may be cut short.
    assert_eq!(network.node(1).lease_remaining_ticks(), 9);
    network.cut = vec![ReplicaId(1)];
    for left in (0..9).rev() {
        assert_eq!(network.read(1), 1, "within the lease");
        network.tick();
        assert_eq!(network.node(1).lease_remaining_ticks(), left);
    }
    assert_eq!(network.node(1).role(), Role::Leader);
    assert_eq!(network.read(1), 0, "without a lease a quorum is needed");
}

#[test]
fn drift_shortens_a_lease() {
    let drifting = |id| Config {
        max_clock_drift_permille: 250,
        ..leases(id)
    };
    let mut network = leased(3, drifting);
    assert_eq!(network.node(1).lease_remaining_ticks(), 6);
}

#[test]
fn a_lease_counts_from_the_sending_of_a_heartbeat_and_not_from_its_answer() {
    let mut network = leased(3, leases);
    ask(&mut network);
    network.work();
    for _ in 0..3 {
        network.node(1).tick();
    }
    network.work();
    let first = network
        .mail
        .iter()
        .position(|m| m.kind == MessageKind::Heartbeat && m.to == ReplicaId(2));
    let first = network.mail.remove(first.expect("a heartbeat was sent"));
    network.mail.clear();
    // It was sent at tick 1, and travels for four more.
    for _ in 0..4 {
        network.node(1).tick();
    }
    network.work();
    network.mail = vec![first];
    let before = network.node(1).lease_remaining_ticks();
    network.work();
    network.deliver();
    network.work();
    network
        .mail
        .retain(|m| m.kind == MessageKind::HeartbeatResp);
    network.deliver();
    assert_eq!((before, network.node(1).lease_remaining_ticks()), (2, 3));
}

#[test]
fn heartbeats_renew_a_used_lease_only_with_a_quorum() {
    let mut network = leased(5, leases);
    network.cut = vec![ReplicaId(3), ReplicaId(4), ReplicaId(5)];
    for left in [8, 7] {
        assert_eq!(network.read(1), 1);
        network.tick();
        assert_eq!(network.node(1).lease_remaining_ticks(), left);
    }
    network.cut.clear();
    assert_eq!(network.read(1), 1);
    network.tick();
    assert_eq!(network.node(1).lease_remaining_ticks(), 9);
    // Nobody reads any more.
    network.tick();
    assert_eq!(network.node(1).lease_remaining_ticks(), 8);
}

#[test]
fn a_lease_that_heartbeats_do_not_renew_is_renewed_by_reads_in_good_time() {
    let rare = |id| Config {
        heartbeat_ticks: 9,
        ..leases(id)
    };
    let mut network = leased(3, rare);
    let mut left = Vec::new();
    for _ in 0..8 {
        network.tick();
        assert_eq!(network.read(1), 1);
        left.push(network.node(1).lease_remaining_ticks());
    }
    assert_eq!(left, [8, 7, 6, 5, 9, 8, 7, 6]);
    assert_eq!(network.count(MessageKind::Heartbeat), 2);
}

#[test]
fn a_lease_that_ran_out_before_the_answer_left_confirms_nothing() {
    let mut network = leased(3, leases);
    // The process stands still, and takes the request in before it looks at its clock.
    ask(&mut network);
    for _ in 0..9 {
        network.node(1).tick();
    }
    network.read_states.clear();
    network.work();
    assert_eq!(network.read_states, []);
    network.settle();
    assert_eq!(network.read_states.len(), 1, "a round did");
    assert!(!network.read_states[0].1.leased);
}

#[test]
fn a_promise_counts_from_the_tick_at_which_the_answer_leaves() {
    let mut network = leased(3, leases);
    send_round(&mut network);
    // Replica 2 has stood still, and looks at its clock only now.
    for _ in 0..5 {
        network.node(2).tick();
    }
    let answers = answers_of_2(&mut network);
    assert!(answers.iter().all(|answer| answer.promise));
    for _ in 0..10 {
        network.node(2).step(vote(3, 3, b"")).expect("ignored");
        assert!(network.node(2).raft.vote() != ReplicaId(3));
        network.node(2).tick();
    }
    network.node(2).step(vote(3, 3, b"")).expect("granted");
    assert_eq!(network.node(2).raft.vote(), ReplicaId(3));
}

#[test]
fn who_campaigns_before_its_answer_leaves_promises_nothing() {
    let mut network = leased(3, leases);
    send_round(&mut network);
    // So long that it misses its leader.
    for _ in 0..20 {
        network.node(2).tick();
    }
    let answers = answers_of_2(&mut network);
    assert!(answers.iter().all(|answer| !answer.promise));
}

#[test]
fn who_has_no_entry_of_the_term_on_disk_promises_nothing() {
    let mut network = Network::led(3, leases);
    let beat = |term| Message {
        kind: MessageKind::Heartbeat,
        from: ReplicaId(3),
        to: ReplicaId(2),
        term: Term(term),
        round: 1,
        ..Message::default()
    };
    network.node(2).step(beat(2)).expect("of a new leader");
    let answers = answers_of_2(&mut network);
    assert!(answers.iter().all(|answer| !answer.promise));
}

#[test]
fn who_knows_no_leases_confirms_reads_and_gives_none() {
    let mixed = |id| match id {
        1 => leases(1),
        _ => config(id),
    };
    let mut network = leased(3, mixed);
    assert_eq!(network.node(1).lease_remaining_ticks(), 0);
    for _ in 0..5 {
        network.tick();
        assert_eq!(network.read(1), 1);
    }
    assert_eq!(network.node(1).lease_remaining_ticks(), 0);
    // One more who does is a quorum.
    let mixed = |id| match id {
        3 => config(3),
        _ => leases(id),
    };
    let mut network = leased(3, mixed);
    assert_eq!(network.node(1).lease_remaining_ticks(), 9);
}

#[test]
fn a_campaign_that_came_too_early_is_made_up_for() {
    let mut network = leased(3, leases);
    network.cut = vec![ReplicaId(1)];
    network.node(2).campaign().expect("refused in silence");
    assert_eq!(network.node(2).role(), Role::Follower);
    for _ in 0..11 {
        network.tick();
        assert_ne!(network.node(2).role(), Role::Leader);
    }
    network.tick();
    assert_eq!(network.node(2).role(), Role::Leader);
}

#[test]
fn handing_over_ends_the_lease_for_the_term() {
    let mut network = leased(3, leases);
    network.node(1).transfer_leader(ReplicaId(2));
    assert_eq!(network.node(1).lease_remaining_ticks(), 0);
    // The message is lost, the transfer given up; but it might still arrive.
    let _ = network.node(1).ready();
    network.node(1).advance();
    for _ in 0..10 {
        network.tick();
    }
    assert_eq!(network.node(1).role(), Role::Leader);
    assert!(network.node(1).raft.lead_transferee().is_none());
    assert_eq!(network.node(1).lease_remaining_ticks(), 0);
    network.seen.clear();
    assert_eq!(network.read(1), 1);
    assert_eq!(network.count(MessageKind::Heartbeat), 2, "by a round");
}

#[test]
fn a_new_member_counts_for_the_lease_only_when_it_has_answered() {
    let mut network = Network::led(1, leases);
    let change = ConfChangeV2 {
        changes: parse_operations("v2 v3").expect("operations"),
        ..ConfChangeV2::default()
    };
    assert_eq!(network.node(1).lease_remaining_ticks(), 9);
    network.node(1).apply_conf_change(&change).expect("fits");
    assert_eq!(network.node(1).lease_remaining_ticks(), 0);
}

#[test]
fn a_promise_outlives_the_leader_that_it_was_given_to() {
    let mut network = Network::led(3, leases);
    network.cut = vec![ReplicaId(1)];
    // A higher term from anybody makes the follower forget its leader, but not its promise.
    let stray = Message {
        kind: MessageKind::AppResp,
        from: ReplicaId(3),
        to: ReplicaId(2),
        term: Term(2),
        ..Message::default()
    };
    network
        .node(2)
        .step(stray)
        .expect("a message of the protocol");
    assert_eq!(network.node(2).leader(), ReplicaId::NONE);
    for _ in 0..10 {
        let node = network.node(2);
        node.step(vote(3, 2, b"")).expect("ignored");
        node.step(vote(3, 3, b"")).expect("ignored");
        node.campaign().expect("ignored");
        assert_eq!((node.role(), node.term()), (Role::Follower, Term(2)));
        assert!(node.raft.vote().is_none());
        node.tick();
    }
    network.node(2).step(vote(3, 3, b"")).expect("granted");
    assert_eq!(network.node(2).raft.vote(), ReplicaId(3));
}

#[test]
fn a_leader_that_hands_over_breaks_the_promise_for_its_successor() {
    let mut network = Network::led(3, leases);
    network.node(1).transfer_leader(ReplicaId(3));
    network.settle();
    assert_eq!(network.node(3).role(), Role::Leader);
}

#[test]
fn after_a_restart_votes_are_held_off() {
    let config = Config {
        vote_hold_off_ticks: 10,
        ..leases(2)
    };
    let storage = MemoryStorage::with_conf_state(members(3));
    let mut node = RawNode::new(&config, storage).expect("a valid configuration");
    for _ in 0..10 {
        node.step(vote(3, 1, b"")).expect("ignored");
        node.campaign().expect("ignored");
        assert!(node.raft.vote().is_none() && node.term() == Term(0));
        node.tick();
    }
    node.step(vote(3, 1, b"")).expect("granted");
    assert_eq!(node.raft.vote(), ReplicaId(3));
}
