//! What clients ask of a shard.

use flotilla_proto::v1::Command;

/// A request to the replica on this node.
#[derive(Debug)]
pub enum ShardRequest {
    /// A write, checked against the limits.
    Write {
        /// What to do.
        command: Command,
        /// Its encoded length.
        bytes: usize,
    },
    /// Confirmation that the local state may be read linearizably.
    Read,
}
