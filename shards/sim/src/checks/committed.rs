//! Source: Raft paper 5.4 (Leader Completeness, State Machine Safety; figure 8), and openraft#1802 (commit without a real
//! quorum). A committed entry never changes; at the moment of its commit it is on the disks of a quorum, whatever the leader
//! believes, and the last one committed is of the leader's term; whoever is elected later has it; only committed entries are
//! applied.

use std::collections::BTreeMap;

use flotilla_shards::engine::RoleChange;
use flotilla_shards::genesis::{GENESIS_INDEX, GENESIS_TERM};
use flotilla_shards::ids::ShardId;
use flotilla_shards::raft::{Entry, EntryId, Index, Role, Term};

use super::{ByIndex, Checked, ensure, log_matching::LogMatching};
use crate::node::{Node, Phase};

const CHECK: &str = "committed";

/// A committed position: the entry's term, and the term of whoever first said so.
#[derive(Clone, Copy, Debug)]
struct Commit {
    term: Term,
    by: Term,
}

/// See the module.
#[derive(Default)]
pub(crate) struct Committed {
    shards: BTreeMap<ShardId, ByIndex<Commit>>,
    entries: u64,
}

fn begin() -> ByIndex<Commit> {
    ByIndex::starting(GENESIS_INDEX.next())
}

impl Committed {
    /// Number of committed entries.
    pub(crate) fn count(&self) -> u64 {
        self.entries
    }

    /// The last committed entry of a shard.
    pub(super) fn last(&self, shard: ShardId) -> EntryId {
        let last = self.shards.get(&shard).and_then(|known| {
            let (index, commit) = known.iter_back().next()?;
            let term = commit.term;
            Some(EntryId { term, index })
        });
        last.unwrap_or(EntryId {
            term: GENESIS_TERM,
            index: GENESIS_INDEX,
        })
    }

    /// The term of a committed entry.
    pub(super) fn term(&self, shard: ShardId, index: Index) -> Option<Term> {
        let commit = self.shards.get(&shard)?.get(index);
        commit.map(|commit| commit.term)
    }

    /// The leader of term `by` says that a shard is committed up to `commit`. What older leaders left behind is committed
    /// together with an entry of its own only: a quorum that has it may yet be outvoted.
    pub(super) fn counted(
        &self,
        at: usize,
        shard: ShardId,
        commit: Index,
        by: Term,
        logs: &LogMatching,
    ) -> Checked {
        let term = logs.term(at, shard, commit);
        let of_own = commit <= self.last(shard).index || term.is_none_or(|term| term == by);
        ensure(of_own, CHECK, || {
            format!(
                "node {} leads shard {shard} in term {by} and commits up to entry {commit} of term {term:?}",
                at + 1
            )
        })
    }

    /// A node says that a shard is committed up to `commit`: to its followers, to its disk, or by applying it.
    pub(super) fn commit(
        &mut self,
        nodes: &[Node],
        at: usize,
        shard: ShardId,
        commit: Index,
        by: Term,
        logs: &LogMatching,
    ) -> Checked {
        let known = self.shards.entry(shard).or_insert_with(begin);
        let (base, end) = logs.bounds(at, shard);
        ensure(commit <= end, CHECK, || {
            format!(
                "node {}, shard {shard}: commit index {commit} is beyond the log's end {end}",
                at + 1
            )
        })?;
        let from = known.last();
        for index in (from.0 + 1..=commit.0).map(Index) {
            let Some(term) = logs.term(at, shard, index) else {
                // Covered by a snapshot, which was made of committed entries by somebody who said so before.
                return ensure(index <= base, CHECK, || {
                    format!("node {}, shard {shard}: entry {index} is missing", at + 1)
                });
            };
            known.push(Commit { term, by });
            self.entries += 1;
        }
        if commit > from {
            durable_on_quorum(nodes, shard, commit, logs.term(at, shard, commit))?;
        } else if let Some(term) = logs.term(at, shard, commit)
            && commit > base
        {
            let expected = known.get(commit).map_or(GENESIS_TERM, |commit| commit.term);
            ensure(term == expected, CHECK, || {
                format!(
                    "node {}, shard {shard}: entry {commit} has term {term} and is committed, but it was committed with \
                     term {expected}",
                    at + 1
                )
            })?;
        }
        Ok(())
    }

    /// A node elected later has everything that was committed before.
    pub(super) fn role(&mut self, at: usize, change: &RoleChange, logs: &LogMatching) -> Checked {
        if change.role != Role::Leader {
            return Ok(());
        }
        let shard = change.shard;
        let Some(known) = self.shards.get(&shard) else {
            return Ok(());
        };
        let newest = known
            .iter_back()
            .find(|(_, commit)| commit.by < change.term);
        let Some((index, commit)) = newest else {
            return Ok(());
        };
        let (base, end) = logs.bounds(at, shard);
        let found = logs.term(at, shard, index);
        ensure(index < base || found == Some(commit.term), CHECK, || {
            format!(
                "node {} leads shard {shard} in term {} without entry {index} of term {}, committed in term {}: its log \
                 ends at {end} and has term {found:?} there",
                at + 1,
                change.term,
                commit.term,
                commit.by
            )
        })
    }

    /// A node is about to apply an entry.
    pub(super) fn applies(&mut self, at: usize, shard: ShardId, entry: &Entry) -> Checked {
        let known = self
            .shards
            .get(&shard)
            .and_then(|known| known.get(entry.index));
        ensure(
            known.is_some_and(|commit| commit.term == entry.term),
            CHECK,
            || {
                format!(
                    "node {}, shard {shard}: applies entry {} of term {}, committed is {known:?}",
                    at + 1,
                    entry.index,
                    entry.term
                )
            },
        )
    }
}

/// From a god's view: the entry is on the disks of a majority of the voters. Lost replicas count as having had it.
fn durable_on_quorum(nodes: &[Node], shard: ShardId, index: Index, term: Option<Term>) -> Checked {
    let map = nodes[0].router.map();
    let Some(descriptor) = map.by_id(shard) else {
        return Ok(());
    };
    let voters = descriptor
        .replicas
        .iter()
        .filter(|replica| !replica.learner);
    let (mut count, mut holders) = (0, 0);
    for replica in voters {
        count += 1;
        let Some(node) = nodes.iter().find(|node| node.id == replica.node) else {
            continue;
        };
        let disk = node.log.0.borrow();
        let has = disk.durable(shard).is_some_and(|log| {
            log.compacted.index >= index || (log.term(index).is_some() && log.term(index) == term)
        });
        holders += usize::from(has || node.phase == Phase::Lost);
    }
    ensure(holders > count / 2, CHECK, || {
        format!(
            "shard {shard}: entry {index} of term {term:?} is committed, and on the disks of {holders} of {count} voters"
        )
    })
}
