//! Replicas that rest.

use crate::network::{Network, config};
use bytes::Bytes;
use flotilla_shards::raft::{Index, RawNode, ReplicaId, Role, Term};

#[test]
fn a_group_rests_only_when_everything_is_done_and_wakes_by_a_proposal() {
    let mut network = Network::led(3, config);
    network
        .node(1)
        .propose(Bytes::from_static(b"x"))
        .expect("leading");
    assert!(
        !network.node(1).quiesce(|_| false),
        "an entry is not committed"
    );
    network.settle();
    // One follower hasn't acknowledged the last entry.
    network.cut = vec![ReplicaId(3)];
    network
        .node(1)
        .propose(Bytes::from_static(b"y"))
        .expect("leading");
    network.settle();
    assert!(!network.node(1).quiesce(|_| false));
    network.cut.clear();
    network.tick();
    for node in &mut network.nodes {
        assert!(node.quiesce(|_| false));
        assert_eq!(node.ticks_until_due(), None);
        node.advance_ticks(1000);
        assert!(!node.has_ready());
    }
    network
        .node(2)
        .propose(Bytes::from_static(b"z"))
        .expect("forwarded");
    network.settle();
    let committed: Vec<_> = network.nodes.iter().map(RawNode::committed).collect();
    assert_eq!(committed, [Index(4); 3]);
    assert!(network.nodes.iter().all(|node| !node.is_quiescent()));
    network.tick();
    assert_eq!(network.node(1).role(), Role::Leader);
    assert_eq!(network.node(1).term(), Term(1));
}

#[test]
fn woken_followers_of_a_dead_leader_elect_at_once_if_told_to() {
    let mut network = Network::led(3, config);
    for node in &mut network.nodes {
        assert!(node.quiesce(|_| false));
        node.advance_ticks(1000);
    }
    network.cut = vec![ReplicaId(1)];
    // Replica 3 still rests when it is asked for its vote.
    network.node(2).wake();
    assert!(
        network.node(2).ticks_until_due() >= Some(10),
        "its own timer starts anew"
    );
    network.node(2).campaign().expect("storage in memory");
    network.settle();
    assert_eq!(network.node(2).role(), Role::Leader);
    assert_eq!(network.node(3).leader(), ReplicaId(2));
}

#[test]
fn a_woken_leader_gives_its_followers_time() {
    let mut network = Network::led(3, config);
    for node in &mut network.nodes {
        assert!(node.quiesce(|_| false));
    }
    network.node(1).advance_ticks(1000);
    network.node(1).wake();
    network.node(1).advance_ticks(10);
    assert_eq!(network.node(1).role(), Role::Leader);
    network.node(1).advance_ticks(10);
    assert_eq!(
        network.node(1).role(),
        Role::Follower,
        "nobody has answered"
    );
}
