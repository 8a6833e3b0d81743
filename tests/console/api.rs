//! What the nodes answer to the page.

use flotilla::client::Error;
use flotilla_harness::{Cluster, Plan, Split, http_get};
use serde_json::Value;

use super::writers::{LETTERS, Writers};

fn ask(cluster: &Cluster, node: usize, path: &str) -> Value {
    let body = http_get(cluster.status_address(node), path);
    serde_json::from_str(&body).unwrap_or_else(|error| panic!("{path}: {error}: {body}"))
}

/// The id of the shard that holds a key, and the node that leads it.
fn shard_of(cluster: &Cluster, node: usize, key: &str) -> (u64, Option<u64>) {
    let found = ask(cluster, node, &format!("/console/api/shards?q={key}"));
    assert_eq!(found["total"], 1, "{found}");
    let row = &found["shards"][0];
    (
        row["shard"].as_u64().expect("an id"),
        row["leader"].as_u64(),
    )
}

/// How much a row of the heat map that has this shard alone was asked.
fn heat_of(picture: &Value, shard: u64) -> f64 {
    let rows = picture["rows"].as_array().expect("rows");
    let row = rows
        .iter()
        .position(|row| row["first"] == shard && row["shards"] == 1);
    let row = row.unwrap_or_else(|| panic!("shard {shard} has a row of its own: {rows:?}"));
    let columns = picture["columns"].as_array().expect("columns").iter();
    let cells = columns.flat_map(|column| column.as_array().expect("cells"));
    cells
        .filter(|cell| cell[0] == row)
        .filter_map(|cell| cell[1].as_f64())
        .sum()
}

#[test]
fn every_node_tells_of_the_whole_cluster() {
    let mut cluster = Cluster::start(Plan {
        split: Split::At(LETTERS.map(str::to_owned).to_vec()),
        ..Plan::default()
    });
    let _writers = Writers::start(&cluster, "m");
    // Asked of a node that does not lead the hot shard.
    let leader = cluster.leader("m", &[]);
    let other = (leader + 1) % cluster.len();
    let (hot, told) = shard_of(&cluster, other, "m-1");
    assert_eq!(told, Some(cluster.id(leader)));
    let (cold, _) = shard_of(&cluster, other, "t");
    cluster.until("the map is hot where keys are written", |cluster| {
        let picture = ask(cluster, other, "/console/api/heat?minutes=5&metric=writes");
        heat_of(&picture, hot) > 10.0 * heat_of(&picture, cold).max(1.0)
    });
    let overview = ask(&cluster, other, "/console/api/cluster");
    assert_eq!(overview["hottest"][0]["shard"], hot, "{overview}");
    assert_eq!(overview["hottest"][0]["start"], "m");
    assert_eq!(overview["shards"]["known"], LETTERS.len() as u64 + 2);
    for node in 0..cluster.len() {
        let report = &overview["nodes"][node]["report"];
        assert!(
            report["vitals"]["memory"].as_u64() > Some(1 << 20),
            "{report}"
        );
        assert!(report["vitals"]["disk_free"].as_u64() > Some(0), "{report}");
    }
    let work = &overview["nodes"][leader]["report"]["vitals"];
    assert!(
        work["write_p99"].as_f64() > Some(0.0) && work["work"]["log"].as_f64() > Some(0.0),
        "{work}"
    );
    let moments = ask(&cluster, other, "/console/api/history");
    let written = moments
        .as_array()
        .expect("moments")
        .iter()
        .filter_map(|moment| moment["writes"].as_f64());
    assert!(written.fold(0.0, f64::max) > 0.0, "{moments}");
    let ranked = ask(&cluster, other, "/console/api/shards?by=writes&limit=1");
    assert_eq!(ranked["shards"][0]["shard"], hot, "{ranked}");
    assert_eq!(ranked["total"], LETTERS.len() as u64 + 2);
    let page = ask(&cluster, other, &format!("/console/api/shards/{hot}"));
    let applied = page["replicas"].as_array().expect("replicas").iter();
    assert!(
        applied
            .filter(|on| on["replica"]["applied"].as_u64() > Some(0))
            .count()
            == 3,
        "{page}"
    );

    cluster.kill(leader);
    cluster.until("the killed node is down", |cluster| {
        let overview = ask(cluster, other, "/console/api/cluster");
        overview["nodes"][leader]["state"] == "down"
    });
    cluster.until(
        "its shards are led by others, who lack a replica",
        |cluster| {
            let overview = ask(cluster, other, "/console/api/cluster");
            let shards = &overview["shards"];
            shards["without_leader"] == 0 && shards["under_replicated"] == LETTERS.len() as u64 + 2
        },
    );
    assert_ne!(shard_of(&cluster, other, "m").1, Some(cluster.id(leader)));
    let lacking = ask(&cluster, other, "/console/api/shards?lacking=true&limit=1");
    assert_eq!(lacking["total"], LETTERS.len() as u64 + 2);
}

#[test]
fn only_pages_of_the_console_are_told_through_the_other_port() {
    let cluster = Cluster::start(Plan::default());
    let page = |path: &str| cluster.block_on(cluster.admin(0).page(path));
    let overview = page("/console/api/cluster").expect("it is told");
    let overview: Value = serde_json::from_slice(&overview).expect("JSON");
    assert_eq!(overview["nodes"].as_array().map(Vec::len), Some(3));
    for path in [
        "/config",
        "/console/node/report",
        "/metrics",
        "",
        "console/api/cluster",
        "/console/../config",
    ] {
        match page(path) {
            Err(Error::InvalidArgument { message }) => {
                assert!(message.contains("no such page"), "{message}")
            }
            other => panic!("{path}: {other:?}"),
        }
    }
    for path in [
        "/console/api/nothing",
        "/console/api/shards?by=beauty",
        "/console/api/\n",
        "/console/api/../../config",
    ] {
        assert!(page(path).is_err(), "{path}");
    }
}
