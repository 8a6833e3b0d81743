//! Who leads a shard, as a node that may have no replica of it sees it: hints, of which the newest word counts.

use crate::engine::RoleChange;
use crate::ids::NodeId;
use crate::raft::Role;

/// What is known of one shard's leader.
#[derive(Clone, Copy, Debug, Default)]
pub struct LeaderView {
    /// Role of the local replica; none until it has spoken, or if there is none.
    role: Option<Role>,
    /// Whom the local replica follows; [`NodeId::NONE`] for nobody, as below.
    own: NodeId,
    /// What another node said since.
    hint: NodeId,
}

impl LeaderView {
    /// The word of the local replica. It replaces what others said.
    #[must_use]
    pub fn of_replica(change: &RoleChange) -> Self {
        Self {
            role: Some(change.role),
            own: change.leader.unwrap_or(NodeId::NONE),
            hint: NodeId::NONE,
        }
    }

    /// The node that leads, as far as known.
    #[must_use]
    pub fn leader(&self) -> Option<NodeId> {
        let mut known = [self.hint, self.own].into_iter();
        known.find(|node| *node != NodeId::NONE)
    }

    /// Another node named a leader. The local replica knows better if it leads itself. Returns whether that is news.
    pub fn note_leader(&mut self, leader: NodeId) -> bool {
        let known = self.role == Some(Role::Leader) || self.leader() == Some(leader);
        if known || leader == NodeId::NONE {
            return false;
        }
        self.hint = match self.own == leader {
            true => NodeId::NONE,
            false => leader,
        };
        true
    }

    /// A node that was named the leader says that it is not, and knows no other: forgets the hint.
    pub fn note_not_leader(&mut self, node: NodeId) {
        if self.hint == node {
            self.hint = NodeId::NONE;
        }
    }
}
