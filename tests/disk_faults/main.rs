//! Real processes on disks that fail: three nodes, each with its data on a file system of `flotilla-faultfs`, which loses
//! power, fails, stalls, fills up and rots when a test says so, while real clients write.
//!
//! - [`power`]: disks that lose their power, and with it what was not synced.
//! - [`faults`]: disks that fail, stall and fill up.
//! - [`rot`]: disks that return something else than what was written.
//!
//! Moments and survivors are drawn anew in each run, from a seed that a failing test shows; `FLOTILLA_TEST_SEED` repeats it
//! as far as processes can be repeated. `FLOTILLA_TEST_ROUNDS=25` makes each test 25 times as long. Without FUSE each test
//! says on the terminal that it was not done, and fails if `CI=true`.

mod faults;
mod power;
mod rot;

use std::env;

use flotilla_faultfs::FaultFs;
use flotilla_harness::{Cluster, Plan, Split};

/// Small files, and flushes and cuts of the log every second, so that faults meet all of them.
const SETTINGS: [(&str, &str); 7] = [
    ("raft.election_timeout", "500ms"),
    ("raft.reserve_entries", "16"),
    ("raft.log_bytes", "1MiB"),
    ("storage.log_memtable", "1MiB"),
    ("storage.state_memtable", "1MiB"),
    ("storage.replay_limit", "4MiB"),
    ("storage.flush_age", "1s"),
];

/// How often to do something that is to be done so often in an ordinary run.
fn rounds(ordinary: usize) -> usize {
    let times = env::var("FLOTILLA_TEST_ROUNDS").ok();
    ordinary * times.map_or(1, |times| times.parse().expect("a number"))
}

/// Three nodes with so many shards, and settings beside the usual ones, each on a disk that fails on command. None, said
/// on stderr, if this machine lets nobody mount such disks.
fn start(test: &str, shards: u32, settings: &[(&'static str, &'static str)]) -> Option<Cluster> {
    let disks = (0..3).map(|_| FaultFs::mount_or_say_not_tested(test));
    Some(Cluster::start(Plan {
        split: Split::Even(shards),
        settings: [&SETTINGS, settings].concat(),
        disks: disks.collect::<Option<_>>()?,
        ..Plan::default()
    }))
}
