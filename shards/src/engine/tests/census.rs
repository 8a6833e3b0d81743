//! What operators are told of many replicas at once.

use super::*;

const SHARDS: u64 = 10;

fn statuses(engine: &Engine<u64, Disk>, page: usize) -> Vec<ReplicaStatus> {
    let mut all = Vec::new();
    loop {
        let after = all
            .last()
            .map_or(ShardId(0), |last: &ReplicaStatus| last.shard);
        let found = engine.census(after, page);
        if found.is_empty() {
            return all;
        }
        assert!(found.len() <= page);
        all.extend(found);
    }
}

#[test]
fn a_census_in_pages_of_any_size_counts_every_replica_once() {
    let fleet = Fleet::new(3, SHARDS);
    let engine = &fleet.nodes[0].engine;
    let whole: Vec<_> = engine
        .shards()
        .filter_map(|shard| engine.status(shard))
        .collect();
    assert_eq!(whole.len(), SHARDS as usize);
    for page in [1, 3, 10, 11] {
        assert_eq!(statuses(engine, page), whole, "pages of {page}");
    }
}

#[test]
fn reads_and_writes_count_where_they_were_asked_and_wait_until_they_are_committed() {
    let mut fleet = Fleet::new(3, 1);
    assert_eq!(fleet.leader(SHARD), Some(1));
    for node in &mut fleet.nodes {
        node.disk_stalled = true;
    }
    for reply in 0..5 {
        fleet.node(1).put(SHARD, reply);
    }
    fleet.settle();
    let status =
        |fleet: &Fleet, node: usize| fleet.nodes[node - 1].engine.status(SHARD).expect("open");
    assert_eq!(status(&fleet, 1).pending, 5);
    for node in &mut fleet.nodes {
        node.disk_stalled = false;
    }
    fleet.node(2).engine.read(SHARD, 7);
    fleet.settle();
    let Load {
        reads,
        writes,
        written_bytes,
    } = status(&fleet, 1).load;
    assert_eq!((reads, writes, status(&fleet, 1).pending), (0, 5, 0));
    assert!(written_bytes > 0);
    let at_the_follower = status(&fleet, 2);
    assert_eq!(
        (at_the_follower.load.reads, at_the_follower.load.writes),
        (1, 0)
    );
}

#[test]
fn a_leader_misses_the_replicas_of_silent_nodes_until_they_are_back() {
    let mut fleet = Fleet::new(3, SHARDS);
    let missing = |fleet: &Fleet| -> usize {
        let all = fleet.nodes[..2]
            .iter()
            .flat_map(|node| node.engine.census(ShardId(0), 100));
        all.map(|status| status.missing).sum()
    };
    fleet.tick(3);
    assert_eq!(missing(&fleet), 0, "all are there");
    fleet.cut.insert(NodeId(3));
    fleet.tick(100);
    assert_eq!(
        missing(&fleet),
        SHARDS as usize,
        "each shard lacks the one on node 3"
    );
    let lacks_quorum = |fleet: &Fleet| {
        let all = fleet
            .nodes
            .iter()
            .flat_map(|node| node.engine.census(ShardId(0), 100));
        all.filter(ReplicaStatus::lacks_quorum).count()
    };
    assert_eq!(lacks_quorum(&fleet), 0, "two of three are a quorum");
    fleet.cut.clear();
    fleet.tick(100);
    assert_eq!(missing(&fleet), 0, "back");
}
