//! A real cluster under fire: three to five processes of `flotilla` behind a network that can be cut, on disks that fail on
//! command and under clocks that jump, while clients ask for everything that the product has, and remember what they were
//! told.
//!
//! - [`kind`], [`fault`]: which faults there are, and how each strikes; [`harm`]: what they leave of a quorum.
//! - [`nemesis`]: which of them come, drawn from a seed, alone or two at once.
//! - [`clients`], [`readers`]: what is asked, by the workload that the simulator has too, and through the real client library.
//! - [`record`]: what came of it, for the judge of histories (`flotilla-history`) and for the timeline.
//! - [`probe`]: how long shards are out of service, and whether who leads no more still answers.
//! - [`run`]: one run, also one that is cut short ([`interrupt`]); [`report`], [`chart`] and [`times`]: what is said of it.
//! - [`wanted`]: what the environment asks for.
//!
//! `make chaos MINUTES=5 SEED=1` runs [`as_long_as_wanted`], with `FAULTS="pause,bridge"` of these kinds only, and `NODES=5`
//! with so many nodes. The seed repeats which faults come, for how long, and what clients draw, but no run of real processes
//! is the same twice; the histories that a run leaves can be judged again.

mod chart;
mod clients;
mod fault;
mod harm;
mod interrupt;
mod kind;
mod nemesis;
mod probe;
mod readers;
mod record;
mod report;
mod run;
mod times;
mod wanted;

use std::{env, time::Duration};

use kind::Kind;
use run::{Length, Order};
use wanted::Wanted;

/// What the environment wants, or an end that says what is wrong with it.
fn wanted() -> Wanted {
    let get = |name: &str| env::var(name).ok();
    Wanted::read(get).unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn a_cluster_under_fire_loses_nothing_and_answers_as_a_correct_store_does() {
    // One for each thing that breaks otherwise; all of them come in longer runs.
    const KINDS: [Kind; 10] = [
        Kind::Kill,
        Kind::Pause,
        Kind::RollingRestart,
        Kind::Isolate,
        Kind::Mute,
        Kind::StalledDisk,
        Kind::FailedSync,
        Kind::FullDisk,
        Kind::PowerLossAll,
        Kind::ClockStep,
    ];
    let wanted = wanted();
    let report = Order {
        seed: wanted.seed_or(1),
        nodes: wanted.nodes.unwrap_or(3),
        length: Length::Rounds(KINDS.len()),
        election_timeout: ("500ms", Duration::from_millis(500)),
        kinds: KINDS.to_vec(),
        name: "test",
    }
    .run();
    assert!(report.is_right(), "{}", report.text());
    let prompt = &report.prompt;
    assert!(
        prompt.times.len() > 0 && prompt.failed == 0,
        "{}",
        report.text()
    );
}

#[test]
#[ignore = "takes as long as is wanted: make chaos MINUTES=5"]
fn as_long_as_wanted() {
    let wanted = wanted();
    let seed = wanted.seed_or(fastrand::u64(..1_000_000));
    let report = Order {
        seed,
        nodes: wanted.nodes_or_drawn(seed),
        length: Length::For(wanted.length),
        // The default: what is promised is promised for it.
        election_timeout: ("1s", Duration::from_secs(1)),
        kinds: wanted.kinds,
        name: "report",
    }
    .run();
    assert!(report.is_right(), "{}", report.text());
    let missed: Vec<_> = report
        .bounds()
        .into_iter()
        .filter(|held| held.met == Some(false))
        .collect();
    assert!(missed.is_empty(), "bounds that were not met: {missed:#?}");
}
