//! Looks at all replicas of the node now and then: sums for the metrics, rates for whoever looks for hot shards, and what was
//! asked of which keys for the heat map.
//!
//! The engine counts what is asked of each replica and tells nobody; here the counts of two looks become rates. A look
//! costs a worker some microseconds per page of replicas, whether anybody wants to know or not, and nothing in between.
//! All nodes look at the same moments, so that what they have seen can be put side by side.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use flotilla_metrics::{Label as _, Metrics, Rank};
use flotilla_shards::{
    engine::{Load, ReplicaStatus},
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
    runtime::Runtime,
};

/// A look that comes later than this many others after the one before is noted for so many only.
const SLOTS_MAX: u64 = 12;
/// Replicas that a worker is asked about at once: other inputs wait for so many at most.
const PAGE: usize = 2048;

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
    found: RwLock<Arc<Vec<ReplicaStatus>>>,
    pub(super) heat: Heat,
    pub(super) figures: Figures,
}

impl Census {
    pub(super) fn rates(&self) -> Arc<Rates> {
        Arc::clone(&self.rates.read())
    }

    /// All replicas of the node, by shard.
    pub(super) fn found(&self) -> Arc<Vec<ReplicaStatus>> {
        Arc::clone(&self.found.read())
    }
}

/// All replicas of the node, by shard; their number is known from the look before.
async fn all(runtime: &Runtime, expected: usize) -> Vec<ReplicaStatus> {
    let mut found: Vec<ReplicaStatus> = Vec::with_capacity(expected);
    loop {
        let after = found.last().map_or(ShardId(0), |last| last.shard);
        let page = runtime.census(after, PAGE).await;
        if page.is_empty() {
            return found;
        }
        found.extend(page);
    }
}

/// One look.
struct Look {
    at: Instant,
    /// The column of the heat map that it ends.
    slot: u64,
    loads: BTreeMap<ShardId, Load>,
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
    let mut figures = Watch::new(shared);
    loop {
        tokio::time::sleep(until_next(wall_ms())).await;
        let Some(running) = shared.running.get() else {
            continue;
        };
        let (at, slot) = (Instant::now(), slot_ended_at(wall_ms()));
        let expected = shared.census.found().len();
        let found = all(&running.runtime, expected).await;
        if let Some(last) = &last {
            let seconds = at.saturating_duration_since(last.at).as_secs_f64();
            let rates = rates(&found, &last.loads, seconds);
            rank(&rates, &shared.metrics);
            // A wall clock that was set back tells nothing of the time between.
            let slots = last.slot.max(slot.saturating_sub(SLOTS_MAX)) + 1..slot + 1;
            let cells = cells(
                running,
                &found,
                &last.loads,
                slots.end.saturating_sub(slots.start),
            );
            shared.census.heat.note(slots, &cells);
            figures.look(shared, &rates, running.runtime.workers());
            *shared.census.rates.write() = Arc::new(rates);
        }
        sum(&found, &shared.metrics);
        let loads = found.iter().map(|status| (status.shard, status.load));
        // Whoever was never asked has nothing to be compared with.
        let loads = loads.filter(|(_, load)| *load != Load::default());
        last = Some(Look {
            at,
            slot,
            loads: loads.collect(),
        });
        *shared.census.found.write() = Arc::new(found);
    }
}

/// What was asked of each user's shard since the look before, in each of so many columns.
fn cells(
    running: &Running,
    found: &[ReplicaStatus],
    before: &BTreeMap<ShardId, Load>,
    slots: u64,
) -> Vec<Cell> {
    let map = running.router.map();
    let asked = found.iter().filter_map(|status| {
        let before = before.get(&status.shard).copied().unwrap_or_default();
        let asked = status.load != before && !status.shard.is_meta();
        let shard = map.by_id(status.shard).filter(|_| asked)?;
        let counts = Counts::between(before, status.load, slots);
        Some(Cell::new(Arc::clone(shard), counts))
    });
    asked.collect()
}

fn rates(found: &[ReplicaStatus], before: &BTreeMap<ShardId, Load>, seconds: f64) -> Rates {
    let rate = |status: &ReplicaStatus| {
        let before = before.get(&status.shard).copied().unwrap_or_default();
        (status.load != before).then(|| (status.shard, Rate::between(before, status.load, seconds)))
    };
    found.iter().filter_map(rate).collect()
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

fn sum(found: &[ReplicaStatus], metrics: &Metrics) {
    let bytes = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
    let pending: usize = found.iter().map(|status| status.pending).sum();
    let incomplete = found.iter().filter(|status| status.missing > 0).count();
    let logs = || found.iter().map(|status| status.log_bytes);
    metrics.pending_commands.set(bytes(pending as u64));
    metrics.under_replicated.set(bytes(incomplete as u64));
    let helpless = found.iter().filter(|status| status.lacks_quorum()).count();
    metrics.without_quorum.set(bytes(helpless as u64));
    metrics.log_live_bytes.set(bytes(logs().sum()));
    metrics
        .log_longest_bytes
        .set(bytes(logs().max().unwrap_or(0)));
}

#[cfg(test)]
mod tests {
    use flotilla_shards::raft::{Index, Role, Term};

    use super::*;

    fn status(shard: u64, reads: u64, writes: u64) -> ReplicaStatus {
        ReplicaStatus {
            shard: ShardId(shard),
            role: Role::Leader,
            term: Term(1),
            leader: None,
            commit: Index(1),
            applied: Index(1),
            last: Index(1),
            compacted: Index(0),
            log_bytes: 100 * shard,
            resting: false,
            pending: 2,
            voters: 3,
            missing: if shard == 2 { 1 } else { 2 },
            load: Load {
                reads,
                writes,
                written_bytes: 10 * writes,
            },
        }
    }

    #[test]
    fn two_looks_make_rates_and_the_hottest_comes_first() {
        let before = [
            (ShardId(2), status(2, 10, 0).load),
            (ShardId(4), status(4, 9, 9).load),
        ];
        let found = [
            status(2, 30, 40),
            status(3, 0, 0),
            status(4, 0, 5),
            status(5, 500, 0),
        ];
        let rates = rates(&found, &before.into(), 2.0);
        let expected = Rate {
            reads: 10.0,
            writes: 20.0,
            written_bytes: 200.0,
        };
        assert_eq!(rates[&ShardId(2)], expected);
        assert_eq!(rates.get(&ShardId(3)), None, "nobody asked");
        assert_eq!(rates[&ShardId(4)], Rate::default(), "opened anew");
        let hottest: Vec<u64> = hottest(&rates, 2)
            .iter()
            .map(|(shard, _)| shard.0)
            .collect();
        assert_eq!(hottest, [5, 2]);
    }

    #[test]
    fn ranks_that_nobody_has_are_zero() {
        let metrics = Metrics::new().expect("register");
        rank(&rates(&[status(2, 8, 2)], &BTreeMap::new(), 5.0), &metrics);
        assert_eq!(metrics.hot_shards.of(Rank::First).get(), 2.0);
        rank(&Rates::new(), &metrics);
        assert_eq!(metrics.hot_shards.of(Rank::First).get(), 0.0);
    }

    #[test]
    fn sums_are_of_all_replicas() {
        let metrics = Metrics::new().expect("register");
        sum(&[status(2, 0, 0), status(3, 0, 0)], &metrics);
        assert_eq!(metrics.pending_commands.get(), 4);
        assert_eq!(metrics.under_replicated.get(), 2);
        assert_eq!(metrics.without_quorum.get(), 1);
        assert_eq!(metrics.log_live_bytes.get(), 500);
        assert_eq!(metrics.log_longest_bytes.get(), 300);
    }
}
