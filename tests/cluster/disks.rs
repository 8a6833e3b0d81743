//! Disks that fill up.

use std::{os::unix::fs::symlink, time::Duration};

use flotilla::client::Error;
use flotilla_faultfs::FaultFs;
use flotilla_proto::v1::Consistency;

use flotilla_harness::{Cluster, Plan, Split, ask, get, put, value};

const TIMEOUT: Duration = Duration::from_secs(30);

/// Between two writes: the node looks at its disk ten times a second, and the reserve must hold what is written
/// meanwhile.
const PAUSE: Duration = Duration::from_millis(5);

/// Writes until a write fails; returns how many did not.
fn fill(cluster: &Cluster) -> (usize, Error) {
    let (mut random, stream) = (fastrand::Rng::with_seed(1), cluster.stream(0));
    let mut write = |number| {
        // Nothing that a database could make smaller.
        let value: String = (0..512 << 10).map(|_| random.alphanumeric()).collect();
        let kind = put(&format!("key{number:05}"), &value);
        cluster.block_on(ask(&stream, kind, TIMEOUT))
    };
    for number in 0..1_000 {
        if let Err(error) = write(number) {
            return (number, error);
        }
        std::thread::sleep(PAUSE);
    }
    panic!("the disk is not small");
}

#[test]
fn a_nearly_full_disk_refuses_writes_and_says_so_and_reads_go_on() {
    let Some(disk) = FaultFs::mount_or_say_not_tested("a nearly full disk") else {
        return;
    };
    disk.set_capacity(Some(64 << 20));
    let plan = Plan {
        nodes: 1,
        split: Split::Even(1),
        settings: vec![
            ("storage.disk_reserve", "32MiB"),
            ("storage.log_memtable", "1MiB"),
            ("storage.state_memtable", "1MiB"),
            ("storage.replay_limit", "4MiB"),
        ],
        ..Plan::default()
    };
    symlink(disk.path(), plan.folder.path().join("node0")).expect("the folder is writable");
    let cluster = Cluster::start(plan);
    let (written, error) = fill(&cluster);
    assert!(written > 0, "{error}");
    let Error::Busy {
        message,
        retry_after,
    } = &error
    else {
        panic!("{error:?}");
    };
    assert!(
        message.contains("disk") && message.contains("storage.disk_reserve"),
        "{message}"
    );
    assert!(*retry_after >= Duration::from_secs(1), "{retry_after:?}");
    let found = cluster.ask(0, get("key00000", Consistency::Linearizable), TIMEOUT);
    assert!(found.map(value).expect("reads go on").is_some());
    disk.set_capacity(None);
    cluster.until("writes are taken again", |cluster| {
        cluster.ask(0, put("key", "value"), TIMEOUT).is_ok()
    });
}
