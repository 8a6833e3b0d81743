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

/// Surveys the node in pages, and holds what that says against a look at every replica. Returns how many were looked at.
fn survey(engine: &mut Engine<u64, Disk>) -> usize {
    let mut loads = BTreeMap::new();
    let mut looked_at = 0;
    loop {
        let page = engine.survey(3);
        assert!(page.loads.len() <= 3);
        looked_at += page.loads.len();
        loads.extend(page.loads);
        if page.left == 0 {
            break;
        }
    }
    let all = engine.census(ShardId(0), 100);
    let mut expected = Totals::default();
    for status in all {
        if let Some(load) = loads.get(&status.shard) {
            assert_eq!(*load, status.load);
        }
        expected = expected.and(Totals {
            pending: status.pending as u64,
            under_replicated: u64::from(status.missing > 0),
            without_quorum: u64::from(status.lacks_quorum()),
            log_bytes: status.log_bytes,
            log_longest: status.log_bytes,
        });
    }
    assert_eq!(engine.totals(), expected);
    looked_at
}

#[test]
fn a_survey_looks_at_what_has_changed_and_knows_the_rest() {
    let mut fleet = Fleet::new(3, SHARDS);
    fleet.tick(50);
    let surveys = |fleet: &mut Fleet| {
        let engines = fleet.nodes.iter_mut().map(|node| &mut node.engine);
        engines.map(survey).collect::<Vec<usize>>()
    };
    assert_eq!(surveys(&mut fleet), [SHARDS as usize; 3]);
    fleet.tick(50);
    assert_eq!(surveys(&mut fleet), [0; 3], "all rest");

    // Writes that wait, and then don't.
    let leader = fleet.leader(SHARD).expect("somebody leads");
    for node in &mut fleet.nodes {
        node.disk_stalled = true;
    }
    fleet.node(leader).put(SHARD, 1);
    fleet.settle();
    assert_eq!(survey(&mut fleet.node(leader).engine), 1);
    assert_eq!(fleet.node(leader).engine.totals().pending, 1);
    for node in &mut fleet.nodes {
        node.disk_stalled = false;
    }
    fleet.settle();
    assert_eq!(surveys(&mut fleet), [1; 3]);
    assert_eq!(fleet.node(leader).engine.totals().pending, 0);

    // A node that is missed, and comes back.
    fleet.cut.insert(NodeId(3));
    fleet.tick(60);
    let looked_at = surveys(&mut fleet);
    assert_eq!(looked_at[..2], [SHARDS as usize; 2]);
    let missed = |fleet: &Fleet| -> u64 {
        let nodes = fleet.nodes[..2].iter();
        nodes
            .map(|node| node.engine.totals().under_replicated)
            .sum()
    };
    assert_eq!(missed(&fleet), SHARDS);
    fleet.cut.clear();
    fleet.tick(60);
    surveys(&mut fleet);
    assert_eq!(missed(&fleet), 0);

    // A log that is cut without anything else happening to its replica.
    let applied = fleet
        .node(leader)
        .engine
        .status(SHARD)
        .expect("open")
        .applied;
    let node = fleet.node(leader);
    node.engine.config.compact_entries_min = 1;
    node.engine.config.reserve_entries = 0;
    let before = node.engine.totals().log_longest;
    node.engine.handle_flushed(&[(SHARD, applied)]);
    assert_eq!(survey(&mut node.engine), 1);
    assert!(node.engine.totals().log_longest <= before);
}
