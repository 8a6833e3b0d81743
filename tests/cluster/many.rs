//! Ten thousand shards in each of three processes: what they cost while nobody asks for anything, and that none is forgotten
//! when something happens.

use std::{
    thread,
    time::{Duration, Instant},
};

use flotilla_harness::{Cluster, PATIENCE, Plan, Split, get, value};
use flotilla_proto::v1::Consistency;
use serde_json::Value;

const SHARDS: u32 = 10_000;
/// With the meta shard.
const ALL: f64 = SHARDS as f64 + 1.0;

const LED: &str = "flotilla_shard_replicas{state=\"leader\"}";

fn resting(cluster: &Cluster, node: usize) -> f64 {
    cluster.metric(node, "flotilla_shard_resting")
}

/// What the nodes have sent each other: messages of shards, and frames.
fn sent(cluster: &Cluster, nodes: &[usize]) -> (f64, f64) {
    let mut sums = (0.0, 0.0);
    for &node in nodes {
        for lane in ["urgent", "bulk"] {
            for peer in nodes.iter().filter(|peer| **peer != node) {
                let labels = format!("{{lane=\"{lane}\",peer=\"{}\"}}", cluster.id(*peer));
                let of = |what| {
                    cluster.metric(
                        node,
                        &format!("flotilla_transport_sent_{what}_total{labels}"),
                    )
                };
                sums.0 += of("messages");
                sums.1 += of("frames");
            }
        }
    }
    sums
}

#[test]
fn ten_thousand_shards_sleep_and_all_of_them_wake_when_a_node_dies() {
    let mut cluster = Cluster::start(Plan {
        split: Split::Even(SHARDS),
        settings: vec![("raft.election_timeout", "1s")],
        ..Plan::default()
    });
    cluster.until("all shards rest", |cluster| {
        (0..3).all(|node| resting(cluster, node) == ALL)
    });
    let (before, begin) = (sent(&cluster, &[0, 1, 2]), Instant::now());
    thread::sleep(Duration::from_secs(3));
    let (after, seconds) = (sent(&cluster, &[0, 1, 2]), begin.elapsed().as_secs_f64());
    let frames = (after.1 - before.1) / 3.0 / seconds;
    eprintln!("{SHARDS} idle shards: {frames:.1} frames per second and node");
    assert_eq!(after.0, before.0, "who rests sends no message");
    assert!(frames > 0.0 && frames <= 50.0, "{frames}");

    // Nobody asks for anything; the node just dies.
    let dead = 0;
    let lost = cluster.metric(dead, LED);
    assert!(lost > 1000.0, "so many leaders die with it: {lost}");
    cluster.kill(dead);
    let begin = Instant::now();
    cluster.until("all shards are led again", |cluster| {
        cluster.metric(1, LED) + cluster.metric(2, LED) == ALL
    });
    eprintln!(
        "{lost} shards of a killed node led again after {:?}",
        begin.elapsed()
    );
    cluster.until("they rest again, although a node is missing", |cluster| {
        resting(cluster, 1) == ALL && resting(cluster, 2) == ALL
    });

    let client = cluster.client(Default::default());
    let keys: Vec<String> = (0..=u8::MAX).map(|byte| format!("{byte:02x}")).collect();
    for key in &keys {
        cluster
            .block_on(client.put(key.clone(), key.clone()))
            .expect("two of three are a quorum");
    }
    cluster.start_node(dead);
    cluster.until_serves(dead);
    cluster.until("the node that was away has what it missed", |cluster| {
        keys.iter().all(|key| {
            let found = cluster.ask(dead, get(key, Consistency::Serializable), PATIENCE);
            found.ok().and_then(value).as_ref() == Some(key)
        })
    });
    cluster.until(
        "all shards rest, also on the node that is back",
        |cluster| (0..3).all(|node| resting(cluster, node) == ALL),
    );
}

/// Counts and bytes do not depend on how fast a machine is, and processor time little on what runs beside it. The bands are
/// wide: what leaves them has changed its ways.
#[test]
fn what_a_write_costs_in_messages_syncs_bytes_and_processor_time() {
    let cluster = Cluster::start(Plan {
        split: Split::Even(64),
        ..Plan::default()
    });
    let bench = |flags: &str| -> Value {
        let flags = format!("put --value-bytes 256 --seconds 2 --warmup 200ms {flags}");
        let mut words = vec!["-w", "json", "bench"];
        words.extend(flags.split(' '));
        let output = cluster.run(&words);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}");
        serde_json::from_slice(&output.stdout).expect("a report")
    };
    let held = |report: &Value, load: &str, bands: &[(&str, f64, f64)]| {
        for &(figure, least, most) in bands {
            let found = report[figure].as_f64().expect("a figure");
            eprintln!("{load}: {figure} {found:.3} (expected {least} to {most})");
            assert!(
                (least..=most).contains(&found),
                "{load}: {figure} is {found}, expected {least} to {most}"
            );
        }
    };
    held(
        &bench("--clients 256 --stream"),
        "256 in flight",
        &[
            // Appends to two followers and their acknowledgements, shared by the writes of a shard.
            ("messages_per_operation", 0.5, 5.0),
            ("writes_per_fsync", 16.0, 256.0),
            // Three logs with keys, headers and checksums around 256 bytes, and now and then the flushed state.
            ("disk_bytes_per_operation", 768.0, 6000.0),
            // Of all three, with the tests' profile and other tests beside it: what costs several times as much shows here.
            ("server_cpu_us_per_operation", 20.0, 400.0),
        ],
    );
    held(
        &bench("--clients 1"),
        "one in flight",
        &[
            ("messages_per_operation", 3.9, 8.0),
            ("fsyncs_per_operation_and_node", 0.9, 1.2),
        ],
    );
}
