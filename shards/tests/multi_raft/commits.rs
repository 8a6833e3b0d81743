//! Commits that are not worth work of their own.

use crate::network::{Network, config, members};
use bytes::Bytes;
use flotilla_shards::raft::{Config, MessageKind, RawNode, ReplicaId, Role};

fn lazy(id: u64) -> Config {
    Config {
        lazy_commit: true,
        ..config(id)
    }
}

fn commit_one(network: &mut Network) {
    network
        .node(1)
        .propose(Bytes::from_static(b"entry"))
        .expect("leading");
    network.settle();
}

#[test]
fn a_lazy_commit_index_is_stored_now_and_then() {
    let stored = |network: &mut Network| network.node(1).storage().hard_state();
    let mut network = Network::led(3, lazy);
    let elected = stored(&mut network);
    let mut behind = 0;
    for _ in 0..200 {
        commit_one(&mut network);
        let (known, stored) = (network.node(1).hard_state(), stored(&mut network));
        assert_eq!((stored.term, stored.vote), (known.term, known.vote));
        assert!(
            known.commit.0 - stored.commit.0 < 64,
            "{stored:?}, {known:?}"
        );
        behind = behind.max(known.commit.0 - stored.commit.0);
    }
    assert_eq!(behind, 63, "the commit index was stored with every entry");
    assert!(stored(&mut network).commit > elected.commit);

    // Whoever restarts with an old commit index learns the present one from the leader.
    let last = network.node(1).raft.log().committed();
    let storage = network.node(2).storage().clone();
    assert!(storage.hard_state().commit < last);
    *network.node(2) = RawNode::new(&lazy(2), storage).expect("what it stored");
    assert!(network.node(2).raft.log().committed() < last);
    // The interval in which the last entry was sent has no heartbeat.
    for _ in 0..2 * lazy(1).heartbeat_ticks {
        network.tick();
    }
    assert_eq!(network.node(2).raft.log().committed(), last);
}

#[test]
fn who_was_sent_entries_gets_no_heartbeat_in_that_interval() {
    let mut network = Network::led(3, lazy);
    for _ in 0..lazy(1).heartbeat_ticks {
        network.tick();
    }
    let beats = network.count(MessageKind::Heartbeat);
    // Replica 3 misses an entry, and the leader does not know it.
    network.cut = vec![ReplicaId(3)];
    commit_one(&mut network);
    network.cut.clear();
    for _ in 0..lazy(1).heartbeat_ticks {
        network.tick();
    }
    assert_eq!(network.count(MessageKind::Heartbeat), beats);
    for _ in 0..lazy(1).heartbeat_ticks {
        network.tick();
    }
    assert_eq!(network.count(MessageKind::Heartbeat), beats + 2);
    let last = network.node(1).raft.log().committed();
    assert_eq!(
        network.node(3).raft.log().committed(),
        last,
        "what was lost is sent again"
    );
}

/// Found by the simulator (seed 43): it stood by its candidacy, and the leader, woken by it each time, rested again.
#[test]
fn a_candidate_follows_the_leader_whose_word_to_rest_it_hears() {
    let mut network = Network::led(3, lazy);
    commit_one(&mut network);
    let last = network.node(1).raft.log().committed();
    assert!(
        network.node(3).raft.log().committed() < last,
        "not told yet"
    );
    network.cut = vec![ReplicaId(3)];
    network.node(3).campaign().expect("storage in memory");
    network.settle();
    assert_eq!(network.node(3).role(), Role::PreCandidate);
    network.cut.clear();
    assert!(network.node(1).quiesce(|_| false));
    network.node(1).announce_quiescence();
    network.settle();
    assert_eq!(network.node(3).role(), Role::Follower);
    assert_eq!(network.node(3).leader(), ReplicaId(1));
    assert_eq!(network.node(3).raft.log().committed(), last);
}

#[test]
fn a_new_vote_and_a_snapshot_take_the_commit_index_with_them() {
    let mut network = Network::led(3, lazy);
    network.cut = vec![ReplicaId(3)];
    for _ in 0..10 {
        commit_one(&mut network);
    }
    let last = network.node(1).raft.log().committed();
    let storage = network.node(1).storage_mut();
    storage
        .create_snapshot(last, Some(members(3)), Bytes::new())
        .expect("an index of the log");
    storage.compact(last).expect("an index of the log");
    network.cut.clear();
    for _ in 0..2 * lazy(1).heartbeat_ticks {
        network.tick();
    }
    assert_eq!(network.node(3).raft.log().committed(), last);
    assert_eq!(network.node(3).storage().hard_state().commit, last);

    network.node(1).transfer_leader(ReplicaId(2));
    network.settle();
    assert_eq!(network.node(2).role(), Role::Leader);
    let new = network.node(2).hard_state();
    assert_eq!(network.node(1).storage().hard_state().term, new.term);
    assert!(network.node(1).storage().hard_state().commit >= last);
}
