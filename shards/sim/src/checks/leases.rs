//! Source: scenarios R2, R3; thesis 6.4.1; Gray and Cheriton, "Leases" (1989). While a leader holds a lease by its own clock,
//! running or standing still, nobody else is elected, unless it has handed over.

use flotilla_shards::engine::RoleChange;
use flotilla_shards::raft::Role;

use super::{Checked, ensure};
use crate::node::Node;

/// `tick` is that of a node's clock now.
pub(super) fn role(
    nodes: &[Node],
    tick: impl Fn(&Node) -> u64,
    at: usize,
    change: &RoleChange,
) -> Checked {
    if change.role != Role::Leader {
        return Ok(());
    }
    for (other, node) in nodes.iter().enumerate().filter(|(other, _)| *other != at) {
        let end = (node.engine.as_ref()).and_then(|engine| engine.lease_end(change.shard));
        let now = tick(node);
        ensure(end.is_none_or(|end| end <= now), "leases", || {
            format!(
                "shard {}: node {} leads term {}, but at tick {now} node {} has a lease up to tick {end:?}",
                change.shard,
                at + 1,
                change.term,
                other + 1
            )
        })?;
    }
    Ok(())
}
