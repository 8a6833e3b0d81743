//! Counts what clients see, at the cost of a few nanoseconds per operation: each client has one of a few slots, and all
//! slots are emptied once per second.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU8, AtomicU64, Ordering},
    time::Duration,
};

use hdrhistogram::Histogram;
use parking_lot::Mutex;
use serde::Serialize;

use super::{target::Failed, workload::Kind};

/// Few enough to be small, enough that clients do not wait for each other.
const SLOTS: usize = 8;
/// Latencies above are counted as this: in microseconds.
const LATENCY_MAX: u64 = 60_000_000;

/// Latencies in microseconds.
pub(crate) type Latencies = Histogram<u64>;

pub(crate) fn latencies() -> Latencies {
    Histogram::new_with_bounds(1, LATENCY_MAX, 3).expect("the bounds are ours")
}

fn add(total: &mut Latencies, part: &Latencies) {
    total.add(part).expect("all have the same bounds");
}

fn record(latencies: &mut Latencies, time: Duration) {
    let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
    latencies.saturating_record(micros);
}

/// Where a run stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Stage {
    /// Nothing counts yet.
    WarmingUp,
    /// What ends, counts.
    Measuring,
    /// No operation begins any more; those that are measured are waited for.
    Draining,
    /// Nothing counts any more.
    Over,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Meter {
    kinds: Vec<Kind>,
    stage: AtomicU8,
    failed: AtomicU64,
    slots: [Mutex<Slot>; SLOTS],
    errors: Mutex<Errors>,
}

#[derive(Debug)]
struct Slot {
    /// By kind, in the order of [`Meter::kinds`].
    latencies: Vec<Latencies>,
    /// How much later than planned operations began.
    late: Latencies,
    operations: u64,
    missing: u64,
}

/// What failed.
#[derive(Debug, Default, Clone, Serialize)]
pub(crate) struct Errors {
    pub(crate) by_kind: BTreeMap<&'static str, u64>,
    pub(crate) first: Option<String>,
}

/// All that was counted.
#[derive(Debug, Clone)]
pub(crate) struct Totals {
    /// Operations that ended well while measuring.
    pub(crate) operations: u64,
    /// Of these, those that did not find what they looked for.
    pub(crate) missing: u64,
    /// Of operations that began while measuring.
    pub(crate) latencies: Vec<(Kind, Latencies)>,
    pub(crate) late: Latencies,
}

impl Totals {
    /// Of all kinds together.
    pub(crate) fn all(&self) -> Latencies {
        let mut all = latencies();
        for (_, part) in &self.latencies {
            add(&mut all, part);
        }
        all
    }
}

/// One second of a run.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Point {
    /// Its end, since measuring began.
    pub(crate) at_seconds: f64,
    pub(crate) operations_per_second: f64,
    pub(crate) errors: u64,
    pub(crate) p50_us: u64,
    pub(crate) p99_us: u64,
}

/// One operation that has ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) kind: Kind,
    /// Operations that it stands for: more than one in a batch.
    pub(crate) weight: u64,
    /// It began while measuring.
    pub(crate) measured: bool,
    pub(crate) time: Duration,
    /// How much later than planned it began.
    pub(crate) late: Option<Duration>,
    /// Whether it found what it looked for.
    pub(crate) result: Result<bool, Failed>,
}

impl Meter {
    pub(crate) fn new(kinds: impl IntoIterator<Item = Kind>) -> Self {
        let kinds: Vec<Kind> = kinds.into_iter().collect();
        let slot = || {
            Mutex::new(Slot {
                latencies: kinds.iter().map(|_| latencies()).collect(),
                late: latencies(),
                operations: 0,
                missing: 0,
            })
        };
        Self {
            slots: std::array::from_fn(|_| slot()),
            kinds,
            stage: AtomicU8::new(Stage::WarmingUp as u8),
            failed: AtomicU64::new(0),
            errors: Mutex::default(),
        }
    }

    pub(crate) fn is(&self, stage: Stage) -> bool {
        self.stage.load(Ordering::Relaxed) == stage as u8
    }

    /// Whether clients go on.
    pub(crate) fn goes_on(&self) -> bool {
        self.is(Stage::WarmingUp) || self.is(Stage::Measuring)
    }

    pub(crate) fn enter(&self, stage: Stage) {
        self.stage.store(stage as u8, Ordering::Relaxed);
    }

    /// Takes an operation that has ended; clients with different numbers seldom meet.
    pub(crate) fn ended(&self, client: usize, ended: Ended) {
        let counts = self.is(Stage::Measuring);
        let measured = ended.measured && (counts || self.is(Stage::Draining));
        if !counts && !measured {
            return;
        }
        match ended.result {
            Ok(found) => {
                let mut slot = self.slots[client % SLOTS].lock();
                if counts {
                    slot.operations += ended.weight;
                    slot.missing += u64::from(!found);
                }
                if measured {
                    let kind = self.kinds.iter().position(|kind| *kind == ended.kind);
                    record(
                        &mut slot.latencies[kind.expect("a kind of the mix")],
                        ended.time,
                    );
                    if let Some(late) = ended.late {
                        record(&mut slot.late, late);
                    }
                }
            }
            Err(failed) => self.failed(failed, ended.weight),
        }
    }

    /// Counts what failed.
    pub(crate) fn failed(&self, failed: Failed, times: u64) {
        self.failed.fetch_add(times, Ordering::Relaxed);
        let mut errors = self.errors.lock();
        *errors.by_kind.entry(failed.kind).or_default() += times;
        errors.first.get_or_insert(failed.message);
    }

    pub(crate) fn errors(&self) -> Errors {
        self.errors.lock().clone()
    }

    /// Nothing so far.
    pub(crate) fn totals(&self) -> Totals {
        Totals {
            operations: 0,
            missing: 0,
            latencies: self.kinds.iter().map(|kind| (*kind, latencies())).collect(),
            late: latencies(),
        }
    }

    /// Empties all slots into `totals`; returns what was in them. `from` and `to` are times since measuring began.
    pub(crate) fn collect(&self, totals: &mut Totals, from: Duration, to: Duration) -> Point {
        let mut here = latencies();
        let before = totals.operations;
        for slot in &self.slots {
            let mut slot = slot.lock();
            for ((_, total), part) in totals.latencies.iter_mut().zip(&mut slot.latencies) {
                add(total, part);
                add(&mut here, part);
                part.reset();
            }
            add(&mut totals.late, &slot.late);
            slot.late.reset();
            totals.operations += std::mem::take(&mut slot.operations);
            totals.missing += std::mem::take(&mut slot.missing);
        }
        let seconds = to.saturating_sub(from).as_secs_f64().max(1e-6);
        Point {
            at_seconds: to.as_secs_f64(),
            operations_per_second: (totals.operations - before) as f64 / seconds,
            errors: self.failed.swap(0, Ordering::Relaxed),
            p50_us: here.value_at_quantile(0.5),
            p99_us: here.value_at_quantile(0.99),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(measured: bool, millis: u64, result: Result<bool, Failed>) -> Ended {
        Ended {
            kind: Kind::Get,
            weight: 1,
            measured,
            time: Duration::from_millis(millis),
            late: None,
            result,
        }
    }

    #[test]
    fn only_what_ends_while_measuring_is_throughput_and_what_began_then_has_a_latency() {
        let meter = Meter::new([Kind::Put, Kind::Get]);
        let mut totals = meter.totals();
        meter.ended(0, ended(false, 1, Ok(true)));
        meter.enter(Stage::Measuring);
        meter.ended(1, ended(false, 1, Ok(true)));
        meter.ended(2, ended(true, 2, Ok(false)));
        let point = meter.collect(&mut totals, Duration::ZERO, Duration::from_secs(1));
        assert_eq!(point.operations_per_second, 2.0);
        meter.enter(Stage::Draining);
        assert!(!meter.goes_on());
        meter.ended(3, ended(true, 8, Ok(true)));
        meter.ended(4, ended(false, 9, Ok(true)));
        meter.collect(&mut totals, Duration::ZERO, Duration::from_secs(1));
        meter.enter(Stage::Over);
        meter.ended(5, ended(true, 9, Ok(true)));
        meter.collect(&mut totals, Duration::ZERO, Duration::from_secs(1));
        assert_eq!((totals.operations, totals.missing), (2, 1));
        assert_eq!(totals.all().len(), 2);
        assert_eq!(totals.all().max() / 1000, 8);
    }

    #[test]
    fn errors_are_counted_by_kind_with_the_first_as_an_example() {
        let meter = Meter::new([Kind::Get]);
        meter.enter(Stage::Measuring);
        for message in ["first", "second"] {
            let failed = Failed {
                kind: "busy",
                message: message.to_owned(),
            };
            meter.ended(0, ended(true, 1, Err(failed)));
        }
        let errors = meter.errors();
        assert_eq!(errors.by_kind, BTreeMap::from([("busy", 2)]));
        assert_eq!(errors.first.as_deref(), Some("first"));
        let mut totals = meter.totals();
        let point = meter.collect(&mut totals, Duration::ZERO, Duration::from_secs(1));
        assert_eq!((point.errors, totals.operations), (2, 0));
    }
}
