//! What goes into an [`Engine`](super::Engine) and what comes out of it.
//!
//! Outputs come in batches, one [`Output`] per turn. Each list says what its items wait for and which state change they
//! stand for; nothing in one list may be delayed by the items of another.

use flotilla_proto::v1::{Command, Refusal};

use crate::{
    ids::{NodeId, ShardId},
    raft::{self, ConfState, Entry, EntryId, HardState, Index, Message, Role, Snapshot, Term},
};

/// What one turn of the engine asks its surroundings to do. `C` is the caller's completion handle (a channel in the
/// node, a number in the simulator): the engine carries it and never looks into it.
#[derive(Debug)]
pub struct Output<C> {
    /// Writes to the log. In order per shard; any number of shards may share one write and one sync.
    pub appends: Vec<LogAppend>,
    /// Messages that may leave at once.
    pub messages: Vec<Outgoing>,
    /// Committed entries, to be applied in order per shard.
    pub applies: Vec<Apply<C>>,
    /// Reads that may now be served from the local state.
    pub reads: Vec<ConfirmedRead<C>>,
    /// Leases that have opened, moved or closed. To be known to whoever reads by them before anything else leaves.
    pub leases: Vec<OpenLease>,
    /// Requests that end here without effect, or without a known one.
    pub refusals: Vec<(C, Refused)>,
    /// Followers whose log no longer meets ours and that need the shard's state.
    pub snapshots: Vec<SnapshotSend>,
    /// Prefixes of logs that nobody needs any more.
    pub compactions: Vec<Compaction>,
    /// Changes of leader or role, for the router and for the log.
    pub changes: Vec<RoleChange>,
    /// Replicas that can't go on, with the reason: the log store failed, or a committed entry makes no sense. The node
    /// must stop; it shares one disk and one memory with all others.
    pub failures: Vec<(ShardId, String)>,
    /// It is time to tell all other nodes that this one lives: one message per node, however many shards there are.
    pub alive: bool,
}

impl<C> Default for Output<C> {
    fn default() -> Self {
        Self {
            appends: Vec::new(),
            messages: Vec::new(),
            applies: Vec::new(),
            reads: Vec::new(),
            leases: Vec::new(),
            refusals: Vec::new(),
            snapshots: Vec::new(),
            compactions: Vec::new(),
            changes: Vec::new(),
            failures: Vec::new(),
            alive: false,
        }
    }
}

impl<C> Output<C> {
    /// Whether the turn asks for nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.appends.is_empty()
            && self.messages.is_empty()
            && self.applies.is_empty()
            && self.reads.is_empty()
            && self.leases.is_empty()
            && self.refusals.is_empty()
            && self.snapshots.is_empty()
            && self.compactions.is_empty()
            && self.changes.is_empty()
            && self.failures.is_empty()
            && !self.alive
    }
}

/// One shard's part of a log write (etcd `MsgStorageAppend`).
///
/// `entries` overwrite from the first one's index on: whatever the log holds at and behind it is gone. With a
/// `snapshot` the replica's state is replaced first: the state database takes the received content and its applied
/// index, then the log is cut to begin behind the snapshot, and `entries`, if any, follow it.
#[derive(Debug)]
pub struct LogAppend {
    /// Whose log.
    pub shard: ShardId,
    /// Stored if present.
    pub hard_state: Option<HardState>,
    /// Contiguous, ascending.
    pub entries: Vec<Entry>,
    /// Received state to install before anything else of this append.
    pub snapshot: Option<Box<Snapshot>>,
    /// Whether durability must be awaited before `release`. A changed commit index alone does not need it.
    pub must_sync: bool,
    /// To be let go once the write is durable, in order: messages to other nodes, and answers to the own engine.
    pub release: Release,
}

/// What waits for a log write. *Invariant:* nothing of it leaves before the write is durable (Raft paper 5.1: votes
/// and acknowledgements speak of stable storage).
#[derive(Debug, Default)]
pub struct Release {
    /// To other nodes.
    pub messages: Vec<Outgoing>,
    /// To the own engine, by [`Engine::handle_local`](super::Engine::handle_local).
    pub local: Vec<(ShardId, Message)>,
}

/// A Raft message to a replica on another node.
#[derive(Debug)]
pub struct Outgoing {
    /// Where the receiving replica lives.
    pub node: NodeId,
    /// The shard that both belong to.
    pub shard: ShardId,
    /// What it says.
    pub message: Message,
}

impl Outgoing {
    /// Whether it belongs to the urgent lane: small, and someone's timer waits for it.
    #[must_use]
    pub fn is_urgent(&self) -> bool {
        use raft::MessageKind as K;
        matches!(
            self.message.kind,
            K::Vote
                | K::VoteResp
                | K::PreVote
                | K::PreVoteResp
                | K::Heartbeat
                | K::HeartbeatResp
                | K::Quiesce
                | K::TimeoutNow
                | K::ReadIndex
                | K::ReadIndexResp
                | K::TransferLeader
        )
    }
}

/// Committed entries of one shard.
#[derive(Debug)]
pub struct Apply<C> {
    /// Whose.
    pub shard: ShardId,
    /// Contiguous, ascending; continue where the shard's last `Apply` ended.
    pub entries: Vec<Entry>,
    /// Membership after each entry that changed it, ascending.
    pub conf_states: Vec<(Index, ConfState)>,
    /// Who waits for the answers of which entry: as many completions as the entry has commands, in the same order.
    /// Ascending by index. Entries that this node did not propose have none.
    pub waiters: Vec<(EntryId, Vec<C>)>,
    /// Goes back by [`Engine::handle_local`](super::Engine::handle_local) once the entries are applied.
    pub done: Vec<Message>,
}

/// A linearizable read that may be served now: everything up to `index` is applied.
#[derive(Debug)]
pub struct ConfirmedRead<C> {
    /// Which shard.
    pub shard: ShardId,
    /// The confirmed index.
    pub index: Index,
    /// Whether the leader's lease confirmed it, and no other replica was asked.
    pub leased: bool,
    /// Who asked.
    pub reply: C,
}

/// A follower that needs the shard's state.
#[derive(Debug)]
pub struct SnapshotSend {
    /// Where it lives.
    pub node: NodeId,
    /// The shard.
    pub shard: ShardId,
    /// The announcing `MsgSnap`. The content that is sent may be newer than its index; the message that is delivered
    /// carries the index of the content.
    pub message: Message,
}

/// Reads of a shard need not ask its leader here: whoever sees, by the clock of this engine's ticks and after it was asked,
/// that tick `until` has not begun yet may read what is applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenLease {
    /// The shard.
    pub shard: ShardId,
    /// The first tick at which it is over; 0: it is, and reads ask again.
    pub until: u64,
}

/// A log prefix to cut: entries up to and including `upto` go.
#[derive(Clone, Copy, Debug)]
pub struct Compaction {
    /// Whose log.
    pub shard: ShardId,
    /// Last position to go, with its term.
    pub upto: EntryId,
}

/// A replica's role or leader changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RoleChange {
    /// The shard.
    pub shard: ShardId,
    /// The own role.
    pub role: Role,
    /// The own term.
    pub term: Term,
    /// Where the leader lives, if known.
    pub leader: Option<NodeId>,
}

/// Why a request ended without an answer of the state machine.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The replica does not lead. Nothing was appended.
    #[error("this replica does not lead the shard")]
    NotLeader {
        /// Where the leader lives, if known.
        leader: Option<NodeId>,
    },
    /// The node holds no replica of the shard. Nothing was appended.
    #[error("this node holds no replica of {shard}")]
    NoReplica {
        /// The shard asked for.
        shard: ShardId,
    },
    /// A bound on queued or uncommitted work is reached. Nothing was appended.
    #[error("the shard has too much in flight")]
    Busy,
    /// The write was appended, and the leader that did so lost its office: whether it will be committed is unknown.
    #[error("leadership changed after the write was appended: its outcome is unknown")]
    OutcomeUnknown,
    /// The entry was overwritten by another leader's: the write has not happened and never will.
    #[error("another leader's entry took the place of the write: it was not applied")]
    Superseded,
    /// The read was not confirmed in this term.
    #[error("leadership could not be confirmed for the read")]
    Unconfirmed,
    /// The state machine's own refusal; only from the node's side.
    #[error("refused by the state machine: {}", .0.detail)]
    State(Refusal),
}

/// A write to be proposed.
#[derive(Debug)]
pub struct Proposal<C> {
    /// What to do. Checked by the caller against the limits.
    pub command: Command,
    /// Encoded length of `command` in bytes, for the bounds.
    pub bytes: usize,
    /// Who waits.
    pub reply: C,
}

/// Access to the part of the logs that is no longer in memory. Implemented by the node's log store and by the
/// simulator's disk. Called rarely: by a follower far behind, and after a start.
pub trait LogReader {
    /// Entries `[low, high)` of a shard, at least one, at most about `max_bytes`.
    ///
    /// # Errors
    /// A text for the operator if the store can't deliver what it holds.
    fn entries(
        &self,
        shard: ShardId,
        low: Index,
        high: Index,
        max_bytes: u64,
    ) -> Result<Vec<Entry>, String>;

    /// Term of the entry at `index`.
    ///
    /// # Errors
    /// As [`LogReader::entries`].
    fn term(&self, shard: ShardId, index: Index) -> Result<Term, String>;
}

/// A replica as it was found on disk: everything that the engine needs to open it.
#[derive(Clone, Debug)]
pub struct RecoveredReplica {
    /// Ranges and replicas, as last applied.
    pub descriptor: std::sync::Arc<crate::descriptor::Descriptor>,
    /// Membership, as last applied.
    pub conf_state: ConfState,
    /// Last durable hard state.
    pub hard_state: HardState,
    /// Where the log begins: position of the last entry that was cut.
    pub compacted: EntryId,
    /// The log's end; equal to `compacted` if it is empty.
    pub last: EntryId,
    /// Applied position of the state database.
    pub applied: EntryId,
    /// Bytes of log between `compacted` and `last`, roughly, for the bound on replay.
    pub log_bytes: u64,
}
