//! More than a node can take: it says so, and its memory stays flat.

use std::time::Duration;

use flotilla::client::{
    Error,
    stream::{NodeStream, StreamOptions},
};

use flotilla_harness::{Cluster, Plan, Split, ask, put};

/// Writes that are offered at once, and the bytes of each.
const WRITES: usize = 8_000;
const BYTES: usize = 64 << 10;
/// By how much the memory of the node may grow meanwhile: what its budget, its databases and the windows of the
/// connections may hold, all of which are set below; the half of what is offered would be far more.
const GROWTH_MAX: u64 = 128 << 20;

#[test]
fn a_flood_is_answered_busy_with_a_time_to_come_back_and_memory_stays_flat() {
    let mut cluster = Cluster::start(Plan {
        split: Split::Even(2),
        settings: vec![
            ("limits.value_bytes", "128KiB"),
            ("limits.batch_bytes", "256KiB"),
            ("limits.batch_ops", "64"),
            ("limits.batch_get_bytes", "1MiB"),
            ("limits.entry_bytes", "1MiB"),
            ("limits.in_flight_bytes", "4MiB"),
            ("raft.uncommitted_bytes", "4MiB"),
            ("raft.cache_bytes", "1MiB"),
            ("storage.log_memtable", "4MiB"),
            ("storage.state_memtable", "4MiB"),
            ("storage.state_cache", "4MiB"),
        ],
        ..Plan::default()
    });
    let leader = cluster.leader("key", &[]);
    // Full speed once, so that everything that is made when first used is there.
    for number in 0..64 {
        let written = cluster.ask(
            leader,
            put(&format!("key{number}"), &"v".repeat(BYTES)),
            Duration::from_secs(30),
        );
        written.expect("a quorum");
    }
    let before = cluster.peak_memory(leader);
    let streams: Vec<NodeStream> = (0..4)
        .map(|_| {
            let options = StreamOptions {
                max_bytes: WRITES * BYTES,
                ..StreamOptions::default()
            };
            cluster
                .block_on(async { NodeStream::new(cluster.address(leader), options) })
                .expect("an address")
        })
        .collect();
    let value = "v".repeat(BYTES);
    let writes: Vec<_> = (0..WRITES)
        .map(|number| {
            let kind = put(&format!("key{number}"), &value);
            cluster.spawn(ask(
                &streams[number % streams.len()],
                kind,
                Duration::from_secs(60),
            ))
        })
        .collect();
    let (mut written, mut busy) = (0, 0);
    for write in writes {
        match cluster.block_on(write).expect("no panic") {
            Ok(_) => written += 1,
            Err(Error::Busy {
                retry_after,
                message,
            }) => {
                assert!(retry_after >= Duration::from_millis(1), "{message}");
                busy += 1;
            }
            Err(error) => panic!("neither written nor busy: {error:?}"),
        }
    }
    let growth = cluster.peak_memory(leader) - before;
    eprintln!(
        "{written} written, {busy} busy, memory grew by {} MiB",
        growth >> 20
    );
    assert!(written > 0 && busy > 0, "{written} written, {busy} busy");
    assert!(growth <= GROWTH_MAX, "memory grew by {growth} bytes");
    // It has recovered: nothing is left of the flood.
    let again = cluster.ask(leader, put("key", "value"), Duration::from_secs(30));
    again.expect("the flood is over");
}
