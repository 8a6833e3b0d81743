//! Whatever bytes come in, nothing panics: from clients, from peers, out of a log, out of a database.
//!
//! Each module has one `run(data)`, which takes any bytes, and `seeds()`, from which interesting ones are made. The fuzz
//! targets in `fuzz/` have the same bodies; here they get a bounded number of seeded mutations in every ordinary test run.
//! `BYTES_RUNS` says how many; `BYTES_CORPUS=FOLDER` writes the seeds as corpora for the fuzzer.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod client;
mod entry;
mod feed;
mod keys;
mod peer;
mod rows;
mod shard;

use feed::feed;

/// Mutations of each target in an ordinary run.
const RUNS: u64 = 100_000;

#[test]
fn frames_of_clients() {
    feed("client", &client::seeds(), RUNS, client::run);
}

#[test]
fn frames_of_peers() {
    feed("peer", &peer::seeds(), RUNS, peer::run);
}

#[test]
fn entries_of_a_log() {
    feed("entry", &entry::seeds(), RUNS, entry::run);
}

#[test]
fn rows_of_a_database() {
    feed("rows", &rows::seeds(), RUNS, rows::run);
}

#[test]
fn keys_of_rows() {
    feed("keys", &keys::seeds(), RUNS, keys::run);
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
