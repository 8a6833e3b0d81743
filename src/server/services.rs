//! What the services of an initialized node stand on.

use std::{
    borrow::Borrow,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use flotilla_metrics::{BusyReason, Metrics, Operation};
use flotilla_proto::v1::{self as proto, request, response};
use flotilla_shards::{
    ids::{NodeId, ShardId},
    kv::StateView,
    limits::Limits,
};
use futures_util::future::BoxFuture;
use tokio::time::Instant;

use super::{error, forward::Forward};
use crate::{
    router::Router,
    runtime::{Busy, Reply, ShardRequest},
    shutdown::{Gate, GateGuard, Holder},
    transport::Transport,
};

/// The engine, as the services see it.
pub trait RuntimeHandle: Send + Sync + 'static {
    /// Asks something of a shard. Never blocks. A reply that is dropped unanswered means that the engine stopped.
    ///
    /// # Errors
    /// If too much is in flight; the reply is dropped unused.
    fn submit(&self, shard: ShardId, request: ShardRequest, reply: Reply) -> Result<(), Busy>;

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
}

/// A request's place among those that the node works on, and its measurement.
pub(super) struct Slot {
    services: Arc<Services>,
    operation: Operation,
    started: Instant,
    _inside: Option<GateGuard>,
}

impl Slot {
    /// Takes a place.
    ///
    /// # Errors
    /// "Busy" if there is none, "shutting down" if the gate is closed; both are counted.
    pub(super) fn take(
        services: &Arc<Services>,
        operation: Operation,
        started: Instant,
    ) -> Result<Self, proto::Error> {
        let before = services.requests.fetch_add(1, Ordering::Relaxed);
        services.metrics.in_flight_requests.inc();
        let mut slot = Self {
            services: Arc::clone(services),
            operation,
            started,
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
        slot.note(&Err::<(), _>(&error));
        Err(error)
    }

    /// Counts how the request ended.
    pub(super) fn note<T, E: Borrow<proto::Error>>(&self, result: &Result<T, E>) {
        let metrics = &self.services.metrics;
        metrics
            .requests
            .of(self.operation, error::outcome(result))
            .inc();
        metrics
            .request_seconds
            .of(self.operation)
            .observe(self.started.elapsed().as_secs_f64());
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

    /// Answers one request that came on its own, and counts it.
    pub(super) async fn answer(
        self: &Arc<Self>,
        kind: request::Kind,
        wish: Option<Duration>,
        forwarded: bool,
    ) -> Result<response::Kind, proto::Error> {
        let now = Instant::now();
        let slot = Slot::take(self, super::request::operation(&kind), now)?;
        let deadline = self.deadline(now, wish);
        let result = self.perform(kind, deadline, forwarded).await;
        slot.note(&result);
        result
    }
}
