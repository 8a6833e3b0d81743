//! Long histories that are true by construction are accepted.

use crate::store::{self, Mix};
use fastrand::Rng;
use flotilla_history::{Limits, check};

#[test]
fn what_a_linearizable_store_says_is_accepted() {
    let (mut by_zones, mut by_search) = (0, 0);
    for seed in 0..120 {
        let mut rng = Rng::with_seed(seed);
        let mix = match seed % 4 {
            0 => Mix::REGISTERS,
            1 => Mix {
                revisions: false,
                ..Mix::EVERYTHING
            },
            _ => Mix::EVERYTHING,
        };
        let history = store::run(&mut rng, mix).record();
        let report = check(&history, &Limits::default());
        assert!(report.passed(), "seed {seed}: {}", report.display(&history));
        by_zones += report.judged.by_zones;
        by_search += report.judged.by_search;
    }
    assert!(by_zones > 100 && by_search > 100, "{by_zones} {by_search}");
}

#[test]
fn long_histories_of_many_clients_are_judged_within_the_limits() {
    for seed in 0..4 {
        let mut rng = Rng::with_seed(seed);
        let mix = Mix {
            clients: 10,
            operations: 4_000,
            keys: 2,
            ..Mix::EVERYTHING
        };
        let history = store::run(&mut rng, mix).record();
        let report = check(&history, &Limits::default());
        assert!(report.passed(), "seed {seed}: {}", report.display(&history));
    }
}
