//! What a histogram has counted between two moments, for whoever tells people without a Prometheus at hand: one of this
//! process, or one that was read from the page of another.

use prometheus::{Histogram, core::Metric as _};

/// What histograms with the same buckets have counted.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Distribution {
    /// Upper bounds of the buckets and what each has counted, those below included.
    buckets: Vec<(f64, u64)>,
    count: u64,
    sum: f64,
}

impl Distribution {
    /// Of a histogram up to now.
    #[must_use]
    pub fn of(histogram: &Histogram) -> Self {
        let metric = histogram.metric();
        let histogram = metric.get_histogram();
        let buckets = histogram.get_bucket().iter();
        Self {
            buckets: buckets
                .map(|bucket| (bucket.upper_bound(), bucket.cumulative_count()))
                .collect(),
            count: histogram.get_sample_count(),
            sum: histogram.get_sample_sum(),
        }
    }

    /// As a page of metrics tells it: upper bounds, ascending, with what each bucket has counted, those below included; the
    /// last may be infinite.
    #[must_use]
    pub fn from_buckets(mut buckets: Vec<(f64, u64)>, sum: f64) -> Self {
        let count = buckets.last().map_or(0, |(_, count)| *count);
        buckets.retain(|(bound, _)| bound.is_finite());
        Self {
            buckets,
            count,
            sum,
        }
    }

    /// Of several histograms with the same buckets together.
    #[must_use]
    pub fn of_all<'a>(histograms: impl IntoIterator<Item = &'a Histogram>) -> Self {
        let parts = histograms.into_iter().map(Self::of);
        parts
            .reduce(|all, part| all.plus(&part))
            .unwrap_or_default()
    }

    /// With what another one with the same buckets has counted.
    #[must_use]
    pub fn plus(mut self, other: &Self) -> Self {
        for (bucket, other) in self.buckets.iter_mut().zip(&other.buckets) {
            bucket.1 += other.1;
        }
        self.count += other.count;
        self.sum += other.sum;
        self
    }

    /// What was counted since an earlier moment.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        let earlier = before.buckets.iter().map(|bucket| bucket.1);
        let earlier = earlier.chain(std::iter::repeat(0));
        let buckets = self.buckets.iter().zip(earlier);
        Self {
            buckets: buckets
                .map(|(bucket, earlier)| (bucket.0, bucket.1.saturating_sub(earlier)))
                .collect(),
            count: self.count.saturating_sub(before.count),
            sum: self.sum - before.sum,
        }
    }

    /// How much was counted.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The sum of all values.
    #[must_use]
    pub fn sum(&self) -> f64 {
        self.sum
    }

    /// A value that this part of all values does not exceed, as far as buckets can tell: within one it is taken to be spread
    /// evenly, and above the last one it is its bound. Nothing if nothing was counted.
    #[must_use]
    pub fn quantile(&self, part: f64) -> Option<f64> {
        if self.count == 0 {
            return None;
        }
        let rank = part * self.count as f64;
        let (mut low, mut below) = (0.0, 0);
        for &(bound, count) in &self.buckets {
            if count as f64 >= rank && count > below {
                let within = (rank - below as f64) / (count - below) as f64;
                return Some(low + (bound - low) * within.clamp(0.0, 1.0));
            }
            (low, below) = (bound, count);
        }
        Some(low)
    }
}

#[cfg(test)]
mod tests {
    use prometheus::HistogramOpts;

    use super::*;

    fn histogram() -> Histogram {
        let options = HistogramOpts::new("name", "help").buckets(vec![1.0, 2.0, 4.0]);
        Histogram::with_opts(options).expect("valid")
    }

    #[test]
    fn only_what_came_in_between_counts() {
        let (one, other) = (histogram(), histogram());
        one.observe(0.5);
        let before = Distribution::of_all([&one, &other]);
        assert_eq!(before.since(&before).quantile(0.5), None);
        for value in [1.5, 1.5, 3.0] {
            one.observe(value);
        }
        other.observe(9.0);
        let between = Distribution::of_all([&one, &other]).since(&before);
        assert_eq!((between.count(), between.sum()), (4, 15.0));
        assert_eq!(between.quantile(0.25), Some(1.5));
        assert_eq!(between.quantile(0.5), Some(2.0));
        assert_eq!(between.quantile(0.75), Some(4.0));
        assert_eq!(between.quantile(1.0), Some(4.0), "the last bound");
    }

    #[test]
    fn a_page_and_its_histogram_tell_the_same() {
        let histogram = histogram();
        for value in [0.5, 1.5, 9.0] {
            histogram.observe(value);
        }
        let buckets = vec![(1.0, 1), (2.0, 2), (4.0, 2), (f64::INFINITY, 3)];
        let page = Distribution::from_buckets(buckets, 11.0);
        assert_eq!(page, Distribution::of(&histogram));
        assert_eq!(page.clone().plus(&page).since(&page), page);
    }

    #[test]
    fn what_was_never_counted_has_no_quantile() {
        assert_eq!(Distribution::of(&histogram()).quantile(0.99), None);
        assert_eq!(Distribution::of_all([]).quantile(0.99), None);
    }
}
