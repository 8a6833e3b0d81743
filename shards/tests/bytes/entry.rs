//! Entries of a log: whatever stands in them, a sound shard applies them, and what is in memory is what is in its rows.

use crate::shard::{self, all_kinds, encoded, open, piece, pieces, puts, session, write};
use flotilla_proto::v1 as proto;
use flotilla_proto::v1::{CloseSession, Command, WriteBatch, command};
use flotilla_shards::kv::{StateMachine, read};
use flotilla_shards::raft::confchange::{
    ConfChangeAny, ConfChangeKind, ConfChangeSingle, ConfChangeTransition, ConfChangeV2,
};
use flotilla_shards::raft::{EntryKind, ReplicaId};
use prost::Message as _;

/// Entries of one input at most.
const ENTRIES_MAX: usize = 16;

pub(crate) fn run(mut data: &[u8]) {
    let (mut machine, mut rows) = shard::shard();
    for _ in 0..ENTRIES_MAX {
        let Some((kind, rest)) = data.split_first() else {
            break;
        };
        data = rest;
        let Some(entry) = piece(&mut data) else {
            break;
        };
        let kind = match kind % 4 {
            0 => EntryKind::ConfChange,
            1 => EntryKind::ConfChangeV2,
            _ => EntryKind::Normal,
        };
        shard::apply(&mut machine, &mut rows, kind, entry).expect("the state is sound");
    }
    let loaded = StateMachine::load(&rows, shard::SHARD)
        .expect("the state is sound")
        .expect("the state is there");
    assert_eq!(loaded.state(), machine.state());
    read::checksum(&rows, &loaded.state().descriptor).expect("memory can be read");
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let (conditions, operations) = all_kinds();
    let close = Command {
        range_epoch: 1,
        session: Some(session(0)),
        kind: Some(command::Kind::CloseSession(CloseSession {})),
    };
    let conditional = Command {
        kind: Some(command::Kind::Write(WriteBatch {
            conditions,
            operations,
        })),
        ..write(vec![], Some(session(3)))
    };
    let normal = [
        encoded(&[write(puts(&["k"]), None)]),
        encoded(&[
            write(puts(&["k"]), Some(session(1))),
            write(puts(&["l"]), Some(session(1))),
        ]),
        encoded(&[conditional]),
        encoded(&[open(), close]),
    ];
    let change = |kind, id: u64, transition| {
        let named = proto::Descriptor {
            replicas: vec![proto::Replica {
                replica_id: id,
                node_id: id,
                learner: false,
            }],
            ..proto::Descriptor::default()
        };
        let change = ConfChangeV2 {
            transition,
            changes: vec![ConfChangeSingle {
                kind,
                id: ReplicaId(id),
            }],
            context: named.encode_to_vec().into(),
        };
        ConfChangeAny::V2(change).encode().1
    };
    let auto = ConfChangeTransition::Auto;
    let explicit = ConfChangeTransition::JointExplicit;
    let changes = [
        change(ConfChangeKind::AddNode, 4, auto),
        change(ConfChangeKind::AddLearnerNode, 5, explicit),
        change(ConfChangeKind::RemoveNode, 3, explicit),
    ];
    let one = |kind: u8, data: &[u8]| [&[kind], &pieces(&[data])[..]].concat();
    let mut seeds: Vec<Vec<u8>> = normal.iter().map(|entry| one(2, entry)).collect();
    seeds.extend(changes.iter().map(|entry| one(1, entry)));
    seeds.push(one(0, &changes[0]));
    seeds.push(seeds.concat());
    seeds
}
