//! Starting and stopping what runs behind the services: storage threads, transport, workers, router.

use std::{
    collections::hash_map::RandomState,
    hash::{BuildHasher as _, Hasher as _},
    sync::{Arc, atomic::AtomicUsize},
    thread::available_parallelism,
};

use flotilla_metrics::{BusyReason, Metrics};
use flotilla_proto::v1 as proto;
use flotilla_shards::{
    engine::{EngineConfig, RecoveredReplica, ReplicaStatus},
    genesis::Genesis,
    ids::{NodeId, ShardId},
    raft::Role,
};
use futures_util::future::BoxFuture;

use super::{
    NodeError, Shared,
    links::{self, Heard, Inwards, Outwards},
    reader::Reader,
};
use crate::{
    config::{Config, Ticks},
    disk::DiskWatch,
    events::Event,
    router::Router,
    runtime::{
        Busy, Reply, Runtime, RuntimeOptions, ShardRequest, Workers,
        applier::{Applier, ApplierLimits},
    },
    server::{
        RuntimeHandle, ServiceOptions, Services,
        access::{Access, AccessOptions},
        audit::Audit,
        forward::NodeStreams,
        services::LONG_READS,
        trace::RequestIds,
    },
    storage::{RocksLogReader, RocksState, StorageWriter},
    transport::{LocalNode, Transport, TransportOptions},
};

/// Threads that own shards; more only help when one is busy all the time.
const WORKERS_MAX: usize = 8;
/// When a client should ask again after the disk was found full.
const DISK_RETRY_MS: u32 = 5_000;

/// Everything that runs once the node is part of a cluster.
pub(super) struct Running {
    pub(super) runtime: Arc<Runtime>,
    pub(super) router: Arc<Router>,
    pub(super) transport: Transport,
    pub(super) services: Arc<Services>,
    pub(super) writer: Arc<StorageWriter>,
    applier: Arc<Applier>,
}

impl Running {
    /// Recovers the replicas and starts all threads. Blocks while it reads the disk; must be called within a tokio
    /// runtime.
    pub(super) fn start(shared: &Shared) -> Result<Self, NodeError> {
        let Shared {
            config,
            stores,
            disk,
            fatal,
            gate,
            metrics,
            ..
        } = shared;
        let identity = stores.identity();
        let seed = RandomState::new().build_hasher().finish();
        let genesis = identity.genesis.unwrap_or_default();
        let genesis =
            Genesis::try_from(genesis).map_err(|error| NodeError::Genesis(error.to_string()))?;
        let node = NodeId(identity.node_id);
        let replicas = stores.recover().map_err(NodeError::Open)?;
        shared.events.note(Event::Started {
            replicas: replicas.len(),
        });
        let nodes: Vec<proto::Node> = genesis.nodes().iter().map(proto::Node::from).collect();
        let router = Arc::new(router(node, &genesis, &replicas, &nodes));

        let ticks = config.raft.ticks();
        let leases = config.raft.leases;
        let leased_before = (stores.log.note_leases(leases)).map_err(NodeError::Storage)?;
        let engine = EngineConfig {
            leases,
            leased_before,
            ..engine_config(config, node, seed, ticks)
        };
        let workers = Workers::new(worker_count(config));
        let inboxes = workers.inboxes();
        let local = LocalNode {
            cluster_id: genesis.cluster().to_vec().into(),
            node_id: node,
            store_id: identity.store_id.clone(),
            address: shared.address.clone(),
            peer_address: shared.peer_address.clone(),
            status_address: shared.status_address.clone(),
            leases: config.raft.leases.then_some(proto::LeaseClock {
                tick_ns: ticks.tick.as_nanos().try_into().unwrap_or(u64::MAX),
                election_ticks: ticks.election,
            }),
            marks: Arc::clone(stores.log.marks()),
        };
        // The genesis has the addresses of the beginning; what this node has now it tells itself.
        router.update_node(proto::Node {
            node_id: node.0,
            address: shared.address.clone(),
            peer_address: shared.peer_address.clone(),
            status_address: shared.status_address.clone(),
            store_id: identity.store_id,
        });
        let inwards = Inwards {
            inboxes: inboxes.clone(),
            router: Arc::clone(&router),
            state: Arc::clone(&stores.state),
            fatal: fatal.clone(),
            events: Arc::clone(&shared.events),
            heard: Heard::default(),
        };
        let tls = shared.tls.as_ref().map(|tls| tls.outgoing());
        let transport = Transport::start(
            local,
            nodes,
            TransportOptions {
                tls: tls.clone(),
                ..transport_options(config)
            },
            Arc::new(inwards),
            Arc::clone(metrics),
        );
        let on_fatal = {
            let fatal = fatal.clone();
            Arc::new(move |error| fatal.storage(error))
        };
        let applier = {
            let inboxes = inboxes.clone();
            Applier::start(
                Arc::clone(&stores.state),
                ApplierLimits {
                    replay_bytes: config.storage.replay_limit.bytes(),
                    flush_age: config.storage.flush_age,
                    ..ApplierLimits::default()
                },
                Box::new(move |event| links::applied(&inboxes, event)),
                Arc::clone(&on_fatal) as _,
                Arc::clone(metrics),
            )
        };
        let applier = Arc::new(applier.map_err(NodeError::Storage)?);
        let writer = {
            let (transport, inboxes) = (transport.clone(), inboxes.clone());
            StorageWriter::start(
                Arc::clone(&stores.log) as _,
                applier.installer(),
                Box::new(move |releases| links::release(&transport, &inboxes, releases)),
                on_fatal,
                Arc::clone(metrics),
            )
        };
        let writer = Arc::new(writer.map_err(NodeError::Storage)?);
        let outwards = Outwards {
            transport: transport.clone(),
            writer: Arc::clone(&writer),
            applier: Arc::clone(&applier),
            router: Arc::clone(&router),
            state: Arc::clone(&stores.state),
            inboxes,
            fatal: fatal.clone(),
            events: Arc::clone(&shared.events),
            incarnation: (stores.log.marks().lineage().newest()).map_or(seed, |now| now.start),
        };
        let options = RuntimeOptions {
            tick: ticks.tick,
            in_flight_bytes_max: config.limits.in_flight_bytes.bytes(),
        };
        let runtime = Runtime::start(
            workers,
            &options,
            &engine,
            &RocksLogReader(Arc::clone(&stores.log)),
            replicas,
            &outwards,
            metrics,
        );
        let runtime = Arc::new(runtime.map_err(NodeError::Start)?);
        let services = Arc::new(Services {
            router: Arc::clone(&router),
            runtime: Arc::new(Handle {
                runtime: Arc::clone(&runtime),
                state: Arc::clone(&stores.state),
                disk: Arc::clone(disk),
                metrics: Arc::clone(metrics),
            }),
            state: Arc::new(Reader {
                state: Arc::clone(&stores.state),
                fatal: fatal.clone(),
            }),
            forward: Arc::new(NodeStreams::new(tls)),
            transport: transport.clone(),
            access: Access::new(AccessOptions {
                enforce: config.access.enforce,
                max_age: config.access.max_age,
            }),
            audit: Audit::default(),
            limits: (&config.limits).into(),
            options: ServiceOptions {
                default_timeout: config.limits.request_timeout,
                max_timeout: config.limits.request_timeout_max,
                max_requests: config.limits.in_flight_requests,
                ..ServiceOptions::default()
            },
            metrics: Arc::clone(metrics),
            requests: AtomicUsize::new(0),
            long_reads: tokio::sync::Semaphore::new(LONG_READS),
            slow: Arc::clone(&shared.slow),
            request_ids: RequestIds::default(),
            gate: gate.clone(),
        });
        Ok(Self {
            runtime,
            router,
            transport,
            services,
            writer,
            applier,
        })
    }

    /// Stops all threads in the order in which work flows: what was taken in is written and applied, and the state is
    /// flushed. Blocks.
    pub(super) fn stop(&self) {
        self.runtime.stop();
        self.writer.stop();
        self.applier.stop();
        self.transport.stop();
    }
}

fn router(
    node: NodeId,
    genesis: &Genesis,
    replicas: &[RecoveredReplica],
    nodes: &[proto::Node],
) -> Router {
    // The own replicas share their descriptors with the map; the genesis has those that are elsewhere.
    let own = replicas
        .iter()
        .map(|replica| Arc::clone(&replica.descriptor));
    let known = |shard| replicas.binary_search_by_key(&shard, |replica| replica.descriptor.shard);
    let elsewhere = genesis.shard_ids().any(|shard| known(shard).is_err());
    let others = elsewhere.then(|| genesis.shards()).into_iter().flatten();
    let others = others.filter(|descriptor| known(descriptor.shard).is_err());
    Router::new(node, own.chain(others.map(Arc::new)), nodes.iter().cloned())
}

fn worker_count(config: &Config) -> usize {
    match config.node.workers {
        0 => available_parallelism().map_or(1, |cores| (cores.get() / 2).clamp(1, WORKERS_MAX)),
        workers => workers,
    }
}

fn engine_config(config: &Config, node: NodeId, seed: u64, ticks: Ticks) -> EngineConfig {
    let raft = &config.raft;
    let defaults = EngineConfig::new(node, seed);
    EngineConfig {
        election_ticks: ticks.election,
        heartbeat_ticks: ticks.heartbeat,
        read_ticks: ticks.election.saturating_mul(2),
        append_bytes_max: raft.append_bytes.bytes(),
        uncommitted_bytes_max: raft.uncommitted_bytes.bytes(),
        queued_bytes_max: raft.uncommitted_bytes.len(),
        inflight_messages_max: raft.inflight_appends,
        inflight_bytes_max: raft.inflight_bytes.bytes(),
        cache_bytes_per_shard: raft.cache_bytes.bytes(),
        reserve_entries: raft.reserve_entries,
        log_bytes_per_shard: raft.log_bytes.bytes(),
        quiesce_ticks: ticks.quiesce,
        ..defaults
    }
}

fn transport_options(config: &Config) -> TransportOptions {
    let transport = &config.transport;
    TransportOptions {
        queue_bytes: transport.queue_bytes.len(),
        connect_timeout: transport.connect_timeout,
        backoff_last: transport.reconnect_max,
        snapshot_bytes_per_second: transport.snapshot_rate.bytes(),
        snapshot_sends: transport.snapshots,
        snapshot_receives: transport.snapshots,
        ..TransportOptions::default()
    }
}

/// The engine, as the services see it.
struct Handle {
    runtime: Arc<Runtime>,
    state: Arc<RocksState>,
    disk: Arc<DiskWatch>,
    metrics: Arc<Metrics>,
}

impl RuntimeHandle for Handle {
    fn submit(&self, shard: ShardId, request: ShardRequest, reply: Reply) -> Result<(), Busy> {
        if matches!(request, ShardRequest::Write { .. })
            && let Err(low) = self.disk.check()
        {
            self.metrics.busy.of(BusyReason::DiskFull).inc();
            return Err(Busy {
                reason: low.to_string().into(),
                retry_after_ms: DISK_RETRY_MS,
            });
        }
        self.runtime.submit(shard, request, reply)
    }

    fn may_read(&self, shard: ShardId) -> bool {
        self.runtime.may_read(shard)
    }

    fn replica_info(&self, shard: ShardId) -> BoxFuture<'_, Option<proto::ReplicaInfo>> {
        Box::pin(async move {
            let status = self.runtime.status(shard).await?;
            let state = self.state.shard_state(shard).ok().flatten();
            Some(replica_info(
                &status,
                state.map_or(0, |state| state.revision),
            ))
        })
    }

    fn transfer_leader(&self, shard: ShardId, node: NodeId) -> BoxFuture<'_, bool> {
        Box::pin(self.runtime.transfer_leader(shard, node))
    }
}

/// A role as operators read it.
pub(super) fn role(role: Role) -> &'static str {
    match role {
        Role::Follower => "follower",
        Role::Candidate => "candidate",
        Role::Leader => "leader",
        Role::PreCandidate => "pre-candidate",
    }
}

fn replica_info(status: &ReplicaStatus, revision: u64) -> proto::ReplicaInfo {
    proto::ReplicaInfo {
        role: role(status.role).to_owned(),
        term: status.term.0,
        commit: status.commit.0,
        applied: status.applied.0,
        last_index: status.last.0,
        compacted: status.compacted.0,
        revision,
    }
}
