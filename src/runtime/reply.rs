//! The completion handle that a request carries through the engine, and the budget that bounds how many there are.

use std::{
    borrow::Cow,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Instant,
};

use flotilla_metrics::{BusyReason, Metrics, Stage};
use flotilla_proto::v1::CommandAnswer;
use flotilla_shards::{engine::Refused, raft::Index};

/// What a request got.
#[derive(Debug)]
pub enum Answer {
    /// The state machine's answer to a write.
    Write(CommandAnswer),
    /// Everything up to this index is applied here: the state may be read now.
    ReadReady(Index),
}

/// How a request ended.
pub type Outcome = Result<Answer, Refused>;

/// Microseconds that a write has spent in each stage of the engine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StageTimes {
    /// See [`Stage::Queue`].
    pub queue: u32,
    /// See [`Stage::Propose`].
    pub propose: u32,
    /// See [`Stage::Commit`].
    pub commit: u32,
    /// See [`Stage::Apply`].
    pub apply: u32,
}

/// Who waits for a request, and the share of the node's budget that the request holds until it ends.
///
/// A reply that is dropped without an answer gives its share back; whoever waits finds out by its deadline.
pub struct Reply {
    call: Box<dyn FnOnce(Outcome, StageTimes) + Send>,
    times: StageTimes,
    /// Start of the stage that the request is in.
    since: Instant,
    permit: Option<Permit>,
}

impl Reply {
    /// A reply that calls `call` once. It runs on a thread of the engine: it may hand the outcome on and do nothing
    /// else.
    pub fn new(call: impl FnOnce(Outcome, StageTimes) + Send + 'static) -> Self {
        Self {
            call: Box::new(call),
            times: StageTimes::default(),
            since: Instant::now(),
            permit: None,
        }
    }

    /// Ends the request.
    pub fn send(self, outcome: Outcome) {
        drop(self.permit);
        (self.call)(outcome, self.times);
    }

    /// Bytes that the request has brought.
    pub(super) fn payload(&self) -> u64 {
        let held = self.permit.as_ref().map_or(0, |permit| permit.bytes);
        held.saturating_sub(REQUEST_OVERHEAD)
    }

    pub(super) fn hold(&mut self, permit: Permit) {
        self.permit = Some(permit);
    }

    /// Notes that a stage is over, and begins the next.
    pub fn stage(&mut self, metrics: &Metrics, stage: Stage, now: Instant) {
        let time = now.saturating_duration_since(self.since);
        metrics.stage_seconds.of(stage).observe(time.as_secs_f64());
        self.since = now;
        let micros = u32::try_from(time.as_micros()).unwrap_or(u32::MAX);
        match stage {
            Stage::Queue => self.times.queue = micros,
            Stage::Propose => self.times.propose = micros,
            Stage::Commit => self.times.commit = micros,
            Stage::Apply => self.times.apply = micros,
            // Of log writes, not of requests.
            Stage::Sync => {}
        }
    }
}

impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Reply")
    }
}

/// Bytes of requests that the node has taken in and not yet answered. Everything behind it (mailboxes, proposals,
/// entries to apply) is bounded by this one budget; the number of requests is bounded at the door, by the services.
#[derive(Debug)]
pub struct Budget {
    metrics: Arc<Metrics>,
    bytes_max: u64,
    bytes: AtomicU64,
}

/// The node can't take a request in now.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}; retry in {retry_after_ms} ms")]
pub struct Busy {
    /// Why, for people.
    pub reason: Cow<'static, str>,
    /// When it makes sense to try again, in milliseconds.
    pub retry_after_ms: u32,
}

/// When a refused client should come back: about the time that a full budget takes to drain.
pub(super) const RETRY_AFTER_MS: u32 = 50;

/// What the bookkeeping of a request takes in memory beside its payload, roughly: so that many small ones count as well.
const REQUEST_OVERHEAD: u64 = 256;

impl Budget {
    /// A budget of so many bytes.
    #[must_use]
    pub fn new(bytes_max: u64, metrics: Arc<Metrics>) -> Arc<Self> {
        Arc::new(Self {
            metrics,
            bytes_max,
            bytes: AtomicU64::new(0),
        })
    }

    /// Takes a share for one request with `payload` bytes. A single request always fits into an empty budget.
    ///
    /// # Errors
    /// If the budget is used up.
    pub fn take(self: &Arc<Self>, payload: u64) -> Result<Permit, Busy> {
        let bytes = payload + REQUEST_OVERHEAD;
        let before = self.bytes.fetch_add(bytes, Relaxed);
        let permit = Permit {
            budget: Arc::clone(self),
            bytes,
        };
        if before > 0 && before + bytes > self.bytes_max {
            self.metrics.busy.of(BusyReason::InFlightBytes).inc();
            return Err(Busy {
                reason: "too much is in flight on this node".into(),
                retry_after_ms: RETRY_AFTER_MS,
            });
        }
        self.metrics.in_flight_bytes.set((before + bytes) as i64);
        Ok(permit)
    }
}

/// A share of the [`Budget`], given back when dropped.
#[derive(Debug)]
pub struct Permit {
    budget: Arc<Budget>,
    bytes: u64,
}

impl Drop for Permit {
    fn drop(&mut self) {
        let left = self.budget.bytes.fetch_sub(self.bytes, Relaxed) - self.bytes;
        self.budget.metrics.in_flight_bytes.set(left as i64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_budget_refuses_beyond_its_bounds_and_recovers() {
        let metrics = Arc::new(Metrics::new().expect("metrics register once"));
        let budget = Budget::new(1000, metrics);
        let first = budget.take(5000).expect("one request always fits");
        assert!(budget.take(0).is_err(), "bytes are used up");
        drop(first);
        let _second = budget.take(700 - REQUEST_OVERHEAD).expect("given back");
        let _third = budget.take(300 - REQUEST_OVERHEAD).expect("exactly full");
        assert!(budget.take(0).is_err(), "small ones count as well");
    }

    #[test]
    fn an_answered_reply_gives_its_share_back_first() {
        let metrics = Arc::new(Metrics::new().expect("metrics register once"));
        let budget = Budget::new(10, metrics);
        let inner = Arc::clone(&budget);
        let mut reply = Reply::new(move |_, _| {
            inner
                .take(10)
                .expect("the share is back when the caller hears");
        });
        reply.hold(budget.take(10).expect("empty"));
        reply.send(Err(Refused::Busy));
    }
}
