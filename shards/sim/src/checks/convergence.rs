//! Source: scenarios, "two phases"; N1, M10 (openraft#1828). Once the faults have ended, every shard that has a majority of
//! its replicas gets a leader, its replicas get to the same index with the same content, and everybody is answered, within
//! a bounded time and without any client's help.

use flotilla_shards::ids::ShardId;
use flotilla_shards::raft::{Index, Role};

use super::{Checked, ensure};
use crate::node::{Node, Phase};

/// What a shard still lacks, if it has a majority of its replicas; none if it has settled.
pub(crate) fn behind(nodes: &[Node], shard: ShardId) -> Option<String> {
    let descriptor = nodes[0].router.map().by_id(shard)?;
    let mut live = Vec::new();
    for replica in &descriptor.replicas {
        let node = nodes.iter().find(|node| node.id == replica.node)?;
        if node.phase != Phase::Lost {
            live.push(node);
        }
    }
    if live.len() <= descriptor.replicas.len() / 2 {
        return None;
    }
    let mut leader = None;
    let mut positions: Vec<(Index, Index, Index)> = Vec::new();
    for node in live {
        let Some(status) = node.engine.as_ref().and_then(|engine| engine.status(shard)) else {
            return Some(format!("shard {shard}: node {} does not run it", node.id));
        };
        if status.role == Role::Leader {
            leader = Some(node.id);
        }
        positions.push((status.last, status.commit, status.applied));
    }
    if leader.is_none() {
        return Some(format!("shard {shard} has no leader"));
    }
    let (last, commit, applied) = positions[0];
    let settled = last == commit && commit == applied;
    if !settled || positions.iter().any(|other| *other != positions[0]) {
        return Some(format!(
            "shard {shard}: its replicas are at {positions:?} (last, commit, applied)"
        ));
    }
    None
}

/// Replicas that have settled at the same index hold the same.
pub(crate) fn diverged(nodes: &[Node], shard: ShardId) -> Checked {
    let Some(descriptor) = nodes[0].router.map().by_id(shard) else {
        return Ok(());
    };
    let members = nodes
        .iter()
        .filter(|node| node.phase == Phase::Up && descriptor.replica_on(node.id).is_some());
    let hashes: Vec<u64> = members.map(|node| node.state.hash(shard)).collect();
    ensure(
        hashes.windows(2).all(|pair| pair[0] == pair[1]),
        "convergence",
        || format!("shard {shard}: the replicas' contents differ: {hashes:x?}"),
    )
}
