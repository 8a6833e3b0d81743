//! Source: thesis 6.4 (ReadIndex) and 6.4.1 (leases); scenarios R1, R2. A linearizable read sees at least what was committed
//! anywhere when it was asked for. One that is confirmed by a lease was taken in while promises of a quorum held; so is one
//! that reads by an open lease, without asking.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use flotilla_shards::engine::{ConfirmedRead, Outgoing};
use flotilla_shards::ids::ShardId;
use flotilla_shards::raft::{EntryId, MessageKind};

use super::{Checked, committed::Committed, ensure};
use crate::node::Handle;

const CHECK: &str = "confirmed_reads";

/// A node reads what it has applied, by a lease that its engine has opened. `promised`: promises of a quorum hold.
pub(super) fn by_open_lease(
    at: usize,
    shard: ShardId,
    promised: bool,
    applied: Option<EntryId>,
    committed: EntryId,
) -> Checked {
    let node = at + 1;
    ensure(promised, CHECK, || {
        format!("node {node}, shard {shard}: a read by an open lease without promises of a quorum")
    })?;
    ensure(applied >= Some(committed), CHECK, || {
        format!(
            "node {node}, shard {shard}: a read by an open lease sees {applied:?}, but {committed:?} is committed"
        )
    })
}

/// How things stood when a read was asked for.
struct Asked {
    /// The last entry that was committed anywhere.
    committed: EntryId,
    /// Whether promises of a quorum held, so that a lease may confirm it in the turn that takes it in.
    promised: bool,
}

/// See the module.
pub(crate) struct ConfirmedReads {
    /// Reads that each node's engine has taken and not answered.
    asked: Vec<BTreeMap<Handle, Asked>>,
    /// Reads of followers that each node has taken in, by what their answers name: messages may come twice.
    forwarded: Vec<BTreeSet<(ShardId, Bytes)>>,
    /// Those that are new in this turn, and whether promises of a quorum hold.
    fresh: Vec<(ShardId, Bytes, bool)>,
}

impl ConfirmedReads {
    pub(super) fn new(nodes: usize) -> Self {
        Self {
            asked: (0..nodes).map(|_| BTreeMap::new()).collect(),
            forwarded: vec![BTreeSet::new(); nodes],
            fresh: Vec::new(),
        }
    }

    /// A turn begins.
    pub(super) fn turn(&mut self) {
        self.fresh.clear();
    }

    pub(super) fn forwarded(&mut self, at: usize, shard: ShardId, context: &Bytes, promised: bool) {
        if self.forwarded[at].insert((shard, context.clone())) {
            self.fresh.push((shard, context.clone(), promised));
        }
    }

    /// Who answers in the same turn has asked nobody.
    pub(super) fn sent(&self, at: usize, outgoing: &Outgoing) -> Checked {
        let Outgoing { shard, message, .. } = outgoing;
        if message.kind != MessageKind::ReadIndexResp {
            return Ok(());
        }
        let mut fresh = self.fresh.iter();
        let taken = fresh.find(|(of, context, _)| of == shard && *context == message.context);
        ensure(taken.is_none_or(|(.., promised)| *promised), CHECK, || {
            format!(
                "node {}, shard {shard}: a follower's read is confirmed at index {} at once, without promises of a quorum",
                at + 1,
                message.index
            )
        })
    }

    pub(super) fn asked(&mut self, at: usize, handle: Handle, committed: EntryId, promised: bool) {
        self.asked[at].insert(
            handle,
            Asked {
                committed,
                promised,
            },
        );
    }

    /// A call ended otherwise than by a confirmed read.
    pub(super) fn ended_call(&mut self, at: usize, handle: Handle) {
        self.asked[at].remove(&handle);
    }

    pub(super) fn confirmed(
        &mut self,
        at: usize,
        read: &ConfirmedRead<Handle>,
        known: &Committed,
    ) -> Checked {
        let Some(asked) = self.asked[at].remove(&read.reply) else {
            // The check of requests knows.
            return Ok(());
        };
        let (node, shard, index) = (at + 1, read.shard, read.index);
        let committed = asked.committed.index;
        ensure(index >= committed, CHECK, || {
            format!(
                "node {node}, shard {shard}: a read may be served at index {index}, but when it was asked for {committed} was \
                 committed"
            )
        })?;
        // Reads wait for a new leader's first commit, and are not confirmed in the turn that took them in.
        let waited = known.term(shard, index) > Some(asked.committed.term);
        ensure(!read.leased || asked.promised || waited, CHECK, || {
            format!(
                "node {node}, shard {shard}: its lease confirms a read at index {index} without promises of a quorum"
            )
        })
    }

    pub(super) fn ended(&mut self, at: usize) {
        self.asked[at].clear();
        self.forwarded[at].clear();
    }
}
