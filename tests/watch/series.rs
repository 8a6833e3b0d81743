//! The number of series does not grow with the data.

use std::collections::BTreeSet;

use flotilla_harness::{Cluster, Plan, Split, http_get};

/// Names and labels of all series of a node that has so many shards.
fn series(shards: u32) -> BTreeSet<String> {
    let cluster = Cluster::start(Plan {
        nodes: 1,
        split: Split::Even(shards),
        ..Plan::default()
    });
    let known = cluster.metric(0, "flotilla_shard_known");
    assert_eq!(
        known,
        f64::from(shards + 1),
        "all of them, and the meta shard"
    );
    let listed = http_get(cluster.status_address(0), "/shards?limit=10000");
    let listed: serde_json::Value = serde_json::from_str(&listed).expect("JSON");
    let rows = listed["shards"].as_array().expect("a list");
    assert_eq!(rows.len(), (shards as usize + 1).min(10_000));
    assert!(
        rows.iter()
            .all(|row| row["role"] == "leader" && row["missing_replicas"] == 0)
    );
    let page = http_get(cluster.status_address(0), "/metrics");
    let lines = page.lines().filter(|line| !line.starts_with('#'));
    lines
        .filter_map(|line| Some(line.rsplit_once(' ')?.0.to_owned()))
        .collect()
}

#[test]
fn ten_thousand_shards_have_the_series_of_eight() {
    let (few, many) = (series(8), series(10_000));
    assert!(few.len() > 500, "only {} series found", few.len());
    assert_eq!(few, many);
}
