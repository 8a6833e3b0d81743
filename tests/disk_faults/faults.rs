//! Disks that fail, stall and fill up. A node never acknowledges what it can't be sure of: it ends, with a code of its own,
//! and the others go on.

use std::time::Instant;

use flotilla_faultfs::{PowerLoss, Stalled};
use flotilla_harness::load::{Acknowledged, Load, assert_kept};

use crate::start;

const DISK_FULL: i32 = 13;
const SYNC_FAILED: i32 = 14;
const STALLED: i32 = 17;

#[test]
fn a_node_whose_sync_fails_ends_and_has_acknowledged_nothing_that_it_lost() {
    let Some(mut cluster) = start("a sync that fails", 8, &[]) else {
        return;
    };
    let mut acknowledged = Acknowledged::new();
    for (round, (folder, after)) in [("log", 0), ("log", 40), ("state", 0)]
        .into_iter()
        .enumerate()
    {
        // Without the third node, each write needs the one whose sync will fail.
        let (other, faulty, third) = (round % 3, (round + 1) % 3, (round + 2) % 3);
        cluster.kill(third);
        let load = Load::begin(&cluster, &round.to_string());
        load.until_more(&cluster, 50);
        let failed = cluster.disk(faulty).counters().failed_syncs;
        cluster.disk(faulty).fail_sync(after, folder);
        let status = cluster.wait(faulty);
        let log = cluster.logged(faulty);
        assert_eq!(status.code(), Some(SYNC_FAILED), "{folder}: {log}");
        assert!(
            log.contains("error: storage::") && log.contains("Input/output error"),
            "{log}"
        );
        assert_eq!(cluster.disk(faulty).counters().failed_syncs, failed + 1);
        acknowledged.extend(load.end(&cluster));
        // What was acknowledged must be on the disk of the faulty one, since the third has nothing of it.
        cluster.kill(other);
        let loss = cluster.lose_power(faulty, PowerLoss::KeepAll, 0);
        eprintln!("{folder}: {loss:?}");
        cluster.start_node(faulty);
        cluster.start_node(third);
        cluster.until_serves(faulty);
        assert_kept(&cluster, third, &acknowledged, folder);
        cluster.start_node(other);
        cluster.until_all_serve();
    }
    cluster.assert_replicas_agree();
}

#[test]
fn a_node_whose_disk_is_full_ends_and_returns_when_there_is_space() {
    let Some(mut cluster) = start("a full disk", 8, &[]) else {
        return;
    };
    let load = Load::begin(&cluster, "load");
    load.until_more(&cluster, 50);
    let full = cluster.leader("key", &[]);
    cluster.disk(full).fill_up();
    let status = cluster.wait(full);
    let log = cluster.logged(full);
    assert_eq!(status.code(), Some(DISK_FULL), "{log}");
    assert!(log.contains("No space left on device"), "{log}");
    assert!(cluster.disk(full).counters().full_calls > 0);
    load.until_more(&cluster, 100);
    // On a disk that is still full it says so again.
    cluster.start_node(full);
    let status = cluster.wait(full);
    assert_eq!(status.code(), Some(DISK_FULL), "{}", cluster.logged(full));
    let acknowledged = load.end(&cluster);
    cluster.disk(full).set_capacity(None);
    cluster.start_node(full);
    cluster.until_all_serve();
    assert_kept(&cluster, full, &acknowledged, "with space again");
    cluster.assert_replicas_agree();
}

#[test]
fn leaderships_leave_a_node_whose_disk_stalls() {
    let Some(cluster) = start("a stalled disk", 8, &[]) else {
        return;
    };
    let load = Load::begin(&cluster, "load");
    load.until_more(&cluster, 50);
    let stalled = cluster.leader("key", &[]);
    cluster.disk(stalled).stall(Stalled::Syncs, None);
    let begin = Instant::now();
    cluster.leader("key", &[stalled]);
    let time = begin.elapsed();
    cluster.until("all leaderships have left it", |cluster| {
        let log = cluster.logged(stalled);
        let status = cluster.status(stalled).expect("it runs");
        status.leaders == 0 && log.contains("the disk has stalled: handing leaderships over")
    });
    eprintln!(
        "led by another node after {time:?}, all shards after {:?}",
        begin.elapsed()
    );
    load.until_more(&cluster, 200);
    assert!(cluster.disk(stalled).counters().stalled_calls > 0);
    // It was a matter of seconds: the node goes on as if nothing had been.
    cluster.disk(stalled).heal();
    let acknowledged = load.end(&cluster);
    cluster.until_all_serve();
    assert_kept(&cluster, stalled, &acknowledged, "after the stall");
    cluster.assert_replicas_agree();
}

#[test]
fn a_node_whose_disk_never_answers_ends() {
    let settings = [("storage.stall_limit", "2s")];
    let Some(mut cluster) = start("a dead disk", 8, &settings) else {
        return;
    };
    let load = Load::begin(&cluster, "load");
    load.until_more(&cluster, 50);
    let dead = cluster.leader("key", &[]);
    cluster.disk(dead).stall(Stalled::Changes, None);
    let begin = Instant::now();
    cluster.until("the node gives up", |cluster| {
        let log = cluster.logged(dead);
        log.contains("error: node::stall") && log.contains("more than storage.stall_limit = 2s")
    });
    eprintln!("it gave up after {:?}", begin.elapsed());
    load.until_more(&cluster, 100);
    // The system lets a process go when its last call of the disk has returned.
    cluster.disk(dead).heal();
    let status = cluster.wait(dead);
    assert_eq!(status.code(), Some(STALLED), "{}", cluster.logged(dead));
    let acknowledged = load.end(&cluster);
    cluster.start_node(dead);
    cluster.until_all_serve();
    assert_kept(&cluster, dead, &acknowledged, "with a disk again");
    cluster.assert_replicas_agree();
}
