//! Source: Raft paper 5.1 and figure 2 ("updated on stable storage before responding to RPCs"); etcd#14370, openraft
//! ee460f37. A vote or an acknowledgement that leaves a node speaks of what is on its disk, synced. Whoever promises not to
//! vote has so much there that it will not take itself for newborn after a restart, and vote at once.

use flotilla_shards::engine::Outgoing;
use flotilla_shards::genesis::GENESIS_INDEX;
use flotilla_shards::raft::MessageKind;

use super::{Checked, ensure};
use crate::node::Node;

const CHECK: &str = "promises";

pub(super) fn check(node: &Node, outgoing: &Outgoing) -> Checked {
    let message = &outgoing.message;
    let shard = outgoing.shard;
    let kind = message.kind;
    match kind {
        MessageKind::VoteResp | MessageKind::AppResp if !message.reject => {}
        MessageKind::HeartbeatResp if message.promise => {}
        _ => return Ok(()),
    }
    let disk = node.log.0.borrow();
    let log = disk.durable(shard);
    let holds = log.is_some_and(|log| {
        let state = log.hard_state;
        // What was true in a later term can't be told any more, and was checked when it was said.
        state.term > message.term
            || match kind {
                MessageKind::VoteResp => state.term == message.term && state.vote == message.to,
                MessageKind::HeartbeatResp => {
                    !state.vote.is_none() || log.last().index > GENESIS_INDEX
                }
                _ => state.term == message.term && log.last().index >= message.index,
            }
    });
    ensure(holds, CHECK, || {
        format!(
            "node {}, shard {shard}: {kind:?} to replica {} in term {}, index {}, but the disk has {:?} and ends at {:?}",
            node.id,
            message.to,
            message.term,
            message.index,
            log.map(|log| log.hard_state),
            log.map(super::super::disk::log::ShardLog::last),
        )
    })
}
