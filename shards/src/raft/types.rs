//! The plain values that a Raft group works with: ids, log positions, entries, messages, states.
//!
//! Nothing here knows about protobuf, disks or networks. What comes from outside is checked once at the gate (where
//! wire or disk messages are turned into these types) and trusted behind it. The text forms are those of etcd-raft's
//! test data, see [`super::fmt`].

use bytes::Bytes;
use std::fmt;

macro_rules! newtype {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub u64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
    };
}

newtype! {
    /// Identifies one replica of the group for its whole life; never reused, also not for the same node.
    ReplicaId
}
newtype! {
    /// A Raft term. 0 is before any election.
    Term
}
newtype! {
    /// A position in the log. 0 is before the first entry.
    Index
}

impl ReplicaId {
    /// No replica: "no vote", "no leader".
    pub const NONE: Self = Self(0);
    /// Target of local storage writes (etcd `LocalAppendThread`).
    pub const APPEND_THREAD: Self = Self(u64::MAX);
    /// Target of local applications (etcd `LocalApplyThread`).
    pub const APPLY_THREAD: Self = Self(u64::MAX - 1);

    /// Whether this is one of the two local storage threads rather than a replica.
    #[must_use]
    pub fn is_storage_thread(self) -> bool {
        self == Self::APPEND_THREAD || self == Self::APPLY_THREAD
    }

    /// Whether this is [`ReplicaId::NONE`].
    #[must_use]
    pub fn is_none(self) -> bool {
        self == Self::NONE
    }
}

impl Term {
    /// The term after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl Index {
    /// The position after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }

    /// The position before this one; 0 stays 0.
    #[must_use]
    pub fn prev(self) -> Self {
        Self(self.0.saturating_sub(1))
    }
}

/// Term and index of one log position (etcd `entryID`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntryId {
    /// Term of the entry.
    pub term: Term,
    /// Index of the entry.
    pub index: Index,
}

/// What an entry's data mean to Raft.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum EntryKind {
    /// Data of the state machine; empty for the entry that a new leader commits.
    #[default]
    Normal,
    /// One membership operation (etcd `ConfChange`, V1).
    ConfChange,
    /// A membership change with a transition (etcd `ConfChangeV2`); empty data mean "leave the joint configuration".
    ConfChangeV2,
}

/// One log entry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    /// Term in which a leader created the entry.
    pub term: Term,
    /// Position in the log.
    pub index: Index,
    /// What the data mean.
    pub kind: EntryKind,
    /// The payload; shared, never copied on its way through the core.
    pub data: Bytes,
}

/// What must survive a crash beside the entries (Raft paper, figure 2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HardState {
    /// Latest term seen.
    pub term: Term,
    /// Whom this replica voted for in `term`.
    pub vote: ReplicaId,
    /// Highest index known to be committed. Only a hint: losing it costs time, not safety.
    pub commit: Index,
}

impl HardState {
    /// Whether all fields are zero, as before the first election.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// The role of a replica (etcd `StateType`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Role {
    /// Follows a leader, or waits for one.
    #[default]
    Follower,
    /// Asks for votes in its own new term.
    Candidate,
    /// Appends and commits.
    Leader,
    /// Asks whether it could win, without raising its term (thesis 9.6).
    PreCandidate,
}

/// Volatile state that the embedder may want to react to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SoftState {
    /// The leader as far as known, or [`ReplicaId::NONE`].
    pub lead: ReplicaId,
    /// The own role.
    pub role: Role,
}

/// The membership at one log position, as stored with snapshots. Lists are ascending and without duplicates.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConfState {
    /// Voters; in a joint configuration those of the incoming half.
    pub voters: Vec<ReplicaId>,
    /// Voters of the outgoing half; empty unless joint.
    pub voters_outgoing: Vec<ReplicaId>,
    /// Replicas that receive the log and do not vote.
    pub learners: Vec<ReplicaId>,
    /// Outgoing voters that become learners when the joint configuration is left.
    pub learners_next: Vec<ReplicaId>,
    /// Whether the leader leaves the joint configuration by itself.
    pub auto_leave: bool,
}

impl ConfState {
    /// Whether both describe the same membership, whatever the order of their lists.
    #[must_use]
    pub fn equivalent(&self, other: &Self) -> bool {
        let same = |a: &[ReplicaId], b: &[ReplicaId]| {
            let (mut a, mut b) = (a.to_vec(), b.to_vec());
            a.sort_unstable();
            b.sort_unstable();
            a == b
        };
        same(&self.voters, &other.voters)
            && same(&self.voters_outgoing, &other.voters_outgoing)
            && same(&self.learners, &other.learners)
            && same(&self.learners_next, &other.learners_next)
            && self.auto_leave == other.auto_leave
    }
}

/// Position and membership of a snapshot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SnapshotMeta {
    /// Last index that the snapshot covers; 0 for no snapshot.
    pub index: Index,
    /// Term of that entry.
    pub term: Term,
    /// Membership at that index.
    pub conf_state: ConfState,
}

/// A state machine's state up to an index. The data are opaque: the node puts a description there and streams the
/// content apart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Where and with whom.
    pub meta: SnapshotMeta,
    /// Opaque to Raft.
    pub data: Bytes,
}

impl Snapshot {
    /// Whether there is no snapshot at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.meta.index == Index(0)
    }
}

/// The kinds of messages (etcd `MessageType`; the text form puts `Msg` before the name).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum MessageKind {
    /// Local: start an election.
    #[default]
    Hup,
    /// Local: send heartbeats.
    Beat,
    /// Propose entries.
    Prop,
    /// Append entries.
    App,
    /// Answer to `App` and `Snap`.
    AppResp,
    /// Ask for a vote.
    Vote,
    /// Answer to `Vote`.
    VoteResp,
    /// Install a snapshot.
    Snap,
    /// Leader is alive; carries the commit index and the round of read confirmation.
    Heartbeat,
    /// Answer to `Heartbeat`.
    HeartbeatResp,
    /// Leader rests, and a follower that has everything up to the commit index may rest as well. Counts as a heartbeat,
    /// and is not answered.
    Quiesce,
    /// Local: the last send to a replica failed.
    Unreachable,
    /// Local: outcome of a snapshot's sending.
    SnapStatus,
    /// Local: check that a quorum has been heard from.
    CheckQuorum,
    /// Hand leadership over.
    TransferLeader,
    /// Start an election at once.
    TimeoutNow,
    /// Ask for a read index.
    ReadIndex,
    /// Answer to `ReadIndex`.
    ReadIndexResp,
    /// Ask whether a vote would be given.
    PreVote,
    /// Answer to `PreVote`.
    PreVoteResp,
    /// Local: write to the log.
    StorageAppend,
    /// Local: the write is durable.
    StorageAppendResp,
    /// Local: apply committed entries.
    StorageApply,
    /// Local: the entries are applied.
    StorageApplyResp,
    /// Local: forget who leads.
    ForgetLeader,
}

/// One message between replicas, or between a replica and its local storage threads (etcd `Message`). Which fields
/// mean something depends on `kind`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message {
    /// What it is.
    pub kind: MessageKind,
    /// Receiver.
    pub to: ReplicaId,
    /// Sender.
    pub from: ReplicaId,
    /// Sender's term; 0 for local messages and forwarded proposals.
    pub term: Term,
    /// Term of the entry at `index`.
    pub log_term: Term,
    /// Position that the message speaks about.
    pub index: Index,
    /// Sender's commit index.
    pub commit: Index,
    /// Vote of a hard state in `StorageAppend`.
    pub vote: ReplicaId,
    /// Whether the request was refused.
    pub reject: bool,
    /// Where the leader should look next after a rejection.
    pub reject_hint: Index,
    /// Round of read confirmation (`Heartbeat` and its answer): unique within the leader's term, never a caller's
    /// value (etcd-io/raft#397). 0 for none.
    pub round: u64,
    /// In the answer to a round: its sender gives no vote for an election timeout from now, so that the leader may count on
    /// a lease.
    pub promise: bool,
    /// Opaque bytes: a caller's with a read request; the reason of a vote request; the committed position (term and
    /// index) in a refused vote.
    pub context: Bytes,
    /// Entries to append, propose or apply.
    pub entries: Vec<Entry>,
    /// The snapshot to install.
    pub snapshot: Option<Box<Snapshot>>,
    /// Messages to deliver once the storage write is durable.
    pub responses: Vec<Message>,
}
