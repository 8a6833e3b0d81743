//! Errors instead of panics for what a message or a storage says.

use crate::network::{Network, config, members};
use bytes::Bytes;
use flotilla_shards::raft::{
    ConfState, DropReason, Entry, Error, HardState, Index, MemoryStorage, Message, MessageKind,
    ProtocolError, RawNode, ReplicaId, Role, Snapshot, SnapshotMeta, Storage, StorageError, Term,
};

#[test]
fn messages_that_no_replica_sends_are_errors_and_change_nothing() {
    let mut network = Network::led(3, config);
    let entry = |term, index| Entry {
        term: Term(term),
        index: Index(index),
        ..Entry::default()
    };
    let append = |log_term, index, entries: &[Entry]| Message {
        kind: MessageKind::App,
        from: ReplicaId(1),
        to: ReplicaId(2),
        term: Term(1),
        log_term: Term(log_term),
        index: Index(index),
        entries: entries.to_vec(),
        ..Message::default()
    };
    let of_kind = |kind, term| Message {
        kind,
        from: ReplicaId(1),
        to: ReplicaId(2),
        term: Term(term),
        ..Message::default()
    };
    let snapshot = |index, term| Message {
        snapshot: Some(Box::new(Snapshot {
            meta: SnapshotMeta {
                index: Index(index),
                term: Term(term),
                conf_state: members(3),
            },
            ..Snapshot::default()
        })),
        ..of_kind(MessageKind::Snap, 1)
    };
    let bad = [
        append(1, 1, &[entry(1, 3)]),
        append(1, 1, &[entry(1, 2), entry(0, 3)]),
        append(1, 1, &[entry(2, 2)]),
        append(2, 1, &[]),
        append(1, u64::MAX, &[entry(1, 0)]),
        of_kind(MessageKind::Snap, 1),
        snapshot(9, 2),
        snapshot(u64::MAX, 1),
        of_kind(MessageKind::Vote, 0),
        of_kind(MessageKind::App, u64::MAX),
        of_kind(MessageKind::Prop, 0),
        Message {
            commit: Index(9),
            ..of_kind(MessageKind::Heartbeat, 1)
        },
        Message {
            from: ReplicaId(2),
            ..append(1, 1, &[])
        },
        Message {
            from: ReplicaId::NONE,
            ..append(1, 1, &[])
        },
    ];
    let before = network.node(2).status();
    for message in bad {
        let result = network.node(2).step(message.clone());
        assert!(
            matches!(result, Err(Error::Protocol(_))),
            "{message:?} gave {result:?}"
        );
        assert_eq!(network.node(2).status(), before);
    }
    let ack = Message {
        index: Index(9),
        to: ReplicaId(1),
        from: ReplicaId(2),
        ..of_kind(MessageKind::AppResp, 1)
    };
    assert!(matches!(
        network.node(1).step(ack),
        Err(Error::Protocol(ProtocolError::AckOutOfRange { .. }))
    ));
}

#[test]
fn entries_that_contradict_committed_ones_are_an_error() {
    let mut network = Network::led(3, config);
    let message = Message {
        kind: MessageKind::App,
        from: ReplicaId(3),
        to: ReplicaId(2),
        term: Term(2),
        entries: vec![Entry {
            term: Term(2),
            index: Index(1),
            ..Entry::default()
        }],
        ..Message::default()
    };
    // Below the commit index nothing is even looked at; so it takes a restart that lost the commit index to see it.
    network
        .node(2)
        .step(message.clone())
        .expect("answered with the commit index");
    let storage = network.node(2).storage().clone();
    let mut storage_without_commit = storage.clone();
    storage_without_commit.set_hard_state(HardState {
        term: Term(1),
        vote: ReplicaId(1),
        commit: Index(0),
    });
    let mut node = RawNode::new(&config(2), storage_without_commit).expect("valid");
    node.step(message)
        .expect("replaces an entry that may be uncommitted");
}

/// A log whose reads fail when told to.
struct Failing {
    log: MemoryStorage,
    fail: std::cell::Cell<bool>,
}

impl Storage for Failing {
    fn initial_state(&self) -> Result<(HardState, ConfState), StorageError> {
        self.log.initial_state()
    }

    fn entries(&self, low: Index, high: Index, max: u64) -> Result<Vec<Entry>, StorageError> {
        match self.fail.get() {
            true => Err(StorageError::Other("checksum".into())),
            false => self.log.entries(low, high, max),
        }
    }

    fn term(&self, index: Index) -> Result<Term, StorageError> {
        match self.fail.get() {
            true => Err(StorageError::Other("checksum".into())),
            false => self.log.term(index),
        }
    }

    fn first_index(&self) -> Index {
        self.log.first_index()
    }

    fn last_index(&self) -> Index {
        self.log.last_index()
    }

    fn snapshot(&self) -> Result<Snapshot, StorageError> {
        self.log.snapshot()
    }
}

#[test]
fn a_failed_storage_stops_the_replica_and_says_so() {
    let storage = Failing {
        log: MemoryStorage::with_conf_state(members(3)),
        fail: std::cell::Cell::new(false),
    };
    let mut node = RawNode::new(&config(1), storage).expect("valid");
    node.storage().fail.set(true);
    node.advance_ticks(40);
    let failure = StorageError::Other("checksum".into());
    assert_eq!(node.failure(), Some(&failure));
    node.storage().fail.set(false);
    assert!(!node.has_ready());
    assert!(node.ready().is_empty());
    assert_eq!(node.campaign(), Err(Error::Storage(failure)));
    assert_eq!(node.role(), Role::Follower);
}

#[test]
fn requests_without_a_leader_say_why_they_are_dropped() {
    let mut network = Network::new(3, config);
    let node = network.node(1);
    assert_eq!(
        node.propose(Bytes::new()),
        Err(Error::ProposalDropped(DropReason::NoLeader))
    );
    assert_eq!(
        node.read_index(Bytes::new()),
        Err(Error::ReadDropped(DropReason::NoLeader))
    );
    assert_eq!(
        node.propose_batch(Vec::new()),
        Err(Error::Protocol(ProtocolError::EmptyProposal))
    );
}

#[test]
fn a_broken_invariant_shows_the_whole_state() {
    let mut network = Network::led(1, config);
    let node = network.node(1);
    // The log has forgotten what is committed.
    *node.storage_mut() = MemoryStorage::new();
    let propose = std::panic::AssertUnwindSafe(|| node.propose(Bytes::from_static(b"x")));
    let cause = std::panic::catch_unwind(propose).expect_err("the log would contradict itself");
    let words = cause.downcast_ref::<String>().expect("a text");
    for part in [
        "replace committed entries",
        "replica 1 is",
        "configuration: voters=(1)",
        "ticks: now",
    ] {
        assert!(words.contains(part), "no {part:?} in: {words}");
    }
}
