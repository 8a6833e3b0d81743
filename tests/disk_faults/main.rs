//! Real processes on disks that fail: three nodes, each with its data on a file system of `flotilla-faultfs`, which loses
//! power, fails, stalls, fills up and rots when a test says so, while real clients write.
//!
//! - [`cluster`]: the nodes of a test, and their disks.
//! - [`load`]: clients that write, and the check that nothing acknowledged is lost.
//! - [`power`]: disks that lose their power, and with it what was not synced.
//! - [`faults`]: disks that fail, stall and fill up.
//! - [`rot`]: disks that return something else than what was written.
//!
//! Moments and survivors are drawn anew in each run, from a seed that a failing test shows; `FLOTILLA_TEST_SEED` repeats it
//! as far as processes can be repeated. `FLOTILLA_TEST_ROUNDS=25` makes each test 25 times as long. Without FUSE each test
//! says on the terminal that it was not done, and fails if `CI=true`.

mod cluster;
mod faults;
mod load;
mod power;
mod rot;
