//! What the console is told of this node, and how it asks the others.

use std::sync::Arc;

use axum::{
    Router,
    body::{Body, to_bytes},
    http::Request,
};
use bytes::Bytes;
use flotilla_proto::v1 as proto;
use flotilla_shards::{
    engine::ReplicaStatus,
    ids::{NodeId, ShardId},
    keys,
    raft::Role,
    range_map::RangeMap,
};
use futures_util::future::{BoxFuture, join_all};
use tonic::codegen::Service as _;

use super::{
    blocking,
    census::{Rate, hottest},
    engine::{Running, role},
    report::Source,
};
use crate::{
    console::{
        ConsoleSource, KnownNode,
        cluster::{HotShard, Moment, NodeReport},
        heat::Heat,
        shards::{Load, RankBy, Ranked, Ranking, ReplicaRow, ShardRow},
    },
    runtime::PAGE,
    server::{bootstrap, pages::Pages},
    transport::handshake::short_hex,
};

/// Shards that were asked most, told by each node.
const HOTTEST: usize = 20;
/// Bytes of a page that a node asks of itself or another.
const PAGE_BYTES_MAX: usize = 4 << 20;

impl From<Rate> for Load {
    fn from(rate: Rate) -> Self {
        Self {
            reads: rate.reads,
            writes: rate.writes,
            bytes: rate.written_bytes,
        }
    }
}

impl Source {
    fn running(&self) -> Option<&Running> {
        self.shared.running.get()
    }

    fn load(&self, shard: ShardId) -> Load {
        let rates = self.shared.census.rates();
        rates
            .get(&shard)
            .copied()
            .map(Load::from)
            .unwrap_or_default()
    }

    /// Bytes that the data of some shards take in files, in their order.
    async fn data_bytes(&self, running: &Running, shards: &[ShardId]) -> Vec<u64> {
        let map = running.router.map();
        let rows = shards.iter().map(|shard| {
            let descriptor = map.by_id(*shard);
            let range = descriptor
                .map_or_else(flotilla_shards::descriptor::KeyRange::all, |found| {
                    found.range.clone()
                });
            keys::data_rows(*shard, &range)
        });
        let rows: Vec<keys::RowRange> = rows.collect();
        drop(map);
        let state = Arc::clone(&self.shared.stores.state);
        blocking(move || state.disk_bytes(&rows)).await
    }
}

impl ConsoleSource for Source {
    fn local(&self) -> Option<(NodeId, String)> {
        let running = self.running()?;
        let genesis = self.shared.stores.identity().genesis?;
        Some((running.router.local(), short_hex(&genesis.cluster_id)))
    }

    fn nodes(&self) -> Vec<KnownNode> {
        let Some(running) = self.running() else {
            return Vec::new();
        };
        let nodes = running.router.nodes();
        let known = nodes.iter().map(|(id, node)| KnownNode {
            node: *id,
            address: node.address.clone(),
            status_address: node.status_address.clone(),
            reachable: running.transport.is_reachable(*id),
        });
        known.collect()
    }

    fn map(&self) -> Arc<RangeMap> {
        self.running()
            .map(|running| Arc::clone(&running.router.map()))
            .unwrap_or_default()
    }

    fn leader(&self, shard: ShardId) -> Option<NodeId> {
        self.running()?.router.leader(shard)
    }

    fn report(&self) -> NodeReport {
        let shards = self.running().map(|running| running.router.local_shards());
        let shards = shards.unwrap_or_default();
        let gauge = |value: i64| u64::try_from(value).unwrap_or(0);
        let (metrics, census) = (&self.shared.metrics, &self.shared.census);
        let hot = |running: &Running| {
            let map = running.router.map();
            let hot = hottest(&census.rates(), HOTTEST).into_iter();
            let row = |(shard, rate): (ShardId, Rate)| {
                let row = ShardRow::untold(map.by_id(shard)?);
                Some(HotShard {
                    shard: row.shard,
                    start: row.start,
                    end: row.end,
                    leader: running.router.leader(shard).map(|node| node.0),
                    load: rate.into(),
                })
            };
            hot.filter_map(row).collect()
        };
        NodeReport {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            not_ready: self.shared.first_problem(),
            uptime_seconds: self.shared.started.elapsed().as_secs(),
            replicas: shards.replicas,
            leaders: shards.leaders,
            resting: gauge(metrics.shards_resting.get()),
            under_replicated: gauge(metrics.under_replicated.get()),
            without_quorum: gauge(metrics.without_quorum.get()),
            vitals: census.figures.vitals(),
            hottest: self.running().map(hot).unwrap_or_default(),
        }
    }

    fn history(&self) -> Vec<Moment> {
        self.shared.census.figures.moments()
    }

    fn heat(&self) -> &Heat {
        &self.shared.census.heat
    }

    fn rows(&self, shards: Vec<ShardId>) -> BoxFuture<'_, Vec<ShardRow>> {
        Box::pin(async move {
            let Some(running) = self.running() else {
                return Vec::new();
            };
            let found = shards.iter().map(|shard| running.runtime.status(*shard));
            let found: Vec<ReplicaStatus> = join_all(found).await.into_iter().flatten().collect();
            let ids: Vec<ShardId> = found.iter().map(|status| status.shard).collect();
            let sizes = self.data_bytes(running, &ids).await;
            let map = running.router.map();
            let rows = found.iter().zip(sizes).filter_map(|(status, data_bytes)| {
                let replica = replica_row(status, self.load(status.shard), data_bytes);
                Some(ShardRow {
                    leader: running.router.leader(status.shard).map(|node| node.0),
                    replica: Some(replica),
                    ..ShardRow::untold(map.by_id(status.shard)?)
                })
            });
            rows.collect()
        })
    }

    fn ranked(&self, ranking: Ranking) -> BoxFuture<'_, Ranked> {
        Box::pin(async move {
            let Some(running) = self.running() else {
                return Ranked::default();
            };
            let rates = self.shared.census.rates();
            let mut led: Vec<ReplicaStatus> = Vec::new();
            let mut after = ShardId(0);
            loop {
                let page = running.runtime.census(after, PAGE).await;
                let Some(last) = page.last() else {
                    break;
                };
                after = last.shard;
                let map = running.router.map();
                let on = |shard: ShardId, node| {
                    let shard = map.by_id(shard);
                    shard.is_some_and(|shard| shard.replica_on(NodeId(node)).is_some())
                };
                led.extend(page.into_iter().filter(|status| {
                    status.role == Role::Leader
                        && !(ranking.lacking && status.missing == 0)
                        && ranking.node.is_none_or(|node| on(status.shard, node))
                }));
            }
            let rate =
                |status: &ReplicaStatus| rates.get(&status.shard).copied().unwrap_or_default();
            let sizes = match ranking.by {
                RankBy::Size => {
                    let ids: Vec<ShardId> = led.iter().map(|status| status.shard).collect();
                    self.data_bytes(running, &ids).await
                }
                _ => Vec::new(),
            };
            let value = |(at, status): (usize, &ReplicaStatus)| {
                let value = match ranking.by {
                    RankBy::Requests => rate(status).requests(),
                    RankBy::Reads => rate(status).reads,
                    RankBy::Writes => rate(status).writes,
                    RankBy::Bytes => rate(status).written_bytes,
                    RankBy::Size => sizes.get(at).copied().unwrap_or_default() as f64,
                    RankBy::Log => status.log_bytes as f64,
                    RankBy::Pending => status.pending as f64,
                };
                (status.shard.0, value)
            };
            Ranked::of(led.iter().enumerate().map(value).collect(), ranking.count)
        })
    }

    fn ask(&self, node: NodeId, path: String) -> BoxFuture<'_, Result<Bytes, String>> {
        Box::pin(async move {
            let running = self
                .running()
                .ok_or("this node is not part of a cluster yet")?;
            let page = if node == running.router.local() {
                let pages = self.front().and_then(|front| front.pages().cloned());
                pages.ok_or("the node is going down")?.page(path).await
            } else {
                let known = running.router.node(node).ok_or("the node is not known")?;
                let tls = self.shared.tls.as_ref();
                let tls = tls.map(|tls| tls.outgoing().expecting(node));
                bootstrap::page_of(known.for_peers(), path, tls.as_ref()).await?
            };
            match page.code {
                200 => Ok(page.body),
                code => Err(format!("{code}: {}", String::from_utf8_lossy(&page.body))),
            }
        })
    }
}

fn replica_row(status: &ReplicaStatus, load: Load, data_bytes: u64) -> ReplicaRow {
    ReplicaRow {
        role: role(status.role).to_owned(),
        term: status.term.0,
        commit: status.commit.0,
        applied: status.applied.0,
        last: status.last.0,
        compacted: status.compacted.0,
        log_bytes: status.log_bytes,
        data_bytes,
        resting: status.resting,
        pending: status.pending as u64,
        missing: status.missing as u64,
        load,
    }
}

/// The pages of the status port, without the port.
pub(super) struct StatusPages(pub(super) Router);

impl Pages for StatusPages {
    fn page(&self, path: String) -> BoxFuture<'_, proto::PageResponse> {
        let mut router = self.0.clone();
        Box::pin(async move {
            let Ok(request) = Request::get(path).body(Body::empty()) else {
                return refused(400, "the path is none");
            };
            // A router is always ready, and has an answer to everything.
            let Ok(answer) = router.call(request).await;
            let code = answer.status().as_u16();
            match to_bytes(answer.into_body(), PAGE_BYTES_MAX).await {
                Ok(body) => proto::PageResponse {
                    code: code.into(),
                    body,
                },
                Err(_) => refused(500, "the page is larger than any may be"),
            }
        })
    }
}

fn refused(code: u32, why: &'static str) -> proto::PageResponse {
    proto::PageResponse {
        code,
        body: Bytes::from_static(why.as_bytes()),
    }
}
