//! Whatever bytes come in, nothing panics: from clients, from peers, out of a log, out of a database.
//!
//! Each module has one `run(data)`, which takes any bytes, and `seeds()`, from which interesting ones are made. The fuzz
//! targets in `fuzz/` have the same bodies; here they get a bounded number of seeded mutations in every ordinary test run.
//! `BYTES_RUNS` says how many; `BYTES_CORPUS=FOLDER` writes the seeds as corpora for the fuzzer.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(
    clippy::disallowed_methods,
    reason = "how much is run comes from outside"
)]

mod client;
mod entry;
mod keys;
mod mutate;
mod peer;
mod rows;
mod shard;

use fastrand::Rng;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Mutations of each target in an ordinary run.
const RUNS: u64 = 20_000;

fn variable(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(
        value
            .parse()
            .unwrap_or_else(|_| panic!("{name} is {value:?}, expected a number")),
    )
}

/// Runs a body on mutated seeds; says which bytes it was if it panics.
fn feed(name: &str, seeds: &[Vec<u8>], run: fn(&[u8])) {
    if let Ok(folder) = std::env::var("BYTES_CORPUS") {
        write_corpus(&folder, name, seeds);
    }
    seeds.iter().for_each(|seed| run(seed));
    for number in 0..variable("BYTES_RUNS").unwrap_or(RUNS) {
        let data = mutate::mutated(&mut Rng::with_seed(number), seeds);
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| run(&data))) {
            eprintln!("{name}, seed {number}: b\"{}\"", data.escape_ascii());
            std::panic::resume_unwind(panic);
        }
    }
}

fn write_corpus(folder: &str, name: &str, seeds: &[Vec<u8>]) {
    let folder = std::path::Path::new(folder).join(name);
    std::fs::create_dir_all(&folder).unwrap();
    for (at, seed) in seeds.iter().enumerate() {
        std::fs::write(folder.join(format!("{at:03}")), seed).unwrap();
    }
}

#[test]
fn frames_of_clients() {
    feed("client", &client::seeds(), client::run);
}

#[test]
fn frames_of_peers() {
    feed("peer", &peer::seeds(), peer::run);
}

#[test]
fn entries_of_a_log() {
    feed("entry", &entry::seeds(), entry::run);
}

#[test]
fn rows_of_a_database() {
    feed("rows", &rows::seeds(), rows::run);
}

#[test]
fn keys_of_rows() {
    feed("keys", &keys::seeds(), keys::run);
}

/// Found by reading: these counted past the end of their type, on whichever replica such a row had come to.
#[test]
fn counters_that_could_overflow_are_refused() {
    use flotilla_shards::kv::ShardState;
    let refusal = |change: fn(&mut ShardState)| {
        let mut state = shard::state();
        change(&mut state);
        ShardState::decode(state.encode()).unwrap_err().to_string()
    };
    let most = "18446744073709551615, expected at most 4611686018427387904";
    assert_eq!(
        refusal(|state| state.revision = u64::MAX),
        format!("stored shard state: revision is {most}")
    );
    assert_eq!(
        refusal(|state| state.next_session = u64::MAX),
        format!("stored shard state: next_session is {most}")
    );
    assert_eq!(
        refusal(|state| state.descriptor.epoch.membership = u64::MAX),
        "stored shard state: shard 2 has the epoch 18446744073709551615.1, expected at most 4611686018427387904 each"
    );
}
