//! Source: Raft paper 5.2 (Election Safety). At most one leader can be elected in a given term.

use std::collections::BTreeMap;

use flotilla_shards::engine::{Outgoing, RoleChange};
use flotilla_shards::ids::ShardId;
use flotilla_shards::raft::{MessageKind, ReplicaId, Role, Term};

use super::{Checked, ensure};

const CHECK: &str = "election";

/// Who led which term: by what replicas say of themselves, and by messages that only a leader sends.
#[derive(Default)]
pub(crate) struct Elections {
    leaders: BTreeMap<(ShardId, Term), ReplicaId>,
    nodes: BTreeMap<(ShardId, Term), usize>,
}

impl Elections {
    /// Number of terms that had a leader.
    pub(crate) fn count(&self) -> u64 {
        self.nodes.len() as u64
    }

    /// Whether a node was elected for this term.
    pub(super) fn leads(&self, at: usize, shard: ShardId, term: Term) -> bool {
        self.nodes.get(&(shard, term)) == Some(&at)
    }

    pub(super) fn sent(&mut self, outgoing: &Outgoing) -> Checked {
        use MessageKind as K;
        let message = &outgoing.message;
        if !matches!(
            message.kind,
            K::App | K::Heartbeat | K::Snap | K::TimeoutNow
        ) {
            return Ok(());
        }
        let shard = outgoing.shard;
        let known = *(self.leaders.entry((shard, message.term))).or_insert(message.from);
        ensure(known == message.from, CHECK, || {
            format!(
                "shard {shard}: replicas {known} and {} both lead term {}",
                message.from, message.term
            )
        })
    }

    pub(super) fn role(&mut self, at: usize, change: &RoleChange) -> Checked {
        if change.role != Role::Leader {
            return Ok(());
        }
        let known = *(self.nodes.entry((change.shard, change.term))).or_insert(at);
        ensure(known == at, CHECK, || {
            format!(
                "shard {}: nodes {} and {} both lead term {}",
                change.shard,
                known + 1,
                at + 1,
                change.term
            )
        })
    }
}
