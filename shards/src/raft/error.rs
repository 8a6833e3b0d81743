//! What can go wrong, as far as a caller can do something about it.
//!
//! A message, a stored state or a configuration that is wrong gives an error and leaves the group as it was. Broken
//! invariants of the group's own are no errors but assertions that print its state.

use super::confchange::ConfChangeError;
use super::storage::StorageError;
use super::types::{Index, MessageKind, ReplicaId, Term};

/// Why a call failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The configuration contradicts itself. Mend it and start again.
    #[error("invalid configuration: {0}")]
    Config(#[from] ConfigError),
    /// The proposal was not appended and will not be; propose again later or elsewhere, as the reason says.
    #[error("raft proposal dropped")]
    ProposalDropped(#[source] DropReason),
    /// The read request was not taken; ask again later or elsewhere, as the reason says.
    #[error("raft read request dropped")]
    ReadDropped(#[source] DropReason),
    /// A message of a kind that never travels came from another replica. Drop it.
    #[error("raft: cannot step raft local message")]
    StepLocalMessage,
    /// An answer came from a replica that is not in the configuration, such as one removed meanwhile. Drop it.
    #[error("raft: cannot step as peer not found")]
    StepPeerNotFound,
    /// A message that no correct replica sends. Drop it and look at its sender.
    #[error("message breaks the protocol: {0}")]
    Protocol(#[from] ProtocolError),
    /// A membership change that can't be made in the present configuration; nothing was changed.
    #[error(transparent)]
    ConfChange(#[from] ConfChangeError),
    /// The storage failed; the group stands still from now on ([`RawNode::failure`](super::RawNode::failure)).
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// What is stored contradicts itself. The replica must not start from it.
    #[error("stored state is inconsistent: {0}")]
    Stored(#[from] StoredStateError),
}

/// Why a proposal or a read request was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DropReason {
    /// No leader is known; wait for an election.
    #[error("no leader is known")]
    NoLeader,
    /// The leader is another replica, and forwarding is switched off.
    #[error("this replica does not lead, and forwarding is switched off")]
    NotForwarded,
    /// Leadership is being handed over; retry at the new leader.
    #[error("leadership is being transferred")]
    Transferring,
    /// This replica leads, but is not part of the configuration any more; retry at the next leader.
    #[error("this replica was removed from the group")]
    Removed,
    /// Too much is uncommitted ([`Config::max_uncommitted_size`](super::Config::max_uncommitted_size)) or too many
    /// reads wait; retry after some have been answered.
    #[error("too much is in flight")]
    Busy,
}

/// A contradiction in a [`Config`](super::Config).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// `id` is 0 or that of a storage thread.
    #[error("id is {0}, which is reserved; use another")]
    Id(ReplicaId),
    /// `heartbeat_ticks` is 0.
    #[error("heartbeat_ticks is 0; it must be at least 1")]
    HeartbeatTicks,
    /// `election_ticks` is not above `heartbeat_ticks`.
    #[error("election_ticks is {election}; it must be above heartbeat_ticks, which is {heartbeat}")]
    ElectionTicks {
        /// `election_ticks`
        election: u32,
        /// `heartbeat_ticks`
        heartbeat: u32,
    },
    /// `election_ticks` is so large that a drawn timeout could overflow.
    #[error("election_ticks is {0}; it must be below {max}", max = super::config::MAX_ELECTION_TICKS)]
    ElectionTicksTooLarge(u32),
    /// `max_inflight_msgs` is 0.
    #[error("max_inflight_msgs is 0; it must be at least 1")]
    MaxInflightMsgs,
    /// `max_inflight_bytes` is set and below `max_size_per_msg`.
    #[error(
        "max_inflight_bytes is {inflight}; it must be 0 (no limit) or at least max_size_per_msg, which is {msg}"
    )]
    MaxInflightBytes {
        /// `max_inflight_bytes`
        inflight: u64,
        /// `max_size_per_msg`
        msg: u64,
    },
    /// Lease-based reads without `check_quorum`.
    #[error(
        "check_quorum must be on when read_only is LeaseBased: votes must be refused while a leader is heard"
    )]
    LeaseWithoutCheckQuorum,
    /// `max_clock_drift_permille` leaves nothing of a lease.
    #[error("max_clock_drift_permille is {0}; it must be below 1000")]
    ClockDrift(u32),
    /// A replica can't have applied less than was compacted, nor more than was committed.
    #[error(
        "applied is {applied}; it must be between the compacted index {compacted} and the committed {committed}"
    )]
    Applied {
        /// `applied`
        applied: Index,
        /// One below the first index of the log.
        compacted: Index,
        /// Of the hard state.
        committed: Index,
    },
}

/// What a message did that no correct replica does.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    /// A message from somebody who can't have sent it: nobody, this replica itself, or a storage thread.
    #[error("{kind:?} from {from}, who can't have sent it")]
    BadSender {
        /// Kind of the message.
        kind: MessageKind,
        /// Its sender.
        from: ReplicaId,
    },
    /// A vote request without a term.
    #[error("{kind:?} without a term")]
    NoTerm {
        /// Kind of the message.
        kind: MessageKind,
    },
    /// A term so high that it can't have been reached by elections.
    #[error("{kind:?} has term {term}, beyond any reachable one")]
    TermOutOfRange {
        /// Kind of the message.
        kind: MessageKind,
        /// Its term.
        term: Term,
    },
    /// Entries that don't follow each other.
    #[error("entry {got:?} found where index {expected} was expected")]
    Gap {
        /// The expected index.
        expected: Index,
        /// Index found.
        got: Index,
    },
    /// Terms that fall along the log.
    #[error("entry at {index} has term {term}, below term {previous} of the one before")]
    TermRegression {
        /// Position in the log.
        index: Index,
        /// Its term.
        term: Term,
        /// Term of the entry before.
        previous: Term,
    },
    /// An entry or snapshot from a term after that of the leader who sends it.
    #[error("position {index} has term {term}, above the leader's {leader}")]
    TermAboveLeader {
        /// Position in the log.
        index: Index,
        /// Its term.
        term: Term,
        /// Term of the message.
        leader: Term,
    },
    /// An entry that contradicts a committed one.
    #[error(
        "entry at {index} of term {term} contradicts the committed one (committed up to {committed})"
    )]
    CommittedConflict {
        /// Position in the log.
        index: Index,
        /// Term of the received entry.
        term: Term,
        /// Own commit index.
        committed: Index,
    },
    /// The leader believes that more is stored here than is. Was the log lost or truncated?
    #[error(
        "commit index {commit} is beyond the last entry {last}; was the log corrupted, truncated or lost?"
    )]
    CommitOutOfRange {
        /// Commit index of the message.
        commit: Index,
        /// Own last index.
        last: Index,
    },
    /// A follower acknowledged what this leader doesn't have.
    #[error("replica {from} acknowledged index {index}, beyond the last entry {last}")]
    AckOutOfRange {
        /// The follower.
        from: ReplicaId,
        /// Index acknowledged.
        index: Index,
        /// Own last index.
        last: Index,
    },
    /// A follower confirmed a round of reads that this leader hasn't started.
    #[error("replica {from} confirmed round {round}, beyond the last one {last}")]
    RoundOutOfRange {
        /// The follower.
        from: ReplicaId,
        /// Round confirmed.
        round: u64,
        /// Last round started.
        last: u64,
    },
    /// A storage thread applied what it hasn't been given.
    #[error("applied up to {index}, but only {given} was handed out")]
    AppliedOutOfRange {
        /// Index acknowledged.
        index: Index,
        /// Highest index handed out.
        given: Index,
    },
    /// A proposal without entries.
    #[error("proposal without entries")]
    EmptyProposal,
    /// Proposed entries of a membership change that can't be decoded.
    #[error("proposed membership change can't be decoded: {0}")]
    BadConfChange(String),
    /// `Snap` without a snapshot.
    #[error("snapshot message without a snapshot")]
    NoSnapshot,
    /// A snapshot whose index or membership makes no sense.
    #[error("snapshot at {index} makes no sense: {reason}")]
    BadSnapshot {
        /// Index of the snapshot.
        index: Index,
        /// What is wrong.
        reason: String,
    },
}

/// What is wrong with a stored state.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoredStateError {
    /// The commit index is outside the log.
    #[error(
        "commit index {commit} is outside the log [{low}, {last}]; was the log corrupted, truncated or lost?"
    )]
    CommitOutOfRange {
        /// Stored commit index.
        commit: Index,
        /// The compacted position.
        low: Index,
        /// Last index of the log.
        last: Index,
    },
    /// A term that no group reaches by elections.
    #[error("term {0} is beyond any reachable one")]
    TermOutOfRange(Term),
    /// The membership can't be restored.
    #[error("membership can't be restored: {0}")]
    ConfState(String),
    /// A group that has a log already can't be bootstrapped; neither can one without members.
    #[error("can't bootstrap: {0}")]
    Bootstrap(&'static str),
}
