//! Source: cockroach#36414, #38566, #113135 (log truncated before the applied state is durable). What is cut from a log is
//! in the durable applied state, and that is committed.

use flotilla_shards::engine::Compaction;

use super::{Checked, ensure};
use crate::node::Node;

pub(super) fn check(node: &Node, compaction: &Compaction) -> Checked {
    let Compaction { shard, upto } = *compaction;
    let durable = node.state.durable_applied(shard);
    ensure(
        durable.is_some_and(|durable| upto.index <= durable),
        "compaction",
        || {
            format!(
                "node {}, shard {shard}: the log is cut up to {}, but the durable state is at {durable:?}",
                node.id, upto.index
            )
        },
    )
}
