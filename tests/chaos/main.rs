//! A real cluster under fire: three processes of `flotilla` behind a network that can be cut, on disks that fail on
//! command, while clients ask for everything that the product has, and remember what they were told.
//!
//! - [`nemesis`]: which faults there are, drawn from a seed.
//! - [`clients`]: what is asked, by the workload that the simulator has too, and through the real client library.
//! - [`record`]: what came of it, for the judge of histories (`flotilla-history`) and for the timeline.
//! - [`probe`]: how long shards are out of service.
//! - [`run`]: one run; [`report`], [`chart`] and [`times`]: what is said of it.
//!
//! `make chaos MINUTES=5 SEED=1` runs [`as_long_as_wanted`], with `FAULTS="pause,bridge"` of these kinds only. The seed
//! repeats which faults come, for how long, and what clients draw, but no run of real processes is the same twice; the
//! history that a run leaves can be judged again.

mod chart;
mod clients;
mod nemesis;
mod probe;
mod record;
mod report;
mod run;
mod times;

use std::{env, time::Duration};

use nemesis::Kind;
use run::Order;

/// The seed of the environment or this one; it is shown.
fn seed(otherwise: u64) -> u64 {
    let given = env::var("SEED").ok().filter(|seed| !seed.is_empty());
    let seed = given.map_or(otherwise, |seed| seed.parse().expect("SEED is a number"));
    eprintln!("SEED={seed}");
    seed
}

#[test]
fn a_cluster_under_fire_loses_nothing_and_answers_as_a_correct_store_does() {
    let report = Order {
        seed: seed(1),
        length: Duration::from_secs(20),
        election_timeout: ("500ms", Duration::from_millis(500)),
        kinds: Kind::ALL.to_vec(),
        name: "test",
    }
    .run();
    assert!(report.is_right(), "{}", report.text());
}

/// The kinds of faults that the environment wants, all by default.
fn kinds() -> Vec<Kind> {
    let wanted = env::var("FAULTS").unwrap_or_default();
    let names: Vec<&str> = wanted.split(',').filter(|name| !name.is_empty()).collect();
    if names.is_empty() {
        return Kind::ALL.to_vec();
    }
    let kind = |name: &&str| {
        let kind = Kind::ALL.into_iter().find(|kind| kind.name() == *name);
        let known = Kind::ALL.map(Kind::name);
        kind.unwrap_or_else(|| panic!("FAULTS: no fault is called \"{name}\"; there are {known:?}"))
    };
    names.iter().map(kind).collect()
}

#[test]
#[ignore = "takes as long as is wanted: make chaos MINUTES=5"]
fn as_long_as_wanted() {
    let minutes = env::var("MINUTES").ok();
    let minutes: f64 = minutes.map_or(5.0, |text| text.parse().expect("MINUTES is a number"));
    let report = Order {
        seed: seed(fastrand::u64(..1_000_000)),
        length: Duration::from_secs_f64(60.0 * minutes),
        // The default: what is promised is promised for it.
        election_timeout: ("1s", Duration::from_secs(1)),
        kinds: kinds(),
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
