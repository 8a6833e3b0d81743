//! Serving clients, as pure rules: what a request becomes, where it goes, what follows from a refusal, and how it is
//! answered. The node's server and the simulator both drive these; sockets, tasks, clocks and metrics are theirs.
//!
//! | room | what |
//! | --- | --- |
//! | [`request`] | the kinds of requests: checks, routes, the read itself, the answer |
//! | [`call`] | the way of one request to one shard: tries, forwarding, waiting for a leader |
//! | [`retry`] | how often a client tries |
//! | [`leaders`] | who leads a shard, from what the own replica and other nodes say |
//! | [`error`] | every way in which a request can fail, and what each proves about what was written |
#![allow(
    clippy::result_large_err,
    reason = "the protocol's error, whole; once per request"
)]

pub mod call;
pub mod error;
pub mod leaders;
pub mod request;
pub mod retry;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use crate::descriptor::Descriptor;
use crate::ids::{NodeId, ShardId};
use crate::range_map::RangeMap;

/// Where a shard is.
#[derive(Clone, Debug)]
pub struct Route {
    /// The newest description that is known here.
    pub descriptor: Arc<Descriptor>,
    /// The node that leads, as far as known.
    pub leader: Option<NodeId>,
    /// Whether this node has a replica.
    pub local: bool,
}

/// What a node knows of where shards are and who leads them. A wrong answer costs a hop, never more: the engine checks
/// leadership and epoch itself.
pub trait Routes {
    /// This node.
    fn local(&self) -> NodeId;

    /// Looks at the range map.
    fn with_map<R>(&self, look: impl FnOnce(&RangeMap) -> R) -> R;

    /// The node that leads a shard, as far as known.
    fn leader(&self, shard: ShardId) -> Option<NodeId>;

    /// Another node named a leader.
    fn note_leader(&mut self, shard: ShardId, leader: NodeId);

    /// A node that was named the leader says that it is not, or can't be asked.
    fn note_not_leader(&mut self, shard: ShardId, node: NodeId);

    /// Takes in a descriptor. An older one than is known changes nothing.
    fn update(&mut self, descriptor: Descriptor);

    /// A descriptor with what is known of its leader.
    fn with_leader(&self, descriptor: Arc<Descriptor>) -> Route {
        Route {
            leader: self.leader(descriptor.shard),
            local: descriptor.replica_on(self.local()).is_some(),
            descriptor,
        }
    }
}
