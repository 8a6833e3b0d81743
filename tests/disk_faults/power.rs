//! Disks that lose their power, and with it what was not synced: the only faults that see a reply that came before its sync.

use std::{
    collections::BTreeMap,
    thread,
    time::{Duration, Instant},
};

use flotilla_faultfs::{Loss, PowerLoss};
use flotilla_harness::{
    PATIENCE,
    load::{Acknowledged, Load, assert_kept},
    seeded,
};
use flotilla_proto::v1::show_shard_request::Which;

use crate::{rounds, start};

#[test]
fn all_nodes_lose_their_power_at_random_moments_and_nothing_acknowledged_is_lost() {
    let rounds = rounds(PowerLoss::ALL.len());
    let mut random = seeded();
    let Some(mut cluster) = start("power loss of all nodes", 8, &[]) else {
        return;
    };
    let mut acknowledged = Acknowledged::new();
    let mut losses: BTreeMap<usize, Loss> = BTreeMap::new();
    for round in 0..rounds {
        let kind = round % PowerLoss::ALL.len();
        let how = PowerLoss::ALL[kind];
        let load = Load::begin(&cluster, &round.to_string());
        thread::sleep(Duration::from_millis(random.u64(100..1200)));
        let mut order: Vec<usize> = (0..cluster.len()).collect();
        random.shuffle(&mut order);
        for node in &order {
            cluster.kill(*node);
        }
        for node in order {
            let loss = cluster.lose_power(node, how, random.u64(..));
            let sum = losses.entry(kind).or_default();
            sum.sectors_lost += loss.sectors_lost;
            sum.sectors_kept += loss.sectors_kept;
            sum.steps_lost += loss.steps_lost;
            sum.steps_kept += loss.steps_kept;
        }
        acknowledged.extend(load.end(&cluster));
        for node in 0..cluster.len() {
            cluster.start_node(node);
        }
        cluster.until_all_serve();
        let when = format!("round {round}, {how:?}");
        assert_kept(&cluster, round % cluster.len(), &acknowledged, &when);
    }
    let count = acknowledged.len();
    assert!(count > 50 * rounds, "too little was written: {count}");
    for (kind, loss) in losses {
        let how = PowerLoss::ALL[kind];
        eprintln!("{how:?}: {loss:?}");
        assert!(
            how == PowerLoss::KeepAll || loss.sectors_lost > 0,
            "{how:?} lost nothing: {loss:?}"
        );
        assert!(
            how == PowerLoss::DropAll || loss.sectors_kept > 0,
            "{how:?} kept nothing: {loss:?}"
        );
    }
    cluster.assert_replicas_agree();
}

#[test]
fn a_node_that_loses_its_power_in_the_middle_of_a_snapshot_gets_another() {
    // All but the one that loses nothing.
    const HOW: [PowerLoss; 3] = [
        PowerLoss::DropAll,
        PowerLoss::RandomSubset,
        PowerLoss::TornTail,
    ];
    let rounds = rounds(HOW.len());
    let mut random = seeded();
    let Some(mut cluster) = start("power loss during a snapshot", 2, &[]) else {
        return;
    };
    let key = "v";
    let which = Which::Key(key.into());
    let follower = (cluster.leader(key, &[]) + 1) % cluster.len();
    let mut acknowledged = Acknowledged::new();
    let mut during = 0;
    for round in 0..rounds {
        if cluster.runs(follower) {
            cluster.kill(follower);
        }
        let leader = cluster.leader(key, &[follower]);
        let behind = cluster
            .replica(leader, &which)
            .expect("it answers")
            .last_index;
        let load = Load::begin(&cluster, &round.to_string());
        cluster.until(
            "the leader's log begins behind the follower's end",
            |cluster| {
                let replica = cluster.replica(leader, &which);
                replica.is_some_and(|replica| replica.compacted > behind)
            },
        );
        acknowledged.extend(load.end(&cluster));
        cluster.start_node(follower);
        // Until files of a snapshot are there: being written, complete, or about to be taken over.
        let begin = Instant::now();
        while begin.elapsed() < PATIENCE {
            let files = cluster.disk(follower).files();
            if files.iter().any(|(path, _)| path.starts_with("snapshots")) {
                during += 1;
                break;
            }
            if cluster.serves(follower) {
                break;
            }
            thread::sleep(Duration::from_millis(1));
        }
        thread::sleep(Duration::from_micros(random.u64(..30_000)));
        cluster.lose_power(follower, HOW[round % HOW.len()], random.u64(..));
    }
    assert!(
        during > rounds / 3,
        "a snapshot was under way in {during} of {rounds} rounds only"
    );
    cluster.start_node(follower);
    cluster.until_all_serve();
    assert_kept(&cluster, follower, &acknowledged, "at the end");
    cluster.assert_replicas_agree();
}
