//! Where a request goes: key → descriptor → the node that leads.
//!
//! The range map is an immutable snapshot behind an atomic pointer: a lookup takes no lock. Leaders are hints, kept per
//! shard: what the local replica believes (from its [`RoleChange`]s) and what other nodes said. A wrong hint costs one
//! hop, never a wrong answer, because the engine checks leadership and epoch itself.
//!
//! What may not live here: shards' state, retries and deadlines of requests (see `server`).

#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use arc_swap::{ArcSwap, Guard};
use dashmap::DashMap;
use flotilla_proto::v1 as proto;
use flotilla_shards::{
    descriptor::Descriptor,
    engine::RoleChange,
    ids::{NodeId, ShardId},
    range_map::RangeMap,
    service::{Route, Routes, leaders::LeaderView},
};
use parking_lot::Mutex;
use tokio::{
    sync::Notify,
    time::{Instant, timeout_at},
};

/// Waiters of so many groups of shards are woken apart from each other.
const STRIPES: usize = 64;
/// Requests that may wait for a leader on one node; more are answered "busy".
const WAITERS_MAX: usize = 64 * 1024;

/// Why there is no way for a request.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RouteError {
    /// No shard has this id.
    #[error("shard {0} is not known")]
    UnknownShard(ShardId),
    /// Too many requests wait for leaders already.
    #[error("{WAITERS_MAX} requests wait for an election already")]
    TooManyWaiters,
}

/// How many replicas this node has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LocalShards {
    /// All of them.
    pub replicas: u64,
    /// Those that lead.
    pub leaders: u64,
    /// Those that know no leader.
    pub without_leader: u64,
}

/// Routes of all shards, and the nodes' addresses.
#[derive(Debug)]
pub struct Router {
    local: NodeId,
    map: ArcSwap<RangeMap>,
    nodes: ArcSwap<BTreeMap<NodeId, Arc<proto::Node>>>,
    /// Held while `map` or `nodes` is replaced.
    changing: Mutex<()>,
    views: DashMap<ShardId, LeaderView>,
    stripes: [Notify; STRIPES],
    waiters: AtomicUsize,
}

impl Router {
    /// The routes as this node knows them at its start.
    #[must_use]
    pub fn new(
        local: NodeId,
        descriptors: impl IntoIterator<Item = Arc<Descriptor>>,
        nodes: impl IntoIterator<Item = proto::Node>,
    ) -> Self {
        let nodes = nodes
            .into_iter()
            .map(|node| (NodeId(node.node_id), Arc::new(node)));
        Self {
            local,
            map: ArcSwap::from_pointee(RangeMap::new(descriptors)),
            nodes: ArcSwap::from_pointee(nodes.collect()),
            changing: Mutex::new(()),
            views: DashMap::new(),
            stripes: [const { Notify::const_new() }; STRIPES],
            waiters: AtomicUsize::new(0),
        }
    }

    /// This node.
    #[must_use]
    pub fn local(&self) -> NodeId {
        self.local
    }

    /// The shard with this id.
    ///
    /// # Errors
    /// [`RouteError::UnknownShard`].
    pub fn by_id(&self, shard: ShardId) -> Result<Route, RouteError> {
        let descriptor = self.map.load().by_id(shard).cloned();
        descriptor
            .map(|descriptor| self.with_leader(descriptor))
            .ok_or(RouteError::UnknownShard(shard))
    }

    /// The node that leads a shard, as far as known.
    #[must_use]
    pub fn leader(&self, shard: ShardId) -> Option<NodeId> {
        self.views.get(&shard).and_then(|view| view.leader())
    }

    /// The whole map as it is now.
    #[must_use]
    pub fn map(&self) -> Guard<Arc<RangeMap>> {
        self.map.load()
    }

    /// Takes in a descriptor. An older one than is known changes nothing.
    pub fn update(&self, descriptor: Arc<Descriptor>) {
        let _one_at_a_time = self.changing.lock();
        let map = self.map.load();
        let shard = descriptor.shard;
        let news = map
            .by_id(shard)
            .is_none_or(|known| descriptor.epoch.is_newer_than(known.epoch));
        if news {
            self.map.store(Arc::new(map.with(descriptor)));
            self.wake(shard);
        }
    }

    /// The local replica's role or leader changed: its word replaces what others said.
    pub fn note_change(&self, change: &RoleChange) {
        let view = LeaderView::of_replica(change);
        self.views.insert(change.shard, view);
        if view.leader().is_some() {
            self.wake(change.shard);
        }
    }

    /// Another node named a leader.
    pub fn note_leader(&self, shard: ShardId, leader: NodeId) {
        let news = self.views.entry(shard).or_default().note_leader(leader);
        if news {
            self.wake(shard);
        }
    }

    /// A node that was named the leader says that it is not, and knows no other.
    pub fn note_not_leader(&self, shard: ShardId, node: NodeId) {
        if let Some(mut view) = self.views.get_mut(&shard) {
            view.note_not_leader(node);
        }
    }

    /// Waits until a leader of the shard is known that is not `denied` (who just said that it does not lead), at most
    /// until `until`; then answers whatever is known.
    ///
    /// # Errors
    /// [`RouteError::TooManyWaiters`].
    pub async fn wait_for_leader(
        &self,
        shard: ShardId,
        denied: Option<NodeId>,
        until: Instant,
    ) -> Result<Option<NodeId>, RouteError> {
        let _waiter = Waiter::new(&self.waiters)?;
        loop {
            // Registered before the look: a change between the two is not missed.
            let mut changed = std::pin::pin!(self.stripe(shard).notified());
            changed.as_mut().enable();
            let leader = self.leader(shard);
            if leader.is_some() && leader != denied {
                return Ok(leader);
            }
            if timeout_at(until, changed).await.is_err() {
                return Ok(self.leader(shard));
            }
        }
    }

    fn stripe(&self, shard: ShardId) -> &Notify {
        &self.stripes[shard.0 as usize % STRIPES]
    }

    fn wake(&self, shard: ShardId) {
        self.stripe(shard).notify_waiters();
    }

    /// A node's address and store.
    #[must_use]
    pub fn node(&self, node: NodeId) -> Option<Arc<proto::Node>> {
        self.nodes.load().get(&node).cloned()
    }

    /// All nodes, by id.
    #[must_use]
    pub fn nodes(&self) -> Guard<Arc<BTreeMap<NodeId, Arc<proto::Node>>>> {
        self.nodes.load()
    }

    /// Takes in a node, or a known node's new address.
    pub fn update_node(&self, node: proto::Node) {
        let _one_at_a_time = self.changing.lock();
        let mut nodes = BTreeMap::clone(&self.nodes.load());
        nodes.insert(NodeId(node.node_id), Arc::new(node));
        self.nodes.store(Arc::new(nodes));
    }

    /// Counts this node's replicas. Looks at every shard: for status pages, not for hot paths.
    #[must_use]
    pub fn local_shards(&self) -> LocalShards {
        let map = self.map.load();
        let mut count = LocalShards::default();
        for descriptor in map.ids_after(ShardId(0)) {
            if descriptor.replica_on(self.local).is_none() {
                continue;
            }
            count.replicas += 1;
            let leader = self.leader(descriptor.shard);
            count.leaders += u64::from(leader == Some(self.local));
            count.without_leader += u64::from(leader.is_none());
        }
        count
    }
}

impl Routes for &Router {
    fn local(&self) -> NodeId {
        self.local
    }

    fn with_map<R>(&self, look: impl FnOnce(&RangeMap) -> R) -> R {
        look(&self.map.load())
    }

    fn leader(&self, shard: ShardId) -> Option<NodeId> {
        Router::leader(self, shard)
    }

    fn note_leader(&mut self, shard: ShardId, leader: NodeId) {
        Router::note_leader(self, shard, leader);
    }

    fn note_not_leader(&mut self, shard: ShardId, node: NodeId) {
        Router::note_not_leader(self, shard, node);
    }

    fn update(&mut self, descriptor: Descriptor) {
        Router::update(self, Arc::new(descriptor));
    }
}

/// One request that waits; the count falls when it ends, in whatever way.
struct Waiter<'a>(&'a AtomicUsize);

impl<'a> Waiter<'a> {
    fn new(count: &'a AtomicUsize) -> Result<Self, RouteError> {
        let waiter = Self(count);
        if count.fetch_add(1, Ordering::Relaxed) >= WAITERS_MAX {
            return Err(RouteError::TooManyWaiters);
        }
        Ok(waiter)
    }
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
