//! Random clusters of one to seven replicas under everything that may happen to them: lost, repeated, reordered and
//! delayed messages, partitions, crashes that lose unsynced writes or tear them, restarts, membership changes,
//! snapshots and compaction. After every step the five safety properties of Raft are checked, and what Flotilla
//! promises beyond them (see `checks`); after the storm the group has to work again.
//!
//! A seed decides everything. `CLUSTER_SEEDS` says how many are run, `CLUSTER_SEED` runs a single one and prints what
//! happens.

#![allow(
    clippy::disallowed_methods,
    reason = "the seeds to run come from outside"
)]

mod checks;
mod disk;
mod network;
mod replica;
mod settings;
mod sim;
mod trace;

use sim::{Coverage, Sim};
use std::env;
use std::process::Command;
use trace::Trace;

/// Seeds of an ordinary run: about a minute on two cores in the development profile.
const SEEDS: u64 = 1_200;
/// Tests that share the seeds, so that they run side by side.
const PARTS: u64 = 4;

fn variable(name: &str) -> Option<u64> {
    let value = env::var(name).ok()?;
    Some(
        value
            .parse()
            .unwrap_or_else(|_| panic!("{name} is {value:?}, expected a number")),
    )
}

/// Says how to repeat a run that panics.
struct Replay(u64);

impl Drop for Replay {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!(
                "seed {0} failed; to see it again: CLUSTER_SEED={0} cargo test -p flotilla-shards --test cluster \
                 random_clusters -- --nocapture",
                self.0
            );
        }
    }
}

fn run(seed: u64, verbose: bool) -> (u64, Coverage) {
    let _replay = Replay(seed);
    Sim::new(seed, Trace::new(verbose)).run()
}

fn run_part(part: u64) {
    if let Some(seed) = variable("CLUSTER_SEED") {
        if seed % PARTS == part {
            let (hash, coverage) = run(seed, true);
            println!("{coverage:?}\nseed {seed} trace {hash:016x}");
        }
        return;
    }
    let seeds = variable("CLUSTER_SEEDS").unwrap_or(SEEDS);
    let mut total = Coverage::default();
    for seed in (part..seeds).step_by(PARTS as usize) {
        total.add(&run(seed, false).1);
    }
    println!("{total:?}");
    // Chaos in which nothing happens proves nothing.
    if seeds >= SEEDS {
        total.assert_complete();
    }
}

#[test]
fn random_clusters_0() {
    run_part(0);
}

#[test]
fn random_clusters_1() {
    run_part(1);
}

#[test]
fn random_clusters_2() {
    run_part(2);
}

#[test]
fn random_clusters_3() {
    run_part(3);
}

#[test]
fn a_seed_repeats_a_run_to_the_byte() {
    for seed in 0..12 {
        assert_eq!(run(seed, false).0, run(seed, false).0, "seed {seed}");
    }
}

#[test]
fn a_seed_repeats_a_run_in_another_process() {
    for seed in [3, 4] {
        let (hash, _) = run(seed, false);
        let output = Command::new(env::current_exe().expect("a test has a path"))
            .args([
                &format!("random_clusters_{}", seed % PARTS),
                "--exact",
                "--nocapture",
            ])
            .env("CLUSTER_SEED", seed.to_string())
            .output()
            .expect("the test can start itself");
        let output = String::from_utf8_lossy(&output.stdout);
        let expected = format!("seed {seed} trace {hash:016x}");
        assert!(
            output.contains(&expected),
            "expected {expected:?} at the end of:\n{output}"
        );
    }
}
