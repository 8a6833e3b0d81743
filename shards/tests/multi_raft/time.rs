//! Ticks passed in bulk; paced elections and heartbeats.

use crate::network::{Network, config};
use flotilla_shards::raft::{Config, Message, MessageKind, ReplicaId, Role, Term};

#[test]
fn ticks_in_bulk_are_ticks_one_by_one() {
    for seed in 0..200 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let configure = |id| Config {
            seed: seed + id,
            heartbeat_ticks: 3,
            manual_heartbeats: seed % 3 == 0,
            ..config(id)
        };
        let mut single = Network::led(3, configure);
        let mut bulk = Network::led(3, configure);
        for _ in 0..30 {
            let (id, ticks) = (rng.u64(1..=3), rng.u32(1..25));
            for _ in 0..ticks {
                single.node(id).tick();
            }
            bulk.node(id).advance_ticks(ticks);
            if rng.bool() {
                single.settle();
                bulk.settle();
            }
            for (a, b) in single.nodes.iter().zip(&bulk.nodes) {
                assert_eq!(a.status(), b.status(), "seed {seed}");
                assert_eq!(a.raft.messages(), b.raft.messages(), "seed {seed}");
                assert_eq!(
                    (a.raft.election_elapsed(), a.ticks_until_due()),
                    (b.raft.election_elapsed(), b.ticks_until_due()),
                    "seed {seed}"
                );
            }
        }
    }
}

#[test]
fn nothing_happens_before_it_is_due() {
    for seed in 0..50 {
        let configure = |id| Config {
            seed: seed * 3 + id,
            heartbeat_ticks: 4,
            ..config(id)
        };
        let mut network = Network::led(3, configure);
        for _ in 0..40 {
            for node in &mut network.nodes {
                let due = node.ticks_until_due().expect("members have timers");
                node.advance_ticks(due - 1);
                assert!(!node.has_ready(), "seed {seed}");
                let elapsed = node.raft.election_elapsed();
                node.tick();
                assert!(
                    node.has_ready() || node.raft.election_elapsed() <= elapsed,
                    "seed {seed}: something was due"
                );
            }
            network.settle();
        }
    }
}

#[test]
fn a_manual_election_is_announced_and_left_to_the_caller() {
    let manual = |id| Config {
        manual_elections: true,
        ..config(id)
    };
    let mut network = Network::led(3, manual);
    network.cut = vec![ReplicaId(1)];
    for _ in 0..20 {
        network.tick();
    }
    assert!(network.node(2).take_election_due());
    assert!(!network.node(2).take_election_due(), "announced once");
    assert_eq!(network.node(2).role(), Role::Follower);
    // A leader that is heard takes the announcement back.
    let heartbeat = Message {
        kind: MessageKind::Heartbeat,
        from: ReplicaId(1),
        to: ReplicaId(3),
        term: Term(1),
        ..Message::default()
    };
    network.node(3).step(heartbeat).expect("from the leader");
    assert!(!network.node(3).take_election_due());
    for _ in 0..20 {
        network.node(3).tick();
    }
    network.node(2).campaign().expect("storage in memory");
    network.settle();
    assert_eq!(network.node(2).role(), Role::Leader);
}

#[test]
fn manual_heartbeats_come_when_told() {
    let manual = |id| Config {
        manual_heartbeats: true,
        ..config(id)
    };
    let mut network = Network::led(3, manual);
    for _ in 0..5 {
        network.tick();
    }
    assert_eq!(network.count(MessageKind::Heartbeat), 0);
    network.node(1).heartbeat_now();
    network.node(2).heartbeat_now();
    network.settle();
    assert_eq!(network.count(MessageKind::Heartbeat), 2);
}
