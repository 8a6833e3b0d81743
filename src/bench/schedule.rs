//! When operations of an open loop are due: decided before the run and by nothing that happens in it, so that a target
//! that stalls cannot slow the load down and hide its own delay.

use std::time::Duration;

use rand::{SeedableRng as _, rngs::SmallRng};
use rand_distr::{Distribution as _, Exp1};

/// Arrivals of a Poisson process, as times since the start; endless.
#[derive(Debug)]
pub(crate) struct Schedule {
    random: SmallRng,
    /// Mean time between two arrivals, in seconds.
    gap: f64,
    at: f64,
}

impl Schedule {
    /// `rate` arrivals per second, which must be above 0. The same seed gives the same times.
    pub(crate) fn new(rate: f64, seed: u64) -> Self {
        Self {
            random: SmallRng::seed_from_u64(seed),
            gap: 1.0 / rate,
            at: 0.0,
        }
    }
}

impl Iterator for Schedule {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let gap: f64 = Exp1.sample(&mut self.random);
        self.at += gap * self.gap;
        Some(Duration::try_from_secs_f64(self.at).unwrap_or(Duration::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arrivals(rate: f64, seed: u64, seconds: f64) -> Vec<Duration> {
        Schedule::new(rate, seed)
            .take_while(|at| at.as_secs_f64() < seconds)
            .collect()
    }

    #[test]
    fn arrivals_have_the_rate_and_the_spread_of_poisson() {
        let all = arrivals(1000.0, 3, 100.0);
        assert!((99_000..101_000).contains(&all.len()), "{}", all.len());
        assert!(all.is_sorted());
        // Counts of a Poisson process vary as much as they are large.
        let mut counts = [0_u32; 1000];
        for at in &all {
            counts[(at.as_secs_f64() * 10.0) as usize] += 1;
        }
        let mean = all.len() as f64 / 1000.0;
        let variance = counts
            .iter()
            .map(|count| (f64::from(*count) - mean).powi(2))
            .sum::<f64>()
            / 1000.0;
        assert!(
            (0.85..1.15).contains(&(variance / mean)),
            "{variance} {mean}"
        );
    }

    #[test]
    fn the_same_seed_gives_the_same_times() {
        assert_eq!(arrivals(50.0, 1, 2.0), arrivals(50.0, 1, 2.0));
        assert_ne!(arrivals(50.0, 1, 2.0), arrivals(50.0, 2, 2.0));
    }
}
