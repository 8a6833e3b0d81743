//! Where nodes and leaders are: nodes that move, folders that are somewhere else than they belong, the first leaders.

use std::{fs, path::Path, process::Command, time::Duration};

use flotilla_proto::v1::{Consistency, show_shard_request::Which};
use flotilla_shards::genesis::GENESIS_TERM;

use flotilla_harness::{Cluster, Plan, Split, address, end, get, put, value};

const TIMEOUT: Duration = Duration::from_secs(30);

#[test]
fn a_node_that_comes_back_at_another_address_is_found_by_nodes_and_clients() {
    let mut cluster = Cluster::start(Plan::default());
    cluster
        .ask(0, put("key", "before"), TIMEOUT)
        .expect("a quorum");
    let moved = 1;
    cluster.kill(moved);
    cluster.relocate(moved);
    cluster.start_node(moved);
    cluster.until_serves(moved);
    for asked in 0..cluster.len() {
        cluster.until("all know where it is", |cluster| {
            let nodes = cluster
                .block_on(cluster.admin(asked).list_nodes())
                .unwrap_or_default();
            let found = nodes.iter().find_map(|info| {
                let node = info.node.as_ref()?;
                (node.node_id == cluster.id(moved)).then(|| (node.address.clone(), info.reachable))
            });
            found == Some((cluster.address(moved), true))
        });
    }
    // It is needed: without it the first would be alone.
    cluster.kill(2);
    cluster
        .ask(0, put("key", "after"), TIMEOUT)
        .expect("two of three are a quorum");
    let client = cluster.client(Default::default());
    let addresses: Vec<String> = client
        .nodes()
        .into_iter()
        .map(|node| node.address)
        .collect();
    assert!(addresses.contains(&cluster.address(moved)), "{addresses:?}");
    let found = cluster.ask(moved, get("key", Consistency::Linearizable), TIMEOUT);
    assert_eq!(
        found.map(value).expect("a quorum").as_deref(),
        Some("after")
    );
}

#[test]
fn nodes_that_have_all_moved_find_each_other_by_what_they_are_told_to_join() {
    let mut cluster = Cluster::start(Plan::default());
    cluster
        .ask(0, put("key", "value"), TIMEOUT)
        .expect("a quorum");
    for node in 0..cluster.len() {
        cluster.kill(node);
        cluster.relocate(node);
    }
    for node in 0..cluster.len() {
        cluster.start_node(node);
    }
    cluster.until_all_serve();
    for node in 0..cluster.len() {
        let found = cluster.ask(node, get("key", Consistency::Linearizable), TIMEOUT);
        assert_eq!(
            found.map(value).expect("a quorum").as_deref(),
            Some("value")
        );
    }
}

/// One node that is a cluster.
fn alone() -> Plan {
    Plan {
        nodes: 1,
        split: Split::Even(2),
        ..Plan::default()
    }
}

#[test]
fn a_folder_of_another_cluster_is_refused_by_what_it_is_told_to_join() {
    let (mut ours, theirs) = (Cluster::start(alone()), Cluster::start(alone()));
    ours.kill(0);
    let (code, text) = end(ours.other_command(0, &[("--join", &theirs.peer_address(0))]));
    assert_eq!(code, Some(11), "{text}");
    assert!(
        text.contains("belongs to cluster") && text.contains(&theirs.peer_address(0)),
        "{text}"
    );
    // Nothing has changed in it.
    ours.start_node(0);
    ours.until_serves(0);
}

#[test]
fn a_copy_of_a_folder_whose_node_runs_is_refused() {
    let mut cluster = Cluster::start(alone());
    cluster.kill(0);
    let copy = cluster.folder().join("copy");
    let copied = Command::new("cp")
        .arg("-r")
        .arg(cluster.data(0))
        .arg(&copy)
        .status();
    assert!(copied.expect("cp").success());
    cluster.start_node(0);
    cluster.until_serves(0);
    let fresh = || address::fresh().to_string();
    let (listen, status) = (fresh(), fresh());
    let other = [
        (
            "--data",
            copy.to_str().expect("temporary folders have plain names"),
        ),
        ("--listen", &*listen),
        ("--advertise", &*listen),
        ("--status-listen", &*status),
    ];
    let (code, text) = end(cluster.other_command(0, &other));
    assert_eq!(code, Some(11), "{text}");
    assert!(
        text.contains("is a copy of the data folder of node 1"),
        "{text}"
    );
    let found = cluster.ask(0, get("key", Consistency::Linearizable), TIMEOUT);
    found.expect("the first one runs on");
}

/// Moves the data folder of a node out of the way and puts a copy of `from` there.
fn replace(cluster: &Cluster, node: usize, from: &Path, away: &Path) {
    fs::rename(cluster.data(node), away).expect("the folder can be moved");
    copy(from, &cluster.data(node));
}

fn copy(from: &Path, to: &Path) {
    let copied = Command::new("cp").arg("-r").args([from, to]).status();
    assert!(copied.expect("cp").success());
}

#[test]
fn a_folder_from_the_past_is_refused_and_what_was_acknowledged_stays() {
    let mut cluster = Cluster::start(Plan::default());
    let keys = |batch: u32| (0..20).map(move |number| format!("{batch}-{number}"));
    let write = |cluster: &Cluster, batch| {
        for key in keys(batch) {
            cluster
                .ask(0, put(&key, "kept"), TIMEOUT)
                .expect("a quorum");
        }
    };
    write(&cluster, 1);
    let back = 1;
    let (old, new) = (cluster.folder().join("old"), cluster.folder().join("new"));
    assert_eq!(cluster.terminate(back).code(), Some(0));
    copy(&cluster.data(back), &old);
    cluster.start_node(back);
    cluster.until_serves(back);
    write(&cluster, 2);
    // What the others know of it outlives them.
    for other in [0, 2] {
        cluster.terminate(other);
        cluster.start_node(other);
        cluster.until_serves(other);
    }
    cluster.kill(back);

    replace(&cluster, back, &old, &new);
    let (code, text) = end(cluster.node_command(back));
    assert_eq!(code, Some(11), "{text}");
    for part in [
        "its data folder went back in time",
        "put its newest data folder back",
    ] {
        assert!(text.contains(part), "{text:?} lacks {part:?}");
    }
    write(&cluster, 3);

    // Nobody is there to ask when it starts: it learns it when the others come.
    for other in [0, 2] {
        cluster.kill(other);
    }
    cluster.start_node(back);
    cluster.until("it answers, alone", |cluster| {
        cluster.status(back).is_some()
    });
    for other in [0, 2] {
        cluster.start_node(other);
    }
    assert_eq!(
        cluster.wait(back).code(),
        Some(11),
        "{}",
        cluster.logged(back)
    );
    assert!(
        cluster
            .logged(back)
            .contains("another node refuses this one: node")
    );
    cluster.until_serves(0);
    cluster.until_serves(2);

    fs::remove_dir_all(cluster.data(back)).expect("the copy can be removed");
    fs::rename(&new, cluster.data(back)).expect("the folder can be moved");
    cluster.start_node(back);
    cluster.until_all_serve();
    for key in (1..=3).flat_map(keys) {
        let found = cluster.ask(back, get(&key, Consistency::Linearizable), TIMEOUT);
        assert_eq!(found.map(value).expect("a quorum").as_deref(), Some("kept"));
    }
    cluster.assert_replicas_agree();
}

#[test]
fn the_first_leaders_of_a_new_cluster_are_spread_evenly() {
    let cluster = Cluster::start(Plan {
        split: Split::Even(63),
        // So long that none of them owes its office to a timeout.
        settings: vec![
            ("raft.election_timeout", "20s"),
            ("limits.request_timeout", "30s"),
        ],
        ..Plan::default()
    });
    let counts: Vec<u64> = (0..cluster.len())
        .map(|node| {
            let shards = cluster.shards(node);
            let leads = shards.iter().filter(|shard| {
                let local = shard.local.as_ref();
                local.is_some_and(|replica| replica.role == "leader")
            });
            leads.count() as u64
        })
        .collect();
    assert_eq!(counts.iter().sum::<u64>(), 1 + 63, "{counts:?}");
    let (least, most) = (counts.iter().min(), counts.iter().max());
    assert!(
        most.zip(least)
            .is_some_and(|(most, least)| most - least <= 1),
        "{counts:?}"
    );
    let term = cluster
        .replica(0, &Which::ShardId(1))
        .map(|replica| replica.term);
    assert_eq!(term, Some(GENESIS_TERM.0 + 1), "one election");
}

#[test]
fn a_node_without_a_replica_of_the_meta_shard_is_ready_and_serves_all_the_same() {
    // With three replicas of each shard, the last of four nodes has none of the first one, which is the meta shard.
    let cluster = Cluster::start(Plan {
        nodes: 4,
        ..Plan::default()
    });
    assert_eq!(cluster.replicas(), 3);
    for (node, key) in ["a", "k", "t", "\u{e9}"].into_iter().enumerate() {
        let answer = cluster.ask(node, put(key, "value"), TIMEOUT);
        answer.unwrap_or_else(|error| panic!("node {node}: {error}"));
    }
    for node in 0..cluster.len() {
        assert_eq!(cluster.rows(node).len(), 4, "node {node}");
    }
    cluster.assert_replicas_agree();
}
