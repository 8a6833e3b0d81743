//! Puts a load on a target for a while and counts.
//!
//! In a closed loop a number of clients each have one operation at a time in flight: that is for throughput at saturation,
//! and its latencies are those of saturation, as clients that wait send nothing. In an open loop operations begin at times
//! that were fixed before, whatever the target does, and their latency counts from that moment.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use tokio::{runtime::Handle, sync::watch, task::JoinSet};

use super::{
    load::Load,
    meter::{Ended, Errors, Meter, Point, Stage, Totals},
    schedule::Schedule,
    servers::{Cost, Servers},
    target::Failed,
};
use crate::process::cpu_time;

/// A target that refuses at once must not turn a closed loop into a storm.
const PAUSE_AFTER_ERROR: Duration = Duration::from_millis(5);
/// Operations of an open loop that are due within this time begin together: waking up for each would cost more than they
/// do. It is part of their latency.
const GRAIN: Duration = Duration::from_micros(200);
/// How long operations that are still in flight at the end are waited for, beyond the time that each may take.
const DRAIN: Duration = Duration::from_secs(1);
/// Between two looks at whether all have ended.
const LOOK_AGAIN: Duration = Duration::from_millis(2);
/// Between two points of the timeline.
const TICK: Duration = Duration::from_secs(1);

/// How operations follow each other.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Pace {
    /// Clients with one operation at a time.
    Closed { clients: u32 },
    /// Operations per second; more than `cap` in flight end the run.
    Open { rate: f64, cap: usize },
}

/// How long.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Window {
    pub(crate) warmup: Duration,
    pub(crate) measure: Duration,
    /// How long one operation may take.
    pub(crate) timeout: Duration,
}

/// What one run has shown.
#[derive(Debug, Clone)]
pub(crate) struct Phase {
    pub(crate) pace: Pace,
    /// How long was measured.
    pub(crate) measured: Duration,
    pub(crate) totals: Totals,
    pub(crate) errors: Errors,
    pub(crate) timeline: Vec<Point>,
    pub(crate) client_cpu: Duration,
    pub(crate) cost: Cost,
    pub(crate) end: End,
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    Complete,
    /// By the person who started it.
    Interrupted,
    /// More was in flight than allowed.
    Overrun,
}

/// Told once per second.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Progress {
    pub(crate) elapsed: Duration,
    pub(crate) of: Duration,
    pub(crate) point: Point,
    /// So far.
    pub(crate) errors: u64,
}

/// Whether the person who started all this wants it to end.
pub(crate) type Stop = watch::Receiver<bool>;

/// Waits until a run is to end.
pub(crate) async fn stopped(stop: &mut Stop) {
    // Nobody left who could say so: it never will.
    if stop.wait_for(|stop| *stop).await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// Operations in flight, and whether there were too many.
#[derive(Debug, Default)]
struct InFlight {
    now: AtomicUsize,
    overrun: AtomicBool,
}

/// Operations being carried out.
enum Workers {
    Closed(JoinSet<()>),
    Open(Arc<InFlight>),
}

impl Workers {
    fn start(load: &Arc<Load>, meter: &Arc<Meter>, pace: Pace) -> Self {
        match pace {
            Pace::Closed { clients } => {
                let mut tasks = JoinSet::new();
                for client in 0..clients as usize {
                    tasks.spawn(closed(Arc::clone(load), Arc::clone(meter), client));
                }
                Self::Closed(tasks)
            }
            Pace::Open { rate, cap } => {
                let in_flight = Arc::new(InFlight::default());
                let open = Open {
                    load: Arc::clone(load),
                    meter: Arc::clone(meter),
                    in_flight: Arc::clone(&in_flight),
                    cap,
                };
                let schedule = Schedule::new(rate, load.shape.seed);
                let handle = Handle::current();
                // It ends by itself when the meter says so.
                drop(tokio::task::spawn_blocking(move || {
                    open.dispatch(schedule, &handle)
                }));
                Self::Open(in_flight)
            }
        }
    }

    fn overrun(&self) -> bool {
        matches!(self, Self::Open(in_flight) if in_flight.overrun.load(Ordering::Relaxed))
    }

    /// Waits for operations in flight; returns how many have not ended.
    async fn drain(self, patience: Duration) -> u64 {
        let begun = Instant::now();
        match self {
            Self::Closed(mut tasks) => {
                let all = async { while tasks.join_next().await.is_some() {} };
                let _ = tokio::time::timeout(patience, all).await;
                tasks.len() as u64
            }
            Self::Open(in_flight) => {
                let left = || in_flight.now.load(Ordering::Acquire);
                while left() > 0 && begun.elapsed() < patience {
                    tokio::time::sleep(LOOK_AGAIN).await;
                }
                left() as u64
            }
        }
    }
}

/// One client of a closed loop.
async fn closed(load: Arc<Load>, meter: Arc<Meter>, client: usize) {
    let mut drawer = load.drawer(client as u64);
    while meter.goes_on() {
        let operation = load.draw(&mut drawer);
        let measured = meter.is(Stage::Measuring);
        let begun = Instant::now();
        let result = load.perform(client, &operation).await;
        let failed = result.is_err();
        meter.ended(
            client,
            Ended {
                kind: operation.kind,
                weight: operation.weight(),
                measured,
                time: begun.elapsed(),
                late: None,
                result,
            },
        );
        if failed {
            tokio::time::sleep(PAUSE_AFTER_ERROR).await;
        }
    }
}

/// An open loop.
struct Open {
    load: Arc<Load>,
    meter: Arc<Meter>,
    in_flight: Arc<InFlight>,
    cap: usize,
}

impl Open {
    /// Begins operations when they are due. On a thread of its own: timers of the runtime are too coarse.
    fn dispatch(self, schedule: Schedule, runtime: &Handle) {
        let mut drawer = self.load.drawer(0);
        let begun = Instant::now();
        for (client, due) in schedule.enumerate() {
            let due = begun + due;
            let wait = due.saturating_duration_since(Instant::now());
            if !wait.is_zero() {
                thread::sleep(wait.max(GRAIN));
            }
            if !self.meter.goes_on() {
                return;
            }
            if self.in_flight.now.fetch_add(1, Ordering::Relaxed) >= self.cap {
                self.in_flight.now.fetch_sub(1, Ordering::Relaxed);
                self.in_flight.overrun.store(true, Ordering::Relaxed);
                return;
            }
            let measured = self.meter.is(Stage::Measuring);
            let operation = self.load.draw(&mut drawer);
            let (load, meter) = (Arc::clone(&self.load), Arc::clone(&self.meter));
            let in_flight = Arc::clone(&self.in_flight);
            runtime.spawn(async move {
                let late = due.elapsed();
                let result = load.perform(client, &operation).await;
                meter.ended(
                    client,
                    Ended {
                        kind: operation.kind,
                        weight: operation.weight(),
                        measured,
                        time: due.elapsed(),
                        late: Some(late),
                        result,
                    },
                );
                in_flight.now.fetch_sub(1, Ordering::Release);
            });
        }
    }
}

/// Runs a load. Whatever happens, what was counted until then is returned.
pub(crate) async fn run(
    load: &Arc<Load>,
    servers: &Servers,
    pace: Pace,
    window: Window,
    stop: &mut Stop,
    mut tell: impl FnMut(Progress),
) -> Phase {
    let meter = Arc::new(Meter::new(load.shape.mix.kinds()));
    let workers = Workers::start(load, &meter, pace);
    let warmed_up = Instant::now() + window.warmup;
    let mut end = End::Complete;
    while Instant::now() < warmed_up && end == End::Complete {
        let left = warmed_up.saturating_duration_since(Instant::now());
        end = pause(left.min(TICK), stop, &workers).await;
    }
    let before = servers.sample().await;
    let client_before = cpu_time();
    let begun = Instant::now();
    meter.enter(Stage::Measuring);
    let mut totals = meter.totals();
    let mut timeline = Vec::new();
    let mut errors = 0;
    let mut last = Duration::ZERO;
    while last < window.measure && end == End::Complete {
        end = pause((window.measure - last).min(TICK), stop, &workers).await;
        let now = begun.elapsed();
        let point = meter.collect(&mut totals, last, now);
        errors += point.errors;
        last = now;
        timeline.push(point);
        tell(Progress {
            elapsed: now,
            of: window.measure,
            point,
            errors,
        });
    }
    meter.enter(Stage::Draining);
    // Nothing, if the run ended before.
    let measured = last;
    let client_cpu = cpu_time().saturating_sub(client_before);
    let after = servers.sample().await;
    let patience = match end {
        End::Interrupted => DRAIN,
        _ => window.timeout + DRAIN,
    };
    let left = workers.drain(patience).await;
    if left > 0 {
        let message = format!("{left} operations have not ended within {patience:?} after the run");
        meter.failed(
            Failed {
                kind: "unfinished",
                message,
            },
            left,
        );
    }
    // Those that began while measuring and ended now; throughput has none of them.
    meter.collect(&mut totals, last, measured);
    meter.enter(Stage::Over);
    Phase {
        pace,
        measured,
        totals,
        errors: meter.errors(),
        timeline,
        client_cpu,
        cost: before.until(&after),
        end,
    }
}

/// Lets time pass, unless something ends the run.
async fn pause(time: Duration, stop: &mut Stop, workers: &Workers) -> End {
    tokio::select! {
        () = tokio::time::sleep(time) => match workers.overrun() {
            true => End::Overrun,
            false => End::Complete,
        },
        () = stopped(stop) => End::Interrupted,
    }
}
