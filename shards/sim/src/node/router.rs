//! A node's routes: the range map, and who leads which shard as far as the node knows. The rules are the node's own code.

use std::collections::BTreeMap;
use std::sync::Arc;

use flotilla_shards::descriptor::Descriptor;
use flotilla_shards::engine::RoleChange;
use flotilla_shards::ids::{NodeId, ShardId};
use flotilla_shards::range_map::RangeMap;
use flotilla_shards::service::{Routes, leaders::LeaderView};

/// See the module.
#[derive(Debug)]
pub(crate) struct Router {
    local: NodeId,
    map: Arc<RangeMap>,
    views: BTreeMap<ShardId, LeaderView>,
}

impl Router {
    pub(crate) fn new(local: NodeId, map: Arc<RangeMap>) -> Self {
        Self {
            local,
            map,
            views: BTreeMap::new(),
        }
    }

    pub(crate) fn map(&self) -> &Arc<RangeMap> {
        &self.map
    }

    /// The local replica's word. Returns whether a leader is known now.
    pub(crate) fn note_change(&mut self, change: &RoleChange) -> bool {
        let view = LeaderView::of_replica(change);
        self.views.insert(change.shard, view);
        view.leader().is_some()
    }
}

impl Routes for Router {
    fn local(&self) -> NodeId {
        self.local
    }

    fn with_map<R>(&self, look: impl FnOnce(&RangeMap) -> R) -> R {
        look(&self.map)
    }

    fn leader(&self, shard: ShardId) -> Option<NodeId> {
        self.views.get(&shard).and_then(LeaderView::leader)
    }

    fn note_leader(&mut self, shard: ShardId, leader: NodeId) {
        self.views.entry(shard).or_default().note_leader(leader);
    }

    fn note_not_leader(&mut self, shard: ShardId, node: NodeId) {
        if let Some(view) = self.views.get_mut(&shard) {
            view.note_not_leader(node);
        }
    }

    fn update(&mut self, descriptor: Descriptor) {
        let known = self.map.by_id(descriptor.shard);
        if known.is_none_or(|known| descriptor.epoch.is_newer_than(known.epoch)) {
            self.map = Arc::new(self.map.with(Arc::new(descriptor)));
        }
    }
}
