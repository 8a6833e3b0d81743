//! Source: scenarios R2, R3; thesis 6.4.1; Gray and Cheriton, "Leases" (1989). While a leader holds a lease by its own clock,
//! running or standing still, nobody else is elected for a later term, unless it has handed over. It ends before a quorum's
//! promises do.

use flotilla_shards::engine::RoleChange;
use flotilla_shards::ids::ShardId;
use flotilla_shards::raft::Role;

use super::{Checked, ensure};
use crate::node::Node;
use crate::queue::Micros;

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
        // Votes that arrive late may make somebody the leader of a term that a quorum has left: it commits nothing and is
        // promised nothing.
        let leads = (node.engine.as_ref()).filter(|engine| {
            let status = engine.status(change.shard);
            status.is_some_and(|status| status.term < change.term)
        });
        let end = leads.and_then(|engine| engine.lease_end(change.shard));
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

/// A leader may be about to use its lease at `now`. `tick` is the length of a tick, `bound` until when a quorum is bound to it.
pub(super) fn bound(
    node: &Node,
    shard: ShardId,
    now: Micros,
    tick: Micros,
    bound: Micros,
) -> Checked {
    let end = (node.engine.as_ref()).and_then(|engine| engine.lease_end(shard));
    let end = end.map(|end| node.clock.when(node.started + end * tick, now));
    // A lease that is over by the clock as it is now will not be used, whatever the replica knows yet.
    let end = end.map_or(now, |end| end.unwrap_or(Micros::MAX));
    ensure(end <= now || end <= bound, "leases", || {
        format!(
            "node {}, shard {shard}: at {now} µs the lease lasts until {end}, a quorum is bound until {bound}",
            node.id
        )
    })
}
