//! What a node tells about itself: whether it is ready, and where its shards stand.

use std::sync::Arc;

use flotilla_metrics::Metrics;
use flotilla_shards::ids::{NodeId, ShardId};
use futures_util::future::BoxFuture;
use serde_json::{Value, json};

use super::Shared;
use crate::{
    process::cpu_time,
    server::Front,
    status::{ReadyCheck, StatusSource},
    transport::handshake::short_hex,
};

impl Shared {
    /// All conditions of being ready. None of them asks for a quorum of user shards: a healthy node must not be taken
    /// out because others have failed.
    pub(super) fn checks(&self) -> Vec<ReadyCheck> {
        let running = self.running.get();
        let joined = match running {
            Some(_) => None,
            None => Some("not part of a cluster yet: run `flotilla init`".to_owned()),
        };
        let meta = running.and_then(|running| {
            let known = running.router.leader(ShardId::META).is_some();
            (!known).then(|| "the meta shard has no leader that this node knows".to_owned())
        });
        let stalled = running.and_then(|running| {
            let takes = running.writer.write_takes();
            let bound = self.config.raft.election_timeout;
            (takes >= bound).then(|| format!("the disk has been at one write for {takes:.1?}"))
        });
        let draining = self.draining.borrow().then(|| "draining".to_owned());
        vec![
            ReadyCheck {
                name: "joined",
                problem: joined,
            },
            ReadyCheck {
                name: "meta",
                problem: meta,
            },
            ReadyCheck {
                name: "disk",
                problem: stalled,
            },
            ReadyCheck {
                name: "draining",
                problem: draining,
            },
        ]
    }

    pub(super) fn first_problem(&self) -> Option<String> {
        self.checks().into_iter().find_map(|check| check.problem)
    }
}

/// The status port's view of the node.
pub(super) struct Source {
    pub(super) shared: Arc<Shared>,
    pub(super) front: Arc<Front>,
}

impl StatusSource for Source {
    fn ready(&self) -> Vec<ReadyCheck> {
        self.shared.checks()
    }

    fn status(&self) -> Value {
        let shared = &self.shared;
        let identity = shared.stores.identity();
        let shards = shared
            .running
            .get()
            .map(|running| running.router.local_shards());
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "cluster_id": identity.genesis.map(|genesis| short_hex(&genesis.cluster_id)),
            "node_id": identity.node_id,
            "store_id": short_hex(&identity.store_id),
            "address": shared.address,
            "status_address": shared.status_address,
            "ready": self.front.readiness().is_ok(),
            "not_ready_reason": self.front.readiness().err(),
            "shards": shards.as_ref().map(|shards| shards.replicas),
            "leaders": shards.as_ref().map(|shards| shards.leaders),
            "shards_without_leader": shards.as_ref().map(|shards| shards.without_leader),
            "uptime_seconds": shared.started.elapsed().as_secs(),
        })
    }

    fn shard(&self, id: u64) -> BoxFuture<'_, Option<Value>> {
        Box::pin(async move {
            let running = self.shared.running.get()?;
            let shard = ShardId(id);
            let info = running.services.runtime.replica_info(shard).await?;
            let leader = running.router.leader(shard);
            Some(json!({
                "shard": id,
                "leader": leader.map(|NodeId(node)| node),
                "role": info.role,
                "term": info.term,
                "commit": info.commit,
                "applied": info.applied,
                "last_index": info.last_index,
                "compacted": info.compacted,
                "revision": info.revision,
            }))
        })
    }

    fn metrics(&self) -> Arc<Metrics> {
        let metrics = &self.shared.metrics;
        let bytes = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
        let stores = &self.shared.stores;
        metrics
            .state_disk_bytes
            .set(bytes(stores.state.disk_bytes()));
        metrics
            .state_memtable_bytes
            .set(bytes(stores.state.memtable_bytes()));
        metrics.process_id.set(std::process::id().into());
        metrics.cpu_seconds.set(cpu_time().as_secs_f64());
        if let Some(running) = self.shared.running.get() {
            let nodes = running.router.nodes();
            let reachable = nodes
                .keys()
                .filter(|node| running.transport.is_reachable(**node));
            metrics.nodes_reachable.set(bytes(reachable.count() as u64));
        }
        Arc::clone(metrics)
    }
}
