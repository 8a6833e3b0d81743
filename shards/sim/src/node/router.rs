//! A node's routes: the range map, and who leads which shard as far as the node knows. The rules are those of the node's
//! `router`; the map is the same code.

use std::collections::BTreeMap;
use std::sync::Arc;

use flotilla_shards::descriptor::Descriptor;
use flotilla_shards::engine::RoleChange;
use flotilla_shards::ids::{NodeId, ShardId};
use flotilla_shards::raft::Role;
use flotilla_shards::range_map::RangeMap;

#[derive(Clone, Copy, Debug, Default)]
struct View {
    role: Option<Role>,
    own: Option<NodeId>,
    hint: Option<NodeId>,
}

impl View {
    fn leader(&self) -> Option<NodeId> {
        self.hint.or(self.own)
    }
}

/// Where a shard is.
#[derive(Clone, Debug)]
pub(crate) struct Route {
    pub(crate) descriptor: Arc<Descriptor>,
    pub(crate) leader: Option<NodeId>,
    pub(crate) local: bool,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Router {
    local: NodeId,
    map: Arc<RangeMap>,
    views: BTreeMap<ShardId, View>,
}

impl Router {
    pub(crate) fn new(local: NodeId, map: Arc<RangeMap>) -> Self {
        Self {
            local,
            map,
            views: BTreeMap::new(),
        }
    }

    pub(crate) fn local(&self) -> NodeId {
        self.local
    }

    pub(crate) fn map(&self) -> &Arc<RangeMap> {
        &self.map
    }

    pub(crate) fn with_leader(&self, descriptor: Arc<Descriptor>) -> Route {
        Route {
            leader: self.leader(descriptor.shard),
            local: descriptor.replica_on(self.local).is_some(),
            descriptor,
        }
    }

    pub(crate) fn leader(&self, shard: ShardId) -> Option<NodeId> {
        self.views.get(&shard).and_then(View::leader)
    }

    /// Takes in a newer descriptor. Returns whether it is one.
    pub(crate) fn update(&mut self, descriptor: Descriptor) -> bool {
        let known = self.map.by_id(descriptor.shard);
        let news = known.is_none_or(|known| descriptor.epoch.is_newer_than(known.epoch));
        if news {
            self.map = Arc::new(self.map.with(Arc::new(descriptor)));
        }
        news
    }

    /// The local replica's word replaces what others said. Returns whether a leader is known now.
    pub(crate) fn note_change(&mut self, change: &RoleChange) -> bool {
        let view = View {
            role: Some(change.role),
            own: change.leader,
            hint: None,
        };
        self.views.insert(change.shard, view);
        view.own.is_some()
    }

    /// Another node named a leader. Returns whether that is news.
    pub(crate) fn note_leader(&mut self, shard: ShardId, leader: NodeId) -> bool {
        if leader == NodeId::NONE {
            return false;
        }
        let view = self.views.entry(shard).or_default();
        if view.role == Some(Role::Leader) || view.leader() == Some(leader) {
            return false;
        }
        view.hint = (view.own != Some(leader)).then_some(leader);
        true
    }

    /// A node that was named the leader denies it.
    pub(crate) fn note_not_leader(&mut self, shard: ShardId, node: NodeId) {
        if let Some(view) = self.views.get_mut(&shard)
            && view.hint == Some(node)
        {
            view.hint = None;
        }
    }
}
