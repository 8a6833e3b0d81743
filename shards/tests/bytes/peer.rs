//! A frame of a peer, or a chunk of a snapshot: what passes the gate is the message that was sent.

use crate::shard;
use bytes::Bytes;
use flotilla_proto::v1::{Frame, ShardMessage, SnapshotChunk, SnapshotHeader, SnapshotRow};
use flotilla_shards::kv::{MemoryState, StateMachine};
use flotilla_shards::raft::{
    Entry, EntryKind, Index, Message, MessageKind, ReplicaId, Snapshot, SnapshotMeta, Term,
};
use flotilla_shards::{keys, wire};
use prost::Message as _;

pub(crate) fn run(data: &[u8]) {
    let Some((kind, data)) = data.split_first() else {
        return;
    };
    if kind % 2 == 0 {
        let Ok(frame) = Frame::decode(data) else {
            return;
        };
        frame.messages.into_iter().for_each(message);
    } else if let Ok(chunk) = SnapshotChunk::decode(data) {
        if let Some(SnapshotHeader {
            message: Some(announced),
            ..
        }) = chunk.header.clone()
        {
            message(announced);
        }
        rows(chunk);
    }
}

fn message(message: ShardMessage) {
    if let Ok((shard, message)) = wire::decode_message(message) {
        let again = wire::encode_message(shard, message.clone());
        assert_eq!(wire::decode_message(again), Ok((shard, message)));
    }
}

/// The rows as a replica would find them after it installed the snapshot.
fn rows(chunk: SnapshotChunk) {
    let mut rows = MemoryState::default();
    for SnapshotRow { key, value } in chunk.rows {
        if keys::decode(key.clone()).is_ok() {
            rows.put(key, value);
        }
    }
    if let Ok(Some(machine)) = StateMachine::load(&rows, shard::SHARD) {
        crate::rows::goes_on(machine, rows);
    }
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let entry = |index, kind| Entry {
        term: Term(4),
        index: Index(index),
        kind,
        data: Bytes::from_static(b"data"),
    };
    let base = Message {
        kind: MessageKind::Heartbeat,
        to: ReplicaId(1),
        from: ReplicaId(2),
        term: Term(5),
        commit: Index(7),
        context: Bytes::from_static(b"round"),
        ..Message::default()
    };
    let state = shard::state();
    let messages = [
        base.clone(),
        Message {
            kind: MessageKind::App,
            log_term: Term(4),
            index: Index(8),
            entries: vec![
                entry(9, EntryKind::Normal),
                entry(10, EntryKind::ConfChangeV2),
            ],
            ..base.clone()
        },
        Message {
            kind: MessageKind::Vote,
            log_term: Term(4),
            index: Index(8),
            ..base.clone()
        },
        Message {
            kind: MessageKind::AppResp,
            index: Index(8),
            reject: true,
            reject_hint: Index(3),
            ..base.clone()
        },
        Message {
            kind: MessageKind::Snap,
            snapshot: Some(Box::new(Snapshot {
                meta: SnapshotMeta {
                    term: Term(4),
                    index: Index(6),
                    conf_state: state.conf_state.clone(),
                },
                data: Bytes::new(),
            })),
            ..base
        },
    ];
    let encoded: Vec<ShardMessage> = messages
        .into_iter()
        .map(|message| wire::encode_message(shard::SHARD, message))
        .collect();
    let (_, rows) = shard::shard();
    let rows = rows.rows().map(|(key, value)| SnapshotRow {
        key: key.clone(),
        value: value.clone(),
    });
    let chunk = SnapshotChunk {
        header: Some(SnapshotHeader {
            message: encoded.last().cloned(),
            ..SnapshotHeader::default()
        }),
        rows: rows.collect(),
        ..SnapshotChunk::default()
    };
    let tagged = |tag: u8, message: Vec<u8>| [&[tag], &message[..]].concat();
    let mut seeds = vec![tagged(1, chunk.encode_to_vec())];
    for message in &encoded {
        let frame = Frame {
            messages: vec![message.clone()],
            ..Frame::default()
        };
        seeds.push(tagged(0, frame.encode_to_vec()));
    }
    seeds
}
