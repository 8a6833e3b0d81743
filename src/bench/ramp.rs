//! Finding the knee: the greatest rate at which a target still keeps up.
//!
//! Rates rise by a tenth until the target does less than 99 % of what is offered, or p99 exceeds 50 ms. A step that fails
//! is tried once more, so that one hiccup of the machine is not taken for the knee. If already the first rate is too much,
//! rates are halved until one is not.

use std::time::Duration;

use serde::Serialize;

/// How much the rate grows from step to step.
const STEP: f64 = 1.1;
/// The least part of the offered rate that must be achieved.
const ACHIEVED_MIN: f64 = 0.99;
/// The greatest p99.
const P99_MAX: Duration = Duration::from_millis(50);
/// Below so many operations per second there is no knee worth finding.
const RATE_MIN: f64 = 10.0;

/// What one step has shown.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Step {
    /// Operations per second that were asked for.
    pub(crate) offered: f64,
    /// Operations per second that ended well.
    pub(crate) achieved: f64,
    /// From the intended start.
    pub(crate) p99: Duration,
}

impl Step {
    /// Whether the target kept up.
    pub(crate) fn kept_up(&self) -> bool {
        self.achieved >= self.offered * ACHIEVED_MIN && self.p99 <= P99_MAX
    }
}

/// What follows from a step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Next {
    /// Try this rate.
    Rate(f64),
    /// The greatest rate that was kept up with; none if none was.
    Knee(Option<f64>),
}

/// A search for the knee.
#[derive(Debug)]
pub(crate) struct Ramp {
    rate: f64,
    knee: Option<f64>,
    failed_once: bool,
}

impl Ramp {
    /// Begins at `rate` operations per second.
    pub(crate) fn new(rate: f64) -> Self {
        Self {
            rate: rate.max(RATE_MIN),
            knee: None,
            failed_once: false,
        }
    }

    /// The rate of the next step.
    pub(crate) fn rate(&self) -> f64 {
        self.rate
    }

    /// Takes what a step at [`Ramp::rate`] has shown.
    pub(crate) fn step(&mut self, step: &Step) -> Next {
        if step.kept_up() {
            self.failed_once = false;
            self.knee = Some(self.rate);
            self.rate *= STEP;
            return Next::Rate(self.rate);
        }
        if !std::mem::replace(&mut self.failed_once, true) {
            return Next::Rate(self.rate);
        }
        if self.knee.is_some() || self.rate <= RATE_MIN {
            return Next::Knee(self.knee);
        }
        self.failed_once = false;
        self.rate = (self.rate / 2.0).max(RATE_MIN);
        Next::Rate(self.rate)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Searches on a target that can do `capacity`; the steps at these places fail whatever it can.
    fn search(begin: f64, capacity: f64, hiccups: &[usize]) -> (Option<f64>, usize) {
        let mut ramp = Ramp::new(begin);
        for place in 0.. {
            let rate = ramp.rate();
            let slow = rate > capacity || hiccups.contains(&place);
            let step = Step {
                offered: rate,
                achieved: if slow { rate * 0.9 } else { rate },
                p99: Duration::from_millis(1),
            };
            if let Next::Knee(knee) = ramp.step(&step) {
                return (knee, place + 1);
            }
        }
        unreachable!("a search ends");
    }

    #[test]
    fn the_knee_is_the_last_rate_that_was_kept_up_with() {
        let (knee, _) = search(1000.0, 5000.0, &[]);
        let knee = knee.expect("there is one");
        assert!((5000.0 / STEP..=5000.0).contains(&knee), "{knee}");
    }

    #[test]
    fn one_hiccup_is_not_the_knee() {
        assert_eq!(
            search(1000.0, 5000.0, &[3]).0,
            search(1000.0, 5000.0, &[]).0
        );
        assert!(search(1000.0, 5000.0, &[3, 4]).0 < Some(1400.0));
    }

    #[test]
    fn a_search_that_begins_too_high_comes_down() {
        let (knee, steps) = search(100_000.0, 5000.0, &[]);
        assert!(knee.is_some_and(|knee| (5000.0 / STEP..=5000.0).contains(&knee)));
        assert!(steps < 30, "{steps}");
    }

    #[test]
    fn a_target_that_does_nothing_has_none() {
        assert_eq!(search(1000.0, 0.0, &[]).0, None);
    }

    #[test]
    fn latency_alone_ends_the_ramp() {
        let step = |millis| Step {
            offered: 100.0,
            achieved: 100.0,
            p99: Duration::from_millis(millis),
        };
        assert!(step(50).kept_up());
        assert!(!step(51).kept_up());
    }
}
