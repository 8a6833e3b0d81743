//! Source: design.md 6; scenarios W8 (etcd#14571, databend#19794). The applied state is a function of the log alone:
//! replicas of a shard that are at the same index hold the same rows, sessions included.

use std::collections::BTreeMap;

use flotilla_shards::ids::ShardId;
use flotilla_shards::raft::Index;

use super::{Checked, ensure};
use crate::node::Node;

/// Positions of a shard that are remembered.
const KEPT: usize = 512;

/// Hash of each shard's rows by applied index, with the node that was first there.
#[derive(Default)]
pub(crate) struct StateHashes {
    shards: BTreeMap<ShardId, BTreeMap<Index, (u64, u64)>>,
    compared: u64,
}

impl StateHashes {
    /// How often two replicas were compared.
    pub(crate) fn compared(&self) -> u64 {
        self.compared
    }

    pub(super) fn note(&mut self, node: &Node, shard: ShardId, index: Index, hash: u64) -> Checked {
        let known = self.shards.entry(shard).or_default();
        let (first, expected) = *known.entry(index).or_insert((node.id.0, hash));
        self.compared += u64::from(first != node.id.0);
        if known.len() > KEPT {
            known.pop_first();
        }
        ensure(expected == hash, "state_hash", || {
            format!(
                "shard {shard} at index {index}: node {} has {hash:016x}, node {first} had {expected:016x}",
                node.id
            )
        })
    }
}
