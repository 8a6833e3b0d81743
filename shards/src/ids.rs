//! Names of nodes and shards. Replicas are named by [`ReplicaId`](crate::raft::ReplicaId), which is Raft's.

use std::fmt;

/// Identifies a node within its cluster: given by the genesis, from 1, never reused. 0 is no node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub u64);

/// Identifies a shard for all time; never reused, also not after a merge. 0 is no shard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShardId(pub u64);

impl NodeId {
    /// No node: "leader unknown".
    pub const NONE: Self = Self(0);
}

impl ShardId {
    /// The directory of the cluster: descriptors, nodes, id allocators. A shard like any other, whose keys lie in a
    /// namespace of their own.
    pub const META: Self = Self(1);
    /// The first shard of user data.
    pub const FIRST_USER: Self = Self(2);

    /// Whether this is [`ShardId::META`].
    #[must_use]
    pub fn is_meta(self) -> bool {
        self == Self::META
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Display for ShardId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}
