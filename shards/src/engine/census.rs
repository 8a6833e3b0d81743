//! What operators are told of a replica.

use super::{EngineConfig, LogReader, liveness::Liveness, replica::Replica};
use crate::{
    ids::{NodeId, ShardId},
    raft::{Index, Role, Term, progress::ProgressState},
};

/// Where a replica stands, for operators.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicaStatus {
    /// Whose replica.
    pub shard: ShardId,
    /// The own role.
    pub role: Role,
    /// The own term.
    pub term: Term,
    /// Where the leader lives, if known.
    pub leader: Option<NodeId>,
    /// Highest committed index.
    pub commit: Index,
    /// Highest index that the state database has.
    pub applied: Index,
    /// End of the log.
    pub last: Index,
    /// Last index that was cut from the log.
    pub compacted: Index,
    /// Bytes of the log that are not cut, roughly.
    pub log_bytes: u64,
    /// Whether it rests.
    pub resting: bool,
    /// Writes that wait here: not yet proposed, or proposed and not yet committed.
    pub pending: usize,
    /// Replicas that vote, this one included.
    pub voters: usize,
    /// As leader: voters that are on silent nodes or need a snapshot. Otherwise 0.
    pub missing: usize,
    /// What was asked of it.
    pub load: Load,
}

impl ReplicaStatus {
    /// As leader: whether too many voters are missing for anything to be committed.
    #[must_use]
    pub fn lacks_quorum(&self) -> bool {
        self.missing > 0 && 2 * (self.voters - self.missing.min(self.voters)) <= self.voters
    }
}

/// What was asked of a replica since it was opened. Reads of whatever the replica has, without any confirmation, don't
/// come here and don't count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Linearizable reads.
    pub reads: u64,
    /// Writes that it proposed as leader.
    pub writes: u64,
    /// Their encoded commands, in bytes.
    pub written_bytes: u64,
}

impl<C, L: LogReader + Clone> Replica<C, L> {
    pub(super) fn status(&self, config: &EngineConfig, liveness: &Liveness) -> ReplicaStatus {
        let view = self.node.storage();
        let pending = self.waiting.as_ref().map_or(0, |waiting| {
            let proposed = waiting.proposed.iter().map(|(_, replies)| replies.len());
            waiting.queued.len() + proposed.sum::<usize>()
        });
        ReplicaStatus {
            shard: self.shard,
            role: self.node.role(),
            term: self.node.term(),
            leader: self.leader(),
            commit: self.node.committed(),
            applied: self.node.applied(),
            last: self.node.last_index(),
            compacted: view.compacted().index,
            log_bytes: view.log_bytes(),
            resting: self.node.is_quiescent(),
            pending,
            voters: self
                .descriptor
                .replicas
                .iter()
                .filter(|replica| !replica.learner)
                .count(),
            missing: self.missing(config, liveness),
            load: self.load,
        }
    }

    /// See [`ReplicaStatus::missing`]. Who lives is known from the nodes' words where they tell each other, else from the
    /// group's own heartbeats.
    fn missing(&self, config: &EngineConfig, liveness: &Liveness) -> usize {
        if !self.is_leader() {
            return 0;
        }
        let own = self.node.id();
        let members = self.node.raft.tracker().progress.iter();
        let others = members.filter(|(id, progress)| !progress.is_learner && *id != own);
        let missing = others.filter(|(id, progress)| {
            let lives = match config.quiesce_ticks {
                0 => progress.recent_active,
                _ => self
                    .node_of(*id)
                    .is_some_and(|node| liveness.is_alive(node)),
            };
            !lives || progress.state == ProgressState::Snapshot
        });
        missing.count()
    }
}
