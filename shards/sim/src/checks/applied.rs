//! Source: Raft paper 5.3 (entries are applied in log order). Entries are handed to the applier in order and without a gap;
//! after a start from the applied index that was found on.

use std::collections::BTreeMap;

use flotilla_shards::engine::RecoveredReplica;
use flotilla_shards::ids::ShardId;
use flotilla_shards::raft::{Entry, Index};

use super::{Checked, ensure};

/// The last index handed to each node's applier.
pub(crate) struct AppliedOrder(Vec<BTreeMap<ShardId, Index>>);

impl AppliedOrder {
    pub(super) fn new(nodes: usize) -> Self {
        Self(vec![BTreeMap::new(); nodes])
    }

    pub(super) fn hand_out(&mut self, at: usize, shard: ShardId, entries: &[Entry]) -> Checked {
        let last = self.0[at].entry(shard).or_default();
        for entry in entries {
            ensure(entry.index == last.next(), "applied", || {
                format!(
                    "node {}, shard {shard}: entry {} is handed out for application after {last}",
                    at + 1,
                    entry.index
                )
            })?;
            *last = entry.index;
        }
        Ok(())
    }

    /// An installed snapshot takes the place of the entries up to it.
    pub(crate) fn installed(&mut self, at: usize, shard: ShardId, index: Index) {
        let last = self.0[at].entry(shard).or_default();
        *last = index.max(*last);
    }

    pub(super) fn recovered(&mut self, at: usize, found: &RecoveredReplica) {
        self.0[at].insert(found.descriptor.shard, found.applied.index);
    }
}
