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
const KINDS: [(u32, MessageKind); 14] = [
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

fn position(field: &'static str, value: u64) -> Result<u64, WireError> {
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
mod tests {
    use super::*;
    use bytes::Bytes;
    use proptest::prelude::*;
    use prost::Message as _;

    fn conf_state() -> ConfState {
        ConfState {
            voters: vec![ReplicaId(1), ReplicaId(2)],
            voters_outgoing: vec![ReplicaId(1), ReplicaId(3)],
            learners: vec![ReplicaId(4)],
            learners_next: vec![ReplicaId(3)],
            auto_leave: true,
        }
    }

    /// A message of each kind, as Raft could send it.
    fn message(kind: MessageKind) -> Message {
        let entry = |index, term| Entry {
            term: Term(term),
            index: Index(index),
            kind: EntryKind::Normal,
            data: Bytes::from_static(b"data"),
        };
        Message {
            kind,
            to: ReplicaId(1),
            from: ReplicaId(2),
            term: match kind {
                MessageKind::Prop | MessageKind::ReadIndex => Term(0),
                _ => Term(7),
            },
            log_term: Term(5),
            index: Index(9),
            commit: Index(8),
            reject: true,
            reject_hint: Index(3),
            round: 77,
            context: Bytes::from_static(b"context"),
            entries: match kind {
                MessageKind::App => vec![entry(10, 5), entry(11, 7)],
                MessageKind::Prop => vec![entry(0, 0)],
                _ => Vec::new(),
            },
            snapshot: (kind == MessageKind::Snap).then(|| {
                Box::new(Snapshot {
                    meta: SnapshotMeta {
                        index: Index(9),
                        term: Term(5),
                        conf_state: conf_state(),
                    },
                    data: Bytes::from_static(b"where"),
                })
            }),
            ..Message::default()
        }
    }

    fn app() -> proto::ShardMessage {
        encode_message(ShardId(2), message(MessageKind::App))
    }

    #[test]
    fn every_kind_round_trips_through_bytes() {
        for (number, kind) in KINDS {
            let sent = encode_message(ShardId(9), message(kind));
            assert_eq!(sent.kind, number);
            let received = proto::ShardMessage::decode(Bytes::from(sent.encode_to_vec())).unwrap();
            assert_eq!(decode_message(received), Ok((ShardId(9), message(kind))));
        }
    }

    #[test]
    fn local_kinds_have_no_number() {
        for kind in 0..=64 {
            let message = proto::ShardMessage { kind, ..app() };
            let known = KINDS.iter().any(|(number, _)| *number == kind);
            assert_eq!(
                matches!(decode_message(message), Err(WireError::Kind(_))),
                !known
            );
        }
    }

    #[test]
    #[should_panic(expected = "a local message of shard 2 on its way to a peer")]
    fn local_messages_are_not_sent() {
        let _ = encode_message(ShardId(2), Message::default());
    }

    #[test]
    fn broken_messages_are_refused() {
        let broken = |change: &dyn Fn(&mut proto::ShardMessage)| {
            let mut message = app();
            change(&mut message);
            decode_message(message).unwrap_err().to_string()
        };
        assert!(broken(&|m| m.shard_id = 0).contains("shard 0"));
        assert!(broken(&|m| m.to = 0).contains("to is 0"));
        assert!(broken(&|m| m.from = u64::MAX).contains("from is 18446744073709551615"));
        assert!(broken(&|m| m.term = 0).contains("App has term 0"));
        assert!(broken(&|m| m.index = u64::MAX).contains("index is 18446744073709551615"));
        assert!(broken(&|m| m.commit = 1 << 63).contains("commit is"));
        assert!(
            broken(&|m| m.entries[1].index = 12).contains("entry 12 of term 7 follows entry 10")
        );
        assert!(broken(&|m| m.entries[0].index = 9).contains("entry 9 of term 5 follows entry 9"));
        assert!(broken(&|m| m.entries[1].term = 4).contains("terms never fall"));
        assert!(broken(&|m| m.entries[0].term = 0).contains("entry.term is 0"));
        assert!(broken(&|m| m.entries[1].term = 8).contains("above the term 7"));
        assert!(broken(&|m| m.log_term = 8).contains("above the term 7"));
        assert!(broken(&|m| m.entries[0].kind = 3).contains("unknown kind 3"));
        assert!(broken(&|m| m.context = vec![0; 5000].into()).contains("5000 bytes"));
        assert!(broken(&|m| m.kind = 7).contains("Heartbeat carries entries"));
        assert!(broken(&|m| m.kind = 1).contains("Prop has term 7, expected 0"));
        let snapshot = encode_message(ShardId(2), message(MessageKind::Snap)).snapshot;
        assert!(broken(&|m| m.snapshot = snapshot.clone()).contains("carries a snapshot"));
        assert!(
            broken(&|m| {
                m.kind = 6;
                m.entries.clear();
            })
            .contains("carries no snapshot")
        );
    }

    #[test]
    fn broken_memberships_are_refused() {
        let broken = |change: &dyn Fn(&mut proto::ConfState)| {
            let mut message = encode_conf_state(&conf_state());
            change(&mut message);
            decode_conf_state(message).unwrap_err().to_string()
        };
        assert!(broken(&|m| m.voters.clear()).contains("no voter"));
        assert!(broken(&|m| m.voters = vec![2, 1]).contains("does not ascend"));
        assert!(broken(&|m| m.voters = vec![1, 1]).contains("does not ascend"));
        assert!(broken(&|m| m.voters = (1..40).collect()).contains("too many"));
        assert!(broken(&|m| m.learners = vec![2]).contains("a voter that learns"));
        assert!(broken(&|m| m.learners = vec![3]).contains("a voter that learns"));
        assert!(broken(&|m| m.learners_next = vec![9]).contains("was no voter"));
        assert!(broken(&|m| m.learners_next = vec![0]).contains("no replica's id"));
        assert!(
            broken(&|m| {
                m.voters_outgoing.clear();
                m.learners_next.clear();
            })
            .contains("without being in one")
        );
    }

    #[test]
    fn hard_states_round_trip() {
        let state = HardState {
            term: Term(3),
            vote: ReplicaId::NONE,
            commit: Index(4),
        };
        assert_eq!(decode_hard_state(encode_hard_state(state)), Ok(state));
        let voted = HardState {
            vote: ReplicaId(2),
            ..state
        };
        assert_eq!(decode_hard_state(encode_hard_state(voted)), Ok(voted));
        let wrong = proto::HardState {
            term: u64::MAX,
            vote: 1,
            commit: 0,
        };
        assert!(decode_hard_state(wrong).is_err());
    }

    fn number() -> impl Strategy<Value = u64> {
        prop_oneof![0u64..12, any::<u64>()]
    }

    prop_compose! {
        fn any_message()(
            numbers in proptest::array::uniform8(number()),
            kind in 0u32..20,
            entries in proptest::collection::vec((number(), number(), 0i32..4), 0..4),
            ids in proptest::collection::vec(number(), 0..4),
            with_snapshot: bool,
        ) -> proto::ShardMessage {
            let [shard_id, to, from, term, log_term, index, commit, reject_hint] = numbers;
            proto::ShardMessage {
                shard_id, kind, to, from, term, log_term, index, commit, reject_hint,
                entries: (entries.into_iter())
                    .map(|(term, index, kind)| proto::Entry { term, index, kind, data: Bytes::new() })
                    .collect(),
                snapshot: with_snapshot.then(|| proto::SnapshotDescription {
                    index, term, data: Bytes::new(),
                    conf_state: Some(proto::ConfState { voters: ids, ..Default::default() }),
                }),
                ..Default::default()
            }
        }
    }

    proptest! {
        #[test]
        fn any_message_is_understood_or_refused(message in any_message()) {
            if let Ok((shard, checked)) = decode_message(message.clone()) {
                prop_assert_eq!(encode_message(shard, checked), message);
            }
        }

        #[test]
        fn any_bytes_are_a_message_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            if let Ok(message) = proto::ShardMessage::decode(Bytes::from(bytes)) {
                let _ = decode_message(message);
            }
        }
    }
}
