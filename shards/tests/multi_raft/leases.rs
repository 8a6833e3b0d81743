//! Leases counted from sending, and promises that outlive restarts.

use crate::network::{Network, leases, members, vote};
use flotilla_shards::raft::confchange::{ConfChangeV2, parse_operations};
use flotilla_shards::raft::{
    Config, MemoryStorage, Message, MessageKind, RawNode, ReplicaId, Role, Term,
};

#[test]
fn a_lease_starts_with_the_election_and_ends_with_its_ticks() {
    let mut network = Network::led(3, leases);
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
    let mut network = Network::led(3, drifting);
    assert_eq!(network.node(1).lease_remaining_ticks(), 6);
}

#[test]
fn a_lease_counts_from_the_sending_of_a_heartbeat_and_not_from_its_answer() {
    let mut network = Network::led(3, leases);
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
fn heartbeats_renew_a_lease_only_with_a_quorum() {
    let mut network = Network::led(5, leases);
    network.cut = vec![ReplicaId(3), ReplicaId(4), ReplicaId(5)];
    network.tick();
    network.tick();
    assert_eq!(network.node(1).lease_remaining_ticks(), 7);
    network.cut.clear();
    network.tick();
    assert_eq!(network.node(1).lease_remaining_ticks(), 9);
}

#[test]
fn handing_over_ends_the_lease_for_the_term() {
    let mut network = Network::led(3, leases);
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
