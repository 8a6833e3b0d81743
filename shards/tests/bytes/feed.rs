//! Runs a body on mutated seeds, a bounded number of times. Shared by the tests of all packages that decode bytes.
//!
//! `BYTES_RUNS` says how many times instead; `BYTES_CORPUS=FOLDER` writes the seeds as corpora for the fuzzer.
#![allow(
    clippy::disallowed_methods,
    reason = "how much is run comes from outside"
)]

use fastrand::Rng;
use std::panic::{AssertUnwindSafe, catch_unwind};

#[path = "mutate.rs"]
mod mutate;

fn variable(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(
        value
            .parse()
            .unwrap_or_else(|_| panic!("{name} is {value:?}, expected a number")),
    )
}

/// Runs `body` on the seeds, and on `runs` mutations of them; says which bytes it was if it panics.
pub(crate) fn feed(name: &str, seeds: &[Vec<u8>], runs: u64, body: impl Fn(&[u8])) {
    if let Ok(folder) = std::env::var("BYTES_CORPUS") {
        write_corpus(&folder, name, seeds);
    }
    let run = |what: &str, data: &[u8]| {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| body(data))) {
            eprintln!("{name}, {what}: b\"{}\"", data.escape_ascii());
            std::panic::resume_unwind(panic);
        }
    };
    for (at, seed) in seeds.iter().enumerate() {
        run(&format!("corpus {at}"), seed);
    }
    for number in 0..variable("BYTES_RUNS").unwrap_or(runs) {
        let data = mutate::mutated(&mut Rng::with_seed(number), seeds);
        run(&format!("seed {number}"), &data);
    }
}

fn write_corpus(folder: &str, name: &str, seeds: &[Vec<u8>]) {
    let folder = std::path::Path::new(folder).join(name);
    std::fs::create_dir_all(&folder).expect("the folder can be made");
    for (at, seed) in seeds.iter().enumerate() {
        std::fs::write(folder.join(format!("{at:03}")), seed).expect("the folder can be written");
    }
}
