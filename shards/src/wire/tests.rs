//! What the gate lets through, and what it refuses.

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
    assert!(broken(&|m| m.entries[1].index = 12).contains("entry 12 of term 7 follows entry 10"));
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
