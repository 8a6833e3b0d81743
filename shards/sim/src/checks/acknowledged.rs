//! Source: scenarios D5, M1, M2; cockroach#16749. The disk alone, as a crash left it, is one that a replica can start
//! from: applied is at most committed, and no further than the log, and the log begins no later than what is applied.

use flotilla_shards::engine::RecoveredReplica;

use super::{Checked, ensure};
use crate::node::Node;

pub(super) fn recovered(node: &Node, found: &RecoveredReplica) -> Checked {
    let shard = found.descriptor.shard;
    let fits = found.compacted.index <= found.applied.index
        && found.applied.index <= found.hard_state.commit
        && found.hard_state.commit <= found.last.index
        && found.last.term <= found.hard_state.term;
    ensure(fits, "acknowledged", || {
        format!("node {}, shard {shard}: found {found:?}", node.id)
    })
}
