//! Members, entries, changes and messages in few words.

use crate::harness::*;
use bytes::Bytes;

pub(crate) fn ids(ids: &[u64]) -> Vec<ReplicaId> {
    ids.iter().copied().map(ReplicaId).collect()
}

pub(crate) fn voters(voters: &[u64]) -> ConfState {
    members(voters, &[])
}

pub(crate) fn members(voters: &[u64], learners: &[u64]) -> ConfState {
    ConfState {
        voters: ids(voters),
        learners: ids(learners),
        ..ConfState::default()
    }
}

pub(crate) fn joint(voters: &[u64], outgoing: &[u64]) -> ConfState {
    ConfState {
        voters: ids(voters),
        voters_outgoing: ids(outgoing),
        ..ConfState::default()
    }
}

pub(crate) fn entry(index: u64, term: u64) -> Entry {
    Entry {
        index: Index(index),
        term: Term(term),
        ..Entry::default()
    }
}

pub(crate) fn data_entry(index: u64, term: u64, data: &'static str) -> Entry {
    Entry {
        data: Bytes::from_static(data.as_bytes()),
        ..entry(index, term)
    }
}

/// Entries from `first` on with these terms.
pub(crate) fn entries(first: u64, terms: &[u64]) -> Vec<Entry> {
    (first..)
        .zip(terms)
        .map(|(index, &term)| entry(index, term))
        .collect()
}

/// A proposed entry with these data.
pub(crate) fn data(data: &str) -> Entry {
    Entry {
        data: Bytes::copy_from_slice(data.as_bytes()),
        ..Entry::default()
    }
}

/// A proposed entry with `size` bytes of data.
pub(crate) fn blob(size: usize) -> Entry {
    Entry {
        data: vec![b'a'; size].into(),
        ..Entry::default()
    }
}

pub(crate) fn position(index: u64, term: u64) -> EntryId {
    EntryId {
        index: Index(index),
        term: Term(term),
    }
}

pub(crate) fn snapshot(index: u64, term: u64, conf_state: ConfState) -> Snapshot {
    Snapshot {
        meta: SnapshotMeta {
            index: Index(index),
            term: Term(term),
            conf_state,
        },
        data: Bytes::new(),
    }
}

/// `(index, term)` of entries.
pub(crate) fn positions(entries: &[Entry]) -> Vec<(u64, u64)> {
    entries
        .iter()
        .map(|entry| (entry.index.0, entry.term.0))
        .collect()
}

pub(crate) fn terms(entries: &[Entry]) -> Vec<u64> {
    entries.iter().map(|entry| entry.term.0).collect()
}

/// A change with automatic transition, from text such as `v1 l2 r3`.
pub(crate) fn change(operations: &str) -> ConfChangeV2 {
    transition(operations, ConfChangeTransition::Auto)
}

pub(crate) fn transition(operations: &str, transition: ConfChangeTransition) -> ConfChangeV2 {
    let changes = parse_operations(operations).expect("operations of a test are well-formed");
    ConfChangeV2 {
        transition,
        changes,
        ..ConfChangeV2::default()
    }
}

/// The entry that proposes a change.
pub(crate) fn change_entry(change: impl Into<ConfChangeAny>) -> Entry {
    let (kind, data) = change.into().encode();
    Entry {
        kind,
        data,
        ..Entry::default()
    }
}

/// The V1 form of one operation.
pub(crate) fn change_v1(operation: &str) -> ConfChange {
    ConfChange {
        change: change(operation).changes[0],
        context: Bytes::new(),
    }
}

pub(crate) fn msg(kind: MessageKind, from: u64, to: u64) -> Message {
    Message {
        kind,
        from: ReplicaId(from),
        to: ReplicaId(to),
        ..Message::default()
    }
}

pub(crate) fn prop(from: u64, to: u64, entry: Entry) -> Message {
    msg(Prop, from, to).entries(vec![entry])
}

/// Fields of a message, one after the other.
pub(crate) trait Fields {
    fn term(self, term: u64) -> Self;
    fn log(self, index: u64, term: u64) -> Self;
    fn commit(self, commit: u64) -> Self;
    fn entries(self, entries: Vec<Entry>) -> Self;
    fn rejected(self) -> Self;
    fn hint(self, index: u64, term: u64) -> Self;
    fn context(self, context: &'static str) -> Self;
    fn snapshot(self, snapshot: Snapshot) -> Self;
}

impl Fields for Message {
    fn term(self, term: u64) -> Self {
        Self {
            term: Term(term),
            ..self
        }
    }

    fn log(self, index: u64, term: u64) -> Self {
        Self {
            index: Index(index),
            log_term: Term(term),
            ..self
        }
    }

    fn commit(self, commit: u64) -> Self {
        Self {
            commit: Index(commit),
            ..self
        }
    }

    fn entries(self, entries: Vec<Entry>) -> Self {
        Self { entries, ..self }
    }

    fn rejected(self) -> Self {
        Self {
            reject: true,
            ..self
        }
    }

    fn hint(self, index: u64, term: u64) -> Self {
        Self {
            reject: true,
            reject_hint: Index(index),
            log_term: Term(term),
            ..self
        }
    }

    fn context(self, context: &'static str) -> Self {
        Self {
            context: Bytes::from_static(context.as_bytes()),
            ..self
        }
    }

    fn snapshot(self, snapshot: Snapshot) -> Self {
        Self {
            snapshot: Some(Box::new(snapshot)),
            ..self
        }
    }
}

/// Without the commit index that refused votes carry here, and not in the original.
pub(crate) fn bare(message: Message) -> Message {
    Message {
        context: Bytes::new(),
        ..message
    }
}

/// Which of the messages are of a kind.
pub(crate) fn of_kind(messages: &[Message], kind: MessageKind) -> Vec<&Message> {
    messages
        .iter()
        .filter(|message| message.kind == kind)
        .collect()
}

/// Receivers of the messages.
pub(crate) fn receivers(messages: &[Message]) -> Vec<u64> {
    messages.iter().map(|message| message.to.0).collect()
}
