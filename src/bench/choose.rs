//! Which key is next: the distributions of YCSB, and one that heats up a single shard.

use std::{
    collections::BTreeSet,
    sync::atomic::{AtomicU64, Ordering},
};

use clap::ValueEnum;
use parking_lot::Mutex;
use rand::{RngExt as _, rngs::SmallRng};
use rand_distr::{Distribution as _, Zipf};

/// How often keys are touched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Distribution {
    /// All alike
    Uniform,
    /// A few very often (Zipf, exponent 0.99), scattered over all keys
    Zipf,
    /// The newest most often
    Latest,
    /// 90 % in one shard, the others alike
    HotShard,
}

impl Distribution {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Uniform => "uniform",
            Self::Zipf => "zipf",
            Self::Latest => "latest",
            Self::HotShard => "hot-shard",
        }
    }
}

/// YCSB's exponent.
const EXPONENT: f64 = 0.99;
/// Of a hundred operations, those that [`Distribution::HotShard`] sends to the first shard.
const HOT_PERCENT: u32 = 90;

/// Draws numbers of keys.
#[derive(Debug, Clone)]
pub(crate) struct Chooser {
    distribution: Distribution,
    shards: u64,
    /// Over so many keys; made anew when their number has changed.
    zipf: (u64, Zipf<f64>),
}

fn zipf(count: u64) -> (u64, Zipf<f64>) {
    let count = count.max(1);
    let zipf = Zipf::new(count as f64, EXPONENT).expect("the count is above 0, the exponent ours");
    (count, zipf)
}

impl Chooser {
    pub(crate) fn new(distribution: Distribution, shards: u64) -> Self {
        Self {
            distribution,
            shards: shards.max(1),
            zipf: zipf(1),
        }
    }

    /// A number below `count`, which is above 0 and may grow from draw to draw.
    pub(crate) fn choose(&mut self, count: u64, random: &mut SmallRng) -> u64 {
        match self.distribution {
            Distribution::Uniform => random.random_range(0..count),
            Distribution::Zipf => scatter(self.rank(count, random)) % count,
            Distribution::Latest => count - 1 - self.rank(count, random),
            Distribution::HotShard => {
                let number = random.random_range(0..count);
                if random.random_range(0..100) < HOT_PERCENT {
                    number - number % self.shards
                } else {
                    number
                }
            }
        }
    }

    /// A rank below `count`, 0 the most frequent.
    fn rank(&mut self, count: u64, random: &mut SmallRng) -> u64 {
        if self.zipf.0 != count {
            self.zipf = zipf(count);
        }
        // Samples begin at 1; rounding may carry the last one too far.
        (self.zipf.1.sample(random) as u64)
            .clamp(1, self.zipf.0)
            .saturating_sub(1)
    }
}

/// FNV-1a of the eight bytes: what YCSB scatters popular keys with.
fn scatter(number: u64) -> u64 {
    number
        .to_le_bytes()
        .into_iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        })
}

/// Keys that are inserted during a run: numbers for new ones, and how many are there.
#[derive(Debug)]
pub(crate) struct Inserts {
    next: AtomicU64,
    /// All numbers below are there, unless their insert failed.
    there: AtomicU64,
    /// Inserts that ended before one with a lower number.
    ahead: Mutex<BTreeSet<u64>>,
}

impl Inserts {
    /// `count` keys are there.
    pub(crate) fn new(count: u64) -> Self {
        Self {
            next: AtomicU64::new(count),
            there: AtomicU64::new(count),
            ahead: Mutex::default(),
        }
    }

    /// Keys that are there: their numbers are below.
    pub(crate) fn there(&self) -> u64 {
        self.there.load(Ordering::Relaxed)
    }

    /// The number of a new key.
    pub(crate) fn begin(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// The insert has ended, well or not.
    pub(crate) fn end(&self, number: u64) {
        let mut ahead = self.ahead.lock();
        ahead.insert(number);
        let mut there = self.there();
        while ahead.remove(&there) {
            there += 1;
        }
        self.there.store(there, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;

    use super::*;

    const KEYS: u64 = 1000;
    const DRAWS: usize = 200_000;

    fn counts(distribution: Distribution) -> Vec<usize> {
        let mut chooser = Chooser::new(distribution, 10);
        let mut random = SmallRng::seed_from_u64(7);
        let mut counts = vec![0; usize::try_from(KEYS).expect("small")];
        for _ in 0..DRAWS {
            counts[usize::try_from(chooser.choose(KEYS, &mut random)).expect("small")] += 1;
        }
        counts
    }

    fn share(count: usize) -> f64 {
        count as f64 / DRAWS as f64
    }

    #[test]
    fn uniform_leaves_nobody_out() {
        let counts = counts(Distribution::Uniform);
        assert!(counts.iter().all(|count| (120..300).contains(count)));
    }

    #[test]
    fn zipf_has_the_weights_of_its_law_on_scattered_keys() {
        let mut sorted = counts(Distribution::Zipf);
        let favourite = usize::try_from(scatter(0) % KEYS).expect("small");
        let harmonic: f64 = (1..=KEYS).map(|rank| (rank as f64).powf(-EXPONENT)).sum();
        assert!((share(sorted[favourite]) - 1.0 / harmonic).abs() < 0.01);
        sorted.sort_unstable_by(|a, b| b.cmp(a));
        let second = 2_f64.powf(-EXPONENT) / harmonic;
        assert!((share(sorted[1]) - second).abs() < 0.01);
        assert_ne!(favourite, 0, "the favourite is not the first key");
    }

    #[test]
    fn latest_prefers_the_newest() {
        let counts = counts(Distribution::Latest);
        assert_eq!(counts.iter().max(), counts.last());
        let newest: usize = counts.iter().rev().take(100).sum();
        assert!(share(newest) > 0.6, "{newest}");
    }

    #[test]
    fn a_hot_shard_gets_nine_of_ten() {
        let counts = counts(Distribution::HotShard);
        let hot: usize = counts.iter().step_by(10).sum();
        assert!((share(hot) - 0.91).abs() < 0.01, "{hot}");
    }

    #[test]
    fn one_key_is_enough_for_all() {
        let mut random = SmallRng::seed_from_u64(7);
        for distribution in Distribution::value_variants() {
            let mut chooser = Chooser::new(*distribution, 3);
            assert!((0..100).all(|_| chooser.choose(1, &mut random) == 0));
        }
    }

    #[test]
    fn keys_are_there_once_all_before_them_are() {
        let inserts = Inserts::new(5);
        let numbers = [inserts.begin(), inserts.begin(), inserts.begin()];
        assert_eq!(numbers, [5, 6, 7]);
        inserts.end(6);
        assert_eq!(inserts.there(), 5);
        inserts.end(5);
        assert_eq!(inserts.there(), 7);
        inserts.end(7);
        assert_eq!(inserts.there(), 8);
    }
}
