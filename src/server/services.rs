//! What the services of an initialized node stand on.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime},
};

use flotilla_metrics::{BusyReason, Metrics, Operation};
use flotilla_proto::v1::{self as proto, request, response};
use flotilla_shards::{
    access::rights,
    ids::{NodeId, ShardId},
    kv::StateView,
    limits::Limits,
};
use futures_util::future::BoxFuture;
use tokio::{sync::Semaphore, time::Instant};

use super::{
    access::{Access, Caller},
    audit::Audit,
    error,
    forward::Forward,
    request as requests,
    slow::{SlowRequest, SlowRequests},
    trace::{RequestId, RequestIds, Trace},
};
use crate::{
    router::Router,
    runtime::{Busy, Reply, ShardRequest},
    shutdown::{Gate, GateGuard, Holder},
    transport::Transport,
};

/// Reads of many rows at the same time; more wait. Each may hold the largest page and its message,
/// whose buffer has grown to up to twice its size.
pub const LONG_READS: usize = 8;

/// The engine, as the services see it.
pub trait RuntimeHandle: Send + Sync + 'static {
    /// Asks something of a shard. Never blocks. A reply that is dropped unanswered means that the engine stopped.
    ///
    /// # Errors
    /// If too much is in flight; the reply is dropped unused.
    fn submit(&self, shard: ShardId, request: ShardRequest, reply: Reply) -> Result<(), Busy>;

    /// Whether a read that was asked for before may read what is applied now, without asking the engine.
    fn may_read(&self, shard: ShardId) -> bool;

    /// Where the local replica stands; none if there is none here.
    fn replica_info(&self, shard: ShardId) -> BoxFuture<'_, Option<proto::ReplicaInfo>>;

    /// Hands a shard's leadership over. Whether this node leads it and has begun.
    fn transfer_leader(&self, shard: ShardId, node: NodeId) -> BoxFuture<'_, bool>;
}

/// The state database, as the services see it.
pub trait StateReader: Send + Sync + 'static {
    /// Reads from one moment's state. May block.
    fn with_view(&self, read: &mut dyn FnMut(&dyn StateView));
}

/// Bounds and times of the services.
#[derive(Clone, Debug)]
pub struct ServiceOptions {
    /// How long a request may take if its client does not say.
    pub default_timeout: Duration,
    /// The longest time that a client may ask for.
    pub max_timeout: Duration,
    /// Requests that the node works on at the same time; more are answered "busy".
    pub max_requests: usize,
    /// Requests of one stream that are worked on at the same time; more wait in the connection.
    pub max_stream_requests: usize,
}

impl Default for ServiceOptions {
    fn default() -> Self {
        Self {
            default_timeout: Duration::from_secs(5),
            max_timeout: Duration::from_secs(60),
            max_requests: 64 * 1024,
            max_stream_requests: 4096,
        }
    }
}

/// Everything that a request may need. Exists once the node is part of a cluster.
pub struct Services {
    /// Routes, leaders and nodes.
    pub router: Arc<Router>,
    /// The engine.
    pub runtime: Arc<dyn RuntimeHandle>,
    /// The state database.
    pub state: Arc<dyn StateReader>,
    /// The way to other nodes for clients' requests.
    pub forward: Arc<dyn Forward>,
    /// The way to other nodes for Raft.
    pub transport: Transport,
    /// Who may do what.
    pub access: Access,
    /// What operators did.
    pub audit: Audit,
    /// Bounds of requests.
    pub limits: Limits,
    /// Bounds and times of the services.
    pub options: ServiceOptions,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// Open while the node takes in requests.
    pub gate: Gate,
    /// Requests that the node works on.
    pub requests: AtomicUsize,
    /// Turns of reads of many rows, [`LONG_READS`] of them.
    pub long_reads: Semaphore,
    /// Those that took long.
    pub slow: Arc<SlowRequests>,
    /// Names for requests that came without one.
    pub request_ids: RequestIds,
}

/// A request's place among those that the node works on, and its measurement.
pub(super) struct Slot {
    services: Arc<Services>,
    operation: Operation,
    started: Instant,
    /// Where its time goes.
    pub(super) trace: Trace,
    _inside: Option<GateGuard>,
}

impl Slot {
    /// Takes a place.
    ///
    /// # Errors
    /// "Busy" if there is none, "shutting down" if the gate is closed; both are counted.
    pub(super) fn take(
        services: &Arc<Services>,
        kind: &request::Kind,
        started: Instant,
        mut trace: Trace,
    ) -> Result<Self, proto::Error> {
        let before = services.requests.fetch_add(1, Ordering::Relaxed);
        services.metrics.in_flight_requests.inc();
        if services.slow.wants_keys() {
            trace.key = requests::first_key(kind).cloned().unwrap_or_default();
        }
        let mut slot = Self {
            services: Arc::clone(services),
            operation: requests::operation(kind),
            started,
            trace,
            _inside: None,
        };
        let limit = services.options.max_requests;
        let error = if before >= limit {
            let busy = &services.metrics.busy;
            busy.of(BusyReason::InFlightRequests).inc();
            error::busy(format!("this node works on {limit} requests already"))
        } else {
            match services.gate.enter(Holder::Request) {
                Ok(guard) => {
                    slot._inside = Some(guard);
                    return Ok(slot);
                }
                Err(_) => error::shutting_down(),
            }
        };
        let Err(error) = slot.end::<Infallible>(Err(error));
        Err(error)
    }

    /// Counts how the request ended, and names it in its error.
    pub(super) fn end<T>(
        &mut self,
        mut result: Result<T, proto::Error>,
    ) -> Result<T, proto::Error> {
        let (services, now) = (&self.services, Instant::now());
        let (metrics, outcome) = (&services.metrics, error::outcome(&result));
        metrics.requests.of(self.operation, outcome).inc();
        let took = now.saturating_duration_since(self.started);
        let seconds = metrics.request_seconds.of(self.operation);
        seconds.observe(took.as_secs_f64());
        if let Err(error) = &mut result {
            error.request_id = self.trace.id(&services.request_ids).to_string();
        }
        if services.slow.is_slow(took) {
            let trace = &mut self.trace;
            // What it waits for when its time is over.
            trace.settle(None, now);
            services.slow.note(SlowRequest {
                ended: SystemTime::now(),
                id: trace.id(&services.request_ids).clone(),
                operation: self.operation,
                outcome,
                shard: trace.shard,
                key: trace.key.clone(),
                forwarded: trace.forwarded,
                passed_on: trace.passed_on,
                tries: trace.tries,
                took,
                stages: trace.stages,
            });
        }
        result
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.services.requests.fetch_sub(1, Ordering::Relaxed);
        self.services.metrics.in_flight_requests.dec();
    }
}

impl Services {
    /// When a request must be answered that came at `now` with this wish.
    pub(super) fn deadline(&self, now: Instant, wish: Option<Duration>) -> Instant {
        now + wish
            .unwrap_or(self.options.default_timeout)
            .min(self.options.max_timeout)
    }

    /// Takes a place for a request that its caller may make; what is refused is counted.
    pub(super) fn admit(
        self: &Arc<Self>,
        caller: &Caller,
        kind: &request::Kind,
        now: Instant,
        trace: Trace,
    ) -> Result<Slot, proto::Error> {
        let mut slot = Slot::take(self, kind, now, trace)?;
        match self.access.check(caller, rights::Operation::Request(kind)) {
            Ok(()) => Ok(slot),
            Err(error) => {
                let Err(error) = slot.end::<Infallible>(Err(error));
                Err(error)
            }
        }
    }

    /// Answers one request that came on its own, and counts it.
    pub(super) async fn answer(
        self: &Arc<Self>,
        caller: &Caller,
        kind: request::Kind,
        wish: Option<Duration>,
        id: RequestId,
    ) -> Result<response::Kind, proto::Error> {
        let now = Instant::now();
        let mut slot = self.admit(caller, &kind, now, Trace::new(id, false, now))?;
        let deadline = self.deadline(now, wish);
        let result = self.perform(kind, deadline, &mut slot.trace).await;
        slot.end(result)
    }
}
