//! What must hold after every event, one file per invariant, each with its source in the first line.
//!
//! The simulator calls the hooks below as things happen; they see the whole cluster, also what no node can know. Each
//! costs what the event touched, never the size of the cluster.

mod acknowledged;
mod applied;
mod committed;
mod compaction;
mod confirmed_reads;
mod convergence;
mod election;
mod fresh_reads;
mod hard_state;
mod leases;
mod log_matching;
mod promised_votes;
mod promises;
mod requests;
mod session_answers;
mod state_hash;
mod stores;
mod tiling;

use std::collections::VecDeque;

use flotilla_proto::v1::CommandAnswer;
use flotilla_shards::descriptor::Descriptor;
use flotilla_shards::engine::{
    Compaction, ConfirmedRead, LogAppend, Outgoing, RecoveredReplica, RoleChange,
};
use flotilla_shards::ids::ShardId;
use flotilla_shards::raft::{Entry, EntryKind, Index, Message, MessageKind, Term};

use crate::node::{Handle, Input, Node};
use crate::queue::Micros;
use crate::settings::Settings;
use crate::trace::{hash_bytes, mix};

pub(crate) use convergence::{behind, diverged};
pub(crate) use stores::judged;

/// A broken invariant.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{check}: {what}")]
pub struct Violation {
    /// The check that found it, by the name of its file.
    pub check: &'static str,
    /// What was found, and what was expected.
    pub what: String,
}

pub(crate) type Checked = Result<(), Violation>;

/// A violation, unless `holds`.
pub(crate) fn ensure(holds: bool, check: &'static str, what: impl FnOnce() -> String) -> Checked {
    if holds {
        Ok(())
    } else {
        Err(Violation {
            check,
            what: what(),
        })
    }
}

/// What an entry is, but for its position.
pub(crate) fn entry_hash(entry: &Entry) -> u64 {
    let kind = match entry.kind {
        EntryKind::Normal => 0,
        EntryKind::ConfChange => 1,
        EntryKind::ConfChangeV2 => 2,
    };
    mix(hash_bytes(kind, &entry.data), entry.term.0)
}

/// A row for each position of a log, from some index on.
#[derive(Clone, Debug)]
pub(crate) struct ByIndex<T> {
    first: u64,
    rows: VecDeque<T>,
}

impl<T> ByIndex<T> {
    fn starting(first: Index) -> Self {
        Self {
            first: first.0,
            rows: VecDeque::new(),
        }
    }

    fn get(&self, index: Index) -> Option<&T> {
        let at = index.0.checked_sub(self.first)?;
        self.rows.get(usize::try_from(at).ok()?)
    }

    fn get_mut(&mut self, index: Index) -> Option<&mut T> {
        let at = index.0.checked_sub(self.first)?;
        self.rows.get_mut(usize::try_from(at).ok()?)
    }

    /// Index of the last row; one before the first if there is none.
    fn last(&self) -> Index {
        Index(self.first + self.rows.len() as u64 - 1)
    }

    fn push(&mut self, row: T) {
        self.rows.push_back(row);
    }

    /// Forgets everything from `index` on.
    fn truncate(&mut self, index: Index) {
        let keep = index.0.saturating_sub(self.first);
        self.rows
            .truncate(usize::try_from(keep).unwrap_or(usize::MAX));
    }

    fn iter_back(&self) -> impl Iterator<Item = (Index, &T)> {
        let last = self.last().0;
        (self.rows.iter().rev().zip(0..)).map(move |(row, back)| (Index(last - back), row))
    }
}

/// All invariants of one cluster.
pub(crate) struct Checks {
    pub(crate) hard_state: hard_state::HardStates,
    pub(crate) log_matching: log_matching::LogMatching,
    pub(crate) election: election::Elections,
    pub(crate) committed: committed::Committed,
    pub(crate) applied: applied::AppliedOrder,
    pub(crate) state_hash: state_hash::StateHashes,
    pub(crate) sessions: session_answers::SessionAnswers,
    pub(crate) reads: fresh_reads::FreshReads,
    pub(crate) requests: requests::Requests,
    pub(crate) stores: stores::Stores,
    pub(crate) votes: promised_votes::PromisedVotes,
    pub(crate) confirmed: confirmed_reads::ConfirmedReads,
    tick: Micros,
}

impl Checks {
    pub(crate) fn new(settings: &Settings) -> Self {
        let nodes = settings.nodes;
        Self {
            hard_state: hard_state::HardStates::new(nodes),
            log_matching: log_matching::LogMatching::new(nodes),
            election: election::Elections::default(),
            committed: committed::Committed::default(),
            applied: applied::AppliedOrder::new(nodes),
            state_hash: state_hash::StateHashes::default(),
            sessions: session_answers::SessionAnswers::default(),
            reads: fresh_reads::FreshReads::default(),
            requests: requests::Requests::new(nodes),
            stores: stores::Stores::new(nodes),
            votes: promised_votes::PromisedVotes::new(settings),
            confirmed: confirmed_reads::ConfirmedReads::new(nodes),
            tick: settings.tick,
        }
    }

    /// The cluster is born.
    pub(crate) fn born(&mut self, shards: &[Descriptor]) -> Checked {
        tiling::check(shards)
    }

    /// A node hands an append to its storage writer.
    pub(crate) fn append(&mut self, nodes: &[Node], at: usize, append: &LogAppend) -> Checked {
        self.log_matching.append(at, append)?;
        if let Some(state) = append.hard_state {
            self.hard_state.append(at, append.shard, state)?;
            self.counted(at, append.shard, state.commit, state.term)?;
            self.committed.commit(
                nodes,
                at,
                append.shard,
                state.commit,
                state.term,
                &self.log_matching,
            )?;
        }
        Ok(())
    }

    /// A node says how far it has committed, and not only how far somebody else may do so.
    fn counted(&self, at: usize, shard: ShardId, commit: Index, by: Term) -> Checked {
        match self.election.leads(at, shard, by) {
            true => (self.committed).counted(at, shard, commit, by, &self.log_matching),
            false => Ok(()),
        }
    }

    /// A message leaves a node.
    pub(crate) fn sent(
        &mut self,
        nodes: &[Node],
        at: usize,
        now: Micros,
        outgoing: &Outgoing,
    ) -> Checked {
        self.election.sent(outgoing)?;
        self.votes.sent(&nodes[at], at, now, outgoing)?;
        self.confirmed.sent(at, outgoing)?;
        let Outgoing { shard, message, .. } = outgoing;
        if message.kind == MessageKind::App {
            self.counted(at, *shard, message.commit, message.term)?;
        }
        if let MessageKind::App | MessageKind::Heartbeat = message.kind {
            let logs = &self.log_matching;
            self.committed
                .commit(nodes, at, *shard, message.commit, message.term, logs)?;
        }
        promises::check(&nodes[at], outgoing)
    }

    /// A replica changed its role. `tick` is that of each node's clock now.
    pub(crate) fn role(
        &mut self,
        nodes: &[Node],
        tick: impl Fn(&Node) -> u64,
        at: usize,
        change: &RoleChange,
    ) -> Checked {
        self.election.role(at, change)?;
        leases::role(nodes, tick, at, change)?;
        self.committed.role(at, change, &self.log_matching)
    }

    /// A node is about to cut a log.
    pub(crate) fn compaction(&mut self, node: &Node, compaction: &Compaction) -> Checked {
        compaction::check(node, compaction)
    }

    /// Committed entries are handed to a node's applier.
    pub(crate) fn hand_out(
        &mut self,
        nodes: &[Node],
        at: usize,
        shard: ShardId,
        entries: &[Entry],
    ) -> Checked {
        if let Some(last) = entries.last() {
            let (by, logs) = (self.hard_state.term(at, shard), &self.log_matching);
            self.committed
                .commit(nodes, at, shard, last.index, by, logs)?;
        }
        for entry in entries {
            self.committed.applies(at, shard, entry)?;
        }
        self.applied.hand_out(at, shard, entries)
    }

    /// A node's applier got these answers from an entry.
    pub(crate) fn answers(
        &mut self,
        shard: ShardId,
        entry: &Entry,
        answers: &[CommandAnswer],
    ) -> Checked {
        self.sessions.entry(shard, entry, answers)
    }

    /// A shard's state on a node has come to `index`.
    pub(crate) fn state(&mut self, node: &Node, shard: ShardId, index: Index) -> Checked {
        self.state_hash
            .note(node, shard, index, node.state.hash(shard))
    }

    /// A node found a replica on its disk.
    pub(crate) fn recovered(
        &mut self,
        node: &Node,
        at: usize,
        found: &RecoveredReplica,
    ) -> Checked {
        let shard = found.descriptor.shard;
        self.hard_state.recovered(at, found);
        acknowledged::recovered(node, found)?;
        self.applied.recovered(at, found);
        let disk = node.log.0.borrow();
        self.log_matching
            .recovered(at, shard, found.compacted, disk.entries(shard));
        Ok(())
    }

    /// A call was handed to a node's engine.
    pub(crate) fn asked(&mut self, at: usize, handle: Handle) -> Checked {
        self.requests.asked(at, handle)
    }

    /// A node's engine is about to take in what has come.
    pub(crate) fn turn(&mut self, nodes: &[Node], at: usize, now: Micros) -> Checked {
        self.confirmed.turn();
        for input in &nodes[at].inbox {
            match input {
                Input::Read(shard, handle) => {
                    let bound = self.lease(nodes, at, now, *shard)?;
                    let committed = self.committed.last(*shard);
                    (self.confirmed).asked(at, *handle, committed, bound > now);
                }
                Input::Peer(messages) => {
                    let asks = |message: &Message| message.kind == MessageKind::ReadIndex;
                    for (shard, message) in messages.iter().filter(|(_, message)| asks(message)) {
                        let bound = self.lease(nodes, at, now, *shard)?;
                        (self.confirmed).forwarded(at, *shard, &message.context, bound > now);
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// A node may be about to use its lease. Returns until when a quorum is bound to it.
    fn lease(
        &self,
        nodes: &[Node],
        at: usize,
        now: Micros,
        shard: ShardId,
    ) -> Result<Micros, Violation> {
        let bound = self.votes.bound_until(nodes, at, shard, now);
        leases::bound(&nodes[at], shard, now, self.tick, bound)?;
        Ok(bound)
    }

    /// A node reads by an open lease, without asking its engine.
    pub(crate) fn open_lease(
        &self,
        nodes: &[Node],
        at: usize,
        now: Micros,
        shard: ShardId,
    ) -> Checked {
        let bound = self.votes.bound_until(nodes, at, shard, now);
        let applied = nodes[at].state.position(shard);
        confirmed_reads::by_open_lease(at, shard, bound > now, applied, self.committed.last(shard))
    }

    /// A node's engine says that a read may be served.
    pub(crate) fn confirmed(&mut self, at: usize, read: &ConfirmedRead<Handle>) -> Checked {
        self.confirmed.confirmed(at, read, &self.committed)?;
        self.requests.answered(at, read.reply)
    }

    /// A node's engine is done with a call, but for confirmed reads.
    pub(crate) fn answered(&mut self, at: usize, handle: Handle) -> Checked {
        self.confirmed.ended_call(at, handle);
        self.requests.answered(at, handle)
    }

    /// A node's process ended.
    pub(crate) fn ended(&mut self, at: usize) {
        self.requests.ended(at);
        self.confirmed.ended(at);
        self.stores.ended(at);
    }
}
