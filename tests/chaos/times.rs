//! Many measured times, and what is said of them.

use std::time::Duration;

/// Times in the order of their size.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Times(Vec<Duration>);

impl Times {
    pub(crate) fn add(&mut self, time: Duration) {
        let at = self.0.partition_point(|known| *known <= time);
        self.0.insert(at, time);
    }

    pub(crate) fn extend(&mut self, other: &Self) {
        for time in &other.0 {
            self.add(*time);
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// The smallest time that so many of a hundred don't exceed (the nearest rank); none if there is no time.
    pub(crate) fn percentile(&self, of_100: usize) -> Option<Duration> {
        let rank = (self.0.len() * of_100).div_ceil(100);
        self.0.get(rank.saturating_sub(1)).copied()
    }

    pub(crate) fn max(&self) -> Option<Duration> {
        self.0.last().copied()
    }
}

#[test]
fn percentiles_are_those_of_the_nearest_rank() {
    let millis = Duration::from_millis;
    let mut times = Times::default();
    assert_eq!((times.percentile(50), times.max()), (None, None));
    times.add(millis(7));
    for of_100 in [1, 50, 99, 100] {
        assert_eq!(times.percentile(of_100), Some(millis(7)));
    }
    let mut times = Times::default();
    for at in (1..=200).rev() {
        times.add(millis(at));
    }
    assert_eq!(times.percentile(50), Some(millis(100)));
    assert_eq!(times.percentile(99), Some(millis(198)));
    assert_eq!(times.percentile(100), Some(millis(200)));
    let mut more = Times::default();
    more.add(millis(500));
    more.extend(&times);
    assert_eq!((more.len(), more.max()), (201, Some(millis(500))));
    assert_eq!(more.percentile(99), Some(millis(199)));
}
