//! Source: Raft paper, figure 2 (persistent state). Term, vote and commit index of a replica never go back, also across
//! crashes, and a replica votes for one candidate per term.

use std::collections::BTreeMap;

use flotilla_shards::engine::RecoveredReplica;
use flotilla_shards::ids::ShardId;
use flotilla_shards::raft::{HardState, Term};

use super::{Checked, ensure};

const CHECK: &str = "hard_state";

/// What was last handed to each node's storage writer. After a crash: what was found.
pub(crate) struct HardStates(Vec<BTreeMap<ShardId, HardState>>);

impl HardStates {
    pub(super) fn new(nodes: usize) -> Self {
        Self(vec![BTreeMap::new(); nodes])
    }

    pub(super) fn append(&mut self, at: usize, shard: ShardId, new: HardState) -> Checked {
        let old = self.0[at].entry(shard).or_default();
        let same_vote = old.term != new.term || old.vote.is_none() || old.vote == new.vote;
        ensure(
            old.term <= new.term && old.commit <= new.commit && same_vote,
            CHECK,
            || {
                format!(
                    "node {}, shard {shard}: {old:?} is followed by {new:?}",
                    at + 1
                )
            },
        )?;
        *old = new;
        Ok(())
    }

    /// The term that a replica is in.
    pub(super) fn term(&self, at: usize, shard: ShardId) -> Term {
        (self.0[at].get(&shard)).map_or(Term(0), |state| state.term)
    }

    /// What was not synced may be gone; that nothing is gone which anybody was told of is `promises`' affair.
    pub(super) fn recovered(&mut self, at: usize, found: &RecoveredReplica) {
        self.0[at].insert(found.descriptor.shard, found.hard_state);
    }
}
