//! What the node did between two looks at its own metrics, for people who look at the console.

use std::{collections::VecDeque, sync::Arc};

use flotilla_metrics::{Distribution, Metrics, Operation, Outcome};
use parking_lot::RwLock;
use tokio::time::Instant;

use super::{Shared, census::Rates};
use crate::{
    clock::wall_ms,
    console::{
        cluster::{Moment, Vitals, Work},
        heat::{FINE_MS, slot_ended_at},
        shards::Load,
    },
    process,
};

/// Moments that are remembered: a quarter of an hour.
const MOMENTS: usize = 180;

const READS: [Operation; 2] = [Operation::Get, Operation::BatchGet];
const WRITES: [Operation; 3] = [Operation::Put, Operation::Delete, Operation::Batch];

/// What was counted up to a moment.
struct Counted {
    at: Instant,
    reads: Distribution,
    writes: Distribution,
    errors: u64,
    busy: u64,
    leader_changes: u64,
    cpu: f64,
    disk_written: u64,
    /// Seconds of work; see [`Work`].
    work: [f64; 4],
}

impl Counted {
    fn now(metrics: &Metrics) -> Self {
        let took = |operations: &[Operation]| {
            let histograms = operations.iter().map(|op| metrics.request_seconds.of(*op));
            Distribution::of_all(histograms)
        };
        let answers = |outcomes: fn(&Outcome) -> bool| {
            let outcomes = Outcome::ALL.iter().filter(|outcome| outcomes(outcome));
            let counts = outcomes.flat_map(|outcome| {
                let operations = Operation::ALL.iter();
                operations.map(|op| metrics.requests.of(*op, *outcome).get())
            });
            counts.sum()
        };
        let work = [
            &metrics.turn_seconds,
            &metrics.log_fsync_seconds,
            &metrics.apply_seconds,
            &metrics.state_flush_seconds,
        ];
        Self {
            at: Instant::now(),
            reads: took(&READS),
            writes: took(&WRITES),
            errors: answers(|outcome| !matches!(outcome, Outcome::Ok | Outcome::Busy)),
            busy: answers(|outcome| matches!(outcome, Outcome::Busy)),
            leader_changes: metrics.leader_changes.get(),
            cpu: process::cpu_time().as_secs_f64(),
            disk_written: process::disk_io().map_or(0, |(_, written)| written),
            work: work.map(flotilla_metrics::Histogram::get_sample_sum),
        }
    }
}

/// The newest figures, and those of the moments before.
#[derive(Default)]
pub(super) struct Figures {
    newest: RwLock<Arc<Vitals>>,
    moments: RwLock<VecDeque<Moment>>,
}

impl Figures {
    pub(super) fn vitals(&self) -> Vitals {
        Vitals::clone(&self.newest.read())
    }

    pub(super) fn moments(&self) -> Vec<Moment> {
        self.moments.read().iter().copied().collect()
    }
}

/// Looks whenever it is told to.
pub(super) struct Watch(Counted);

impl Watch {
    pub(super) fn new(shared: &Shared) -> Self {
        Self(Counted::now(&shared.metrics))
    }

    /// Notes what has happened since the last look.
    pub(super) fn look(&mut self, shared: &Shared, rates: &Rates, workers: usize) {
        let now = Counted::now(&shared.metrics);
        let vitals = between(&self.0, &now, shared, rates, workers);
        self.0 = now;
        let figures = &shared.census.figures;
        let mut moments = figures.moments.write();
        if moments.len() == MOMENTS {
            moments.pop_front();
        }
        moments.push_back(Moment {
            // As all nodes look at the same moments, these are the same on all.
            at_ms: (slot_ended_at(wall_ms()) + 1) * FINE_MS,
            load: vitals.load,
            errors: vitals.errors,
            read_p99: vitals.read_p99,
            write_p99: vitals.write_p99,
        });
        *figures.newest.write() = Arc::new(vitals);
    }
}

fn between(
    before: &Counted,
    now: &Counted,
    shared: &Shared,
    rates: &Rates,
    workers: usize,
) -> Vitals {
    let metrics = &shared.metrics;
    let seconds = now.at.saturating_duration_since(before.at).as_secs_f64();
    let rate = |before: u64, now: u64| now.saturating_sub(before) as f64 / seconds.max(1e-9);
    let gauge = |value: i64| u64::try_from(value).unwrap_or(0);
    let [turns, log, apply, flush] =
        [0, 1, 2, 3].map(|at| (now.work[at] - before.work[at]) / seconds);
    // What took longer than the time between two looks is noted when it ends.
    let part = |share: f64| share.clamp(0.0, 1.0);
    let (reads, writes) = (
        now.reads.since(&before.reads),
        now.writes.since(&before.writes),
    );
    let mut load = Load::default();
    for rate in rates.values() {
        load.reads += rate.reads;
        load.writes += rate.writes;
        load.bytes += rate.written_bytes;
    }
    Vitals {
        load,
        errors: rate(before.errors, now.errors),
        busy: rate(before.busy, now.busy),
        read_p50: reads.quantile(0.5),
        read_p99: reads.quantile(0.99),
        write_p50: writes.quantile(0.5),
        write_p99: writes.quantile(0.99),
        cpu: (now.cpu - before.cpu) / seconds,
        memory: process::memory().unwrap_or(0),
        memory_limit: process::memory_limit(),
        disk_free: gauge(metrics.disk_free_bytes.get()),
        disk_size: gauge(metrics.disk_size_bytes.get()),
        disk_written: rate(before.disk_written, now.disk_written),
        work: Work {
            shards: part(turns / workers as f64),
            log: part(log),
            apply: part(apply),
            flush: part(flush),
        },
        in_flight: gauge(metrics.in_flight_requests.get()),
        pending: gauge(metrics.pending_commands.get()),
        apply_lag: gauge(metrics.apply_lag.get()),
        snapshots: gauge(metrics.snapshots_running.get()),
        leader_changes: rate(before.leader_changes, now.leader_changes),
    }
}
