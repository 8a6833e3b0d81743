//! Nodes that come back after the others have gone on without them.

use std::time::Duration;

use flotilla_proto::v1::show_shard_request::Which;

use flotilla_harness::{Cluster, Plan, Split};

#[test]
fn a_follower_that_was_down_beyond_compaction_returns_by_snapshot() {
    let mut cluster = Cluster::start(Plan {
        split: Split::Even(2),
        // A log that is cut soon: as far as entries stay for followers, and as far as the state is flushed.
        settings: vec![
            ("raft.election_timeout", "500ms"),
            ("raft.reserve_entries", "16"),
            ("raft.log_bytes", "1MiB"),
            ("storage.flush_age", "1s"),
        ],
        ..Plan::default()
    });
    let which = Which::Key("key".into());
    let leader = cluster.leader("key", &[]);
    let follower = (leader + 1) % cluster.len();
    cluster.kill(follower);
    let client = cluster.client(Default::default());
    let behind = {
        let replica = cluster.replica(leader, &which).expect("it answers");
        replica.last_index
    };
    let value = "v".repeat(64 << 10);
    let mut number = 0;
    cluster.until(
        "the leader's log begins behind the follower's end",
        |cluster| {
            for _ in 0..32 {
                number += 1;
                let put = client.put(format!("key{number}"), value.clone());
                cluster.block_on(put).expect("two of three are a quorum");
            }
            let leaders = (0..cluster.len()).filter_map(|node| cluster.replica(node, &which));
            let compacted = leaders.map(|replica| replica.compacted).min();
            compacted.is_some_and(|compacted| compacted > behind)
        },
    );
    // Deletes, so that what the follower has must go.
    cluster.block_on(client.delete("key1")).expect("a quorum");

    cluster.start_node(follower);
    cluster.until_serves(follower);
    cluster.assert_replicas_agree();
    let done = "flotilla_snapshot_received_total{result=\"done\"}";
    assert!(
        cluster.metric(follower, done) >= 1.0,
        "it came back by a snapshot"
    );
    let rows = cluster.rows(follower);
    assert_eq!(rows.len(), number - 1, "{:?}", rows.first());

    // It is a full member again: with one of the others gone it is needed for every write.
    let other = (follower + 1) % cluster.len();
    cluster.kill(other);
    let client = cluster.client(flotilla::client::Options {
        timeout: Duration::from_secs(60),
        ..Default::default()
    });
    cluster
        .block_on(client.put("key", "again"))
        .expect("two of three are a quorum");
}
