//! Surveys the replicas of the node now and then: sums for the metrics, rates for whoever looks for hot shards, and what was
//! asked of which keys for the heat map.
//!
//! The engine counts what is asked of each replica and tells nobody; here the counts of two looks become rates. A look
//! costs as much as there are replicas that something happened to. All nodes look at the same moments, so that what they
//! have seen can be put side by side.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use flotilla_metrics::{Label as _, Metrics, Rank};
use flotilla_shards::{
    engine::{Load, Totals},
    ids::ShardId,
};
use parking_lot::RwLock;
use tokio::time::Instant;

use super::{
    Shared,
    engine::Running,
    vitals::{Figures, Watch},
};
use crate::{
    clock::wall_ms,
    console::heat::{Cell, Counts, FINE_MS, Heat, slot_ended_at},
};

/// A look that comes later than this many others after the one before is noted for so many only.
const SLOTS_MAX: u64 = 12;

/// What was asked of a replica per second, between the last two looks.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Rate {
    pub(super) reads: f64,
    pub(super) writes: f64,
    pub(super) written_bytes: f64,
}

impl Rate {
    /// What hot shards are ranked by.
    pub(super) fn requests(&self) -> f64 {
        self.reads + self.writes
    }

    fn between(before: Load, after: Load, seconds: f64) -> Self {
        // A replica that was opened anew in between counts from zero.
        let rate = |before: u64, after: u64| after.saturating_sub(before) as f64 / seconds;
        Self {
            reads: rate(before.reads, after.reads),
            writes: rate(before.writes, after.writes),
            written_bytes: rate(before.written_bytes, after.written_bytes),
        }
    }
}

/// The rates of the shards that were asked anything lately.
pub(super) type Rates = BTreeMap<ShardId, Rate>;

/// What the newest look has found, and what the ones before have left.
#[derive(Default)]
pub(super) struct Census {
    rates: RwLock<Arc<Rates>>,
    pub(super) heat: Heat,
    pub(super) figures: Figures,
}

impl Census {
    pub(super) fn rates(&self) -> Arc<Rates> {
        Arc::clone(&self.rates.read())
    }
}

/// What was asked of a replica up to the last look, and up to this one.
struct Asked {
    shard: ShardId,
    before: Load,
    load: Load,
}

/// One look.
struct Look {
    at: Instant,
    /// The column of the heat map that it ends.
    slot: u64,
}

/// How long it is until the wall clock shows a multiple of the interval. A moment that is nearly there is left out: it may be
/// the one that was just waited for.
fn until_next(wall_ms: u64) -> Duration {
    let rest = FINE_MS - wall_ms % FINE_MS;
    Duration::from_millis(if rest < FINE_MS / 10 {
        rest + FINE_MS
    } else {
        rest
    })
}

/// Looks for as long as the task lives.
pub(super) async fn watch(shared: &Shared) {
    let mut last: Option<Look> = None;
    let mut loads = BTreeMap::new();
    let mut figures = Watch::new(shared);
    loop {
        tokio::time::sleep(until_next(wall_ms())).await;
        let Some(running) = shared.running.get() else {
            continue;
        };
        let (at, slot) = (Instant::now(), slot_ended_at(wall_ms()));
        let (found, totals) = running.runtime.survey().await;
        let asked = asked(found, &mut loads);
        if let Some(last) = &last {
            let seconds = at.saturating_duration_since(last.at).as_secs_f64();
            let rates = rates(&asked, seconds);
            rank(&rates, &shared.metrics);
            // A wall clock that was set back tells nothing of the time between.
            let slots = last.slot.max(slot.saturating_sub(SLOTS_MAX)) + 1..slot + 1;
            let cells = cells(running, &asked, slots.end.saturating_sub(slots.start));
            shared.census.heat.note(slots, &cells);
            figures.look(shared, &rates, running.runtime.workers());
            *shared.census.rates.write() = Arc::new(rates);
        }
        show(&totals, &shared.metrics);
        last = Some(Look { at, slot });
    }
}

/// Of which replicas anything was asked since the look before; `loads` has what was known then, and gets what is known now.
fn asked(found: Vec<(ShardId, Load)>, loads: &mut BTreeMap<ShardId, Load>) -> Vec<Asked> {
    let asked = found.into_iter().filter_map(|(shard, load)| {
        // Whoever was never asked has nothing to be compared with.
        let before = match load == Load::default() {
            true => loads.remove(&shard),
            false => loads.insert(shard, load),
        };
        let before = before.unwrap_or_default();
        (load != before).then_some(Asked {
            shard,
            before,
            load,
        })
    });
    asked.collect()
}

/// What was asked of each user's shard since the look before, in each of so many columns.
fn cells(running: &Running, asked: &[Asked], slots: u64) -> Vec<Cell> {
    let map = running.router.map();
    let cells = asked.iter().filter_map(|asked| {
        let shard = map.by_id(asked.shard);
        let shard = shard.filter(|_| !asked.shard.is_meta())?;
        let counts = Counts::between(asked.before, asked.load, slots);
        Some(Cell::new(Arc::clone(shard), counts))
    });
    cells.collect()
}

fn rates(asked: &[Asked], seconds: f64) -> Rates {
    let rate = |asked: &Asked| {
        let rate = Rate::between(asked.before, asked.load, seconds);
        (asked.shard, rate)
    };
    asked.iter().map(rate).collect()
}

/// The shards with the highest rates, the hottest first.
pub(super) fn hottest(rates: &Rates, count: usize) -> Vec<(ShardId, Rate)> {
    let mut ranked: Vec<(ShardId, Rate)> =
        rates.iter().map(|(&shard, &rate)| (shard, rate)).collect();
    ranked.sort_by(|(_, one), (_, other)| other.requests().total_cmp(&one.requests()));
    ranked.truncate(count);
    ranked
}

fn rank(rates: &Rates, metrics: &Metrics) {
    let hottest = hottest(rates, Rank::ALL.len());
    for rank in Rank::ALL {
        let rate = hottest.get(rank.index());
        let requests = rate.map_or(0.0, |(_, rate)| rate.requests());
        metrics.hot_shards.of(*rank).set(requests);
    }
}

fn show(totals: &Totals, metrics: &Metrics) {
    let gauge = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
    metrics.pending_commands.set(gauge(totals.pending));
    metrics.under_replicated.set(gauge(totals.under_replicated));
    metrics.without_quorum.set(gauge(totals.without_quorum));
    metrics.log_live_bytes.set(gauge(totals.log_bytes));
    metrics.log_longest_bytes.set(gauge(totals.log_longest));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(reads: u64, writes: u64) -> Load {
        Load {
            reads,
            writes,
            written_bytes: 10 * writes,
        }
    }

    #[test]
    fn two_looks_make_rates_and_the_hottest_comes_first() {
        let mut loads = BTreeMap::new();
        let first = vec![
            (ShardId(2), load(10, 0)),
            (ShardId(3), load(0, 0)),
            (ShardId(4), load(9, 9)),
            (ShardId(6), load(7, 7)),
        ];
        asked(first, &mut loads);
        assert_eq!(loads.len(), 3, "those that were ever asked");
        // Nothing happened to shard 6.
        let found = vec![
            (ShardId(2), load(30, 40)),
            (ShardId(3), load(0, 0)),
            (ShardId(4), load(0, 0)),
            (ShardId(5), load(500, 0)),
        ];
        let rates = rates(&asked(found, &mut loads), 2.0);
        let expected = Rate {
            reads: 10.0,
            writes: 20.0,
            written_bytes: 200.0,
        };
        assert_eq!(rates[&ShardId(2)], expected);
        assert_eq!(rates.get(&ShardId(3)), None, "nobody asked");
        assert_eq!(rates[&ShardId(4)], Rate::default(), "opened anew");
        assert_eq!(rates.get(&ShardId(6)), None, "nobody asked again");
        let hottest: Vec<u64> = hottest(&rates, 2)
            .iter()
            .map(|(shard, _)| shard.0)
            .collect();
        assert_eq!(hottest, [5, 2]);
        let again = asked(vec![(ShardId(6), load(9, 7))], &mut loads);
        assert_eq!(again[0].before, load(7, 7));
    }

    #[test]
    fn ranks_that_nobody_has_are_zero() {
        let metrics = Metrics::new().expect("register");
        let asked = asked(vec![(ShardId(2), load(8, 2))], &mut BTreeMap::new());
        rank(&rates(&asked, 5.0), &metrics);
        assert_eq!(metrics.hot_shards.of(Rank::First).get(), 2.0);
        rank(&Rates::new(), &metrics);
        assert_eq!(metrics.hot_shards.of(Rank::First).get(), 0.0);
    }
}
