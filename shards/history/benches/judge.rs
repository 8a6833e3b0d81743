//! What judging costs, on true histories of the store that the tests use. Throughput is in operations.
#![allow(
    missing_docs,
    reason = "criterion's macros make functions without them"
)]

#[path = "../tests/judge/script.rs"]
#[allow(dead_code, reason = "made for the tests")]
mod script;
#[path = "../tests/judge/store.rs"]
#[allow(dead_code, reason = "made for the tests")]
mod store;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use fastrand::Rng;
use flotilla_history::{History, Limits, check};
use std::hint::black_box;
use store::Mix;

/// Reads, writes, deletes and conditional writes, with unknown and failed ones among them.
const SEARCHED: Mix = Mix {
    pairs: 0,
    scans: 0,
    weak: 0,
    appends: 0,
    increments: 0,
    revisions: false,
    ..Mix::EVERYTHING
};

fn history(mix: Mix, operations: usize, keys: usize, clients: usize) -> History {
    let mix = Mix {
        operations,
        keys,
        clients,
        ..mix
    };
    store::run(&mut Rng::with_seed(1), mix).record()
}

fn judge(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("judge");
    group.sample_size(10);
    for (name, history) in [
        (
            "1 key, 10 clients, 2k reads and writes",
            history(Mix::REGISTERS, 2_000, 1, 10),
        ),
        (
            "1 key, 10 clients, 2k with deletes and cas",
            history(SEARCHED, 2_000, 1, 10),
        ),
        (
            "64 keys, 64 clients, 100k reads and writes",
            history(Mix::REGISTERS, 100_000, 64, 64),
        ),
        (
            "64 keys, 64 clients, 100k with deletes and cas",
            history(SEARCHED, 100_000, 64, 64),
        ),
        (
            "everything, 10 clients, 10k",
            history(Mix::EVERYTHING, 10_000, 16, 10),
        ),
    ] {
        group.throughput(Throughput::Elements(history.operations().len() as u64));
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let report = check(black_box(&history), &Limits::default());
                assert!(report.passed());
            });
        });
    }
    group.finish();
}

criterion_group!(benches, judge);
criterion_main!(benches);
