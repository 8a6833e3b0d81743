//! A real data set is imported while nodes die and stand still.

use std::{
    process::{Child, Stdio},
    thread,
    time::Duration,
};

use flotilla_harness::{Cluster, Plan, Split, records};

/// Records that are imported.
const RECORDS: usize = 300_000;
/// The default of `raft.election_timeout`; an election takes one to two of these.
const ELECTION_TIMEOUT: Duration = Duration::from_secs(1);

/// Waits until a part of the records is written, and fails if that is no longer in the middle of the import.
fn until_written(cluster: &Cluster, import: &mut Child, asked: usize, part: f64) {
    let wanted = (RECORDS as f64 * part) as u64;
    cluster.until(&format!("{wanted} records are written"), |cluster| {
        // Every write raises its shard's revision by one.
        let shards = cluster.shards(asked);
        let written: u64 = shards
            .iter()
            .filter_map(|shard| shard.local.as_ref())
            .map(|replica| replica.revision)
            .sum();
        written >= wanted
    });
    let ended = import.try_wait().expect("the import is our child");
    assert!(ended.is_none(), "the import ended too early: {ended:?}");
}

#[test]
fn three_hundred_thousand_records_survive_a_killed_node_and_a_leader_that_stands_still() {
    let records = records::words(RECORDS);
    let mut cluster = Cluster::start(Plan {
        split: Split::At(records::split_keys(&records, 64)),
        ..Plan::default()
    });
    assert_eq!(
        cluster.shards(0).len(),
        1 + 64,
        "the directory and 64 shards"
    );
    let file = cluster.folder().join("words.ndjson");
    records::write_ndjson(&file, &records);
    let path = file.to_str().expect("temporary folders have plain names");
    let mut import = cluster
        .command(&["import", path])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary starts");

    until_written(&cluster, &mut import, 0, 0.1);
    cluster.kill(1);
    thread::sleep(2 * ELECTION_TIMEOUT);
    until_written(&cluster, &mut import, 0, 0.3);
    cluster.start_node(1);
    cluster.until_serves(1);

    until_written(&cluster, &mut import, 1, 0.5);
    let leads = |node| cluster.status(node).map_or(0, |status| status.leaders);
    let leader = [0, 2].into_iter().max_by_key(|node| leads(*node));
    let leader = leader.expect("two nodes");
    assert!(
        leads(leader) > 0,
        "the two that were not killed lead all shards"
    );
    cluster.pause(leader);
    thread::sleep(4 * ELECTION_TIMEOUT);
    cluster.resume(leader);
    until_written(&cluster, &mut import, leader, 0.6);

    let output = import.wait_with_output().expect("the import is our child");
    let talk = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{talk}");
    assert!(
        talk.contains(&format!("{RECORDS} records written")),
        "{talk}"
    );

    cluster.until_all_serve();
    for node in 0..cluster.len() {
        let rows = cluster.rows(node);
        // Not `assert_eq` on the whole: nobody can read that.
        assert_eq!(
            rows.len(),
            RECORDS,
            "through node {node}: none lost, none twice"
        );
        let wrong = rows
            .iter()
            .zip(&records)
            .find(|(row, record)| (&row.0, &row.1) != *record);
        assert_eq!(wrong, None, "through node {node}: each as it was written");
    }
    cluster.assert_replicas_agree();

    // And once as users take their data out.
    let export = cluster.folder().join("export.ndjson");
    let path = export.to_str().expect("temporary folders have plain names");
    let output = cluster.run(&["export", path]);
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let exported = std::fs::read_to_string(&export).expect("the export");
    assert_eq!(exported.lines().count(), RECORDS);
}
