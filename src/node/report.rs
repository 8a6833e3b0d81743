//! What a node tells about itself: whether it is ready, and where its shards stand.

use std::sync::{Arc, Weak};

use flotilla_metrics::{Counter, Metrics};
use flotilla_shards::{
    engine::ReplicaStatus,
    ids::{NodeId, ShardId},
};
use futures_util::future::BoxFuture;
use serde_json::{Value, json};

use super::{
    Shared,
    census::{Rates, hottest},
    engine::{Running, role},
};
use crate::{
    events::Events,
    process,
    server::Front,
    status::{ReadyCheck, StatusSource, Which},
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
            let router = &running.router;
            // A node without a replica of it hears of no leader, and needs none: what it is asked, it passes on.
            let meta = router.map().by_id(ShardId::META).cloned();
            let concerned = meta.is_some_and(|meta| meta.replica_on(router.local()).is_some());
            let unknown = concerned && router.leader(ShardId::META).is_none();
            unknown.then(|| "the meta shard has no leader that this node knows".to_owned())
        });
        let unasked = running.and_then(|running| {
            let unknown = !running.services.access.is_known();
            unknown.then(|| "no replica of the meta shard has said yet who may do what".to_owned())
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
                name: "access",
                problem: unasked,
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
        let going_down = || Err("the node is going down".to_owned());
        let readiness = self
            .front()
            .map_or_else(going_down, |front| front.readiness());
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "cluster_id": identity.genesis.map(|genesis| short_hex(&genesis.cluster_id)),
            "node_id": identity.node_id,
            "store_id": short_hex(&identity.store_id),
            "address": shared.address,
            "status_address": shared.status_address,
            "ready": readiness.is_ok(),
            "not_ready_reason": readiness.err(),
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
            let status = running.runtime.status(shard).await?;
            let state = self.shared.stores.state.shard_state(shard).ok().flatten();
            let mut page = self.row(running, &status, &self.shared.census.rates());
            page["revision"] = state.map_or(0, |state| state.revision).into();
            Some(page)
        })
    }

    fn shards(&self, which: Which) -> BoxFuture<'_, Value> {
        Box::pin(async move {
            let Some(running) = self.shared.running.get() else {
                return json!({ "shards": [], "next": null });
            };
            let rates = self.shared.census.rates();
            let row = |status: &ReplicaStatus| self.row(running, status, &rates);
            match which {
                Which::After { shard, limit } => {
                    let found = running.runtime.census(ShardId(shard), limit).await;
                    let full = found.len() == limit;
                    let next = found.last().filter(|_| full).map(|last| last.shard.0);
                    let rows: Vec<Value> = found.iter().map(row).collect();
                    json!({ "shards": rows, "next": next })
                }
                Which::Hottest(count) => {
                    let mut rows = Vec::new();
                    for (shard, _) in hottest(&rates, count) {
                        rows.extend(running.runtime.status(shard).await.as_ref().map(row));
                    }
                    json!({ "shards": rows })
                }
            }
        })
    }

    fn slow(&self, limit: usize) -> Value {
        self.shared.slow.to_json(limit)
    }

    fn events(&self) -> &Events {
        &self.shared.events
    }

    fn metrics(&self) -> Arc<Metrics> {
        let metrics = &self.shared.metrics;
        self.measure_databases();
        self.measure_process();
        if let Some(running) = self.shared.running.get() {
            let nodes = running.router.nodes();
            let reachable = nodes
                .keys()
                .filter(|node| running.transport.is_reachable(**node));
            metrics.nodes_known.set(gauge(nodes.len() as u64));
            metrics.nodes_reachable.set(gauge(reachable.count() as u64));
            let shards = running.router.map().ids_after(ShardId(0)).count();
            metrics.shards_known.set(gauge(shards as u64));
            let meta_leader = running.router.leader(ShardId::META);
            metrics.meta_leader_known.set(meta_leader.is_some().into());
            let takes = running.writer.write_takes();
            metrics.log_write_running.set(takes.as_secs_f64());
        }
        Arc::clone(metrics)
    }
}

impl Source {
    /// What the services of all ports share. The front has these pages, so they don't hold it.
    pub(super) fn front(&self) -> Option<Arc<Front>> {
        self.shared.front.get().and_then(Weak::upgrade)
    }

    /// One local replica and its shard, as this node sees them.
    fn row(&self, running: &Running, status: &ReplicaStatus, rates: &Rates) -> Value {
        let shard = status.shard;
        let descriptor = running
            .router
            .by_id(shard)
            .ok()
            .map(|route| route.descriptor);
        let bound = |bound: &[u8]| bound.escape_ascii().to_string();
        let leader = running.router.leader(shard);
        let rate = rates.get(&shard).copied().unwrap_or_default();
        json!({
            "shard": shard.0,
            // Escaped; an end that is empty is that of the keyspace.
            "start": descriptor.as_ref().map(|descriptor| bound(descriptor.range.start())),
            "end": descriptor.as_ref().map(|descriptor| bound(descriptor.range.end())),
            "nodes": descriptor.as_ref().map(|descriptor| {
                descriptor.replicas.iter().map(|replica| replica.node.0).collect::<Vec<_>>()
            }),
            "leader": leader.map(|NodeId(node)| node),
            "role": role(status.role),
            "term": status.term.0,
            "commit": status.commit.0,
            "applied": status.applied.0,
            "last_index": status.last.0,
            "compacted": status.compacted.0,
            "log_bytes": status.log_bytes,
            "resting": status.resting,
            "pending": status.pending,
            "missing_replicas": status.missing,
            "reads_per_second": rate.reads,
            "writes_per_second": rate.writes,
            "written_bytes_per_second": rate.written_bytes,
        })
    }

    fn measure_databases(&self) {
        let metrics = &self.shared.metrics;
        for (which, stats) in self.shared.stores.stats() {
            let gauges = [
                (&metrics.database_disk_bytes, stats.disk_bytes),
                (&metrics.database_memtable_bytes, stats.memtable_bytes),
                (&metrics.database_full_memtables, stats.full_memtables),
                (&metrics.database_level0_files, stats.level0_files),
                (&metrics.database_compaction_debt, stats.compaction_debt),
                (&metrics.database_jobs, stats.jobs),
                (&metrics.database_stopped, stats.stopped.into()),
                (&metrics.database_cache_bytes, stats.cache_bytes),
            ];
            for (family, value) in gauges {
                family.of(which).set(gauge(value));
            }
            let counters = [
                (&metrics.database_flushed_bytes, stats.flushed_bytes),
                (
                    &metrics.database_compaction_read_bytes,
                    stats.compaction_read_bytes,
                ),
                (
                    &metrics.database_compaction_written_bytes,
                    stats.compaction_written_bytes,
                ),
                (&metrics.database_cache_hits, stats.cache_hits),
                (&metrics.database_cache_misses, stats.cache_misses),
            ];
            for (family, total) in counters {
                raise(family.of(which), total);
            }
            let stalls = metrics.database_stall_seconds.of(which);
            stalls.inc_by((stats.stalled.as_secs_f64() - stalls.get()).max(0.0));
        }
    }

    fn measure_process(&self) {
        let metrics = &self.shared.metrics;
        metrics.process_id.set(std::process::id().into());
        metrics.cpu_seconds.set(process::cpu_time().as_secs_f64());
        if let Some((read, written)) = process::disk_io() {
            raise(&metrics.disk_read_bytes, read);
            raise(&metrics.disk_written_bytes, written);
        }
        if let Some(limit) = process::memory_limit() {
            metrics.memory_limit_bytes.set(gauge(limit));
        }
    }
}

fn gauge(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// Brings a counter up to what was counted elsewhere.
fn raise(counter: &Counter, total: u64) {
    counter.inc_by(total.saturating_sub(counter.get()));
}
