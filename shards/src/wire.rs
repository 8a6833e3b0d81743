//! The gate between protobuf messages and Raft's types, for what comes from peers and from disks.
//!
//! What passes is well-formed: ids are those of replicas, positions leave room for arithmetic, the entries of an append
//! follow each other, a membership does not contradict itself. Raft trusts that and checks none of it again; what depends
//! on its own state (is this term old, does this entry match) stays Raft's business. Payloads are shared, not copied.

use crate::ids::ShardId;
use crate::limits::{CONTEXT_BYTES_MAX, ENTRY_BYTES_MAX, REPLICAS_MAX};
use crate::raft::{
    ConfState, Entry, EntryId, EntryKind, HardState, Index, Message, MessageKind, ReplicaId,
    Snapshot, SnapshotMeta, Term,
};
use flotilla_proto::v1 as proto;

/// Greatest term and greatest index that are believed. No cluster comes near it, and below it no sum overflows.
pub const POSITION_MAX: u64 = 1 << 62;

/// The kinds that travel between nodes, with their numbers. A number is for ever; 0 and kinds that are not listed are
/// local and refused.
const KINDS: [(u32, MessageKind); 15] = [
    (1, MessageKind::Prop),
    (2, MessageKind::App),
    (3, MessageKind::AppResp),
    (4, MessageKind::Vote),
    (5, MessageKind::VoteResp),
    (6, MessageKind::Snap),
    (7, MessageKind::Heartbeat),
    (8, MessageKind::HeartbeatResp),
    (9, MessageKind::TransferLeader),
    (10, MessageKind::TimeoutNow),
    (11, MessageKind::ReadIndex),
    (12, MessageKind::ReadIndexResp),
    (13, MessageKind::PreVote),
    (14, MessageKind::PreVoteResp),
    (15, MessageKind::Quiesce),
];

/// What is wrong with a message from a peer or a disk.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// A number that no kind of message between nodes has.
    #[error("message kind {0} is unknown or not for other nodes")]
    Kind(u32),
    /// No shard has this id.
    #[error("the message names shard 0, expected an id from 1")]
    Shard,
    /// An id that no replica has.
    #[error("{field} is {id}, which is no replica's id")]
    Replica {
        /// The field.
        field: &'static str,
        /// What it says.
        id: u64,
    },
    /// A term or index out of reach.
    #[error("{field} is {value}, expected at most {POSITION_MAX}")]
    Position {
        /// The field.
        field: &'static str,
        /// What it says.
        value: u64,
    },
    /// A term where none belongs, or none where one does.
    #[error("a message of kind {kind:?} has term {term}, expected {expected}")]
    Term {
        /// What it is.
        kind: MessageKind,
        /// What it says.
        term: Term,
        /// What would be right.
        expected: &'static str,
    },
    /// Entries or a snapshot in a message that carries none, or none where there must be one.
    #[error("a message of kind {kind:?} {what}")]
    Payload {
        /// What it is.
        kind: MessageKind,
        /// What it carries or lacks.
        what: &'static str,
    },
    /// Entries of an append that do not follow each other.
    #[error(
        "entry {} of term {} follows entry {} of term {}: indexes must rise by 1 and terms never fall",
        found.index, found.term, before.index, before.term
    )]
    Order {
        /// What came before.
        before: EntryId,
        /// What followed.
        found: EntryId,
    },
    /// An entry that is newer than the term of the leader who sends it.
    #[error("entry {} has term {}, above the term {term} of the message", entry.index, entry.term)]
    EntryTerm {
        /// The entry.
        entry: EntryId,
        /// The message's term.
        term: Term,
    },
    /// A kind of entry of another version.
    #[error("entry {index} has unknown kind {kind}: written by another version")]
    EntryKind {
        /// Which entry.
        index: u64,
        /// What it says.
        kind: i32,
    },
    /// More bytes than anything of this version makes.
    #[error("{field} has {bytes} bytes, the limit is {limit}")]
    TooLarge {
        /// The field.
        field: &'static str,
        /// Its length.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// A membership that cannot be.
    #[error("the membership {what}: {conf_state:?}")]
    Membership {
        /// What is wrong.
        what: &'static str,
        /// All of it.
        conf_state: Box<proto::ConfState>,
    },
}

/// The message for the wire.
///
/// # Panics
/// If the message is one of the local kinds, which Raft never sends to a peer.
#[must_use]
pub fn encode_message(shard: ShardId, message: Message) -> proto::ShardMessage {
    let kind = KINDS.iter().find(|(_, kind)| *kind == message.kind);
    let Some(&(kind, _)) = kind else {
        panic!("a local message of shard {shard} on its way to a peer: {message:?}");
    };
    proto::ShardMessage {
        shard_id: shard.0,
        kind,
        to: message.to.0,
        from: message.from.0,
        term: message.term.0,
        log_term: message.log_term.0,
        index: message.index.0,
        commit: message.commit.0,
        reject: message.reject,
        reject_hint: message.reject_hint.0,
        round: message.round,
        promise: message.promise,
        context: message.context,
        entries: message.entries.into_iter().map(encode_entry).collect(),
        snapshot: message.snapshot.map(|snapshot| encode_snapshot(*snapshot)),
    }
}

/// Checks a message from a peer.
///
/// # Errors
/// What is wrong with it.
pub fn decode_message(message: proto::ShardMessage) -> Result<(ShardId, Message), WireError> {
    let shard = ShardId(message.shard_id);
    if shard.0 == 0 {
        return Err(WireError::Shard);
    }
    let kind = KINDS.iter().find(|(number, _)| *number == message.kind);
    let &(_, kind) = kind.ok_or(WireError::Kind(message.kind))?;
    let term = term("term", message.term)?;
    // Raft takes a message without a term for a local one; forwarded requests have none, as they are no leader's.
    let forwarded = matches!(kind, MessageKind::Prop | MessageKind::ReadIndex);
    if forwarded != (term == Term(0)) {
        let expected = if forwarded { "0" } else { "1 or more" };
        return Err(WireError::Term {
            kind,
            term,
            expected,
        });
    }
    check_size("context", message.context.len(), CONTEXT_BYTES_MAX)?;
    let log_term = self::term("log_term", message.log_term)?;
    let index = index("index", message.index)?;
    let entries = match kind {
        MessageKind::App => {
            let before = EntryId {
                term: log_term,
                index,
            };
            decode_run(before, term, message.entries)?
        }
        MessageKind::Prop => decode_proposals(message.entries)?,
        _ if message.entries.is_empty() => Vec::new(),
        _ => {
            let what = "carries entries";
            return Err(WireError::Payload { kind, what });
        }
    };
    let snapshot = match (kind, message.snapshot) {
        (MessageKind::Snap, Some(snapshot)) => Some(Box::new(decode_snapshot(snapshot)?)),
        (MessageKind::Snap, None) => {
            let what = "carries no snapshot";
            return Err(WireError::Payload { kind, what });
        }
        (_, None) => None,
        (_, Some(_)) => {
            let what = "carries a snapshot";
            return Err(WireError::Payload { kind, what });
        }
    };
    if message.promise && kind != MessageKind::HeartbeatResp {
        let what = "carries a promise";
        return Err(WireError::Payload { kind, what });
    }
    let message = Message {
        kind,
        to: replica("to", message.to)?,
        from: replica("from", message.from)?,
        term,
        log_term,
        index,
        commit: self::index("commit", message.commit)?,
        vote: ReplicaId::NONE,
        reject: message.reject,
        reject_hint: self::index("reject_hint", message.reject_hint)?,
        round: message.round,
        promise: message.promise,
        context: message.context,
        entries,
        snapshot,
        responses: Vec::new(),
    };
    Ok((shard, message))
}

/// The entry for disk and wire.
#[must_use]
pub fn encode_entry(entry: Entry) -> proto::Entry {
    let kind = match entry.kind {
        EntryKind::Normal => proto::EntryKind::Normal,
        EntryKind::ConfChange => proto::EntryKind::ConfChange,
        EntryKind::ConfChangeV2 => proto::EntryKind::ConfChangeV2,
    };
    proto::Entry {
        term: entry.term.0,
        index: entry.index.0,
        kind: kind.into(),
        data: entry.data,
    }
}

/// Checks an entry of a log: it has a term and an index.
///
/// # Errors
/// What is wrong with it.
pub fn decode_entry(entry: proto::Entry) -> Result<Entry, WireError> {
    let entry = decode_any_entry(entry)?;
    for (field, value) in [("entry.index", entry.index.0), ("entry.term", entry.term.0)] {
        if value == 0 {
            return Err(WireError::Position { field, value });
        }
    }
    Ok(entry)
}

/// The hard state for disks.
#[must_use]
pub fn encode_hard_state(state: HardState) -> proto::HardState {
    proto::HardState {
        term: state.term.0,
        vote: state.vote.0,
        commit: state.commit.0,
    }
}

/// Checks a hard state.
///
/// # Errors
/// What is wrong with it.
pub fn decode_hard_state(state: proto::HardState) -> Result<HardState, WireError> {
    Ok(HardState {
        term: term("hard_state.term", state.term)?,
        vote: match state.vote {
            0 => ReplicaId::NONE,
            vote => replica("hard_state.vote", vote)?,
        },
        commit: index("hard_state.commit", state.commit)?,
    })
}

/// The membership for disk and wire.
#[must_use]
pub fn encode_conf_state(state: &ConfState) -> proto::ConfState {
    let ids = |ids: &[ReplicaId]| ids.iter().map(|id| id.0).collect();
    proto::ConfState {
        voters: ids(&state.voters),
        voters_outgoing: ids(&state.voters_outgoing),
        learners: ids(&state.learners),
        learners_next: ids(&state.learners_next),
        auto_leave: state.auto_leave,
    }
}

/// Checks a membership: it has a voter, its lists ascend, and nobody both votes and learns (but for outgoing voters that
/// will learn).
///
/// # Errors
/// What is wrong with it.
pub fn decode_conf_state(message: proto::ConfState) -> Result<ConfState, WireError> {
    let ids = |field, ids: &[u64]| -> Result<Vec<ReplicaId>, WireError> {
        (ids.iter().take(REPLICAS_MAX + 1))
            .map(|&id| replica(field, id))
            .collect()
    };
    let state = ConfState {
        voters: ids("voters", &message.voters)?,
        voters_outgoing: ids("voters_outgoing", &message.voters_outgoing)?,
        learners: ids("learners", &message.learners)?,
        learners_next: ids("learners_next", &message.learners_next)?,
        auto_leave: message.auto_leave,
    };
    let lists = [
        &state.voters,
        &state.voters_outgoing,
        &state.learners,
        &state.learners_next,
    ];
    let disjoint = |a: &[ReplicaId], b: &[ReplicaId]| a.iter().all(|id| !b.contains(id));
    let joint = !state.voters_outgoing.is_empty();
    let wrong = if lists.iter().any(|list| list.len() > REPLICAS_MAX) {
        Some("has too many members")
    } else if !lists.iter().all(|list| list.is_sorted_by(|a, b| a < b)) {
        Some("has a list that does not ascend")
    } else if state.voters.is_empty() {
        Some("has no voter")
    } else if !disjoint(&state.learners, &state.voters)
        || !disjoint(&state.learners, &state.voters_outgoing)
        || !disjoint(&state.learners_next, &state.voters)
    {
        Some("has a voter that learns")
    } else if !(state.learners_next.iter()).all(|id| state.voters_outgoing.contains(id)) {
        Some("demotes a replica that was no voter")
    } else if state.auto_leave && !joint {
        Some("leaves a joint configuration without being in one")
    } else {
        None
    };
    match wrong {
        None => Ok(state),
        Some(what) => Err(WireError::Membership {
            what,
            conf_state: Box::new(message),
        }),
    }
}

/// The snapshot's description for the wire.
#[must_use]
pub fn encode_snapshot(snapshot: Snapshot) -> proto::SnapshotDescription {
    proto::SnapshotDescription {
        index: snapshot.meta.index.0,
        term: snapshot.meta.term.0,
        conf_state: Some(encode_conf_state(&snapshot.meta.conf_state)),
        data: snapshot.data,
    }
}

/// Checks a snapshot's description.
///
/// # Errors
/// What is wrong with it.
pub fn decode_snapshot(message: proto::SnapshotDescription) -> Result<Snapshot, WireError> {
    for (field, value) in [
        ("snapshot.index", message.index),
        ("snapshot.term", message.term),
    ] {
        if value == 0 {
            return Err(WireError::Position { field, value });
        }
    }
    check_size("snapshot.data", message.data.len(), ENTRY_BYTES_MAX)?;
    Ok(Snapshot {
        meta: SnapshotMeta {
            index: index("snapshot.index", message.index)?,
            term: term("snapshot.term", message.term)?,
            conf_state: decode_conf_state(message.conf_state.unwrap_or_default())?,
        },
        data: message.data,
    })
}

/// Checks an index.
///
/// # Errors
/// If it is out of reach.
pub fn index(field: &'static str, value: u64) -> Result<Index, WireError> {
    position(field, value).map(Index)
}

/// Checks a term.
///
/// # Errors
/// If it is out of reach.
pub fn term(field: &'static str, value: u64) -> Result<Term, WireError> {
    position(field, value).map(Term)
}

/// Checks a number that counts up by one: an index, a term, a revision, an epoch.
pub(crate) fn position(field: &'static str, value: u64) -> Result<u64, WireError> {
    if value > POSITION_MAX {
        return Err(WireError::Position { field, value });
    }
    Ok(value)
}

fn replica(field: &'static str, id: u64) -> Result<ReplicaId, WireError> {
    let replica = ReplicaId(id);
    if replica.is_none() || replica.is_storage_thread() {
        return Err(WireError::Replica { field, id });
    }
    Ok(replica)
}

fn check_size(field: &'static str, bytes: usize, limit: usize) -> Result<(), WireError> {
    if bytes > limit {
        return Err(WireError::TooLarge {
            field,
            bytes,
            limit,
        });
    }
    Ok(())
}

fn decode_any_entry(entry: proto::Entry) -> Result<Entry, WireError> {
    let kind = match proto::EntryKind::try_from(entry.kind) {
        Ok(proto::EntryKind::Normal) => EntryKind::Normal,
        Ok(proto::EntryKind::ConfChange) => EntryKind::ConfChange,
        Ok(proto::EntryKind::ConfChangeV2) => EntryKind::ConfChangeV2,
        Err(_) => {
            return Err(WireError::EntryKind {
                index: entry.index,
                kind: entry.kind,
            });
        }
    };
    check_size("entry.data", entry.data.len(), ENTRY_BYTES_MAX)?;
    Ok(Entry {
        term: term("entry.term", entry.term)?,
        index: index("entry.index", entry.index)?,
        kind,
        data: entry.data,
    })
}

/// Entries that follow `before` in a leader's log.
fn decode_run(
    mut before: EntryId,
    leader: Term,
    entries: Vec<proto::Entry>,
) -> Result<Vec<Entry>, WireError> {
    if before.term > leader {
        let (entry, term) = (before, leader);
        return Err(WireError::EntryTerm { entry, term });
    }
    let mut run = Vec::with_capacity(entries.len());
    for entry in entries {
        let entry = decode_entry(entry)?;
        let found = EntryId {
            term: entry.term,
            index: entry.index,
        };
        if found.index != before.index.next() || found.term < before.term {
            return Err(WireError::Order { before, found });
        }
        if found.term > leader {
            let (entry, term) = (found, leader);
            return Err(WireError::EntryTerm { entry, term });
        }
        run.push(entry);
        before = found;
    }
    Ok(run)
}

/// Entries that have no place in a log yet.
fn decode_proposals(entries: Vec<proto::Entry>) -> Result<Vec<Entry>, WireError> {
    if entries.is_empty() {
        return Err(WireError::Payload {
            kind: MessageKind::Prop,
            what: "carries no entries",
        });
    }
    entries.into_iter().map(decode_any_entry).collect()
}

#[cfg(test)]
mod tests;
